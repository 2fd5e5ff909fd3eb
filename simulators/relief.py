"""A relief as compiled code meets it: heights between nodes, rays through the surface, clear balls below it, materials.

Scales: lengths in pixels (u along the columns, v down the rows, w up towards the column; the node of row r and column c
lies at u = c, v = r), energies in keV, float32 throughout.

The surface is bilinear between nodes and goes on for ever beyond its borders, mirrored or periodic: electrons fly in
unfolded coordinates and only the look-up of a node folds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.target import device

F0, F1, F2, F3, F4 = (np.float32(value) for value in (0, 1, 2, 3, 4))
HALF = np.float32(0.5)
FAR = np.float32(1e30)
MOST_CELLS = 200_000  # a flight that has crossed so many cells below the roof goes past the detector


class Scene(NamedTuple):
    """Surface and materials as the kernel reads them; lengths in pixels, energies in keV.

    ``heights`` (H, W); ``radii`` (K,) and ``lowest`` (K, H, W): the lowest height within each radius of a cell;
    ``leaning`` (H, W): the least cosine of the slope within the first radius of a cell; ``roof`` and ``bottom``: the
    greatest and the least height; ``periodic``; ``tolerance``: of the test against the surface; ``layered``,
    ``layer`` (H, W): material index, ``thickness`` (H, W) of the layer, ``floor`` (K, H, W): as ``lowest``, of the
    layer's underside, ``ceiling`` (H, W): above it all within the first radius of a cell is one layer; ``substrate``:
    material index; ``rows`` (M, n, 1 + 3·elements): mean free path, then cumulative share of collisions, share of
    Rutherford and screening of each element; ``energies`` (M, n); ``per_path`` (M,): rows per pixel of path;
    ``elements`` (M,); ``reach`` (M,): the greatest distance from the start per path left.
    """

    heights: NDArray[np.float32]
    radii: NDArray[np.float32]
    lowest: NDArray[np.float32]
    leaning: NDArray[np.float32]
    roof: np.float32
    bottom: np.float32
    periodic: bool
    tolerance: np.float32
    layered: bool
    layer: NDArray[np.uint8]
    thickness: NDArray[np.float32]
    floor: NDArray[np.float32]
    ceiling: NDArray[np.float32]
    substrate: int
    rows: NDArray[np.float32]
    energies: NDArray[np.float32]
    per_path: NDArray[np.float32]
    elements: NDArray[np.int64]
    reach: NDArray[np.float32]


@device
def cell(position: Any) -> int:
    """Return the row or column in which a position lies."""
    return int(math.floor(position))  # noqa: RUF046  CUDA's floor gives a float


@device
def fold(index: int, size: int, periodic: bool) -> int:
    """Return the node that stands for ``index`` beyond the borders."""
    if 0 <= index < size:
        return index
    if periodic:
        return index % size
    index %= 2 * size
    return index if index < size else 2 * size - 1 - index


@device
def corners(field: Any, row: int, column: int, periodic: bool) -> Any:
    """Return the four nodes around a cell: (row, column), then one column on, one row on, both."""
    height, width = field.shape
    r0, c0 = fold(row, height, periodic), fold(column, width, periodic)
    r1, c1 = fold(row + 1, height, periodic), fold(column + 1, width, periodic)
    return field[r0, c0], field[r0, c1], field[r1, c0], field[r1, c1]


@device
def between(nodes: Any, a: Any, b: Any) -> Any:
    """Interpolate: a along the columns, b along the rows, both 0 … 1 in the cell."""
    upper = nodes[0] + a * (nodes[1] - nodes[0])
    return upper + b * (nodes[2] + a * (nodes[3] - nodes[2]) - upper)


@device
def value_at(field: Any, u: Any, v: Any, periodic: bool) -> Any:
    """Return the bilinear field at a point."""
    column, row = cell(u), cell(v)
    return between(corners(field, row, column, periodic), u - np.float32(column), v - np.float32(row))


@device
def leaving(position: Any, inside: int, slope: Any) -> Any:
    """Return where along a ray it leaves its cell in one direction."""
    if slope > F0:
        return (np.float32(inside + 1) - position) / slope
    if slope < F0:
        return (np.float32(inside) - position) / slope
    return FAR


@device
def first_crossing(f0: Any, fm: Any, f1: Any, level: Any) -> Any:
    """Return where in 0 … 1 the parabola through f(0), f(½), f(1) first rises through ``level``, or −1."""
    if f0 > level:
        return F0
    a = F2 * (f0 + f1) - F4 * fm
    b = F4 * fm - F3 * f0 - f1
    if f1 <= level and (a >= F0 or b <= F0 or b >= -F2 * a or f0 - b * b / (F4 * a) <= level):
        return -F1
    c = f0 - level
    # The root with a rising f, in the form that does not cancel.
    root = b + math.sqrt(max(b * b - F4 * a * c, F0))
    return min(-F2 * c / root, F1) if root > F0 else F1


@device
def crossing(scene: Any, u: Any, v: Any, w: Any, du: Any, dv: Any, dw: Any, length: Any, side: Any) -> Any:
    """Return how far along a ray it crosses the surface, or −1 if not within ``length``.

    ``side`` +1: out into the vacuum; −1: into the solid. Along a ray the bilinear surface is a parabola in each cell.
    """
    column, row = cell(u), cell(v)
    begin = F0
    for _ in range(MOST_CELLS):
        nodes = corners(scene.heights, row, column, scene.periodic)
        tu, tv = leaving(u, column, du), leaving(v, row, dv)
        end = max(min(tu, tv, length), begin)
        middle = HALF * (begin + end)
        a, b = u - np.float32(column), v - np.float32(row)
        f0 = side * (w + dw * begin - between(nodes, a + du * begin, b + dv * begin))
        fm = side * (w + dw * middle - between(nodes, a + du * middle, b + dv * middle))
        f1 = side * (w + dw * end - between(nodes, a + du * end, b + dv * end))
        share = first_crossing(f0, fm, f1, scene.tolerance)
        if share >= F0:
            return begin + share * (end - begin)
        if end >= length:
            return -F1
        if tu <= tv:
            column += 1 if du > F0 else -1
        else:
            row += 1 if dv > F0 else -1
        begin = end
    return -F1


@device
def clearance(scene: Any, lowest: Any, u: Any, v: Any, w: Any) -> Any:
    """Return the radius of a ball around the point that surely lies below the field of ``lowest``; 0 if none is known.

    No surface within a radius r lies lower than the lowest height there, so min(r, lowest − w) is clear.
    """
    row = fold(cell(v), lowest.shape[1], scene.periodic)
    column = fold(cell(u), lowest.shape[2], scene.periodic)
    best = F0
    for level in range(lowest.shape[0]):
        depth = lowest[level, row, column] - w
        if depth <= scene.radii[level]:
            return max(best, depth)
        best = scene.radii[level]
    return best


@device
def near_clearance(scene: Any, u: Any, v: Any, w: Any) -> Any:
    """Return the radius of a clear ball close to the surface: below a cone of the steepest slope within reach."""
    row, column = cell(v), cell(u)
    nodes = corners(scene.heights, row, column, scene.periodic)
    depth = between(nodes, u - np.float32(column), v - np.float32(row)) - scene.tolerance - w
    row = fold(row, scene.leaning.shape[0], scene.periodic)
    column = fold(column, scene.leaning.shape[1], scene.periodic)
    return min(scene.radii[0], depth * scene.leaning[row, column])


@device
def stays_inside(scene: Any, u: Any, v: Any, w: Any, dw: Any, step: Any) -> bool:
    """Return whether a short step surely stays below the surface, by the lowest height near by."""
    if step > scene.radii[0]:
        return False
    row = fold(cell(v), scene.lowest.shape[1], scene.periodic)
    column = fold(cell(u), scene.lowest.shape[2], scene.periodic)
    return bool(max(w, w + dw * step) < scene.lowest[0, row, column])


@device
def stays_in_layer(scene: Any, u: Any, v: Any, w: Any, dw: Any, step: Any) -> bool:
    """Return whether a short step within the solid surely stays in the layer in which it begins."""
    if step > scene.radii[0]:
        return False
    row = fold(cell(v), scene.ceiling.shape[0], scene.periodic)
    column = fold(cell(u), scene.ceiling.shape[1], scene.periodic)
    return bool(min(w, w + dw * step) > scene.ceiling[row, column])


@device
def material_at(scene: Any, u: Any, v: Any, w: Any) -> int:
    """Return the index of the material at a point in the solid: the nearest node's layer, or what lies under it."""
    if not scene.layered:
        return int(scene.substrate)
    top = value_at(scene.heights, u, v, scene.periodic)
    if top - w >= value_at(scene.thickness, u, v, scene.periodic):
        return int(scene.substrate)
    row = fold(cell(v + HALF), scene.layer.shape[0], scene.periodic)
    column = fold(cell(u + HALF), scene.layer.shape[1], scene.periodic)
    return int(scene.layer[row, column])


@device
def interface(scene: Any, u: Any, v: Any, w: Any, du: Any, dv: Any, dw: Any, length: Any, kind: int) -> Any:
    """Return how far along a step the material ceases to be ``kind``, by bisection; its end has ceased."""
    low, high = F0, length
    for _ in range(12):
        middle = HALF * (low + high)
        if material_at(scene, u + du * middle, v + dv * middle, w + dw * middle) == kind:
            low = middle
        else:
            high = middle
    return high

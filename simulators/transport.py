"""One electron through one surface: the scalar functions that numba compiles.

Scales inside this file: lengths in pixels (u along the columns, v down the rows, w up towards the column; the node of
row r and column c lies at u = c, v = r), energies in keV, float32 throughout except where a flight meets the diode.
Nothing here allocates, branches on types or knows of Python objects, so that the same bodies can serve other targets.

The surface is bilinear between nodes and goes on for ever beyond its borders, mirrored or periodic: electrons fly in
unfolded coordinates and only the look-up of a node folds.

An electron's state in a solid is the path that is left to it (continuous slowing down), from which tables give energy,
mean free path and angles: the loss along a step is then exact, and a step costs one row of a table.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from drivers.geometry import meets

# No flag that presumes finite numbers: a bug should show as NaN, not vanish.
device = numba.njit(cache=True, fastmath={"contract", "arcp", "nsz", "afn"}, error_model="numpy", nogil=True)

meets_segment = device(meets)

F0, F1, F2, F3, F4 = (np.float32(value) for value in (0, 1, 2, 3, 4))
HALF = np.float32(0.5)
FAR = np.float32(1e30)
TO_UNIT = np.float32(2.0**-24)
TO_ANGLE = np.float32(2.0**-22)
TWO_PI = np.float32(2 * math.pi)
MOST_CELLS = 200_000  # a flight that has crossed so many cells below the roof goes past the detector

MULTIPLIER = np.uint64(6364136223846793005)
U18, U27, U59 = np.uint64(18), np.uint64(27), np.uint64(59)
WORD = np.uint64(0xFFFFFFFF)
U8, U10, U31, U32 = np.uint64(8), np.uint64(10), np.uint64(31), np.uint64(32)
TURN = np.uint64(1023)

# The turn in 1,024 directions, none of which lies on a segment's seam.
_TURNS = (np.arange(1024) + 0.5) * (2 * math.pi / 1024)
COSINES = np.cos(_TURNS).astype(np.float32)
SINES = np.sin(_TURNS).astype(np.float32)

# Of a clear ball only this share is used up before looking again, so that an electron that cannot leave is noticed soon.
BALL_SHARE = np.float32(0.4)
ALMOST = np.float32(0.9999)


class Scene(NamedTuple):
    """Surface and materials as the kernel reads them; lengths in pixels, energies in keV.

    ``heights`` (H, W); ``radii`` (K,) and ``lowest`` (K, H, W): the lowest height within each radius of a cell;
    ``roof`` and ``bottom``: the greatest and the least height; ``periodic``; ``tolerance``: of the test against the surface; ``layered``, ``layer``
    (H, W) material index, ``thickness`` (H, W) of the layer, ``floor`` (K, H, W): as ``lowest``, of the layer's
    underside; ``substrate``: material index; ``rows`` (M, n, 1 + 3·elements): mean free path, then cumulative share of
    collisions, share of Rutherford and screening of each element; ``energies`` (M, n); ``per_path`` (M,): rows per
    pixel of path; ``elements`` (M,); ``reach`` (M,): the greatest distance from the start per path left.
    """

    heights: NDArray[np.float32]
    radii: NDArray[np.float32]
    lowest: NDArray[np.float32]
    roof: np.float32
    bottom: np.float32
    periodic: bool
    tolerance: np.float32
    layered: bool
    layer: NDArray[np.uint8]
    thickness: NDArray[np.float32]
    floor: NDArray[np.float32]
    substrate: int
    rows: NDArray[np.float32]
    energies: NDArray[np.float32]
    per_path: NDArray[np.float32]
    elements: NDArray[np.int64]
    reach: NDArray[np.float32]


class Gun(NamedTuple):
    """The beam: ``energy`` (keV), ``spread`` (standard deviation of the probe, pixels), ``convergence`` (half-angle,
    rad) and ``to_sample`` (3, 3): from the microscope's axes (x, y, z) to the sample's.
    """

    energy: np.float32
    spread: np.float32
    convergence: np.float32
    to_sample: NDArray[np.float32]


@device
def draw(state: Any, stream: Any) -> Any:
    """Return the next state and 32 random bits (PCG32: M. E. O'Neill, HMC-CS-2014-0905), both as uint64."""
    mixed = (((state >> U18) ^ state) >> U27) & WORD
    turn = state >> U59
    return state * MULTIPLIER + stream, ((mixed >> turn) | (mixed << ((U32 - turn) & U31))) & WORD


@device
def uniform(bits: Any) -> Any:
    """Return a float32 in (0, 1] from 32 random bits."""
    return (np.float32(np.int32(bits >> U8)) + F1) * TO_UNIT


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
    column, row = math.floor(u), math.floor(v)
    return between(corners(field, int(row), int(column), periodic), u - np.float32(column), v - np.float32(row))


@device
def leaving(position: Any, cell: int, slope: Any) -> Any:
    """Return where along a ray it leaves its cell in one direction."""
    if slope > F0:
        return (np.float32(cell + 1) - position) / slope
    if slope < F0:
        return (np.float32(cell) - position) / slope
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
    column, row = int(math.floor(u)), int(math.floor(v))
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
    row = fold(int(math.floor(v)), lowest.shape[1], scene.periodic)
    column = fold(int(math.floor(u)), lowest.shape[2], scene.periodic)
    best = F0
    for level in range(lowest.shape[0]):
        depth = lowest[level, row, column] - w
        if depth <= scene.radii[level]:
            return max(best, depth)
        best = scene.radii[level]
    return best


@device
def stays_inside(scene: Any, u: Any, v: Any, w: Any, dw: Any, step: Any) -> bool:
    """Return whether a short step surely stays below the surface, by the lowest height near by."""
    if step > scene.radii[0]:
        return False
    row = fold(int(math.floor(v)), scene.lowest.shape[1], scene.periodic)
    column = fold(int(math.floor(u)), scene.lowest.shape[2], scene.periodic)
    return bool(max(w, w + dw * step) < scene.lowest[0, row, column])


@device
def material_at(scene: Any, u: Any, v: Any, w: Any) -> int:
    """Return the index of the material at a point in the solid: the layer of the nearest node, or what lies under it."""
    if not scene.layered:
        return int(scene.substrate)
    top = value_at(scene.heights, u, v, scene.periodic)
    if top - w >= value_at(scene.thickness, u, v, scene.periodic):
        return int(scene.substrate)
    row = fold(int(math.floor(v + HALF)), scene.layer.shape[0], scene.periodic)
    column = fold(int(math.floor(u + HALF)), scene.layer.shape[1], scene.periodic)
    return int(scene.layer[row, column])


@device
def energy_of(scene: Any, kind: int, left: Any) -> Any:
    """Return the energy (keV) of an electron with so much path left in a material."""
    place = left * scene.per_path[kind]
    index = min(int(place), scene.energies.shape[1] - 2)
    share = place - np.float32(index)
    return scene.energies[kind, index] + share * (scene.energies[kind, index + 1] - scene.energies[kind, index])


@device
def path_of(scene: Any, kind: int, energy: Any) -> Any:
    """Return the path left to an electron of an energy (keV) in a material: the inverse of ``energy_of``."""
    low, high = 0, scene.energies.shape[1] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if scene.energies[kind, middle] <= energy:
            low = middle
        else:
            high = middle
    below, above = scene.energies[kind, low], scene.energies[kind, high]
    share = min(max((energy - below) / (above - below), F0), F1)
    return (np.float32(low) + share) / scene.per_path[kind]


@device
def turned(du: Any, dv: Any, dw: Any, loss: Any, turn: int) -> Any:
    """Return the direction scattered by the polar angle with 1 − cos θ = ``loss`` and one of 1,024 azimuths.

    The frame around the old direction is that of T. Duff et al., J. Comput. Graph. Tech. 6 (2017) 1, which has no
    pole: the usual formula leaves an electron that flies along the axis on it for ever.
    """
    sine = math.sqrt(max(loss * (F2 - loss), F0))
    cosine = F1 - loss
    p, q = sine * COSINES[turn], sine * SINES[turn]
    sign = F1 if dw >= F0 else -F1
    a = -F1 / (sign + dw)
    b = du * dv * a
    x = p * (F1 + sign * du * du * a) + q * b + cosine * du
    y = p * sign * b + q * (sign + dv * dv * a) + cosine * dv
    z = -p * sign * du - q * dv + cosine * dw
    # One Newton step keeps the length at 1 against rounding.
    scale = HALF * (F3 - (x * x + y * y + z * z))
    return x * scale, y * scale, z * scale


@device
def scattering_loss(scene: Any, kind: int, row: int, chance: Any) -> Any:
    """Return 1 − cos θ of an elastic collision: on one of the elements, Rutherford or isotropic, from one number."""
    base = 1
    if scene.elements[kind] > 1:
        low = F0
        high = scene.rows[kind, row, base]
        for _ in range(scene.elements[kind] - 1):
            if chance < high:
                break
            base += 3
            low, high = high, scene.rows[kind, row, base]
        chance = (chance - low) / (high - low)
    share, alpha = scene.rows[kind, row, base + 1], scene.rows[kind, row, base + 2]
    if chance < share:
        part = chance / share
        return min(F2 * alpha * part / (F1 + alpha - part), F2)
    return min(F2 * (chance - share) / (F1 - share), F2)


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


@device
def walk(scene: Any, u: Any, v: Any, w: Any, du: Any, dv: Any, dw: Any, left: Any, kind: int, state: Any, stream: Any) -> Any:
    """Follow an electron through the solid until it stops or leaves.

    It is given up early only when the path left (times ``reach``) is shorter than the distance to the nearest surface.

    Returns whether it left, its position and direction, the path left, its material and the generator's state.
    """
    clear = plain = F0
    last = scene.rows.shape[1] - 1
    row = min(int(left * scene.per_path[kind] + HALF), last)
    while left > F0:
        state, bits = draw(state, stream)
        step = min(-scene.rows[kind, row, 0] * math.log(uniform(bits)), left)
        met = -F1
        if step > clear:
            ball = clearance(scene, scene.lowest, u, v, w)
            if left * scene.reach[kind] < ball:
                break
            clear = BALL_SHARE * ball
            if step > ball and not stays_inside(scene, u, v, w, dw, step):
                met = crossing(scene, u, v, w, du, dv, dw, step, F1)
        move = met if met >= F0 else step
        change = False
        if scene.layered and move > plain:
            plain = clearance(scene, scene.floor, u, v, w)
            probe = ALMOST * move
            if move > plain and material_at(scene, u + du * probe, v + dv * probe, w + dw * probe) != kind:
                move = interface(scene, u, v, w, du, dv, dw, probe, kind)
                change = True
        u, v, w = u + du * move, v + dv * move, w + dw * move
        clear, plain, left = clear - move, plain - move, left - move
        if change:
            # A free path has no memory: it begins anew in the other material.
            energy = energy_of(scene, kind, max(left, F0))
            kind = material_at(scene, u, v, w)
            left, plain = path_of(scene, kind, energy), F0
        elif met >= F0:
            return True, u, v, w, du, dv, dw, max(left, F0), kind, state
        row = min(int(left * scene.per_path[kind] + HALF), last)
        if not change:
            state, bits = draw(state, stream)
            chance = (np.float32(np.int32(bits >> U10)) + HALF) * TO_ANGLE
            du, dv, dw = turned(du, dv, dw, scattering_loss(scene, kind, row, chance), int(bits & TURN))
    return False, u, v, w, du, dv, dw, F0, kind, state


@device
def aim(scene: Any, gun: Any, u: Any, v: Any, state: Any, stream: Any) -> Any:
    """Return position and direction of a beam electron above the roof, focused on the point (u, v, 0), and the state."""
    x = y = p = q = F0
    if gun.spread > F0:
        state, bits = draw(state, stream)
        radius = gun.spread * math.sqrt(-F2 * math.log(uniform(bits)))
        state, bits = draw(state, stream)
        angle = TWO_PI * uniform(bits)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
    if gun.convergence > F0:
        state, bits = draw(state, stream)
        radius = math.tan(gun.convergence) * math.sqrt(uniform(bits))
        state, bits = draw(state, stream)
        angle = TWO_PI * uniform(bits)
        p, q = radius * math.cos(angle), radius * math.sin(angle)
    norm = F1 / math.sqrt(F1 + p * p + q * q)
    p, q = p * norm, q * norm
    m = gun.to_sample
    dx = m[0, 0] * p + m[0, 1] * q - m[0, 2] * norm
    dy = m[1, 0] * p + m[1, 1] * q - m[1, 2] * norm
    dz = m[2, 0] * p + m[2, 1] * q - m[2, 2] * norm
    w = m[2, 0] * x + m[2, 1] * y
    back = (scene.roof + F1 - w) / dz
    u = u + m[0, 0] * x + m[0, 1] * y + back * dx
    v = v - m[1, 0] * x - m[1, 1] * y - back * dy
    return u, v, scene.roof + F1, dx, -dy, dz, state


@device
def trace(scene: Any, gun: Any, u: Any, v: Any, state: Any, stream: Any) -> Any:
    """Follow one beam electron to its end.

    Returns whether it was backscattered, the position and direction with which it left for good, its energy (keV) and
    the generator's state. After leaving the solid it flies straight, and may meet a slope again.
    """
    u, v, w, du, dv, dw, state = aim(scene, gun, u, v, state, stream)
    energy, left, kind = gun.energy, F0, -1
    while True:
        length = FAR
        if dw > F0:
            length = (scene.roof - w) / dw
        elif dw < F0:
            length = (scene.bottom - F1 - w) / dw
        met = crossing(scene, u, v, w, du, dv, dw, length, -F1) if length > F0 else -F1
        if met < F0:
            return True, u, v, w, du, dv, dw, energy, state
        u, v, w = u + du * met, v + dv * met, w + dw * met
        here = material_at(scene, u, v, w)
        if here != kind:
            kind, left = here, path_of(scene, here, energy)
        out, u, v, w, du, dv, dw, left, kind, state = walk(scene, u, v, w, du, dv, dw, left, kind, state, stream)
        if not out:
            return False, u, v, w, du, dv, dw, F0, state
        energy = energy_of(scene, kind, left)

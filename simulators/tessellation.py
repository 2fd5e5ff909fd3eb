"""Which island reached a place first, and how high it stands there: the loops that numba compiles.

An island with the convex shape of facets n_k that advance with speed s_k (relative to the common integral G of the edge
speed) reaches the place δ from its nucleus at G = born + max_k(n_k·δ / s_k). Where several meet, the first keeps the
place (a Johnson–Mehl tessellation). Distances are taken on the torus of the periodic specimen.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

device = numba.njit(cache=True, error_model="numpy", nogil=True)

FACETS = 8
FAR = np.float32(1e30)
COARSE, FINE = 64, 16  # edges of the blocks, in pixels, from which islands out of reach are struck out


class Islands(NamedTuple):
    """Shapes as the kernel reads them; all float32, lengths in m.

    ``x``, ``y``, ``born`` (N,): place and G at birth; ``along``, ``across`` (N, 8): facet normals over their speeds, 0
    for facets that a shape does not have; ``speed`` (N, 8); ``steepest`` (N,): greatest |n_k| / s_k, by which an arrival
    changes with distance; ``slowest`` (N,): the same of the farthest corner; ``plateau``, ``lean_x``, ``lean_y``,
    ``steepness`` (N,): height of the top above the original surface (m), its tilt, and the tangent of the facets' angle.
    ``round``: discs instead, of speed 1.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    born: NDArray[np.float32]
    along: NDArray[np.float32]
    across: NDArray[np.float32]
    speed: NDArray[np.float32]
    steepest: NDArray[np.float32]
    slowest: NDArray[np.float32]
    plateau: NDArray[np.float32]
    lean_x: NDArray[np.float32]
    lean_y: NDArray[np.float32]
    steepness: NDArray[np.float32]
    round: bool


@device
def _nearest_image(delta, extent):  # type: ignore[no-untyped-def]
    """Return a distance along one axis on the torus."""
    return delta - extent * math.floor(delta / extent + np.float32(0.5))


@device
def _arrival(islands, i, dx, dy):  # type: ignore[no-untyped-def]
    """Return G at which island ``i`` reaches (dx, dy) from its nucleus."""
    if islands.round:
        return islands.born[i] + math.sqrt(dx * dx + dy * dy)
    latest = np.float32(0.0)
    for k in range(FACETS):
        latest = max(latest, islands.along[i, k] * dx + islands.across[i, k] * dy)
    return islands.born[i] + latest


@device
def _within(islands, chosen, count, x, y, half, extent, limit, blend, kept):  # type: ignore[no-untyped-def]
    """Strike out islands that reach no place of a block, or are later everywhere by more than ``blend``; return how many stay."""
    first_for_sure = FAR
    for c in range(count):
        i = chosen[c]
        dx = _nearest_image(x - islands.x[i], extent)
        dy = _nearest_image(y - islands.y[i], extent)
        if islands.born[i] + (math.sqrt(dx * dx + dy * dy) - half) * islands.slowest[i] > limit:
            continue
        first_for_sure = min(first_for_sure, _arrival(islands, i, dx, dy) + islands.steepest[i] * half)
    bound = min(limit, first_for_sure + blend)
    stay = 0
    for c in range(count):
        i = chosen[c]
        dx = _nearest_image(x - islands.x[i], extent)
        dy = _nearest_image(y - islands.y[i], extent)
        if islands.born[i] + (math.sqrt(dx * dx + dy * dy) - half) * islands.slowest[i] > bound:
            continue
        if _arrival(islands, i, dx, dy) - islands.steepest[i] * half <= bound:
            kept[stay] = i
            stay += 1
    return stay


@device
def _top(islands, i, dx, dy):  # type: ignore[no-untyped-def]
    """Return the height of an island's leaning top at a place."""
    leaning = islands.plateau[i] * (1 + islands.lean_x[i] * dx + islands.lean_y[i] * dy)
    return max(leaning, np.float32(0.4) * islands.plateau[i])


@device
def _look(islands, chosen, count, x, y, extent, limit, groove, width):  # type: ignore[no-untyped-def]
    """Return G of the first arrival at a place, whose it was (-1 for nobody's), and the height there."""
    first, second = FAR, FAR
    owner, other = -1, -1
    for c in range(count):
        i = chosen[c]
        dx = _nearest_image(x - islands.x[i], extent)
        dy = _nearest_image(y - islands.y[i], extent)
        arrival = _arrival(islands, i, dx, dy)
        if arrival < first:
            second, other = first, owner
            first, owner = arrival, i
        elif arrival < second:
            second, other = arrival, i
    if first > limit or owner < 0:
        return FAR, -1, np.float32(0.0)
    if islands.round:
        return first, owner, np.float32(0.0)
    dx = _nearest_image(x - islands.x[owner], extent)
    dy = _nearest_image(y - islands.y[owner], extent)
    depth = FAR
    for k in range(FACETS):
        if islands.speed[owner, k] > 0:
            gone = limit - islands.born[owner] - islands.along[owner, k] * dx - islands.across[owner, k] * dy
            depth = min(depth, islands.speed[owner, k] * gone)
    top = _top(islands, owner, dx, dy)
    if second <= limit:
        apart = (second - first) / width
        share = apart / (1 + apart)
        dx = _nearest_image(x - islands.x[other], extent)
        dy = _nearest_image(y - islands.y[other], extent)
        top = np.float32(0.5) * ((1 + share) * top + (1 - share) * _top(islands, other, dx, dy))
        top *= 1 - groove * math.exp(-apart)
    return first, owner, min(top, islands.steepness[owner] * depth)


@device
def on_grid(islands, x, y, extent, limit, groove, width, first, owner, height):  # type: ignore[no-untyped-def]
    """Fill ``first`` (float32), ``owner`` (int32) and ``height`` (float32, m), each (H, W), for rows ``y`` and columns ``x``.

    ``limit``: G now; ``groove``: its relative depth where two islands meet; ``width``: its half width, m of G.
    """
    rows, columns, number = len(y), len(x), len(islands.x)
    everybody = np.arange(number)
    coarse = np.empty(number, np.int64)
    fine = np.empty(number, np.int64)
    blend = 6 * width
    pitch = max(abs(x[1] - x[0]) if columns > 1 else np.float32(0), abs(y[1] - y[0]) if rows > 1 else np.float32(0))
    for top in range(0, rows, COARSE):
        for left in range(0, columns, COARSE):
            bottom, right = min(top + COARSE, rows), min(left + COARSE, columns)
            half = pitch * COARSE * np.float32(0.7072)
            middle_x = np.float32(0.5) * (x[left] + x[right - 1])
            middle_y = np.float32(0.5) * (y[top] + y[bottom - 1])
            near = _within(islands, everybody, number, middle_x, middle_y, half, extent, limit, blend, coarse)
            for r0 in range(top, bottom, FINE):
                for c0 in range(left, right, FINE):
                    r1, c1 = min(r0 + FINE, bottom), min(c0 + FINE, right)
                    half = pitch * FINE * np.float32(0.7072)
                    middle_x = np.float32(0.5) * (x[c0] + x[c1 - 1])
                    middle_y = np.float32(0.5) * (y[r0] + y[r1 - 1])
                    count = _within(islands, coarse, near, middle_x, middle_y, half, extent, limit, blend, fine)
                    for r in range(r0, r1):
                        for c in range(c0, c1):
                            first[r, c], owner[r, c], height[r, c] = _look(
                                islands, fine, count, x[c], y[r], extent, limit, groove, width
                            )


@device
def at_points(islands, x, y, extent, limit, groove, width, first, owner, height):  # type: ignore[no-untyped-def]
    """Fill ``first``, ``owner`` and ``height``, each (n,), for the points ``x``, ``y`` (n,)."""
    everybody = np.arange(len(islands.x))
    for p in range(len(x)):
        first[p], owner[p], height[p] = _look(
            islands, everybody, len(everybody), x[p], y[p], extent, limit, groove, width
        )


@device
def nearest_grains(seed_x, seed_y, x, y, extent, grain, neighbour, distance, across, up):  # type: ignore[no-untyped-def]
    """Fill the periodic Voronoi cell, the nearest other cell, the distance to it and the place within, each (H, W).

    The distance to the border with seed j is (|δ_j|² − |δ_i|²) / (2 |δ_j − δ_i|), the least over all j.
    """
    number = len(seed_x)
    dx = np.empty(number, np.float32)
    dy = np.empty(number, np.float32)
    square = np.empty(number, np.float32)
    for r in range(len(y)):
        for c in range(len(x)):
            own = 0
            for i in range(number):
                dx[i] = _nearest_image(x[c] - seed_x[i], extent)
                dy[i] = _nearest_image(y[r] - seed_y[i], extent)
                square[i] = dx[i] * dx[i] + dy[i] * dy[i]
                if square[i] < square[own]:
                    own = i
            least, other = FAR, own
            for i in range(number):
                if i != own:
                    apart = math.sqrt((dx[i] - dx[own]) ** 2 + (dy[i] - dy[own]) ** 2)
                    to_border = (square[i] - square[own]) / (2 * apart)
                    if to_border < least:
                        least, other = to_border, i
            grain[r, c], neighbour[r, c], distance[r, c] = own, other, least
            across[r, c], up[r, c] = dx[own], dy[own]

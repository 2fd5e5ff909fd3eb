"""Which island reached a place first, and how high it stands there: the loops that numba compiles.

An island with the convex shape of facets n_k that advance with speed s_k (relative to the common integral G of the edge
speed) reaches the place δ from its nucleus at G = born + max_k(n_k·δ / s_k). Where several meet, the first keeps the
place (a Johnson–Mehl tessellation). Distances are taken on the torus of the periodic specimen.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

# No flag that presumes finite numbers.
device: Any = numba.njit(cache=True, fastmath={"contract", "arcp", "nsz", "afn"}, error_model="numpy", nogil=True)

FACETS = 8
FAR = np.float32(1e30)
HALF, ONE, TWO = np.float32(0.5), np.float32(1), np.float32(2)
DIAGONAL = np.float32(0.7072)  # half of a square's, over its edge
BLEND = np.float32(8)  # half widths of a groove beyond which the later of two islands is not felt
LEAST_WEIGHT = np.float32(1e-4)  # of an island near the boundary with another
NOT_FELT = np.float32(12)  # exponent beyond which a neighbouring grain does not count
LOWEST_TOP = np.float32(0.4)  # of a leaning top, over its middle's height
COARSE, FINE = 64, 8  # edges of the blocks, in pixels, from which islands out of reach are struck out


class Islands(NamedTuple):
    """Shapes as the kernel reads them; all float32, lengths in m.

    ``x``, ``y``, ``born`` (N,): place and G at birth; ``along``, ``across`` (N, 8): facet normals over their speeds, 0
    for facets that a shape does not have; ``speed`` (N, 8); ``steepest`` (N,): greatest |n_k| / s_k, by which an
    arrival changes with distance; ``slowest`` (N,): the least change of it with distance, towards the farthest corner;
    ``plateau``, ``lean_x``, ``lean_y``, ``steepness`` (N,): height of the top above the original surface (m), its
    relative slope (1/m), and the tangent of the facets' angle. ``disc``: discs of speed 1 instead.
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
    disc: bool


@device
def _image(place, seed, extent):  # type: ignore[no-untyped-def]
    """Return the coordinate of the periodic image of ``seed`` that is nearest to ``place``."""
    return np.float32(seed + extent * math.floor((place - seed) / extent + HALF))


@device
def _arrival(islands, i, dx, dy):  # type: ignore[no-untyped-def]
    """Return G at which island ``i`` reaches (dx, dy) from its nucleus."""
    if islands.disc:
        return islands.born[i] + math.sqrt(dx * dx + dy * dy)
    latest = np.float32(0.0)
    for k in range(FACETS):
        latest = max(latest, islands.along[i, k] * dx + islands.across[i, k] * dy)
    return islands.born[i] + latest


@device
def _block(edge, pitch, extent):  # type: ignore[no-untyped-def]
    """Return the edge of a block in pixels: ``edge``, or fewer where it would be a large part of the period."""
    return max(1, min(edge, int(extent / (4 * max(pitch, np.float32(1e-12))))))


@device
def _pitch(x):  # type: ignore[no-untyped-def]
    """Return the distance of neighbouring columns or rows."""
    return abs(x[1] - x[0]) if len(x) > 1 else np.float32(0)


@device
def _images(islands, x, y, extent, pool, at):  # type: ignore[no-untyped-def]
    """Fill ``pool`` with every island and ``at`` (N, 2) with the images that are nearest to a place."""
    for i in range(len(islands.x)):
        pool[i] = i
        at[i, 0], at[i, 1] = _image(x, islands.x[i], extent), _image(y, islands.y[i], extent)
    return len(islands.x)


@device
def _within(islands, pool, at, near, x, y, half, limit, blend, kept, kept_at):  # type: ignore[no-untyped-def]
    """Strike out islands that reach no place of a block, or reach all later than another by more than ``blend``.

    ``pool``, ``at``, ``near``: the islands to choose from, where, and how many they are; ``x``, ``y``, ``half``: the
    block's middle and half diagonal; fills ``kept`` and ``kept_at`` and returns how many stay.
    """
    bound = limit
    for c in range(near):
        i = pool[c]
        dx, dy = x - at[c, 0], y - at[c, 1]
        slowest = islands.slowest[i]
        # First by the corner's distance alone, which asks for no facet.
        if islands.born[i] + (math.sqrt(dx * dx + dy * dy) - half) * slowest <= bound:
            bound = min(bound, _arrival(islands, i, dx, dy) + islands.steepest[i] * half + blend)
    stay = 0
    for c in range(near):
        i = pool[c]
        dx, dy = x - at[c, 0], y - at[c, 1]
        if islands.born[i] + (math.sqrt(dx * dx + dy * dy) - half) * islands.slowest[i] > bound:
            continue
        if _arrival(islands, i, dx, dy) - islands.steepest[i] * half <= bound:
            kept[stay] = i
            kept_at[stay, 0], kept_at[stay, 1] = at[c, 0], at[c, 1]
            stay += 1
    return stay


@device
def _top(plateau, lean_x, lean_y, dx, dy):  # type: ignore[no-untyped-def]
    """Return the height of an island's leaning top at a place."""
    leaning = ONE + lean_x * dx + lean_y * dy
    return plateau * (leaning if leaning > LOWEST_TOP else LOWEST_TOP)


@device
def _rank(islands, kept, at, count, x, y, here, first, second, one, two):  # type: ignore[no-untyped-def]
    """Find the first and the second arrival at the places of a block, all arrays (n,); loops that run in lanes."""
    number = len(x)
    for p in range(number):
        first[p], second[p], one[p], two[p] = FAR, FAR, -1, -1
    for c in range(count):
        i = kept[c]
        u, v, born = at[c, 0], at[c, 1], islands.born[i]
        if islands.disc:
            for p in range(number):
                here[p] = born + math.sqrt((x[p] - u) * (x[p] - u) + (y[p] - v) * (y[p] - v))
        else:
            for p in range(number):
                here[p] = born
            for k in range(FACETS):
                along, across = islands.along[i, k], islands.across[i, k]
                for p in range(number):
                    there = born + along * (x[p] - u) + across * (y[p] - v)
                    here[p] = there if there > here[p] else here[p]
        for p in range(number):
            sooner, soon = here[p] < first[p], here[p] < second[p]
            second[p] = first[p] if sooner else (here[p] if soon else second[p])
            two[p] = one[p] if sooner else (c if soon else two[p])
            first[p] = here[p] if sooner else first[p]
            one[p] = c if sooner else one[p]


@device
def _heights(islands, kept, at, one, two, first, second, x, y, limit, groove, width, height):  # type: ignore[no-untyped-def]
    """Fill the heights at places (n,) that ``kept[one]`` reached first and ``kept[two]`` (-1: nobody) next."""
    plateau, lean_x, lean_y = islands.plateau, islands.lean_x, islands.lean_y
    for p in range(len(x)):
        height[p] = 0
        if one[p] < 0 or first[p] > limit:
            continue
        share, top, face = ONE, np.float32(0), np.float32(0)
        beside = np.float32(0)  # 1 on the boundary of two islands
        if two[p] >= 0 and second[p] <= limit:
            beside = np.float32(math.exp((first[p] - second[p]) / width))
            share = ONE - HALF * beside
        for turn in range(2):
            # Both are felt near the boundary, so that it is no cliff.
            weight = share if turn == 0 else ONE - share
            if weight > LEAST_WEIGHT:
                c = one[p] if turn == 0 else two[p]
                i, dx, dy = kept[c], x[p] - at[c, 0], y[p] - at[c, 1]
                depth, grown = FAR, limit - islands.born[i]
                for k in range(FACETS):
                    inside = islands.speed[i, k] * (grown - islands.along[i, k] * dx - islands.across[i, k] * dy)
                    inside = inside if islands.speed[i, k] > 0 else FAR
                    depth = inside if inside < depth else depth
                top += weight * _top(plateau[i], lean_x[i], lean_y[i], dx, dy)
                face += weight * islands.steepness[i] * depth
        top *= ONE - groove * beside
        height[p] = top if top < face else face


@device
def on_grid(islands, x, y, extent, limit, groove, width, first, owner, height):  # type: ignore[no-untyped-def]
    """Fill ``first`` (float32, m), ``owner`` (int32) and ``height`` (float32, m), each (H, W).

    ``x`` (W,), ``y`` (H,): columns and rows, m; ``limit``: G now, m; ``groove``: its depth where two islands meet over
    the height there; ``width``: its half width, m of G. Where nobody has been, ``first`` is huge and ``owner`` -1.
    """
    rows, columns, number = len(y), len(x), len(islands.x)
    everybody, coarse, fine = np.empty(number, np.int64), np.empty(number, np.int64), np.empty(number, np.int64)
    at, coarse_at = np.empty((number, 2), np.float32), np.empty((number, 2), np.float32)
    fine_at = np.empty((number, 2), np.float32)
    lanes = np.empty((5, FINE * FINE), np.float32)
    places = np.empty((2, FINE * FINE), np.int32)
    blend = BLEND * width
    pitch = max(_pitch(x), _pitch(y))
    edge = _block(COARSE, pitch, extent)
    for top in range(0, rows, edge):
        for left in range(0, columns, edge):
            bottom, right = min(top + edge, rows), min(left + edge, columns)
            u, v = HALF * (x[left] + x[right - 1]), HALF * (y[top] + y[bottom - 1])
            _images(islands, u, v, extent, everybody, at)
            half = DIAGONAL * pitch * edge
            near = _within(islands, everybody, at, number, u, v, half, limit, blend, coarse, coarse_at)
            half = DIAGONAL * pitch * FINE
            for r0 in range(top, bottom, FINE):
                for c0 in range(left, right, FINE):
                    r1, c1 = min(r0 + FINE, bottom), min(c0 + FINE, right)
                    u, v = HALF * (x[c0] + x[c1 - 1]), HALF * (y[r0] + y[r1 - 1])
                    count = _within(islands, coarse, coarse_at, near, u, v, half, limit, blend, fine, fine_at)
                    _fill(
                        islands, fine, fine_at, count, x[c0:c1], y[r0:r1], limit, groove, width, lanes, places,
                        first[r0:r1, c0:c1], owner[r0:r1, c0:c1], height[r0:r1, c0:c1],
                    )  # fmt: skip


@device
def _fill(islands, kept, at, count, x, y, limit, groove, width, lanes, places, first, owner, height):  # type: ignore[no-untyped-def]
    """Fill one block of at most FINE² places; ``lanes`` (5, FINE²) and ``places`` (2, FINE²) are room to work in."""
    rows, columns = len(y), len(x)
    number = rows * columns if count > 0 else 0
    for r in range(rows):
        for c in range(columns):
            lanes[0, r * columns + c], lanes[1, r * columns + c] = x[c], y[r]
            first[r, c], owner[r, c], height[r, c] = FAR, -1, np.float32(0)
    u, v, soonest, next_ = lanes[0, :number], lanes[1, :number], lanes[3, :number], lanes[4, :number]
    one, two = places[0, :number], places[1, :number]
    _rank(islands, kept, at, count, u, v, lanes[2, :number], soonest, next_, one, two)
    tall = lanes[2, :number]
    if not islands.disc:
        _heights(islands, kept, at, one, two, soonest, next_, u, v, limit, groove, width, tall)
    for p in range(number):
        if one[p] >= 0 and soonest[p] <= limit:
            r, c = p // columns, p % columns
            first[r, c], owner[r, c] = soonest[p], kept[one[p]]
            height[r, c] = np.float32(0) if islands.disc else tall[p]


@device
def at_points(islands, x, y, extent, limit, groove, width, first, owner, height):  # type: ignore[no-untyped-def]
    """Fill ``first``, ``owner`` and ``height``, each (n,), for the points ``x``, ``y`` (n,)."""
    for p in range(len(x)):
        q = p + 1
        on_grid(
            islands, x[p:q], y[p:q], extent, limit, groove, width,
            first[p:q].reshape(1, 1), owner[p:q].reshape(1, 1), height[p:q].reshape(1, 1),
        )  # fmt: skip


@device
def nearest_grains(seed_x, seed_y, seed_level, x, y, extent, reach, blend, grain, level, distance, across, up):  # type: ignore[no-untyped-def]
    """Fill periodic Voronoi cells, each (H, W).

    ``grain``: the cell; ``level``: of the seeds, weighted by exp(−|δ|² / ``blend``), so that it changes smoothly;
    ``distance`` to the nearest border; ``across`` and ``up``: the place within the cell, from its seed; m. The distance
    to the border with seed j is (|δ_j|² − |δ_i|²) / (2 |δ_j − δ_i|), at least half of |δ_j| − |δ_i|: seeds farther off
    by twice ``reach`` are left out, and distances beyond ``reach`` are upper bounds.
    """
    number = len(seed_x)
    kept, at = np.empty(number, np.int64), np.empty((number, 2), np.float32)
    square = np.empty(number, np.float32)
    pitch = max(_pitch(x), _pitch(y))
    edge = _block(COARSE, pitch, extent)
    half = DIAGONAL * pitch * edge
    for top in range(0, len(y), edge):
        for left in range(0, len(x), edge):
            bottom, right = min(top + edge, len(y)), min(left + edge, len(x))
            u, v = HALF * (x[left] + x[right - 1]), HALF * (y[top] + y[bottom - 1])
            count = _near_seeds(seed_x, seed_y, u, v, extent, TWO * (half + reach), kept, at, square)
            for r in range(top, bottom):
                for c in range(left, right):
                    own, nearest = _cell(at, count, x[c], y[r], square)
                    total, weights = np.float32(0), np.float32(0)
                    for k in range(count):
                        behind = (square[k] - square[own]) / blend
                        if behind < NOT_FELT:
                            weight = math.exp(-behind)
                            total += weight * seed_level[kept[k]]
                            weights += weight
                    grain[r, c], level[r, c], distance[r, c] = kept[own], total / weights, nearest
                    across[r, c], up[r, c] = x[c] - at[own, 0], y[r] - at[own, 1]


@device
def _near_seeds(seed_x, seed_y, u, v, extent, slack, kept, at, away):  # type: ignore[no-untyped-def]
    """Fill ``kept`` and ``at`` with the seeds hardly farther than the nearest to a place; return how many they are."""
    least = FAR
    for i in range(len(seed_x)):
        at[i, 0], at[i, 1] = _image(u, seed_x[i], extent), _image(v, seed_y[i], extent)
        away[i] = math.sqrt((u - at[i, 0]) ** 2 + (v - at[i, 1]) ** 2)
        least = min(least, away[i])
    count = 0
    for i in range(len(seed_x)):
        if away[i] <= least + slack:
            kept[count] = i
            at[count, 0], at[count, 1] = at[i, 0], at[i, 1]
            count += 1
    return count


@device
def _cell(at, count, x, y, square):  # type: ignore[no-untyped-def]
    """Return the nearest seed and the distance to the nearest border; ``square``: fills the squares of distances."""
    own = 0
    for k in range(count):
        square[k] = (x - at[k, 0]) ** 2 + (y - at[k, 1]) ** 2
        if square[k] < square[own]:
            own = k
    nearest = FAR
    for k in range(count):
        if k != own:
            apart = (at[k, 0] - at[own, 0]) ** 2 + (at[k, 1] - at[own, 1]) ** 2
            nearest = min(nearest, (square[k] - square[own]) / math.sqrt(apart) * HALF)
    return own, nearest

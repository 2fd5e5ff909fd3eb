"""The compiled inner loops of the renderer. Import late: numba takes its time.

They run without Python's lock on a share of the rows each, so that two threads serve two cores whatever threading
layer numba has.
"""

from __future__ import annotations

import math

import numba
import numpy as np

OPACITY = 0.85
"""Of a wall in an electron's way; the rest passes through its edge or is sent on."""
FARTHEST = 48
"""Pixels over which a shadow is followed."""


@numba.njit(nogil=True, cache=True, fastmath=False)
def emit(z, smooth, factor, pixel, table, common, shared, span, x, y, rays, limits, highest, first, last, out):  # type: ignore[no-untyped-def]
    """Write what each segment collects from each pixel, before any spread.

    Parameters
    ----------
    z, smooth : (H, W) float32, m
        Heights, and heights smoothed over the range: the former tell how the segments differ, the latter what all get.
    factor : (H, W) float32
        Brightness of the material.
    pixel : float, m
    table : (N, N, S, 3) float32
        See :class:`simulators.emission.SegmentTable`.
    common, shared : (N, N) float32
        Its mean over the segments; and what takes its place, with what neighbouring slopes send on.
    span : float
    x, y : (W,), (H,) float32, m
        Of the pixels from the optical axis.
    rays : (S, A, 2) float32
        Directions (x, y) in which a shadow is looked for, by segment.
    limits : (S, 2) float32
        sin² of the polar angles of the segment's inner and outer edge.
    highest : float, m
    first, last : int
        Rows.
    out : (S, H, W) float32, keV for an electron of the probe
    """
    height, width = z.shape
    segments = table.shape[2]
    half = np.float32(0.5 / pixel)
    for r in range(first, last):
        above, below = max(r - 1, 0), min(r + 1, height - 1)
        for c in range(width):
            left, right = max(c - 1, 0), min(c + 1, width - 1)
            p = (z[r, right] - z[r, left]) * half
            q = (z[above, c] - z[below, c]) * half
            i, j, w00, w01, w10, w11 = _node(
                (smooth[r, right] - smooth[r, left]) * half, (smooth[above, c] - smooth[below, c]) * half, common, span
            )
            even = w00 * shared[i, j] + w01 * shared[i, j + 1] + w10 * shared[i + 1, j] + w11 * shared[i + 1, j + 1]
            i, j, w00, w01, w10, w11 = _node(p, q, common, span)
            even -= w00 * common[i, j] + w01 * common[i, j + 1] + w10 * common[i + 1, j] + w11 * common[i + 1, j + 1]
            for s in range(segments):
                t00, t01, t10, t11 = table[i, j, s], table[i, j + 1, s], table[i + 1, j, s], table[i + 1, j + 1, s]
                value = w00 * t00[0] + w01 * t01[0] + w10 * t10[0] + w11 * t11[0]
                value += x[c] * (w00 * t00[1] + w01 * t01[1] + w10 * t10[1] + w11 * t11[1])
                value += y[r] * (w00 * t00[2] + w01 * t01[2] + w10 * t10[2] + w11 * t11[2])
                seen = _seen(z, r, c, p, q, pixel, rays[s], limits[s, 0], limits[s, 1], highest)
                out[s, r, c] = max(value + even, np.float32(0.0)) * factor[r, c] * seen


@numba.njit(nogil=True, cache=True, inline="always")
def _node(p, q, common, span):  # type: ignore[no-untyped-def]
    """Return row, column and bilinear weights in the table of the normal of a slope (∂z/∂x, ∂z/∂y)."""
    last = common.shape[0] - 1
    scale = np.float32(last / (2.0 * span))
    most = np.float32(last - 1e-3)
    bend = np.float32(1.0) + math.sqrt(np.float32(1.0) + p * p + q * q)
    a = min(max((-p / bend + np.float32(span)) * scale, np.float32(0.0)), most)
    b = min(max((-q / bend + np.float32(span)) * scale, np.float32(0.0)), most)
    i, j = int(b), int(a)
    fb, fa = b - np.float32(i), a - np.float32(j)
    one = np.float32(1.0)
    return i, j, (one - fb) * (one - fa), (one - fb) * fa, fb * (one - fa), fb * fa


@numba.njit(nogil=True, cache=True, inline="always")
def _open(rise, inner, outer):  # type: ignore[no-untyped-def]
    """Return the share of a flat surface's cosine emission into the segment that flies above a horizon (tangent)."""
    return max(min(np.float32(1.0) / (np.float32(1.0) + rise * rise), outer) - inner, np.float32(0.0))


@numba.njit(nogil=True, cache=True)
def _seen(z, r, c, p, q, pixel, rays, inner, outer, highest):  # type: ignore[no-untyped-def]
    """Return the share of a segment's signal that no neighbour shadows, beyond the surface's own tangent plane."""
    height, width = z.shape
    lowest = math.sqrt(np.float32(1.0) / outer - np.float32(1.0))  # tangent of the lowest take-off angle
    reach = (highest - z[r, c]) / (lowest * pixel)
    steps = min(int(reach), FARTHEST)
    if steps < 2:
        return np.float32(1.0)
    seen = np.float32(0.0)
    for a in range(rays.shape[0]):
        dx, dy = rays[a, 0], rays[a, 1]
        own = max(p * dx + q * dy, np.float32(0.0))
        rise = max(own, lowest)
        for n in range(2, steps + 1):
            rr, cc = round(r - n * dy), round(c + n * dx)
            if rr < 0 or rr >= height or cc < 0 or cc >= width:
                break
            rise = max(rise, (z[rr, cc] - z[r, c]) / (n * pixel))
        whole = _open(own, inner, outer)
        seen += _open(max(rise, own), inner, outer) / whole if whole > 1e-6 else np.float32(1.0)
    return np.float32(1.0) - OPACITY * (np.float32(1.0) - seen / rays.shape[0])


@numba.njit(nogil=True, cache=True)
def warp(image, rows, columns, first, last, out):  # type: ignore[no-untyped-def]
    """Resample images with Catmull–Rom's cubic at displaced points.

    Parameters
    ----------
    image : (S, H', W') float32
    rows, columns : (H, W) float32
        Where each pixel of the result looks, in pixels of ``image``.
    first, last : int
        Rows of the result.
    out : (S, H, W) float32
    """
    segments, height, width = image.shape
    along = np.empty(4, dtype=np.float32)
    for r in range(first, last):
        for c in range(out.shape[2]):
            i, j = math.floor(rows[r, c]), math.floor(columns[r, c])
            i, j = min(max(i, 1), height - 3), min(max(j, 1), width - 3)
            fi, fj = rows[r, c] - i, columns[r, c] - j
            for n in range(4):
                along[n] = _cubic(fj - (n - 1))
            for s in range(segments):
                total = np.float32(0.0)
                for m in range(4):
                    line = image[s, i + m - 1, j - 1 : j + 3]
                    total += _cubic(fi - (m - 1)) * (
                        along[0] * line[0] + along[1] * line[1] + along[2] * line[2] + along[3] * line[3]
                    )
                out[s, r, c] = total


@numba.njit(nogil=True, cache=True, inline="always")
def _cubic(t):  # type: ignore[no-untyped-def]
    """Return Catmull–Rom's weight at a distance of ``t`` pixels."""
    t = abs(t)
    if t < 1.0:
        return np.float32((1.5 * t - 2.5) * t * t + 1.0)
    if t < 2.0:
        return np.float32(((-0.5 * t + 2.5) * t - 4.0) * t + 2.0)
    return np.float32(0.0)

"""Bilinear interpolation on a grid of columns and rows: the loop that numba compiles."""

from __future__ import annotations

from typing import Any

import numba

device: Any = numba.njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy", nogil=True)


@device
def bilinear(nodes, low, high, up, left, right, along, values):  # type: ignore[no-untyped-def]
    """Fill ``values`` (H, W) from ``nodes`` (n, n); all float32.

    ``low``, ``high`` (H,) and ``left``, ``right`` (W,): neighbouring nodes; ``up`` (H,), ``along`` (W,): share of the
    way from the first to the second.
    """
    for r in range(len(low)):
        below, above, rise = nodes[low[r]], nodes[high[r]], up[r]
        for c in range(len(left)):
            west = below[left[c]] + (above[left[c]] - below[left[c]]) * rise
            east = below[right[c]] + (above[right[c]] - below[right[c]]) * rise
            values[r, c] = west + (east - west) * along[c]

"""Loops over pixels and electrons, in parallel: a random generator of its own for each pixel.

What a pixel yields depends on its generator's state alone, so that results are the same, bit for bit, for any number
of threads and however the work is cut.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from drivers.geometry import meets
from simulators.relief import F0
from simulators.target import device, kernel
from simulators.transport import trace

meets_segment = device(meets)


class Diode(NamedTuple):
    """The detector as the kernel reads it.

    ``segments`` (S, 5): :meth:`drivers.geometry.DetectorGeometry.table`; ``working_distance`` (m); ``offset_x``,
    ``offset_y`` (m); ``threshold`` (keV); ``to_microscope`` (3, 3): from the sample's axes to the microscope's;
    ``left``, ``top`` (m): of the image's corner from the axis; ``pixel_size`` (m).
    """

    segments: NDArray[np.float64]
    working_distance: float
    offset_x: float
    offset_y: float
    threshold: float
    to_microscope: NDArray[np.float64]
    left: float
    top: float
    pixel_size: float


@device
def segment_met(diode: Any, u: Any, v: Any, w: Any, du: Any, dv: Any, dw: Any) -> int:
    """Return the segment that an electron meets, or −1; float64, since 1 nm counts at 10 mm."""
    m = diode.to_microscope
    px, py, pz = (
        diode.left + (u + 0.5) * diode.pixel_size,
        diode.top - (v + 0.5) * diode.pixel_size,
        w * diode.pixel_size,
    )
    x, y, z = float(du), -float(dv), float(dw)
    rise = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z
    if rise <= 0.0:
        return -1
    height = m[2, 0] * px + m[2, 1] * py + m[2, 2] * pz
    flight = (diode.working_distance - height) / rise
    at_x = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + flight * (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z)
    at_y = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + flight * (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z)
    at_x, at_y = at_x - diode.offset_x, at_y - diode.offset_y
    for index in range(diode.segments.shape[0]):
        s = diode.segments[index]
        if meets_segment(at_x, at_y, s[0], s[1], s[2], s[3], s[4]):
            return index
    return -1


@device
def tally_pixel(
    scene: Any,
    gun: Any,
    diode: Any,
    points: Any,
    states: Any,
    streams: Any,
    electrons: int,
    fates: Any,
    energy: Any,
    counts: Any,
    signals: Any,
    squares: Any,
    p: int,
) -> None:
    """Follow the electrons of point p; the other arguments are those of :func:`tally`."""
    state = states[p]
    for _ in range(electrons):
        out, u, v, w, du, dv, dw, left, state = trace(scene, gun, points[p, 0], points[p, 1], state, streams[p])
        if not out:
            fates[p, 0] += 1
            continue
        fates[p, 1] += 1
        energy[p] += left
        index = segment_met(diode, u, v, w, du, dv, dw)
        if index >= 0:
            response = max(left - diode.threshold, 0.0)
            counts[p, index] += 1
            signals[p, index] += response
            squares[p, index] += response * response
    states[p] = state


@kernel
def tally(
    scene: Any,
    gun: Any,
    diode: Any,
    points: Any,
    states: Any,
    streams: Any,
    electrons: int,
    fates: Any,
    energy: Any,
    counts: Any,
    signals: Any,
    squares: Any,
) -> None:
    """Follow electrons from each point and add up what each segment gets.

    ``points`` (P, 2) float32: u, v; ``states``, ``streams`` (P,) uint64, the former advanced; ``fates`` (P, 2) int64:
    absorbed, backscattered; ``energy`` (P,) keV of the backscattered; ``counts`` (P, S) int64; ``signals``, ``squares``
    (P, S) float64: Σ max(E − threshold, 0) and Σ of its square, keV and keV².
    """
    for p in numba.prange(points.shape[0]):
        tally_pixel(scene, gun, diode, points, states, streams, electrons, fates, energy, counts, signals, squares, p)


@kernel
def keep(scene: Any, gun: Any, points: Any, states: Any, streams: Any, electrons: int, found: Any, exits: Any) -> None:
    """Follow electrons from each point and keep those that leave.

    ``found`` (P,) int64: how many left; ``exits`` (P, electrons, 6) float32: direction (x, y, z in the sample's axes),
    energy (keV), and x, y of the last exit from the point aimed at (pixels).
    """
    for p in numba.prange(points.shape[0]):
        state = states[p]
        number = 0
        for _ in range(electrons):
            out, u, v, _w, du, dv, dw, left, state = trace(scene, gun, points[p, 0], points[p, 1], state, streams[p])
            if out:
                record = exits[p, number]
                record[0], record[1], record[2], record[3] = du, F0 - dv, dw, left
                record[4], record[5] = u - points[p, 0], points[p, 1] - v
                number += 1
        found[p] = number
        states[p] = state

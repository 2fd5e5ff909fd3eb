"""Which segments carry a signal, when no dark frame tells their offset."""

import dataclasses

import numpy as np
import pytest

from reconstruction.calibration import read_signals
from reconstruction.photometric import reconstruct


def stripes(period=16, slope=0.3, size=128):
    """Slopes of ridges along y: segments to the north and south see next to nothing of them."""
    x = np.mgrid[0:size, 0:size][1]
    return np.where((x // (period // 2)) % 2, slope, -slope), np.zeros((size, size))


@pytest.mark.parametrize("spread", [3.0, 60.0])
def test_a_channel_of_noise_alone_is_dead_and_said(expose, spread):
    frame = expose(*stripes(), offset_known=False)
    counts = frame.counts.copy()
    counts[2] = np.random.default_rng(1).normal(4000, spread, counts[2].shape).astype(np.uint16)
    broken = dataclasses.replace(frame, counts=counts)
    assert read_signals(broken).states == ("live", "live", "dead", "live")
    result = reconstruct(broken)
    assert any(f"{frame.geometry.names[2]} has no signal" in sentence for sentence in result.assumptions)


@pytest.mark.parametrize("segments", [3, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_a_live_segment_along_the_ridges_is_not_taken_for_dead(expose, segments, turned):
    p, q = stripes()
    frame = expose(*((q, p.T) if turned else (p, q)), segments=segments, offset_known=False)
    assert set(read_signals(frame).states) == {"live"}


def test_a_flat_field_and_a_black_channel(expose):
    flat = np.zeros((64, 64))
    frame = expose(flat, flat, offset_known=False)
    assert set(read_signals(frame).states) == {"live"}
    counts = frame.counts.copy()
    counts[1] = 0
    assert read_signals(dataclasses.replace(frame, counts=counts)).states == ("live", "dead", "live", "live")

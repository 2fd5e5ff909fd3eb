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


def test_channels_of_different_contrast_and_brightness_are_told_apart_by_their_noise(expose):
    """Equal segments over level ground receive equally many electrons: their relative noise is the same."""
    ridges, _ = stripes(period=32, slope=0.4, size=256)
    frame = expose(ridges, ridges.T, electrons=3000, offset=900.0)
    factors, moves = np.array([1.0, 1.06, 0.95, 1.0]), np.array([0.0, -100.0, 80.0, 30.0])
    changed = (frame.counts - 900.0) * factors[:, None, None] + 900.0 + moves[:, None, None]
    channels = tuple(dataclasses.replace(each, offset=None, gain=None) for each in frame.channels)
    set_by_hand = dataclasses.replace(frame, counts=np.rint(changed).astype(np.uint16), channels=channels)
    signals = read_signals(set_by_hand)
    assert set(signals.sources) == {"estimated"}
    away = signals.offsets - (900.0 + moves)
    assert (np.abs(away) < 3 * signals.offset_errors).all()
    # What one has too much of, all have: relative to each other they are known far better than alone.
    relative = (signals.offsets - 900 - moves) / signals.means.mean(axis=(1, 2))
    assert np.ptp(relative) < 0.04


def test_a_tilted_field_s_noise_is_not_taken_for_contrast(expose):
    """Segments that see more electrons have less relative noise: then the offsets are one share of each level."""
    p, q = stripes(size=256)
    frame = expose(0.3 * p + 0.5, q, electrons=3000, offset=0.0, offset_known=False)
    signals = read_signals(frame)
    levels = signals.means.mean(axis=(1, 2)) + signals.offsets
    shares = signals.offsets / levels
    np.testing.assert_allclose(shares, shares[0], rtol=1e-9)

"""What one exposure tells of its own detector: live segments, offset, relative gain and noise of each.

Offsets come from dark frames, where there are any. Relative gains are balanced so that the mean tilt of the field is
zero: an assumption, because one frame cannot tell a tilted sample from unequal gains or from a detector off the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import ImageError
from drivers.frame import Channel, Frame
from reconstruction.detector import SegmentLaw
from reconstruction.integrate import blocks

Floats = NDArray[np.float64]

SATURATED_SHARE = 0.25
"""Share of clipped pixels above which a segment is left out."""
DEAD_SHARE = 0.02
"""Signal below this share of the others' median is none."""
_PARTS = 8


@dataclass(frozen=True, slots=True)
class SegmentEstimate:
    """How a segment's electrons became numbers, as far as it is known.

    Attributes
    ----------
    name : str
    state : str
        ``live``, ``dead`` (no signal) or ``saturated``.
    offset : float, ADU
    offset_known : bool
        Measured by a dark frame; otherwise zero is assumed.
    gain : float
        Relative: the mean of the live segments is 1.
    gain_interval : (float, float)
        95 %, from how far parts of the field disagree; the assumption of zero mean tilt is not in it.
    noise_gain : float, ADU
        Variance per signal: var = noise_gain · (counts − offset) + read_noise².
    read_noise : float, ADU
        Zero where it is not known; the estimate of ``noise_gain`` then holds all noise.
    """

    name: str
    state: str
    offset: float
    offset_known: bool
    gain: float
    gain_interval: tuple[float, float]
    noise_gain: float
    read_noise: float


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """Block means of the counts, and which segments carry a signal.

    Attributes
    ----------
    means : (S, h, w) array, ADU
        Offset subtracted, on blocks of ``BLOCK`` pixels.
    offsets : (S,) array, ADU
    clipped : (S,) array
        Share of saturated pixels.
    states : tuple of str
    """

    means: Floats
    offsets: Floats
    clipped: Floats
    states: tuple[str, ...]

    @property
    def live(self) -> tuple[int, ...]:
        """Indices of the segments that can be used."""
        return tuple(index for index, state in enumerate(self.states) if state == "live")


def read_signals(frame: Frame) -> Signals:
    """Return the block means of a frame and judge its segments.

    Raises
    ------
    ImageError
        When the beam was blanked, the frame is too small, or no segment has a signal.
    """
    if frame.dark:
        raise ImageError("expected a frame with the beam on; this one was taken with the beam blanked")
    if min(frame.shape) < 16:
        raise ImageError(f"expected 16 × 16 pixels or more; got {frame.shape[1]} × {frame.shape[0]}")
    offsets = np.array([channel.offset or 0.0 for channel in frame.channels])
    means = np.stack([blocks(counts) for counts in frame.counts]) - offsets[:, None, None]
    clipped = np.array(
        [np.mean(counts >= channel.saturation) for counts, channel in zip(frame.counts, frame.channels, strict=True)]
    )
    levels = means.mean(axis=(1, 2))
    constant = np.array([counts.max() == counts.min() for counts in frame.counts])
    usable = levels[~constant & (levels > 0)]
    if not usable.size:
        raise ImageError(
            "every segment is black: no signal above its offset; was the beam on and the detector connected?"
        )
    dead = constant | (levels < DEAD_SHARE * np.median(usable))
    states = tuple(
        "saturated" if share > SATURATED_SHARE else "dead" if none else "live"
        for share, none in zip(clipped, dead, strict=True)
    )
    return Signals(means, offsets, clipped, states)


def describe_missing(names: Sequence[str], states: Sequence[str]) -> str:
    """Return which segments cannot be used and why, in words."""
    what = {"dead": "has no signal", "saturated": "is saturated"}
    return ", ".join(f"{name} {what[state]}" for name, state in zip(names, states, strict=True) if state != "live")


def noise_variance(counts: NDArray[np.uint16]) -> float:
    """Return the variance of a pixel's noise (ADU²), from second differences that a smooth image does not feel.

    The mask (1, −2, 1) ⊗ (1, −2, 1) has a gain of 36 on white noise (J. Immerkær, Comput. Vis. Image Underst. 64
    (1996) 300); the median of its modulus is not disturbed by the edges of a few facets. Every eighth row is looked at.
    """
    rows = np.arange(1, counts.shape[0] - 1, 8 if counts.shape[0] >= 64 else 1)
    down = counts[rows - 1].astype(np.float32) - 2 * counts[rows].astype(np.float32) + counts[rows + 1]
    second = down[:, 2:] - 2 * down[:, 1:-1] + down[:, :-2]
    return float((np.median(np.abs(second)) / 0.6745) ** 2 / 36)


def noise_model(channel: Channel, variance: float, level: float) -> tuple[float, float]:
    """Return noise gain (ADU) and read noise (ADU) of a segment from its noise at its mean level."""
    read = channel.read_noise or 0.0
    if read**2 > 0.9 * variance:
        read = 0.0
    return (variance - read**2) / max(level, 1e-9), read


def balance_gains(signals: Signals, law: SegmentLaw) -> tuple[Floats, Floats]:
    """Return the relative gain of each live segment and its standard error, by mean levels over the field.

    The gains that make the mean slope zero and leave no mean residual in what a slope cannot change. The standard
    error is the scatter between 64 parts of the field.

    Returns
    -------
    gains, errors : (L,) arrays
        The mean of the gains is 1.
    """
    means = np.maximum(signals.means[list(law.live)], 1e-3)
    levels = means.mean(axis=(1, 2))
    gains = np.asarray(levels / law.flat / np.mean(levels / law.flat))
    for _ in range(3):
        ratios = means / gains[:, None, None]
        ratios = ratios / ratios.sum(axis=0)
        excess = ratios.mean(axis=(1, 2)) - law.flat
        slopes = np.tensordot(law.weights, ratios - law.flat[:, None, None], axes=1).astype(np.float32)
        law.correct(slopes[0], slopes[1])
        slope = slopes.mean(axis=(1, 2), dtype=np.float64)
        wrong = law.response @ slope + law.checks.T @ (law.checks @ excess)
        gains = gains * (1 + wrong / law.flat)
        gains = gains / gains.mean()
    return gains, _scatter_of_parts(means, law)


def _scatter_of_parts(means: Floats, law: SegmentLaw) -> Floats:
    rows, columns = means.shape[1] // _PARTS, means.shape[2] // _PARTS
    if min(rows, columns) < 1:
        return np.full(means.shape[0], np.nan)
    parts = means[:, : rows * _PARTS, : columns * _PARTS]
    parts = parts.reshape(len(means), _PARTS, rows, _PARTS, columns).mean(axis=(2, 4)).reshape(len(means), -1)
    relative = parts / law.flat[:, None]
    relative = relative / relative.mean(axis=0)
    return np.asarray(relative.std(axis=1) / relative.mean(axis=1) / _PARTS)


def estimates(frame: Frame, signals: Signals, law: SegmentLaw, gains: Floats, errors: Floats) -> list[SegmentEstimate]:
    """Return what is known of every segment, dead ones included."""
    found = []
    for index, channel in enumerate(frame.channels):
        level = float(signals.means[index].mean())
        noise_gain, read = noise_model(channel, noise_variance(frame.counts[index]), level)
        place = law.live.index(index) if index in law.live else None
        gain = float(gains[place]) if place is not None else 0.0
        spread = 1.96 * gain * float(errors[place]) if place is not None else 0.0
        found.append(
            SegmentEstimate(
                name=channel.name,
                state=signals.states[index],
                offset=float(signals.offsets[index]),
                offset_known=channel.offset is not None,
                gain=gain,
                gain_interval=(gain - spread, gain + spread),
                noise_gain=noise_gain,
                read_noise=read,
            )
        )
    return found


def unusable_share(counts: NDArray[np.uint16], channels: Sequence[Channel]) -> NDArray[np.float32]:
    """Return, on blocks, the share of pixels with a saturated segment. Shape (S, H, W) → (h, w)."""
    clipped: NDArray[Any] = np.zeros(counts.shape[1:], bool)
    for image, channel in zip(counts, channels, strict=True):
        clipped |= image >= channel.saturation
    return np.asarray(blocks(clipped.astype(np.float32)), dtype=np.float32)

"""What one exposure tells of its own detector: live segments, offset, relative gain and noise of each.

Offsets come from dark frames, where there are any. Relative gains are balanced so that the mean tilt of the field is
zero: an assumption, because one frame cannot tell a tilted sample from unequal gains or from a detector off the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from drivers.errors import ImageError
from drivers.frame import Channel, Frame
from reconstruction.detector import SegmentLaw
from reconstruction.integrate import BLOCK, blocks

Floats = NDArray[np.float64]

SATURATED_SHARE = 0.25
"""Share of clipped pixels above which a segment is left out."""
DEAD_SHARE = 0.02
"""Signal below this share of the others' median is none."""
_NOISE_ALONE, _CONTRAST = 1.5, 10.0
"""Variance of block means over what noise explains: of a segment without signal at most, and of the others over it."""
_NOISE_AGREES = 0.12
"""By how much signals that the noise tells may differ from the levels: a mean tilt of 3° changes the levels by so much
at most, and so do contrasts and brightnesses that someone has set alike by eye."""
_PARTS = 8
_CLASSES = 24


OffsetSource: TypeAlias = Literal["measured", "estimated", "assumed"]


@dataclass(frozen=True, slots=True)
class SegmentEstimate:
    """How a segment's electrons became numbers, as far as it is known.

    Attributes
    ----------
    name : str
    state : str
        ``live``, ``dead`` (no signal) or ``saturated``.
    offset : float, ADU
    offset_source : str
        ``measured`` by a dark frame, ``estimated`` from the noise or ``assumed`` to be zero.
    offset_interval : (float, float), ADU
        95 %; not finite where zero was assumed.
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
    offset_source: OffsetSource
    offset_interval: tuple[float, float]
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
    offsets, offset_errors : (S,) arrays, ADU
    sources : tuple of str
        Of the offsets.
    clipped : (S,) array
        Share of saturated pixels.
    states : tuple of str
    """

    means: Floats
    offsets: Floats
    offset_errors: Floats
    sources: tuple[OffsetSource, ...]
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
    raw = np.stack([blocks(counts) for counts in frame.counts]).astype(np.float64)
    silent = _silent(frame, raw)
    offsets, errors, sources = _offsets(frame, raw, silent)
    means = raw - offsets[:, None, None]
    clipped = np.array(
        [np.mean(counts >= channel.saturation) for counts, channel in zip(frame.counts, frame.channels, strict=True)]
    )
    levels = means.mean(axis=(1, 2))
    constant = np.array([counts.max() == counts.min() for counts in frame.counts])
    usable = levels[~constant & ~silent & (levels > 0)]
    if (clipped > SATURATED_SHARE).all():
        raise ImageError("every segment is saturated; lower the contrast or the brightness and take it again")
    if not usable.size:
        raise ImageError(
            "every segment is black: no signal above its offset; was the beam on and the detector connected?"
        )
    dead = constant | silent | (levels < DEAD_SHARE * np.median(usable))
    states = tuple(
        "saturated" if share > SATURATED_SHARE else "dead" if none else "live"
        for share, none in zip(clipped, dead, strict=True)
    )
    return Signals(means, offsets, errors, sources, clipped, states)


def _silent(frame: Frame, raw: Floats) -> NDArray[np.bool_]:
    """Return which segments of unknown offset show amplifier noise alone. Shape (S,).

    Their block means scatter no more than their pixels' noise explains, the others' many times more, and their noise
    is below the others', which is mostly of photons: stripes along a segment's axis leave a live segment without
    contrast, but not without this noise.
    """
    unknown = np.array([channel.offset is None for channel in frame.channels])
    if not unknown.any():
        return unknown
    noise = np.array([noise_variance(counts) for counts in frame.counts])
    contrast = raw.var(axis=(1, 2)) / np.maximum(noise / BLOCK**2, 1e-9)
    silent = np.zeros(len(raw), np.bool_)
    for index in np.flatnonzero(unknown & (noise > 0)):
        others = np.arange(len(raw)) != index
        alone = contrast[index] < _NOISE_ALONE and np.median(contrast[others]) > _CONTRAST * contrast[index]
        silent[index] = alone and noise[index] < 0.5 * np.median(noise[others])
    return silent


def _offsets(frame: Frame, raw: Floats, silent: NDArray[np.bool_]) -> tuple[Floats, Floats, tuple[OffsetSource, ...]]:
    """Return each segment's offset, its standard error and where it comes from."""
    unknown = [index for index, channel in enumerate(frame.channels) if channel.offset is None]
    offsets = np.array([channel.offset or 0.0 for channel in frame.channels])
    errors = np.array([(channel.read_noise or 0.0) / raw[0].size ** 0.5 for channel in frame.channels])
    sources: list[OffsetSource] = ["measured"] * len(offsets)
    levels = raw.mean(axis=(1, 2))
    telling = [index for index in unknown if levels[index] > 0 and not silent[index]]
    found = [zero_signal(frame.counts[index], frame.channels[index].saturation) for index in telling]
    certain = [
        (index, value, error)
        for index, (value, error) in zip(telling, found, strict=True)
        if np.isfinite(error) and error > 0
    ]
    if certain:
        # Each tells its own offset poorly; together, by what their signals have in common, they tell it better.
        heights, scatter = _relative_signals(frame, levels)
        shares = np.array([(levels[index] - value) / heights[index] for index, value, _ in certain])
        weights = np.array([(heights[index] / error) ** 2 for index, _, error in certain])
        share, doubt = float(weights @ shares / weights.sum()), float(weights.sum() ** -0.5)
    for index in unknown:
        sources[index] = "estimated" if certain else "assumed"
        offsets[index] = levels[index] - share * heights[index] if certain else 0.0
        errors[index] = np.hypot(doubt, share * scatter) * heights[index] if certain else np.inf
    return offsets, errors, tuple(sources)


def _relative_signals(frame: Frame, levels: Floats) -> tuple[Floats, float]:
    """Return what the mean signals above the offsets are in proportion to, (S,) ADU, and how exactly, a share.

    A field that is level on the whole sends into each segment electrons in proportion to what it covers of a Lambert
    emitter's cone, so that signal over noise goes with the root of that, whatever contrast and brightness each channel
    was set to. Where the noise speaks of other proportions than the levels do, by more than a level field can, the
    offsets are taken for the same share of each level, as with one setting for all.
    """
    covered = np.array(
        [
            each.span * (_sine_square(each.outer_radius, frame) - _sine_square(each.inner_radius, frame))
            for each in frame.geometry.segments
        ]
    )
    noise = np.sqrt([max(noise_variance(counts, 1), 0.0) for counts in frame.counts])
    # Of a median of moduli; differences that share pixels count for a quarter.
    scatter = 1.17 / (frame.counts[0].size / 4) ** 0.5
    told = noise * np.sqrt(covered / covered.mean())
    usable = (told > 0) & (levels > 0)
    if not usable.any():
        return levels, 0.0
    told = told * float(np.median(levels[usable] / told[usable]))
    agrees = np.abs(told[usable] / levels[usable] - 1) < _NOISE_AGREES
    return (np.where(usable, told, levels), scatter) if agrees.all() else (levels, 0.0)


def _sine_square(radius: float, frame: Frame) -> float:
    return radius**2 / (radius**2 + frame.geometry.working_distance**2)


def zero_signal(counts: NDArray[np.uint16], saturation: int) -> tuple[float, float]:
    """Return the counts at which the noise would vanish, and their standard error, both ADU.

    Photon noise grows with the signal: var = a · (counts − offset). The variance in classes of local level, taken to
    zero, tells the offset. Amplifier noise moves the result downwards, never up, so that slopes come out too small
    rather than too large. The error is infinite where the levels in the image differ too little to tell.
    """
    second, level = _second_differences(counts)
    noise = float(np.median(np.abs(second))) / 0.6745 / 6
    inside = (level > 4 * noise) & (level < saturation - 4 * noise)
    if noise == 0 or inside.sum() < 1000:
        return 0.0, np.inf
    modulus, level = np.abs(second[inside]), level[inside]
    low, high = (float(each) for each in np.quantile(level, [0.0005, 0.9995]))
    edges = np.linspace(low, high, _CLASSES + 1)
    which = np.digitize(level, edges[1:-1])
    places, variances, numbers = [], [], []
    for each in range(_CLASSES):
        members = which == each
        if members.sum() >= 50:
            places.append(float(level[members].mean()))
            variances.append((float(np.median(modulus[members])) / 0.6745) ** 2 / 36)
            numbers.append(int(members.sum()))
    if len(places) < 4:
        return 0.0, np.inf
    # The median's variance, and neighbouring differences that share pixels: four times that of independent squares.
    errors = np.array(variances) * np.sqrt(8 / np.array(numbers)) + 0.02 * np.array(variances)
    (slope, base), covariance = np.polyfit(places, variances, 1, w=1 / errors, cov="unscaled")
    if slope <= 5 * np.sqrt(covariance[0, 0]):
        return 0.0, np.inf
    gradient = np.array([base / slope**2, -1 / slope])
    return float(-base / slope), float(np.sqrt(gradient @ covariance @ gradient))


def _second_differences(counts: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (1, −2, 1) ⊗ (1, −2, 1) of the counts and the mean of the 5 × 5 pixels around. Shapes (H − 4, W − 4)."""
    image = counts.astype(np.float32)
    down = image[:-2] - 2 * image[1:-1] + image[2:]
    second = down[:, 2:] - 2 * down[:, 1:-1] + down[:, :-2]
    columns = np.lib.stride_tricks.sliding_window_view(image, 5, axis=0).mean(axis=-1)
    level = np.lib.stride_tricks.sliding_window_view(columns, 5, axis=1).mean(axis=-1)
    return second[1:-1, 1:-1], level


def describe_missing(names: Sequence[str], states: Sequence[str]) -> str:
    """Return which segments cannot be used and why, in words."""
    what = {"dead": "has no signal", "saturated": "is saturated"}
    return ", ".join(f"{name} {what[state]}" for name, state in zip(names, states, strict=True) if state != "live")


def noise_variance(counts: NDArray[np.uint16], every: int = 8) -> float:
    """Return the variance of a pixel's noise (ADU²), from second differences that a smooth image does not feel.

    The mask (1, −2, 1) ⊗ (1, −2, 1) has a gain of 36 on white noise (J. Immerkær, Comput. Vis. Image Underst. 64
    (1996) 300); the median of its modulus is not disturbed by the edges of a few facets. Of a large image every
    eighth row is looked at, unless ``every`` says otherwise.
    """
    rows = np.arange(1, counts.shape[0] - 1, every if counts.shape[0] >= 64 else 1)
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
        spread = gain * float(errors[place]) if place is not None else 0.0
        found.append(
            SegmentEstimate(
                name=channel.name,
                state=signals.states[index],
                offset=float(signals.offsets[index]),
                offset_source=signals.sources[index],
                offset_interval=_interval(float(signals.offsets[index]), float(signals.offset_errors[index])),
                gain=gain,
                gain_interval=_interval(gain, spread),
                noise_gain=noise_gain,
                read_noise=read,
            )
        )
    return found


def _interval(value: float, error: float) -> tuple[float, float]:
    return (value - 1.96 * error, value + 1.96 * error)

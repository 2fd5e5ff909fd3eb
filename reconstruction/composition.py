"""Oxide coverage from the sum of all segments.

Cu2O sends 0.92 ± 0.02 of copper's signal (5 to 20 keV). The sum of the segments, divided by the brightness that the
local law gives to each place's slope, therefore gathers about two levels in that ratio. Between them lies what the
beam sees through: a layer thinner than the signal's depth (a sixth of the electron range: some 25 nm at 5 keV), rims,
blocks astride a boundary. A few blocks lie anywhere, by relief that the slopes do not explain. The histogram of small
blocks is described by all four, by expectation–maximisation; the levels are tied to the ratio and, where an earlier
frame of clean copper gives one, to a reference level. That tie decides which shade a single population is.

What the beam sees through is where one frame cannot tell: a thin oxide on copper and a thin copper on oxide look the
same, but a block astride a boundary is half of each. Half of it all is counted as oxide, and σ holds every share of
it, the less likely the farther from half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from reconstruction.metrology import Figure

FloatArray = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

OXIDE_RATIO = 0.92
OXIDE_RATIO_SIGMA = 0.02
LEVEL_TOLERANCE = 0.01
"""Relative standard uncertainty of a reference level: drift of the probe current between frames, pores, gas."""
WEIGHT = 1000.0
"""Independent blocks that a histogram is worth, however many it has: their neighbours are like them, and no population
is quite Gaussian. More would let the shape of a peak overrule what is known of its level."""
UNRESOLVED = 0.002
"""Coverage by islands smaller than a block, which leave no level of their own."""
_BINS = 200
_WIDTH = 0.012
"""Relative width of a population that is not there."""
_WIDTH_BLOCKS = 10.0
"""Blocks that this expectation is worth."""
_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of the field that is oxide.

    Attributes
    ----------
    figure : Figure
    level : float, ADU
        Of clean copper, as fitted.
    between : float
        Share of the field whose signal lies between oxide's and copper's.
    unexplained : float
        Share of the field that belongs to neither, nor lies between.
    assumptions : tuple of str
    """

    figure: Figure
    level: float
    between: float
    unexplained: float
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Histogram:
    """Blocks by their signal: share of each bin, its middle over ``scale`` (ADU), and how many blocks there are."""

    shares: Floats
    places: Floats
    scale: float
    number: int

    @classmethod
    def of(cls, values: Floats, scale: float | None) -> _Histogram:
        low, high = np.quantile(values, [0.001, 0.999])
        margin = 0.05 * (high - low) + 1e-9
        counts, edges = np.histogram(values, bins=_BINS, range=(low - margin, high + margin))
        scale = scale or float(values.mean()) or 1.0
        return cls(counts / counts.sum(), (edges[1:] + edges[:-1]) / 2 / scale, scale, values.size)


@dataclass(frozen=True, slots=True)
class _Knowledge:
    """What is known beforehand: the ratio of the levels, and copper's level over the histogram's scale, if any."""

    ratio: float
    ratio_sigma: float
    level: float | None

    def misfit(self, dark: float, bright: float) -> float:
        """Return half of χ² of two levels."""
        misfit = 0.5 * ((dark / bright - self.ratio) / self.ratio_sigma) ** 2
        return misfit if self.level is None else misfit + 0.5 * ((bright / self.level - 1) / LEVEL_TOLERANCE) ** 2

    def levels(self, means: Floats, precisions: Floats, bright: float) -> tuple[float, float]:
        """Return the most likely levels, dark and bright, where the populations alone have these means."""
        tie, ratio, level = 1 / (self.ratio_sigma * bright) ** 2, self.ratio, self.level or 0.0
        hold = 0.0 if self.level is None else 1 / (LEVEL_TOLERANCE * level) ** 2
        dark, copper = float(precisions[0]), float(precisions[1]) + hold
        pulls = dark * float(means[0]), float(precisions[1] * means[1]) + hold * level
        # Two equations, by Cramer's rule: no term is negative, nothing cancels.
        whole = dark * copper + tie * (copper + dark * ratio**2)
        return (
            ((copper + tie * ratio**2) * pulls[0] + tie * ratio * pulls[1]) / whole,
            ((dark + tie) * pulls[1] + tie * ratio * pulls[0]) / whole,
        )


@dataclass(frozen=True, slots=True)
class _Fit:
    """A description of the histogram: shares (oxide, copper, between, neither), levels, widths, log likelihood."""

    shares: Floats
    levels: tuple[float, float]
    widths: tuple[float, float]
    likelihood: float

    @property
    def coverage(self) -> float:
        """Oxide and half of what lies between, of all that is explained."""
        oxide, _, between, neither = self.shares
        return float((oxide + between / 2) / (1 - min(neither, 0.999)))


def estimate_coverage(
    flattened: FloatArray,
    *,
    reference_level: float | None = None,
    ratio: float = OXIDE_RATIO,
    ratio_sigma: float = OXIDE_RATIO_SIGMA,
) -> Coverage:
    """Estimate the oxide's coverage.

    Parameters
    ----------
    flattened : (h, w) array, ADU
        Sum signal over the local law's brightness, averaged over small blocks.
    reference_level : float, optional, ADU
        Of clean copper under the same beam and gains.
    ratio, ratio_sigma : float
        Signal of the oxide over that of the metal, and its standard uncertainty.

    Returns
    -------
    Coverage
        Whose σ holds the counting of blocks, what lies between the levels and what belongs to neither (any share of
        which may be oxide), the uncertainties of the ratio and of the reference level, and, without a reference, the
        ambiguity of a single population.
    """
    histogram = _Histogram.of(np.asarray(flattened, dtype=np.float64).ravel(), reference_level)
    level = None if reference_level is None else 1.0
    fits = _fits(histogram, _Knowledge(ratio, ratio_sigma, level))
    best = fits[0]
    share, between, neither = best.coverage, float(best.shares[2]), float(best.shares[3])
    variance = share * (1 - share) / max(histogram.number / 9, 1) + UNRESOLVED**2
    # Variances of a share that may be anything from 0 to 1: likeliest at half (triangular), and all equally likely.
    variance += (between / (1 - min(neither, 0.999))) ** 2 / 24 + neither**2 / 12
    variance += _half_difference(
        histogram, [_Knowledge(ratio + sign * ratio_sigma, ratio_sigma, level) for sign in (-1, 1)]
    )
    if level is None:
        variance += _ambiguity(fits)
    else:
        moved = [_Knowledge(ratio, ratio_sigma, level * (1 + sign * LEVEL_TOLERANCE)) for sign in (-1, 1)]
        variance += _half_difference(histogram, moved)
    return Coverage(
        Figure(share, min(float(np.sqrt(variance)), 0.5), ""),
        best.levels[1] * histogram.scale,
        between,
        neither,
        _assumed(reference_level, ratio, ratio_sigma, between, neither),
    )


def _assumed(
    reference: float | None, ratio: float, ratio_sigma: float, between: float, neither: float
) -> tuple[str, ...]:
    first = (
        f"coverage: oxide signals {ratio:g} of copper ({ratio - ratio_sigma:g} to {ratio + ratio_sigma:g}), gas in "
        "the beam's way included"
    )
    second = (
        f"coverage: {between:.1%} of the field lies between the two levels (layers thinner than the signal's depth, "
        f"rims) and {neither:.1%} at neither; half of the former was counted as oxide, and σ holds any share of both"
    )
    if reference is None:
        last = "coverage: no level of clean copper was given; the histogram alone decides which shade is copper"
    else:
        last = f"coverage: clean copper stands at {reference:.5g} ADU, within {LEVEL_TOLERANCE:.0%}"
    return first, second, last


def _half_difference(histogram: _Histogram, pair: list[_Knowledge]) -> float:
    """Return the square of half the difference in coverage between two states of knowledge."""
    low, high = (_fits(histogram, known)[0].coverage for known in pair)
    return ((high - low) / 2) ** 2


def _fits(histogram: _Histogram, known: _Knowledge) -> list[_Fit]:
    """Return the fits from several starts, the likeliest first; a known level needs one."""
    if known.level is not None:
        return [_maximise(histogram, known, known.level, 0.5)]
    middle = float(histogram.shares @ histogram.places)
    starts = [(middle, 0.03), (middle * 2 / (1 + known.ratio), 0.5), (middle / known.ratio, 0.97)]
    return sorted((_maximise(histogram, known, *start) for start in starts), key=lambda fit: -fit.likelihood)


def _maximise(histogram: _Histogram, known: _Knowledge, bright: float, oxide: float) -> _Fit:
    """Run expectation–maximisation from copper's level and the oxide's share."""
    shares, places = histogram.shares, histogram.places
    span = float(places[-1] - places[0])
    deviation = float(np.sqrt(shares @ (places - shares @ places) ** 2))
    # Wider than half the contrast, two populations are one; noise may be wider.
    widest = max((1 - known.ratio) / 2, deviation)
    fit = _Fit(
        np.array([0.64 * oxide, 0.64 * (1 - oxide), 0.32, 0.04]), (known.ratio * bright, bright), (_WIDTH, _WIDTH), 0.0
    )
    before = -np.inf
    for _ in range(_ITERATIONS):
        densities = _densities(fit, places, span)
        total = fit.shares @ densities + 1e-300
        likelihood = WEIGHT * float(shares @ np.log(total)) - known.misfit(*fit.levels)
        fit = _Fit(fit.shares, fit.levels, fit.widths, likelihood)
        if abs(likelihood - before) < 1e-3:
            break
        before = likelihood
        fit = _better(fit, fit.shares[:, None] * densities * (shares / total), places, known, widest)
    return fit


def _better(fit: _Fit, parts: Floats, places: Floats, known: _Knowledge, widest: float) -> _Fit:
    """Return the likeliest shares, levels and widths when every block is shared out among the four: (4, bins)."""
    shares = parts.sum(axis=1)
    blocks = WEIGHT * shares[:2]
    means = parts[:2] @ places / np.maximum(shares[:2], 1e-12)
    levels = known.levels(means, blocks / np.square(fit.widths), fit.levels[1])
    squares = WEIGHT * np.array([parts[each] @ (places - levels[each]) ** 2 for each in range(2)])
    variances = (squares + _WIDTH_BLOCKS * _WIDTH**2) / (blocks + _WIDTH_BLOCKS)
    dark, bright = np.clip(np.sqrt(variances), 2e-3, widest)
    return _Fit(shares, levels, (float(dark), float(bright)), fit.likelihood)


def _densities(fit: _Fit, places: Floats, span: float) -> Floats:
    """Return the densities of oxide, copper, what lies evenly between them, and what lies anywhere. Shape (4, bins)."""
    (dark, bright), widths = fit.levels, fit.widths
    mean = sum(widths) / 2
    between = (ndtr((places - dark) / mean) - ndtr((places - bright) / mean)) / max(bright - dark, 1e-3 * bright)
    normals = [
        np.exp(-0.5 * ((places - level) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        for level, width in zip(fit.levels, widths, strict=True)
    ]
    return np.stack([*normals, between, np.full_like(places, 1 / span)])


def _ambiguity(fits: list[_Fit]) -> float:
    """Return the variance between fits that describe the histogram about as well."""
    weights = np.exp(np.array([fit.likelihood - fits[0].likelihood for fit in fits]))
    weights /= weights.sum()
    shares = np.array([fit.coverage for fit in fits])
    return float(weights @ (shares - fits[0].coverage) ** 2)

"""Oxide coverage from the sum of all segments.

Cu2O sends 0.92 ± 0.02 of copper's signal (5 to 20 keV). The sum of the segments, divided by the brightness that the
local law gives to each place's slope, is therefore a mixture of two populations whose levels stand in that ratio. The
mixture is fitted to the histogram of small blocks by expectation–maximisation: the share of the darker population is
the coverage. One population alone says nothing about which it is; a level of clean copper, from frames before the
oxidation, tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reconstruction.metrology import Figure

FloatArray = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

OXIDE_RATIO = 0.92
OXIDE_RATIO_SIGMA = 0.02
LEVEL_TOLERANCE = 0.01
"""Relative standard uncertainty of a reference level: drift of the probe current between frames."""
RIM = 0.2
"""Uncertainty of the coverage c, in c(1 − c), from rims: there the oxide is thinner than the signal's depth and seems
less than it is, and blocks lie half on either side. Rendered islands with sloping sides came out 0.05 low at 0.44."""
_BINS = 400


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of the field that is oxide.

    Attributes
    ----------
    figure : Figure
    level : float, ADU
        Of clean copper, as fitted.
    assumptions : tuple of str
    """

    figure: Figure
    level: float
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Fit:
    """A mixture's parameters: share of the darker population, the brighter's level, relative width, log likelihood."""

    share: float
    level: float
    width: float
    likelihood: float


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
        Whose σ holds the counting of blocks, the ratio's uncertainty, the level's, and, without a reference, the
        ambiguity of a single population.
    """
    values = np.asarray(flattened, dtype=np.float64).ravel()
    low, high = np.quantile(values, [0.001, 0.999])
    margin = 0.05 * (high - low) + 1e-9
    counts, edges = np.histogram(values, bins=_BINS, range=(low - margin, high + margin))
    places = (edges[1:] + edges[:-1]) / 2
    fits = [_best(counts, places, each, reference_level) for each in (ratio, ratio - ratio_sigma, ratio + ratio_sigma)]
    best = fits[0][0]
    variance = best.share * (1 - best.share) / max(values.size / 9, 1)
    variance += (RIM * best.share * (1 - best.share)) ** 2
    variance += ((fits[1][0].share - fits[2][0].share) / 2) ** 2
    variance += (
        _level_variance(float(counts.sum()), best, ratio) if reference_level is not None else _ambiguity(fits[0])
    )
    sigma = min(float(np.sqrt(variance)), 0.5)
    return Coverage(Figure(best.share, sigma, ""), best.level, _assumed(reference_level, ratio))


def _assumed(reference_level: float | None, ratio: float) -> tuple[str, ...]:
    first = (
        f"coverage: oxide signals {ratio:g} of copper ({ratio - OXIDE_RATIO_SIGMA:g} to {ratio + OXIDE_RATIO_SIGMA:g})"
    )
    if reference_level is None:
        return first, "coverage: no level of clean copper was given; the histogram alone decides which shade is copper"
    return first, f"coverage: clean copper stands at {reference_level:.5g} ADU, within {LEVEL_TOLERANCE:.0%}"


def _best(counts: NDArray[np.int64], places: Floats, ratio: float, reference: float | None) -> list[_Fit]:
    """Return the fits from several starts, the likeliest first."""
    middle = float(np.average(places, weights=counts))
    starts = [(0.03, middle), (0.5, middle * 2 / (1 + ratio)), (0.97, middle / ratio)]
    fits = [_maximise(counts, places, ratio, share, level, reference) for share, level in starts]
    return sorted(fits, key=lambda fit: -fit.likelihood)


def _maximise(
    counts: NDArray[np.int64], places: Floats, ratio: float, share: float, level: float, reference: float | None
) -> _Fit:
    """Run expectation–maximisation with levels (L, ratio · L) and widths in the same ratio."""
    number = float(counts.sum())
    width = max(float(np.sqrt(np.average((places - level) ** 2, weights=counts))) / level / 2, 2e-3)
    likelihood = -np.inf
    for _ in range(300):
        bright = _normal(places, level, width * level) * (1 - share)
        dark = _normal(places, ratio * level, width * ratio * level) * share
        total = bright + dark + 1e-300
        before, likelihood = likelihood, float(counts @ np.log(total)) + _prior(level, reference)
        if abs(likelihood - before) < 1e-7 * number:
            break
        oxide, metal = counts * dark / total, counts * bright / total
        share = float(oxide.sum()) / number
        # The level in units of the metal: both populations vote, each with its own variance.
        precision = 1 / (width * level) ** 2
        votes = float(metal @ places + oxide @ places / ratio) * precision
        weight = number * precision
        if reference is not None:
            votes += reference / (LEVEL_TOLERANCE * reference) ** 2
            weight += 1 / (LEVEL_TOLERANCE * reference) ** 2
        level = votes / weight
        spread = metal @ (places - level) ** 2 + oxide @ (places / ratio - level) ** 2
        width = max(float(np.sqrt(spread / number)) / level, 1e-3)
    return _Fit(share, level, width, likelihood)


def _normal(x: Floats, mean: float, sigma: float) -> Floats:
    return np.asarray(np.exp(-0.5 * ((x - mean) / sigma) ** 2) / sigma)


def _prior(level: float, reference: float | None) -> float:
    return 0.0 if reference is None else -0.5 * ((level / reference - 1) / LEVEL_TOLERANCE) ** 2


def _level_variance(number: float, fit: _Fit, ratio: float) -> float:
    """Return the variance that the level's remaining freedom leaves in the share."""
    # Two separate populations fix the level themselves; one alone leaves it to the reference.
    contrast = (1 - ratio) / fit.width
    own = fit.width**2 / max(number / 9 * min(fit.share, 1 - fit.share) * min(contrast**2, 1.0), 1e-9)
    relative = 1 / (1 / own + 1 / LEVEL_TOLERANCE**2)
    overlap = float(np.exp(-0.125 * contrast**2))
    return relative * (overlap / (1 - ratio)) ** 2


def _ambiguity(fits: list[_Fit]) -> float:
    """Return the variance between fits that describe the histogram about as well."""
    advantage = np.array([fit.likelihood - fits[0].likelihood for fit in fits])
    # A histogram of correlated blocks counts for less than its number; a real one is never quite Gaussian.
    weights = np.exp(np.maximum(advantage / 100, -50))
    weights /= weights.sum()
    shares = np.array([fit.share for fit in fits])
    return float(weights @ (shares - fits[0].share) ** 2)

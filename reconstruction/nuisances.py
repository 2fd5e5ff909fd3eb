"""Gains, offsets, detector's place and rotation: estimated with the heights, never silently absorbed into them.

Given what the surface emits, the signals depend on few numbers; they follow by weighted least squares with what is
believed of them beforehand. Two things keep the heights and the numbers apart. The prior makes heights a little too
flat where the frame says little, which must not pass for a gain: the parts of the contrast (sum, slopes in x, slopes in
y, the rest) may each be scaled freely, so that gains rest on how segments agree with each other. And the sample's mean
tilt takes part, with a wide prior: one frame can hardly tell it from a shift of the detector or from unequal gains, so
their intervals are wide and correlated. What the frame does tell is a combination, :attr:`Estimate.combination`.

A probe that is wider than told (defocus) is not among the numbers: to first order it makes the signals those of a
smoother surface, which is a surface, too. Tried on frames of known heights, with the contrast's parts free, an estimate
of the added blur came out at the same −2 to −4 square pixels whether 0 or 2 had been added: it measures the prior. What
it would do to the heights is told instead (:func:`reconstruction.inverse.reconstruct`, assumptions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from drivers.geometry import pixel_positions
from reconstruction.fidelity import Forward, Nuisances, Observation


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Standard deviations of what is known before the frame.

    Attributes
    ----------
    gain : float
        Of each segment's gain, relative; beside one common factor, which is free.
    offset : float
        Of each segment's offset, over its mean signal.
    shift : float, m
        Of the detector, in x and in y.
    rotation : float, rad
    tilt : float
        Of the sample's mean slope, in x and in y.
    contrast : float
        Of the scale of each part of the contrast.
    """

    gain: float = 0.1
    offset: float = 0.005
    shift: float = 0.3e-3
    rotation: float = math.radians(2.0)
    tilt: float = 0.1
    contrast: float = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What a frame and the beliefs tell of the nuisances.

    Attributes
    ----------
    nuisances, errors : Nuisances
        Values and their standard errors.
    combination, combination_error : (2,) tensors
        The mean slope that would stand for shift, gains, offsets and tilt together, in x and in y.
    """

    nuisances: Nuisances
    errors: Nuisances
    combination: Tensor
    combination_error: Tensor


PARTS = 4


class _Numbers:
    """Places of the numbers in one vector: gains, offsets, shift, rotation, tilt, contrast."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.gains, self.offsets = slice(0, count), slice(count, 2 * count)
        self.shift, self.rotation = slice(2 * count, 2 * count + 2), 2 * count + 2
        self.tilt = slice(2 * count + 3, 2 * count + 5)
        self.contrast = slice(2 * count + 5, 2 * count + 5 + PARTS)
        self.total = 2 * count + 5 + PARTS

    def nuisances(self, x: Tensor, levels: Tensor, centre: float = 1.0) -> Nuisances:
        """Return the numbers as nuisances; ``centre`` 0 for their errors."""
        return Nuisances(
            (centre + x[self.gains]).float(),
            (x[self.offsets] * levels).float(),
            x[self.shift],
            x[self.rotation],
            x[self.tilt].float(),
        )


TRUST = 25.0
"""The heights were found with the numbers of the round before and have absorbed a part of what is wrong with them: the
signals count as so many times fewer. On frames of known heights errors are five times what counting alone leaves."""
KNEE = 4.0
"""Residuals beyond so many standard deviations (dirt, a shadow that is not modelled) count linearly (P. J. Huber 1964).
"""
MOST_PIXELS = 65_536
"""So many pixels, evenly spread, tell the nuisances of a large field well enough."""


@dataclass(frozen=True, slots=True, eq=False)
class Emitted:
    """What some pixels of a field emit, evenly spread, and what all do in the mean.

    Attributes
    ----------
    some : (K, M) tensor
    mean : (K,) tensor
    places : (M,) tensor of int
        Of the pixels, row by row.
    """

    some: Tensor
    mean: Tensor
    places: Tensor

    @classmethod
    def of(cls, emitted: Tensor) -> Emitted:
        """Return those of a whole field (K, H, W)."""
        places = chosen_pixels(emitted[0].numel())
        return cls(emitted.flatten(1)[:, places], emitted.mean(dim=(1, 2)), places)


def chosen_pixels(pixels: int) -> Tensor:
    """Return the places of those of so many pixels that tell the nuisances."""
    # An odd stride meets every column of the tokens.
    stride = max(1, math.ceil(pixels / MOST_PIXELS)) | 1
    return torch.arange(stride // 2, pixels, stride)


def estimate_nuisances(
    forward: Forward,
    observed: Observation,
    emitted: Emitted | Tensor,
    beliefs: Beliefs,
    rounds: int = 3,
    *,
    least_noise: float = 0.0,
) -> Estimate:
    """Return the nuisances of greatest posterior probability for what the surface emits, by Gauss–Newton.

    Parameters
    ----------
    forward : Forward
    observed : Observation
    emitted : Emitted, or (K, H, W) tensor
    beliefs : Beliefs
    rounds : int
    least_noise : float
        Of a pixel's signal, below which more electrons tell the numbers no better.
    """
    numbers = _Numbers(len(forward.live))
    x = torch.zeros(numbers.total, dtype=torch.float64)
    prior = _prior(numbers, beliefs)
    precision, levels = prior, observed.signals.mean(dim=(1, 2)).double()
    least = (least_noise * levels)[:, None] ** 2
    pixels = _Pixels.of(forward, observed, emitted if isinstance(emitted, Emitted) else Emitted.of(emitted))
    for _ in range(rounds):
        columns, expected = _columns(forward, pixels, x, numbers, levels)
        variances = observed.variances(expected[..., None].float())[..., 0].double()
        scaled = (pixels.signals - expected).abs() / variances.sqrt()
        weight = pixels.weight / torch.maximum(variances, least) * (KNEE / scaled.clamp(min=KNEE))
        weighted = (columns * weight).flatten(1)
        precision = prior + weighted @ columns.flatten(1).T / TRUST
        pull = weighted @ (pixels.signals - expected).flatten() / TRUST
        x = x + torch.linalg.solve(precision, pull - prior @ x)
    return _told(forward, observed, x, torch.linalg.inv(precision), numbers)


@dataclass(frozen=True, slots=True, eq=False)
class _Pixels:
    """Some pixels of a field: emission (K, M), its contrast by parts (4, K, M), signals (L, M), weight, x, y (M,)."""

    emitted: Tensor
    contrast: Tensor
    signals: Tensor
    weight: Tensor
    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, forward: Forward, observed: Observation, emitted: Emitted) -> _Pixels:
        h, w = observed.signals.shape[1:]
        chosen = emitted.places
        flat = emitted.some.double()
        relief = flat - emitted.mean.double()[:, None]
        basis = forward.model.basis
        order, sine = torch.from_numpy(basis.order), torch.from_numpy(basis.sine)
        # The sum's contrast, that of slopes in x, in y, and the rest.
        masks = [order == 0, (order == 1) & ~sine, (order == 1) & sine, order > 1]
        x, y = (torch.from_numpy(each) for each in pixel_positions((h, w), forward.pixel_size))
        return cls(
            flat,
            torch.stack([relief * mask[:, None] for mask in masks]),
            observed.signals.flatten(1)[:, chosen].double(),
            observed.weight.flatten()[chosen].double(),
            x.double().expand(h, w).flatten()[chosen],
            y.double()[:, None].expand(h, w).flatten()[chosen],
        )

    def collected(self, responses: Tensor) -> Tensor:
        """Return the signals of these pixels, without gains. (L, M)."""
        parts = responses.double() @ self.emitted
        return parts[0] + parts[1] * self.x + parts[2] * self.y


def _prior(numbers: _Numbers, beliefs: Beliefs) -> Tensor:
    """Return the precision of what is believed beforehand."""
    spread = torch.ones(numbers.total, dtype=torch.float64)
    for place, value in (
        (numbers.gains, beliefs.gain),
        (numbers.offsets, beliefs.offset),
        (numbers.shift, beliefs.shift),
        (numbers.rotation, beliefs.rotation),
        (numbers.tilt, beliefs.tilt),
        (numbers.contrast, beliefs.contrast),
    ):
        spread[place] = value
    prior = torch.diag(1 / spread**2)
    # The common factor of all gains is the probe current's, of which nothing is believed.
    prior[numbers.gains, numbers.gains] -= (1 - 1e-6) / (beliefs.gain**2 * numbers.count)
    return prior


def _columns(forward: Forward, pixels: _Pixels, x: Tensor, numbers: _Numbers, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of the signals by each number, (N, L, M), and the signals, (L, M)."""
    at = numbers.nuisances(x, levels)
    responses = forward.responses(at)
    gains = at.gains.double()[:, None]
    plain = pixels.collected(responses)
    columns = torch.zeros(numbers.total, *plain.shape, dtype=torch.float64)
    for index in range(numbers.count):
        columns[numbers.gains][index, index] = plain[index]
        columns[numbers.offsets][index, index] = levels[index]
    for place, step in ((numbers.shift.start, 1e-5), (numbers.shift.start + 1, 1e-5), (numbers.rotation, 1e-3)):
        moved = x.clone()
        moved[place] += step
        ahead = pixels.collected(forward.responses(numbers.nuisances(moved, levels)))
        columns[place] = gains * (ahead - plain) / step
    tilted = responses[0].double() @ forward.tilt_emission().double()
    columns[numbers.tilt] = (gains * tilted).T[..., None]
    columns[numbers.contrast] = gains * (responses[0].double() @ pixels.contrast)
    expected = gains * plain + forward.levels(responses, at).double()[:, None]
    return columns, expected + torch.einsum("alm,a->lm", columns[numbers.contrast], x[numbers.contrast])


def _told(forward: Forward, observed: Observation, x: Tensor, covariance: Tensor, numbers: _Numbers) -> Estimate:
    levels = observed.signals.mean(dim=(1, 2)).double()
    responses = forward.responses()
    slopes = responses[0].double() @ forward.tilt_emission().double()
    # What each number does to the mean signals, as the slope that would do the same, by weighted least squares.
    weight = 1 / observed.mean_variances().double()
    solve = torch.linalg.solve(slopes.T @ (weight[:, None] * slopes), slopes.T * weight)
    effect = torch.zeros(numbers.count, numbers.total, dtype=torch.float64)
    effect[:, numbers.gains] = torch.diag(levels)
    effect[:, numbers.offsets] = torch.diag(levels)
    field = torch.zeros(1, 8, 8)
    flat = forward.model.local(field, field + float(forward.condition.oxide), forward.condition)[0, :, 4, 4].double()
    # A detector moved by +x is a pixel at −x.
    effect[:, numbers.shift] = -(responses[1:].double() @ flat).T
    effect[:, numbers.tilt] = slopes
    mapping = solve @ effect
    spread = torch.diagonal(mapping @ covariance @ mapping.T).clamp(min=0).sqrt()
    errors = covariance.diagonal().clamp(min=0).sqrt()
    return Estimate(numbers.nuisances(x, levels), numbers.nuisances(errors, levels, centre=0.0), mapping @ x, spread)

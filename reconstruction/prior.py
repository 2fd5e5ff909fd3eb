"""What is believed of a surface before the frame: a smooth spectrum whose strength the frame itself tells.

The heights' cosine modes are taken as independent, of a variance P(|k|) that is the same in all directions. P is not
chosen: its logarithm is a polygon over log k whose knots maximise the frame's own evidence. With ẑ the least-squares
estimate of a mode and V what noise makes of it, ẑ has the variance P + V, so that over all modes

    −2 log evidence = Σ log(P + V) + ẑ²/(P + V)

(P. Whittle, J. R. Stat. Soc. B 15 (1953) 125), plus a weak penalty on the polygon's bends and one on waves shorter than
a dozen pixels that would hardly fall in strength: the spectrum of a step falls as k⁻³, that of a crease as k⁻⁵, and
what does not fall there is noise that the model missed. ẑ follows from the posterior
mean m as m (1 + V/P): the estimate and the prior determine each other, in two or three rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

Floats = NDArray[np.float64]

KNOTS = 10
STIFFNESS = (1.0, 30.0)
"""Of the polygon, for long and for short waves: bends of one e-fold per knot cost half of that in log-likelihood."""
SHORT, FALL, FALL_SPREAD = 0.5, -3.0, 0.1
"""Above so many radians per pixel the power falls at least with that exponent, within about that much."""


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """Cosine modes of a field by the length of their wave vector.

    Attributes
    ----------
    k : (n,) array, rad/pixel
        Middles of the rings, the mean left out.
    index : (H, W) int array
        Ring of each mode; the mean belongs to the first.
    counts : (n,) array
        Modes in each, the mean left out.
    """

    k: Floats
    index: NDArray[np.int64]
    counts: Floats

    def mean(self, values: Floats, weights: Floats) -> Floats:
        """Return the weighted mean of each ring; (H, W) → (n,)."""
        flat, weight = self.index.ravel()[1:], weights.ravel()[1:]
        total = np.bincount(flat, weight, len(self.k))
        return np.asarray(np.bincount(flat, values.ravel()[1:] * weight, len(self.k)) / np.maximum(total, 1e-300))


@lru_cache(maxsize=8)
def rings(shape: tuple[int, int]) -> Rings:
    """Return the rings of a field: as wide as the lowest mode up to 24 of them, then in even steps of log k."""
    rows, columns = (np.pi * np.arange(size) / size for size in shape)
    k = np.hypot(rows[:, None], columns[None, :])
    step = np.pi / max(shape)
    number = np.maximum(np.rint(k / step), 1) - 1
    wide = number >= 24
    number[wide] = 24 + np.floor(np.log(k[wide] / (24.5 * step)) / 0.04)
    used, index = np.unique(number.astype(np.int64).ravel(), return_inverse=True)
    index = index.reshape(shape)
    flat = index.ravel()[1:]
    counts = np.bincount(flat, minlength=len(used)).astype(np.float64)
    middles = np.bincount(flat, np.log(k.ravel()[1:]), len(used)) / counts
    return Rings(np.exp(middles), index.astype(np.int64), counts)


def first_guess(shape: tuple[int, int], pixel: float) -> Tensor:
    """Return a power law to begin with: relief of slopes about 0.3 at the electron range. (H, W), pixels²."""
    rows, columns = (np.pi * np.arange(size) / size for size in shape)
    k = np.maximum(np.hypot(rows[:, None], columns[None, :]), 0.5 * np.pi / max(shape))
    bend = min(1.0, 2 * pixel)
    return torch.from_numpy(30.0 * (np.hypot(k, 0.3 * bend) / (0.3 * bend)) ** -4.0).float()


def rescaled(values: Tensor, squares: Tensor) -> Tensor:
    """Return a spectrum with its level in each ring taken from squares that scatter about the truth. (H, W).

    Parameters
    ----------
    values : (H, W) tensor
        Of the right shape within a ring.
    squares : (H, W) tensor
        Squares of independent normal variates of the wanted variance: their mean over some rings is taken.
    """
    ring = rings((values.shape[0], values.shape[1]))
    flat = np.maximum(values.double().numpy(), 1e-12)
    ratio = ring.mean(squares.double().numpy() / flat, np.ones(flat.shape))
    # Averaged over neighbouring rings until a few hundred modes tell it.
    place = np.log(ring.k)
    near = np.exp(-0.5 * ((place[:, None] - place[None, :]) / 0.15) ** 2) * ring.counts
    smooth = (near @ ratio + 30.0) / (near.sum(axis=1) + 30.0)
    return torch.from_numpy(flat * np.clip(smooth, 0.1, 10.0)[ring.index]).float()


def evidence_power(modes: Tensor, power: Tensor, information: Tensor) -> Tensor:
    """Return the prior's variance of each mode that the frame's evidence prefers. (H, W).

    Parameters
    ----------
    modes : (H, W) tensor
        Posterior mean of the cosine modes.
    power : (H, W) tensor
        The prior that it was found with.
    information : (H, W) tensor
        1/V of each mode.
    """
    shape = (modes.shape[0], modes.shape[1])
    ring = rings(shape)
    mean, before = modes.double().numpy(), power.double().numpy()
    noise = 1 / information.double().clamp(min=1e-12).numpy()
    squares = mean**2 * (1 + noise / before) ** 2
    weights = 1 / (before + noise) ** 2
    found = whittle(ring.k, ring.mean(squares, weights), ring.mean(noise, weights), ring.counts)
    return torch.from_numpy(found[ring.index]).float().clamp(min=1e-9)


def whittle(k: Floats, squares: Floats, noise: Floats, counts: Floats) -> Floats:
    """Return the variances P(k) of greatest evidence (formula: module text).

    Parameters
    ----------
    k : (n,) array
    squares : (n,) array
        Mean ẑ² of each ring.
    noise : (n,) array
        V of each.
    counts : (n,) array
        Modes in each.
    """
    place = np.log(k)
    knots = np.linspace(place[0], place[-1], KNOTS)
    polygon = np.stack([np.interp(place, knots, row) for row in np.eye(KNOTS)], axis=1)
    bends = np.diff(np.eye(KNOTS), 2, axis=0)
    stiff = np.where(knots[1:-1] > math.log(SHORT), STIFFNESS[1], STIFFNESS[0])
    rise = np.diff(np.eye(KNOTS), axis=0) / (knots[1] - knots[0])
    short = knots[1:] > math.log(SHORT)
    guess = np.log(np.maximum(squares - noise, 0.05 * noise))
    weight = np.sqrt(counts / (1 + noise / np.maximum(squares - noise, 1e-3 * noise)))
    design = np.vstack([polygon * weight[:, None], 3 * bends])
    start = np.linalg.lstsq(design, np.concatenate([guess * weight, np.zeros(len(bends))]), rcond=None)[0]

    def cost(heights: Floats) -> tuple[float, Floats]:
        power = np.exp(np.clip(polygon @ heights, -60, 40))
        both = power + noise
        bent = bends @ heights
        value = 0.5 * np.sum(counts * (np.log(both) + squares / both)) + 0.5 * np.sum(stiff * bent**2)
        slope = polygon.T @ (0.5 * counts * (1 / both - squares / both**2) * power) + bends.T @ (stiff * bent)
        shallow = np.where(short, np.maximum(rise @ heights - FALL, 0.0), 0.0) / FALL_SPREAD
        return float(value + 0.5 * shallow @ shallow), np.asarray(slope + rise.T @ shallow / FALL_SPREAD)

    found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(np.exp(np.clip(polygon @ found.x, math.log(1e-9), 40)))

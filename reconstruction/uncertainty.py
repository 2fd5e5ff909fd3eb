"""How far the heights may be off, pixel by pixel, and how fine they are.

The posterior of the linear problem has in each cosine mode the variance M(k) = 1/(I(k) + 1/P(k)). Spread evenly over
the field it would be too large on flat ground and too small at edges, because the prior holds for the field as a whole.
So the field is taken for stationary only locally: in bands of one octave, the power that the solution shows around a
pixel rescales the prior there, and with it the variance. To that comes the surrogate's own error, a share of each
band's local amplitude. Where nothing was measured (saturated, in shadow) the prior's full variance stands. A prior of
creases knows faces from edges by itself: its posterior is drawn from, and that variance takes the bands' place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reconstruction.features import blur, mirror
from reconstruction.prior import Rings, rings
from reconstruction.spectral import cosine_transform, inverse_cosine_transform

OCTAVE = math.log(2.0)
WAVES = 0.35
"""Standard deviation of the window in which a band's power is judged, in its wavelengths."""
MODEL_SHARE, COARSE, MOST_SHARE = 0.02, 0.1, 0.1
"""Error of the surrogate over the amplitude of each band, where pixels are coarser than so many electron ranges; the
most that it is taken for elsewhere (:func:`model_share`)."""
LEAST_TOLD = 0.1
"""Error on a card below which its few samples cannot tell one from another."""
DRAWN = 2.0
"""Standard deviation in pixels of the window in which the variance of few samples is smoothed. Long waves remain: σ of
a pixel is told within some 15 %."""
COARSER = 4.0
"""Standard deviation, in steps of its grid, of a window that is worked out on a coarser one."""
Floats = NDArray[np.float64]
_RATIOS = np.exp(np.linspace(-9.0, 9.0, 73))


@dataclass(frozen=True, slots=True, eq=False)
class Doubt:
    """Uncertainty of heights.

    Attributes
    ----------
    sigma : (H, W) float32 array
        In the unit of the heights.
    bound : float
        Rms error of the best linear estimate for this dose and this spectrum.
    resolution : float
        Half the shortest wavelength that the frame tells better than the prior does, in pixels times the unit.
    """

    sigma: NDArray[np.float32]
    bound: float
    resolution: float


def posterior(
    z: Tensor,
    information: Tensor,
    power: Tensor,
    blind: Tensor | None = None,
    share: float = MODEL_SHARE,
    drawn: Tensor | None = None,
) -> Doubt:
    """Return the uncertainty of a solution, in pixels.

    Parameters
    ----------
    z : (H, W) tensor, pixels
    information, power : (H, W) tensors
        I and P of each mode.
    blind : (H, W) tensor, optional
        True where nothing was measured.
    share : float
        Error of the surrogate over the amplitude.
    drawn : (H, W) tensor, optional
        Variance of each height, where the posterior was drawn from, as with creases
        (:func:`reconstruction.creases.sampled_variance`).
    """
    shape = (z.shape[0], z.shape[1])
    ring = rings(shape)
    modes = cosine_transform(z)
    # The plane is nobody's knowledge and is taken away: these modes are almost all of it.
    for plane in ((0, 0), (0, 1), (1, 0)):
        modes[plane] = 0.0
    ones = np.ones(shape)
    told, believed = (ring.mean(each.double().numpy(), ones) for each in (information, power))
    counts = ring.counts.copy()
    counts[ring.index[0, 1]] -= 1
    counts[ring.index[1, 0]] -= 1
    variance, ratio = torch.zeros(shape) if drawn is None else _around(drawn, DRAWN), torch.ones(shape)
    for weight, wavelength in _bands(ring):
        part = inverse_cosine_transform(torch.from_numpy(weight[ring.index]).float() * modes)
        local = _around(part**2, max(WAVES * wavelength, 0.7))
        variance += share**2 * local
        if drawn is None:
            band, ratio = _band_variance(local, ratio, counts * weight**2 / z.numel(), told, believed)
            variance += band
    if blind is not None and bool(blind.any()):
        prior = float(power.double().flatten()[1:].sum()) / z.numel()
        dark = blur(blind.float()[None], (1.5,))[0].clamp(0, 1)
        variance = variance + dark * prior
    bound = math.sqrt(float(counts @ (1 / (told + 1 / believed))) / z.numel())
    return Doubt(variance.clamp(min=0).sqrt().float().numpy(), bound, _resolution(ring, information, power))


def _around(squares: Tensor, sigma: float) -> Tensor:
    """Return the mean of a field (H, W) in a Gaussian window around each pixel; a wide one on a coarser grid."""
    step = int(sigma / COARSER)
    if step < 2:
        return blur(squares[None], (sigma,))[0].clamp(min=0)
    h, w = squares.shape
    padded = mirror(squares[None, None], -h % step, -w % step)
    coarse = torch.nn.functional.avg_pool2d(padded, step)[0]
    smooth = blur(coarse, (sigma / step,))[None]
    wide = torch.nn.functional.interpolate(smooth, scale_factor=step, mode="bilinear", align_corners=False)
    return wide[0, 0, :h, :w].clamp(min=0)


def model_share(card: Mapping[str, Any], pixel: float) -> float:
    """Return the surrogate's error over the amplitude of the relief, at a pixel size in electron ranges.

    The model card tells how large the error was on surfaces that the training did not see, by pixel size: fine pixels
    are harder. ``MODEL_SHARE`` holds for coarse ones and is scaled from there. The card's squares are estimates from
    few samples, noise removed, and may even be negative: they are pooled until they fall from fine to coarse (isotonic
    regression by M. Ayer et al., Ann. Math. Stat. 26 (1955) 641).
    """
    told = [
        each
        for each in (card.get("figures") or {}).get("by_pixel_size", ())
        if each.get("samples") and each.get("model_error") is not None
    ]
    if len(told) < 2:
        return MODEL_SHARE
    groups: list[tuple[float, float, float]] = []  # square, samples, where it begins
    for each in told:
        error = float(each["model_error"])
        square, samples, start = error * abs(error), float(each["samples"]), float(each["pixel_size"][0])
        while groups and groups[-1][0] < square:
            before = groups.pop()
            square = (before[0] * before[1] + square * samples) / (before[1] + samples)
            samples, start = before[1] + samples, before[2]
        groups.append((square, samples, start))

    def at(size: float) -> float:
        return max(next(group[0] for group in reversed(groups) if group[2] <= size or group is groups[0]), 0.0)

    coarse = max(at(COARSE), LEAST_TOLD**2)
    return min(MODEL_SHARE * max(math.sqrt(at(pixel) / coarse), 1.0), MOST_SHARE)


def _bands(ring: Rings) -> list[tuple[Floats, float]]:
    """Return the bands: the square root of each ring's share, (n,), and the wavelength in pixels."""
    place = np.log(ring.k)
    count = max(1, math.ceil((place[-1] - place[0]) / OCTAVE))
    found = []
    for middle in place[0] + OCTAVE * np.arange(count + 1):
        # Shares of neighbouring bands add to one: a partition in log k.
        share = np.clip(1 - np.abs(place - middle) / OCTAVE, 0.0, 1.0)
        if share.any():
            found.append((np.sqrt(share), 2 * math.pi / math.exp(middle)))
    return found


def _band_variance(
    local: Tensor, coarser: Tensor, shares: Floats, told: Floats, believed: Floats
) -> tuple[Tensor, Tensor]:
    """Return a band's part of the variance, and its power around each pixel over the field's. (H, W) both.

    Parameters
    ----------
    local : (H, W) tensor
        Mean square of the solution in the band, around each pixel.
    coarser : (H, W) tensor
        The ratio of the next coarser band.
    shares : (n,) array
        Of each ring's modes in the band, over the number of pixels.
    told, believed : (n,) arrays
        I and P of the rings.
    """
    whole = float(shares @ believed)
    if whole <= 0:
        return torch.zeros_like(local), coarser
    # What is there: what was found, and what may have been missed. That is missed where the coarser band stands out:
    # an edge goes through all scales.
    missed = float(shares @ (1 / (told + 1 / believed)))
    ratio = ((local + missed * coarser) / whole).clamp(float(_RATIOS[0]), float(_RATIOS[-1]))
    table = (1 / (told + 1 / (believed * _RATIOS[:, None]))) @ shares
    return torch.from_numpy(np.interp(np.log(ratio.numpy()), np.log(_RATIOS), table)).float(), ratio


def _resolution(ring: Rings, information: Tensor, power: Tensor) -> float:
    """Return half the shortest wavelength at which the frame tells as much as the prior, in pixels."""
    told = ring.mean((information.double() * power.double()).numpy(), np.ones(information.shape))
    # Long waves that are not there say nothing of the short ones.
    above = np.flatnonzero(told >= 1)
    k = ring.k[min(above[-1] + 1, len(ring.k) - 1)] if above.size else ring.k[0]
    return float(math.pi / k)

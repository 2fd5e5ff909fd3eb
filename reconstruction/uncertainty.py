"""How far the heights may be off, pixel by pixel, and how fine they are.

The posterior of the linear problem has in each cosine mode the variance M(k) = 1/(I(k) + 1/P(k)). Spread evenly over
the field it would be too large on flat ground and too small at edges, because the prior holds for the field as a whole. So
the field is taken for stationary only locally: in bands of one octave, the power that the solution shows around a pixel
rescales the prior there, and with it the variance. To that comes the surrogate's own error, a share of each band's
local amplitude. Where nothing was measured (saturated, in shadow) the prior's full variance stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reconstruction.prior import Rings, rings
from reconstruction.spectral import cosine_transform, inverse_cosine_transform
from reconstruction.vft import blur

OCTAVE = math.log(2.0)
WAVES = 0.35
"""Standard deviation of the window in which a band's power is judged, in its wavelengths."""
MODEL_SHARE = 0.03
"""Error of the surrogate over the amplitude of each band."""
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
    z: Tensor, information: Tensor, power: Tensor, blind: Tensor | None = None, share: float = MODEL_SHARE
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
    """
    shape = (z.shape[0], z.shape[1])
    ring = rings(shape)
    left = (1 / (information.double() + 1 / power.double())).numpy()
    left[0, 0] = 0.0
    # The plane is nobody's knowledge and is taken away: these two modes are almost all of it.
    left[0, 1] = left[1, 0] = 0.0
    modes = cosine_transform(z).double()
    modes[0, 0] = modes[0, 1] = modes[1, 0] = 0.0
    variance = torch.zeros(shape, dtype=torch.float64)
    for weight, wavelength in _bands(ring):
        variance += _band_variance(modes, weight, wavelength, information.double(), power.double(), share)
    if blind is not None and bool(blind.any()):
        prior = float(power.double().flatten()[1:].sum()) / z.numel()
        dark = blur(blind.double()[None], (1.5,))[0].clamp(0, 1)
        variance = variance + dark * prior
    bound = math.sqrt(float(left.mean()))
    return Doubt(variance.clamp(min=0).sqrt().float().numpy(), bound, _resolution(ring, information, power))


def _bands(ring: Rings) -> list[tuple[Tensor, float]]:
    """Return the bands: the square root of each mode's share, (H, W), and the wavelength in pixels."""
    place = np.log(ring.k)
    count = max(1, math.ceil((place[-1] - place[0]) / OCTAVE))
    middles = place[0] + OCTAVE * np.arange(count + 1)
    found = []
    for middle in middles:
        # Shares of neighbouring bands add to one: a partition in log k.
        share = np.clip(1 - np.abs(place - middle) / OCTAVE, 0.0, 1.0)
        if share.any():
            found.append((torch.from_numpy(np.sqrt(share)[ring.index]), 2 * math.pi / math.exp(middle)))
    return found


def _band_variance(
    modes: Tensor, weight: Tensor, wavelength: float, information: Tensor, power: Tensor, share: float
) -> Tensor:
    """Return a band's part of the variance. (H, W)."""
    squared = weight**2
    squared[0, 0] = squared[0, 1] = squared[1, 0] = 0.0
    part = inverse_cosine_transform(weight * modes)
    local = blur((part**2)[None], (max(WAVES * wavelength, 0.7),))[0].clamp(min=0)
    left = 1 / (information + 1 / power)
    mean = float((squared * left).mean())
    believed = float((squared * power).mean())
    if believed <= 0:
        return torch.zeros_like(local)
    # What is there: what was found, and what may have been missed.
    ratio = ((local + mean) / believed).clamp(float(_RATIOS[0]), float(_RATIOS[-1]))
    table = [float((squared / (information + 1 / (power * value))).mean()) for value in _RATIOS]
    spread = np.interp(np.log(ratio.numpy()), np.log(_RATIOS), table)
    return torch.from_numpy(spread) + share**2 * local


def _resolution(ring: Rings, information: Tensor, power: Tensor) -> float:
    """Return half the wavelength at which the frame tells as much as the prior, in pixels."""
    told = ring.mean((information.double() * power.double()).numpy(), np.ones(information.shape))
    below = np.flatnonzero(told < 1)
    k = ring.k[below[0]] if below.size else ring.k[-1]
    return float(math.pi / k)

"""The forward model near a flat surface: transfer functions, their information, and the Wiener inverse.

Near a flat surface each segment answers to the heights by a convolution, S_s = S_s(flat) + K_s ⊛ z. The kernels are
read off the model by raising single pixels, averaged over the places that a pixel can have. On a field
whose borders are mirrored, the information that a frame carries on each cosine mode of the heights is
Σ_s |T_s(k)|²/N_s, T the kernels' Fourier transform and N the noise's variance. From it follow the Wiener inverse, which
is a frame's heights in some milliseconds, the variance that is left in each mode, and what preconditions the
iterations of the non-linear inverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from reconstruction.features import blur
from reconstruction.fidelity import LEAST_PROBE, Forward, Nuisances, Observation
from reconstruction.local_law import Condition
from reconstruction.spectral import cosine_transform, inverse_cosine_transform
from reconstruction.vft import TOKEN, WINDOW, VisionFieldTransformer

RAISED = 0.05
"""By how much a pixel is raised and lowered, in pixels: a slope of 1.4°."""
PLACES = (4, 13, 18, 27)
"""Rows and columns of a window where pixels are raised. A pixel's place in its token and its token's in the window both
matter a little: here is each place in a token once, and the whole is its own mirror image."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """The linear response of the live segments on a mirrored field.

    Attributes
    ----------
    kernels : (L, 2n, 2n) tensor
        Signal in a pixel at (row, column) from the one raised at (n, n), per pixel of height.
    flat : (L,) tensor
        Signals of a flat surface.
    transfer : (L, H', W') tensor
        Fourier transform of the kernels on the padded grid.
    shape : (int, int)
        Of the field.
    """

    kernels: Tensor
    flat: Tensor
    transfer: Tensor
    shape: tuple[int, int]

    @property
    def reach(self) -> int:
        """Half the side of the kernels, pixels."""
        return self.kernels.shape[-1] // 2

    def apply(self, z: Tensor) -> Tensor:
        """Return K ⊛ z of heights (H, W) with mirrored borders. (L, H, W)."""
        n, (h, w) = self.reach, self.shape
        padded = _mirrored(z, n)
        spectrum = torch.fft.rfft2(padded, s=self._grid())
        answer: Tensor = torch.fft.irfft2(spectrum * self.transfer, s=self._grid())
        return answer[:, n : n + h, n : n + w]

    def adjoint(self, signals: Tensor) -> Tensor:
        """Return the transpose of :meth:`apply`: signals (L, H, W) to heights (H, W)."""
        n, (h, w) = self.reach, self.shape
        grid = self._grid()
        placed = torch.zeros(signals.shape[0], *grid, dtype=signals.dtype, device=signals.device)
        placed[:, n : n + h, n : n + w] = signals
        spectrum = (torch.fft.rfft2(placed) * self.transfer.conj()).sum(0)
        return _folded(torch.fft.irfft2(spectrum, s=grid)[: h + 2 * n, : w + 2 * n], n)

    def _grid(self) -> tuple[int, int]:
        return _grid(self.shape, self.reach)

    def information(self, observed: Observation) -> Tensor:
        """Return Σ_s |T_s|²/N_s for each cosine mode of the heights in pixels. (H, W)."""
        return _information(self.kernels, self.shape, 1 / observed.mean_variances())


def _grid(shape: tuple[int, int], reach: int) -> tuple[int, int]:
    from scipy.fft import next_fast_len

    return next_fast_len(shape[0] + 3 * reach, real=True), next_fast_len(shape[1] + 3 * reach, real=True)


def _mirrored(z: Tensor, n: int) -> Tensor:
    """Return a field with n pixels added on all sides, mirrored at the borders, again if need be."""
    for axis in (-2, -1):
        size = z.shape[axis]
        place = torch.arange(-n, size + n, device=z.device) % (2 * size)
        z = z.index_select(axis, torch.where(place >= size, 2 * size - 1 - place, place))
    return z


def _folded(z: Tensor, n: int) -> Tensor:
    """Return the transpose of :func:`_mirrored`."""
    for axis in (0, 1):
        size = z.shape[axis] - 2 * n
        place = torch.arange(-n, size + n, device=z.device) % (2 * size)
        place = torch.where(place >= size, 2 * size - 1 - place, place)
        shape = (size, z.shape[1]) if axis == 0 else (z.shape[0], size)
        z = torch.zeros(shape, dtype=z.dtype, device=z.device).index_add_(axis, place, z)
    return z


def _information(kernels: Tensor, shape: tuple[int, int], weights: Tensor) -> Tensor:
    """Return Σ_s w_s · mean of |T_s|² over the four waves of each cosine mode.

    |T|² is the transform of the kernel's autocorrelation, so the mean over (±k_x, ±k_y) keeps its part even in x and
    in y alone: a small cosine sum instead of a transform on a grid of four times the size.
    """
    side = 2 * kernels.shape[-1]
    spectrum = torch.fft.rfft2(kernels.double(), s=(side, side))
    power = (spectrum.abs() ** 2 * weights.double()[:, None, None]).sum(0)
    correlation = torch.fft.irfft2(power, s=(side, side))
    half = side // 2
    even = (correlation[:half] + correlation[-torch.arange(half) % side]) / 2
    even = (even[:, :half] + even[:, -torch.arange(half) % side]) / 2
    cosines = []
    for size in shape:
        k = math.pi * torch.arange(size, dtype=torch.float64) / size
        row = 2 * torch.cos(k[:, None] * torch.arange(half))
        row[:, 0] = 1
        cosines.append(row)
    found: Tensor = cosines[0] @ even @ cosines[1].T
    return found.clamp(min=0).float()


def linearise(forward: Forward, shape: tuple[int, int], nuisances: Nuisances | None = None) -> Linear:
    """Return the linear response of a forward model.

    Parameters
    ----------
    forward : Forward
    shape : (int, int)
        Of the field.
    nuisances : Nuisances, optional
    """
    kernels, level = emission_kernels(forward)
    responses = forward.responses(nuisances)[0].float()
    gains = torch.ones(len(forward.live)) if nuisances is None else nuisances.gains
    responses = responses * gains[:, None]
    each = torch.einsum("lk,khw->lhw", responses, kernels)
    n = each.shape[-1] // 2
    grid = _grid(shape, n)
    placed = torch.zeros(each.shape[0], *grid)
    place = torch.arange(-n, n)
    rows, columns = place % grid[0], place % grid[1]
    placed[:, rows[:, None], columns[None, :]] = each
    return Linear(each, responses @ level, torch.fft.rfft2(placed), shape)


def emission_kernels(forward: Forward) -> tuple[Tensor, Tensor]:
    """Return the emission's answer to one raised pixel, (K, 2n, 2n), and a flat surface's emission, (K,)."""
    return _kernels(forward.model, forward.condition, forward.probe)


@lru_cache(maxsize=8)
def _kernels(model: VisionFieldTransformer, condition: Condition, probe: float) -> tuple[Tensor, Tensor]:
    """Return :func:`emission_kernels`; the frames of a night share them."""
    n = TOKEN * math.ceil(min(max(1.6 / condition.pixel, 8.0), 64.0) / TOKEN)
    side = WINDOW * TOKEN * math.ceil((2 * n + 2 * WINDOW * TOKEN) / (WINDOW * TOKEN))
    start = (side - WINDOW * TOKEN) // 2
    places = [(start + row, start + column) for row in PLACES for column in PLACES]
    total = torch.zeros(())
    with torch.no_grad():
        for row, column in places:
            both = torch.zeros(2, side, side)
            both[0, row, column], both[1, row, column] = RAISED, -RAISED
            up, down = _seen(model, condition, probe, both)
            total = total + (up - down)[:, row - n : row + n, column - n : column + n]
        level = _seen(model, condition, probe, torch.zeros(1, side, side))[0].mean(dim=(1, 2))
    return total / (2 * RAISED * len(places)), level


def _seen(model: VisionFieldTransformer, condition: Condition, probe: float, z: Tensor) -> Tensor:
    """Return the emission (B, K, H, W) of surfaces of one material, as the probe sees it."""
    emitted = model(z, torch.full_like(z, float(condition.oxide)), condition)
    if probe > LEAST_PROBE:
        emitted = blur(emitted.flatten(0, 1), (probe,)).reshape(emitted.shape)
    return emitted


def wiener(linear: Linear, observed: Observation, power: Tensor, information: Tensor | None = None) -> Tensor:
    """Return the Wiener inverse's heights (H, W) in pixels.

    Parameters
    ----------
    linear : Linear
    observed : Observation
    power : (H, W) tensor
        Prior variance of each cosine mode.
    information : (H, W) tensor, optional
        Of :meth:`Linear.information`.
    """
    return inverse_cosine_transform(wiener_modes(linear, observed, power, information))


def wiener_modes(linear: Linear, observed: Observation, power: Tensor, information: Tensor | None = None) -> Tensor:
    """Return the cosine modes of :func:`wiener`."""
    told = linear.information(observed) if information is None else information
    modes = matched_modes(linear, observed) / (told + 1 / power)
    modes[0, 0] = 0
    return modes


def matched_modes(linear: Linear, observed: Observation) -> Tensor:
    """Return the cosine modes of the signals' contrast over its variance, sent back through the kernels. (H, W)."""
    signals = observed.signals if observed.straight is None else observed.straight
    excess = (signals - signals.mean(dim=(1, 2), keepdim=True)) * observed.weight
    return cosine_transform(linear.adjoint(excess / observed.mean_variances()[:, None, None]))

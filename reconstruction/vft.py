"""The Vision Field Transformer: from a height field to the field of electrons that it emits.

A surrogate of Monte Carlo scattering that knows nothing of any detector. Its input is a surface, its output the
coefficients of the emission basis (:mod:`reconstruction.basis`) in every pixel. Lengths are in units of the electron
range R, so that one network serves many energies and pixel sizes; beam energy, pixel size and the diode's threshold are
conditions, not inputs of the field.

What a pixel emits is written as

    c = c_local(tilt) + c₀ · network(surface),

where the local law, a polynomial in the surface's unit normal fitted to Monte Carlo of tilted planes, says what a plane
would emit. The network learns only what is not local, in three parts: features of the surface at several scales in
units of R, from which a linear map gives the linear response; a small perceptron in each pixel, for what is non-linear
there; and windowed attention between tokens of 4 × 4 pixels, with positions relative in units of R, for what
neighbouring faces do to each other. Everything is differentiable; borders are mirrored, as the Monte Carlo's are.

The attention is written out in plain operations: fused kernels lack the forward-mode derivative on some devices.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconstruction.basis import EmissionBasis, emission_basis

SCALES = (0.08, 0.2, 0.45, 1.0)
"""Standard deviations of the blurred surfaces, in electron ranges."""
TOKEN, WINDOW = 4, 8
"""Pixels along the side of a token, tokens along the side of a window."""
STEEPEST_POWER = 4
"""Powers of sin²θ in the local law."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of the network.

    Attributes
    ----------
    width : int
        Channels in a pixel.
    token_width : int
        Channels of a token.
    heads, blocks : int
        Of the attention.
    scales : tuple of float
        Blurs, in electron ranges.
    """

    width: int = 48
    token_width: int = 64
    heads: int = 4
    blocks: int = 4
    scales: tuple[float, ...] = SCALES


@dataclass(frozen=True, slots=True)
class Condition:
    """What holds for a whole image.

    Attributes
    ----------
    pixel : float
        Pixel size over the electron range of the substrate.
    energy : float, keV
        Of the beam.
    threshold : float
        Of the diode, over the beam's energy.
    oxide : bool
        Whether the substrate is Cu2O, not Cu.
    """

    pixel: float
    energy: float
    threshold: float
    oxide: bool = False

    def vector(self) -> Tensor:
        """Return what the network sees. Shape (4,)."""
        return torch.tensor(
            [
                math.log(self.pixel / 0.1),
                math.log(self.energy / 8.0),
                (self.threshold - 0.2) / 0.2,
                float(self.oxide),
            ],
            dtype=torch.float32,
        )


# -- the local law


@dataclass(frozen=True, slots=True, eq=False)
class LocalLaw:
    """Coefficients of a plane's emission, tabulated over material, energy and threshold.

    Attributes
    ----------
    energies : tuple of float, keV
    thresholds : tuple of float
        Over the beam's energy.
    table : (materials, energies, thresholds, F, n) tensor
        Of each pair (m, k) of the basis, cosine part, the coefficients of sin^mθ · (sin²θ)^n.
    """

    energies: tuple[float, ...]
    thresholds: tuple[float, ...]
    table: Tensor

    def at(self, condition: Condition, oxide: bool) -> Tensor:
        """Return the coefficients (F, n) at an energy and a threshold, linear between the table's."""
        energy = _between(np.log(self.energies), math.log(condition.energy))
        threshold = _between(np.array(self.thresholds), condition.threshold)
        part = self.table[int(oxide)]
        return torch.as_tensor(
            sum(a * b * part[i, j] for i, a in energy for j, b in threshold if a * b), dtype=torch.float32
        )


def _between(nodes: np.ndarray[Any, Any], value: float) -> list[tuple[int, float]]:
    """Return the two neighbouring nodes with their weights; one where there is no other."""
    if len(nodes) == 1:
        return [(0, 1.0)]
    low = int(np.clip(np.searchsorted(nodes, value) - 1, 0, len(nodes) - 2))
    share = float(np.clip((value - nodes[low]) / (nodes[low + 1] - nodes[low]), 0.0, 1.0))
    return [(low, 1 - share), (low + 1, share)]


def law_terms(basis: EmissionBasis) -> list[int]:
    """Return the places of the cosine parts in the basis: one for each pair (m, k)."""
    return [index for index, sine in enumerate(basis.sine) if not sine]


def local_emission(p: Tensor, q: Tensor, law: Tensor, basis: EmissionBasis) -> Tensor:
    """Return what planes of slopes p, q emit.

    Parameters
    ----------
    p, q : (B, H, W) tensors
        ∂z/∂x and ∂z/∂y.
    law : (B, F, n) tensor
        From :meth:`LocalLaw.at`.
    basis : EmissionBasis

    Returns
    -------
    (B, K, H, W) tensor
    """
    steep = torch.rsqrt(1 + p**2 + q**2)
    x, y = -p * steep, -q * steep
    squared = x**2 + y**2
    powers = torch.stack([squared**n for n in range(law.shape[2])], dim=1)
    real, imaginary = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(int(basis.order.max())):
        real.append(real[-1] * x - imaginary[-1] * y)
        imaginary.append(imaginary[-1] * x + real[-2] * y)
    radial = torch.einsum("bfn,bnhw->fbhw", law, powers)
    out, pair = [], -1
    for order, sine in zip(basis.order, basis.sine, strict=True):
        pair += not sine
        out.append(radial[pair] * (imaginary if sine else real)[order])
    return torch.stack(out, dim=1)


# -- features


@lru_cache(maxsize=64)
def blur_matrix(size: int, sigma: float) -> Tensor:
    """Return the Gaussian blur along one axis with mirrored borders. Shape (size, size); sigma in pixels."""
    reach = np.arange(-math.ceil(4 * sigma + 1), math.ceil(4 * sigma + 1) + 1)
    # Integrated over the pixel, so that narrow blurs keep their second moment.
    edges = np.concatenate([reach - 0.5, [reach[-1] + 0.5]])
    weight = np.diff([0.5 * (1 + math.erf(edge / (math.sqrt(2) * max(sigma, 1e-3)))) for edge in edges])
    weight /= weight.sum()
    columns = (np.arange(size)[:, None] + reach[None, :]) % (2 * size)
    columns = np.where(columns >= size, 2 * size - 1 - columns, columns)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], columns), weight[None, :])
    return torch.from_numpy(matrix).float()


def blur(image: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    """Return images (B, H, W) blurred by Gaussians of some pixels, one for all or one for each; borders mirrored."""
    rows, columns = (torch.stack([blur_matrix(size, sigma) for sigma in sigmas]).to(image) for size in image.shape[-2:])
    if len(sigmas) == 1:
        rows, columns = rows[0], columns[0]
    return rows @ image @ columns.mT


def differences(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return differences to the neighbours: right, left, up, down; borders mirrored. (..., H, W) per pixel.

    Each is what the height gains in +x or +y: ``right`` between a pixel and the next column, ``left`` from the column
    before; +y runs against the rows.
    """
    along = z[..., :, 1:] - z[..., :, :-1]
    across = z[..., :-1, :] - z[..., 1:, :]
    right, left = nn.functional.pad(along, (0, 1)), nn.functional.pad(along, (1, 0))
    down, up = nn.functional.pad(across, (0, 0, 0, 1)), nn.functional.pad(across, (0, 0, 1, 0))
    return right, left, up, down


def slopes(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return ∂z/∂x and ∂z/∂y of a height field in pixels, by central differences."""
    right, left, up, down = differences(z)
    return (right + left) / 2, (up + down) / 2


def _soft(slope: Tensor) -> Tensor:
    return slope * torch.rsqrt(1 + slope**2)


def feature_count(scales: int) -> int:
    """Return how many channels :func:`features` gives."""
    return 5 + 6 * scales + 4


def features(z: Tensor, oxide: Tensor, pixels: tuple[float, ...], scales: tuple[float, ...]) -> Tensor:
    """Return what the network sees of a surface; nothing in it depends on the absolute height.

    Parameters
    ----------
    z : (B, H, W) tensor, pixels
    oxide : (B, H, W) tensor, 0 … 1
        Share of oxide.
    pixels : tuple of float
        Pixel size in electron ranges: one for the batch, or one for each surface.
    scales : tuple of float

    Returns
    -------
    (B, C, H, W) tensor
        Of order one, odd or even under reflection as the emission is.
    """
    right, left, up, down = differences(z)
    found = [_soft(right), _soft(left), _soft(up), _soft(down)]
    found.append(_soft((_x_slope(up) + _x_slope(down)) / 2))
    before, size = z, torch.tensor(pixels).to(z)[:, None, None]
    for scale in scales:
        smooth = blur(z, tuple(scale / pixel for pixel in pixels))
        right, left, up, down = differences(smooth)
        reach = (scale / size).clamp(min=0.5)
        found += [
            (right + left) / 2,
            (up + down) / 2,
            (right - left) * reach,
            (up - down) * reach,
            (_x_slope(up) + _x_slope(down)) / 2 * reach,
            (before - smooth) / reach,
        ]
        before = smooth
    middle = blur(oxide, tuple(scales[1] / pixel for pixel in pixels))
    edge = slopes(middle)
    found += [oxide, middle, edge[0] * scales[1] / size, edge[1] * scales[1] / size]
    return torch.stack(found, dim=1)


def _x_slope(z: Tensor) -> Tensor:
    right, left, _, _ = differences(z)
    return (right + left) / 2


# -- the network


class Modulated(nn.Module):
    """A linear map of the channels, scaled and shifted by the condition. (B, N, in) → (B, N, out)."""

    def __init__(self, inputs: int, outputs: int, conditions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.condition = nn.Linear(conditions, 2 * outputs)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map; ``condition`` is (B, conditions)."""
        scale, shift = self.condition(condition)[:, None].chunk(2, dim=-1)
        # The scale goes into the weights: one pass less over the field.
        weight = self.linear.weight.T * (1 + scale)
        return torch.baddbmm(self.linear.bias * (1 + scale) + shift, x, weight.expand(x.shape[0], -1, -1))


class Attention(nn.Module):
    """Attention among the tokens of a window, biased by their relative position in electron ranges."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.position = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, heads))
        self.out = nn.Linear(width, width)

    def forward(self, windows: Tensor, places: Tensor) -> Tensor:
        """Return the change of windows (n, T, width); ``places`` (1 or B, T, T, 6) are relative positions."""
        count, tokens, width = windows.shape
        query, key, value = (
            part.reshape(count, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in self.project(self.norm(windows)).chunk(3, dim=-1)
        )
        bias = self.position(places).permute(0, 3, 1, 2)
        if len(bias) > 1:
            bias = bias.repeat_interleave(count // len(bias), dim=0)
        score = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(width // self.heads) + bias, dim=-1)
        return torch.as_tensor(self.out((score @ value).transpose(1, 2).reshape(count, tokens, width)))


class Block(nn.Module):
    """Attention in windows, every second time shifted by half a window, then a perceptron in each token."""

    def __init__(self, width: int, heads: int, conditions: int, shifted: bool) -> None:
        super().__init__()
        self.shift = WINDOW // 2 if shifted else 0
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.first = Modulated(width, 2 * width, conditions)
        self.second = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor, condition: Tensor, places: Tensor) -> Tensor:
        """Return tokens (B, h, w, width); h and w are multiples of a window."""
        batch, h, w, width = tokens.shape
        if self.shift:
            tokens = torch.roll(tokens, (self.shift, self.shift), (1, 2))
        shape = (batch, h // WINDOW, WINDOW, w // WINDOW, WINDOW, width)
        windows = tokens.reshape(shape).transpose(2, 3).reshape(-1, WINDOW**2, width)
        windows = windows + self.attention(windows, places)
        tokens = windows.reshape(batch, h // WINDOW, w // WINDOW, WINDOW, WINDOW, width).transpose(2, 3)
        tokens = tokens.reshape(batch, h, w, width)
        if self.shift:
            tokens = torch.roll(tokens, (-self.shift, -self.shift), (1, 2))
        flat = tokens.reshape(batch, h * w, width)
        flat = flat + self.second(nn.functional.gelu(self.first(self.norm(flat), condition)))
        whole: Tensor = flat.reshape(batch, h, w, width)
        return whole


def relative_places(pixel: float) -> Tensor:
    """Return the relative positions of a window's tokens. Shape (T, T, 6): x, y, nearness, in ranges and in tokens."""
    step = TOKEN * pixel
    row, column = np.divmod(np.arange(WINDOW**2), WINDOW)
    x, y = (column[None, :] - column[:, None]) * 1.0, (row[:, None] - row[None, :]) * 1.0
    distance = np.hypot(x, y)
    near = np.exp(-distance * step)
    place = [np.tanh(x * step), np.tanh(y * step), near, x / WINDOW, y / WINDOW, np.exp(-distance)]
    return torch.from_numpy(np.stack(place, axis=-1)).float()


class Network(nn.Module):
    """What is not local in the emission, relative to a flat surface's."""

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__()
        self.architecture = architecture
        wide, token, conditions = architecture.width, architecture.token_width, 16
        count = feature_count(len(architecture.scales))
        self.condition = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, conditions), nn.Tanh())
        self.linear = Modulated(count, outputs, conditions)
        self.first = Modulated(count, wide, conditions)
        self.second = Modulated(wide, wide, conditions)
        self.embed = nn.Conv2d(wide, token, TOKEN, TOKEN)
        self.blocks = nn.ModuleList(
            Block(token, architecture.heads, conditions, shifted=index % 2 == 1) for index in range(architecture.blocks)
        )
        self.expand = nn.Linear(token, wide)
        self.third = Modulated(wide, wide, conditions)
        self.out = nn.Linear(wide, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        nn.init.zeros_(self.linear.linear.weight)
        nn.init.zeros_(self.linear.linear.bias)

    def forward(self, z: Tensor, oxide: Tensor, pixels: tuple[float, ...], conditions: Tensor) -> Tensor:
        """Return (B, K, H, W) for heights (B, H, W) in pixels; H and W multiples of ``TOKEN · WINDOW``."""
        batch, h, w = z.shape
        condition = self.condition(conditions)
        seen = features(z, oxide, pixels, self.architecture.scales)
        flat = seen.flatten(2).transpose(1, 2)
        linear = self.linear(flat, condition)
        hidden = nn.functional.gelu(self.first(flat, condition))
        hidden = hidden + nn.functional.gelu(self.second(hidden, condition))
        image = hidden.transpose(1, 2).reshape(batch, -1, h, w)
        tokens = self.embed(image).permute(0, 2, 3, 1)
        places = torch.stack([relative_places(pixel) for pixel in pixels]).to(z)
        for block in self.blocks:
            tokens = block(tokens, condition, places)
        spread = self.expand(tokens).permute(0, 3, 1, 2)
        spread = nn.functional.interpolate(spread, scale_factor=TOKEN, mode="bilinear", align_corners=False)
        hidden = hidden + spread.flatten(2).transpose(1, 2)
        hidden = nn.functional.gelu(self.third(hidden, condition))
        out: Tensor = (linear + self.out(hidden)).transpose(1, 2)
        return out.reshape(batch, -1, h, w)


@dataclass(eq=False)
class VisionFieldTransformer:
    """Local law and network together: a surface in, its emission field out.

    Attributes
    ----------
    network : Network
    law : LocalLaw
    basis : EmissionBasis
    card : dict
        The model card: data, command, figures, limits of validity.
    """

    network: Network
    law: LocalLaw
    basis: EmissionBasis = field(default_factory=emission_basis)
    card: dict[str, Any] = field(default_factory=dict)

    def local(self, z: Tensor, oxide: Tensor, condition: Condition) -> Tensor:
        """Return what the local law alone says. (B, K, H, W), for heights (B, H, W) in pixels."""
        p, q = slopes(z)
        count = z.shape[0]
        pure = self.law.at(condition, condition.oxide).to(z).expand(count, -1, -1)
        emitted = local_emission(p, q, pure, self.basis)
        # Where oxide is sought, its derivative counts even where there is none yet.
        if condition.oxide or not (oxide.requires_grad or bool((oxide != 0).any())):
            return emitted
        covered = local_emission(p, q, self.law.at(condition, True).to(z).expand(count, -1, -1), self.basis)
        return emitted + oxide[:, None] * (covered - emitted)

    def flat_level(self, condition: Condition) -> float:
        """Return the first coefficient of a flat surface: the unit of what the network adds."""
        return float(self.law.at(condition, condition.oxide)[0, 0])

    def __call__(self, z: Tensor, oxide: Tensor, condition: Condition) -> Tensor:
        """Return the emission coefficients of surfaces.

        Parameters
        ----------
        z : (B, H, W) tensor, pixels
            Heights over the pixel size.
        oxide : (B, H, W) tensor
            Share of Cu2O, 0 … 1; ones for a substrate of Cu2O.
        condition : Condition

        Returns
        -------
        (B, K, H, W) tensor, sr^−½
            Of the mean weight max(E − E_th, 0)/E₀ per beam electron.
        """
        h, w = z.shape[-2:]
        side = TOKEN * WINDOW
        rows, columns = -h % side, -w % side
        padded, share = mirror(z, rows, columns), mirror(oxide, rows, columns)
        vector = condition.vector().to(z).expand(z.shape[0], -1)
        change: Tensor = self.network(padded, share, (condition.pixel,), vector)[..., :h, :w]
        return self.local(z, oxide, condition) + self.flat_level(condition) * change

    def describe(self) -> dict[str, Any]:
        """Return the sizes of the network."""
        return asdict(self.network.architecture)


def mirror(image: Tensor, rows: int, columns: int) -> Tensor:
    """Return an image (..., H, W) with rows and columns added at the end, mirrored at the border, again if need be."""
    for axis, more in ((-2, rows), (-1, columns)):
        size = image.shape[axis]
        if more:
            place = torch.arange(size + more, device=image.device) % (2 * size)
            place = torch.where(place >= size, 2 * size - 1 - place, place)
            image = image.index_select(axis, place)
    return image

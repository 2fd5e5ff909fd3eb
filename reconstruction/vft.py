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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reconstruction.basis import EmissionBasis, emission_basis
from reconstruction.features import SCALES, feature_count, feature_maps, mirror, slopes
from reconstruction.local_law import Condition, LocalLaw, law_matrix, law_products

TOKEN, WINDOW = 4, 8
"""Pixels along the side of a token, tokens along the side of a window."""
BAND, GROUP = 16_384, 32
"""Pixels that pass through the perceptrons, and windows through the attention, at a time: few enough for a CPU's
caches."""


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


class Modulated(nn.Module):
    """A linear map of the channels, scaled and shifted by the condition. (B, N, in) → (B, N, out)."""

    def __init__(self, inputs: int, outputs: int, conditions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.condition = nn.Linear(conditions, 2 * outputs)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, condition: Tensor, readout: Tensor | None = None) -> Tensor:
        """Map; ``condition`` is (B, conditions), ``readout`` (M, out) says which combinations are wanted."""
        scale, shift = self.condition(condition)[:, None].chunk(2, dim=-1)
        # The scale goes into the weights: one pass less over the field.
        weight, bias = self.linear.weight.T * (1 + scale), self.linear.bias * (1 + scale) + shift
        if readout is not None:
            weight, bias = weight @ readout.T, bias @ readout.T
        return torch.baddbmm(bias, x, weight.expand(x.shape[0], -1, -1))


class Attention(nn.Module):
    """Attention among the tokens of a window, biased by their relative position in electron ranges."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.position = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, heads))
        self.out = nn.Linear(width, width)

    def bias(self, places: Tensor) -> Tensor:
        """Return what relative positions (1 or B, T, T, 6) add to the scores. (1 or B, heads, T, T)."""
        found: Tensor = self.position(places).permute(0, 3, 1, 2)
        return found

    def forward(self, windows: Tensor, bias: Tensor) -> Tensor:
        """Return the change of windows (n, T, width)."""
        if len(bias) > 1:
            bias = bias.repeat_interleave(len(windows) // len(bias), dim=0)
        some = GROUP if windows.device.type == "cpu" else len(windows)
        biases = torch.split(bias, some) if len(bias) > 1 else [bias] * -(-len(windows) // some)
        parts = torch.split(windows, some)
        return torch.cat([self._attend(part, near) for part, near in zip(parts, biases, strict=True)])

    def _attend(self, windows: Tensor, bias: Tensor) -> Tensor:
        count, tokens, width = windows.shape
        query, key, value = (
            part.reshape(count, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in self.project(self.norm(windows)).chunk(3, dim=-1)
        )
        query = query / math.sqrt(width // self.heads)
        score = torch.softmax(query @ key.transpose(-1, -2) + bias, dim=-1)
        return torch.as_tensor(self.out((score @ value).transpose(1, 2).reshape(count, tokens, width)))


class Block(nn.Module):
    """Attention in windows, every second time shifted by half a window, then a perceptron in each token.

    Where the windows are shifted, those at the borders are halves: opposite borders have nothing to tell each other.
    """

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
        bias = self.attention.bias(places)
        rows = []
        for top, bottom, high in self._zones(h):
            columns = [
                self._attended(tokens[:, top:bottom, left:right], bias, high, wide)
                for left, right, wide in self._zones(w)
            ]
            rows.append(torch.cat(columns, dim=2))
        flat = (tokens + torch.cat(rows, dim=1)).reshape(batch, h * w, width)
        flat = flat + self.second(nn.functional.gelu(self.first(self.norm(flat), condition)))
        whole: Tensor = flat.reshape(batch, h, w, width)
        return whole

    def _zones(self, size: int) -> list[tuple[int, int, int]]:
        """Cut an axis of tokens into stretches of windows of one side: (start, stop, side)."""
        if not self.shift:
            return [(0, size, WINDOW)]
        cuts = [
            (0, self.shift, self.shift),
            (self.shift, size - self.shift, WINDOW),
            (size - self.shift, size, self.shift),
        ]
        return [cut for cut in cuts if cut[1] > cut[0]]

    def _attended(self, tokens: Tensor, bias: Tensor, high: int, wide: int) -> Tensor:
        """Return the attention's change of tokens (B, h, w, width) in windows of some sides."""
        batch, h, w, width = tokens.shape
        cut = tokens.reshape(batch, h // high, high, w // wide, wide, width)
        if high * wide < WINDOW**2:
            kept = (WINDOW * torch.arange(high)[:, None] + torch.arange(wide)).flatten().to(tokens.device)
            bias = bias[:, :, kept[:, None], kept]
        change: Tensor = self.attention(cut.transpose(2, 3).reshape(-1, high * wide, width), bias)
        back = change.reshape(batch, h // high, w // wide, high, wide, width).transpose(2, 3)
        return back.reshape(batch, h, w, width)


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

    def forward(
        self,
        z: Tensor,
        oxide: Tensor,
        pixels: tuple[float, ...],
        conditions: Tensor,
        readout: Tensor | None = None,
    ) -> Tensor:
        """Return (B, K, H, W) for heights (B, H, W) in pixels; H and W multiples of ``TOKEN · WINDOW``.

        With a ``readout`` (M, K), which combinations of the K coefficients are wanted: (B, M, H, W). Segments are far
        fewer than coefficients, and to compute them alone saves a third of the time.
        """
        batch, h, w = z.shape
        condition = self.condition(conditions)
        rows = _band_rows(z)
        maps = [torch.split(each, rows, dim=1) for each in feature_maps(z, oxide, pixels, self.architecture.scales)]
        linear, hidden, embedded = [], [], []
        for parts in zip(*maps, strict=True):
            flat = torch.stack(parts, dim=1).flatten(2).transpose(1, 2)
            linear.append(self.linear(flat, condition, readout))
            first = nn.functional.gelu(self.first(flat, condition))
            hidden.append(first + nn.functional.gelu(self.second(first, condition)))
            embedded.append(self._embedded(hidden[-1], w))
        tokens = torch.cat(embedded, dim=1)
        places = torch.stack([relative_places(pixel) for pixel in pixels]).to(z)
        for block in self.blocks:
            tokens = block(tokens, condition, places)
        weight: Tensor = self.out.weight if readout is None else readout @ self.out.weight
        bias: Tensor = self.out.bias if readout is None else readout @ self.out.bias
        spread = _edged(self.expand(tokens), 1)
        out = []
        for row, inner, plain in zip(range(0, h, rows), hidden, linear, strict=True):
            near = spread[:, row // TOKEN : min(row + rows, h) // TOKEN + 2]
            near = _finer(_edged(_finer(near, 1), 2), 2).flatten(1, 2)
            last = nn.functional.gelu(self.third(inner + near, condition))
            answer = plain + nn.functional.linear(last, weight, bias)
            out.append(answer.transpose(1, 2).reshape(batch, weight.shape[0], -1, w))
        return torch.cat(out, dim=2)

    def _embedded(self, hidden: Tensor, w: int) -> Tensor:
        """Return the tokens (B, h, w/TOKEN, width) of a band's pixels (B, N, channels)."""
        batch, count, channels = hidden.shape
        cut = hidden.reshape(batch, count // w // TOKEN, TOKEN, w // TOKEN, TOKEN, channels)
        # As a convolution whose stride is its size, but without its copies into another layout.
        weight = self.embed.weight.permute(0, 2, 3, 1).flatten(1)
        return nn.functional.linear(cut.transpose(2, 3).flatten(3), weight, self.embed.bias)


def _band_rows(image: Tensor) -> int:
    """Return how many rows of an image (B, H, W) are worked on at a time: whole tokens, everything on a GPU."""
    batch, h, w = image.shape
    return TOKEN * max(1, BAND // (TOKEN * batch * w)) if image.device.type == "cpu" else h


def _edged(tokens: Tensor, axis: int) -> Tensor:
    """Return tokens with the first and the last of an axis once more."""
    last = tokens.shape[axis] - 1
    return torch.cat([tokens.narrow(axis, 0, 1), tokens, tokens.narrow(axis, last, 1)], dim=axis)


def _finer(edged: Tensor, axis: int) -> Tensor:
    """Return what lies linearly between tokens, at the pixels' middles along an axis: n · TOKEN from n + 2 tokens."""
    count = edged.shape[axis] - 2
    before, here, after = (edged.narrow(axis, start, count) for start in range(3))
    places = [(place + 0.5) / TOKEN - 0.5 for place in range(TOKEN)]
    found = [torch.lerp(here, before if place < 0 else after, abs(place)) for place in places]
    return torch.stack(found, dim=axis + 1).flatten(axis, axis + 1)


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

    def local(self, z: Tensor, oxide: Tensor, condition: Condition, readout: Tensor | None = None) -> Tensor:
        """Return what the local law alone says, for heights (B, H, W) in pixels. (B, K, H, W).

        With a ``readout`` (M, K), which combinations of the coefficients are wanted: (B, M, H, W).
        """
        p, q = slopes(z)
        laws = [self.law.at(condition, condition.oxide)]
        # Where oxide is sought, its derivative counts even where there is none yet.
        mixed = not condition.oxide and (oxide.requires_grad or bool((oxide != 0).any()))
        if mixed:
            laws.append(self.law.at(condition, True))
        matrices = [law_matrix(law, self.basis).to(z) for law in laws]
        if readout is not None:
            matrices = [readout @ matrix for matrix in matrices]
        orders, powers = int(self.basis.order.max()), laws[0].shape[1]
        found = []
        rows = _band_rows(z)
        for along, up, share in zip(*(torch.split(each, rows, dim=1) for each in (p, q, oxide)), strict=True):
            products = law_products(along, up, orders, powers)
            emitted = (matrices[0] @ products.flatten(2)).reshape(len(z), -1, *share.shape[1:])
            if mixed:
                change = ((matrices[1] - matrices[0]) @ products.flatten(2)).reshape(emitted.shape)
                emitted = emitted + share[:, None] * change
            found.append(emitted)
        return torch.cat(found, dim=2)

    def flat_level(self, condition: Condition) -> float:
        """Return the first coefficient of a flat surface: the unit of what the network adds."""
        return float(self.law.at(condition, condition.oxide)[0, 0])

    def __call__(self, z: Tensor, oxide: Tensor, condition: Condition, readout: Tensor | None = None) -> Tensor:
        """Return the emission coefficients of surfaces.

        Parameters
        ----------
        z : (B, H, W) tensor, pixels
            Heights over the pixel size.
        oxide : (B, H, W) tensor
            Share of Cu2O, 0 … 1; ones for a substrate of Cu2O.
        condition : Condition
        readout : (M, K) tensor, optional
            Which combinations of the coefficients are wanted; all K of them unless given.

        Returns
        -------
        (B, K, H, W) or (B, M, H, W) tensor, sr^−½
            Of the mean weight max(E − E_th, 0)/E₀ per beam electron.
        """
        h, w = z.shape[-2:]
        side = TOKEN * WINDOW
        rows, columns = -h % side, -w % side
        padded, share = mirror(z, rows, columns), mirror(oxide, rows, columns)
        vector = condition.vector().to(z).expand(z.shape[0], -1)
        change: Tensor = self.network(padded, share, (condition.pixel,), vector, readout)[..., :h, :w]
        return self.local(z, oxide, condition, readout) + self.flat_level(condition) * change

    def describe(self) -> dict[str, Any]:
        """Return the sizes of the network."""
        return asdict(self.network.architecture)

"""A prior for faces, terraces and edges: a surface that is plane almost everywhere, and bends sharply where it bends.

Waves of independent strength (:mod:`reconstruction.prior`) are the best guess for a rough surface, and a poor one for a
crystal's: they smooth its edges, and let its faces wave. Here the curvature H of a pixel (the three second differences)
follows a law of the shape of Student's instead, heavy in its tails, beside a share γ of what is believed of the waves:

    −log prior = ν/2 Σ log(1 + |H|²/ε²) + γ/2 Σ |z(k)|²/P(k)

It is least by reweighting: the parabola that touches each logarithm has the weight w = ν/(|H|² + ε²)
(A. P. Dempster, N. M. Laird, D. B. Rubin, in: Multivariate Analysis V (1980) 35). Where the iteration rests, those
weights also say how far the heights may be off: samples of the Gaussian posterior that they make are drawn by solving
for noise instead of data (G. Papandreou, A. Yuille, NIPS 23 (2010) 1858).

Which ν and ε, or whether waves do better, the frame decides: its noise is split, so that of one frame there are two
whose errors are independent, as far as the information is known (data fission, J. Leiner et al., J. Am. Stat. Assoc.
120 (2025) 135); heights from the one are asked how well they foretell the other.

All of this is done in the cosine modes of the problem made linear around a solution: I(k) is the information on a mode,
b(k) what the data pull with, so that the least squares are at b/I.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from reconstruction.spectral import cosine_transform, inverse_cosine_transform

TAILS, WIDTHS = (0.1, 0.2, 0.4, 0.8, 1.6), (0.003, 0.01, 0.03)
"""What may be chosen for ν and, in 1/pixel, for ε."""
WAVES_SHARE = 0.03
"""γ: enough to hold long waves of which neither frame nor curvature says much. On frames of known islands, pyramids and
facets, heights are as good from 0.01 to 0.1, and best in between."""
SPLIT = 0.5
"""Variance that is added to the noise of the half that heights are made from, over the noise's own: two thirds of the
information make heights much like the whole's, and a third judges them."""
DRAWS = 2
"""How often the noise is split: two agree within some ten units where hundreds decide."""
LEAST_GAIN = 8.0
"""By so much, in the logarithm of a probability, creases must foretell better than waves: no chance of the split."""
MOST_BLIND = 0.01
"""Share of pixels without a measurement up to which creases are asked for: what filled the others would seem told."""
TILE, TILES = 96, 2
"""Side of the parts of a large field that the choice is made on, and how many there are in a row and in a column."""
REWEIGHTED, STEPS, ACCURACY = 5, 40, 3e-2
"""Rounds of weights, steps of conjugate gradients in each, and where these end. On frames of 2,000 electrons a pixel
more of them changes no error of the heights by over a percent."""
SAMPLES, SAMPLE_STEPS, SAMPLE_ACCURACY = 12, 120, 1e-2
"""Of the posterior, that σ comes from, and how well they are solved for: half-done ones vary too little."""
AT_ONCE = 2**19
"""Pixels of samples that are solved for together: memory stays bounded."""
LEAST_INFORMATION = 1e-6
"""Per pixel²: a mode of which the frame says nothing is divided by this."""


@dataclass(frozen=True, slots=True)
class Creases:
    """Which prior of the curvature.

    Attributes
    ----------
    tail : float
        ν: by how many e-folds the density falls when a strong curvature grows by e.
    width : float, 1/pixel
        ε: weaker curvatures are as likely as none.
    gain : float
        By how much it foretold the frame's other half better than waves did, in the logarithm of the probability.
    """

    tail: float
    width: float
    gain: float = 0.0

    def weights(self, z: Tensor) -> Tensor:
        """Return w for heights (..., H, W) in pixels."""
        return self.tail / (_strength(bends(z)) + self.width**2)


# -- curvature, on fields whose borders are mirrored

Bends = tuple[Tensor, Tensor, Tensor]


def bends(z: Tensor) -> Bends:
    """Return ∂²z/∂x², ∂²z/∂y² in each pixel and ∂²z/∂x∂y between four. (..., H, W) twice, (..., H − 1, W − 1)."""
    across = z[..., 1:, :] - z[..., :-1, :]
    return _bend(z), _bend(z.mT).mT, across[..., 1:] - across[..., :-1]


def _bend(z: Tensor) -> Tensor:
    step = z[..., 1:] - z[..., :-1]
    return torch.nn.functional.pad(step, (0, 1)) - torch.nn.functional.pad(step, (1, 0))


def _strength(bent: Bends) -> Tensor:
    """Return |H|² in each pixel."""
    xx, yy, xy = bent
    return xx**2 + yy**2 + 2 * _to_pixels(xy**2)


def _to_pixels(corners: Tensor) -> Tensor:
    """Return a quarter of each corner's value in each of its four pixels. The transpose of :func:`_to_corners`."""
    rows = torch.nn.functional.pad(corners, (0, 1)) + torch.nn.functional.pad(corners, (1, 0))
    return 0.25 * (torch.nn.functional.pad(rows, (0, 0, 0, 1)) + torch.nn.functional.pad(rows, (0, 0, 1, 0)))


def _to_corners(pixels: Tensor) -> Tensor:
    rows = pixels[..., 1:, :] + pixels[..., :-1, :]
    return 0.25 * (rows[..., 1:] + rows[..., :-1])


def _unbent(bent: Bends) -> Tensor:
    """Return the transpose of :func:`bends`."""
    xx, yy, xy = bent
    pad = torch.nn.functional.pad
    along = pad(xy, (1, 0)) - pad(xy, (0, 1))
    return _bend(xx) + _bend(yy.mT).mT + pad(along, (0, 0, 1, 0)) - pad(along, (0, 0, 0, 1))


def stiffness(z: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of ½ Σ w |H|² at heights (..., H, W)."""
    xx, yy, xy = bends(z)
    return _unbent((weights * xx, weights * yy, 2 * _to_corners(weights) * xy))


@lru_cache(maxsize=16)
def _bending(shape: tuple[int, int]) -> Tensor:
    """Return Σ |H|² of each cosine mode."""
    rows, columns = (4 * torch.sin(0.5 * math.pi * torch.arange(size) / size) ** 2 for size in shape)
    return (rows[:, None] + columns[None, :]) ** 2


# -- the linear problem


@dataclass(frozen=True, slots=True, eq=False)
class Quadratic:
    """½ Σ (I + γ/P) |z(k)|² + ½ Σ w |H|²: what heights (..., H, W) cost, beside what the data pull.

    Attributes
    ----------
    stiff : (..., H, W) tensor
        I + γ/P of the modes.
    weights : (..., H, W) tensor
    """

    stiff: Tensor
    weights: Tensor

    def apply(self, z: Tensor) -> Tensor:
        """Return the gradient of the cost at heights."""
        return inverse_cosine_transform(self.stiff * cosine_transform(z)) + stiffness(z, self.weights)

    def solve(self, pull: Tensor, steps: int = STEPS, accuracy: float = ACCURACY) -> Tensor:
        """Return the heights whose gradient is ``pull``, with mean 0, by conjugate gradients; fields of a batch alone.

        Parameters
        ----------
        pull : (..., H, W) tensor
        steps : int
            At most.
        accuracy : float
            Of what is left of the gradient over what it was, in the norm of the metric that preconditions.
        """
        shape = (pull.shape[-2], pull.shape[-1])
        typical = self.weights.log().mean(dim=(-2, -1), keepdim=True).exp()
        metric = 1 / (self.stiff + typical * _bending(shape))
        metric[..., 0, 0] = 0.0

        def near(field: Tensor) -> Tensor:
            return inverse_cosine_transform(metric * cosine_transform(field))

        def dot(one: Tensor, other: Tensor) -> Tensor:
            return (one * other).sum(dim=(-2, -1), keepdim=True)

        left = pull - pull.mean(dim=(-2, -1), keepdim=True)
        found, ahead = torch.zeros_like(left), near(left)
        direction, length = ahead, dot(left, ahead)
        enough = accuracy**2 * length
        for _ in range(steps):
            if bool((length <= enough).all()):
                break
            bent = self.apply(direction)
            curved = dot(direction, bent)
            # A field that is done has nowhere left to go.
            far = torch.where(curved > 0, length / curved.clamp(min=1e-30), 0.0)
            found = found + far * direction
            left = left - far * bent
            ahead = near(left)
            before, length = length, dot(left, ahead)
            direction = ahead + (length / before.clamp(min=1e-30)) * direction
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Touching:
    """The parabola that touches the prior at some heights: −log prior beside a constant, never below it.

    Attributes
    ----------
    power : (..., H, W) tensor
        P of the waves.
    information : (..., H, W) tensor
        I of the modes: the data's part of the curvature.
    weights : (..., H, W) tensor
        Of the creases, at those heights.
    """

    power: Tensor
    information: Tensor
    weights: Tensor

    def value(self, z: Tensor) -> tuple[float, Tensor]:
        """Return −log prior and its gradient at heights."""
        slope = inverse_cosine_transform(WAVES_SHARE / self.power * cosine_transform(z)) + stiffness(z, self.weights)
        return 0.5 * float((z * slope).sum()), slope

    def metric(self, gradient: Tensor) -> Tensor:
        """Return the inverse curvature of the posterior, applied to a gradient."""
        return Quadratic(self.information + WAVES_SHARE / self.power, self.weights).solve(gradient)


def posed(z: Tensor, gradient: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
    """Return I and b of the problem made linear where the misfit has a gradient. (..., H, W) both."""
    told = information.clamp(min=LEAST_INFORMATION)
    pull = told * cosine_transform(z) - cosine_transform(gradient)
    pull[..., 0, 0] = 0.0
    return told, pull


def reweighted(creases: Creases, z: Tensor, told: Tensor, pull: Tensor, power: Tensor) -> Tensor:
    """Return the heights that explain b with creases, from some to begin with. (..., H, W)."""
    data = inverse_cosine_transform(pull)
    for _ in range(REWEIGHTED):
        cost = Quadratic(told + WAVES_SHARE / power, creases.weights(z))
        z = z + cost.solve(data - cost.apply(z))
    return z


# -- the choice


def choose_creases(z: Tensor, gradient: Tensor, information: Tensor, power: Tensor) -> Creases | None:
    """Return the creases that foretell the frame best; None where waves do as well.

    Parameters
    ----------
    z : (H, W) tensor, pixels
        A solution with the prior of waves.
    gradient : (H, W) tensor
        Of the misfit there.
    information, power : (H, W) tensors
        I and P of each mode.

    On a large field the candidates compete on some tiles, whose mirrored borders look like creases: the best must do
    better than waves on the whole field, too.
    """
    tiles = _tiles((z.shape[0], z.shape[1]))
    shape = (tiles[0][0].stop - tiles[0][0].start, tiles[0][1].stop - tiles[0][1].start)
    told, believed = (_coarser(each, shape) for each in (information, power))
    some, slope = (torch.stack([field[tile] for tile in tiles]) for field in (z, gradient))
    told, pull = posed(some, slope, told)
    foretold = _foretelling(told, pull, believed)
    waves = foretold(None)

    found: dict[tuple[int, int], float] = {}

    def at(place: tuple[int, int]) -> float:
        if place not in found:
            found[place] = waves - foretold(Creases(TAILS[place[0]], WIDTHS[place[1]]))
        return found[place]

    # The gain is taken to have one hill over (log ν, log ε): uphill until no neighbour is higher.
    place, better = (2, 1), True
    while better:
        tail, width = place
        near = [(tail - 1, width), (tail + 1, width), (tail, width - 1), (tail, width + 1)]
        near = [each for each in near if 0 <= each[0] < len(TAILS) and 0 <= each[1] < len(WIDTHS)]
        best = max(near, key=at)
        better = at(best) > at(place)
        place = best if better else place
    gain, chosen = at(place), Creases(TAILS[place[0]], WIDTHS[place[1]])
    if gain > LEAST_GAIN and shape != tuple(z.shape):
        foretold = _foretelling(*posed(z, gradient, information), power, draws=1)
        gain = foretold(None) - foretold(chosen)
    return replace(chosen, gain=gain) if gain > LEAST_GAIN else None


def _foretelling(told: Tensor, pull: Tensor, power: Tensor, draws: int = DRAWS) -> Callable[[Creases | None], float]:
    """Return what tells how badly heights from one half of the noise foretell the other, −log probability.

    Beside what is the same for all.
    """
    random = torch.Generator().manual_seed(0)
    shape = (draws, *pull.shape)
    noise = torch.randn(shape, generator=random)
    middle = pull / told
    # Added and taken away in such amounts that the two are independent; their information adds up to the whole.
    one = middle + (SPLIT / told).sqrt() * noise
    other = middle - noise / (SPLIT * told).sqrt()
    seen, kept = told / (1 + SPLIT), told * SPLIT / (1 + SPLIT)
    start = inverse_cosine_transform(seen * one / (seen + 1 / power))

    def foretold(creases: Creases | None) -> float:
        z = start if creases is None else reweighted(creases, start, seen, seen * one, power)
        miss = kept * (other - cosine_transform(z)) ** 2
        miss[..., 0, 0] = 0.0
        return 0.5 * float(miss.sum()) / draws

    return foretold


def _tiles(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return parts of a field, all of one shape, evenly spread; the whole of a small one."""

    def cuts(size: int) -> list[slice]:
        if size < TILES * TILE:
            return [slice(0, size)] if size <= TILE else [slice((size - TILE) // 2, (size - TILE) // 2 + TILE)]
        free = size - TILES * TILE
        starts = [(2 * n + 1) * free // (2 * TILES) + n * TILE for n in range(TILES)]
        return [slice(start, start + TILE) for start in starts]

    return [(row, column) for row in cuts(shape[0]) for column in cuts(shape[1])]


def _coarser(modes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a spectrum of a field on the modes of a smaller one."""
    rows, columns = (
        (torch.arange(few) * many / few).round().long() for few, many in zip(shape, modes.shape, strict=True)
    )
    return modes[rows[:, None], columns[None, :]]


# -- the uncertainty


def sampled_variance(creases: Creases, z: Tensor, information: Tensor, power: Tensor) -> Tensor:
    """Return the variance of heights with creases, their plane removed, in each pixel. (H, W), pixels²."""
    random = torch.Generator().manual_seed(1)
    told, weights = information.clamp(min=LEAST_INFORMATION), creases.weights(z)
    cost = Quadratic(told + WAVES_SHARE / power, weights)
    root, corner = weights.sqrt(), (2 * _to_corners(weights)).sqrt()
    total, left = torch.zeros_like(z), SAMPLES
    while left:
        some = min(left, max(1, AT_ONCE // z.numel()))

        def noise(scale: Tensor, some: int = some) -> Tensor:
            return scale * torch.randn(some, *scale.shape, generator=random)

        pull = _unbent((noise(root), noise(root), noise(corner))) + inverse_cosine_transform(noise(cost.stiff.sqrt()))
        total += (_without_plane(cost.solve(pull, SAMPLE_STEPS, SAMPLE_ACCURACY)) ** 2).sum(dim=0)
        left -= some
    return total / SAMPLES


def _without_plane(z: Tensor) -> Tensor:
    """Return fields (..., H, W) without the plane that fits them best."""
    z = z - z.mean(dim=(-2, -1), keepdim=True)
    for axis in (-2, -1):
        size = z.shape[axis]
        place = torch.arange(size, dtype=z.dtype) - (size - 1) / 2
        line = (place[:, None] if axis == -2 else place).expand(z.shape[-2:])
        slope = (z * line).sum(dim=(-2, -1), keepdim=True) / (line**2).sum().clamp(min=1e-30)
        z = z - slope * line
    return z

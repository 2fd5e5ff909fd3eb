"""A frame and its forward model, ready to be evaluated: predictions, misfit and gradients, tile by tile.

Large fields are evaluated in tiles that overlap by more than the electrons reach, so that memory stays bounded and time
grows as the area.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reconstruction.fidelity import Forward, Nuisances, Observation
from reconstruction.nuisances import Emitted, chosen_pixels
from reconstruction.vft import TOKEN, WINDOW

TILE, SEAM_RANGES = 640, 2.0
"""Side of a tile in pixels, at most and about, and how far tiles overlap, in electron ranges."""
GRAIN = TOKEN * WINDOW
"""Pixels of a window: all cuts are multiples."""
KNEE = 6.0
"""Residuals beyond so many standard deviations count linearly (P. J. Huber 1964)."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How far the prediction of a surface is from the frame.

    Attributes
    ----------
    value : float
        Half the weighted sum of squares.
    gradient, slope : (H, W) tensors
        Its derivatives by heights and by oxide.
    predicted : (L, H, W) tensor
    echo : (H, W) tensor or None
        What a field of noise, sent back through the model, makes of the heights (:meth:`Problem.information`).
    """

    value: float
    gradient: Tensor
    slope: Tensor
    predicted: Tensor
    echo: Tensor | None = None


@dataclass(slots=True, eq=False)
class Problem:
    """A frame and its forward model, ready to be evaluated.

    Attributes
    ----------
    forward : Forward
    observed : Observation
    with_oxide : bool
        Whether the share of oxide is sought, too.
    evaluations : int
        Of the network, forwards and backwards, so far.
    """

    forward: Forward
    observed: Observation
    with_oxide: bool = False
    evaluations: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.observed.signals.shape[1], self.observed.signals.shape[2])

    @property
    def seam(self) -> int:
        """By how many pixels tiles overlap."""
        return seam_of(self.forward.condition.pixel)

    def look(
        self,
        nuisances: Nuisances,
        z: Tensor,
        oxide: Tensor,
        variances: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Look:
        """Return value and gradient of the misfit.

        Parameters
        ----------
        nuisances : Nuisances
        z, oxide : (H, W) tensors
        variances : (L, H, W) tensor, optional
            Of the signals. Where they are not given, those of the prediction itself: then the gradient is that of
            given variances, not of ones that move with the prediction.
        noise : (L, H, W) tensor, optional
            White noise of variance 1, to be sent back (``echo``).
        """
        self.evaluations += 1
        responses = self.forward.responses(nuisances).float()
        gains = nuisances.gains[:, None, None]
        levels = self.forward.levels(responses, nuisances)[:, None, None]
        gradient, slope = torch.zeros_like(z), torch.zeros_like(z)
        echo = None if noise is None else torch.zeros_like(z)
        predicted, total = torch.zeros_like(self.observed.signals), 0.0
        for outer, inner, core in tiles(self.shape, self.seam):
            part = z[outer].detach().clone().requires_grad_(True)
            share = oxide[outer].detach().clone().requires_grad_(self.with_oxide)
            origin = (outer[0].start, outer[1].start)
            seen = self.forward.signals(part, share, responses, origin, self.shape)
            signal = seen[:, core[0], core[1]] * gains + levels
            here = (slice(None), *inner)
            variance = self.observed.variances(signal.detach()) if variances is None else variances[here]
            weight, deviation = self.observed.weight[inner], variance.sqrt()
            # A residual far beyond the noise (dirt, a shadow that is not modelled) pulls with its root only.
            value = (weight * _gentle((signal - self.observed.signals[here]) / deviation)).sum()
            if echo is not None and noise is not None:
                sent = (signal * (noise[here] * weight.sqrt() / deviation)).sum()
                echo[outer] += torch.autograd.grad(sent, part, retain_graph=True)[0]
            value.backward()  # type: ignore[no-untyped-call]
            total += float(value.detach())
            predicted[here] = signal.detach()
            if part.grad is not None:
                gradient[outer] += part.grad
            if share.grad is not None:
                slope[outer] += share.grad
        return Look(total, gradient, slope, predicted, echo)

    def prediction(self, nuisances: Nuisances, z: Tensor, oxide: Tensor) -> Tensor:
        """Return the signals that a surface would give, without gradients. (L, H, W)."""
        self.evaluations += 1
        responses = self.forward.responses(nuisances).float()
        gains = nuisances.gains[:, None, None]
        levels = self.forward.levels(responses, nuisances)[:, None, None]
        predicted = torch.zeros_like(self.observed.signals)
        with torch.no_grad():
            # Without derivatives a tile takes little memory.
            for outer, inner, core in tiles(self.shape, self.seam, 2 * TILE):
                origin = (outer[0].start, outer[1].start)
                seen = self.forward.signals(z[outer], oxide[outer], responses, origin, self.shape)
                predicted[:, inner[0], inner[1]] = seen[:, core[0], core[1]] * gains + levels
        return predicted

    def noise(self, seed: int) -> Tensor:
        """Return white noise of the signals' shape, the same for the same seed."""
        return torch.randn(self.observed.signals.shape, generator=torch.Generator().manual_seed(seed))

    def emission(self, z: Tensor, oxide: Tensor) -> Emitted:
        """Return what the field emits, as far as the nuisances need to know it, without gradients."""
        places = chosen_pixels(z.numel())
        rows, columns = places // self.shape[1], places % self.shape[1]
        count = len(self.forward.model.basis)
        some, total = torch.zeros(count, len(places)), torch.zeros(count, dtype=torch.float64)
        with torch.no_grad():
            for outer, inner, core in tiles(self.shape, self.seam):
                emitted = self.forward.emission(z[outer], oxide[outer])[:, core[0], core[1]]
                down, along = rows - inner[0].start, columns - inner[1].start
                here = (down >= 0) & (down < emitted.shape[1]) & (along >= 0) & (along < emitted.shape[2])
                some[:, here] = emitted[:, down[here], along[here]]
                total += emitted.sum(dim=(1, 2), dtype=torch.float64)
        return Emitted(some, (total / z.numel()).float(), places)


def _gentle(scaled: Tensor) -> Tensor:
    size = scaled.abs()
    return torch.where(size < KNEE, 0.5 * scaled**2, KNEE * size - 0.5 * KNEE**2)


def seam_of(pixel: float) -> int:
    """Return by how many pixels tiles overlap: more than the electrons reach, and the windows of two blocks.

    Parameters
    ----------
    pixel : float
        Over the electron range.
    """
    return GRAIN * min(max(1, math.ceil(SEAM_RANGES / pixel / GRAIN)), 4)


def tiles(
    shape: tuple[int, int], seam: int, most: int | None = None
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]]:
    """Cut a field: (what a tile sees, what it answers for, where that lies within it), in order of the rows.

    Parameters
    ----------
    shape : (int, int)
    seam : int
        By how many pixels tiles overlap, on each side.
    most : int, optional
        Side of a tile, at most and about; ``TILE`` unless given.
    """
    largest = most or TILE

    def cuts(size: int) -> list[tuple[slice, slice, slice]]:
        count = 1 if size <= largest + 2 * seam else math.ceil(size / largest)
        # Whole windows, so that tiles and the whole field cut alike.
        side = GRAIN * math.ceil(size / count / GRAIN)
        found = []
        for start in range(0, size, side):
            stop = min(start + side, size)
            low, high = max(0, start - seam), min(size, stop + seam)
            found.append((slice(low, high), slice(start, stop), slice(start - low, stop - low)))
        return found

    for row in cuts(shape[0]):
        for column in cuts(shape[1]):
            yield (row[0], column[0]), (row[1], column[1]), (row[2], column[2])

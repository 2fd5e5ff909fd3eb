"""What the microscope would show of a surface, and how far a frame is from that.

A forward model puts together what the sample emits (:mod:`reconstruction.vft`), what the hardware collects
(:mod:`reconstruction.response`), the probe's blur, and each segment's gain and offset. The misfit is weighted by the
noise of the counts, Poisson's and the amplifier's: variance = a · signal + b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from drivers.geometry import DetectorGeometry, pixel_positions
from reconstruction.features import blur
from reconstruction.local_law import Condition, local_emission
from reconstruction.response import segment_response
from reconstruction.vft import VisionFieldTransformer

PROBE_FWHM = 2 * math.sqrt(2 * math.log(2))
LEAST_PROBE = 0.05
"""Standard deviation in pixels below which a probe blurs nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Nuisances:
    """What is estimated beside the heights.

    Attributes
    ----------
    gains : (S,) tensor
        Relative to what was assumed: 1.
    offsets : (S,) tensor
        In units of the signal: 0.
    shift : (2,) tensor, m
        Of the detector, beyond the geometry's centre offset.
    rotation : tensor, rad
        Beyond the geometry's.
    tilt : (2,) tensor
        Mean ∂z/∂x and ∂z/∂y of the sample, which the heights do not contain.
    """

    gains: Tensor
    offsets: Tensor
    shift: Tensor
    rotation: Tensor
    tilt: Tensor

    @classmethod
    def none(cls, segments: int) -> Nuisances:
        """Return nuisances that change nothing."""
        return cls(torch.ones(segments), torch.zeros(segments), torch.zeros(2), torch.zeros(()), torch.zeros(2))


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """From a surface to the signals of the live segments, in units of the beam's energy per beam electron.

    Attributes
    ----------
    model : VisionFieldTransformer
    condition : Condition
    geometry : DetectorGeometry
    live : tuple of int
        Segments that take part.
    pixel_size : float, m
    probe : float, pixels
        Standard deviation of the probe.
    """

    model: VisionFieldTransformer
    condition: Condition
    geometry: DetectorGeometry
    live: tuple[int, ...]
    pixel_size: float
    probe: float = 0.0

    def responses(self, nuisances: Nuisances | None = None) -> Tensor:
        """Return the response on the axis and its derivative by the pixel's place. Shape (3, L, K)."""
        at = Nuisances.none(len(self.live)) if nuisances is None else nuisances
        centre = torch.tensor(self.geometry.centre_offset, dtype=torch.float64) + at.shift
        turn = self.geometry.rotation + at.rotation.double()
        chosen = replace(self.geometry, segments=tuple(self.geometry.segments[index] for index in self.live))
        step = 1e-4 * self.geometry.working_distance
        # A pixel at +x sees the detector's centre moved by −x.
        moves = step * torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], dtype=torch.float64)
        here, *around = segment_response(chosen, self.model.basis, centre=centre + moves, rotation=turn)
        slopes = [(ahead - behind) / (2 * step) for ahead, behind in (around[:2], around[2:])]
        return torch.stack([here, *slopes])

    def tilt_emission(self) -> Tensor:
        """Return how a flat surface's emission changes with its slopes ∂z/∂x and ∂z/∂y. Shape (K, 2)."""
        law = self.model.law.at(self.condition, self.condition.oxide)[None]
        step, found = 1e-3, []
        for axis in (0, 1):
            p, q = (torch.full((1, 1, 1), step * (axis == each)) for each in (0, 1))
            ahead, behind = (local_emission(sign * p, sign * q, law, self.model.basis) for sign in (1, -1))
            found.append(((ahead - behind) / (2 * step))[0, :, 0, 0])
        return torch.stack(found, dim=1)

    def flat_signals(self) -> Tensor:
        """Return what a flat surface on the axis sends into each live segment. (L,)."""
        field = torch.zeros(1, 8, 8)
        flat = self.model.local(field, field + float(self.condition.oxide), self.condition)[0, :, 4, 4]
        return self.responses()[0].float() @ flat

    def levels(self, responses: Tensor, nuisances: Nuisances) -> Tensor:
        """Return what offsets and the sample's tilt add to each segment everywhere. (L,)."""
        tilted = responses[0].float() @ self.tilt_emission() @ nuisances.tilt.float()
        return nuisances.offsets + nuisances.gains * tilted

    def emission(self, z: Tensor, oxide: Tensor) -> Tensor:
        """Return the emission coefficients (K, H, W) of heights (H, W) in pixels, as the probe sees them."""
        emitted = self.model(z[None], oxide[None], self.condition)[0]
        if self.probe > LEAST_PROBE:
            emitted = blur(emitted, (self.probe,))
        return emitted

    def signals(
        self, z: Tensor, oxide: Tensor, responses: Tensor, origin: tuple[int, int], shape: tuple[int, int]
    ) -> Tensor:
        """Return what :meth:`collect` makes of :meth:`emission`, (L, h, w), in less time: coefficients are skipped.

        Parameters
        ----------
        z, oxide : (h, w) tensors
            Heights in pixels, and the share of oxide.
        responses, origin, shape
            As for :meth:`collect`.
        """
        readout = responses.to(z).reshape(-1, responses.shape[-1])
        seen = self.model(z[None], oxide[None], self.condition, readout)[0]
        if self.probe > LEAST_PROBE:
            seen = blur(seen, (self.probe,))
        return self._placed(seen.reshape(3, -1, *z.shape), origin, shape)

    def _placed(self, parts: Tensor, origin: tuple[int, int], shape: tuple[int, int]) -> Tensor:
        """Return signals from those on the axis and their derivatives by the pixel's place, (3, L, h, w)."""
        h, w = parts.shape[-2:]
        x, y = (torch.from_numpy(each).to(parts) for each in pixel_positions(shape, self.pixel_size))
        return parts[0] + parts[1] * x[origin[1] : origin[1] + w] + parts[2] * y[origin[0] : origin[0] + h, None]

    def collect(self, emitted: Tensor, responses: Tensor, origin: tuple[int, int], shape: tuple[int, int]) -> Tensor:
        """Return the signals (L, h, w) of emission coefficients (K, h, w).

        Parameters
        ----------
        emitted : (K, h, w) tensor
        responses : (3, L, K) tensor
        origin : (int, int)
            Row and column of the first pixel in the frame.
        shape : (int, int)
            Of the frame, whose middle is the axis.
        """
        count = emitted.shape[0]
        h, w = emitted.shape[1:]
        parts = responses.to(emitted).reshape(-1, count) @ emitted.reshape(count, -1)
        return self._placed(parts.reshape(3, -1, h, w), origin, shape)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """Signals of the live segments, scaled so that the forward model's flat surface has their mean.

    Attributes
    ----------
    signals : (L, H, W) tensor
    variance_slope, variance_floor : (L,) tensors
        Variance of a pixel's signal: slope · signal + floor.
    weight : (H, W) tensor
        1; 0 where a pixel says nothing (saturated).
    scales : (L,) tensor, ADU
        Counts above the offset for a signal of 1.
    straight : (L, H, W) tensor or None
        The signals, straightened: as they would be if they grew in proportion to the slope, however steep. A linear
        estimate begins with these.
    """

    signals: Tensor
    variance_slope: Tensor
    variance_floor: Tensor
    weight: Tensor
    scales: Tensor
    straight: Tensor | None = None

    def variances(self, expected: Tensor) -> Tensor:
        """Return the variance of each pixel where ``expected`` signals (L, H, W) are expected."""
        slope, floor = self.variance_slope[:, None, None], self.variance_floor[:, None, None]
        # Never below a twentieth of the mean signal's: where next to nothing is expected, the model is not that exact.
        least = 0.05 * self.signals.mean(dim=(1, 2))[:, None, None]
        return slope * torch.maximum(expected, least) + floor

    def mean_variances(self) -> Tensor:
        """Return the variance at each segment's mean signal. Shape (L,)."""
        return self.variance_slope * self.signals.mean(dim=(1, 2)) + self.variance_floor

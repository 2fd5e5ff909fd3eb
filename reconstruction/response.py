"""What each segment collects of an emission field: the hardware's geometry, differentiable.

The response of a segment to a function φ_j of the emission basis is the integral of φ_j over the solid angle of the
electrode as a pixel sees it. It is computed by Gauss–Legendre quadrature on the electrode, whose nodes move with
working distance, centre and rotation, so that automatic differentiation gives the derivatives by them; the pixel's own
place is one more shift of the centre, taken to first order, which at 20 µm under 8 mm is exact to 1e-5.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry
from reconstruction.basis import WIDEST, EmissionBasis

RINGS, SPOKES = 10, 16
"""Quadrature nodes along the radius and the azimuth of a segment."""


def check_reach(geometry: DetectorGeometry) -> None:
    """Refuse a detector that reaches beyond the basis' cap.

    Raises
    ------
    InputError
    """
    shift = math.hypot(*geometry.centre_offset)
    for segment in geometry.segments:
        reach = (segment.outer_radius + shift) / geometry.working_distance
        if reach > WIDEST:
            raise InputError(
                f"segment {segment.name} reaches {math.degrees(math.atan(reach)):.0f} deg from the axis; the emission "
                f"model ends at {math.degrees(math.atan(WIDEST)):.0f} deg: expected a smaller outer radius or a longer "
                "working distance, or use --quality preview"
            )


def segment_response(
    geometry: DetectorGeometry,
    basis: EmissionBasis,
    working_distance: Tensor | float | None = None,
    centre: Tensor | None = None,
    rotation: Tensor | float | None = None,
) -> Tensor:
    """Return ∫ φ_j dΩ over each segment. Shape (S, K), sr^½; differentiable by the arguments that are tensors.

    Parameters
    ----------
    geometry : DetectorGeometry
        Of the segments; the rest where the following are not given.
    basis : EmissionBasis
    working_distance : tensor or float, m
    centre : (2,) tensor, m
        Of the diode, as seen from the pixel.
    rotation : tensor or float, rad
    """
    distance = torch.as_tensor(
        geometry.working_distance if working_distance is None else working_distance, dtype=torch.float64
    )
    middle = torch.tensor(geometry.centre_offset, dtype=torch.float64) if centre is None else centre.double()
    turn = torch.as_tensor(geometry.rotation if rotation is None else rotation, dtype=torch.float64)
    x, weight_x = (torch.from_numpy(each) for each in leggauss(RINGS))
    t, weight_t = (torch.from_numpy(each) for each in leggauss(SPOKES))
    rows = []
    for segment in geometry.segments:
        # A wide segment takes several stretches of azimuth, so that its fourth harmonic is still integrated well.
        stretches = max(1, math.ceil(segment.span / (math.pi / 2) - 1e-6))
        starts = segment.azimuth - segment.span / 2 + segment.span / stretches * (np.arange(stretches) + 0.5)
        half = segment.span / stretches / 2
        azimuth = (torch.from_numpy(starts)[:, None] + half * t).reshape(-1) + turn
        weight_azimuth = half * weight_t.repeat(stretches)
        low, high = segment.inner_radius**2, segment.outer_radius**2
        radius = torch.sqrt((low + high) / 2 + (high - low) / 2 * x)[:, None]
        area = ((high - low) / 4 * weight_x)[:, None] * weight_azimuth
        dx, dy = radius * torch.cos(azimuth) + middle[0], radius * torch.sin(azimuth) + middle[1]
        length = torch.sqrt(dx**2 + dy**2 + distance**2)
        solid = area * distance / length**3
        functions = basis(dx / length, dy / length, distance / length)
        rows.append(torch.stack([(solid * function).sum() for function in functions]))
    return torch.stack(rows)

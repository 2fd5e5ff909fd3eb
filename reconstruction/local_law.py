"""The local law: what a plane of some tilt emits, as a polynomial in its unit normal, fitted to Monte Carlo.

A tilted plane looks the same when everything turns about the column's axis. So with (n_x, n_y) the horizontal part of
its unit normal, the coefficient of each function of the emission basis is

    c = Σ_n a_n · (n_x² + n_y²)^n · Re (n_x + i n_y)^m   or   … Im (n_x + i n_y)^m,

m the function's azimuthal harmonic. The products of normals on the right serve all functions, and all segments: what
is wanted of them is one matrix times the stack of products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reconstruction.basis import EmissionBasis

STEEPEST_POWER = 5
"""Powers of sin²θ in the local law."""


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


def law_products(p: Tensor, q: Tensor, orders: int, powers: int) -> Tensor:
    """Return the products of the normals of planes of slopes p, q (..., H, W), see the module's text.

    Returns
    -------
    (..., (2 · orders + 1) · powers, H, W) tensor
        For the harmonics 1, cos φ, sin φ, cos 2φ, … each times the powers 0 … powers − 1 of sin²θ.
    """
    steep = torch.rsqrt(1 + p**2 + q**2)
    x, y = -p * steep, -q * steep
    squared = x**2 + y**2
    real, imaginary = torch.ones_like(x), torch.zeros_like(x)
    found = [real]
    for _ in range(orders):
        real, imaginary = real * x - imaginary * y, imaginary * x + real * y
        found += [real, imaginary]
    scaled = [found]
    for _ in range(powers - 1):
        scaled.append([each * squared for each in scaled[-1]])
    return torch.stack([scaled[n][h] for h in range(len(found)) for n in range(powers)], dim=-3)


def law_matrix(law: Tensor, basis: EmissionBasis) -> Tensor:
    """Return what takes :func:`law_products` to the coefficients of the basis. (K, (2 · orders + 1) · n).

    Parameters
    ----------
    law : (F, n) tensor
        From :meth:`LocalLaw.at`.
    basis : EmissionBasis
    """
    powers = law.shape[1]
    matrix = torch.zeros(len(basis), 2 * int(basis.order.max()) + 1, powers).to(law)
    pair = -1
    for row, order, sine in zip(matrix, basis.order, basis.sine, strict=True):
        pair += not sine
        row[2 * int(order) - (order > 0) + bool(sine)] = law[pair]
    return matrix.flatten(1)


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
    products = law_products(p, q, int(basis.order.max()), law.shape[2])
    matrices = torch.stack([law_matrix(each, basis) for each in law])
    return (matrices @ products.flatten(2)).reshape(len(law), -1, *p.shape[1:])

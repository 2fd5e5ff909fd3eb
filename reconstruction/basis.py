"""The basis of the emission field: what a pixel emits, apart from what any hardware collects.

Each pixel of a surface sends its backscattered signal into directions d with some density I(d) per solid angle, of
which a diode sees the part above its threshold: an electron of energy E counts with the weight max(E − E_th, 0)/E₀.
Within the polar cap that a diode under the pole piece can cover, I is expanded in smooth functions,

    I(d) = Σ_j c_j φ_j(d),     φ = P_mk(d_z) · Re (d_x + i d_y)^m   or   P_mk(d_z) · Im (d_x + i d_y)^m,

orthonormal over the cap, so that each electron that leaves adds φ_j(d) times its weight to c_j: the coefficients are
sums over electrons, unbiased at any dose, and nearly equal in variance. They are polynomials in the direction's
components: smooth everywhere, and the same on the CPU, on a GPU and under automatic differentiation.

A segment's response is the integral of φ_j over the solid angle that it covers (:mod:`reconstruction.response`). How
many polar functions each azimuthal harmonic needs was found against Monte Carlo electrons counted in real segments
(``tests/benchmarks/truncation.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDEST = 2.3
"""Tangent of the half angle of the cap: 66.5°. A diode of 10 mm radius at 5 mm reaches 2.0, off its axis more."""
POLAR = (5, 5, 4, 3, 2)
"""Polar functions of each azimuthal harmonic m = 0 … 4."""


@dataclass(frozen=True, slots=True, eq=False)
class EmissionBasis:
    """Orthonormal functions on the polar cap d_z ≥ ``lowest``.

    Attributes
    ----------
    lowest : float
        Smallest d_z of the cap.
    order : (K,) int array
        Azimuthal harmonic m of each function.
    sine : (K,) bool array
        Whether it is the imaginary part.
    polynomials : (K, n) array
        Of each function, coefficients of the powers of (d_z − (1 + lowest)/2).
    """

    lowest: float
    order: NDArray[np.int64]
    sine: NDArray[np.bool_]
    polynomials: Floats

    def __len__(self) -> int:
        return len(self.order)

    def __call__(self, x: Any, y: Any, z: Any) -> list[Any]:
        """Return the K functions of directions; arrays of NumPy or tensors of torch, all of one shape.

        Outside the cap they are continued, not cut.
        """
        height = z - (1 + self.lowest) / 2
        powers = [height**0]
        for _ in range(self.polynomials.shape[1] - 1):
            powers.append(powers[-1] * height)
        real, imaginary = [powers[0]], [powers[0] * 0]
        for _ in range(int(self.order.max())):
            real.append(real[-1] * x - imaginary[-1] * y)
            imaginary.append(imaginary[-1] * x + real[-2] * y)
        functions = []
        for order, sine, row in zip(self.order, self.sine, self.polynomials, strict=True):
            polar = sum(float(factor) * power for factor, power in zip(row, powers, strict=True) if factor)
            functions.append(polar * (imaginary if sine else real)[order])
        return functions

    def turned(self, quarters: int, mirrored: bool) -> tuple[NDArray[np.int64], Floats]:
        """Return how coefficients change when the surface is mirrored (x → −x), then turned by quarters.

        Returns
        -------
        source : (K,) int array
        sign : (K,) array
            New coefficient j = sign[j] · old coefficient source[j].
        """
        source, sign = np.arange(len(self)), np.ones(len(self))
        for j, (order, sine) in enumerate(zip(self.order, self.sine, strict=True)):
            # cos m(φ − β) = cos mφ cos mβ + sin mφ sin mβ with mβ a multiple of a quarter.
            turn = (int(order) * quarters) % 4
            partner = j + (0 if order == 0 else (-1 if sine else 1))
            if turn % 2:
                source[j] = partner
                sign[j] = (1 if sine else -1) * (1 if turn == 1 else -1)
            elif turn == 2:
                sign[j] = -1
        if mirrored:
            # φ → π − φ: cos mφ → (−1)^m cos mφ, sin mφ → −(−1)^m sin mφ.
            flip = np.where(self.order % 2, -1.0, 1.0) * np.where(self.sine, -1.0, 1.0)
            sign = sign * flip[source]
        return source, sign


@lru_cache(maxsize=8)
def emission_basis(polar: tuple[int, ...] = POLAR, widest: float = WIDEST) -> EmissionBasis:
    """Return the basis with so many polar functions of each harmonic, on a cap of half-angle tangent ``widest``."""
    lowest = 1 / np.sqrt(1 + widest**2)
    x, weight = leggauss(64)
    z, weight = (1 + lowest) / 2 + (1 - lowest) / 2 * x, (1 - lowest) / 2 * weight
    degree = max(polar)
    order, sine, rows = [], [], []
    for m, count in enumerate(polar):
        # ∫ cos² mφ dφ = π, or 2π for m = 0; the measure over the cap is dφ dz.
        root = np.sqrt(weight * (2 if m == 0 else 1) * np.pi) * (1 - z**2) ** (m / 2)
        powers = np.stack([(z - (1 + lowest) / 2) ** n for n in range(count)], axis=1)
        triangle = np.linalg.qr(root[:, None] * powers, mode="r")
        triangle = triangle * np.sign(np.diag(triangle))[:, None]
        inverse = np.linalg.solve(triangle, np.eye(count)).T
        for row in inverse:
            for part in (False,) if m == 0 else (False, True):
                order.append(m)
                sine.append(part)
                rows.append(np.pad(row, (0, degree - count)))
    return EmissionBasis(float(lowest), np.array(order), np.array(sine), np.array(rows))

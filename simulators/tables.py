"""Small tables that Monte Carlo fills for the fast twin: emission against tilt, and lateral spread.

In the frame of the local surface (normal up, a tilted beam flies towards +x) the backscattered electrons fill the disc
of direction cosines (x, y), x² + y² < 1, nearly evenly: a Lambert emitter is constant there. Their density

    q(x, y, E/E0; tilt) = Σ_b Σ_nm a_bnm(tilt, E0) · R_nm(ρ) cos mφ        electrons per beam electron and unit area

is kept in Zernike polynomials over bins b of E/E0; symmetry about the plane of incidence leaves cosines alone. Each
coefficient is sin^m(tilt) times a polynomial in cos(tilt), so that a level surface is symmetric exactly, and a cubic in
ln E0: fits that lower the statistical noise. Radiance per steradian is q times the cosine of the exit angle.

Make the table again with ``python -m simulators.tables``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry
from drivers.units import KEV
from simulators.materials import electron_range, material

Floats = NDArray[np.float64]

SHIPPED = Path(__file__).with_name("data") / "emission.npz"
FORMAT = 1
DEGREE, ORDER = 12, 6
"""Highest radial degree and azimuthal order of the Zernike polynomials."""
BINS = 12
"""Of E/E0, equal steps."""
TILT_TERMS, ENERGY_TERMS = 6, 4
TERMS = tuple((n, m) for m in range(ORDER + 1) for n in range(m, DEGREE + 1, 2))


def radial_coefficients(n: int, m: int) -> Floats:
    """Return c with R_nm(ρ) = ρ^m Σ_k c_k ρ^(2k). Shape ((n − m)/2 + 1,)."""
    half = (n - m) // 2
    result = np.zeros(half + 1)
    for k in range(half + 1):
        top = (-1) ** k * math.factorial(n - k)
        bottom = math.factorial(k) * math.factorial((n + m) // 2 - k) * math.factorial(half - k)
        result[half - k] = top / bottom
    return result


def tilt_terms(tilt: Floats, m: int) -> Floats:
    """Return sin^m(tilt) · T_j(2 cos(tilt) − 1). Shape (tilts, TILT_TERMS)."""
    cosines = np.polynomial.chebyshev.chebvander(2.0 * np.cos(tilt) - 1.0, TILT_TERMS - 1)
    return np.asarray(np.sin(tilt)[:, None] ** m * cosines)


def energy_terms(energy: Floats, limits: tuple[float, float]) -> Floats:
    """Return T_l of ln E0, scaled to −1 … 1 between the limits (keV). Shape (energies, ENERGY_TERMS)."""
    low, high = np.log(limits[0]), np.log(limits[1])
    return np.asarray(
        np.polynomial.chebyshev.chebvander((2.0 * np.log(energy) - low - high) / (high - low), ENERGY_TERMS - 1)
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """Where backscattered electrons leave a level surface, weighted by their energy.

    Attributes
    ----------
    rms : float, m
        Root mean square distance from the point of entry.
    share : float
        Of the narrow one of two Gaussians.
    narrow, wide : float, m
        Standard deviations along one axis: density = share·G(narrow) + (1 − share)·G(wide).
    """

    rms: float
    share: float
    narrow: float
    wide: float


@dataclass(frozen=True, eq=False)
class TableLaw:
    """How one material radiates at one beam energy: an emission law for :mod:`simulators.emission`.

    Attributes
    ----------
    energy : float, keV
        Of the beam.
    coefficients : (BINS, len(TERMS), TILT_TERMS) array
    means : (BINS,) array
        Mean E/E0 of each bin.
    """

    energy: float
    coefficients: Floats
    means: Floats

    def response(self, threshold: float, power: int = 1) -> Floats:
        """Return the mean of max(E − threshold, 0)^power of each bin, keV^power; within a bin energies lie evenly."""
        edges = np.linspace(0.0, 1.0, BINS + 1) * self.energy
        part = np.clip((edges[1:] - threshold) / np.diff(edges), 0.0, 1.0)
        whole = np.maximum(self.means * self.energy - threshold, 0.0)
        cut = np.maximum(edges[1:] - threshold, 0.0)
        if power == 1:
            return np.asarray(np.where(part < 1.0, part * cut / 2.0, whole))
        return np.asarray(np.where(part < 1.0, part * cut**2 / 3.0, whole**2 + np.diff(edges) ** 2 / 12.0))

    def radiance(self, tilt: Floats, directions: Floats, threshold: float) -> Floats:
        """Return the energy above the diode's threshold that leaves the surface.

        Parameters
        ----------
        tilt : (n, 1) array, rad
            Between the surface's normal and the beam; the normal leans towards +x.
        directions : (n, q, 3) array
            Unit vectors of flight, in the microscope's axes.
        threshold : float, keV

        Returns
        -------
        (n, q) array, keV/sr
            For each electron of the probe.
        """
        amplitude = np.einsum("b,btj->tj", self.response(threshold), self.coefficients)
        sine, cosine = np.sin(tilt), np.cos(tilt)
        up = sine * directions[..., 0] + cosine * directions[..., 2]
        x = cosine * directions[..., 0] - sine * directions[..., 2]
        # A beam along −z flies towards +x in the frame of a surface that leans towards +x.
        power = x + 1j * directions[..., 1]
        squared = np.minimum(x**2 + directions[..., 1] ** 2, 1.0)
        total = np.zeros(up.shape)
        wave = np.ones(up.shape, dtype=np.complex128)
        for m in range(ORDER + 1):
            monomials = self._monomials(amplitude, tilt[:, 0], m)
            radial = np.zeros(up.shape)
            for k in range(monomials.shape[1] - 1, -1, -1):
                radial = radial * squared + monomials[:, k, None]
            total += wave.real * radial
            wave = wave * power
        return np.asarray(np.where(up > 0.0, np.maximum(total, 0.0) * up, 0.0))

    def _monomials(self, amplitude: Floats, tilt: Floats, m: int) -> Floats:
        """Return the polynomial in ρ² that multiplies ρ^m cos mφ at each tilt. Shape (n, (DEGREE − m)//2 + 1)."""
        terms = tilt_terms(tilt, m)
        result = np.zeros((tilt.size, (DEGREE - m) // 2 + 1))
        for index, (n, order) in enumerate(TERMS):
            if order == m:
                radial = radial_coefficients(n, m)
                result[:, : radial.size] += (terms @ amplitude[index])[:, None] * radial
        return result

    def coefficient(self, tilt: Floats) -> Floats:
        """Return η at tilts (n,) in rad: the integral of the density over the disc."""
        index = TERMS.index((0, 0))
        return np.asarray(math.pi * tilt_terms(tilt, 0) @ self.coefficients[:, index].sum(axis=0))

    def deposit(self, threshold: float) -> tuple[float, float]:
        """Return mean and mean square of the energy above ``threshold`` (keV) of electrons from a flat surface."""
        shares = self.coefficients[:, TERMS.index((0, 0))] @ tilt_terms(np.zeros(1), 0)[0]
        shares = np.maximum(shares, 0.0) / np.maximum(shares, 0.0).sum()
        return float(shares @ self.response(threshold)), float(shares @ self.response(threshold, 2))


@dataclass(frozen=True, eq=False)
class EmissionTables:
    """Emission and lateral spread of some materials, for any beam energy between the limits.

    Attributes
    ----------
    materials : tuple of str
    limits : (float, float), keV
    coefficients : (materials, BINS, len(TERMS), TILT_TERMS, ENERGY_TERMS) array
    means : (materials, BINS) array
        Mean E/E0 of each bin.
    spread : (materials, energies, 4) array
        rms, share, narrow, wide; lengths in units of the electron range.
    energies : (energies,) array, keV
    made : dict
        Physics version, electrons and the command.
    """

    materials: tuple[str, ...]
    limits: tuple[float, float]
    coefficients: Floats
    means: Floats
    spread: Floats
    energies: Floats
    made: dict[str, str | int]

    @classmethod
    def load(cls, path: Path = SHIPPED) -> EmissionTables:
        """Return the tables of a file, the shipped one unless named; each file is read once.

        Raises
        ------
        InputError
            For a file that is missing, is not such a table or was made by another version.
        """
        return _load(path)

    def _index(self, name: str) -> int:
        if name not in self.materials:
            raise InputError(f"expected a material of the emission tables ({', '.join(self.materials)}); got {name!r}")
        return self.materials.index(name)

    def _inside(self, energy: float) -> float:
        low, high = self.limits
        if not low * (1 - 1e-9) <= energy / KEV <= high * (1 + 1e-9):
            raise InputError(
                f"the emission tables reach from {low:g} to {high:g} keV; got a beam energy of {energy / KEV:g} keV"
            )
        return energy / KEV

    def law(self, name: str, energy: float) -> TableLaw:
        """Return how a material radiates at a beam energy (J).

        Raises
        ------
        InputError
            For a material or an energy that the tables do not hold.
        """
        index, kev = self._index(name), self._inside(energy)
        terms = energy_terms(np.array([kev]), self.limits)[0]
        return TableLaw(kev, np.asarray(self.coefficients[index] @ terms), self.means[index])

    def spread_of(self, name: str, energy: float) -> Spread:
        """Return the lateral spread at a beam energy (J), interpolated in ln E0 in units of the range."""
        index, kev = self._index(name), self._inside(energy)
        values = [np.interp(math.log(kev), np.log(self.energies), self.spread[index, :, k]) for k in range(4)]
        length = electron_range(material(name), energy)
        return Spread(float(values[0] * length), float(values[1]), float(values[2] * length), float(values[3] * length))

    def segment_signal(
        self,
        geometry: DetectorGeometry,
        name: str,
        energy: float,
        tilt: Floats,
        azimuth: Floats,
        position: tuple[float, float] = (0.0, 0.0),
    ) -> Floats:
        """Return what each segment gets from a plane that is tilted.

        Parameters
        ----------
        geometry : DetectorGeometry
            Working distance, radii, azimuths, rotation, offset and threshold all count.
        name : str
            Of a material of the tables.
        energy : float, J
            Of the beam.
        tilt, azimuth : arrays of one shape, rad
            By how much the surface's normal leans from the axis, 0 to 85°, and towards which azimuth as displayed.
        position : (float, float), m
            Of the pixel from the optical axis.

        Returns
        -------
        (S, …) array, keV
            max(E − threshold, 0) summed over the electrons that meet the segment, for each electron of the beam.
        """
        from simulators.emission import collect

        tilt, azimuth = np.broadcast_arrays(np.asarray(tilt, np.float64), np.asarray(azimuth, np.float64))
        length = np.tan(tilt.ravel() / 2.0)
        u, v = length * np.cos(azimuth.ravel()), length * np.sin(azimuth.ravel())
        signal = collect(self.law(name, energy), geometry, u, v, position)
        return np.asarray(np.moveaxis(signal, -1, 0).reshape(-1, *tilt.shape))


@lru_cache(maxsize=4)
def _load(path: Path) -> EmissionTables:
    if not path.is_file():
        raise InputError(f"there is no emission table at {path}; make one with python -m simulators.tables")
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            arrays = {name: np.asarray(file[name], dtype=np.float64) for name in file.files if name != "header"}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not an emission table ({error})") from None
    if header.get("format") != FORMAT:
        raise InputError(f"{path} is an emission table of format {header.get('format')}; this program reads {FORMAT}")
    return EmissionTables(
        materials=tuple(header["materials"]),
        limits=(float(arrays["energies"].min()), float(arrays["energies"].max())),
        coefficients=arrays["coefficients"],
        means=arrays["means"],
        spread=arrays["spread"],
        energies=arrays["energies"],
        made=header["made"],
    )


if __name__ == "__main__":
    from simulators.fill import main

    main()

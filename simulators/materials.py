"""What electrons meet: elements from carbon to gold, compounds, and how each scatters and slows them.

Elastic: D. Browning, T. Z. Li, B. Chui, J. Ye, R. F. W. Pease, Z. Czyżewski and D. C. Joy, J. Appl. Phys. 76 (1994)
2016, an empirical fit to Mott cross-sections; the plain screened Rutherford law (as in D. C. Joy, *Monte Carlo
Modeling for Electron Microscopy and Microanalysis*, 1995) as a second, independent one. Loss: D. C. Joy and S. Luo,
Scanning 11 (1989) 176. Mean excitation energies: ICRU report 37 (1984).

Inside this file energies are in keV and cross-sections in cm², as in the formulas' sources; lengths leave it in m.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.units import KEV

Floats = NDArray[np.float64]
ElasticLaw = Literal["browning", "rutherford"]

AVOGADRO = 6.02214076e23
FIRST_NUMBER = 6
LOWEST_ENERGY = 0.05 * KEV
"""J. What is slower than 50 eV counts as a secondary electron, not as a backscattered one."""

# Symbol, atomic weight (g/mol), density (g/cm³, of the element as it is at 20 °C), mean excitation energy (eV).
_ELEMENTS = """
C 12.011 2.26 78|N 14.007 0.001165 82|O 15.999 0.001331 95|F 18.998 0.00158 115|Ne 20.180 0.000839 137
Na 22.990 0.971 149|Mg 24.305 1.738 156|Al 26.982 2.699 166|Si 28.085 2.33 173|P 30.974 1.82 173|S 32.06 2.07 180
Cl 35.45 0.002995 174|Ar 39.948 0.001662 188|K 39.098 0.862 190|Ca 40.078 1.55 191|Sc 44.956 2.989 216
Ti 47.867 4.506 233|V 50.942 6.11 245|Cr 51.996 7.18 257|Mn 54.938 7.44 272|Fe 55.845 7.874 286|Co 58.933 8.90 297
Ni 58.693 8.902 311|Cu 63.546 8.94 322|Zn 65.38 7.133 330|Ga 69.723 5.904 334|Ge 72.630 5.323 350|As 74.922 5.73 347
Se 78.971 4.79 348|Br 79.904 3.12 343|Kr 83.798 0.003478 352|Rb 85.468 1.532 363|Sr 87.62 2.54 366|Y 88.906 4.469 379
Zr 91.224 6.506 393|Nb 92.906 8.57 417|Mo 95.95 10.22 424|Tc 98.0 11.5 428|Ru 101.07 12.41 441|Rh 102.91 12.41 449
Pd 106.42 12.02 470|Ag 107.87 10.50 470|Cd 112.41 8.65 469|In 114.82 7.31 488|Sn 118.71 7.31 488|Sb 121.76 6.691 487
Te 127.60 6.24 485|I 126.90 4.93 491|Xe 131.29 0.005485 482|Cs 132.91 1.873 488|Ba 137.33 3.5 491|La 138.91 6.154 501
Ce 140.12 6.657 523|Pr 140.91 6.71 535|Nd 144.24 6.90 546|Pm 145.0 7.22 560|Sm 150.36 7.46 574|Eu 151.96 5.243 580
Gd 157.25 7.90 591|Tb 158.93 8.229 614|Dy 162.50 8.55 628|Ho 164.93 8.795 650|Er 167.26 9.066 658|Tm 168.93 9.321 674
Yb 173.05 6.73 684|Lu 174.97 9.84 694|Hf 178.49 13.31 705|Ta 180.95 16.654 718|W 183.84 19.30 727|Re 186.21 21.02 736
Os 190.23 22.57 746|Ir 192.22 22.42 757|Pt 195.08 21.45 790|Au 196.97 19.32 790
"""

_COMPOUND_DENSITY = {"Cu2O": 6.11, "CuO": 6.31, "SiO2": 2.20, "Al2O3": 3.95}  # g/cm³; silica fused


@dataclass(frozen=True, slots=True)
class Element:
    """An element: atomic number, weight (g/mol), density (g/cm³) and mean excitation energy (eV)."""

    symbol: str
    number: int
    weight: float
    density: float
    excitation: float


def _read_elements() -> dict[str, Element]:
    rows = [row.split() for row in _ELEMENTS.replace("\n", "|").split("|") if row.strip()]
    return {
        symbol: Element(symbol, FIRST_NUMBER + index, float(weight), float(density), float(excitation))
        for index, (symbol, weight, density, excitation) in enumerate(rows)
    }


ELEMENTS = _read_elements()


@dataclass(frozen=True, slots=True)
class Material:
    """An element or a compound.

    Attributes
    ----------
    name : str
    parts : tuple of (Element, int)
        Elements and how many atoms of each stand in the formula.
    density : float, kg/m³
    """

    name: str
    parts: tuple[tuple[Element, int], ...]
    density: float

    def number_densities(self) -> Floats:
        """Return atoms of each element per cm³. Shape (elements,)."""
        molar = sum(element.weight * count for element, count in self.parts)
        formulas = self.density * 1e-3 * AVOGADRO / molar
        return np.array([count * formulas for _, count in self.parts])

    def mass_fractions(self) -> Floats:
        """Return the share of each element in the mass. Shape (elements,)."""
        masses = np.array([element.weight * count for element, count in self.parts])
        return np.asarray(masses / masses.sum())


def material(name: str, density: float | None = None) -> Material:
    """Return an element or a compound by its formula.

    Parameters
    ----------
    name : str
        ``Cu``, ``Cu2O``, …; elements from C to Au.
    density : float, kg/m³, optional
        Needed for compounds other than Cu2O, CuO, SiO2 and Al2O3.

    Raises
    ------
    InputError
        For a formula that cannot be read, an element outside C to Au, or a density that is not known.

    Examples
    --------
    >>> material("Cu2O").mass_fractions().round(3).tolist()
    [0.888, 0.112]
    """
    terms = re.findall(r"([A-Z][a-z]?)(\d*)", name)
    if not terms or "".join(symbol + count for symbol, count in terms) != name:
        raise InputError(f"{name!r} is not a formula; expected an element or a compound, such as Cu or Cu2O")
    for symbol, count in terms:
        if symbol not in ELEMENTS:
            raise InputError(f"{name!r}: {symbol!r} is not an element from C to Au; expected Cu or Cu2O, say")
        if count and int(count) == 0:
            raise InputError(f"{name!r}: a formula needs one atom at least of each element")
    parts = tuple((ELEMENTS[symbol], int(count or 1)) for symbol, count in terms)
    if density is None:
        if len(parts) == 1:
            density = parts[0][0].density * 1e3
        elif name in _COMPOUND_DENSITY:
            density = _COMPOUND_DENSITY[name] * 1e3
        else:
            known = ", ".join(_COMPOUND_DENSITY)
            raise InputError(f"the density of {name} is not known (known are {known}); give one in kg/m³")
    if not (math.isfinite(density) and density > 0):
        raise InputError(f"{name}: expected a density above 0 kg/m³; got {density:g} kg/m³")
    return Material(name, parts, density)


def browning_cross_section(number: int, energy: Floats) -> Floats:
    """Return Browning's total elastic cross-section, cm², for atomic number Z and energy in keV."""
    z = float(number)
    root = np.sqrt(energy)
    return np.asarray(3.0e-18 * z**1.7 / (energy + 0.005 * z**1.7 * root + 0.0007 * z**2 / root))


def browning_angles(number: int, energy: Floats) -> tuple[Floats, Floats]:
    """Return the share of screened Rutherford events and their screening α; the others are isotropic. Energy in keV."""
    z = float(number)
    ratio = 300.0 * energy ** (1.0 - z / 2000.0) / z + z**3 / (3.0e5 * energy)
    return ratio / (1.0 + ratio), 7.0e-3 / energy


def rutherford_screening(number: int, energy: Floats) -> Floats:
    """Return the screening parameter α of the plain screened Rutherford law. Energy in keV."""
    return np.asarray(3.4e-3 * float(number) ** 0.67 / energy)


def rutherford_cross_section(number: int, energy: Floats) -> Floats:
    """Return the screened Rutherford total cross-section, cm², for energy in keV."""
    alpha = rutherford_screening(number, energy)
    relativistic = ((energy + 511.0) / (energy + 1024.0)) ** 2
    return np.asarray(5.21e-21 * (number / energy) ** 2 * 4.0 * math.pi / (alpha * (1.0 + alpha)) * relativistic)


def elastic(element: Element, energy: Floats, law: ElasticLaw) -> tuple[Floats, Floats, Floats]:
    """Return cross-section (cm²), share of Rutherford events and screening α at energies in keV, each of its shape."""
    if law == "browning":
        share, alpha = browning_angles(element.number, energy)
        return browning_cross_section(element.number, energy), share, alpha
    alpha = rutherford_screening(element.number, energy)
    return rutherford_cross_section(element.number, energy), np.ones_like(energy), alpha


def stopping_power(substance: Material, energy: Floats) -> Floats:
    """Return −dE/ds after Joy and Luo, keV/cm, for energies in keV; compounds by Bragg's rule.

    dE/ds = −78500 (ρZ/(A·E)) ln(1.166 E/J′), J′ = J/(1 + k·J/E), k = 0.731 + 0.0688 log10 Z.
    """
    total = np.zeros_like(energy)
    for (element, _), fraction in zip(substance.parts, substance.mass_fractions(), strict=True):
        excitation = element.excitation * 1e-3
        k = 0.731 + 0.0688 * math.log10(element.number)
        effective = excitation / (1.0 + k * excitation / energy)
        per_mass = 78500.0 * element.number / (element.weight * energy) * np.log(1.166 * energy / effective)
        total += fraction * substance.density * 1e-3 * per_mass
    return total


def electron_range(substance: Material, energy: float) -> float:
    """Return the Kanaya–Okayama range.

    R = 0.0276 A E^1.67 / (Z^0.89 ρ) µm (keV, g/cm³); in a compound 1/(ρR) is the mean over mass fractions.

    Parameters
    ----------
    substance : Material
    energy : float, J

    Returns
    -------
    float, m

    Examples
    --------
    >>> round(electron_range(material("Cu"), 20 * KEV) * 1e6, 2)
    1.46
    """
    inverse = sum(
        fraction * element.number**0.89 / (0.0276 * element.weight)
        for (element, _), fraction in zip(substance.parts, substance.mass_fractions(), strict=True)
    )
    return float((energy / KEV) ** 1.67 / (inverse * substance.density * 1e-3)) * 1e-6


@dataclass(frozen=True, slots=True)
class SlowingTable:
    """How an electron of one beam energy slows down in one material, against the path that is left to it.

    Attributes
    ----------
    path : float, m
        Left at the beam's energy, down to ``LOWEST_ENERGY`` (continuous slowing down).
    energy : (n,) array, keV
        At equal steps of the path left: 0 to ``path``.
    mean_free_path : (n,) array, m
        Between elastic collisions.
    cumulative : (n, elements) array
        Share of collisions with this element and those before it; the last column is 1.
    share : (n, elements) array
        Of screened Rutherford among the collisions with the element; the others are isotropic.
    alpha : (n, elements) array
        Screening parameter.
    """

    path: float
    energy: Floats
    mean_free_path: Floats
    cumulative: Floats
    share: Floats
    alpha: Floats


def slowing_table(substance: Material, energy: float, law: ElasticLaw = "browning", points: int = 2049) -> SlowingTable:
    """Return the table for a beam of ``energy`` (J) in ``substance``."""
    # The integrand is smooth in ln E: the trapezium rule over 4,000 points is good to 1e-6.
    grid = np.geomspace(LOWEST_ENERGY / KEV, energy / KEV, 4001)
    slowness = 1e-2 / stopping_power(substance, grid)  # m/keV
    paths = np.concatenate(([0.0], np.cumsum(np.diff(grid) * (slowness[1:] + slowness[:-1]) / 2)))
    left = np.linspace(0.0, paths[-1], points)
    at = np.interp(left, paths, grid)
    parts = [elastic(element, at, law) for element, _ in substance.parts]
    rates = np.stack([part[0] for part in parts], axis=1) * substance.number_densities()  # 1/cm
    cumulative = np.cumsum(rates, axis=1) / rates.sum(axis=1, keepdims=True)
    cumulative[:, -1] = 1.0
    return SlowingTable(
        path=float(paths[-1]),
        energy=at,
        mean_free_path=np.asarray(1e-2 / rates.sum(axis=1)),
        cumulative=np.asarray(cumulative),
        share=np.stack([part[1] for part in parts], axis=1),
        alpha=np.stack([part[2] for part in parts], axis=1),
    )

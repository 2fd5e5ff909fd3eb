from __future__ import annotations

import itertools

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.units import KEV
from simulators.materials import (
    ELEMENTS,
    browning_angles,
    browning_cross_section,
    electron_range,
    material,
    rutherford_cross_section,
    slowing_table,
    stopping_power,
)


def test_elements_run_from_carbon_to_gold() -> None:
    numbers = [element.number for element in ELEMENTS.values()]
    assert numbers == list(range(6, 80))
    assert (ELEMENTS["C"].number, ELEMENTS["Cu"].number, ELEMENTS["Ag"].number, ELEMENTS["Au"].number) == (
        6,
        29,
        47,
        79,
    )
    weights = [element.weight for element in ELEMENTS.values()]
    inversions = sum(later < earlier for earlier, later in itertools.pairwise(weights))
    assert inversions == 3  # Ar–K, Co–Ni, Te–I


@pytest.mark.parametrize(("energy", "expected"), [(5, 0.144), (10, 0.457), (20, 1.46)])
def test_range_of_copper(energy: float, expected: float) -> None:
    assert electron_range(material("Cu"), energy * KEV) * 1e6 == pytest.approx(expected, rel=0.005)


def test_formulas_by_hand() -> None:
    # Z = 29 at 20 keV, worked out on paper from the published formulas.
    assert browning_cross_section(29, np.array([20.0]))[0] == pytest.approx(3.405e-17, rel=2e-3)
    share, alpha = browning_angles(29, np.array([20.0]))
    assert share[0] == pytest.approx(0.9949, abs=2e-4)
    assert alpha[0] == pytest.approx(3.5e-4)
    assert rutherford_cross_section(79, np.array([20.0]))[0] == pytest.approx(8.294e-17, rel=2e-3)
    assert stopping_power(material("Cu"), np.array([20.0]))[0] == pytest.approx(
        78500 * 8.94 * 29 / (63.546 * 20) * np.log(1.166 * 20 / (0.322 / (1 + 0.8316 * 0.322 / 20))), rel=1e-3
    )


def test_compounds_scatter_by_number_density() -> None:
    oxide = material("Cu2O")
    copper, oxygen = oxide.number_densities()
    assert copper == pytest.approx(2 * oxygen)
    assert oxide.mass_fractions().tolist() == pytest.approx([0.888, 0.112], abs=5e-4)
    table = slowing_table(oxide, 10 * KEV)
    assert table.cumulative[:, -1].tolist() == [1.0] * len(table.energy)
    assert 0.8 < table.cumulative[-1, 0] < 0.99


def test_slowing_down_ends_at_the_beam() -> None:
    table = slowing_table(material("Au"), 20 * KEV)
    assert table.energy[0] == pytest.approx(0.05)
    assert table.energy[-1] == pytest.approx(20.0)
    assert (np.diff(table.energy) > 0).all()
    slope = np.diff(table.energy)[-1] / (table.path / (len(table.energy) - 1))
    assert slope == pytest.approx(stopping_power(material("Au"), np.array([20.0]))[0] * 100, rel=1e-3)


@pytest.mark.parametrize("name", ["", "Xx", "U", "cu", "Cu-O", "Cu0", "2Cu", "H2O", "Fe2O3"])
def test_bad_formulas_are_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(InputError) as error:
        material(name)
    assert error.value.exit_code == 2
    assert len(error.value.message) > 20


def test_density_makes_any_compound() -> None:
    assert material("Fe2O3", 5240.0).density == 5240.0
    with pytest.raises(InputError, match="density above 0"):
        material("Fe2O3", float("nan"))

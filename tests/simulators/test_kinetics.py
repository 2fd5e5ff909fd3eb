"""Rates follow their laws, and a file of rates with a mistake is refused with its place."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import simulators.kinetics
from drivers.errors import DocumentError, InputError
from simulators.kinetics import GAS_CONSTANT, Kinetics

HOT = 1073.15
TEXT = Path(simulators.kinetics.__file__).with_name("kinetics.yaml").read_text(encoding="utf-8")


def read(tmp_path, text):
    path = tmp_path / "rates.yaml"
    path.write_text(text, encoding="utf-8")
    return Kinetics.read(path)


def test_every_law_of_the_defaults_says_where_it_comes_from():
    kinetics = Kinetics.default()
    for law in (
        kinetics.oxidation.induction,
        kinetics.oxidation.nucleation,
        kinetics.oxidation.saturation_density,
        kinetics.oxidation.lateral_growth,
        kinetics.oxidation.thickening,
        kinetics.reduction.induction,
        kinetics.reduction.nucleation,
        kinetics.reduction.front,
        kinetics.smoothing,
    ):
        assert law.source


@pytest.mark.parametrize("rate", ["metal_induction", "metal_nucleation", "front"])
def test_the_reduction_is_activated_by_115_kilojoule_per_mole(rate):
    temperatures = np.array([900.0, 1000.0, 1100.0, 1200.0])
    rates = [getattr(Kinetics.default().rates(t, 0.0, 17.0), rate) for t in temperatures]
    slope = np.polyfit(1 / temperatures, np.log(rates), 1)[0]
    assert -slope * GAS_CONSTANT == pytest.approx(115e3, rel=1e-9)


def test_the_parabolic_rate_has_the_measured_energy_and_exponent():
    kinetics = Kinetics.default()
    cold, hot = (kinetics.rates(t, 17.0, 0.0).thickening for t in (1173.15, 1323.15))
    energy = GAS_CONSTANT * math.log(hot / cold) / (1 / 1173.15 - 1 / 1323.15)
    assert energy == pytest.approx(24 * 4184.0, rel=0.001)
    low, high = (kinetics.rates(HOT, p, 0.0).thickening for p in (1.0, 10.0))
    assert math.log10(high / low) == pytest.approx(1 / 3.9, abs=0.001)


def test_without_gas_nothing_but_smoothing_happens():
    rates = Kinetics.default().rates(HOT, 0.0, 0.0)
    figures = vars(rates)
    assert {name for name, value in figures.items() if value} == {"smoothing"}


def test_in_a_mixture_the_faster_front_acts_slowed_by_the_other():
    kinetics = Kinetics.default()
    alone = kinetics.rates(HOT, 17.0, 0.0)
    both = kinetics.rates(HOT, 17.0, 5.0)
    assert 0 < both.growth < alone.growth
    assert both.front == both.metal_induction == 0
    reducing = kinetics.rates(HOT, 0.01, 30.0)
    assert reducing.growth == reducing.oxide_induction == 0
    assert reducing.front > 0
    # Where the two are equal neither acts: the change from one to the other is no jump.
    balance = kinetics.rates(HOT, 0.0, 30.0).front / kinetics.rates(HOT, 1.0, 0.0).growth
    oxygen = balance ** (1 / kinetics.oxidation.lateral_growth.pressure_exponent)
    assert kinetics.rates(HOT, oxygen, 30.0).oxidising == pytest.approx(0.0, abs=1e-9)


def test_islands_on_110_are_elongated_above_600_degrees():
    kinetics = Kinetics.default()
    assert kinetics.aspect(773.15) < 1.01
    assert kinetics.aspect(873.15) == pytest.approx((1 + kinetics.elongation.aspect) / 2)
    assert kinetics.aspect(HOT) > 2


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("value: 1.5 nm/s", "value: 1.5 nm", "a speed"),
        ("value: 1.5 nm/s", "value: -1.5 nm/s", "0 or more"),
        ("activation_energy: 60 kJ/mol", "activation_energy: 60 kJ", "J/mol"),
        ("pressure_exponent: 0.5", "pressure_exponant: 0.5", "did you mean"),
        ("shape: triangle", "shape: round", "triangle"),
        ('"111":', '"211":', "expected the orientations"),
        ("porosity: 0.3", "porosity: 1.3", "less than 1"),
    ],
)
def test_a_mistake_is_found_in_its_place(tmp_path, old, new, says):
    line = TEXT[: TEXT.index(old)].count("\n") + 1
    with pytest.raises(DocumentError, match=says) as failure:
        read(tmp_path, TEXT.replace(old, new, 1))
    # A validator of the whole table points at the table's beginning.
    assert any(0 <= line - problem.line <= 3 for problem in failure.value.problems)


def test_a_file_may_change_a_rate(tmp_path):
    kinetics = read(tmp_path, TEXT.replace("value: 1.5 nm/s", "value: 3 nm/s"))
    assert kinetics.rates(HOT, 17.0, 0.0).growth == pytest.approx(3e-9)


@pytest.mark.parametrize(
    ("temperature", "oxygen", "hydrogen", "says"),
    [
        (0.0, 1.0, 0.0, "above 0 K"),
        (math.nan, 1.0, 0.0, "above 0 K"),
        (HOT, -1.0, 0.0, "of O2"),
        (HOT, 0.0, math.inf, "of H2"),
    ],
)
def test_impossible_conditions_are_refused(temperature, oxygen, hydrogen, says):
    with pytest.raises(InputError, match=says):
        Kinetics.default().rates(temperature, oxygen, hydrogen)

"""Actions: serialised and back, whatever they carry."""

from __future__ import annotations

import doctest
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from acquisition import actions
from acquisition.actions import (
    Acquire,
    Action,
    Autofocus,
    Balance,
    BeamCheck,
    BeginSeries,
    Configure,
    CorrectDrift,
    Dark,
    Decide,
    Hold,
    Imaging,
    Note,
    Place,
    Ramp,
    Set,
    SetGas,
    Stigmation,
    action_from_json,
    action_to_json,
    actions_from_json,
    actions_to_json,
)
from acquisition.conditions import Condition, Pace
from drivers.units import ELEMENTARY_CHARGE, Q, quantity

POSITIVE = st.floats(1e-9, 1e9, allow_nan=False, allow_infinity=False)


def of(*units: str) -> st.SearchStrategy[Q]:
    return st.builds(quantity, POSITIVE, st.sampled_from(units))


TIMES, LENGTHS = of("s", "min", "h", "us"), of("um", "nm", "mm")
IMAGING = st.builds(
    Imaging,
    beam_energy=of("keV", "eV"),
    probe_current=of("nA", "pA"),
    field_of_view=LENGTHS,
    rows=st.integers(8, 4096),
    columns=st.integers(8, 4096),
    dwell_time=TIMES,
)
COMMON = {
    "address": st.text(min_size=1, max_size=30),
    "name": st.text(max_size=30),
    "on_interruption": st.sampled_from(["continue", "repeat", "safe"]),
    "needs": st.none() | st.tuples(st.text(min_size=1, max_size=30), st.sampled_from(["then", "else"])),
}
SHARES = of("", "percent")
CONDITIONS = st.one_of(
    st.builds(
        Condition,
        figure=st.just("coverage"),
        comparison=st.sampled_from(["above", "below"]),
        threshold=of("", "percent"),
    ),
    st.builds(Condition, figure=st.just("roughness"), comparison=st.just("above"), threshold=of("nm", "um")),
)
# fmt: off
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.builds(Configure, imaging=IMAGING, **COMMON),
    st.builds(SetGas, flows=st.dictionaries(st.text(min_size=1, max_size=5), of("sccm", "slm"), max_size=3), **COMMON),
    st.builds(
        Ramp,
        target=of("K", "degC"),
        rate=of("K/min", "K/s"),
        tolerance=of("K", "delta_degC"),
        at_most=st.none() | TIMES,
        **COMMON,
    ),
    st.builds(Hold, duration=TIMES, **COMMON),
    st.builds(Dark, frames=st.integers(1, 100), **COMMON),
    st.builds(
        BeginSeries,
        every=TIMES,
        count=st.integers(1, 10**6),
        stop_when=st.none() | CONDITIONS,
        pace=st.none() | st.builds(Pace, at_least=TIMES, faster_when=CONDITIONS),
        duration=st.none() | TIMES,
        **COMMON,
    ),
    st.builds(Autofocus, imaging=IMAGING, frames=st.integers(5, 51), range=LENGTHS, tolerance=LENGTHS,
              at=st.none() | st.builds(Place, x=LENGTHS, y=LENGTHS), **COMMON),
    st.builds(Stigmation, imaging=IMAGING, frames=st.integers(5, 51), range=SHARES, tolerance=SHARES, **COMMON),
    st.builds(Balance, imaging=IMAGING, dark=SHARES, bright=SHARES, percentile=SHARES, tolerance=SHARES,
              rounds=st.integers(2, 30), **COMMON),
    st.builds(BeamCheck, current=of("nA"), within=SHARES, otherwise=st.sampled_from(["warn", "suspend", "safe"]),
              **COMMON),
    st.builds(CorrectDrift, group=st.text(), number=st.integers(0, 10**6), previous=st.none() | st.text(),
              by=st.sampled_from(["beam_shift", "stage"]), limit=LENGTHS, **COMMON),
    st.builds(Decide, condition=CONDITIONS, within=TIMES, otherwise=st.sampled_from(["then", "else", "fail"]),
              at_most=st.none() | TIMES, **COMMON),
    st.builds(Acquire, group=st.none() | st.text(), number=st.integers(0, 10**6), offset=TIMES, **COMMON),
    st.builds(Set, parameter=st.text(min_size=1), value=of("mm", "K", "percent", "", "V", "K/min"), **COMMON),
    st.builds(Note, text=st.text(), **COMMON),
)
# fmt: on


@given(ACTIONS)
def test_an_action_survives_json(action: Action) -> None:
    assert action_from_json(action_to_json(action)) == action


@given(st.lists(ACTIONS, max_size=5).map(tuple))
def test_a_sequence_survives_json(sequence: tuple[Action, ...]) -> None:
    assert actions_from_json(actions_to_json(sequence)) == sequence


@given(ACTIONS)
def test_an_action_survives_the_data_that_the_log_keeps(action: Action) -> None:
    kept = json.loads(json.dumps(action.model_dump(mode="json")))
    assert action_from_json(json.dumps(kept)) == action


def test_quantities_are_value_and_unit() -> None:
    ramp = json.loads(action_to_json(Ramp(address="steps[1].ramp", target="800 degC", rate="20 K/min")))
    assert ramp["target"] == {"value": 800.0, "unit": "degC"}
    assert ramp["tolerance"] == {"value": 2.0, "unit": "K"}
    assert ramp["kind"] == "ramp"


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "explode", "address": "steps[0]"}',
        '{"kind": "hold", "address": "steps[0]", "duration": "5 K"}',
        '{"kind": "hold", "address": "steps[0]", "duration": "5 min", "temperature": "5 K"}',
        '{"kind": "hold", "duration": "5 min"}',
        "[]",
    ],
)
def test_what_is_not_an_action_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        action_from_json(text)


def test_an_action_cannot_be_changed() -> None:
    hold = Hold(address="steps[0].hold", duration="5 min")
    with pytest.raises(ValidationError):
        hold.duration = quantity(1.0, "s")


@pytest.mark.parametrize(
    ("comparison", "value", "met"),
    [
        ("above", 0.96, True),
        ("above", 0.95, False),
        ("above", 0.9, False),
        ("below", 0.9, True),
        ("below", 0.96, False),
    ],
)
def test_a_condition_compares(comparison: str, value: float, met: bool) -> None:
    condition = Condition(figure="coverage", comparison=comparison, threshold={"value": 95, "unit": "percent"})
    assert condition.met(quantity(value, "")) is met


def test_dose_of_a_frame() -> None:
    imaging = Imaging(
        beam_energy="5 keV", probe_current="1 nA", field_of_view="10 um", rows=256, columns=500, dwell_time="10 us"
    )
    # 1e-14 C in a pixel of 20 nm: 62 415 electrons in 400 nm².
    assert imaging.dose_per_frame() == pytest.approx(25.0)
    assert imaging.dose_per_frame() / ELEMENTARY_CHARGE * 1e-18 == pytest.approx(62415 / 400, rel=1e-4)
    assert imaging.scan().area == pytest.approx(10e-6 * 5.12e-6)


def test_examples_of_the_docstrings() -> None:
    assert doctest.testmod(actions).failed == 0

"""Figures and rates, decisions with their evidence, and the pace of a series."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition.actions import BeginSeries, Decide
from acquisition.adaptive import FigureHistory, Pacing, decide, interval, judge
from acquisition.conditions import Condition, Pace
from acquisition.hands import Latest
from acquisition.records import FigureEntry
from drivers.errors import DecisionError
from drivers.units import quantity

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds):
    return START + timedelta(seconds=seconds)


def history(values, *, every=10.0, unit="", sigma=0.01):
    known = FigureHistory()
    for number, value in enumerate(values):
        known.add(number, at(number * every), {"coverage": (value, sigma, unit)})
    return known


def test_the_latest_figure_and_its_age():
    latest = history([0.1, 0.2]).latest("coverage", at(25.0))
    assert latest == Latest(0.2, 0.01, "", 1, 15.0)
    assert FigureHistory().latest("coverage", at(0)) is None


def test_the_rate_is_the_slope_of_the_last_frames():
    known = history([0.02 * number for number in range(12)])
    latest = known.latest("coverage_rate", at(120.0))
    assert (latest.value, latest.unit, latest.frame) == (pytest.approx(0.002), "1/s", 11)
    assert latest.sigma == pytest.approx(0.0, abs=1e-12)
    noisy = history([0.02 * number + (-1) ** number * 0.004 for number in range(12)])
    assert noisy.latest("coverage_rate", at(120.0)).sigma > 1e-4
    assert history([0.1, 0.2]).latest("coverage_rate", at(20.0)) is None, "two frames are no rate"


def test_a_pause_between_frames_cuts_the_rate():
    known = history([0.0, 0.0, 0.0])
    for number, seconds in ((3, 2000.0), (4, 2010.0)):
        known.add(number, at(seconds), {"coverage": (0.5, 0.01, "")})
    assert known.latest("coverage_rate", at(2010.0)) is None
    known.add(5, at(2020.0), {"coverage": (0.6, 0.01, "")})
    assert known.latest("coverage_rate", at(2020.0)).value == pytest.approx(0.005)


def test_a_figure_that_comes_late_finds_its_place():
    known = FigureHistory()
    for number in (0, 2, 1, 3):
        known.add(number, at(number * 10.0), {"roughness": (float(number), None, "nm")})
    assert known.latest("roughness", at(30.0)).value == 3.0
    assert known.latest("roughness_rate", at(30.0)).value == pytest.approx(0.1)
    assert known.latest("roughness_rate", at(30.0)).unit == "nm/s"


def test_a_resumed_run_knows_the_figures_of_its_log():
    entries = [FigureEntry(n, at(10.0 * n), "roughness", 1e-9 * n, 1e-10, "m") for n in (2, 0, 1)]
    latest = FigureHistory.of(entries).latest("roughness_rate", at(20.0))
    assert latest.value == pytest.approx(1e-10)
    condition = Condition(figure="roughness_rate", comparison="above", threshold="5 nm/min")
    assert condition.met(quantity(latest.value, latest.unit))


CONDITION = Condition(figure="coverage", comparison="above", threshold={"value": 0.5, "unit": ""}, within="60 s")


@pytest.mark.parametrize(
    ("latest", "met"),
    [
        (None, None),
        (Latest(0.6, 0.01, "", 3, 61.0), None),
        (Latest(0.6, 0.01, "", 3, 60.0), True),
        (Latest(0.505, 0.01, "", 3, 5.0), False),
        (Latest(0.505, None, "", 3, 5.0), True),
        (Latest(0.4, 0.01, "", 3, 5.0), False),
    ],
)
def test_judgement(latest, met):
    assert judge(CONDITION, latest) is met


def when(otherwise, at_most=None):
    return Decide(address="steps[1].when", condition=CONDITION, within="60 s", otherwise=otherwise, at_most=at_most)


def test_a_decision_carries_its_evidence(obedient):
    obedient.figures["coverage"] = Latest(0.62, 0.02, "", 17, 12.0)
    found = decide(obedient, when("else"))
    assert found["branch"] == "then"
    assert found["fallback"] is False
    assert (found["figure"], found["value"], found["sigma"], found["frame"]) == ("coverage", 0.62, 0.02, 17)
    assert found["age"] == {"value": 12.0, "unit": "s"}
    assert found["threshold"] == {"value": 0.5, "unit": ""}
    level, kind, message = obedient.told[-1]
    assert (level, kind) == ("info", "decision")
    assert "then" in message
    assert "0.62 ± 0.02" in message


@pytest.mark.parametrize("latest", [None, Latest(0.9, 0.01, "", 3, 61.0)], ids=["absent", "late"])
@pytest.mark.parametrize("otherwise", ["then", "else"])
def test_a_late_figure_takes_the_fallback_at_once(obedient, latest, otherwise):
    if latest is not None:
        obedient.figures["coverage"] = latest
    before = obedient.clock.monotonic()
    found = decide(obedient, when(otherwise))
    assert (found["branch"], found["fallback"], found["met"]) == (otherwise, True, None)
    assert obedient.clock.monotonic() == before
    assert obedient.told[-1][0] == "warning"


def test_waiting_ends_when_a_figure_comes(obedient):
    def arrives():
        if obedient.clock.monotonic() - began >= 7.0:
            obedient.figures["coverage"] = Latest(0.2, 0.01, "", 4, 3.0)

    began, obedient.meanwhile = obedient.clock.monotonic(), arrives
    found = decide(obedient, when("wait", "5 min"))
    assert (found["branch"], found["fallback"]) == ("else", False)
    assert found["waited"] == pytest.approx(7.0)


def test_waiting_is_bounded(obedient):
    began = obedient.clock.monotonic()
    with pytest.raises(DecisionError, match="there is no coverage yet"):
        decide(obedient, when("wait", "90 s"))
    assert obedient.clock.monotonic() - began == pytest.approx(90.0)
    assert obedient.told[-1][:2] == ("error", "decision")


def test_a_recipe_may_fail_without_a_figure(obedient):
    with pytest.raises(DecisionError, match="name a branch under otherwise"):
        decide(obedient, when("fail"))


def pace(**changes):
    faster = Condition(
        figure="coverage_rate", comparison="above", threshold={"value": 0.02, "unit": "1/min"}, within="5 min"
    )
    return Pace(**{"at_least": "10 s", "faster_when": faster, **changes})


def rate(per_minute, age=5.0, sigma=0.0):
    return Latest(per_minute / 60.0, sigma / 60.0, "1/s", 9, age)


@pytest.mark.parametrize(
    ("latest", "seconds"),
    [
        (None, 60.0),
        (rate(0.0), 60.0),
        (rate(0.019), 60.0),
        (rate(0.04), 30.0),
        (rate(0.06), 20.0),
        (rate(1.0), 10.0),
        (rate(-1.0), 60.0),
        (rate(0.06, sigma=0.05), 60.0),
        (rate(0.06, age=301.0), 60.0),
    ],
)
def test_frames_come_as_often_as_the_rate_passes_the_threshold(latest, seconds):
    assert interval(pace(), 60.0, latest) == pytest.approx(seconds)


def test_what_shrinks_is_paced_too():
    below = Condition(figure="coverage_rate", comparison="below", threshold={"value": -0.02, "unit": "1/min"})
    assert interval(pace(faster_when=below), 60.0, rate(-0.06)) == pytest.approx(20.0)
    assert interval(pace(faster_when=below), 60.0, rate(0.06)) == 60.0


def test_a_pace_by_a_level_is_all_or_nothing_and_the_fallback_may_be_fast():
    level = Condition(figure="coverage", comparison="above", threshold={"value": 0.5, "unit": ""}, within="60 s")
    assert interval(pace(faster_when=level), 60.0, Latest(0.6, 0.01, "", 1, 5.0)) == 10.0
    assert interval(pace(faster_when=level, otherwise="at_least"), 60.0, None) == 10.0


@given(st.floats(-1e3, 1e3), st.floats(0, 10), st.floats(0, 1e4))
def test_an_interval_never_leaves_its_bounds(per_minute, sigma, age):
    assert 10.0 <= interval(pace(), 60.0, rate(per_minute, age, sigma)) <= 60.0


def test_a_change_of_pace_goes_to_the_log_once(obedient):
    pacing = Pacing(BeginSeries(address="s", every="60 s", count=9, pace=pace(), duration="10 min"))
    assert pacing.due(obedient) == 0.0
    pacing.began(obedient, 0.0)
    assert pacing.due(obedient) == 60.0
    obedient.figures["coverage_rate"] = rate(0.06)
    assert pacing.due(obedient) == pytest.approx(20.0)
    pacing.began(obedient, 20.0)
    pacing.began(obedient, 40.0)
    assert [message for _, kind, message in obedient.told if kind == "decision"] == [
        "s: a frame every 20 s, as coverage rate is 0.06 ± 0 1/min, 5 s old, asked for: coverage rate above 0.02 1/min"
    ]
    assert not pacing.over(600.0)
    assert pacing.over(600.1)

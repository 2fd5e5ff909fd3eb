"""The model of time: against a heater that is simulated step by step, and against the engine's rules."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from acquisition.actions import Ramp
from acquisition.recipe import compile_recipe, outline, parse_recipe
from acquisition.timing import Moment, Timing, play
from drivers.contract import Instrument, ScanTiming
from drivers.errors import InputError
from drivers.units import si

IMAGING = "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 512, dwell_time: 10 us}\n"
TIMING = Timing(ScanTiming(line=1e-4, frame=0.2), start_temperature=300.0, gas_settling=3.0, heater_lag=20.0)
FRAME = 512 * (512 * 10e-6 + 1e-4) + 0.2


def moments(steps: str, timing: Timing = TIMING) -> list[Moment]:
    return list(play(outline(parse_recipe(f"name: a\n{IMAGING}steps:\n{steps}").recipe), timing))


def lagging_heater(start: float, ramp: Ramp, lag: float, step: float = 1e-3) -> float:
    """Return when a sensor that lags behind a moving working setpoint has arrived for good, s."""
    target, rate, tolerance = si(ramp.target), si(ramp.rate), si(ramp.tolerance)
    working = sensor = start
    direction = 1.0 if target > start else -1.0
    time = 0.0
    while working != target or abs(sensor - target) > tolerance:
        working = min(working + rate * step, target) if direction > 0 else max(working - rate * step, target)
        sensor += (working - sensor) * step / lag
        time += step
    return time


@pytest.mark.parametrize(
    ("start", "target", "rate", "lag", "tolerance"),
    [
        (300.0, "800 K", "60 K/min", 20.0, "2 K"),
        (1000.0, "900 K", "20 K/min", 20.0, "2 K"),
        (300.0, "320 K", "100 K/min", 60.0, "1 K"),
        (300.0, "350 K", "10 K/min", 5.0, "2 K"),
    ],
)
def test_a_ramp_takes_as_long_as_a_lagging_heater(
    start: float, target: str, rate: str, lag: float, tolerance: str
) -> None:
    ramp = Ramp(address="steps[0].ramp", target=target, rate=rate, tolerance=tolerance)
    model = Timing(ScanTiming(), heater_lag=lag).ramp(start, ramp)
    assert model == pytest.approx(lagging_heater(start, ramp, lag), rel=2e-3)


def test_a_ramp_to_where_the_heater_is_takes_no_time() -> None:
    ramp = Ramp(address="a", target="300 K", rate="1 K/min")
    assert TIMING.ramp(300.5, ramp) == 0.0
    assert Timing(ScanTiming(), heater_lag=0.0).ramp(290.0, ramp) == pytest.approx(600.0)


def test_everything_follows_in_its_time() -> None:
    found = moments(
        """
  - dark: 2
  - gas: {N2: 20 sccm}
    ramp: {heater: 400 K, rate: 60 K/min}
  - hold: 5 min
  - gas: {N2: 20 sccm}
    series: {every: 30 s, count: 3}
  - frames: 2
"""
    )
    ramp = TIMING.ramp(300.0, found[3].action)
    expected = [
        ("configure", 0.0), ("dark", 2 * FRAME), ("gas", 3.0), ("ramp", ramp), ("hold", 300.0),
        ("gas", 0.0), ("series", 60.0 + FRAME), ("frame", FRAME), ("frame", FRAME),
    ]  # fmt: skip
    assert [moment.action.kind for moment in found] == [kind for kind, _ in expected]
    assert [moment.duration for moment in found] == pytest.approx([seconds for _, seconds in expected])
    for before, after in pairwise(found):
        assert after.start == pytest.approx(before.end)
    assert [round(moment.temperature) for moment in found] == [300, 300, 300] + 6 * [400]


def test_frames_of_a_series_are_passed_over_when_they_are_there() -> None:
    recipe = parse_recipe(f"name: a\n{IMAGING}steps:\n  - series: {{every: 30 s, count: 50}}\n").recipe
    assert list(play(compile_recipe(recipe), TIMING)) == list(play(outline(recipe), TIMING))


def test_a_smaller_field_takes_its_own_time() -> None:
    found = moments("  - imaging: {pixels: 64}\n    frame: true\n  - frame: true\n")
    small = 64 * (64 * 10e-6 + 1e-4) + 0.2
    assert [moment.duration for moment in found if moment.action.kind == "frame"] == pytest.approx([small, FRAME])


def test_timing_is_taken_from_the_instrument(make_paper_instrument: Callable[..., Instrument]) -> None:
    timing = Timing.of(make_paper_instrument({"heater": {"time_constant": "45 s"}}, timing=ScanTiming(1e-3, 1.0)))
    assert (timing.heater_lag, timing.scan, timing.start_temperature) == (45.0, ScanTiming(1e-3, 1.0), 298.15)
    assert Timing.of(make_paper_instrument({})).heater_lag == 20.0
    with pytest.raises(InputError, match="expected a time"):
        Timing.of(make_paper_instrument({"heater": {"time_constant": "45 K"}}))


def test_what_closes_has_closed_before_anything_opens() -> None:
    steps = ["{H2: 10 sccm}", "{N2: 20 sccm}", "{N2: 30 sccm}", "{N2: 30 sccm, O2: 0 sccm}", "{N2: 0 sccm}", "{}"]
    found = moments("".join(f"  - gas: {mixture}\n" for mixture in steps))
    gases = [moment for moment in found if moment.action.kind == "gas"]
    assert [moment.duration for moment in gases] == [3.0, 6.0, 3.0, 0.0, 3.0, 0.0]

"""The dry run of what decides for itself: the most that any way takes, and every way's gas, limits and dose."""

from __future__ import annotations

import pytest

from acquisition.effort import PASSES, SETTLING, VERIFYING
from acquisition.plan import Plan, check
from acquisition.recipe import parse_recipe
from drivers.contract import Instrument
from drivers.errors import DocumentError

IMAGING = "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 500, dwell_time: 10 us}\n"
PIXEL_DOSE = 1e-9 * 10e-6 / 20e-9**2  # C/m²
FRAME = 500 * (500 * 10e-6 + 1e-4) + 0.2
WHEN = "when: {coverage: above 0.5, within: 60 s, otherwise: else}"


def plan(steps: str, instrument: Instrument, head: str = IMAGING) -> Plan:
    return check(parse_recipe(f"name: a night\n{head}steps:\n{steps}", "night.yaml"), instrument)


def problems(steps: str, instrument: Instrument, head: str = IMAGING) -> list[tuple[str, str]]:
    with pytest.raises(DocumentError) as caught:
        plan(steps, instrument, head)
    return [(problem.address, problem.message) for problem in caught.value.problems]


def test_the_most_of_any_way_is_told(paper_instrument: Instrument) -> None:
    found = plan(f"  - {WHEN}\n    then: [{{frames: 4}}]\n    else: [{{hold: 1 h}}]\n", paper_instrument)
    assert found.frames == 4
    assert found.duration == pytest.approx(3600.0)
    assert found.dose == pytest.approx(4 * PIXEL_DOSE)
    assert found.notes[0].startswith("it depends on decisions: from 11 s to 1 h, from 0 to 4 frames")


def test_waiting_for_a_figure_counts(paper_instrument: Instrument) -> None:
    wait = "when: {coverage: above 0.5, within: 60 s, otherwise: wait, at_most: 7 min}"
    found = plan(f"  - {wait}\n    then: [{{hold: 1 min}}]\n", paper_instrument)
    assert found.duration == pytest.approx(480.0)


def test_a_pace_is_told_by_its_bounds(paper_instrument: Instrument) -> None:
    every = "every: {at_most: 60 s, at_least: 10 s, faster_when: {coverage_rate: above 0.02 /min}}"
    found = plan(f"  - series: {{{every}, for: 30 min}}\n    name: growth\n", paper_instrument)
    assert found.frames == 181
    assert found.duration == pytest.approx(1800.0 + FRAME)
    assert any(note == "growth takes from 31 to 181 frames, as fast as the surface changes" for note in found.notes)
    found = plan(f"  - series: {{{every}, count: 31}}\n    name: growth\n", paper_instrument)
    assert found.duration == pytest.approx(30 * 60.0 + FRAME)
    assert any(note.startswith("growth lasts from 5 min to 30 min") for note in found.notes)


def test_a_pace_faster_than_a_frame_is_refused(paper_instrument: Instrument) -> None:
    every = "every: {at_most: 60 s, at_least: 1 s, faster_when: {coverage_rate: above 0.02 /min}}"
    ((address, message),) = problems(f"  - series: {{{every}, count: 31}}\n", paper_instrument)
    assert address == "steps[0].series"
    assert "every 1 s is too often" in message


def test_a_search_counts_with_its_dose_where_it_is_taken(paper_instrument: Instrument) -> None:
    frames = PASSES * 9 + VERIFYING
    look = 1e-9 * 10e-6 / (10e-6 / 128) ** 2
    here = plan("  - frame: true\n  - autofocus: {}\n", paper_instrument)
    assert here.dose == pytest.approx(PIXEL_DOSE + frames * look)
    assert here.frames == 1, "what is not kept takes no disk"
    lasts = 128 * (128 * 10e-6 + 1e-4) + 0.2 + SETTLING
    assert here.duration == pytest.approx(FRAME + frames * lasts)
    aside = plan("  - frame: true\n  - autofocus: {at: {x: 12 um}}\n", paper_instrument)
    assert aside.dose == pytest.approx(max(PIXEL_DOSE, frames * look))


def test_a_search_beyond_the_dose_limit_is_refused(paper_instrument: Instrument) -> None:
    head = f"{IMAGING}limits: {{dose: 30 C/m**2}}\n"
    assert plan("  - frame: true\n", paper_instrument, head).dose == pytest.approx(25.0)
    ((address, _),) = problems("  - frame: true\n  - autofocus: {}\n", paper_instrument, head)
    assert address == "limits.dose"


def test_gas_is_followed_on_every_way(paper_instrument: Instrument) -> None:
    steps = f"  - gas: {{H2: 10 sccm}}\n  - {WHEN}\n    then: [{{purge: {{N2: 20 sccm, for: 5 min}}}}]\n"
    found = problems(f"{steps}  - gas: {{O2: 5 sccm}}\n", paper_instrument)
    assert [address for address, _ in found] == ["steps[2].gas"]
    assert "H2 that is left" in found[0][1]
    assert plan(
        f"{steps}    else: [{{purge: {{N2: 20 sccm, for: 5 min}}}}]\n  - gas: {{O2: 5 sccm}}\n", paper_instrument
    )


def test_gases_that_alternate_in_a_repeat_are_found(paper_instrument: Instrument) -> None:
    steps = (
        f"  - repeat: 9\n    steps:\n      - {WHEN}\n        then: [{{gas: {{O2: 5 sccm}}}}]\n"
        "        else: [{gas: {H2: 5 sccm}}]\n"
    )
    found = problems(steps, paper_instrument)
    assert {address for address, _ in found} == {"steps[0].steps[0].then[0].gas", "steps[0].steps[0].else[0].gas"}


LIMITS = {
    "current": ("  - beam_check: {current: 1 uA, within: 5 %}\n", "steps[0].beam_check.current"),
    "focus": ("  - autofocus: {range: 2 cm}\n", "steps[0].autofocus.range"),
    "shift": (
        "  - series: {every: 9 s, count: 9, correct_drift: {every: 2, limit: 30 um}}\n",
        "steps[0].series.correct_drift.limit",
    ),
    "in a branch": (
        f"  - {WHEN}\n    else: [{{ramp: {{heater: 2000 K, rate: 1 K/s}}}}]\n",
        "steps[0].else[0].ramp.heater",
    ),
}


@pytest.mark.parametrize(("steps", "address"), LIMITS.values(), ids=LIMITS)
def test_limits_of_the_instrument(paper_instrument: Instrument, steps: str, address: str) -> None:
    assert [found for found, _ in problems(steps, paper_instrument)] == [address]


def test_levels_make_darks_stale(paper_instrument: Instrument) -> None:
    found = plan("  - dark: 2\n  - balance: {}\n  - frame: true\n", paper_instrument)
    assert any("was set since the last dark frames" in note for note in found.notes)


def test_corrections_are_no_frames(paper_instrument: Instrument) -> None:
    with_them = plan("  - series: {every: 9 s, count: 9, correct_drift: {every: 2}}\n", paper_instrument)
    without = plan("  - series: {every: 9 s, count: 9}\n", paper_instrument)
    assert (with_them.frames, with_them.duration, with_them.disk_bytes) == (
        without.frames, without.duration, without.disk_bytes,
    )  # fmt: skip

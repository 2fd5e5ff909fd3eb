"""The dry run: sums that can be worked out by hand, limits of instrument and recipe, and the ready-made recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from acquisition.plan import Plan, check, check_file
from acquisition.recipe import compile_recipe, load_recipe, parse_recipe, ready_made
from acquisition.timing import Timing
from drivers.contract import Instrument, ScanTiming
from drivers.errors import DocumentError, InputError, Problem
from drivers.units import parse_quantity

IMAGING = "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 500, dwell_time: 10 us}\n"
PIXEL_DOSE = 1e-9 * 10e-6 / 20e-9**2  # C/m²


def plan(steps: str, instrument: Instrument, head: str = IMAGING) -> Plan:
    return check(parse_recipe(f"name: a night\n{head}steps:\n{steps}", "night.yaml"), instrument)


def problems(steps: str, instrument: Instrument, head: str = IMAGING) -> tuple[Problem, ...]:
    with pytest.raises(DocumentError) as caught:
        plan(steps, instrument, head)
    return caught.value.problems


def test_sums(paper_instrument: Instrument) -> None:
    found = plan(
        """
  - dark: 4
  - frames: 3
  - gas: {H2: 10 sccm}
    ramp: {heater: 800 degC, rate: 20 K/min}
  - repeat: 2
    steps:
      - series: {every: 30 s, count: 10}
      - dark: 1
  - imaging: {field_of_view: 5 um}
    frame: true
""",
        paper_instrument,
    )
    frame = 500 * (500 * 10e-6 + 1e-4) + 0.2
    ramp = Timing.of(paper_instrument).ramp(298.15, compile_recipe(load_ramp())[0])
    assert (found.frames, found.darks) == (24, 6)
    assert found.duration == pytest.approx(7 * frame + 2 + ramp + 2 * (9 * 30 + frame + frame) + frame)
    assert found.dose == pytest.approx(23 * PIXEL_DOSE + 4 * PIXEL_DOSE)
    assert found.electrons_per_area == pytest.approx(27 * 62415.09 / 400e-18, rel=1e-6)
    assert found.disk_bytes == 30 * (4 * 500 * 500 * 2 + 16_384)
    assert found.maximum_temperature == pytest.approx(1073.15)
    assert found.maximum_pressure == pytest.approx(34.0, rel=0.01)
    assert found.actions == 1 + 1 + 3 + 2 + 2 * (1 + 10 + 1) + 2


def load_ramp():
    return parse_recipe("name: a\nsteps: [{ramp: {heater: 800 degC, rate: 20 K/min}}]\n").recipe


def test_the_timeline_has_no_gaps_and_names_everything(paper_instrument: Instrument) -> None:
    found = plan(
        "  - purge: {N2: 20 sccm, for: 5 min}\n  - dark: 2\n    name: offsets\n  - series: {every: 30 s, for: 1 min}\n"
        "  - set: {column.focus: 8.01 mm}\n  - note: done\n  - gas: {}\n",
        paper_instrument,
    )
    now = 0.0
    for entry in found.timeline:
        assert entry.start == pytest.approx(now)
        now = entry.start + entry.duration
    assert now == pytest.approx(found.duration)
    assert [(entry.address, entry.label) for entry in found.timeline] == [
        ("imaging", "5 keV, 1 nA, 500 × 500 over 10 um, 10 us a pixel"),
        ("steps[0].purge.gas", "N2 20 sccm"),
        ("steps[0].purge.hold", "hold for 5 min"),
        ("steps[1].dark", "offsets: 2 dark frames"),
        ("steps[2].series", "series of 3 frames, one every 30 s"),
        ("steps[3].set.column.focus", "set column.focus to 8.01 mm"),
        ("steps[4].note", "done"),
        ("steps[5].gas", "no gas"),
    ]


def test_a_plan_is_json_of_values_and_units(paper_instrument: Instrument) -> None:
    found = json.loads(json.dumps(plan("  - frames: 2\n", paper_instrument).to_json()))
    assert found["frames"] == 2
    assert found["dose"] == {"value": pytest.approx(2 * PIXEL_DOSE), "unit": "C/m**2"}
    assert found["electrons_per_area"] == {"value": pytest.approx(2 * 62415.09 / 400), "unit": "1/nm**2"}
    assert found["timeline"][1]["label"] == "frame 1"
    for key in ("duration", "dose", "disk", "maximum_temperature", "maximum_pressure", "electrons_per_area"):
        parse_quantity(f"{found[key]['value']} {found[key]['unit']}")


# The step in line 4, where the problem lies, the fact, and the remedy.
BEYOND = {
    "too hot": (
        "  - ramp: {heater: 1500 K, rate: 20 K/min}",
        "4:20: steps[0].ramp.heater",
        "1500 K is above the upper limit of heater.temperature",
        "write a value from 273 K to 1273 K",
    ),
    "too fast": (
        "  - ramp: {heater: 500 K, rate: 200 K/min}",
        "4:33: steps[0].ramp.rate",
        "200 K/min is above the upper limit of heater.rate",
        "write a value from 0.1 K/min to 100 K/min",
    ),
    "too long": (
        "  - ramp: {heater: 900 K, rate: 20 K/min, at_most: 10 min}",
        "4:11: steps[0].ramp",
        "the ramp takes about 30.5 min, longer than at_most 10 min",
        "write a faster rate, or more time",
    ),
    "unknown gas": (
        "  - gas: {N3: 5 sccm}",
        "4:15: steps[0].gas.N3",
        "this instrument has no gas 'N3'",
        "it has H2, N2, O2",
    ),
    "gas with a small letter": (
        "  - gas: {h2: 5 sccm}",
        "4:15: steps[0].gas.h2",
        "this instrument has no gas 'h2'",
        "did you mean 'H2'?",
    ),
    "gas of another laboratory": (
        "  - purge: {Xe: 5 sccm, for: 5 min}",
        "4:17: steps[0].purge.Xe",
        "this instrument has no gas 'Xe'",
        "it has H2, N2, O2",
    ),
    "too much gas": (
        "  - gas: {O2: 0.1 slm}",
        "4:15: steps[0].gas.O2",
        "0.1 slm is above the upper limit of gas.O2.flow",
        "write a value from 0 slm to 0.02 slm",
    ),
    "purge with oxygen": (
        "  - purge: {O2: 5 sccm, for: 5 min}",
        "4:17: steps[0].purge.O2",
        "O2 reacts, and cannot purge",
        "choose N2",
    ),
    "frames too often": (
        "  - series: {every: 2 s, count: 9}",
        "4:13: steps[0].series",
        "a frame takes 2.75 s, so every 2 s is too often",
        "write a longer time, or take fewer pixels or a shorter dwell time",
    ),
    "unknown parameter": (
        "  - set: {column.focs: 8 mm}",
        "4:24: steps[0].set.column.focs",
        "this instrument has no parameter 'column.focs'",
        "did you mean 'column.focus'?",
    ),
    "parameter of another dimension": (
        "  - set: {column.focus: 8 K}",
        "4:25: steps[0].set.column.focus",
        "8 K is a temperature",
        "expected a length, such as 10 um (column.focus)",
    ),
    "parameter beyond": (
        "  - set: {stage.tilt: 50 deg}",
        "4:23: steps[0].set.stage.tilt",
        "50 deg is above the upper limit of stage.tilt",
        "write a value from -10 deg to 10 deg",
    ),
    "a length on another scale": (
        "  - set: {column.focus: 8 nm}",
        "4:25: steps[0].set.column.focus",
        "8 nm is below the lower limit of column.focus",
        "write a value from 4 mm to 20 mm",
    ),
    "degrees Celsius": (
        "  - ramp: {heater: 1100 degC, rate: 10 degC/min}",
        "4:20: steps[0].ramp.heater",
        "1100 degC is above the upper limit of heater.temperature",
        "write a value from -0.15 degC to 999.85 degC",
    ),
    "a rate in degrees Celsius": (
        "  - ramp: {heater: 500 degC, rate: 200 degC/min}",
        "4:36: steps[0].ramp.rate",
        "200 K/min is above the upper limit of heater.rate",
        "write a value from 0.1 K/min to 100 K/min",
    ),
    "past the ramp": (
        "  - set: {heater.temperature: 500 K}",
        "4:31: steps[0].set.heater.temperature",
        "heater.temperature belongs to ramp, whose rules set would pass by",
        "write it with ramp",
    ),
    "past the gas rules": (
        "  - set: {gas.H2.flow: 5 sccm}",
        "4:24: steps[0].set.gas.H2.flow",
        "gas.H2.flow belongs to gas, whose rules set would pass by",
        "write it with gas",
    ),
    "beam energy of a step": (
        "  - {imaging: {beam_energy: 50 keV}, frame: true}",
        "4:29: steps[0].imaging.beam_energy",
        "50 keV is above the upper limit of column.beam_energy",
        "write a value from 0.5 keV to 30 keV",
    ),
}


@pytest.mark.parametrize(("step", "where", "fact", "remedy"), BEYOND.values(), ids=BEYOND)
def test_beyond_the_instrument(paper_instrument: Instrument, step: str, where: str, fact: str, remedy: str) -> None:
    (problem,) = problems(f"{step}\n", paper_instrument)
    assert str(problem) == f"night.yaml:{where}: {fact}; {remedy}"


def test_imaging_beyond_the_column(paper_instrument: Instrument) -> None:
    head = IMAGING.replace("5 keV", "50 keV").replace("1 nA", "1 uA")
    found = problems("  - frame: true\n  - imaging: {pixels: 64}\n    frame: true\n", paper_instrument, head)
    assert [problem.address for problem in found] == ["imaging.beam_energy", "imaging.probe_current"]


LIMITS = {
    "heater": ("{heater: 700 degC}", "steps[0].ramp.heater", "800 degC is above the recipe's own limit of 700 degC"),
    "pressure": ("{pressure: 30 Pa}", "steps[1].gas", "the pressure would be 34 Pa"),
    "dose": ("{dose: 200 C/m**2}", "limits.dose", "9 frames bring up to 225 C/m**2"),
}


@pytest.mark.parametrize(("limits", "address", "words"), LIMITS.values(), ids=LIMITS)
def test_beyond_the_recipe_itself(paper_instrument: Instrument, limits: str, address: str, words: str) -> None:
    steps = "  - ramp: {heater: 800 degC, rate: 20 K/min}\n  - gas: {H2: 10 sccm}\n  - frames: 9\n"
    (problem,) = problems(steps, paper_instrument, f"{IMAGING}limits: {limits}\n")
    assert problem.address == address
    assert words in problem.message
    wide = "limits: {heater: 800 degC, pressure: 34.5 Pa, dose: 225 C/m**2}\n"
    assert plan(steps, paper_instrument, IMAGING + wide).frames == 9


def test_all_problems_at_once(paper_instrument: Instrument) -> None:
    steps = """
  - gas: {H2: 500 sccm}
  - ramp: {heater: 2000 K, rate: 500 K/min}
  - gas: {O2: 5 sccm}
  - repeat: 3
    steps:
      - series: {every: 1 s, count: 5}
"""
    found = problems(steps, paper_instrument, IMAGING + "limits: {dose: 1 C/m**2, pressure: 100 Pa}\n")
    assert [problem.address for problem in found] == [
        "limits.dose",
        "steps[0].gas",
        "steps[0].gas.H2",
        "steps[1].ramp.heater",
        "steps[1].ramp.rate",
        "steps[2].gas",
        "steps[3].steps[0].series",
    ]


def test_what_cannot_be_read_does_not_hide_what_is_beyond(paper_instrument: Instrument, tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    path.write_text(
        """\
nmae: a
imaging: {beam_energy: 50 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 512, dwell_time: 10 us}
limits: {heater: 300 degC}
steps:
  - ramp: {heater: 1500 K, rate: 20 K/min}
  - hodl: 5 min
  - repeat: 0
    steps: [{gas: {Xe: 1 sccm}}]
""",
        "utf-8",
    )
    with pytest.raises(DocumentError) as caught:
        check_file(path, paper_instrument)
    assert [problem.address for problem in caught.value.problems] == [
        "",
        "nmae",
        "imaging.beam_energy",
        "steps[0].ramp.heater",
        "steps[0].ramp.heater",
        "steps[1].hodl",
        "steps[2].repeat",
        "steps[2].steps[0].gas.Xe",
    ]


@pytest.mark.parametrize("content", [b"", b"- a\n", b"name: [\n", b"\xff\xfe", b"a: 1\na: 2\n"])
def test_files_that_are_no_recipe_at_all(paper_instrument: Instrument, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "night.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"night\.yaml"):
        check_file(path, paper_instrument)


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        (("set: {stage.x: 0 mm}", "frames: 3", "set: {stage.x: 1 mm}", "frames: 2"), 3),
        (("set: {stage.x: 0 mm}", "frames: 3", "set: {stage.x: 4 um}", "frames: 2"), 5),
        (
            (
                "set: {stage.x: 0 mm}",
                "frames: 3",
                "set: {stage.x: 1 mm}",
                "frames: 2",
                "set: {stage.x: 0 um}",
                "frame: true",
            ),
            4,
        ),
        (("set: {column.beam_shift_y: 0 um}", "frames: 3", "set: {column.beam_shift_y: 12 um}", "frames: 4"), 4),
        (("frames: 3", "set: {stage.x: 1 mm}", "frames: 2"), 5),
        (("frames: 3", "set: {column.focus: 9 mm}", "frames: 2"), 5),
    ],
)
def test_the_dose_is_that_of_one_place(paper_instrument: Instrument, steps: tuple[str, ...], most: int) -> None:
    found = plan("".join(f"  - {step}\n" for step in steps), paper_instrument)
    assert found.dose == pytest.approx(most * PIXEL_DOSE)


NOTES = {
    "no darks": ("  - frame: true\n", "steps[0].frame: no dark frames before"),
    "glow": (
        (
            "  - dark: 2\n  - ramp: {heater: 800 K, rate: 1 K/s}\n  - frame: true\n"
            "  - ramp: {heater: 300 K, rate: 1 K/s}\n"
        ),
        "steps[2].frame: the last dark frames were taken at 298 K, the frames are at 800 K",
    ),
    "contrast": (
        "  - dark: 2\n  - set: {detector.A.contrast: 60 percent}\n  - frames: 3\n",
        "steps[2].frames[0]: detector.A.contrast was set since the last dark frames",
    ),
    "dwell time": (
        "  - dark: 2\n  - imaging: {dwell_time: 20 us}\n    frame: true\n",
        "steps[1].frame: the last dark frames had a dwell time of 10 us, the frames have 20 us",
    ),
    "stop": (
        "  - dark: 2\n  - series: {every: 30 s, count: 9, stop_when: {coverage: below 0.1}}\n    name: reduction\n",
        "reduction may end early: when coverage is below 0.1",
    ),
    "hot end": ("  - ramp: {heater: 800 K, rate: 20 K/min}\n", "the recipe ends at 800 K"),
    "open gas": ("  - gas: {H2: 5 sccm, N2: 5 sccm}\n", "the recipe ends with H2 flowing"),
}


@pytest.mark.parametrize(("steps", "words"), NOTES.values(), ids=NOTES)
def test_notes(paper_instrument: Instrument, steps: str, words: str) -> None:
    (note,) = plan(steps, paper_instrument).notes
    assert note.startswith(words)


def test_a_pressure_that_cannot_be_foretold_is_told(make_paper_instrument: Callable[..., Instrument]) -> None:
    head = f"{IMAGING}limits: {{pressure: 1 Pa}}\n"
    found = plan("  - gas: {N2: 50 sccm}\n", make_paper_instrument({}), head)
    assert found.maximum_pressure is None
    assert found.to_json()["maximum_pressure"] is None
    assert "cannot be foretold" in found.notes[0]


def test_frames_follow_the_detector(make_paper_instrument: Callable[..., Instrument]) -> None:
    instrument = make_paper_instrument(segments=6, timing=ScanTiming(0.0, 0.0))
    found = plan("  - frames: 2\n", instrument)
    assert found.disk_bytes == 2 * (6 * 500 * 500 * 2 + 16_384)
    assert found.duration == pytest.approx(2 * 2.5)


def test_a_million_frames_are_planned_at_once(paper_instrument: Instrument) -> None:
    found = plan("  - series: {every: 30 s, count: 999000}\n", paper_instrument)
    assert found.frames == 999_000
    assert len(found.timeline) == 2


@pytest.mark.parametrize("name", sorted(ready_made()))
def test_ready_made_recipes_check(paper_instrument: Instrument, name: str) -> None:
    loaded, found = check_file(ready_made()[name], paper_instrument)
    assert found.name == loaded.recipe.name
    assert found.darks > 0
    of_decisions = ("may end early", "it depends on decisions", "as fast as the surface changes")
    assert [note for note in found.notes if not any(words in note for words in of_decisions)] == []


def test_the_demo(paper_instrument: Instrument) -> None:
    found = check(load_recipe(ready_made()["copper-redox"]), paper_instrument)
    assert found.frames >= 60
    assert 4 <= found.darks <= 20
    assert 2 * 3600 < found.duration < 12 * 3600
    assert found.maximum_temperature == pytest.approx(1073.15)
    assert found.disk_bytes < 1e9

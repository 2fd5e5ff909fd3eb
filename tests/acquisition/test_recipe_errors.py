"""Recipes that are wrong: each mistake found, with its place in the text and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition.recipe import compile_recipe, load_recipe, parse_recipe
from drivers.errors import DocumentError, InputError, Problem

HEAD = """\
name: a night
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 512, dwell_time: 10 us}
steps:
"""

# What stands in line 4, where the one problem lies, its address, and what the message says.
STEPS = {
    "wrong key": ("  - hodl: 5 min", 5, "steps[0].hodl", ["'hodl' is not a key here", "did you mean 'hold'"]),
    "wrong key inside": ("  - ramp: {heeter: 5 K, heater: 5 K, rate: 1 K/s}", 12, "steps[0].ramp.heeter", ["'heater'"]),
    "missing key": ("  - ramp: {heater: 800 degC}", 11, "steps[0].ramp", ["the key 'rate' is missing"]),
    "missing time of a purge": ("  - purge: {N2: 20 sccm}", 12, "steps[0].purge", ["the key 'for' is missing"]),
    "key twice": ("  - {hold: 5 min, hold: 6 min}", 19, "steps[0].hold", ["stands twice", "line 4"]),
    "no unit": ("  - hold: 400", 11, "steps[0].hold", ["'400' has no unit", "30 s"]),
    "unknown unit": ("  - hold: 5 mins_", 11, "steps[0].hold", ["'5 mins_'", "not known"]),
    "wrong dimension": ("  - hold: 5 kg", 11, "steps[0].hold", ["5 kg is a mass", "expected a time"]),
    "coulomb": ("  - ramp: {heater: 800 C, rate: 1 K/s}", 20, "steps[0].ramp.heater", ["write degC"]),
    "comma": ('  - hold: "1,5 min"', 11, "steps[0].hold", ["comma", "'1.5 min'"]),
    "two numbers": ("  - hold: 2 h 30 min", 11, "steps[0].hold", ["more than one number", "150 min"]),
    "negative time": ("  - hold: -5 min", 11, "steps[0].hold", ["above zero", "-5 min"]),
    "no time at all": ("  - hold: 0 s", 11, "steps[0].hold", ["above zero"]),
    "slip of the unit": ("  - hold: 400 d", 11, "steps[0].hold", ["366 d", "check the unit"]),
    "below absolute zero": ("  - ramp: {heater: -5 K, rate: 1 K/s}", 20, "steps[0].ramp.heater", ["absolute zero"]),
    "rate with a sign": ("  - ramp: {heater: 5 K, rate: -1 K/s}", 31, "steps[0].ramp.rate", ["heats or cools"]),
    "negative flow": ("  - gas: {H2: -1 sccm}", 15, "steps[0].gas.H2", ["0 sccm or more", "-1 sccm"]),
    "flow in pascal": ("  - gas: {H2: 1 Pa}", 15, "steps[0].gas.H2", ["a pressure", "20 sccm"]),
    "a gas that YAML eats": ("  - gas: {NO: 1 sccm}", 11, "steps[0].gas.NO", ["'NO'", "quotes"]),
    "a time in base 60": ("  - hold: 12:30:00", 11, "steps[0].hold", ["'12:30:00'", "quotes"]),
    "purge without gas": ("  - purge: {for: 5 min}", 12, "steps[0].purge", ["names no gas", "N2: 20 sccm"]),
    "purge with closed gas": ("  - purge: {N2: 0 sccm, for: 5 min}", 12, "steps[0].purge", ["names no gas"]),
    "no value": ("  - hold:", 10, "steps[0].hold", ["has no value"]),
    "step of nothing": ("  - name: x", 5, "steps[0]", ["does nothing", "hold"]),
    "ramp that is a word": ("  - ramp: fast", 11, "steps[0].ramp", ["such as {heater: 800 degC, rate: 20 K/min}"]),
    "step that is a word": ("  - hold", 5, "steps[0]", ["expected keys with values", "'hold'"]),
    "step that is empty": ("  -", 4, "steps[0]", ["expected keys with values"]),
    "two verbs": ("  - {hold: 5 min, frame: true}", 5, "steps[0]", ["hold and frame", "two steps"]),
    "gas and two verbs": ("  - {gas: {}, hold: 5 min, dark: 2}", 5, "steps[0]", ["gas, hold and dark", "each"]),
    "gas and purge": ("  - {gas: {}, purge: {N2: 1 sccm, for: 1 s}}", 5, "steps[0]", ["gas and purge"]),
    "repeat without steps": ("  - repeat: 3", 5, "steps[0]", ["repeat needs steps"]),
    "steps without repeat": ("  - steps: [{hold: 1 s}]", 5, "steps[0]", ["repeat: 3"]),
    "repeat of no steps": ("  - {repeat: 3, steps: []}", 24, "steps[0].steps", ["no steps"]),
    "repeat 0": ("  - {repeat: 0, steps: [{hold: 1 s}]}", 14, "steps[0].repeat", ["from 1 to 10000", "got 0"]),
    "repeat 10 001": ("  - {repeat: 10001, steps: [{hold: 1 s}]}", 14, "steps[0].repeat", ["got 10001"]),
    "repeat half": ("  - {repeat: 1.5, steps: [{hold: 1 s}]}", 14, "steps[0].repeat", ["whole number", "1.5"]),
    "repeat true": ("  - {repeat: true, steps: [{hold: 1 s}]}", 14, "steps[0].repeat", ["whole number", "True"]),
    "repeat a word": ("  - {repeat: often, steps: [{hold: 1 s}]}", 14, "steps[0].repeat", ["'often'"]),
    "too many actions": (
        "  - {repeat: 9999, steps: [{frames: 101}]}",
        5,
        "steps[0]",
        ["1009899 actions", "1000000 at most", "less often"],
    ),
    "deep within": (
        "  - {repeat: 2, steps: [{repeat: 2, steps: [{hold: 1 K}]}]}",
        52,
        "steps[0].steps[0].steps[0].hold",
        ["1 K is a temperature"],
    ),
    "dark 0": ("  - dark: 0", 11, "steps[0].dark", ["from 1 to 1000"]),
    "frame false": ("  - frame: false", 12, "steps[0].frame", ["expected True", "False"]),
    "every longer than for": (
        "  - series: {every: 3 h, for: 2 h}",
        31,
        "steps[0].series.for",
        ["2 h is shorter", "3 h"],
    ),
    "for and count": (
        "  - series: {every: 3 s, for: 2 h, count: 3}",
        13,
        "steps[0].series",
        ["either for or count", "both"],
    ),
    "neither for nor count": ("  - series: {every: 3 s}", 13, "steps[0].series", ["either for or count", "neither"]),
    "unknown figure": (
        "  - series: {every: 3 s, count: 9, stop_when: {coverge: above 0.9}}",
        48,
        "steps[0].series.stop_when.coverge",
        ["did you mean 'coverage'"],
    ),
    "condition without above": (
        "  - series: {every: 3 s, count: 9, stop_when: {coverage: 0.9}}",
        58,
        "steps[0].series.stop_when.coverage",
        ["above or below", "above 0.95", "0.9"],
    ),
    "condition that is always met": (
        "  - series: {every: 3 s, count: 9, stop_when: {coverage: above 95}}",
        58,
        "steps[0].series.stop_when.coverage",
        ["between 0 and 1"],
    ),
    "condition of another dimension": (
        "  - series: {every: 3 s, count: 9, stop_when: {roughness: above 5 K}}",
        59,
        "steps[0].series.stop_when.roughness",
        ["after 'above'", "a temperature", "a length"],
    ),
    "two conditions": (
        "  - series: {every: 3 s, count: 9, stop_when: {coverage: above 0.9, roughness: above 5 nm}}",
        47,
        "steps[0].series.stop_when",
        ["one condition", "got 2"],
    ),
    "no condition": ("  - series: {every: 3 s, count: 9, stop_when: {}}", 47, "steps[0].series.stop_when", ["got 0"]),
    "nothing to set": ("  - set: {}", 10, "steps[0].set", ["names no parameter", "column.focus"]),
    "set without unit": ("  - set: {column.focus: 8}", 25, "steps[0].set.column.focus", ["'8' has no unit"]),
    "what an interruption means": (
        "  - {hold: 1 s, on_interruption: never}",
        34,
        "steps[0].on_interruption",
        ["'continue', 'repeat' or 'safe'", "'never'"],
    ),
    "half an imaging": (
        "  - {imaging: {pixels: 5}, frame: true}",
        24,
        "steps[0].imaging.pixels",
        ["from 8 to 32768", "got 5"],
    ),
    "a tag": ("  - hold: !!python/name:os.system x", 11, "steps[0].hold", ["tag"]),
}


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(DocumentError) as caught:
        parse_recipe(text, "night.yaml")
    return caught.value.problems


@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
def test_one_mistake_one_problem(case: tuple[str, int, str, list[str]]) -> None:
    step, column, address, words = case
    (problem,) = problems_of(f"{HEAD}{step}\n")
    assert (problem.file, problem.line, problem.column, problem.address) == ("night.yaml", 4, column, address)
    for word in words:
        assert word in problem.message


WHOLE = {
    "empty": ("", "empty"),
    "only a comment": ("# nothing\n", "empty"),
    "a list": ("- hold: 5 min\n", "expected keys with values"),
    "a word": ("hold\n", "expected keys with values; got 'hold'"),
    "no name": ("steps: [{hold: 5 min}]\n", "'name' is missing"),
    "empty name": ("name: ''\nsteps: [{hold: 5 min}]\n", "the text is empty"),
    "no steps": ("name: a\n", "'steps' is missing"),
    "empty steps": ("name: a\nsteps: []\n", "no steps; write one at least"),
    "steps that map": (
        "name: a\nsteps: {hold: 5 min}\n",
        "expected a list; begin each entry with '- '; got the key hold",
    ),
    "steps without value": ("name: a\nsteps:\n", "no value"),
    "not YAML": ("name: [a\nsteps: b\n", "not valid YAML"),
    "a tab": ("name: a\nsteps:\n\t- hold: 5 min\n", "a tab; indent with spaces"),
    "two documents": ("name: a\n---\nname: b\n", "not valid YAML"),
    "a cyclic alias": ("name: a\nsteps: &all\n  - {repeat: 2, steps: *all}\n", "refers to itself"),
    "an alias of nothing": ("name: a\nsteps: *all\n", "not valid YAML"),
    "aliases that explode": (
        "name: a\nx0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"x{n}: &x{n} [{', '.join(10 * [f'*x{n - 1}'])}]\n" for n in range(1, 8)),
        "too large",
    ),
    "frames without imaging": ("name: a\nsteps: [{dark: 3}]\n", "frames need imaging"),
    "imaging in part": ("name: a\nsteps: [{imaging: {pixels: 64}, frame: true}]\n", "frames need imaging"),
    "lists within lists": ("name: a\nsteps: " + 50_000 * "[", "levels deep"),
    "lists within lists, closed": ("name: a\nsteps: " + 600 * "[" + 600 * "]", "levels deep"),
    "repeats within repeats": (
        "name: a\nsteps: " + 400 * "[{repeat: 1, steps: " + "[{hold: 1 s}]" + 400 * "}]",
        "levels deep",
    ),
    "pixels of two kinds": (
        HEAD.replace("pixels: 512", "pixels: 51.2") + "  - hold: 1 s\n",
        "rows and columns; got 51.2",
    ),
    "a limit of another dimension": ("name: a\nlimits: {dose: 5 C}\nsteps: [{hold: 1 s}]\n", "a dose per area"),
}


@pytest.mark.parametrize(("text", "words"), WHOLE.values(), ids=WHOLE)
def test_the_whole_is_wrong(text: str, words: str) -> None:
    problems = problems_of(text)
    assert words in problems[0].message
    assert len({str(problem) for problem in problems}) == len(problems)
    assert len(problems) <= 60


def test_all_problems_at_once_in_the_order_of_the_text() -> None:
    problems = problems_of(
        """\
nmae: a night
imaging: {beam_energy: 5 kg, probe_current: 0 nA, field_of_view: 10 um, pixels: 512, dwell_tim: 10 us}
limits: {heater: 900}
steps:
  - hodl: 5 min
  - series: {every: 3 h, for: 2 h}
    hold: 1 s
  - gas: {H2: 5 K}
    ramp: {heater: 5 K}
"""
    )
    assert [(problem.line, problem.address) for problem in problems] == [
        (1, ""),
        (1, "nmae"),
        (2, "imaging"),
        (2, "imaging.beam_energy"),
        (2, "imaging.probe_current"),
        (2, "imaging.dwell_tim"),
        (3, "limits.heater"),
        (5, "steps[0].hodl"),
        (6, "steps[1]"),
        (6, "steps[1].series.for"),
        (8, "steps[2].gas.H2"),
        (9, "steps[2].ramp"),
    ]


def test_an_error_reads_as_one_line_for_each_problem() -> None:
    with pytest.raises(DocumentError) as caught:
        parse_recipe("name: a\nsteps:\n  - hold: 5 kg\n  - hodl: 5 s\n", "night.yaml")
    assert str(caught.value).splitlines() == [
        "night.yaml:3:11: steps[0].hold: 5 kg is a mass; expected a time, such as 30 s",
        "night.yaml:4:5: steps[1].hodl: 'hodl' is not a key here; did you mean 'hold'?",
    ]
    assert caught.value.exit_code == 2


FILES = {
    "missing": (None, "there is no such file"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "not text in UTF-8"),
    "zeros": (b"name: a\x00\nsteps: []\n", "binary file"),
    "latin-1": ("name: Öl\nsteps: [{hold: 5 min}]\n".encode("latin-1"), "not text in UTF-8"),
    "utf-16": ("name: a\nsteps: [{hold: 5 min}]\n".encode("utf-16"), "not text in UTF-8"),
    "huge": (b"# " + 3_000_000 * b"x", "2 MB at most"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_the_file_is_wrong(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "night.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_not_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder"):
        load_recipe(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\nsteps: [{hold: 5 min}]\n")
    assert load_recipe(path).recipe.name == "a"


def test_a_recipe_built_without_a_document_is_refused_as_well() -> None:
    recipe = parse_recipe(f"{HEAD}  - dark: 3\n").recipe.model_copy(update={"imaging": None})
    with pytest.raises(InputError, match=r"steps\[0\]: frames need imaging"):
        compile_recipe(recipe)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | st.text("[]{}:,-&*!|>'\"#? \n\tsteps", max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    for recipe in (text, f"name: a\nsteps:\n  - {text}\n", f"name: a\nsteps:\n  - hold: {text}\n"):
        try:
            compile_recipe(parse_recipe(recipe).recipe)
        except InputError as error:
            assert error.message


def test_a_key_that_stands_twice_hides_nothing() -> None:
    with pytest.raises(DocumentError) as caught:
        parse_recipe(f"{HEAD}  - {{hold: 5 min, hold: 6 min}}\n  - hodl: 5 min\n  - hold: 12:30\n")
    told = [(problem.line, problem.address) for problem in caught.value.problems]
    assert told == [(4, "steps[0].hold"), (5, "steps[1].hodl"), (6, "steps[2].hold")]


def test_a_rule_that_is_none_is_told_with_everything_else():
    text = "name: a\ninterlocks:\n  - {when: heater abov 5 K, then: safe}\nsteps:\n  - hodl: 5 s\n"
    with pytest.raises(DocumentError) as caught:
        parse_recipe(text, "night.yaml")
    assert [problem.where for problem in caught.value.problems] == ["night.yaml:3:12", "night.yaml:5:5"]
    assert "is not a rule; write one such as" in caught.value.problems[0].message

"""Recipes: what is read, and what it compiles to."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition import steps as steps_module
from acquisition import unrolling
from acquisition.actions import (
    Acquire,
    Action,
    BeginSeries,
    Configure,
    Dark,
    Hold,
    Note,
    Ramp,
    Set,
    SetGas,
    actions_from_json,
    actions_to_json,
)
from acquisition.recipe import LoadedRecipe, compile_recipe, load_recipe, outline, parse_recipe, ready_made
from acquisition.unrolling import place_of
from drivers.units import quantity, si

IMAGING = "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 512, dwell_time: 10 us}\n"


def load(steps: str, head: str = IMAGING) -> LoadedRecipe:
    return parse_recipe(f"name: a night\n{head}steps:\n{steps}")


def compiled(steps: str, head: str = IMAGING) -> tuple[Action, ...]:
    return compile_recipe(load(steps, head).recipe)


def addresses(actions: tuple[Action, ...]) -> list[str]:
    return [action.address for action in actions]


def test_every_verb_becomes_its_action() -> None:
    actions = compiled(
        """
  - note: the valve was changed
  - set: {column.focus: 8.01 mm, stage.x: -1 um}
  - gas: {H2: 10 sccm, N2: 5 sccm}
  - ramp: {heater: 800 degC, rate: 20 K/min, tolerance: 5 K, at_most: 1 h}
  - hold: 20 min
  - purge: {N2: 20 sccm, for: 5 min}
  - dark: 4
  - frame: true
  - frames: 2
  - series: {every: 30 s, count: 2}
"""
    )
    assert [(action.kind, action.address) for action in actions] == [
        ("configure", "imaging"),
        ("note", "steps[0].note"),
        ("set", "steps[1].set.column.focus"),
        ("set", "steps[1].set.stage.x"),
        ("gas", "steps[2].gas"),
        ("ramp", "steps[3].ramp"),
        ("hold", "steps[4].hold"),
        ("gas", "steps[5].purge.gas"),
        ("hold", "steps[5].purge.hold"),
        ("dark", "steps[6].dark"),
        ("frame", "steps[7].frame"),
        ("frame", "steps[8].frames[0]"),
        ("frame", "steps[8].frames[1]"),
        ("series", "steps[9].series"),
        ("frame", "steps[9].series[0]"),
        ("frame", "steps[9].series[1]"),
    ]
    by_kind = {type(action): action for action in actions}
    assert by_kind[Note].text == "the valve was changed"
    assert actions[2] == Set(address="steps[1].set.column.focus", parameter="column.focus", value="8.01 mm")
    assert actions[4].flows == {"H2": quantity(10, "sccm"), "N2": quantity(5, "sccm")}
    ramp = by_kind[Ramp]
    assert (si(ramp.target), si(ramp.at_most)) == (pytest.approx(1073.15), pytest.approx(3600))
    assert ramp.tolerance == quantity(5, "K")
    assert actions[7] == SetGas(address="steps[5].purge.gas", flows={"N2": "20 sccm"})
    assert actions[8] == Hold(address="steps[5].purge.hold", duration="5 min")
    assert by_kind[Dark].frames == 4


def test_gas_comes_before_the_verb_that_stands_with_it() -> None:
    actions = compiled(
        """
  - series: {every: 30 s, for: 1 min, stop_when: {coverage: above 0.95}}
    on_interruption: safe
    name: oxidation
    gas: {O2: 5 sccm}
"""
    )
    assert [action.kind for action in actions] == ["configure", "gas", "series", "frame", "frame", "frame"]
    assert all((action.name, action.on_interruption) == ("oxidation", "safe") for action in actions[1:])
    begin = actions[2]
    assert isinstance(begin, BeginSeries)
    assert begin.stop_when is not None
    assert (begin.stop_when.figure, begin.stop_when.comparison) == ("coverage", "above")
    assert begin.stop_when.threshold == quantity(0.95, "")


def test_a_series_has_a_frame_at_its_start_and_at_its_end() -> None:
    actions = compiled("  - series: {every: 30 s, for: 2 h}\n")
    frames = [action for action in actions if isinstance(action, Acquire)]
    assert len(frames) == 241
    assert [si(frame.offset) for frame in frames] == pytest.approx([30.0 * n for n in range(241)])
    assert [frame.number for frame in frames] == list(range(241))
    assert {frame.group for frame in frames} == {"steps[0].series"}


@pytest.mark.parametrize(
    ("every", "length", "count"), [("20 s", "for: 50 s", 3), ("0.1 s", "for: 0.3 s", 4), ("1 min", "count: 7", 7)]
)
def test_frames_of_a_series(every: str, length: str, count: int) -> None:
    begin = compiled(f"  - series: {{every: {every}, {length}}}\n")[1]
    assert isinstance(begin, BeginSeries)
    assert begin.count == count


def test_a_repeat_is_unrolled_and_hands_down_name_and_interruption() -> None:
    actions = compiled(
        """
  - repeat: 2
    name: cycle
    on_interruption: repeat
    steps:
      - hold: 1 min
      - repeat: 2
        steps:
          - name: inner
            on_interruption: safe
            hold: 2 min
"""
    )
    holds = [action for action in actions if isinstance(action, Hold)]
    assert addresses(tuple(holds)) == [
        "steps[0].repeat[0].steps[0].hold",
        "steps[0].repeat[0].steps[1].repeat[0].steps[0].hold",
        "steps[0].repeat[0].steps[1].repeat[1].steps[0].hold",
        "steps[0].repeat[1].steps[0].hold",
        "steps[0].repeat[1].steps[1].repeat[0].steps[0].hold",
        "steps[0].repeat[1].steps[1].repeat[1].steps[0].hold",
    ]
    assert [(hold.name, hold.on_interruption) for hold in holds[:2]] == [("cycle", "repeat"), ("inner", "safe")]


def test_a_step_changes_the_imaging_for_itself_only() -> None:
    actions = compiled(
        """
  - frame: true
  - imaging: {field_of_view: 5 um, pixels: {rows: 256, columns: 1024}}
    frames: 2
  - imaging: {field_of_view: 5 um, pixels: {rows: 256, columns: 1024}}
    frame: true
  - hold: 1 min
  - frame: true
"""
    )
    configured = [action for action in actions if isinstance(action, Configure)]
    assert addresses(tuple(configured)) == ["imaging", "steps[1].imaging", "steps[4].imaging"]
    narrow = configured[1].imaging
    assert (narrow.rows, narrow.columns, si(narrow.field_of_view)) == (256, 1024, pytest.approx(5e-6))
    assert narrow.dwell_time == quantity(10, "us")
    assert configured[2].imaging == configured[0].imaging


def test_imaging_of_a_repeat_holds_inside_it() -> None:
    actions = compiled(
        """
  - imaging: {dwell_time: 1 us}
    repeat: 2
    steps:
      - frame: true
      - imaging: {pixels: 64}
        frame: true
"""
    )
    dwell = [action.imaging.dwell_time for action in actions if isinstance(action, Configure)]
    assert dwell == [quantity(10, "us")] + 4 * [quantity(1, "us")]


def test_a_step_may_say_all_of_the_imaging() -> None:
    step = IMAGING.replace("imaging:", "  - imaging:").rstrip() + "\n    frame: true\n"
    actions = compiled(step, head="")
    assert addresses(actions) == ["steps[0].imaging", "steps[0].frame"]


def test_a_recipe_without_frames_needs_no_imaging() -> None:
    assert addresses(compiled("  - hold: 1 min\n", head="")) == ["steps[0].hold"]


def test_closing_all_gas() -> None:
    assert compiled("  - gas: {}\n", head="") == (SetGas(address="steps[0].gas", flows={}),)


def test_the_text_is_kept_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    path.write_text("# first light\nname: a night\nsteps: [{hold: 5 min}]  # short\n", "utf-8")
    loaded = load_recipe(path)
    assert loaded.text == path.read_text("utf-8")
    assert loaded.document.name == str(path)


def test_an_anchor_may_be_used_again() -> None:
    actions = compiled("  - &wait {hold: 5 min}\n  - *wait\n", head="")
    assert addresses(actions) == ["steps[0].hold", "steps[1].hold"]


def test_walk_comes_to_every_step_once() -> None:
    recipe = load("  - hold: 1 s\n  - repeat: 9\n    steps:\n      - hold: 2 s\n      - hold: 3 s\n").recipe
    places = [address for address, _ in recipe.walk()]
    assert places == [("steps", 0), ("steps", 1), ("steps", 1, "steps", 0), ("steps", 1, "steps", 1)]


@pytest.mark.parametrize("name", sorted(ready_made()))
def test_ready_made_recipes_compile(name: str) -> None:
    loaded = load_recipe(ready_made()[name])
    actions = compile_recipe(loaded.recipe)
    assert actions_from_json(actions_to_json(actions)) == actions
    assert loaded.recipe.description


def test_the_demo_is_a_whole_night() -> None:
    actions = compile_recipe(load_recipe(ready_made()["copper-redox"]).recipe)
    certain = [a for a in actions if isinstance(a, Acquire) and not (a.group and "oxidation" in a.name)]
    assert sum(isinstance(action, Acquire) for action in actions) >= 60
    assert len(certain) >= 50, "frames that no condition can leave out"
    assert sum(action.frames for action in actions if isinstance(action, Dark)) >= 8
    imaging = {(a.imaging.rows, a.imaging.columns) for a in actions if isinstance(a, Configure)}
    assert imaging == {(512, 512)}


def steps(depth: int) -> st.SearchStrategy[str]:
    """Steps as YAML in flow style."""
    numbers = st.integers(1, 90)
    simple = st.one_of(
        numbers.map(lambda n: f"{{hold: {n} min}}"),
        numbers.map(lambda n: f"{{gas: {{H2: {n} sccm}}, frames: {n % 4 + 1}}}"),
        numbers.map(lambda n: f"{{purge: {{N2: {n} sccm, for: {n} s}}}}"),
        numbers.map(lambda n: f"{{ramp: {{heater: {n} degC, rate: {n} K/min}}, name: up}}"),
        numbers.map(lambda n: f"{{series: {{every: {n} s, for: {3 * n} s}}, imaging: {{pixels: {n + 8}}}}}"),
        numbers.map(lambda n: f"{{dark: {n % 5 + 1}}}"),
        numbers.map(lambda n: f"{{set: {{column.focus: {n} um, stage.x: {n} nm}}, on_interruption: safe}}"),
        st.just("{frame: true}"),
        st.just("{note: all is well}"),
    )
    if depth == 0:
        return simple
    inner = st.lists(steps(depth - 1), min_size=1, max_size=3).map(", ".join)
    repeat = st.tuples(st.integers(1, 3), inner).map(lambda pair: f"{{repeat: {pair[0]}, steps: [{pair[1]}]}}")
    return st.one_of(simple, repeat)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps(2), min_size=1, max_size=5))
def test_any_recipe_compiles_to_unique_lasting_places(parts: list[str]) -> None:
    text = "".join(f"  - {part}\n" for part in parts)
    loaded = load(text)
    actions = compile_recipe(loaded.recipe)
    assert actions == compile_recipe(load(text).recipe), "the same text gives the same actions"
    assert len(set(addresses(actions))) == len(actions)
    assert actions_from_json(actions_to_json(actions)) == actions
    changes = sum(isinstance(action, Configure) for action in actions)
    assert len(actions) - changes == sum(step.count_actions() for step in loaded.recipe.steps)
    for action in actions:
        place = place_of(action.address)
        if isinstance(action, Configure):  # the return to the recipe's imaging stands nowhere in the text
            place = place[:-1]
        assert place in loaded.document.values
    in_series = {action.address for action in actions if isinstance(action, Acquire) and action.group}
    assert outline(loaded.recipe) == tuple(action for action in actions if action.address not in in_series)


@pytest.mark.parametrize("module", [steps_module, unrolling])
def test_examples_of_the_docstrings(module: object) -> None:
    assert doctest.testmod(module).failed == 0

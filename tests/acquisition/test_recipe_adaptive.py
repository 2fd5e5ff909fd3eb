"""Recipes that look after themselves: how adjustments, branches and paces are written, and what they compile to."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acquisition import conditional, paths
from acquisition.actions import (
    Acquire,
    Action,
    Autofocus,
    Balance,
    BeamCheck,
    BeginSeries,
    Configure,
    CorrectDrift,
    Decide,
    Place,
    Stigmation,
    action_from_json,
    action_to_json,
    actions_from_json,
    actions_to_json,
)
from acquisition.conditions import MEASURED
from acquisition.recipe import compile_recipe, outline, parse_recipe
from acquisition.unrolling import place_of
from drivers.errors import DocumentError
from drivers.units import quantity, si

IMAGING = "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 512, dwell_time: 10 us}\n"


def compiled(steps: str, head: str = IMAGING) -> tuple[Action, ...]:
    return compile_recipe(parse_recipe(f"name: a night\n{head}steps:\n{steps}").recipe)


def of(kind: type, actions: tuple[Action, ...]) -> list:
    return [action for action in actions if isinstance(action, kind)]


def test_adjustments_take_the_imaging_of_their_step_and_change_it() -> None:
    actions = compiled(
        """
  - beam_check: {within: 5 %}
  - balance: {bright: 50 %}
  - autofocus: {range: 30 um, frames: 7, pixels: 96, field_of_view: 4 um, at: {x: 12 um}}
  - stigmation: {}
    imaging: {dwell_time: 2 us}
"""
    )
    assert [action.address for action in actions] == [
        "imaging", "steps[0].beam_check", "steps[1].balance", "steps[2].autofocus", "steps[3].imaging",
        "steps[3].stigmation",
    ]  # fmt: skip
    (check,) = of(BeamCheck, actions)
    assert (check.current, check.otherwise, check.readings) == (quantity(1, "nA"), "suspend", 5)
    (balance,) = of(Balance, actions)
    assert (balance.imaging.rows, si(balance.bright), si(balance.dark)) == (128, 0.5, 0.02)
    (focus,) = of(Autofocus, actions)
    assert (focus.imaging.rows, si(focus.imaging.field_of_view), focus.frames) == (96, pytest.approx(4e-6), 7)
    assert focus.imaging.dwell_time == quantity(10, "us")
    assert focus.at == Place(x="12 um", y="0 um")
    (stigmation,) = of(Stigmation, actions)
    assert stigmation.imaging.dwell_time == quantity(2, "us")
    assert (si(stigmation.range), si(stigmation.tolerance)) == (pytest.approx(0.8), pytest.approx(0.02))


def test_a_pace_tells_the_earliest_frames_and_the_longest_time_between() -> None:
    actions = compiled(
        "  - series: {every: {at_most: 60 s, at_least: 10 s, faster_when: {coverage_rate: above 0.02 /min}}, "
        "for: 2 min, stop_when: {roughness_rate: below 1 nm/min, within: 90 s}}\n"
    )
    (begin,) = of(BeginSeries, actions)
    assert begin.every == quantity(60, "s")
    assert begin.count == 13
    assert begin.duration == quantity(2, "min")
    assert begin.pace is not None
    assert begin.pace.at_least == quantity(10, "s")
    assert si(begin.pace.faster_when.threshold) == pytest.approx(0.02 / 60)
    assert begin.pace.faster_when.within == quantity(5, "min"), "a bound, said or not"
    assert begin.stop_when is not None
    assert begin.stop_when.figure == "roughness_rate"
    assert si(begin.stop_when.within) == 90.0
    assert [si(frame.offset) for frame in of(Acquire, actions)] == pytest.approx([10.0 * n for n in range(13)])
    counted = compiled(
        "  - series: {every: {at_most: 60 s, at_least: 10 s, faster_when: {coverage: above 0.1}}, count: 7}\n"
    )
    assert of(BeginSeries, counted)[0].count == 7
    assert of(BeginSeries, counted)[0].duration is None


@pytest.mark.parametrize("text", ["0.02 /min", "0.02/min", "0.02 1/min", "2 %/min", "1.2 /h"])
def test_ways_to_write_a_rate(text: str) -> None:
    (begin,) = of(
        BeginSeries, compiled(f"  - series: {{every: 9 s, count: 3, stop_when: {{coverage_rate: below {text}}}}}\n")
    )
    assert si(begin.stop_when.threshold) == pytest.approx(0.02 / 60)


def test_corrections_follow_their_frames_and_one_another() -> None:
    actions = compiled("  - series: {every: 9 s, count: 6, correct_drift: {every: 2, limit: 2 um, by: stage}}\n")
    assert [action.address for action in actions[2:]] == [
        "steps[0].series[0]", "steps[0].series[0].drift", "steps[0].series[1]", "steps[0].series[2]",
        "steps[0].series[2].drift", "steps[0].series[3]", "steps[0].series[4]", "steps[0].series[4].drift",
        "steps[0].series[5]",
    ]  # fmt: skip
    drifts = of(CorrectDrift, actions)
    assert [(drift.number, drift.previous) for drift in drifts] == [
        (0, None), (2, "steps[0].series[0].drift"), (4, "steps[0].series[2].drift")
    ]  # fmt: skip
    assert all((drift.group, drift.by, drift.anchor) == ("steps[0].series", "stage", "first") for drift in drifts)


BRANCHES = """
  - frame: true
  - name: choice
    on_interruption: safe
    when: {coverage: above 0.5, within: 60 s, otherwise: wait, at_most: 5 min}
    then:
      - imaging: {pixels: 64}
        frame: true
      - repeat: 2
        steps:
          - when: {flagged: below 10 %, within: 1 min, otherwise: fail}
            else: [{hold: 1 s}]
    else:
      - frame: true
  - frame: true
"""


def test_branches_carry_what_they_hang_on() -> None:
    actions = compiled(BRANCHES)
    needs = {action.address: action.needs for action in actions}
    outer = "steps[1].when"
    inner = [f"steps[1].then[1].repeat[{turn}].steps[0]" for turn in (0, 1)]
    assert needs[outer] is None
    assert needs["steps[1].then[0].frame"] == (outer, "then")
    assert needs["steps[1].then[0].imaging"] == (outer, "then")
    assert needs["steps[1].else[0].frame"] == (outer, "else")
    for turn in inner:
        assert needs[f"{turn}.when"] == (outer, "then")
        assert needs[f"{turn}.else[0].hold"] == (f"{turn}.when", "else")
    assert needs["steps[2].frame"] is None
    decide = of(Decide, actions)[0]
    assert (decide.name, decide.on_interruption, decide.otherwise) == ("choice", "safe", "wait")
    assert decide.at_most == quantity(5, "min")
    assert si(decide.condition.within) == si(decide.within) == 60.0


def test_the_beam_is_set_anew_where_the_branches_differ() -> None:
    configured = [action.address for action in of(Configure, compiled(BRANCHES))]
    assert configured == ["imaging", "steps[1].then[0].imaging", "steps[2].imaging"]


def test_places_in_the_text() -> None:
    assert place_of("steps[1].then[1].repeat[0].steps[0].else[0].hold") == (
        "steps", 1, "then", 1, "steps", 0, "else", 0, "hold",
    )  # fmt: skip
    assert place_of("steps[1].else[0].series[7].drift") == ("steps", 1, "else", 0, "series", "correct_drift")


def test_every_way_through_few_decisions() -> None:
    ways = {tuple(a.address for a in way if a.needs is not None) for way in paths.paths(compiled(BRANCHES))}
    inner = [f"steps[1].then[1].repeat[{turn}].steps[0]" for turn in (0, 1)]
    then = ("steps[1].then[0].imaging", "steps[1].then[0].frame")
    assert ways == {
        ("steps[1].else[0].frame",),
        *(
            (*then, *(f"{turn}{part}" for turn, held in zip(inner, holds, strict=True)
                      for part in ((".when", ".else[0].hold") if held else (".when",))))
            for holds in ((False, False), (False, True), (True, False), (True, True))
        ),
    }  # fmt: skip


def test_many_decisions_go_the_same_way_or_alternate() -> None:
    actions = compiled(
        "  - repeat: 20\n    steps:\n      - when: {coverage: above 0.5, within: 1 min, otherwise: else}\n"
        "        then: [{gas: {O2: 1 sccm}}]\n        else: [{gas: {H2: 1 sccm}}]\n"
    )
    gases = ["".join("O" if "O2" in a.flows else "H" for a in way if a.kind == "gas") for way in paths.paths(actions)]
    assert set(gases) == {"O" * 20, "H" * 20, "OH" * 10, "HO" * 10}


# Line 4 begins with the steps; where the one problem lies, and what the message says.
WRONG = {
    "then without when": ("  - then: [{hold: 1 s}]", 5, "steps[0]", ["then needs when"]),
    "else without when": ("  - else: [{hold: 1 s}]", 5, "steps[0]", ["else needs when"]),
    "when without a branch": (
        "  - when: {coverage: above 0.5, within: 1 s, otherwise: else}", 5, "steps[0]", ["needs then or else"],
    ),
    "no bound of age": (
        "  - {when: {coverage: above 0.5, otherwise: else}, then: [{hold: 1 s}]}", 12, "steps[0].when", ["'within'"],
    ),
    "no fallback": (
        "  - {when: {coverage: above 0.5, within: 1 s}, then: [{hold: 1 s}]}", 12, "steps[0].when", ["'otherwise'"],
    ),
    "unknown fallback": (
        "  - {when: {coverage: above 0.5, within: 1 s, otherwise: stop}, then: [{hold: 1 s}]}",
        58, "steps[0].when.otherwise", ["'then', 'else', 'wait' or 'fail'"],
    ),
    "waiting without end": (
        "  - {when: {coverage: above 0.5, within: 1 s, otherwise: wait}, then: [{hold: 1 s}]}",
        12, "steps[0].when", ["needs at_most"],
    ),
    "a bound of no wait": (
        "  - {when: {coverage: above 0.5, within: 1 s, otherwise: else, at_most: 1 s}, then: [{hold: 1 s}]}",
        12, "steps[0].when", ["belongs to otherwise: wait"],
    ),
    "a wrong step in a branch": (
        "  - {when: {coverage: above 0.5, within: 1 s, otherwise: else}, then: [{hold: 1 K}]}",
        79, "steps[0].then[0].hold", ["1 K is a temperature"],
    ),
    "an empty branch": (
        "  - {when: {coverage: above 0.5, within: 1 s, otherwise: else}, then: []}",
        71, "steps[0].then", ["no steps"],
    ),
    "a length in place of a rate": (
        "  - series: {every: 3 s, count: 9, stop_when: {roughness_rate: above 5 nm}}",
        64, "steps[0].series.stop_when.roughness_rate", ["after 'above'", "a length", "a speed"],
    ),
    "a share in place of a rate": (
        "  - series: {every: 3 s, count: 9, stop_when: {coverage_rate: above 0.5}}",
        63, "steps[0].series.stop_when.coverage_rate", ["no unit"],
    ),
    "a pace that does not shorten": (
        "  - series: {every: {at_most: 9 s, at_least: 10 s, faster_when: {coverage: above 0.1}}, count: 9}",
        21, "steps[0].series.every", ["shorter than at_most"],
    ),
    "a pace without a reason": (
        "  - series: {every: {at_most: 9 s, at_least: 3 s}, count: 9}", 21, "steps[0].series.every", ["faster_when"],
    ),
    "a rate of nothing": (
        "  - series: {every: {at_most: 9 s, at_least: 3 s, faster_when: {coverage_rate: above -0.1 /min}}, count: 9}",
        64, "steps[0].series.every.faster_when", ["away from zero"],
    ),
    "every of another kind": ("  - series: {every: often, count: 9}", 21, "steps[0].series.every", ["'often'"]),
    "no steps between corrections": (
        "  - series: {every: 3 s, count: 9, correct_drift: {limit: 2 um}}",
        51, "steps[0].series.correct_drift", ["'every'"],
    ),
    "a limit in seconds": (
        "  - series: {every: 3 s, count: 9, correct_drift: {every: 2, limit: 2 s}}",
        69, "steps[0].series.correct_drift.limit", ["a time", "a length"],
    ),
    "too few frames": ("  - autofocus: {frames: 3}", 25, "steps[0].autofocus.frames", ["from 5 to 51"]),
    "a focus in percent": ("  - autofocus: {range: 5 %}", 24, "steps[0].autofocus.range", ["a length"]),
    "more than the whole": ("  - stigmation: {range: 150 %}", 25, "steps[0].stigmation.range", ["0 and 100 %"]),
    "dark above bright": ("  - balance: {dark: 60 %}", 14, "steps[0].balance", ["must lie above the dark level"]),
    "a check of nothing": ("  - beam_check: {}", 17, "steps[0].beam_check", ["'within'"]),
    "a search with another verb": (
        "  - {autofocus: {}, frame: true}", 5, "steps[0]", ["frame and autofocus", "two steps"],
    ),
    "a place in volts": ("  - autofocus: {at: {x: 3 V}}", 25, "steps[0].autofocus.at.x", ["a voltage"]),
}  # fmt: skip


@pytest.mark.parametrize(("step", "column", "address", "words"), WRONG.values(), ids=WRONG)
def test_mistakes_have_a_place_and_a_remedy(step: str, column: int, address: str, words: list[str]) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_recipe(f"name: a night\n{IMAGING}steps:\n{step}\n", "night.yaml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.address) == (4, column, address)
    for word in words:
        assert word in problem.message


def test_adjustments_need_imaging() -> None:
    with pytest.raises(DocumentError) as caught:
        parse_recipe("name: x\nsteps:\n  - autofocus: {}\n  - beam_check: {within: 5 %}\n")
    assert [problem.address for problem in caught.value.problems] == ["steps[0]", "steps[1].beam_check"]
    assert compiled("  - beam_check: {within: 5 %, current: 2 nA}\n", head="")[0].current == quantity(2, "nA")


FIGURES = st.sampled_from(
    [
        "coverage: above 0.5",
        "roughness: below 20 nm",
        "coverage_rate: above 0.02 /min",
        "height_range_rate: below 1 nm/s",
    ]
)
RATES = st.sampled_from(["coverage_rate: above 0.02 /min", "coverage: above 0.1", "roughness_rate: above 1 nm/min"])


def leaves() -> st.SearchStrategy[str]:
    numbers = st.integers(1, 60)
    return st.one_of(
        numbers.map(lambda n: f"{{hold: {n} s}}"),
        numbers.map(lambda n: f"{{frames: {n % 3 + 1}, imaging: {{pixels: {8 * (n % 4 + 1)}}}}}"),
        numbers.map(lambda n: f"{{autofocus: {{frames: {n % 9 + 5}, at: {{x: {n} um}}}}}}"),
        numbers.map(lambda n: f"{{stigmation: {{range: {n} %}}, name: round}}"),
        numbers.map(lambda n: f"{{balance: {{dark: 1 %, bright: {n + 20} %}}}}"),
        numbers.map(lambda n: f"{{beam_check: {{within: {n} %, otherwise: warn}}}}"),
        st.tuples(numbers, RATES).map(
            lambda pair: (
                f"{{series: {{every: {{at_most: {pair[0] + 10} s, at_least: {pair[0]} s, faster_when: "
                f"{{{pair[1]}}}}}, count: {pair[0]}, correct_drift: {{every: {pair[0] % 4 + 1}}}}}}}"
            )
        ),
    )


def trees(depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return leaves()
    inner = st.lists(trees(depth - 1), min_size=1, max_size=2).map(", ".join)
    return st.one_of(
        leaves(),
        st.tuples(st.integers(1, 2), inner).map(lambda pair: f"{{repeat: {pair[0]}, steps: [{pair[1]}]}}"),
        st.tuples(FIGURES, inner, inner).map(
            lambda parts: (
                f"{{when: {{{parts[0]}, within: 1 min, otherwise: else}}, then: [{parts[1]}], else: [{parts[2]}]}}"
            )
        ),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(trees(2), min_size=1, max_size=4))
def test_any_tree_compiles_to_unique_lasting_places(parts: list[str]) -> None:
    text = f"name: a night\n{IMAGING}steps:\n" + "".join(f"  - {part}\n" for part in parts)
    loaded = parse_recipe(text)
    actions = compile_recipe(loaded.recipe)
    assert actions_from_json(actions_to_json(actions)) == actions
    assert len({action.address for action in actions}) == len(actions)
    changes = len(of(Configure, actions))
    assert len(actions) - changes == sum(step.count_actions() for step in loaded.recipe.steps)
    decisions = {action.address for action in of(Decide, actions)}
    for index, action in enumerate(actions):
        place = place_of(action.address)
        assert (place[:-1] if isinstance(action, Configure) else place) in loaded.document.values
        if action.needs is not None:
            assert action.needs[0] in decisions
            assert any(other.address == action.needs[0] for other in actions[:index]), "a decision comes first"
    grouped = {a.address for a in actions if isinstance(a, Acquire | CorrectDrift) and a.group is not None}
    assert outline(loaded.recipe) == tuple(action for action in actions if action.address not in grouped)
    for way in list(paths.paths(outline(loaded.recipe)))[:8]:
        standing = None
        for action in way:
            if isinstance(action, Configure):
                standing = action.imaging
            if isinstance(action, Acquire | BeginSeries):
                assert standing is not None, "every way sets the beam before its frames"


@given(st.sampled_from(sorted(MEASURED)))
def test_every_figure_can_be_written(figure: str) -> None:
    field = conditional.FigureText.model_fields[figure]
    condition = conditional.FigureText(**{figure: field.examples[0]}).condition()
    assert condition.figure == figure
    decide = Decide(address="d", condition=condition, within="1 s", otherwise="else")
    assert action_from_json(action_to_json(decide)) == decide


def test_examples_of_the_docstrings() -> None:
    assert doctest.testmod(paths).failed == 0

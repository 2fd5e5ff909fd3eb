"""Gas rules: what may not meet does not."""

from __future__ import annotations

import doctest
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition import gas_rules
from acquisition.actions import Action, Hold, SetGas
from acquisition.chamber import Chamber, chamber_of
from acquisition.gas_rules import GasRules, GasWatch
from acquisition.plan import Plan, check
from acquisition.recipe import parse_recipe
from acquisition.timing import Timing, play
from drivers.contract import Instrument, ScanTiming
from drivers.errors import DocumentError, InputError
from drivers.units import quantity

PURGE = "  - purge: {N2: 20 sccm, for: 5 min}\n"


def plan(steps: str, instrument: Instrument, **options: object) -> Plan:
    return check(parse_recipe(f"name: a\nsteps:\n{steps}", "night.yaml"), instrument, **options)  # type: ignore[arg-type]


def messages(steps: str, instrument: Instrument, **options: object) -> list[tuple[str, str]]:
    with pytest.raises(DocumentError) as caught:
        plan(steps, instrument, **options)
    return [(problem.address, problem.message) for problem in caught.value.problems]


def test_hydrogen_then_oxygen_needs_a_purge(paper_instrument: Instrument) -> None:
    ((address, message),) = messages(
        "  - gas: {H2: 10 sccm}\n  - hold: 20 min\n  - gas: {O2: 5 sccm}\n", paper_instrument
    )
    assert address == "steps[2].gas"
    assert "O2 would meet the H2" in message
    assert "purge: {N2: 20 sccm, for: 5 min}" in message


@pytest.mark.parametrize(
    "between",
    [
        PURGE,
        "  - gas: {N2: 20 sccm}\n    hold: 5 min\n",
        "  - gas: {N2: 20 sccm}\n  - ramp: {heater: 400 K, rate: 20 K/min}\n",
        "  - hold: 5 min\n" + PURGE,
        "  - purge: {N2: 20 sccm, for: 30 s}\n  - purge: {N2: 10 sccm, for: 30 s}\n",
    ],
    ids=["purge", "inert gas and hold", "inert gas and ramp", "hold first", "two purges"],
)
def test_what_counts_as_a_purge(paper_instrument: Instrument, between: str) -> None:
    plan(f"  - gas: {{H2: 10 sccm}}\n{between}  - gas: {{O2: 5 sccm}}\n", paper_instrument)
    plan(f"  - gas: {{O2: 5 sccm}}\n{between}  - gas: {{H2: 10 sccm}}\n", paper_instrument)


@pytest.mark.parametrize(
    "between",
    [
        "",
        "  - gas: {}\n    hold: 2 h\n",
        "  - gas: {N2: 0 sccm}\n    hold: 2 h\n",
        "  - purge: {N2: 20 sccm, for: 10 s}\n",
        "  - gas: {N2: 20 sccm, H2: 1 sccm}\n    hold: 2 h\n",
        "  - purge: {N2: 20 sccm, for: 40 s}\n  - gas: {}\n    hold: 2 h\n  - purge: {N2: 20 sccm, for: 40 s}\n",
    ],
    ids=["nothing", "vacuum", "closed inert gas", "too short", "still some hydrogen", "in two parts"],
)
def test_what_does_not(paper_instrument: Instrument, between: str) -> None:
    ((_, message),) = messages(f"  - gas: {{H2: 10 sccm}}\n{between}  - gas: {{O2: 5 sccm}}\n", paper_instrument)
    assert "O2 would meet the H2" in message


def test_a_purge_that_is_too_short_says_so(paper_instrument: Instrument) -> None:
    ((_, message),) = messages(
        "  - gas: {H2: 10 sccm}\n  - purge: {N2: 20 sccm, for: 10 s}\n  - gas: {O2: 5 sccm}\n", paper_instrument
    )
    # 10 L at 0.542 L/s: 18.5 s · ln 25 = 59.4 s until 4 % are left.
    assert "60 s at least" in message
    assert "the purge before it lasts 10 s" in message


def test_a_repeat_meets_itself_and_says_it_once(paper_instrument: Instrument) -> None:
    cycle = "      - gas: {H2: 5 sccm}\n      - purge: {N2: 20 sccm, for: 5 min}\n      - gas: {O2: 5 sccm}\n"
    ((address, message),) = messages(f"  - repeat: 50\n    steps:\n{cycle}", paper_instrument)
    assert address == "steps[0].steps[0].gas"
    assert "H2 would meet the O2" in message


@pytest.mark.parametrize(
    ("flows", "share"),
    [("H2: 10 sccm, O2: 5 sccm", "67%"), ("H2: 1 sccm, O2: 15 sccm", "6%"), ("H2: 9 sccm, O2: 1 sccm", "90%")],
)
def test_a_flammable_mixture_is_refused(paper_instrument: Instrument, flows: str, share: str) -> None:
    ((address, message),) = messages(f"  - gas: {{{flows}}}\n", paper_instrument)
    assert address == "steps[0].gas"
    assert f"H2 is {share} of H2 and O2 (flammable from 4% to 94%; inert gas, 0% of the mixture" in message
    assert "10 Pa" in message


@pytest.mark.parametrize("flows", ["H2: 0.5 sccm, O2: 15 sccm", "H2: 40 sccm, O2: 1 sccm", "H2: 5 sccm, O2: 0 sccm"])
def test_a_mixture_outside_the_range_is_let_in(paper_instrument: Instrument, flows: str) -> None:
    plan(f"  - gas: {{{flows}}}\n", paper_instrument)


def test_inert_gas_is_left_out_of_the_share_and_said(paper_instrument: Instrument) -> None:
    ((_, message),) = messages("  - gas: {H2: 2 sccm, O2: 2 sccm, N2: 16 sccm}\n", paper_instrument)
    assert "H2 is 50%" in message
    assert "inert gas, 80% of the mixture" in message


def test_the_pressure_from_which_a_mixture_burns_can_be_set(
    paper_instrument: Instrument, make_paper_instrument: Callable[..., Instrument]
) -> None:
    steps = "  - gas: {H2: 10 sccm, O2: 5 sccm}\n"  # 51 Pa
    assert plan(steps, paper_instrument, rules=GasRules(flammable_above=60.0)).maximum_pressure == pytest.approx(
        51, 0.01
    )
    chamber = {"pumping_speed": "0.542 l/s"}
    allowing = {"settings": {"chamber": chamber}, "gas_rules": {"flammable_above": "60 Pa", "purge_at_least": "1 s"}}
    plan(steps, make_paper_instrument(allowing))
    assert GasRules.of(make_paper_instrument(allowing)) == GasRules(60.0, 1.0)


def test_a_mixture_burns_where_the_pressure_is_not_known(make_paper_instrument: Callable[..., Instrument]) -> None:
    ((_, message),) = messages("  - gas: {H2: 1 sccm, O2: 1 sccm}\n", make_paper_instrument({}))
    assert "the pressure is not known" in message


def test_without_an_inert_gas_nothing_can_purge(make_paper_instrument: Callable[..., Instrument]) -> None:
    instrument = make_paper_instrument(gases={"H2": (50.0, True), "O2": (20.0, True)})
    ((_, message),) = messages("  - gas: {H2: 1 sccm}\n  - gas: {O2: 1 sccm}\n", instrument)
    assert "no inert gas" in message


def test_of_an_unknown_reactive_gas_anything_is_expected(make_paper_instrument: Callable[..., Instrument]) -> None:
    gases = {"SiH4": (5.0, True), "H2": (5.0, True), "CO": (5.0, True), "N2": (5.0, False)}
    instrument = make_paper_instrument(gases=gases)
    assert messages("  - gas: {SiH4: 1 sccm}\n  - gas: {H2: 1 sccm}\n", instrument)
    plan("  - gas: {CO: 1 sccm}\n  - gas: {H2: 1 sccm}\n", instrument)


@pytest.mark.parametrize(
    "rules", [{"flammable": "5 Pa"}, {"flammable_above": "5 K"}, "none"], ids=["unknown", "dimension", "no mapping"]
)
def test_rules_that_cannot_be_read(make_paper_instrument: Callable[..., Instrument], rules: object) -> None:
    with pytest.raises(InputError):
        GasRules.of(make_paper_instrument({"gas_rules": rules}))


def test_a_chamber_settles_where_the_pump_keeps_up(paper_instrument: Instrument) -> None:
    chamber = chamber_of(paper_instrument)
    assert chamber is not None
    assert chamber.pressure({"O2": quantity(5, "sccm")}) == pytest.approx(17.0, rel=0.01)
    assert chamber.exchange == pytest.approx(18.45, rel=0.01)
    assert Chamber(1e-3, base_pressure=2.0).pressure({}) == 2.0
    with pytest.raises(InputError, match="pumping speed above 0"):
        Chamber(0.0)


MIXTURES = st.sampled_from([{}, {"H2": 5.0}, {"O2": 5.0}, {"N2": 20.0}, {"N2": 20.0, "H2": 5.0}, {"N2": 0.0}])


@given(st.lists(st.tuples(MIXTURES, st.sampled_from([10.0, 29.0, 40.0, 300.0])), min_size=1, max_size=8))
def test_accepted_means_that_inert_gas_flowed_between(
    paper_instrument: Instrument, night: list[tuple[dict[str, float], float]]
) -> None:
    """Looks back from every opening: since the other gas closed, inert gas alone flowed for long enough at a time."""
    actions: list[Action] = []
    for index, (flows, seconds) in enumerate(night):
        mixture = {species: quantity(flow, "sccm") for species, flow in flows.items()}
        actions.append(SetGas(address=f"steps[{index}].gas", flows=mixture))
        actions.append(Hold(address=f"steps[{index}].hold", duration=quantity(seconds, "s")))
    moments = list(play(actions, Timing(ScanTiming(), gas_settling=0.0)))
    refused = {action.address for action, _ in GasWatch(paper_instrument.gases, GasRules(), None).follow(moments)}
    for index, (flows, _) in enumerate(night):
        other = {"H2": "O2", "O2": "H2"}
        dangerous = [other[species] for species in flows if species in other]
        unpurged = any(not _purged_since(night[:index], species) for species in dangerous)
        assert (f"steps[{index}].gas" in refused) == unpurged


def _purged_since(night: list[tuple[dict[str, float], float]], species: str) -> bool:
    inert = longest = 0.0
    for flows, seconds in reversed(night):
        if species in flows:
            return longest >= 30.0
        inert = inert + seconds if set(flows) == {"N2"} and flows["N2"] > 0 else 0.0
        longest = max(longest, inert)
    return True


def test_examples_of_the_docstrings() -> None:
    assert doctest.testmod(gas_rules).failed == 0

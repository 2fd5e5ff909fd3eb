"""Interlocks: names and dimensions, what each rule is met by, and what a recipe may add."""

import math

import pytest

from acquisition.interlocks import Names, all_interlocks, instrument_interlocks, interlock, recipe_interlocks
from acquisition.plan import check
from acquisition.readbacks import Track
from acquisition.recipe import parse_recipe
from drivers.errors import DocumentError, InputError
from drivers.frame import Reading
from drivers.safety import InterlockFile
from drivers.units import quantity


def rule(bench, text, then="safe", **more):
    return interlock(InterlockFile(when=text, then=then, **more), Names(bench.instrument), "instrument")


def met(bench, one, now=0.0, rates=False, ages=None, **values):
    """Ask a rule, the channels (short names) having said so."""
    names = Names(bench.instrument)
    tracks = {channel.name: Track(channel, 0.0) for channel in one.channels}
    for name, value in values.items():
        channel = names.channel(name)
        reading = Reading(quantity(value, channel.unit), bench.clock.now())
        tracks[channel.name].take(reading, now - (ages or {}).get(name, 0.0), bench.clock.now())
    return one.met(tracks, now)


def test_channels_by_short_and_by_full_names(virtual):
    names = Names(virtual().instrument)
    for short, full in [
        ("heater", "heater.temperature"), ("pressure", "gauge.pressure"), ("H2", "gases.H2.flow"),
        ("gases.H2.flow", "gases.H2.flow"), ("focus", "column.focus"), ("rate", "heater.rate"),
        ("detector.S0.contrast", "detector.S0.contrast"), ("temperature", "heater.temperature"),
    ]:  # fmt: skip
        if full in names.instrument.channels():
            assert names.channel(short).name == full
    with pytest.raises(InputError, match="did you mean 'pressure'"):
        names.channel("presure")
    with pytest.raises(InputError, match=r"it has heater, pressure, Ar, H2, N2, O2, and heater\.temperature"):
        names.channel("zzzzzzz")


@pytest.mark.parametrize(
    ("text", "values", "told"),
    [
        ("heater above 850 degC", {"heater": 1123.0}, None),
        ("heater above 850 degC", {"heater": 1150.0}, "heater.temperature is 876.85 degC, above 850 degC"),
        ("pressure below 1 mbar", {"pressure": 50.0}, "gauge.pressure is 0.5 mbar, below 1 mbar"),
        ("pressure outside 10..30 Pa", {"pressure": 20.0}, None),
        ("pressure outside 10..30 Pa", {"pressure": 31.0}, "gauge.pressure is 31 Pa, outside 10 Pa to 30 Pa"),
        ("H2 and O2 in the flammable range above 500 Pa", {"H2": 5.0, "O2": 5.0, "pressure": 400.0}, None),
        ("H2 and O2 in the flammable range above 500 Pa", {"H2": 5.0, "O2": 0.0, "pressure": 600.0}, None),
        ("H2 and O2 in the flammable range above 500 Pa", {"H2": 97.0, "O2": 3.0, "pressure": 600.0}, None),
        (
            "O2 and H2 in the flammable range above 500 Pa",
            {"H2": 5.0, "O2": 5.0, "pressure": 600.0},
            "H2 is 50% of H2 and O2 (flammable from 4% to 94%) at 600 Pa, above 500 Pa",
        ),
    ],
)
def test_what_a_rule_is_met_by(virtual, text, values, told):
    bench = virtual()
    assert met(bench, rule(bench, text), **values) == told


def test_a_difference_from_the_setpoint(virtual):
    bench = virtual()
    one = rule(bench, "gases.O2.flow differs from setpoint by 10 %")
    assert met(bench, one, O2=7.0) is None  # nothing was asked for yet
    bench.instrument.gases["O2"].flow.set("50 sccm")
    assert met(bench, one, O2=54.9) is None
    assert "54.9" not in (told := met(bench, one, O2=44.0) or "")
    assert told.startswith("gases.O2.flow is 44 sccm where 50 sccm was asked for")
    bench.instrument.gases["O2"].flow.set("0 sccm")
    assert met(bench, one, O2=0.9) is None  # within the line's own tolerance of 1 sccm


def test_a_rate_is_that_of_the_last_ten_seconds(virtual):
    bench = virtual()
    one = rule(bench, "heater falls faster than 100 K/min")
    channel = bench.instrument.heater.temperature
    track = Track(channel, 0.0, rates=True)

    def after(slope):
        for second in range(30):
            now = second + 30.0 * (slope < 0)
            track.take(Reading(quantity(1000.0 + slope * second, "K"), bench.clock.now()), now, bench.clock.now())
        return one.met({channel.name: track}, now)

    assert after(1.0) is None
    assert after(-2.0) == "heater.temperature falls by 120 K/min, faster than 100 K/min"


def test_silence_is_as_bad_as_the_worst_answer(virtual):
    bench = virtual()
    one = rule(bench, "heater above 850 degC")
    assert met(bench, one, now=4.0) is None
    assert "heater.temperature has not answered for 6.0 s (no readback yet)" in met(bench, one, now=6.0)
    assert "(the last readback)" in met(bench, one, now=20.0, ages={"heater": 6.0}, heater=300.0)
    patient = rule(bench, "heater above 850 degC", stale_after="1 min")
    assert met(bench, patient, now=20.0, ages={"heater": 6.0}, heater=300.0) is None


def test_no_number_is_no_answer(virtual):
    bench = virtual()
    track = Track(bench.instrument.heater.temperature, 0.0)
    track.take(Reading(quantity(math.nan, "K"), bench.clock.now()), 5.0, bench.clock.now())
    assert not track.known
    assert track.age(7.0) == 7.0


def test_the_age_of_any_readback(virtual):
    bench = virtual()
    one = rule(bench, "any readback older than 5 s")
    assert len(one.channels) == len(bench.instrument.channels())
    names = {channel.name: Track(channel, 0.0) for channel in one.channels}
    assert one.met(names, 4.0) is None
    assert "and 24 others, longer than 5 s" in one.met(names, 6.0).replace(f"{len(names) - 1} others", "24 others")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("heater above 5 Pa", "5 Pa is a pressure; expected a temperature"),
        ("oven above 5 K", "this instrument has no channel 'oven'"),
        ("pressure differs from setpoint by 5 Pa", "only read, and has no setpoint"),
        ("H2 and N2 in the flammable range", "H2 and N2 do not burn"),
        ("H2 and He in the flammable range", "no gas 'He'"),
        ("heater falls faster than 5 K", "5 K is a temperature; expected a ramp rate"),
        ("pressure over 5 Pa", "is not a rule"),
    ],
)
def test_what_the_instrument_does_not_have_is_told_with_its_place(virtual, text, message):
    bench = virtual(f"name: bench\ninterlocks:\n  - {{when: heater above 900 K, then: warn}}\n"
                    f"  - {{when: {text}, then: safe}}\n")  # fmt: skip
    with pytest.raises(DocumentError) as caught:
        instrument_interlocks(bench.instrument)
    assert "bench.yaml:4:12: interlocks[1].when: " in str(caught.value)
    assert message in str(caught.value)


OWN = """\
name: bench
settings: {chamber: {pumping_speed: 0.5 l/s, volume: 10 l}}
interlocks:
  - {when: heater above 850 degC for 2 s, then: suspend}
  - {when: pressure outside 1..100 Pa for 10 min, then: safe}
  - {when: heater falls faster than 50 K/min, then: warn}
"""


@pytest.mark.parametrize(
    ("added", "then", "looser"),
    [
        ("heater above 860 degC for 2 s", "suspend", True),
        ("heater above 860 degC for 2 s", "warn", True),
        ("heater above 850 degC for 10 s", "suspend", True),
        ("heater above 860 degC for 2 s", "safe", False),
        ("heater above 840 degC for 2 s", "suspend", False),
        ("heater above 850 degC for 2 s", "suspend", False),
        ("pressure above 200 Pa for 11 min", "safe", True),
        ("pressure above 50 Pa for 11 min", "safe", False),
        ("pressure outside 0.5..200 Pa for 10 min", "suspend", True),
        ("heater falls faster than 60 K/min", "warn", True),
        ("O2 above 60 sccm", "warn", False),
    ],
)
def test_a_recipe_adds_stricter_rules_only(virtual, added, then, looser):
    bench = virtual(OWN)
    own = instrument_interlocks(bench.instrument)
    _, problems = recipe_interlocks([InterlockFile(when=added, then=then)], bench.instrument, own)
    assert bool(problems) is looser
    if problems:
        assert problems[0][0] == ("interlocks", 0, "when")
        assert "is stricter and stays in force" in problems[0][1]


def test_all_rules_of_a_run(virtual):
    bench = virtual(OWN)
    rules = all_interlocks(bench.instrument, [InterlockFile(when="O2 above 60 sccm", then="warn")])
    assert [(rule.text, rule.origin) for rule in rules[-2:]] == [
        ("heater falls faster than 50 K/min", "instrument"),
        ("O2 above 60 sccm", "recipe"),
    ]
    with pytest.raises(InputError, match=r"interlocks\[0\].when: the instrument's own rule"):
        all_interlocks(bench.instrument, [InterlockFile(when="heater above 900 degC for 1 min", then="warn")])


def refused(bench, text):
    with pytest.raises(DocumentError) as caught:
        check(parse_recipe(text, "night.yaml"), bench.instrument)
    return [str(problem) for problem in caught.value.problems]


def test_a_ramp_above_an_interlock_is_refused_with_its_place(virtual):
    steps = "  - gas: {N2: 10 sccm}\n  - ramp: {heater: 900 degC, rate: 20 K/min}\n  - hold: 20 min\n"
    (told,) = refused(virtual(OWN), f"name: a\nsteps:\n{steps}")
    assert told.startswith("night.yaml:4:11: steps[1].ramp: heater.temperature would be above 850 degC for 22.")
    assert (
        "the instrument's interlock 'heater above 850 degC for 2 s' would suspend the run, and then end it safe" in told
    )


def test_a_pressure_that_settles_outside_is_refused_and_a_passing_one_is_not(virtual):
    bench = virtual(OWN)
    (told,) = refused(bench, "name: a\nsteps:\n  - gas: {N2: 50 sccm}\n    hold: 1 h\n")
    assert told.startswith("night.yaml:3:10: steps[0].gas: gauge.pressure would be above 100 Pa for 59.")
    check(parse_recipe("name: a\nsteps:\n  - gas: {N2: 50 sccm}\n    hold: 5 min\n"), bench.instrument)
    (told,) = refused(bench, "name: a\nsteps:\n  - hold: 1 h\n")
    assert "gauge.pressure would be below 1 Pa for 60 min (up to 0 Pa)" in told


def test_a_warning_is_a_note(virtual):
    steps = "  - gas: {N2: 10 sccm}\n  - ramp: {heater: 800 degC, rate: 20 K/min}\n"
    plan = check(
        parse_recipe(f"name: a\nsteps:\n{steps}  - ramp: {{heater: 300 degC, rate: 80 K/min}}\n"),
        virtual(OWN).instrument,
    )
    assert any("the ramp falls by 80 K/min; the instrument's interlock" in note for note in plan.notes)


def test_a_recipes_own_rules_are_foretold_as_well(virtual):
    recipe = (
        "name: a\ninterlocks:\n  - {when: O2 above 5 sccm for 1 min, then: safe}\nsteps:\n"
        "  - gas: {O2: 6 sccm}\n    hold: 2 min\n"
    )
    (told,) = refused(virtual(OWN), recipe)
    assert told.startswith("night.yaml:5:10: steps[0].gas: gases.O2.flow would be above 5 sccm for 2")
    check(parse_recipe(recipe.replace("6 sccm", "5 sccm")), virtual(OWN).instrument)


def test_a_flammable_mixture_is_foretold(virtual):
    text = OWN.replace("interlocks:", "gas_rules: {flammable_above: 1 kPa}\ninterlocks:")
    rule = "  - {when: H2 and O2 in the flammable range above 20 Pa for 10 s, then: safe}\n"
    recipe = "name: a\nsteps:\n  - gas: {H2: 5 sccm, O2: 5 sccm}\n    hold: 2 min\n"
    check(parse_recipe(recipe), virtual(text).instrument)
    (told,) = refused(virtual(text + rule), recipe)
    assert "night.yaml:3:10: steps[0].gas: H2 would be 50% of H2 and O2" in told


def test_odd_texts_in_a_recipe_are_refused_without_an_instrument():
    with pytest.raises(DocumentError) as caught:
        parse_recipe("name: a\ninterlocks:\n  - {when: heater over 5 K, then: warn}\nsteps:\n  - hold: 1 s\n", "n.yaml")
    assert str(caught.value).startswith("n.yaml:3:12: interlocks[0].when: 'heater over 5 K' is not a rule")

"""The language of interlocks: what is read is written the same, and no text whatever raises anything but advice."""

import doctest

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acquisition import rules
from acquisition.rules import Beyond, Differs, Flammable, Old, Outside, Rule, Runs, parse_rule
from drivers.errors import InputError
from drivers.units import quantity, si

UNITS = ("degC", "K", "Pa", "kPa", "mbar", "sccm", "%", "um", "nA", "keV", "deg", "mm")
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}(\.[A-Za-z0-9_]{1,8}){0,2}", fullmatch=True).filter(
    lambda name: name not in ("any",)
)
numbers = st.floats(-1e6, 1e6).map(lambda value: value + 0.0)
positive = st.floats(1e-6, 1e5)
times = st.builds(quantity, st.floats(1e-6, 1e4), st.sampled_from(["s", "min"]))


def quantities(values=numbers):
    return st.builds(quantity, values, st.sampled_from(UNITS))


@st.composite
def ranges(draw):
    unit = draw(st.sampled_from(UNITS))
    low, high = sorted(draw(st.tuples(numbers, numbers)))
    low, high = quantity(low, unit), quantity(high, unit)
    if not si(low) < si(high):
        low, high = quantity(1.0, unit), quantity(2.0, unit)
    return Outside(draw(names), low, high)


conditions = st.one_of(
    st.builds(Beyond, names, st.sampled_from(["above", "below"]), quantities().filter(lambda q: si(q) >= 0)),
    ranges().filter(lambda outside: si(outside.low) >= 0),
    st.builds(Differs, names, quantities(positive).filter(lambda q: str(q.units) != "degree_Celsius")),
    st.builds(
        Runs,
        names,
        st.sampled_from(["rises", "falls"]),
        st.builds(quantity, positive, st.sampled_from(["K/min", "Pa/s"])),
    ),
    st.builds(Old, names | st.none(), times),
    st.tuples(names, names, st.none() | st.builds(quantity, positive, st.sampled_from(["Pa", "kPa"])))
    .filter(lambda parts: parts[0] != parts[1])
    .map(lambda parts: Flammable(*parts)),
)


@given(st.builds(Rule, conditions, st.none() | times))
def test_what_is_written_is_read_the_same(rule):
    assert parse_rule(str(rule)) == rule
    assert str(parse_rule(str(rule))) == str(rule)


WORDS = (
    "heater pressure H2 O2 and any readback above below outside differs from its setpoint by rises falls faster than "
    "older in the flammable range for 5 s 850 degC 10..30 Pa 1e-3 .. -5 % K/min 1,5 2h 0x10 nan inf dBm ℃ µm ΔK sccm/s "
    "degC*m 10...30 .."
)
words = st.sampled_from(WORDS.split())


@given(st.lists(words, max_size=14).map(" ".join) | st.text(max_size=80))
@example("heater above 5 dBm")
@example("heater outside 5 dBm..6 dBm")
@example("heater outside 1 degC*m..2 degC*m")
@example("x rises faster than 5 degC*m/min")
@example("x differs from setpoint by 5 degC**2")
@example("x above 1" + "0" * 400 + " K")
def test_any_text_is_a_rule_or_is_refused_with_advice(text):
    try:
        rule = parse_rule(text)
    except InputError as error:
        assert "rule" in error.message
    else:
        assert parse_rule(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "write one such as 'heater above 850 degC for 2 s'"),
        ("heater over 850 degC", "NAME above VALUE; NAME below VALUE"),
        ("heater above 850", "has no unit"),
        ("heater above 850 degC for 2", "'2' has no unit; expected a time, such as 30 s"),
        ("heater above 850 degC for 2 K", "2 K is a temperature; expected a time"),
        ("heater above 850 degC for -2 s", "expected a time above zero"),
        ("any readback older than 900 d", "expected a time up to 7 d"),
        ("pressure outside 30..10 Pa", "expected the lower end first"),
        ("pressure outside 10 Pa..30 K", "cannot be the ends of one range"),
        ("pressure outside 10-30 Pa", "expected LOW..HIGH with a unit"),
        ("H2 and H2 in the flammable range", "expected two gases"),
        ("H2 and O2 in the flammable range above 5 s", "5 s is a time; expected a pressure"),
        ("heater falls faster than -5 K/min", "expected a rate above zero"),
        ("O2 differs from setpoint by 0 %", "expected a difference above zero"),
        ("heater above 1,5 K", "comma"),
    ],
)
def test_odd_texts_are_told_what_may_be_written(text, advice):
    with pytest.raises(InputError) as caught:
        parse_rule(text)
    assert advice in caught.value.message


def test_ranges_with_one_unit_or_two():
    for text in ("pressure outside 10..30 Pa", "pressure outside 10 Pa..30 Pa", "pressure outside 10 .. 30 Pa"):
        assert str(parse_rule(text)) == "pressure outside 10..30 Pa"
    assert str(parse_rule("pressure outside 10 Pa..1 kPa")) == "pressure outside 10 Pa..1 kPa"


def test_examples():
    assert doctest.testmod(rules).failed == 0

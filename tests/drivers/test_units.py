"""Quantities: what is read, what is refused and why, and that nothing is lost on the way."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from drivers.errors import QuantityError
from drivers.units import (
    KEV,
    Angle,
    Quantity,
    RampRate,
    Temperature,
    TemperatureDifference,
    format_quantity,
    noun,
    parse_quantity,
    quantity_json,
    si,
    unit_text,
    ureg,
)

READ = {
    "temperature in celsius": ("400 degC", "kelvin", 673.15),
    "temperature without a space": ("400degC", "kelvin", 673.15),
    "temperature with the sign": ("400 °C", "kelvin", 673.15),
    "ramp in kelvin": ("10 K/min", "kelvin/second", 1 / 6),
    "ramp in celsius is a difference": ("10 degC/min", "kelvin/second", 1 / 6),
    "flow": ("20 sccm", "mol/s", 20 * 7.4358e-7),
    "flow in standard litres": ("1 slm", "mol/s", 1000 * 7.4358e-7),
    "exponent": ("1e-3 mbar", "pascal", 0.1),
    "torr": ("1 Torr", "pascal", 133.322368),
    "difference in celsius": ("5 degC", "delta_degC", 5.0),
    "difference in kelvin": ("5 K", "delta_degC", 5.0),
    "energy": ("5 keV", "joule", 5 * KEV),
    "dose": ("50 kC/m**2", "coulomb/meter**2", 5e4),
    "micrometre with the sign": ("10 µm", "meter", 1e-5),
    "number": ("0.95", "", 0.95),
    "number that is one": (0.95, "", 0.95),
    "percent": ("95 %", "", 0.95),
    "degree": ("90 deg", "radian", math.pi / 2),
    "negative": ("-12.5 degC", "kelvin", 260.65),
    "value and unit": ({"value": 30, "unit": "s"}, "second", 30.0),
}


@pytest.mark.parametrize(("text", "unit", "expected"), READ.values(), ids=READ.keys())
def test_reads(text, unit, expected):
    assert si(parse_quantity(text, unit)) == pytest.approx(expected, rel=1e-4)


REFUSED = {
    "decimal comma": ("1,5 mm", "meter", ["comma", "1.5 mm"]),
    "two numbers": ("2 h 30 min", "second", ["more than one number", "150 min"]),
    "no unit": ("400", "kelvin", ["no unit", "a temperature", "400 degC"]),
    "no unit, not text": (400, "kelvin", ["no unit", "a temperature"]),
    "another dimension": ("5 kg", "kelvin", ["a mass", "expected a temperature"]),
    "coulomb for celsius": ("400 C", "kelvin", ["electric charge", "write degC"]),
    "pascal for kelvin": ("300 Pa", "kelvin", ["a pressure", "expected a temperature"]),
    "unknown unit": ("5 furlongs_per", "meter", ["not known", "a length"]),
    "no number": ("hot", "kelvin", ["does not begin with a number"]),
    "below absolute zero": ("-300 degC", "kelvin", ["absolute zero"]),
    "not a number": ("nan s", "second", ["does not begin with a number"]),
    "too large": ("1e999 s", "second", ["too large"]),
    "nothing": (None, "second", ["expected a time", "None"]),
    "truth": (True, "", ["True"]),
    "open bracket": ("5 (", "meter", ["cannot be read as a unit"]),
    "volume flow for gas": ("5 cm**3/min", "mol/s", ["expected a gas flow"]),
    "angle without unit": ("90", "radian", ["no unit", "an angle"]),
}


@pytest.mark.parametrize(("text", "unit", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_with_a_sentence(text, unit, words):
    with pytest.raises(QuantityError) as caught:
        parse_quantity(text, unit)
    for word in words:
        assert word in caught.value.message


@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15),
    st.sampled_from(["K/min", "nm", "Pa", "sccm", "keV", "nA", "us", "deg", "kC/m**2", "mbar", "degC/min", "percent"]),
)
def test_text_round_trip(value, unit):
    made = ureg.Quantity(value, ureg.parse_units(unit))
    again = parse_quantity(format_quantity(made, digits=17))
    assert again.magnitude == pytest.approx(value, rel=1e-12)
    assert again.units == made.units


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_with_a_sentence(text):
    try:
        parse_quantity(text, "meter")
    except QuantityError as error:
        assert error.message


def test_json_has_value_and_unit():
    assert quantity_json(parse_quantity("20 sccm")) == {"value": 20.0, "unit": "sccm"}
    assert quantity_json(ureg.Quantity(0.5, "")) == {"value": 0.5, "unit": ""}


@pytest.mark.parametrize("kind", [Temperature, Quantity["kelvin"]])
def test_pydantic_type_reads_and_serialises(kind):
    adapter = TypeAdapter(kind)
    read = adapter.validate_python("400 degC")
    assert adapter.dump_python(read) == {"value": 400.0, "unit": "degC"}
    assert si(adapter.validate_json(adapter.dump_json(read))) == pytest.approx(673.15)
    with pytest.raises(ValidationError, match="a pressure; expected a temperature"):
        adapter.validate_python("5 Pa")


def test_pydantic_schema_describes_the_text():
    schema = TypeAdapter(RampRate).json_schema()
    assert schema["type"] == "string"
    assert schema["examples"] == ["10 K/min"]


def test_difference_is_not_offset():
    assert si(TypeAdapter(TemperatureDifference).validate_python("5 degC")) == pytest.approx(5.0)
    assert si(TypeAdapter(Angle).validate_python("180 deg")) == pytest.approx(math.pi)


def test_nouns_and_units_for_people():
    assert noun("nanometer")[0] == "a length"
    assert noun("")[0] == "a number without a unit"
    assert unit_text(ureg.Unit("micrometer")) == "um"
    assert unit_text(ureg.Unit("degC")) == "degC"


def test_sccm_names_its_reference_state():
    # 1 cm³ at 101 325 Pa and 0 °C is p·V/(R·T) mol.
    assert si(parse_quantity("60 sccm")) == pytest.approx(101325 * 1e-6 / (8.314462618 * 273.15), rel=1e-9)

"""Quantities: numbers that keep their unit.

One pint registry serves the whole program. Text becomes a quantity through :func:`parse_quantity`, which
separates the number from the unit before pint sees them, because pint's own parser rejects ``400 degC`` and
reads ``1,5 mm`` as 15 mm and ``2 h 30 min`` as 60 h·min.

Inside numerical kernels there are plain SI floats: convert once, at the edge, with :func:`si`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import pint
from pint.facets.plain import PlainQuantity
from pydantic_core import PydanticCustomError, core_schema

from drivers.errors import QuantityError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

ureg: pint.UnitRegistry[Any] = pint.UnitRegistry(cache_folder=None)
# The standard cubic centimetre per minute is an amount of gas per time once its reference state is named:
# 0 °C and 101 325 Pa (7.436e-7 mol/s).
ureg.define("sccm = 101325 * pascal * centimeter ** 3 / (molar_gas_constant * 273.15 * kelvin) / minute")
ureg.define("slm = 1000 * sccm")
ureg.define("Torr = torr")
pint.set_application_registry(ureg)  # type: ignore[no-untyped-call]

Q: TypeAlias = PlainQuantity[Any]
"""A pint quantity of the application registry."""

KEV = 1.602176634e-16
"""One kiloelectronvolt in joule (exact, SI 2019)."""
ELEMENTARY_CHARGE = 1.602176634e-19
"""Coulomb (exact, SI 2019)."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_SPLIT = re.compile(rf"\s*({_NUMBER})\s*(.*?)\s*", re.DOTALL)
_COMMA = re.compile(r"\s*[+-]?\d+,\d")
_SECOND_NUMBER = re.compile(r"(?:^|\s)[+-]?\d+(?:\.\d+)?\s*[A-Za-zµ°%]")

# What a person calls the dimension, with an example of how to write it. The key is the canonical unit.
_NOUNS: dict[str, tuple[str, str]] = {
    "K": ("a temperature", "400 degC"),
    "delta_degC": ("a temperature difference", "5 K"),
    "K/s": ("a ramp rate", "10 K/min"),
    "Pa": ("a pressure", "100 Pa"),
    "mol/s": ("a gas flow", "20 sccm"),
    "s": ("a time", "30 s"),
    "m": ("a length", "10 um"),
    "J": ("an energy", "5 keV"),
    "A": ("a current", "1 nA"),
    "C/m**2": ("a dose per area", "50 kC/m**2"),
    "rad": ("an angle", "90 deg"),
    "V": ("a voltage", "5 V"),
    "": ("a number without a unit", "0.95"),
}
# Only to name what came instead.
_OTHERS = {
    "kg": "a mass",
    "C": "an electric charge",
    "m/s": "a speed",
    "m**2": "an area",
    "1/s": "a frequency",
    "W": "a power",
    "N": "a force",
    "mol": "an amount of substance",
}


@lru_cache(maxsize=4096)
def _unit(text: str) -> Any:
    """Parse a unit; raises pint's errors."""
    return ureg.parse_units(text.replace("℃", "degC").replace("°C", "degC"))


@lru_cache(maxsize=4096)
def _same_dimension(one: Any, other: Any) -> bool:
    return bool(ureg.get_dimensionality(one) == ureg.get_dimensionality(other))


@lru_cache(maxsize=1024)
def noun(unit: str) -> tuple[str, str]:
    """Return what a person calls the dimension of ``unit`` (with its article), and an example of it.

    >>> noun("kelvin")
    ('a temperature', '400 degC')
    """
    wanted = _unit(unit)
    if unit.startswith("delta_"):
        return _NOUNS["delta_degC"]
    if not unit:
        return _NOUNS[""]
    for canonical, named in _NOUNS.items():
        if canonical not in ("delta_degC", "") and _same_dimension(_unit(canonical), wanted):
            return named
    for canonical, other in _OTHERS.items():
        if _same_dimension(_unit(canonical), wanted):
            return other, f"1 {unit}"
    return f"a quantity in {unit}", f"1 {unit}"


def _expected(unit: str | None) -> str:
    if unit is None:
        return "a number and a unit, such as 400 degC"
    what, example = noun(unit)
    return f"{what}, such as {example}"


def _read_unit(text: str, unit_text: str, expected: str) -> Any:
    try:
        return _unit(unit_text)
    except pint.UndefinedUnitError:
        raise QuantityError(f"{text!r}: the unit {unit_text!r} is not known; expected {expected}") from None
    except Exception:  # noqa: BLE001  pint's parser raises whatever its tokenizer meets
        raise QuantityError(f"{text!r}: {unit_text!r} cannot be read as a unit; expected {expected}") from None


def parse_quantity(text: object, unit: str | None = None) -> Q:
    """Read a number with its unit.

    Parameters
    ----------
    text : object
        Text such as ``"400 degC"``; a ``{"value": …, "unit": …}`` mapping; or a quantity, which is checked.
    unit : str, optional
        Any unit of the dimension that is wanted. ``delta_degC`` means a temperature difference, for which
        ``5 degC`` and ``5 K`` are the same. ``""`` means a number without a unit.

    Returns
    -------
    pint.Quantity
        In the unit that was written.

    Raises
    ------
    QuantityError
        With a sentence that says what was expected, what came and why it was refused.

    Examples
    --------
    >>> parse_quantity("1e-3 mbar", "pascal").to("Pa").magnitude
    0.1
    >>> parse_quantity("10 degC/min", "kelvin/second").to("K/min").magnitude
    10.0
    """
    expected = _expected(unit)
    if isinstance(text, PlainQuantity):
        return _checked(text, None, unit, expected)
    if isinstance(text, Mapping) and set(text) == {"value", "unit"}:
        text = f"{text['value']} {text['unit']}"
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise QuantityError(f"expected {expected}; got {text!r}")
    shown = str(text).strip()
    if _COMMA.match(shown):
        raise QuantityError(
            f"{shown!r}: a comma could mean a decimal point or thousands; write {shown.replace(',', '.')!r} "
            "with a point"
        )
    match = _SPLIT.fullmatch(shown)
    if match is None:
        raise QuantityError(f"{shown!r} does not begin with a number; expected {expected}")
    number, unit_text = float(match.group(1)), match.group(2)
    if not math.isfinite(number):
        raise QuantityError(f"{shown!r} is too large to be a number; expected {expected}")
    if _SECOND_NUMBER.search(unit_text):
        raise QuantityError(
            f"{shown!r} holds more than one number; write one number and one unit, such as 150 min for 2 h 30 min"
        )
    if not unit_text and unit != "":
        raise QuantityError(f"{shown!r} has no unit; expected {expected}")
    parsed = _read_unit(shown, unit_text, expected)
    if unit is not None and unit.startswith("delta_") and str(parsed) in ("degree_Celsius", "degree_Fahrenheit"):
        parsed = _unit(f"delta_{parsed}")
    return _checked(ureg.Quantity(number, parsed), shown, unit, expected)


def _checked(quantity: Q, text: str | None, unit: str | None, expected: str) -> Q:
    if unit is None:
        return quantity
    if not _same_dimension(quantity.units, _unit(unit)):
        came = noun(unit_text(quantity.units))[0]
        hint = ""
        if noun(unit)[0] == "a temperature" and unit_text(quantity.units) == "C":
            hint = "; C is the coulomb, write degC"
        raise QuantityError(f"{text or format_quantity(quantity)} is {came}; expected {expected}{hint}")
    if noun(unit)[0] == "a temperature" and magnitude(quantity, "kelvin") < 0:
        raise QuantityError(f"{text or format_quantity(quantity)} lies below absolute zero; expected {expected}")
    return quantity


@lru_cache(maxsize=4096)
def _conversion(unit: Any, target: str) -> tuple[float, float]:
    """Return factor and offset from one unit to another."""
    offset, end = (float(ureg.Quantity(value, unit).to(_unit(target)).magnitude) for value in (0.0, 1.0))
    return end - offset, offset


def magnitude(quantity: Q, unit: str) -> float:
    """Return a quantity's number in ``unit``: what ``to`` gives, without parsing the unit each time.

    >>> magnitude(parse_quantity("400 degC"), "K")
    673.15
    """
    factor, offset = _conversion(quantity.units, unit)
    return float(quantity.magnitude) * factor + offset


@lru_cache(maxsize=1024)
def unit_text(unit: Any) -> str:
    """Return a unit as short ASCII that :func:`parse_quantity` reads back: ``degC``, ``K/min``, ``um``.

    >>> unit_text(ureg.Unit("degC")), unit_text(ureg.Unit("kelvin/minute"))
    ('degC', 'K/min')
    """
    text = f"{ureg.Unit(unit):~C}"
    for sign, plain in (
        ("Δ°C", "delta_degC"),
        ("°C", "degC"),
        ("°F", "degF"),
        ("µ", "u"),
        ("μ", "u"),
        ("Å", "angstrom"),
    ):
        text = text.replace(sign, plain)
    return "deg" if text == "°" else text.replace("°", "deg")


def format_quantity(quantity: Q, digits: int = 6) -> str:
    """Return text that :func:`parse_quantity` reads back, with ``digits`` significant digits.

    >>> format_quantity(ureg.Quantity(400.0, "degC"))
    '400 degC'
    """
    return f"{float(quantity.magnitude):.{digits}g} {unit_text(quantity.units)}".strip()


def quantity_json(quantity: Q) -> dict[str, float | str]:
    """Return ``{"value": …, "unit": …}``; a dimensionless quantity has unit ``""``."""
    return {"value": float(quantity.magnitude), "unit": unit_text(quantity.units)}


@lru_cache(maxsize=4096)
def _factor(unit: Any) -> float | None:
    """Return the factor from ``unit`` to SI base units, or None where an offset is involved (degC)."""
    text = str(unit)
    if text.startswith("degree_") and text in ("degree_Celsius", "degree_Fahrenheit"):
        return None
    return float(ureg.Quantity(1.0, unit).to_base_units().magnitude)


def si(quantity: Q) -> float:
    """Return the magnitude in SI base units (K, Pa, m, s, J, A, mol/s, rad); temperatures are absolute.

    >>> si(parse_quantity("5 keV")) / KEV
    5.0
    """
    factor = _factor(quantity.units)
    if factor is None:
        return float(quantity.to_base_units().magnitude)
    return float(quantity.magnitude) * factor


def quantity(value: float, unit: str) -> Q:
    """Return ``value`` in ``unit`` as a quantity; for numbers that come from the program, not from people."""
    return ureg.Quantity(float(value), _unit(unit))


@dataclass(frozen=True, slots=True)
class Dimension:
    """Pydantic metadata: a quantity of the dimension of ``unit``, read from text, written as value and unit."""

    unit: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate with :func:`parse_quantity` and serialise as ``{"value", "unit"}``."""

        def validate(value: object) -> Q:
            try:
                return parse_quantity(value, self.unit)
            except QuantityError as error:
                raise PydanticCustomError("quantity", "{message}", {"message": error.message}) from None

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(quantity_json)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the text form for editors."""
        what, example = noun(self.unit)
        return {
            "type": "string",
            "pattern": rf"^\s*{_NUMBER}\s*[A-Za-zµ°%].*$" if self.unit else rf"^\s*{_NUMBER}\s*%?$",
            "description": f"{what[0].upper()}{what[1:]}, such as {example}.",
            "examples": [example],
        }


@dataclass(frozen=True, slots=True)
class AnyDimension:
    """Pydantic metadata: a quantity of any dimension, whose unit is known only where it is used."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate with :func:`parse_quantity` and serialise as ``{"value", "unit"}``."""

        def validate(value: object) -> Q:
            unit = "" if isinstance(value, Mapping) and value.get("unit") == "" else None
            try:
                return parse_quantity(value, unit)
            except QuantityError as error:
                raise PydanticCustomError("quantity", "{message}", {"message": error.message}) from None

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(quantity_json)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the text form for editors."""
        return {"type": "string", "pattern": r"^\s*[+-]?[\d.].*[A-Za-zµ°%].*$", "examples": ["8.01 mm"]}


class Quantity:
    """``Quantity["kelvin"]``: the pydantic type of a quantity with the dimension of kelvin."""

    def __class_getitem__(cls, unit: str) -> Any:
        """Return the annotated type for the dimension of ``unit``."""
        return Annotated[PlainQuantity, Dimension(unit)]


# The same types under names that static checkers understand.
Temperature: TypeAlias = Annotated[Q, Dimension("kelvin")]
TemperatureDifference: TypeAlias = Annotated[Q, Dimension("delta_degC")]
RampRate: TypeAlias = Annotated[Q, Dimension("kelvin/second")]
Pressure: TypeAlias = Annotated[Q, Dimension("pascal")]
Flow: TypeAlias = Annotated[Q, Dimension("mol/s")]
Duration: TypeAlias = Annotated[Q, Dimension("second")]
Length: TypeAlias = Annotated[Q, Dimension("meter")]
Energy: TypeAlias = Annotated[Q, Dimension("joule")]
Current: TypeAlias = Annotated[Q, Dimension("ampere")]
Dose: TypeAlias = Annotated[Q, Dimension("coulomb/meter**2")]
Angle: TypeAlias = Annotated[Q, Dimension("radian")]
Share: TypeAlias = Annotated[Q, Dimension("")]
AnyQuantity: TypeAlias = Annotated[Q, AnyDimension()]

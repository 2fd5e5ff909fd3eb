"""How the values of a recipe are written: checked quantities, whole numbers, comparisons, keys that need a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError, core_schema

from drivers.document import Strict
from drivers.errors import QuantityError
from drivers.units import Dimension, Duration, Flow, Q, RampRate, format_quantity, parse_quantity, quantity_json, si

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

LONGEST = 366 * 86400.0
"""Of one step, s: longer is a slip of the unit."""


_PER = re.compile(r"^(\S*?\d\.?)\s*/")


def refuse(message: str) -> PydanticCustomError:
    """Return the error that a document shows as it stands."""
    return PydanticCustomError("rilievo", "{message}", {"message": message})


def above_zero(value: Q) -> Q:
    """Return the value, which must be positive."""
    if not value.magnitude > 0:
        raise refuse(f"expected a quantity above zero; got {format_quantity(value)}")
    return value


def _a_rate(value: Q) -> Q:
    if not value.magnitude > 0:
        raise refuse(
            f"expected a rate above zero; got {format_quantity(value)}; the target says whether the heater heats or "
            "cools"
        )
    return value


def _not_below_zero(value: Q) -> Q:
    if value.magnitude < 0:
        raise refuse(f"expected a flow of 0 sccm or more; got {format_quantity(value)}")
    return value


def _a_while(value: Q) -> Q:
    if si(above_zero(value)) > LONGEST:
        raise refuse(f"expected a time up to 366 d; got {format_quantity(value)}; check the unit")
    return value


def _some_text(value: str) -> str:
    if not value.strip():
        raise refuse("the text is empty; write some, or remove the key")
    return value


Text: TypeAlias = Annotated[str, AfterValidator(_some_text), Field(json_schema_extra={"minLength": 1})]
While: TypeAlias = Annotated[Duration, AfterValidator(_a_while)]
Rate: TypeAlias = Annotated[RampRate, AfterValidator(_a_rate)]
Share: TypeAlias = Annotated[Flow, AfterValidator(_not_below_zero)]
"""The flow of one species of a mixture."""


@dataclass(frozen=True, slots=True)
class Count:
    """Pydantic metadata: a whole number within bounds, refused with a sentence that names both."""

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Take whole numbers only, neither text nor true."""

        def validate(value: object) -> int:
            if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
                raise refuse(f"expected a whole number from {self.low} to {self.high}; got {value!r}")
            return value

        return core_schema.no_info_plain_validator_function(validate)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the bounds for editors."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Beyond:
    """Pydantic metadata: ``above 0.95`` or ``below 20 nm``, of the dimension of ``unit``."""

    unit: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read the comparison and the threshold."""

        def validate(value: object) -> tuple[str, Q]:
            word, _, rest = str(value).strip().partition(" ")
            if self.unit.startswith("1/"):
                rest = _PER.sub(r"\1 1/", rest)  # 0.02 /min, as people write it
            if word not in ("above", "below"):
                raise refuse(f"expected above or below and a value, such as {self.example}; got {value!r}")
            try:
                return word, parse_quantity(rest, self.unit)
            except QuantityError as error:
                raise refuse(f"after {word!r}: {error.message}") from None

        return core_schema.no_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda pair: {"comparison": pair[0], "threshold": quantity_json(pair[1])}
            ),
        )

    @property
    def example(self) -> str:
        """One way to write it."""
        if self.unit.startswith("1/"):
            return f"above 0.02 {self.unit[1:]}"
        return f"above 20 {self.unit}" if self.unit else "above 0.95"

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the text form for editors."""
        return {"type": "string", "pattern": r"^\s*(above|below)\s+[+-]?[\d.].*$", "examples": [self.example]}


@dataclass(frozen=True, slots=True)
class Interval:
    """Pydantic metadata: a time such as ``30 s``, or keys that say how it varies."""

    varying: type[BaseModel]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read keys as the model, and anything else as a time."""
        keys, time = handler.generate_schema(self.varying), handler.generate_schema(While)

        def which(value: object) -> str:
            mapping = isinstance(value, Mapping) and set(value) != {"value", "unit"}
            return "keys" if mapping or isinstance(value, self.varying) else "time"

        return core_schema.tagged_union_schema({"keys": keys, "time": time}, which)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe both forms for editors."""
        choices: Any = schema
        while "choices" not in choices:  # inside the validator that every key of a recipe has
            choices = choices["schema"]
        time = Dimension("second").__get_pydantic_json_schema__(schema, handler)
        return {"anyOf": [time, handler(choices["choices"]["keys"])]}


class Written(Strict):
    """A part of a recipe: frozen, no keys but its own, no key without a value."""

    model_config = Strict.model_config | {"populate_by_name": False}

    @field_validator("*", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if value is None:
            raise refuse("the key has no value; write one, or remove the key")
        return value

"""What the engine does, one flat and serialisable thing after another.

A recipe compiles to these; they know nothing of YAML. Each has an address that is stable and unique within its run
(``steps[7].repeat[0].steps[1].series[17]``), so that the journal, the log and a person mean the same thing by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter
from pydantic_core import PydanticCustomError, core_schema

from drivers.contract import Scan
from drivers.document import Strict
from drivers.errors import QuantityError
from drivers.units import (
    Current,
    Duration,
    Energy,
    Flow,
    Length,
    Q,
    RampRate,
    Temperature,
    TemperatureDifference,
    parse_quantity,
    quantity,
    quantity_json,
    si,
)

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

FIGURES: Mapping[str, str] = {"coverage": "", "roughness": "nm"}
"""What the live reconstruction tells of each frame and a series can be stopped by, with its unit."""

Interruption: TypeAlias = Literal["continue", "repeat", "safe"]
"""What follows when a step is interrupted and the run resumed: go on, do the step again, or end safely."""
Comparison: TypeAlias = Literal["above", "below"]


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


AnyQuantity: TypeAlias = Annotated[Q, AnyDimension()]


class Imaging(Strict):
    """How frames are taken.

    Attributes
    ----------
    beam_energy, probe_current : pint.Quantity
    field_of_view : pint.Quantity
        Width of the image.
    rows, columns : int
    dwell_time : pint.Quantity
        Of one pixel.
    """

    beam_energy: Energy
    probe_current: Current
    field_of_view: Length
    rows: int
    columns: int
    dwell_time: Duration

    def scan(self) -> Scan:
        """Return the raster, SI."""
        return Scan(self.rows, self.columns, si(self.field_of_view), si(self.dwell_time))

    def dose_per_frame(self) -> float:
        """Return the charge that one frame brings to each area, I·τ/p², in C/m²."""
        scan = self.scan()
        return si(self.probe_current) * scan.dwell_time / scan.pixel_size**2


class Condition(Strict):
    """When a series has seen enough: ``coverage`` ``above`` 0.95.

    Attributes
    ----------
    figure : str
        One of ``FIGURES``.
    comparison : "above" or "below"
    threshold : pint.Quantity
    """

    figure: str
    comparison: Comparison
    threshold: AnyQuantity

    def met(self, value: Q, sigma: float | None = None) -> bool:
        """Return whether ``value`` lies beyond the threshold.

        Parameters
        ----------
        value : pint.Quantity
        sigma : float, optional
            Standard uncertainty in the value's unit; the value must lie beyond the threshold by more than that, so
            that an estimate which cannot tell does not decide.
        """
        number, threshold = si(value), si(self.threshold)
        margin = 0.0 if sigma is None else sigma * si(quantity(1.0, str(value.units)))
        beyond = number - threshold if self.comparison == "above" else threshold - number
        return beyond > margin


class Base(Strict):
    """What every action has.

    Attributes
    ----------
    address : str
        Stable and unique within its recipe.
    name : str
        What the recipe calls the step.
    on_interruption : "continue", "repeat" or "safe"
    """

    address: str
    name: str = ""
    on_interruption: Interruption = "continue"


class Configure(Base):
    """Set the column and the raster for the frames that follow."""

    kind: Literal["configure"] = "configure"
    imaging: Imaging


class SetGas(Base):
    """Let in exactly this mixture: a species that is not named is closed."""

    kind: Literal["gas"] = "gas"
    flows: dict[str, Flow]


class Ramp(Base):
    """Bring the heater to a target at a rate, and wait until it is there.

    Attributes
    ----------
    target, rate, tolerance : pint.Quantity
        The ramp has ended when the readback lies within ``tolerance`` of the target.
    at_most : pint.Quantity or None
        Longest time that it may take.
    """

    kind: Literal["ramp"] = "ramp"
    target: Temperature
    rate: RampRate
    tolerance: TemperatureDifference = Field(default_factory=lambda: quantity(2.0, "K"))
    at_most: Duration | None = None


class Hold(Base):
    """Wait."""

    kind: Literal["hold"] = "hold"
    duration: Duration


class Dark(Base):
    """Take frames with the beam blanked: they tell each segment's offset."""

    kind: Literal["dark"] = "dark"
    frames: int


class BeginSeries(Base):
    """Mark the time zero of a series; the ``Acquire`` actions whose group this is follow.

    Attributes
    ----------
    every : pint.Quantity
        Time from the start of one frame to the start of the next.
    count : int
        Of frames, when nothing stops the series.
    stop_when : Condition or None
        Once it is met, the rest of the group is skipped.
    """

    kind: Literal["series"] = "series"
    every: Duration
    count: int
    stop_when: Condition | None = None


class Acquire(Base):
    """Take one frame.

    Attributes
    ----------
    group : str or None
        Address of the series that it belongs to; None for a single frame.
    number : int
        Within its series or step, from 0.
    offset : pint.Quantity
        When it begins, from the time zero of its series; 0 s for a single frame.
    """

    kind: Literal["frame"] = "frame"
    group: str | None = None
    number: int = 0
    offset: Duration = Field(default_factory=lambda: quantity(0.0, "s"))


class Set(Base):
    """Set any parameter of the instrument.

    Attributes
    ----------
    parameter : str
        As the instrument names it: ``column.focus``.
    value : pint.Quantity
    """

    kind: Literal["set"] = "set"
    parameter: str
    value: AnyQuantity


class Note(Base):
    """Write a sentence to the log."""

    kind: Literal["note"] = "note"
    text: str


Action: TypeAlias = Annotated[
    Configure | SetGas | Ramp | Hold | Dark | BeginSeries | Acquire | Set | Note, Field(discriminator="kind")
]


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Action)


@lru_cache(maxsize=1)
def _list_adapter() -> TypeAdapter[Any]:
    return TypeAdapter(tuple[Action, ...])


def action_to_json(action: Action) -> str:
    """Return one action as JSON text; quantities are value and unit.

    >>> action_to_json(Hold(address="steps[0].hold", duration="20 min"))  # doctest: +ELLIPSIS
    '{"address":"steps[0].hold",...,"duration":{"value":20.0,"unit":"min"}}'
    """
    return _adapter().dump_json(action).decode()


def action_from_json(text: str | bytes) -> Action:
    """Return the action that :func:`action_to_json` wrote.

    Raises
    ------
    pydantic.ValidationError
        For text that is not an action of this version.
    """
    action: Action = _adapter().validate_json(text)
    return action


def actions_to_json(actions: Iterable[Action]) -> str:
    """Return a sequence of actions as one JSON array."""
    return _list_adapter().dump_json(tuple(actions)).decode()


def actions_from_json(text: str | bytes) -> tuple[Action, ...]:
    """Return the sequence that :func:`actions_to_json` wrote."""
    actions: tuple[Action, ...] = _list_adapter().validate_json(text)
    return actions


def actions_from_data(data: Iterable[Mapping[str, Any]]) -> tuple[Action, ...]:
    """Return the actions that a run's journal holds as JSON data.

    Raises
    ------
    pydantic.ValidationError
        For data that are not actions of this version.
    """
    actions: tuple[Action, ...] = _list_adapter().validate_python(tuple(data))
    return actions

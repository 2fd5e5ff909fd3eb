"""How a recipe says how frames are taken, and what the whole run must not pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from acquisition.actions import Imaging
from acquisition.written import Count, While, Written, above_zero, refuse
from drivers.units import Current, Dose, Energy, Length, Pressure, Temperature

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema


class Pixels(Written):
    """The raster: ``512`` for a square one, or rows and columns."""

    rows: Annotated[int, Count(8, 32768)]
    columns: Annotated[int, Count(8, 32768)]

    @model_validator(mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 8 <= value <= 32768:
                raise refuse(f"expected a whole number from 8 to 32768; got {value}")
            return {"rows": value, "columns": value}
        if isinstance(value, dict):
            return value
        raise refuse(f"expected a whole number such as 512, or rows and columns; got {value!r}")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe both forms for editors."""
        side = {"type": "integer", "minimum": 8, "maximum": 32768}
        both = {"type": "object", "properties": {"rows": side, "columns": side}}
        return {
            "anyOf": [side, {**both, "required": ["rows", "columns"], "additionalProperties": False}],
            "description": "Pixels of a frame: 512 for a square one, or {rows: 512, columns: 768}.",
            "examples": [512, {"rows": 512, "columns": 768}],
        }


Energetic: TypeAlias = Annotated[Energy, AfterValidator(above_zero)]
Beam: TypeAlias = Annotated[Current, AfterValidator(above_zero)]
Width: TypeAlias = Annotated[Length, AfterValidator(above_zero)]

_ENERGY = Field(description="Energy of the beam's electrons.", examples=["5 keV"])
_CURRENT = Field(description="Current of the probe.", examples=["1 nA"])
_FIELD = Field(description="Width of the image.", examples=["10 um"])
_PIXELS = Field(description="Pixels of a frame.", examples=[512])
_DWELL = Field(description="Time that the beam stays on one pixel.", examples=["10 us"])


class ImagingText(Written):
    """How frames are taken, as a recipe says it once for all its steps."""

    beam_energy: Annotated[Energetic, _ENERGY]
    probe_current: Annotated[Beam, _CURRENT]
    field_of_view: Annotated[Width, _FIELD]
    pixels: Annotated[Pixels, _PIXELS]
    dwell_time: Annotated[While, _DWELL]

    def imaging(self) -> Imaging:
        """Return it as the engine takes it."""
        return _imaging({name: getattr(self, name) for name in type(self).model_fields})


class ImagingChange(Written):
    """What one step changes of the recipe's imaging; the rest stays."""

    beam_energy: Annotated[Energetic | None, _ENERGY] = None
    probe_current: Annotated[Beam | None, _CURRENT] = None
    field_of_view: Annotated[Width | None, _FIELD] = None
    pixels: Annotated[Pixels | None, _PIXELS] = None
    dwell_time: Annotated[While | None, _DWELL] = None

    def over(self, base: Imaging | None) -> Imaging | None:
        """Return ``base`` with what is written here; None where there is no base and something is missing."""
        parts: dict[str, Any] = {}
        if base is not None:
            parts = {name: getattr(base, name) for name in type(self).model_fields if name != "pixels"}
            parts["pixels"] = Pixels(rows=base.rows, columns=base.columns)
        parts |= {name: getattr(self, name) for name in self.model_fields_set}
        return _imaging(parts) if len(parts) == len(type(self).model_fields) else None


def _imaging(parts: dict[str, Any]) -> Imaging:
    pixels = parts.pop("pixels")
    return Imaging(rows=pixels.rows, columns=pixels.columns, **parts)


class LimitsText(Written):
    """What the recipe itself does not want to pass, whatever the instrument allows."""

    heater: Temperature | None = Field(None, description="Highest setpoint of the heater.", examples=["900 degC"])
    pressure: Annotated[Pressure, AfterValidator(above_zero)] | None = Field(
        None, description="Highest chamber pressure.", examples=["100 Pa"]
    )
    dose: Annotated[Dose, AfterValidator(above_zero)] | None = Field(
        None, description="Highest dose per area of the whole run.", examples=["50 kC/m**2"]
    )
    outage: While | None = Field(
        None,
        description="Longest interruption after which the run may go on; beyond it a resumed run ends safe.",
        examples=["30 min"],
    )

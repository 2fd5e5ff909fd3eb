"""How a recipe asks for what a microscopist would do by hand: focus, stigmators, drift, levels, probe current."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from acquisition.actions import Imaging, Place
from acquisition.imaging import Beam, ImagingChange, Pixels, Width
from acquisition.written import Count, While, Written, above_zero, refuse
from drivers.units import Length, Q, Share, format_quantity, quantity, si


def _part(value: Q) -> Q:
    if not 0 < si(value) < 1:
        raise refuse(f"expected a share between 0 and 100 %; got {format_quantity(value)}")
    return value


Part = Annotated[Share, AfterValidator(_part)]


class PlaceText(Written):
    """Where an adjustment takes its frames, counted from where the field of view stands."""

    x: Length = Field(default_factory=lambda: quantity(0.0, "um"), description="To the right.", examples=["20 um"])
    y: Length = Field(default_factory=lambda: quantity(0.0, "um"), description="Upwards.", examples=["-20 um"])

    def place(self) -> Place:
        """Return it as the engine takes it."""
        return Place(x=self.x, y=self.y)


class LookText(Written):
    """How an adjustment takes its frames; what is not said is as in the step's imaging."""

    side: ClassVar[int] = 128
    """Pixels on a side, unless given."""

    pixels: Pixels | None = Field(
        None, description="Pixels of its frames; 256 for stigmators, 128 else, unless given.", examples=[128]
    )
    field_of_view: Width | None = Field(None, description="Width of its frames.", examples=["5 um"])
    dwell_time: While | None = Field(None, description="Time of its pixels.", examples=["5 us"])

    def look(self, base: Imaging) -> Imaging:
        """Return the imaging of its frames."""
        given: dict[str, Any] = {"pixels": Pixels(rows=self.side, columns=self.side)}
        given |= {name: getattr(self, name) for name in LookText.model_fields if name in self.model_fields_set}
        found = ImagingChange(**given).over(base)
        assert found is not None  # noqa: S101  the base is whole
        return found


class _SearchText(LookText):
    frames: Annotated[int, Count(5, 51)] = Field(
        9, description="Frames of one pass; a search takes up to three passes, and two frames to verify.", examples=[9]
    )
    at: PlaceText | None = Field(
        None,
        description="A sacrificial area, which takes the dose of the search; the beam (or the stage, where the beam "
        "does not reach) moves there and back.",
        examples=[{"x": "12 um"}],
    )

    def arguments(self, base: Imaging) -> dict[str, Any]:
        """Return what the action needs."""
        named = {name: getattr(self, name) for name in ("range", "tolerance", "frames")}
        return {**named, "imaging": self.look(base), "at": None if self.at is None else self.at.place()}


class AutofocusText(_SearchText):
    """Search for the focus by the sharpness of a few frames."""

    range: Width = Field(
        default_factory=lambda: quantity(40.0, "um"),
        description="From one end of the search to the other; the present focus lies in its middle.",
        examples=["40 um"],
    )
    tolerance: Width = Field(
        default_factory=lambda: quantity(1.0, "um"),
        description="Standard uncertainty of the focus that is good enough.",
        examples=["1 um"],
    )


class StigmationText(_SearchText):
    """Search for the stigmators, x and then y, by the sharpness of a few frames."""

    side: ClassVar[int] = 256

    range: Part = Field(
        default_factory=lambda: quantity(80.0, "percent"),
        description="From one end of the search to the other, in shares of full scale.",
        examples=["80 %"],
    )
    tolerance: Part = Field(
        default_factory=lambda: quantity(2.0, "percent"),
        description="Standard uncertainty of the stigmators that is good enough.",
        examples=["2 %"],
    )


class BalanceText(LookText):
    """Bring each segment's brightness and contrast to where the signal fills the digitiser and clips nothing."""

    dark: Part = Field(
        default_factory=lambda: quantity(2.0, "percent"),
        description="Level of a dark frame, a share of the digitiser's range.",
        examples=["2 %"],
    )
    bright: Part = Field(
        default_factory=lambda: quantity(60.0, "percent"),
        description="Level of the bright end of a frame, a share of the digitiser's range.",
        examples=["60 %"],
    )
    percentile: Part = Field(
        default_factory=lambda: quantity(99.0, "percent"),
        description="Share of the pixels below the bright end.",
        examples=["99 %"],
    )
    tolerance: Part = Field(
        default_factory=lambda: quantity(3.0, "percent"),
        description="Of the bright level; of the dark level a quarter of it.",
        examples=["3 %"],
    )
    rounds: Annotated[int, Count(2, 30)] = Field(8, description="Most often that it looks.", examples=[8])

    @model_validator(mode="after")
    def _order(self) -> BalanceText:
        if si(self.dark) + si(self.tolerance) >= si(self.bright):
            raise refuse(
                f"the bright level of {format_quantity(self.bright)} must lie above the dark level of "
                f"{format_quantity(self.dark)} by more than the tolerance of {format_quantity(self.tolerance)}"
            )
        return self


class BeamCheckText(Written):
    """Compare the probe current with what it should be."""

    current: Beam | None = Field(
        None, description="What it should be; the imaging's probe current unless given.", examples=["1 nA"]
    )
    within: Part = Field(description="How far it may be off.", examples=["5 %"])
    readings: Annotated[int, Count(1, 100)] = Field(
        5, description="Readings that are averaged, one a second.", examples=[5]
    )
    otherwise: Literal["warn", "suspend", "safe"] = Field(
        "suspend", description="What follows where it is off: a warning, a suspension, or the safe state."
    )


class DriftText(Written):
    """Keep the field of a series where it was, by comparing frames."""

    every: Annotated[int, Count(1, 100_000)] = Field(description="Frames between two corrections.", examples=[10])
    by: Literal["beam_shift", "stage"] = Field("beam_shift", description="What moves the field.")
    limit: Annotated[Length, AfterValidator(above_zero)] = Field(
        default_factory=lambda: quantity(5.0, "um"),
        description="Beam shift from which on the stage takes over, and the beam returns to its axis.",
        examples=["2 um"],
    )
    anchor: Literal["first", "previous"] = Field(
        "first",
        description="Which frame the others are compared with: the first, for as long as it is still recognised, or "
        "always the one of the correction before.",
    )

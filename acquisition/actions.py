"""What the engine does, one flat and serialisable thing after another.

A recipe compiles to these; they know nothing of YAML. Each has an address that is stable and unique within its run
(``steps[7].repeat[0].steps[1].series[17]``), so that the journal, the log and a person mean the same thing by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from acquisition.conditions import Condition, Pace
from drivers.contract import Scan
from drivers.document import Strict
from drivers.units import (
    AnyQuantity,
    Current,
    Duration,
    Energy,
    Flow,
    Length,
    RampRate,
    Share,
    Temperature,
    TemperatureDifference,
    quantity,
    si,
)

Interruption: TypeAlias = Literal["continue", "repeat", "safe"]
"""What follows when a step is interrupted and the run resumed: go on, do the step again, or end safely."""
Branch: TypeAlias = Literal["then", "else"]


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


class Base(Strict):
    """What every action has.

    Attributes
    ----------
    address : str
        Stable and unique within its recipe.
    name : str
        What the recipe calls the step.
    on_interruption : "continue", "repeat" or "safe"
    needs : (str, "then" or "else") or None
        Address of the decision that the action hangs on, and the branch it stands in; where that decision was not taken
        so, the action is skipped.
    """

    address: str
    name: str = ""
    on_interruption: Interruption = "continue"
    needs: tuple[str, Branch] | None = None


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
        Time from the start of one frame to the start of the next; the longest one where a pace shortens it.
    count : int
        Of frames, when nothing stops the series.
    stop_when : Condition or None
        Once it is met, the rest of the group is skipped.
    pace : Pace or None
        What shortens the time between frames; their offsets are then the earliest.
    duration : pint.Quantity or None
        With a pace: after it, the rest of the group is skipped.
    """

    kind: Literal["series"] = "series"
    every: Duration
    count: int
    stop_when: Condition | None = None
    pace: Pace | None = None
    duration: Duration | None = None


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


class Place(Strict):
    """Where an adjustment takes its frames, from where the field of view stands.

    Attributes
    ----------
    x, y : pint.Quantity
        In the image's axes.
    """

    x: Length
    y: Length


class Search(Base):
    """What searches for the sharpest setting of a lens have in common.

    Attributes
    ----------
    imaging : Imaging
        Of the search's frames, which are not kept.
    frames : int
        Of one pass.
    at : Place or None
        A sacrificial area, for the dose; None searches where the field of view stands.
    """

    imaging: Imaging
    frames: int
    at: Place | None = None


class Autofocus(Search):
    """Search for the focus.

    Attributes
    ----------
    range : pint.Quantity
        From one end of the search to the other, with the present focus in its middle.
    tolerance : pint.Quantity
        Standard uncertainty that is good enough.
    """

    kind: Literal["autofocus"] = "autofocus"
    range: Length
    tolerance: Length


class Stigmation(Search):
    """Search for the stigmators, x and then y; parameters as :class:`Autofocus`, in shares of full scale."""

    kind: Literal["stigmation"] = "stigmation"
    range: Share
    tolerance: Share


class Balance(Base):
    """Bring each segment's dark level and bright end into the digitiser's range.

    Attributes
    ----------
    imaging : Imaging
        Of its frames, which are not kept.
    dark, bright : pint.Quantity
        Wanted levels, shares of the digitiser's range.
    percentile : pint.Quantity
        Share of the pixels that lie below the bright end.
    tolerance : pint.Quantity
        Of both levels, a share of the digitiser's range.
    rounds : int
        At most.
    """

    kind: Literal["balance"] = "balance"
    imaging: Imaging
    dark: Share
    bright: Share
    percentile: Share
    tolerance: Share
    rounds: int


class BeamCheck(Base):
    """Compare the probe current with what was asked for.

    Attributes
    ----------
    current : pint.Quantity
    within : pint.Quantity
        Share of it.
    readings : int
        Averaged, a second apart.
    otherwise : "warn", "suspend" or "safe"
    """

    kind: Literal["beam_check"] = "beam_check"
    current: Current
    within: Share
    readings: int = 5
    otherwise: Literal["warn", "suspend", "safe"] = "suspend"


class CorrectDrift(Base):
    """Bring the field of view back to where it was at an anchor frame of the same series.

    Attributes
    ----------
    group : str
        Address of the series.
    number : int
        Of the frame just before, within the series.
    previous : str or None
        Address of the correction before; None for the first, whose frame becomes the anchor.
    by : "beam_shift" or "stage"
    limit : pint.Quantity
        Beam shift from which on the stage takes over.
    anchor : "first" or "previous"
    """

    kind: Literal["drift"] = "drift"
    group: str
    number: int
    previous: str | None = None
    by: Literal["beam_shift", "stage"] = "beam_shift"
    limit: Length
    anchor: Literal["first", "previous"] = "first"


class Decide(Base):
    """Choose between two branches by a figure of the live reconstruction.

    Attributes
    ----------
    condition : Condition
        Met: the branch ``then``; else ``else``.
    within : pint.Quantity
        Age of the frame up to which its figure counts.
    otherwise : "then", "else", "wait" or "fail"
        What follows where there is no such figure.
    at_most : pint.Quantity or None
        How long ``wait`` waits, before the run fails.
    """

    kind: Literal["when"] = "when"
    condition: Condition
    within: Duration
    otherwise: Literal["then", "else", "wait", "fail"]
    at_most: Duration | None = None


Action: TypeAlias = Annotated[
    Configure
    | SetGas
    | Ramp
    | Hold
    | Dark
    | BeginSeries
    | Acquire
    | Set
    | Note
    | Autofocus
    | Stigmation
    | Balance
    | BeamCheck
    | CorrectDrift
    | Decide,
    Field(discriminator="kind"),
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

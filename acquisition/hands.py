"""What a step may do through the engine: a microscopist's hands.

Procedures (focus, drift, levels, …) are functions of hands and an action, and know nothing of the engine, its threads,
its states or its log. Everything they do is logged and gated by whoever lends the hands, and whatever asks the run to
stop, to pause or to be suspended reaches them as an exception or a wait in one of these methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from acquisition.actions import Place
from drivers.clock import Clock
from drivers.contract import Instrument, Parameter, Scan
from drivers.errors import DoseError, LimitError
from drivers.frame import Frame
from drivers.units import Q, quantity, si

Result: TypeAlias = Mapping[str, Any]
"""What a procedure found, as JSON data: the action's result in the journal."""

ARRIVED = 60.0
"""Seconds within which a lens, a shift or an axis must have arrived."""


@dataclass(frozen=True, slots=True)
class Latest:
    """A figure of the live reconstruction.

    Attributes
    ----------
    value : float
        In ``unit``.
    sigma : float or None
        Standard uncertainty, in ``unit``.
    unit : str
    frame : int
        Number of the frame that it describes.
    age : float, s
        Since that frame was begun.
    """

    value: float
    sigma: float | None
    unit: str
    frame: int
    age: float


class Hands(Protocol):
    """What a step may do."""

    @property
    def instrument(self) -> Instrument:
        """The microscope, to read from; what is sent goes through :meth:`send`."""

    @property
    def clock(self) -> Clock:
        """The instrument's clock."""

    def send(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint, logged and gated."""

    def wait(self, seconds: float) -> None:
        """Wait; obeys pause, suspension and stop."""

    def wait_arrived(self, parameters: Sequence[Parameter], seconds: float) -> None:
        """Wait until every readback has come to its setpoint.

        Raises
        ------
        DeviceTimeout
            After ``seconds``.
        """

    def expose(self, scan: Scan | None = None, *, beam: bool = True) -> Frame:
        """Take a frame that is not kept; the beam is on for the raster only, and its dose is counted.

        Parameters
        ----------
        scan : Scan, optional
            The run's own unless given.
        beam : bool
            False for a dark one.

        Raises
        ------
        DoseError
            Where the area has had its dose.
        """

    def keep(self, frame: Frame) -> None:
        """Store, log and acknowledge a frame."""

    def tell(self, level: str, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        """Enter an event in the log."""

    def correct(self, kind: str, data: Mapping[str, Any]) -> None:
        """Enter in the log what was corrected, with the evidence."""

    def leave(self, *parameters: Parameter) -> None:
        """Note where parameters stand that a procedure is about to move for a while.

        A run that is interrupted before :meth:`settled` brings them back there when it is resumed.
        """

    def settled(self, *parameters: Parameter) -> None:
        """Note that parameters stand where they are to stay."""

    def latest(self, figure: str) -> Latest | None:
        """Return a figure (or its rate, as ``coverage_rate``) of the last frame that has it."""

    def result(self, address: str) -> Result | None:
        """Return what an action of this run found; after a resume, too."""

    def taken(self, address: str) -> tuple[int, Frame] | None:
        """Return number and frame of what an action that takes one kept; None where it was skipped."""

    def frame(self, number: int) -> Frame:
        """Return a frame of this run from the store."""


def move(hands: Hands, targets: Mapping[Parameter, float]) -> None:
    """Send parameters to targets (SI) and wait until they are there.

    Raises
    ------
    LimitError, DeviceError
    """
    asked = {parameter: in_unit(parameter, target) for parameter, target in targets.items()}
    for parameter, value in asked.items():
        parameter.check(value)
    for parameter, value in asked.items():
        hands.send(parameter, value)
    hands.wait_arrived(list(asked), ARRIVED)


def size(parameter: Parameter) -> float:
    """Return the SI value of one of a parameter's unit."""
    return si(quantity(1.0, parameter.unit))


def in_unit(parameter: Parameter, value: float) -> Q:
    """Return an SI value as a quantity in a parameter's unit."""
    return quantity(value / size(parameter), parameter.unit)


def standing(parameter: Parameter) -> float:
    """Return where a parameter was sent, or stands where it was not sent anywhere yet, SI."""
    setpoint = parameter.setpoint
    return si(setpoint if setpoint is not None else parameter.read().value)


def turned(hands: Hands, x: float, y: float) -> tuple[float, float]:
    """Return a step in the image's axes (m) as one of the stage's axes, which turn with its rotation.

    A stage's coordinates are those of the specimen's point under the beam's axis.
    """
    from math import cos, sin

    angle = si(hands.instrument.stage.rotation.read().value)
    return cos(angle) * x + sin(angle) * y, -sin(angle) * x + cos(angle) * y


class Away:
    """A visit to another place: there by beam shift where that reaches, else by the stage, and back whatever happens.

    Parameters
    ----------
    hands : Hands
    place : Place or None
        From where the field of view stands; None stays.
    """

    def __init__(self, hands: Hands, place: Place | None) -> None:
        self._hands = hands
        self._offset = (0.0, 0.0) if place is None else (si(place.x), si(place.y))
        self._back: dict[Parameter, float] = {}

    def __enter__(self) -> None:
        if self._offset == (0.0, 0.0):
            return
        column, stage = self._hands.instrument.column, self._hands.instrument.stage
        shift = (column.beam_shift_x, column.beam_shift_y)
        targets = {axis: standing(axis) + step for axis, step in zip(shift, self._offset, strict=True)}
        try:
            for axis, target in targets.items():
                axis.check(in_unit(axis, target))
        except LimitError:
            steps = turned(self._hands, *self._offset)
            targets = {axis: standing(axis) + step for axis, step in zip((stage.x, stage.y), steps, strict=True)}
        self._back = {axis: standing(axis) for axis in targets}
        self._hands.leave(*self._back)
        try:
            move(self._hands, targets)
        except BaseException:
            self._return()
            raise

    def __exit__(self, *exception: object) -> None:
        if self._back:
            # After a dose that is used up the run goes on; whatever else ends the visit does not wait.
            self._return(wait=exception[0] is None or exception[0] is DoseError)

    def _return(self, *, wait: bool = False) -> None:
        for axis, value in self._back.items():
            self._hands.send(axis, in_unit(axis, value))
        if wait:
            self._hands.wait_arrived(list(self._back), ARRIVED)
        self._hands.settled(*self._back)

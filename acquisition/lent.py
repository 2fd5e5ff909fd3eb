"""The hands that an engine lends to procedures, and what they remember: figures, doses, results, frames."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from acquisition.actions import Action
from acquisition.adaptive import FigureHistory
from acquisition.conditions import FIGURES
from acquisition.dose import EXPOSURE, PLACE, DoseLedger, Field, axes_of, field_to_json
from acquisition.hands import Latest, Result, move, standing
from acquisition.ledger import Ledger
from acquisition.records import Correction
from acquisition.store import Store
from drivers.clock import Clock
from drivers.contract import Instrument, Parameter, Scan
from drivers.errors import DoseError, RunError
from drivers.frame import Frame
from drivers.units import Q, format_quantity, quantity, si

HOME = "home"
"""Kind of the log's corrections that tell where parameters belong which a procedure has moved for a while."""
REMEMBERED = 4
"""Frames that are kept in memory for a comparison."""


class Expose(Protocol):
    """Takes one frame."""

    def __call__(self, scan: Scan | None = None, *, beam: bool) -> Frame:
        """Take one frame."""


class Tell(Protocol):
    """Enters an event."""

    def __call__(self, level: str, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        """Enter an event."""


@dataclass(frozen=True)
class Lender:
    """What an engine does for the hands that it lends.

    Attributes
    ----------
    send, wait, wait_arrived, expose, keep, tell : callable
        As :class:`acquisition.hands.Hands` says, without the doses.
    scan : callable
        Returns the raster that was configured.
    index : callable
        Returns the index of the action that is being played.
    """

    send: Callable[[Parameter, Q], None]
    wait: Callable[[float], None]
    wait_arrived: Callable[[Sequence[Parameter], float], None]
    expose: Expose
    keep: Callable[[Frame], None]
    tell: Tell
    scan: Callable[[], Scan | None]
    index: Callable[[], int]


@dataclass
class LentHands:
    """An engine's hands: see :class:`acquisition.hands.Hands` for what they do.

    Attributes
    ----------
    lender : Lender
    instrument : Instrument
    log : Ledger
    store : Store
    run_id : str
    ledger : DoseLedger
        The dose of every area.
    figures : FigureHistory
        Of the live reconstruction.
    """

    lender: Lender
    instrument: Instrument
    log: Ledger
    store: Store
    run_id: str
    ledger: DoseLedger = field(default_factory=DoseLedger)
    figures: FigureHistory = field(default_factory=FigureHistory)
    _results: dict[str, Result] = field(default_factory=dict)
    _indices: dict[str, int] = field(default_factory=dict)
    _last: tuple[str, int, Frame] | None = None
    _frames: OrderedDict[int, Frame] = field(default_factory=OrderedDict)
    _refused: Field | None = None
    _home: dict[str, float] = field(default_factory=dict)

    def begin(self, actions: Sequence[Action]) -> None:
        """Get ready for a run's actions; one that was begun before goes on with what its log holds."""
        self._indices = {action.address: index for index, action in enumerate(actions)}
        corrections = self.log.records.corrections(self.run_id)
        if any(correction.kind == PLACE for correction in corrections):
            self._recall(corrections)
            return
        self.ledger.axes = axes_of(self.instrument)
        self.correct(PLACE, self.ledger.axes)

    def _recall(self, corrections: Sequence[Correction]) -> None:
        records, limit = self.log.records, self.ledger.limit
        frames, setpoints = records.frames(self.run_id), records.setpoints(self.run_id)
        self.ledger = DoseLedger.of(frames, setpoints, corrections, limit)
        self.figures = FigureHistory.of(entry for name in FIGURES for entry in records.figures(self.run_id, name))
        self._results = {
            action.address: action.result
            for action in records.actions(self.run_id)
            if action.result is not None and action.state == "done"
        }
        homes = [dict(correction.data) for correction in corrections if correction.kind == HOME]
        self._home = homes[-1] if homes else {}

    @property
    def clock(self) -> Clock:
        """The instrument's clock."""
        return self.instrument.clock

    def send(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint."""
        self.lender.send(parameter, value)

    def wait(self, seconds: float) -> None:
        """Wait; obeys pause, suspension and stop."""
        self.lender.wait(seconds)

    def wait_arrived(self, parameters: Sequence[Parameter], seconds: float) -> None:
        """Wait until every readback has come to its setpoint."""
        self.lender.wait_arrived(parameters, seconds)

    def expose(self, scan: Scan | None = None, *, beam: bool = True) -> Frame:
        """Take a frame that is not kept; its dose is entered before the beam is on, so that no crash loses it."""
        if beam:
            brought = self.allow(scan)
            self.correct(EXPOSURE, field_to_json(brought))
            self.ledger.add(brought)
        return self.lender.expose(scan, beam=beam)

    def keep(self, frame: Frame) -> None:
        """Store, log and acknowledge a frame."""
        self.lender.keep(frame)

    def tell(self, level: str, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        """Enter an event in the log."""
        self.lender.tell(level, kind, message, data)

    def correct(self, kind: str, data: Mapping[str, Any]) -> None:
        """Enter in the log what was corrected."""
        self.log.correction(self.run_id, self.clock.now(), kind, data, self.lender.index())

    def leave(self, *parameters: Parameter) -> None:
        """Note where parameters stand that a procedure is about to move and will bring back, or to somewhere better."""
        self._home |= {parameter.name: standing(parameter) for parameter in parameters}
        self.correct(HOME, self._home)

    def settled(self, *parameters: Parameter) -> None:
        """Note that parameters stand where they are to stay."""
        for parameter in parameters:
            self._home.pop(parameter.name, None)
        self.correct(HOME, self._home)

    def come_home(self) -> None:
        """Bring back what a procedure had moved when the run was interrupted."""
        parameters = [self.instrument.parameter(name) for name in sorted(self._home)]
        if parameters:
            move(self, {parameter: self._home[parameter.name] for parameter in parameters})
            self.settled(*parameters)

    def latest(self, figure: str) -> Latest | None:
        """Return a figure, or its rate, of the last frame that has it."""
        return self.figures.latest(figure, self.clock.now())

    def result(self, address: str) -> Result | None:
        """Return what an action found."""
        return self._results.get(address)

    def remember(self, address: str, result: Result | None) -> None:
        """Note what an action found."""
        if result is not None:
            self._results[address] = result

    def wanted(self, action: Action) -> bool:
        """Return whether the decision that an action hangs on was taken for its branch."""
        if action.needs is None:
            return True
        decision = self._results.get(action.needs[0])
        return decision is not None and decision.get("branch") == action.needs[1]

    def moved(self, parameter: Parameter, value: Q) -> None:
        """Note that a setpoint was sent, which may have moved the field."""
        self.ledger.moved(parameter.name, si(value))

    def allow(self, scan: Scan | None = None) -> Field:
        """Return what a frame would bring to its area.

        Raises
        ------
        DoseError
            Where that would be more than the recipe allows; told once for each area.
        """
        raster = scan or self.lender.scan()
        if raster is None:
            raise RunError("no imaging was configured before the first frame; give the recipe an imaging section")
        brought = self.ledger.coming(raster, self._current())
        if self.ledger.allows(brought):
            return brought
        limit, after = (
            format_quantity(quantity(dose or 0.0, "C/m**2").to("kC/m**2"), 4)
            for dose in (self.ledger.limit, self.ledger.after(brought))
        )
        message = (
            f"a frame here would bring the area to {after}, above the recipe's limit of {limit} (limits.dose); it is "
            "left out"
        )
        if self._refused != brought:
            self._refused = brought
            self.tell("warning", "decision", message, {**field_to_json(brought), "limit": limit, "after": after})
        raise DoseError(message)

    def _current(self) -> float:
        """Return the probe current that was asked for, A."""
        current = self.instrument.column.probe_current
        return si(current.setpoint or current.read().value)

    def took(self, address: str, number: int, frame: Frame) -> None:
        """Note a frame that was kept."""
        self.ledger.took(frame, self._current())
        self._last = (address, number, frame)

    def taken(self, address: str) -> tuple[int, Frame] | None:
        """Return number and frame of what an action kept; None where it was skipped."""
        if self._last is not None and self._last[0] == address:
            _, number, frame = self._last
            self._pin(number, frame)
            return number, frame
        index = self._indices.get(address)
        found = [entry.number for entry in self.log.records.frames(self.run_id) if entry.action_index == index]
        return (found[-1], self.frame(found[-1])) if found and index is not None else None

    def frame(self, number: int) -> Frame:
        """Return a frame of this run, from memory or from the store."""
        if number not in self._frames:
            entry = next(entry for entry in self.log.records.frames(self.run_id) if entry.number == number)
            self._pin(number, self.store.read(entry.stored.path))
        self._frames.move_to_end(number)
        return self._frames[number]

    def _pin(self, number: int, frame: Frame) -> None:
        self._frames[number] = frame
        self._frames.move_to_end(number)
        while len(self._frames) > REMEMBERED:
            self._frames.popitem(last=False)

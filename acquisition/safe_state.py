"""The safe state: every part attempted to the end, each with its deadline, and seen to be done by its readback.

It can be entered from any thread, also while another one hangs in a call to a device: each part runs in a thread of its
own, which is given up when its deadline passes. Nothing of it waits for the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from acquisition.safe_parts import Part, Send, parts_of
from drivers.clock import Clock
from drivers.contract import Instrument, Parameter
from drivers.errors import RunError
from drivers.units import Q

TRIES = 3
"""How often a part is sent within its deadline, as long as its readback does not show it done."""
LOOK = 0.5
"""s between two looks at a readback."""
AHEAD = 5.0
"""s after which the next part begins beside one whose first call has not come back."""
HUNG = 10.0
"""Real seconds after which a thread that keeps virtual time from going on is passed over."""

Tell = Callable[[str, str, Mapping[str, Any]], None]
"""Tells the log: level, message, data."""


@dataclass(frozen=True, slots=True)
class PartReport:
    """What became of one part.

    Attributes
    ----------
    what : str
    state : str
        ``verified``: the readback shows it; ``done``: sent, and the readback did not show it in time; ``failed``.
    message : str
        What was seen, or what went wrong.
    seconds : float, s
        From its beginning to that.
    """

    what: str
    state: Literal["verified", "done", "failed"]
    message: str
    seconds: float

    def __str__(self) -> str:
        told = f": {self.message}" if self.message else ""
        return f"{self.what}: {self.state} after {self.seconds:.1f} s{told}"


@dataclass(frozen=True, slots=True)
class SafeReport:
    """How the instrument came to its safe state.

    Attributes
    ----------
    reason : str
    began : datetime
        UTC.
    seconds : float, s
    parts : tuple of PartReport
    """

    reason: str
    began: datetime
    seconds: float
    parts: tuple[PartReport, ...]

    @property
    def verified(self) -> bool:
        """Whether every readback shows it."""
        return all(part.state == "verified" for part in self.parts)

    @property
    def sentence(self) -> str:
        """What came of it, for the log and for people."""
        wrong = [f"could not {part.what}: {part.message}" for part in self.parts if part.state == "failed"]
        unseen = [f"{part.what}: sent, but {part.message}" for part in self.parts if part.state == "done"]
        if not wrong and not unseen:
            return f"the instrument is in its safe state, every part seen to be done, after {self.seconds:.1f} s"
        return "; ".join(["the safe state was entered, but not all of it was seen to be done", *wrong, *unseen])

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "reason": self.reason,
            "verified": self.verified,
            "seconds": round(self.seconds, 3),
            "parts": [
                {"what": part.what, "state": part.state, "message": part.message, "seconds": round(part.seconds, 3)}
                for part in self.parts
            ],
        }


@dataclass
class _Entry:
    """One way to the safe state, and who waits for it."""

    over: Any
    report: SafeReport | None = None


@dataclass
class _Work:
    """A part with the thread that does it."""

    part: Part
    clock: Clock
    tried: Any
    ended: Any
    sent: list[tuple[Parameter, Q]] = field(default_factory=list)
    began: float = 0.0
    result: PartReport | None = None

    def run(self, place: Any) -> None:
        with place:
            try:
                self.result = self._attempt()
            except Exception as error:  # noqa: BLE001  a readback that breaks in any way is told, not raised
                self.result = self._report("failed", f"{type(error).__name__}: {error}")
            finally:
                self.tried.set()
                self.ended.set()

    def _attempt(self) -> PartReport:
        told, sent = "", False
        for attempt in range(1, TRIES + 1):
            limit = self.began + self.part.within * attempt / TRIES
            if attempt > 1 and self.clock.monotonic() >= self.began + self.part.within:
                break  # it has been given up
            try:
                self.part.do(self._send)
                sent = True
            except Exception as error:  # noqa: BLE001  tried again, and told in the end
                told = str(error)
            self.tried.set()
            while True:
                if sent:
                    told = self._look()
                    if not told:
                        return self._report("verified", "")
                left = limit - self.clock.monotonic()
                if left <= 0:
                    break
                self.clock.sleep(min(LOOK, left))
        return self._report("done" if sent else "failed", told)

    def _send(self, parameter: Parameter, value: Q) -> None:
        parameter.set(value)
        self.sent.append((parameter, value))

    def _look(self) -> str:
        """Return what speaks against the part being done; empty where nothing does."""
        try:
            return self.part.look() or ""
        except Exception as error:  # noqa: BLE001  a readback that does not answer shows nothing
            return str(error)

    def _report(self, state: Literal["verified", "done", "failed"], message: str) -> PartReport:
        return PartReport(self.part.what, state, message, self.clock.monotonic() - self.began)

    def given_up(self) -> PartReport:
        """Return the report of a part whose thread has not come back."""
        return self._report("failed", f"no answer within {self.part.within:g} s; its thread was given up")


class SafeState:
    """The way of one instrument to its safe state. One object for each run, shared by everybody who may need it.

    Parameters
    ----------
    instrument : Instrument
    parts : callable
        Returns fresh parts, in their order; a part remembers what it has seen.
    hung : float, s
        Of real time; see :data:`HUNG`.
    """

    def __init__(self, instrument: Instrument, parts: Callable[[], Sequence[Part]], *, hung: float = HUNG) -> None:
        self._instrument = instrument
        self._clock = instrument.clock
        self._parts = parts
        self._hung = hung
        self._lock = threading.Lock()
        self._entry: _Entry | None = None
        parts()  # what the file asks for in vain is told now, not in the emergency

    @classmethod
    def of(cls, instrument: Instrument) -> SafeState:
        """Return the safe state that the instrument's file names under ``safe_state``, or a sensible one.

        Raises
        ------
        DocumentError
            With file, line and column, for what this instrument cannot do.
        """
        return cls(instrument, lambda: parts_of(instrument))

    @property
    def longest(self) -> float:
        """How long entering it takes at the most, s of the instrument's clock."""
        return sum(part.within + part.lasting + LOOK for part in self._parts())

    @property
    def entered(self) -> bool:
        """Whether it was entered, or is being entered: nothing else may be sent from then on."""
        return self._entry is not None

    @property
    def report(self) -> SafeReport | None:
        """How it went, once it is over."""
        entry = self._entry
        return None if entry is None else entry.report

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Stand around whatever a run sends to the instrument: setpoints, the beam onto the sample.

        A call that began before the safe state was entered, and came back only then, may have undone a part of it:
        every part is then done again.

        Raises
        ------
        RunError
            Where the safe state was entered before.
        """
        if self.entered:
            raise RunError("the instrument is in its safe state, or on its way there; nothing more is sent to it")
        try:
            yield
        finally:
            if self._entry is not None:
                self.enter("a call to a device came back after the safe state was entered", again=True)

    def enter(
        self, reason: str, *, send: Send | None = None, tell: Tell | None = None, again: bool = False
    ) -> SafeReport:
        """Bring the instrument to its safe state; return how it went. Refused to nobody.

        Whoever comes while it is being entered waits, and gets the same report; so does whoever comes after it was
        seen to be done. What was not seen to be done is attempted anew.

        Parameters
        ----------
        reason : str
        send : callable, optional
            Is told of each setpoint *after* all parts are over, for the log: it sends nothing.
        tell : callable, optional
            Is told how it went: level, message, data.
        again : bool
            Do every part again even where all of it was seen to be done; what lasts, such as a purge, lasts no longer.
        """
        entry, mine = self._take(again)
        if not mine:
            entry.over.wait()
            return entry.report or SafeReport(reason, self._clock.now(), 0.0, ())
        began, start = self._clock.now(), self._clock.monotonic()
        sent: list[tuple[Parameter, Q]] = []
        reports: list[PartReport] = []
        try:
            reports = self._do_all(sent, lasting=not again)
        except Exception as error:  # noqa: BLE001  the threads could not even be started
            reports = [PartReport("begin", "failed", f"{type(error).__name__}: {error}", 0.0)]
        finally:
            entry.report = SafeReport(reason, began, self._clock.monotonic() - start, tuple(reports))
            entry.over.set()
        _tell(entry.report, sent, send, tell)
        return entry.report

    def _take(self, again: bool) -> tuple[_Entry, bool]:
        """Return the present entry, or a new one and True where the caller has to do it."""
        while True:
            with self._lock:
                present = self._entry
                running = present is not None and present.report is None
                if present is not None and present.report is not None and present.report.verified and not again:
                    return present, False
                if not running:
                    self._entry = _Entry(self._clock.signal())
                    return self._entry, True
            assert present is not None  # noqa: S101
            if not again:
                return present, False
            present.over.wait()

    def _do_all(self, sent: list[tuple[Parameter, Q]], *, lasting: bool) -> list[PartReport]:
        works: list[_Work] = []
        over = threading.Event()
        watch = threading.Thread(target=self._pass_over, args=(over,), name="safe state: what hangs", daemon=True)
        if self._clock.virtual:
            watch.start()
        try:
            for part in self._parts():
                work = self._begin(part)
                works.append(work)
                # What is slow to show, or hangs, goes on within its own deadline beside the parts after it.
                work.tried.wait(min(part.within, AHEAD))
                if part.lasting and lasting:
                    self._clock.sleep(part.lasting)
            return [self._end(work, sent) for work in works]
        finally:
            over.set()
            if self._clock.virtual:
                watch.join()

    def _begin(self, part: Part) -> _Work:
        work = _Work(part, self._clock, self._clock.signal(), self._clock.signal(), began=self._clock.monotonic())
        name = f"safe state: {part.what}"
        place = self._clock.register(name)
        threading.Thread(target=work.run, args=(place,), name=name, daemon=True).start()
        return work

    def _end(self, work: _Work, sent: list[tuple[Parameter, Q]]) -> PartReport:
        left = work.began + work.part.within + LOOK - self._clock.monotonic()
        work.ended.wait(max(left, 0.0))
        sent.extend(work.sent)
        return work.result or work.given_up()

    def _pass_over(self, over: threading.Event) -> None:
        """Keep virtual time going while the safe state is entered, whatever thread hangs in a call."""
        while not over.wait(min(0.1, self._hung)):
            self._clock.free(self._hung)


def _tell(report: SafeReport, sent: Sequence[tuple[Parameter, Q]], send: Send | None, tell: Tell | None) -> None:
    """Tell the log; it may be what broke."""
    if send is not None:
        for parameter, value in sent:
            with suppress(Exception):
                send(parameter, value)
    if tell is not None:
        with suppress(Exception):
            tell("warning" if report.verified else "error", report.sentence, report.to_json())

"""The engine: plays flat actions on an instrument, and leaves it safe whatever happens.

Three methods carry it: :meth:`Engine.run` sets up, :meth:`Engine._execute` plays one action, and
:meth:`Engine._tear_down` is the cleanup that lies on every way out and cannot be interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from acquisition import adaptive
from acquisition.actions import (
    Acquire,
    Action,
    Autofocus,
    Balance,
    BeamCheck,
    BeginSeries,
    Configure,
    CorrectDrift,
    Dark,
    Decide,
    Hold,
    Note,
    Ramp,
    Set,
    SetGas,
    Stigmation,
)
from acquisition.balancing import balance
from acquisition.beam_check import check_beam
from acquisition.cleanup import ATTEMPTS, PAUSE, clean_up
from acquisition.conditions import Condition
from acquisition.dose import DoseLedger
from acquisition.drift import correct_drift
from acquisition.feed import LiveFeed, LiveResult, log_result
from acquisition.focusing import autofocus, stigmation
from acquisition.hands import Hands, Result
from acquisition.lent import Lender, LentHands
from acquisition.log import Log
from acquisition.requests import Requests, StopRequest
from acquisition.states import State, step
from acquisition.store import Store
from drivers.contract import Instrument, Parameter, Scan
from drivers.errors import DeviceTimeout, DoseError, RilievoError, RunError
from drivers.frame import Frame, Reading
from drivers.units import Q, format_quantity, quantity, si

POLL = 1.0
"""Seconds between two looks at something that is on its way to its setpoint."""
CONFIRMED = 2
"""Frames in a row that must meet a condition: one wrong estimate does not end a series."""
SETTLE = 60.0
"""Seconds within which a parameter without a rate of its own must have arrived."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever looks on; replaced whole, never changed."""

    state: State = State.IDLE
    action: int = 0
    actions: int = 0
    address: str = ""
    name: str = ""
    since: datetime | None = None
    frames: int = 0
    left_out: int = 0
    heights: int = 0
    figures: Mapping[str, tuple[float, float | None, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: State
    reason: str = ""


@dataclass
class _Series:
    """The series that is running: its time zero, its end, and the frames that belong to it."""

    group: str
    began: float
    stop_when: Condition | None
    pacing: adaptive.Pacing | None = None
    ended: bool = False
    met: int = 0
    late: bool = False
    frames: set[int] = field(default_factory=set)


class Engine:
    """Plays the actions of one run.

    Parameters
    ----------
    instrument : Instrument
    log : Log
    store : Store
    run_id : str
        Of a run that the log knows.
    feed : LiveFeed, optional
        Where frames go for their heights.
    heights : callable, optional
        From a frame's number to the file for its heights; needed with ``feed``.
    dose_limit : float, optional, C/m²
        What every area may have; the recipe's ``limits.dose``.
    """

    def __init__(
        self,
        instrument: Instrument,
        log: Log,
        store: Store,
        run_id: str,
        *,
        feed: LiveFeed | None = None,
        heights: Callable[[int], Path] | None = None,
        dose_limit: float | None = None,
    ) -> None:
        self._instrument = instrument
        self._clock = instrument.clock
        self._log = log
        self._store = store
        self._run_id = run_id
        self._feed = feed
        self._heights = heights or (lambda number: Path(f"{number:06d}.tif"))
        self._requests = Requests(self._clock)
        self._state = State.IDLE
        self._lock = threading.Lock()
        self._scanning = False
        self._scan: Scan | None = None
        self._darks: list[Frame] = []
        self._series: _Series | None = None
        self._stale: frozenset[str] = frozenset()
        self._index = 0
        self._numbers: dict[int, tuple[int, datetime]] = {}
        self.progress = Progress()
        lender = Lender(
            self._send, self._wait, self._wait_arrived, self._expose, self._keep, self._tell,
            scan=lambda: self._scan, index=lambda: self._index,
        )  # fmt: skip
        self.hands = LentHands(lender, instrument, log, store, run_id, DoseLedger(dose_limit))
        self._handlers: dict[type[Any], Callable[[Any], Result | None]] = {
            Configure: self._configure,
            SetGas: self._set_gas,
            Ramp: self._ramp,
            Hold: self._hold,
            Dark: self._dark,
            BeginSeries: self._begin_series,
            Acquire: self._acquire,
            Set: self._set,
            Note: self._note,
            Autofocus: self._with_hands(autofocus),
            Stigmation: self._with_hands(stigmation),
            Balance: self._with_hands(balance),
            BeamCheck: self._with_hands(check_beam),
            CorrectDrift: self._with_hands(correct_drift),
            Decide: self._with_hands(adaptive.decide),
        }

    # -- what others ask for, from their own threads

    def pause(self) -> None:
        """Pause after the frame that is being taken; the countdown of a hold or a series stops."""
        with self._lock:
            if self._state is not State.RUNNING:
                raise RunError(f"only a running run can be paused; this one is {self._state}")
        self._requests.pause()

    def resume(self) -> None:
        """Go on after a pause."""
        self._requests.resume()

    def stop(self, reason: str = "stopped on request") -> None:
        """End the run after the frame that is being taken, through the cleanup."""
        self._requests.stop(reason)

    def abort(self, reason: str = "aborted on request") -> None:
        """End the run at once, without the frame that is being taken, through the cleanup."""
        self._requests.stop(reason, at_once=True)
        if self._scanning:
            with suppress(Exception):  # the engine ends anyhow, only later; whoever asks has no use for the reason
                self._instrument.detector.backend.stop()

    # -- the run

    def run(self, actions: Sequence[Action]) -> Outcome:
        """Play the actions, clean up, and return how it ended. Does not raise for what a night may bring."""
        self.progress = replace(self.progress, actions=len(actions))
        outcome = Outcome(State.FINISHED)
        try:
            self._enter(State.RUNNING)
            self._instrument.column.blank()
            self.hands.begin(actions)
            for index, action in enumerate(actions):
                self._index = index
                self._play(action)
            self._obey()
        except StopRequest as request:
            outcome = Outcome(State.STOPPED, str(request))
        except RilievoError as error:
            outcome = Outcome(State.FAILED, str(error))
        except Exception as error:  # noqa: BLE001  every way out passes through the cleanup
            outcome = Outcome(State.FAILED, f"internal error: {type(error).__name__}: {error}")
        return self._end(outcome)

    def _play(self, action: Action) -> None:
        """Play one action between its journal entries."""
        self._obey()
        self._show(action)
        if self._series is not None and getattr(action, "group", None) != self._series.group:
            self._series = None
        self._log.intent(self._run_id, self._index, self._clock.now())
        try:
            outcome, result = self._execute(action)
        except StopRequest:
            self._log_safely(self._log.outcome, self._run_id, self._index, self._clock.now(), "stopped")
            raise
        except Exception as error:
            self._log_safely(self._log.outcome, self._run_id, self._index, self._clock.now(), "failed", str(error))
            raise
        self.hands.remember(action.address, result)
        self._log.outcome(self._run_id, self._index, self._clock.now(), outcome, result=result)

    def _execute(self, action: Action) -> tuple[str, Result | None]:
        """Do what one action says; return ``done`` when it is done, not when sent, or ``skipped``; and its result."""
        if not self.hands.wanted(action) or (isinstance(action, Acquire) and not self._due(action)):
            return "skipped", None
        try:
            return "done", self._handlers[type(action)](action)
        except DoseError as error:  # the hands have told; the night goes on elsewhere
            return "skipped", {"refused": str(error)}

    def _with_hands(self, procedure: Callable[[Hands, Any], Result | None]) -> Callable[[Any], Result | None]:
        return lambda action: procedure(self.hands, action)

    def _end(self, outcome: Outcome) -> Outcome:
        """Clean up, and tell the log how the run ended."""
        with suppress(RunError):
            self._enter(State.STOPPING, outcome.reason)
        failures = self._tear_down()
        if failures:
            told = "; ".join(failures)
            outcome = Outcome(State.FAILED, f"{outcome.reason}; cleanup: {told}".removeprefix("; "))
        # Only now: the reconstruction may keep one waiting, a hot sample may not.
        self._store_results(rest=True)
        for attempt in range(ATTEMPTS):
            if attempt:
                self._clock.sleep(PAUSE)
            if self._enter(outcome.state, outcome.reason):
                return outcome
        return Outcome(outcome.state, f"{outcome.reason}; the log could not be told".removeprefix("; "))

    def _tear_down(self) -> list[str]:
        """Leave the instrument safe: beam off the sample, heater on its way down, gas closed.

        Every part is attempted even where another fails, and no request interrupts it. Returns what failed.
        """
        failures = clean_up(self._instrument, self._put)
        for failure in failures:
            self._tell("error", "cleanup", failure)
        if not failures:
            self._tell("info", "cleanup", "beam blanked, heater sent down, gas closed")
        return failures

    # -- requests and waiting

    def _obey(self) -> float:
        """Follow what was asked meanwhile; return the seconds that a pause took, by which a series moves."""
        self._requests.wake.clear()
        self._requests.raise_if_stopped()
        if not self._requests.pausing:
            return 0.0
        began = self._clock.monotonic()
        self._enter(State.PAUSED)
        self._requests.wait_while_pausing()
        self._requests.raise_if_stopped()
        self._enter(State.RUNNING)
        paused = self._clock.monotonic() - began
        if self._series is not None:
            self._series.began += paused
        return paused

    def _wait(self, seconds: float) -> None:
        """Wait on the clock, pauses not counted; store live results when they are due."""
        end = self._clock.monotonic() + seconds
        while (left := end - self._clock.monotonic()) > 0:
            if self._feed is not None and self._feed.next_due is not None:
                until_due = max(self._feed.next_due - self._clock.monotonic(), 0.0)
                left = min(left, until_due if self._clock.virtual else POLL)
            self._requests.wake.wait(left)
            end += self._obey()
            self._store_results()

    def _wait_arrived(self, parameters: Sequence[Parameter], seconds: float, within: float | None = None) -> None:
        """Wait until every readback has come within tolerance (its own unless given) of its setpoint.

        Raises
        ------
        DeviceTimeout
            After ``seconds``, with setpoint and readback.
        """
        waited = 0.0
        while late := [parameter for parameter in parameters if not parameter.arrived(within)]:
            if waited >= seconds:
                wanted = late[0].setpoint
                raise DeviceTimeout(
                    f"expected {format_quantity(wanted) if wanted is not None else 'its setpoint'} after "
                    f"{seconds:.0f} s; the readback is {format_quantity(late[0].read().value)}; "
                    "check the device, or allow more time in the recipe",
                    late[0].name,
                )
            self._wait(min(POLL, seconds - waited))
            waited += POLL

    # -- actions

    def _configure(self, action: Configure) -> None:
        imaging, column = action.imaging, self._instrument.column
        self._send(column.beam_energy, imaging.beam_energy)
        self._send(column.probe_current, imaging.probe_current)
        self._wait_arrived([column.beam_energy, column.probe_current], SETTLE)
        scan = imaging.scan()
        if self._scan is not None and scan.dwell_time != self._scan.dwell_time:
            self._darks = []  # a glowing stage fills a longer dwell with more light
        self._scan = scan

    def _set_gas(self, action: SetGas) -> None:
        lines = self._instrument.gases
        unknown = sorted(set(action.flows) - set(lines))
        if unknown:
            raise RunError(f"there is no gas line for {', '.join(unknown)}; there are {', '.join(sorted(lines))}")
        opening = {species: flow for species, flow in sorted(action.flows.items()) if si(flow) > 0}
        closing = [line.flow for species, line in sorted(lines.items()) if species not in opening]
        # What closes has closed before anything opens: the old mixture and the new one never flow together.
        for line in closing:
            self._send(line, quantity(0.0, "sccm"))
        self._wait_arrived(closing, SETTLE)
        for species, flow in opening.items():
            self._send(lines[species].flow, flow)
        self._wait_arrived([lines[species].flow for species in opening], SETTLE)

    def _ramp(self, action: Ramp) -> None:
        heater = self._instrument.heater
        present = float(heater.temperature.read().value.to("K").magnitude)
        needed = abs(si(action.target) - present) / si(action.rate)
        heater.temperature.check(action.target)
        self._send(heater.rate, action.rate)
        self._send(heater.temperature, action.target)
        # Half as long again as the ramp itself, and ten minutes for the sensor's lag.
        allowed = si(action.at_most) if action.at_most is not None else 1.5 * needed + 600.0
        self._wait_arrived([heater.temperature], allowed, within=si(action.tolerance))

    def _hold(self, action: Hold) -> None:
        self._wait(si(action.duration))

    def _begin_series(self, action: BeginSeries) -> None:
        pacing = adaptive.Pacing(action) if action.pace is not None else None
        self._series = _Series(action.address, self._clock.monotonic(), action.stop_when, pacing)

    def _dark(self, action: Dark) -> None:
        darks = []
        for _ in range(action.frames):
            self._obey()
            darks.append(self._expose(beam=False))
            self._keep(darks[-1])
        self._darks = darks

    def _due(self, action: Acquire) -> bool:
        """Wait for a frame's moment in its series; return False where the series has ended before it."""
        series = self._series
        if series is None or action.group != series.group:
            return True
        if series.pacing is not None:
            return self._due_by_pace(series, series.pacing)
        while not series.ended and (left := series.began + si(action.offset) - self._clock.monotonic()) > 0:
            self._wait(left)
        return not series.ended

    def _due_by_pace(self, series: _Series, pacing: adaptive.Pacing) -> bool:
        """Wait for the next frame's moment, which what the reconstruction tells meanwhile may bring forward."""
        while not series.ended and (left := series.began + pacing.due(self.hands) - self._clock.monotonic()) > 0:
            self._wait(min(left, POLL))
        series.ended |= pacing.over(self._clock.monotonic() - series.began)
        if not series.ended:
            pacing.began(self.hands, self._clock.monotonic() - series.began)
        return not series.ended

    def _acquire(self, action: Acquire) -> None:
        self.hands.allow()
        frame = self._expose(beam=True)
        frame = frame.with_offsets_of(*self._darks) if self._darks else frame
        number = self.progress.frames
        self._keep(frame)
        self.hands.took(action.address, number, frame)

    def _set(self, action: Set) -> None:
        parameter = self._instrument.parameter(action.parameter)
        self._send(parameter, action.value)
        self._wait_arrived([parameter], SETTLE)

    def _note(self, action: Note) -> None:
        self._tell("info", "note", action.text)

    # -- parts of actions

    def _send(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint and log it."""
        parameter.set(value)
        self._log.setpoint(self._run_id, parameter.name, value.to(parameter.unit), self._clock.now(), self._index)
        self.hands.moved(parameter, value)
        if parameter.name.startswith("detector."):
            self._darks = []  # brightness and contrast move the offsets

    def _put(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint, and log it where the log still works."""
        parameter.set(value)
        now = self._clock.now()
        self._log_safely(self._log.setpoint, self._run_id, parameter.name, value.to(parameter.unit), now)

    def _expose(self, scan: Scan | None = None, *, beam: bool) -> Frame:
        """Take one frame, of the run's own raster unless given; the beam is on the sample for it and no longer."""
        scan = scan or self._scan
        if scan is None:
            raise RunError("no imaging was configured before the first frame; give the recipe an imaging section")
        detector, column = self._instrument.detector, self._instrument.column
        detector.arm(scan)
        self._scanning = True
        try:
            self._requests.raise_if_aborted()
            if beam:
                column.unblank()
            else:
                column.blank()
            exposure = detector.expose(scan)
        except RilievoError:
            self._requests.raise_if_aborted()  # the half frame is not a device's failure
            raise
        finally:
            self._scanning = False
            if beam:
                column.blank()
        return detector.frame(scan, exposure, self._readbacks())

    def _keep(self, frame: Frame) -> None:
        """Store, log, acknowledge and offer one frame."""
        number = self.progress.frames
        stored = self._store.append(self._run_id, number, frame)
        frame_id = self._log.frame(self._run_id, number, self._index, frame, stored)
        self._numbers[frame_id] = (number, frame.time)
        self.progress = replace(self.progress, frames=number + 1)
        if self._series is not None:
            self._series.frames.add(frame_id)
        if self._feed is not None and not frame.dark and not self._feed.offer(frame_id, frame, self._heights(number)):
            self._log.reconstruction(frame_id, "left out")
            self.progress = replace(self.progress, left_out=self.progress.left_out + 1)
        self._store_results()

    def _readbacks(self) -> Mapping[str, Reading]:
        """Return what the channels say; those that have begun to repeat an old value are told."""
        readings, _ = self._instrument.read_all()
        stale = frozenset(name for name, reading in readings.items() if not reading.fresh)
        for name in sorted(stale - self._stale):
            self._tell("warning", "readback", f"{name} repeats an old value, of {readings[name].time:%H:%M:%S} UTC")
        self._stale = stale
        return readings

    def _store_results(self, rest: bool = False) -> None:
        """Log the heights that have arrived, and see whether they end a series; never harms the run."""
        if self._feed is None:
            return
        working = not self._feed.broken
        try:
            for result in self._feed.rest() if rest else self._feed.results():
                self._store_result(result)
        except Exception as error:  # noqa: BLE001  heights can be made again, the night cannot
            self._tell("warning", "heights", f"heights could not be logged: {error}")
        if working and self._feed.broken:
            self._tell("warning", "heights", f"no more live heights: {self._feed.broken}; they are made after the run")

    def _store_result(self, result: LiveResult) -> None:
        error = log_result(self._log, self._store, result, later=True)
        if error is not None:
            self._tell("warning", "heights", f"no heights for frame {result.frame_id}: {error}")
            return
        figures = {name: (f.value, f.sigma, f.unit) for name, f in result.figures.items()}
        self.hands.figures.add(*self._numbers.pop(result.frame_id), figures)
        self.progress = replace(self.progress, heights=self.progress.heights + 1, figures=figures)
        if self._series is not None and result.frame_id in self._series.frames:
            self._judge(self._series)

    def _judge(self, series: _Series) -> None:
        """End the series whose condition the figures of its frames meet; the evidence goes to the log."""
        condition = series.stop_when
        latest = None if series.ended or condition is None else self.hands.latest(condition.figure)
        if condition is None or latest is None:
            return
        met = adaptive.judge(condition, latest)
        series.met = series.met + 1 if met else 0
        evidence = adaptive.evidence(condition, latest)
        if met is None and not series.late:
            series.late = True
            self._tell("warning", "decision", f"{series.group} goes on: its figures come too late to end it", evidence)
        if series.met < CONFIRMED:
            return
        series.ended = True
        threshold = format_quantity(condition.threshold)
        reached = f"{condition.figure} {latest.value:.3g} {latest.unit}".rstrip()
        message = f"{series.group} ends: {reached} is {condition.comparison} {threshold}"
        self._tell("info", "decision", message, evidence)

    # -- the log, and whoever looks on

    def _enter(self, state: State, reason: str = "") -> bool:
        """Take the way to a state; return whether the log could be told."""
        with self._lock:
            if self._state is not state:
                self._state = step(self._state, state)
        self.progress = replace(self.progress, state=state)
        if not self._log_safely(self._log.set_state, self._run_id, state.value, self._clock.now(), reason):
            return False
        level = "error" if state is State.FAILED else "info"
        self._tell(level, "state", f"{state}: {reason}" if reason else str(state))
        return True

    def _show(self, action: Action) -> None:
        self.progress = replace(
            self.progress, action=self._index, address=action.address, name=action.name, since=self._clock.now()
        )

    def _tell(self, level: str, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        self._log_safely(self._log.event, self._run_id, self._clock.now(), level, kind, message, data)

    @staticmethod
    def _log_safely(write: Callable[..., object], *arguments: Any) -> bool:
        """Write to the log where a failure must not keep the cleanup from going on; return whether it went well."""
        try:
            write(*arguments)
        except Exception:  # noqa: BLE001  nothing may come between a failure and the cleanup
            return False
        return True

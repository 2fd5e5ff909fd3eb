"""The engine: plays flat actions on an instrument, and leaves it safe whatever happens.

Three methods carry it: :meth:`Engine.run` sets up, :meth:`Engine._execute` plays one action, and
:meth:`Engine._end` is the way out, which cannot be interrupted: the cleanup after a run that finished or was stopped,
the safe state after everything else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

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
from acquisition.beam_check import beam_is_back, check_beam
from acquisition.cleanup import ATTEMPTS, PAUSE, clean_up
from acquisition.conditions import Condition
from acquisition.dose import DoseLedger
from acquisition.drift import correct_drift
from acquisition.endurance import Endurance
from acquisition.feed import LiveFeed, LiveResult, log_result
from acquisition.focusing import autofocus, stigmation
from acquisition.hands import Hands, Result
from acquisition.ledger import Ledger
from acquisition.lent import Lender, LentHands
from acquisition.oddities import Oddities
from acquisition.requests import Requests, SafeRequest, StopRequest
from acquisition.resumption import Resumption
from acquisition.safe_state import SafeState
from acquisition.states import State, step
from acquisition.store import Store
from acquisition.timing import Timing
from acquisition.watchdog import Pace, Watchdog
from drivers.contract import Exposure, Instrument, Parameter, Scan
from drivers.errors import (
    BeamLost,
    DatabaseError,
    DeviceError,
    DoseError,
    NotArrived,
    Response,
    RilievoError,
    RunError,
    StoreError,
)
from drivers.frame import Frame, Reading
from drivers.units import Q, format_quantity, quantity, si

T = TypeVar("T")

POLL = 1.0
"""Seconds between two looks at something that is on its way to its setpoint."""
CONFIRMED = 2
"""Frames in a row that must meet a condition: one wrong estimate does not end a series."""
SETTLE = 60.0
"""Seconds within which a parameter without a rate of its own must have arrived."""
MARK = 10.0
"""Seconds of waiting after which the journal is told how far it has come, so that a resumed hold knows what is left."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever looks on; replaced whole, never changed."""

    state: State = State.IDLE
    reason: str = ""
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
    index: int
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
    log : Ledger
    store : Store
    run_id : str
        Of a run that the log knows.
    feed : LiveFeed, optional
        Where frames go for their heights.
    heights : callable, optional
        From a frame's number to the file for its heights; needed with ``feed``.
    watchdog : Watchdog, optional
        Is told what each action should take, and when it moves on.
    dose_limit : float, optional, C/m²
        What every area may have; the recipe's ``limits.dose``.
    """

    def __init__(
        self,
        instrument: Instrument,
        log: Ledger,
        store: Store,
        run_id: str,
        *,
        feed: LiveFeed | None = None,
        heights: Callable[[int], Path] | None = None,
        watchdog: Watchdog | None = None,
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
        self._watchdog = watchdog or Watchdog.of(instrument)
        self._pace = Pace(Timing.of(instrument))
        self._endurance = Endurance.of(instrument)
        self.safe_state = SafeState.of(instrument)
        self._cures: dict[str, Callable[[], bool]] = {}
        self._state = State.IDLE
        self._lock = threading.Lock()
        self._scanning = False
        self._scan: Scan | None = None
        self._darks: list[Frame] = []
        self._taken: list[Frame] = []
        self._series: _Series | None = None
        self.oddities = Oddities(self._clock, self.tell)
        self._index = 0
        self._waited = 0.0
        self._marked = 0.0
        self._outcome: tuple[int, datetime, str, str, Result | None] | None = None
        self._numbers: dict[int, tuple[int, datetime]] = {}
        self.progress = Progress()
        lender = Lender(
            self.send, self.wait, self.wait_arrived, self.expose, self.keep, self.tell,
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
            BeamCheck: self._check_beam,
            CorrectDrift: self._with_hands(correct_drift),
            Decide: self._with_hands(adaptive.decide),
        }

    # -- what others ask for, from their own threads

    def pause(self, *, at_once: bool = False) -> None:
        """Pause after the frame that is being taken; the countdown of a hold or a series stops.

        ``at_once``: in the middle of the frame, which is taken again afterwards.
        """
        with self._lock:
            if self._state is not State.RUNNING:
                raise RunError(f"only a running run can be paused; this one is {self._state}")
        self._requests.pause(at_once=at_once)
        self._break_off()

    def resume(self) -> None:
        """Go on after a pause."""
        self._requests.resume()

    def stop(self, reason: str = "stopped on request") -> None:
        """End the run after the frame that is being taken, through the cleanup."""
        self._requests.stop(reason)

    def abort(self, reason: str = "aborted on request") -> None:
        """End the run at once, without the frame that is being taken, through the cleanup."""
        self._requests.stop(reason, at_once=True)
        self._break_off()

    # -- what interlocks and watchdog ask for: see acquisition.interlock_watch.Subject

    def warn(self, message: str, data: Mapping[str, Any]) -> None:
        """Tell the log something that changes nothing."""
        self.tell("warning", "interlock", message, data)

    def suspend(self, reason: str, rule: str) -> None:
        """Wait, beam off the sample, until ``rule`` is released; the frame that is being taken is taken again."""
        self._requests.suspend(rule, reason)
        self._break_off()

    def release(self, rule: str) -> None:
        """Take a suspension back."""
        self._requests.release(rule)

    def stalled(self, what: str, waited: float, expected: float) -> None:
        """Tell the log that an action makes no progress; times in s."""
        data = {"what": what, "waited": waited, "expected": expected}
        self.tell("error", "stall", f"{what} makes no progress: {waited:.0f} s, {expected:.0f} s were expected", data)

    def make_safe(self, reason: str) -> None:
        """End the run as safe; whoever asks enters the safe state itself, or leaves it to the engine's thread."""
        self._requests.safe(reason)
        self._break_off()

    def give_up(self, reason: str) -> Outcome:
        """End the run for an engine whose own thread hangs in a device; call after :meth:`make_safe`."""
        self.tell("error", "stall", f"the engine's thread is given up: {reason}")
        return self._end(SafeRequest(reason))

    def _break_off(self) -> None:
        """Stop the raster where what was asked does not wait for its end."""
        if self._scanning and self._requests.interrupts_frame:
            with suppress(Exception):  # the frame ends anyhow, only later; whoever asks has no use for the reason
                self._instrument.detector.backend.stop()

    # -- the run

    def run(self, actions: Sequence[Action], resumption: Resumption | None = None) -> Outcome:
        """Play the actions, clean up, and return how it ended. Does not raise for what a night may bring.

        Parameters
        ----------
        actions : sequence of Action
            The whole run's.
        resumption : Resumption, optional
            Where to go on, and what to restore before, in a run that was interrupted.
        """
        self.progress = replace(self.progress, actions=len(actions))
        end: Exception | None = None
        try:
            self._enter(State.RUNNING)
            self._instrument.column.blank()
            self._retry("reading the log", lambda: self.hands.begin(actions))
            first = 0 if resumption is None else self._take_up(resumption)
            for index in range(first, len(actions)):
                self._play(index, actions[index])
            self._obey()
        except Exception as error:  # noqa: BLE001  every way out passes through the end
            end = error
        return self._end(self._requests.safe_request or end)

    def _take_up(self, resumption: Resumption) -> int:
        """Bring instrument and engine to where the run was interrupted; return the action to go on with."""
        self.progress = replace(self.progress, frames=resumption.frames)
        self._index = resumption.index
        if resumption.safe is not None:
            raise SafeRequest(resumption.safe)
        if resumption.stop is not None:
            raise StopRequest(resumption.stop)
        self._scan = resumption.scan
        self._darks = [self._store.read(stored.path) for stored in resumption.darks]
        self._taken = [self._store.read(stored.path) for stored in resumption.taken]
        self._retry("restoring the instrument", lambda: resumption.restore(self))
        self._retry("coming back from an adjustment", self.hands.come_home)
        self._waited = resumption.waited
        series = resumption.series
        if series is not None:
            began = self._clock.monotonic() - series.elapsed
            pacing = adaptive.Pacing(series.begin) if series.begin.pace is not None else None
            if pacing is not None:
                pacing.last = series.last
            stop_when = series.begin.stop_when
            self._series = _Series(series.begin.address, series.index, began, stop_when, pacing, ended=series.ended)
        return resumption.index

    def _play(self, index: int, action: Action) -> None:
        """Play one action between its journal entries."""
        self._obey()
        # The outcome of the action before and the intent of this one are one transaction: half the commits of a night.
        with self._log.together():
            self._tell_outcome()
            self._index = index
            self._log.intent(self._run_id, index, self._clock.now(), durable=_is_irreversible(action))
        self._show(action)
        self._expect(action)
        if self._series is not None and getattr(action, "group", None) != self._series.group:
            self._series = None
        try:
            outcome, result = self._retry(action.address, lambda: self._execute(action))
        except (StopRequest, SafeRequest):
            self._outcome = (index, self._clock.now(), "stopped", "", None)
            raise
        except Exception as error:
            self._outcome = (index, self._clock.now(), "failed", str(error), None)
            raise
        self._watchdog.rest()
        self.hands.remember(action.address, result)
        self._outcome = (index, self._clock.now(), outcome, "", result)
        self._waited = self._marked = 0.0

    def _tell_outcome(self) -> None:
        """Enter how the last action ended, where the journal does not know yet."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            index, time, state, message, result = outcome
            self._log.outcome(self._run_id, index, time, state, message, result=result)

    def _expect(self, action: Action) -> None:
        """Tell the watchdog what an action should take."""
        temperature = None
        if isinstance(action, Ramp):
            with suppress(RilievoError):
                temperature = float(self._instrument.heater.temperature.read().value.to("K").magnitude)
        wait, seconds = self._pace.of(action, temperature)
        if isinstance(action, Acquire) and self._series is not None:
            wait = max(self._series.began + si(action.offset) - self._clock.monotonic(), 0.0)
            if self._series.pacing is not None:
                wait = si(self._series.pacing.action.every)
        if isinstance(action, Ramp) and action.at_most is not None:
            seconds = max(seconds, si(action.at_most))
        self._watchdog.expect(action.address, seconds, wait=wait)

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

    def _retry(self, what: str, attempt: Callable[[], T]) -> T:
        """Return what ``attempt`` returns; tried again, with growing pauses, where a device did not do its part.

        Where something must come back first, such as the database, the run is suspended between the attempts.
        """
        tries, began = 0, self._clock.monotonic()
        while True:
            try:
                return attempt()
            except RilievoError as error:
                tries += 1
                if error.response is Response.PAUSE:
                    self._suspend_between(error, tries, began)
                    continue
                if error.response is not Response.RETRY or tries > self._endurance.retries:
                    raise
                pause = self._endurance.pause_before(tries)
                self.tell(
                    "warning",
                    "retry",
                    f"{what}: {error}; retry {tries} of {self._endurance.retries} follows in {pause:g} s",
                    {"number": error.number, "code": error.code, "where": error.where, "retry": tries},
                )
                self._watchdog.rest()
                self.wait(pause, counted=False)
                self._reconnect(error)

    def _suspend_between(self, error: RilievoError, tries: int, began: float) -> None:
        """Stand still until it is worth another attempt at what an error keeps from being done."""
        again = self._clock.monotonic() + self._endurance.pause_before(min(tries, 4))
        if again - began > self._endurance.longest_suspension:
            raise SafeRequest(f"{error}; that has lasted for {self._endurance.longest_suspension:g} s") from error
        self._need(error.code, str(error), lambda: self._clock.monotonic() >= again)
        self._obey()

    def _reconnect(self, error: RilievoError) -> None:
        """Try to reach the device of an error anew; where that fails, the retry itself will tell."""
        if isinstance(error, DeviceError) and error.where is not None:
            with suppress(RilievoError):
                self._instrument.reconnect(error.where)

    def _end(self, end: Exception | None) -> Outcome:
        """Leave the instrument as the way out asks, and tell the log how the run ended."""
        reason = _reason(end)
        self._watchdog.rest()
        self._log_safely(self._tell_outcome)
        with suppress(RunError):
            self._enter(State.STOPPING, reason, {"end": _END.get(type(end), "safe")})
        if end is None or isinstance(end, StopRequest):
            outcome = Outcome(State.FINISHED if end is None else State.STOPPED, reason)
            failures = clean_up(self._instrument, self._put)
            for failure in failures:
                self.tell("error", "cleanup", failure)
            if not failures:
                self.tell("info", "cleanup", "beam blanked, heater sent down, gas closed")
            failures = [f"cleanup: {'; '.join(failures)}"] if failures else []
        else:
            report = self.safe_state.enter(reason, send=self._log_setpoint)
            brought = isinstance(end, SafeRequest | DeviceError | StoreError | DatabaseError)
            outcome = Outcome(State.SAFE if brought else State.FAILED, reason)
            failures = [] if report.verified else [report.sentence]
            self.tell("error" if failures else "info", "safe state", report.sentence, report.to_json())
        if failures:
            told = "; ".join(failures)
            outcome = Outcome(State.FAILED, f"{outcome.reason}; {told}".removeprefix("; "))
        # Only now: the reconstruction may keep one waiting, a hot sample may not.
        self._store_results(rest=True)
        for attempt in range(ATTEMPTS):
            if attempt:
                self._clock.sleep(PAUSE)
            if self._enter(outcome.state, outcome.reason):
                return outcome
        return Outcome(outcome.state, f"{outcome.reason}; the log could not be told".removeprefix("; "))

    # -- requests and waiting

    def _obey(self) -> float:
        """Follow what was asked meanwhile; return the seconds that a standstill took, by which a series moves."""
        self._requests.wake.clear()
        self._requests.raise_if_ended()
        if self._log.stranded:
            self._need("database", self._log.stranded, self._is_reconciled)
        if self._requests.standstill is None:
            return 0.0
        began = self._clock.monotonic()
        self._tell_outcome()
        self._watchdog.rest()
        self._stand_still(began)
        self._enter(State.RUNNING)
        stood = self._clock.monotonic() - began
        if self._series is not None:
            self._series.began += stood
        return stood

    def _stand_still(self, began: float) -> None:
        """Return when nothing holds the run any more; what the engine itself waits for is looked after meanwhile."""
        shown = None
        while True:
            self._requests.wake.clear()  # before the look: what is asked after it wakes, what was asked before is seen
            standstill = self._requests.standstill
            if standstill is None:
                return
            if standstill != shown:
                self._enter(standstill.state, standstill.reason)
                shown = standstill
            self._requests.wait_for_change(standstill, Endurance.PROBE if self._cures else None)
            self._requests.raise_if_ended()
            for cause, cure in list(self._cures.items()):
                if cure():
                    del self._cures[cause]
                    self._requests.release(cause)
                elif self._clock.monotonic() - began >= self._endurance.longest_suspension:
                    raise SafeRequest(
                        f"{standstill.reason}; that has lasted for {self._endurance.longest_suspension:g} s"
                    )

    def _need(self, cause: str, reason: str, cure: Callable[[], bool]) -> None:
        """Suspend the run until ``cure`` succeeds."""
        self._cures[cause] = cure
        self._requests.suspend(cause, reason)

    def _is_reconciled(self) -> bool:
        """Return whether the database has got back everything that it missed."""
        with suppress(RilievoError):
            self._log.reconcile()
        return not self._log.stranded

    def _insist(self, cause: str, attempt: Callable[[], T]) -> T:
        """Return what ``attempt`` returns, suspended until it succeeds where what it needs must come back first."""
        try:
            return attempt()
        except RilievoError as error:
            if error.response is not Response.PAUSE:
                raise
            reason = str(error)
        results: list[T] = []

        def cure() -> bool:
            with suppress(RilievoError):
                results.append(attempt())
            return bool(results)

        self._need(cause, reason, cure)
        self._obey()
        return results[0]

    def wait(self, seconds: float, *, counted: bool = True) -> None:
        """Wait on the clock, standstills not counted; store live results when they are due."""
        end = self._clock.monotonic() + seconds
        before = self._waited
        while (left := end - self._clock.monotonic()) > 0:
            if counted:
                self._mark(before + seconds - left)
            if self._feed is not None and self._feed.next_due is not None:
                until_due = max(self._feed.next_due - self._clock.monotonic(), 0.0)
                left = min(left, until_due if self._clock.virtual else POLL)
            self._requests.wake.wait(min(left, MARK))
            end += self._obey()
            self._store_results()
        if counted:
            self._waited = before + seconds

    def _mark(self, waited: float) -> None:
        """Tell the journal how far the action has come, now and then."""
        self._waited = waited
        if waited - self._marked < MARK:
            return
        self._marked = waited
        elapsed = self._clock.monotonic() - self._series.began if self._series is not None else None
        self._watchdog.progress()
        self._log_safely(self._log.mark, self._run_id, self._index, {"waited": waited, "series": elapsed})

    def wait_arrived(self, parameters: Sequence[Parameter], seconds: float, within: float | None = None) -> None:
        """Wait until every readback has come within tolerance (its own unless given) of its setpoint.

        Raises
        ------
        NotArrived
            After ``seconds``, with setpoint and readback.
        """
        waited = 0.0
        while late := [parameter for parameter in parameters if not parameter.arrived(within)]:
            if waited >= seconds:
                wanted = late[0].setpoint
                raise NotArrived(
                    f"expected {format_quantity(wanted) if wanted is not None else 'its setpoint'} after "
                    f"{seconds:.0f} s; the readback is {format_quantity(late[0].read().value)}; "
                    "check the device, or allow more time in the recipe",
                    late[0].name,
                )
            self.wait(min(POLL, seconds - waited), counted=False)
            waited += POLL

    # -- actions

    def _configure(self, action: Configure) -> None:
        imaging, column = action.imaging, self._instrument.column
        self.send(column.beam_energy, imaging.beam_energy)
        self.send(column.probe_current, imaging.probe_current)
        self.wait_arrived([column.beam_energy, column.probe_current], SETTLE)
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
            self.send(line, quantity(0.0, "sccm"))
        self.wait_arrived(closing, SETTLE)
        for species, flow in opening.items():
            self.send(lines[species].flow, flow)
        self.wait_arrived([lines[species].flow for species in opening], SETTLE)

    def _ramp(self, action: Ramp) -> None:
        heater = self._instrument.heater
        present = float(heater.temperature.read().value.to("K").magnitude)
        needed = abs(si(action.target) - present) / si(action.rate)
        heater.temperature.check(action.target)
        self.send(heater.rate, action.rate)
        self.send(heater.temperature, action.target)
        # Half as long again as the ramp itself, and ten minutes for the sensor's lag.
        allowed = si(action.at_most) if action.at_most is not None else 1.5 * needed + 600.0
        self.wait_arrived([heater.temperature], allowed, within=si(action.tolerance))

    def _hold(self, action: Hold) -> None:
        # What was waited before an interruption, or before a retry, counts.
        self.wait(max(si(action.duration) - self._waited, 0.0))

    def _begin_series(self, action: BeginSeries) -> None:
        pacing = adaptive.Pacing(action) if action.pace is not None else None
        self._series = _Series(action.address, self._index, self._clock.monotonic(), action.stop_when, pacing)

    def _dark(self, action: Dark) -> None:
        darks, self._taken = self._taken, []
        for _ in range(action.frames - len(darks)):
            self._obey()
            darks.append(self.expose(beam=False))
            self.keep(darks[-1])
        self._darks = darks

    def _due(self, action: Acquire) -> bool:
        """Wait for a frame's moment in its series; return False where the series has ended before it."""
        series = self._series
        if series is None or action.group != series.group:
            return True
        if series.pacing is not None:
            return self._due_by_pace(series, series.pacing)
        while not series.ended and (left := series.began + si(action.offset) - self._clock.monotonic()) > 0:
            self.wait(left)
        return not series.ended

    def _due_by_pace(self, series: _Series, pacing: adaptive.Pacing) -> bool:
        """Wait for the next frame's moment, which what the reconstruction tells meanwhile may bring forward."""
        while not series.ended and (left := series.began + pacing.due(self.hands) - self._clock.monotonic()) > 0:
            self.wait(min(left, POLL))
        elapsed = self._clock.monotonic() - series.began
        series.ended |= pacing.over(elapsed)
        if not series.ended:
            pacing.began(self.hands, elapsed)
            mark = {"waited": self._waited, "series": elapsed}
            self._log_safely(self._log.mark, self._run_id, self._index, mark)
        return not series.ended

    def _acquire(self, action: Acquire) -> None:
        self.hands.allow()
        frame = self.expose(beam=True)
        frame = frame.with_offsets_of(*self._darks) if self._darks else frame
        number = self.progress.frames
        self.keep(frame)
        self.hands.took(action.address, number, frame)

    def _check_beam(self, action: BeamCheck) -> Result:
        """Compare the probe current; suspended, where the recipe says so, until it has come back."""
        while True:
            try:
                return check_beam(self.hands, action)
            except BeamLost as lost:
                self._need("beam", str(lost), lambda: beam_is_back(self.hands, action))
                self._obey()

    def _set(self, action: Set) -> None:
        parameter = self._instrument.parameter(action.parameter)
        self.send(parameter, action.value)
        self.wait_arrived([parameter], SETTLE)

    def _note(self, action: Note) -> None:
        self.tell("info", "note", action.text)

    # -- parts of actions

    def send(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint and log it; never once the safe state is being entered."""
        self._requests.raise_if_ended()
        with self.safe_state.sending():
            parameter.set(value)
        self._log.setpoint(self._run_id, parameter.name, value, self._clock.now(), self._index)
        self.hands.moved(parameter, value)
        if parameter.name.startswith("detector."):
            self._darks = []  # brightness and contrast move the offsets

    def _put(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint, and log it where the log still works."""
        parameter.set(value)
        self._log_setpoint(parameter, value)

    def _log_setpoint(self, parameter: Parameter, value: Q) -> None:
        now = self._clock.now()
        self._log_safely(self._log.setpoint, self._run_id, parameter.name, value, now)

    def expose(self, scan: Scan | None = None, *, beam: bool) -> Frame:
        """Take one frame, of the run's own raster unless given; the beam is on the sample for it and no longer."""
        scan = scan or self._scan
        if scan is None:
            raise RunError("no imaging was configured before the first frame; give the recipe an imaging section")
        while True:
            exposure = self._raster(scan, beam=beam)
            if exposure is not None:
                return self._instrument.detector.frame(scan, exposure, self._readbacks())
            self._obey()  # what broke the frame off has its way; then the frame is taken again

    def _raster(self, scan: Scan, *, beam: bool) -> Exposure | None:
        """Expose once; None where the frame was broken off by a pause or a suspension."""
        detector, column = self._instrument.detector, self._instrument.column
        detector.arm(scan)
        self._scanning = True
        try:
            if self._requests.interrupts_frame:
                self._requests.raise_if_ended()
                return None
            with self.safe_state.sending():
                if beam:
                    column.unblank()
                else:
                    column.blank()
            exposure = detector.expose(scan)
        except RilievoError:
            if not self._requests.interrupts_frame:
                raise
            self._requests.raise_if_ended()  # the half frame is not a device's failure
            return None
        finally:
            self._scanning = False
            if beam:
                column.blank()
        return exposure

    def keep(self, frame: Frame) -> None:
        """Store, log, acknowledge and offer one frame."""
        number = self.progress.frames
        asked = self._instrument.column.probe_current.setpoint
        self.oddities.frame(frame, None if asked is None else si(asked))
        stored = self._insist("disk", lambda: self._store.append(self._run_id, number, frame))
        frame_id = self._log.frame(self._run_id, number, self._index, frame, stored)
        self.progress = replace(self.progress, frames=number + 1)
        if frame_id is None:  # the side-car holds it until the database is back; its heights are made then
            self.progress = replace(self.progress, left_out=self.progress.left_out + 1)
            return
        self._numbers[frame_id] = (number, frame.time)
        if self._series is not None:
            self._series.frames.add(frame_id)
        if self._feed is not None and not frame.dark and not self._feed.offer(frame_id, frame, self._heights(number)):
            self._numbers.pop(frame_id, None)
            self._log.reconstruction(frame_id, "left out")
            self.progress = replace(self.progress, left_out=self.progress.left_out + 1)
        self._store_results()

    def _readbacks(self) -> Mapping[str, Reading]:
        """Return what the channels say."""
        readings, _ = self._instrument.read_all()
        self.oddities.readings(readings)
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
            self.tell("warning", "heights", f"heights could not be logged: {error}")
        if working and self._feed.broken:
            self.tell("warning", "heights", f"no more live heights: {self._feed.broken}; they are made after the run")

    def _store_result(self, result: LiveResult) -> None:
        taken = self._numbers.pop(result.frame_id, None)
        error = log_result(self._log, self._store, result, later=True)
        if error is not None:
            self.tell("warning", "heights", f"no heights for frame {result.frame_id}: {error}")
            return
        figures = {name: (f.value, f.sigma, f.unit) for name, f in result.figures.items()}
        if taken is not None:
            self.hands.figures.add(*taken, figures)
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
            self.tell("warning", "decision", f"{series.group} goes on: its figures come too late to end it", evidence)
        if series.met < CONFIRMED:
            return
        series.ended = True
        # In the journal, so that a resumed run does not take up a series that has ended.
        self._log_safely(self._log.mark, self._run_id, series.index, {"ended": evidence})
        threshold = format_quantity(condition.threshold)
        reached = f"{condition.figure} {latest.value:.3g} {latest.unit}".rstrip()
        self.tell("info", "decision", f"{series.group} ends: {reached} is {condition.comparison} {threshold}", evidence)

    # -- the log, and whoever looks on

    def _enter(self, state: State, reason: str = "", data: Mapping[str, Any] | None = None) -> bool:
        """Take the way to a state; return whether the log could be told."""
        with self._lock:
            if self._state is not state:
                self._state = step(self._state, state)
        self.progress = replace(self.progress, state=state, reason=reason)
        told = f"{state}: {reason}" if reason else str(state)
        return self._log_safely(self._tell_state, state, reason, told, data)

    def _tell_state(self, state: State, reason: str, told: str, data: Mapping[str, Any] | None) -> None:
        now = self._clock.now()
        with self._log.together():
            self._log.set_state(self._run_id, state.value, now, reason)
            self._log.event(self._run_id, now, _LEVELS.get(state, "info"), "state", told, data)

    def _show(self, action: Action) -> None:
        self.progress = replace(
            self.progress, action=self._index, address=action.address, name=action.name, since=self._clock.now()
        )

    def tell(self, level: str, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        """Enter an event, where the log still works."""
        self._log_safely(self._log.event, self._run_id, self._clock.now(), level, kind, message, data)

    @staticmethod
    def _log_safely(write: Callable[..., object], *arguments: Any) -> bool:
        """Write to the log where a failure must not keep the cleanup from going on; return whether it went well."""
        try:
            write(*arguments)
        except Exception:  # noqa: BLE001  nothing may come between a failure and the cleanup
            return False
        return True


_END: Mapping[type, str] = {type(None): "finished", StopRequest: "stopped"}
_LEVELS = {State.FAILED: "error", State.SAFE: "error", State.SUSPENDED: "warning"}


def _is_irreversible(action: Action) -> bool:
    """Return whether an action moves heater or gas: what it does to the sample cannot be taken back."""
    return isinstance(action, SetGas | Ramp) or (
        isinstance(action, Set) and action.parameter.startswith(("heater.", "gas"))
    )


def _reason(end: Exception | None) -> str:
    """Return why a run ended, in a sentence; empty where it came to its own end."""
    if end is None:
        return ""
    if isinstance(end, RilievoError | StopRequest | SafeRequest):
        return str(end)
    return f"internal error: {type(end).__name__}: {end}"

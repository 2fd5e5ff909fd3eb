"""The engine: plays flat actions on an instrument, and leaves it safe whatever happens.

Three methods carry it: :meth:`Engine.run` sets up, :meth:`Engine._execute` plays one action, and
:meth:`Engine._end` is the way out, which cannot be interrupted: the cleanup after a run that finished or was stopped,
the safe state after everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
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
from acquisition.beam_check import beam_is_back, check_beam
from acquisition.cleanup import ATTEMPTS, PAUSE, clean_up
from acquisition.drift import correct_drift
from acquisition.exposing import Exposing, Series
from acquisition.focusing import autofocus, stigmation
from acquisition.hands import Hands, Result
from acquisition.progress import Outcome
from acquisition.requests import SafeRequest, StopRequest
from acquisition.resumption import Resumption
from acquisition.states import IN_ORDER, State
from acquisition.timing import Timing
from acquisition.waiting import POLL
from acquisition.watchdog import Pace
from drivers.errors import BeamLost, DatabaseError, DeviceError, DoseError, RilievoError, RunError, StoreError
from drivers.frame import Frame
from drivers.units import quantity, si

SETTLE = 60.0
"""Seconds within which a parameter without a rate of its own must have arrived."""


class Engine(Exposing):
    """Plays the actions of one run. Parameters are those of :class:`acquisition.exposing.Exposing`."""

    _taken: tuple[Frame, ...] = ()
    """Frames that the present action has kept, where it takes several."""
    _action: Action | None = None
    _outcome: tuple[int, datetime, str, str, Result | None] | None = None
    """Of the last action, until the journal has it: index, time, state, message, result."""

    @cached_property
    def _pace(self) -> Pace:
        return Pace(Timing.of(self._instrument))

    @cached_property
    def _handlers(self) -> dict[type[Any], Callable[[Any], Result | None]]:
        return {
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
            self._retry("blanking the beam", self._instrument.column.blank)
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
        self._taken = tuple(self._store.read(stored.path) for stored in resumption.taken)
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
            self._series = Series(series.begin.address, series.index, began, stop_when, pacing, ended=series.ended)
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
        if self._series is not None and getattr(action, "group", None) != self._series.group:
            self._series = None
        self._action = action
        self._expect(action)
        try:
            outcome, result = self._retry(action.address, lambda: self._execute(action))
        except (StopRequest, SafeRequest):
            self._outcome = (index, self._clock.now(), "stopped", "", None)
            raise
        except Exception as error:
            self._outcome = (index, self._clock.now(), "failed", str(error), None)
            raise
        self._watchdog.rest()
        self._action = None
        self.hands.remember(action.address, result)
        self._outcome = (index, self._clock.now(), outcome, "", result)
        self._waited = self._marked = 0.0

    def _show(self, action: Action) -> None:
        self.progress = replace(
            self.progress, action=self._index, address=action.address, name=action.name, since=self._clock.now()
        )

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
            if self._enter(outcome.state, outcome.reason, {IN_ORDER: not failures}):
                return outcome
        return Outcome(outcome.state, f"{outcome.reason}; the log could not be told".removeprefix("; "))

    # -- standing still

    def _interrupted(self) -> None:
        """Enter what the journal does not know yet."""
        self._tell_outcome()

    def _taken_up(self, seconds: float) -> None:
        """Move the series, and what the watchdog expects, by the time that the run stood still."""
        if self._series is not None:
            self._series.began += seconds
        if self._action is not None:
            self._expect(self._action)

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
        self._series = Series(action.address, self._index, self._clock.monotonic(), action.stop_when, pacing)

    def _dark(self, action: Dark) -> None:
        # What was taken before an interruption, or before a retry, counts.
        while len(self._taken) < action.frames:
            self._obey()
            frame = self.expose(beam=False)
            self.keep(frame)
            self._taken = (*self._taken, frame)
        self._darks, self._taken = list(self._taken), ()

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

    def _due_by_pace(self, series: Series, pacing: adaptive.Pacing) -> bool:
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


_END: Mapping[type, str] = {type(None): "finished", StopRequest: "stopped"}


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

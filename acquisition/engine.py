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
from functools import partial
from pathlib import Path
from typing import Any

from acquisition.actions import (
    Acquire,
    Action,
    BeginSeries,
    Condition,
    Configure,
    Dark,
    Hold,
    Note,
    Ramp,
    Set,
    SetGas,
)
from acquisition.feed import LiveFeed, LiveResult, log_result
from acquisition.log import Log
from acquisition.states import State, step
from acquisition.store import Store
from drivers.contract import Instrument, Parameter, Scan
from drivers.errors import DatabaseError, DeviceTimeout, RilievoError, RunError
from drivers.frame import Frame, Reading
from drivers.units import Q, format_quantity, quantity, si

POLL = 1.0
"""Seconds between two looks at something that is on its way to its setpoint."""
SETTLE = 60.0
"""Seconds within which a parameter without a rate of its own must have arrived."""


class _StopRequest(Exception):
    """Somebody asked the run to end."""


@dataclass
class Progress:
    """Where a run stands, for whoever looks on; replaced whole, never changed in place."""

    state: State = State.IDLE
    action: int = 0
    actions: int = 0
    address: str = ""
    name: str = ""
    since: datetime | None = None
    frames: int = 0
    left_out: int = 0
    heights: int = 0
    now: datetime | None = None
    figures: Mapping[str, tuple[float, float | None, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: State
    reason: str = ""


@dataclass
class _Series:
    """What the engine remembers of the series that is running."""

    group: str
    began: float
    stop_when: Condition | None
    ended: bool = False


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
    ) -> None:
        self._instrument = instrument
        self._clock = instrument.clock
        self._log = log
        self._store = store
        self._run_id = run_id
        self._feed = feed
        self._heights = heights or (lambda number: Path(f"{number:06d}.tif"))
        self._state = State.IDLE
        self._lock = threading.Lock()
        self._wake = self._clock.signal()
        self._decision = self._clock.decision()
        self._stop_reason: str | None = None
        self._pause_asked = False
        self._scanning = False
        self._scan: Scan | None = None
        self._darks: list[Frame] = []
        self._series: _Series | None = None
        self._figures: dict[str, tuple[float, float | None, str]] = {}
        self._number = 0
        self._index = 0
        self._left_out: list[int] = []
        self.progress = Progress()
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Configure: self._configure,
            SetGas: self._set_gas,
            Ramp: self._ramp,
            Hold: self._hold,
            Dark: self._dark,
            BeginSeries: self._begin_series,
            Acquire: self._acquire,
            Set: self._set,
            Note: self._note,
        }

    # -- what others ask for, from their own threads

    def pause(self) -> None:
        """Pause after the frame that is being taken; a hold's countdown stops."""
        with self._lock:
            if self._state is not State.RUNNING:
                raise RunError(f"only a running run can be paused; this one is {self._state}")
            self._pause_asked = True
            self._decision.clear()
        self._wake.set()

    def resume(self) -> None:
        """Go on after a pause."""
        with self._lock:
            self._pause_asked = False
        self._decision.set()

    def stop(self, reason: str = "stopped on request") -> None:
        """End the run after the frame that is being taken, through the cleanup."""
        with self._lock:
            if self._stop_reason is None:
                self._stop_reason = reason
            self._pause_asked = False
        self._wake.set()
        self._decision.set()

    def abort(self, reason: str = "aborted on request") -> None:
        """End the run at once, without the frame that is being taken, through the cleanup."""
        self.stop(reason)
        if self._scanning:
            self._instrument.detector.backend.stop()

    @property
    def left_out(self) -> tuple[int, ...]:
        """Ids of the frames that had no heights made live."""
        return tuple(self._left_out)

    # -- the run

    def run(self, actions: Sequence[Action]) -> Outcome:
        """Play the actions, clean up, and return how it ended. Does not raise for what a night may bring."""
        self.progress = replace(self.progress, actions=len(actions))
        outcome = Outcome(State.FINISHED)
        try:
            self._enter(State.RUNNING)
            self._instrument.column.blank()
            for index, action in enumerate(actions):
                self._index = index
                self._play(action)
            self._store_results(rest=True)
        except _StopRequest as request:
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
        self._log.intent(self._run_id, self._index, self._clock.now())
        try:
            outcome = self._execute(action)
        except _StopRequest:
            self._log_safely(self._log.outcome, self._run_id, self._index, self._clock.now(), "stopped")
            raise
        except Exception as error:
            self._log_safely(self._log.outcome, self._run_id, self._index, self._clock.now(), "failed", str(error))
            raise
        self._log.outcome(self._run_id, self._index, self._clock.now(), outcome)

    def _execute(self, action: Action) -> str:
        """Do what one action says; return ``done`` when it is done, not when it was sent, or ``skipped``."""
        if isinstance(action, Acquire) and not self._due(action):
            return "skipped"
        self._handlers[type(action)](action)
        return "done"

    def _end(self, outcome: Outcome) -> Outcome:
        with suppress(RilievoError):
            self._enter(State.STOPPING, outcome.reason)
        failures = self._tear_down()
        if failures:
            told = "; ".join(failures)
            outcome = Outcome(State.FAILED, f"{outcome.reason}; cleanup: {told}".removeprefix("; "))
        with suppress(RilievoError):
            self._enter(outcome.state, outcome.reason)
        self.progress = replace(self.progress, state=outcome.state)
        return outcome

    def _tear_down(self) -> list[str]:
        """Leave the instrument safe: beam off the sample, heater on its way down, gas closed.

        Every part is attempted even where another fails, and no request interrupts it. Returns what failed.
        """
        failures: list[str] = []
        for what, part in self._cleanup_parts():
            try:
                part()
            except Exception as error:  # noqa: BLE001  the other parts must still be attempted
                failures.append(f"could not {what}: {error}")
                self._tell("error", "cleanup", failures[-1])
        if not failures:
            self._tell("info", "cleanup", "beam blanked, heater sent down, gas closed")
        self._log_safely(self._store_results, rest=True)
        return failures

    def _cleanup_parts(self) -> list[tuple[str, Callable[[], None]]]:
        """Return what leaves the instrument safe, in order: reactive gas closes before the gas that purges."""
        instrument, heater = self._instrument, self._instrument.heater
        rate = heater.rate.setpoint
        idle = quantity(heater.idle, "K")
        lines = sorted(instrument.gases.values(), key=lambda line: not line.reactive)
        parts: list[tuple[str, Callable[[], None]]] = [("blank the beam", instrument.column.blank)]
        if rate is not None:  # as fast as the recipe itself last moved, which the sample has been seen to bear
            parts.append(("set the heater's rate", partial(self._put, heater.rate, rate)))
        parts.append(("send the heater down", partial(self._put, heater.temperature, idle)))
        none = quantity(0.0, "sccm")
        parts += [(f"close {line.species}", partial(self._put, line.flow, none)) for line in lines]
        return parts

    def _put(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint, and log it where the log still works."""
        parameter.set(value)
        canonical = value.to(parameter.unit)
        self._log_safely(self._log.setpoint, self._run_id, parameter.name, canonical, self._clock.now())

    # -- requests and waiting

    def _obey(self) -> float:
        """Follow what was asked meanwhile; return the seconds that a pause took."""
        self._wake.clear()
        self._end_if_asked()
        if not self._paused():
            return 0.0
        began = self._clock.monotonic()
        self._enter(State.PAUSED)
        while self._paused():
            self._decision.wait()
        self._end_if_asked()
        self._enter(State.RUNNING)
        return self._clock.monotonic() - began

    def _paused(self) -> bool:
        return self._pause_asked

    def _end_if_asked(self) -> None:
        if self._stop_reason is not None:
            raise _StopRequest(self._stop_reason)

    def _wait_until(self, moment: float) -> float:
        """Wait on the clock; store live results when they are due. Returns the seconds that pauses took."""
        paused = 0.0
        while (left := moment + paused - self._clock.monotonic()) > 0:
            due = self._feed.next_due if self._feed is not None else None
            if due is not None:
                left = min(left, max(due - self._clock.monotonic(), 0.0))
                if not self._clock.virtual:
                    left = min(moment + paused - self._clock.monotonic(), POLL)
            self._wake.wait(left)
            paused += self._obey()
            self._store_results()
            self.progress = replace(self.progress, now=self._clock.now())
        return paused

    def _wait_arrived(self, parameters: Sequence[Parameter], seconds: float, within: float | None = None) -> None:
        """Wait until every readback has come within tolerance (its own unless given) of its setpoint.

        Raises
        ------
        DeviceTimeout
            After ``seconds``, with setpoint and readback.
        """
        deadline = self._clock.monotonic() + seconds
        while late := [parameter for parameter in parameters if not parameter.arrived(within)]:
            if self._clock.monotonic() >= deadline:
                wanted = late[0].setpoint
                raise DeviceTimeout(
                    f"expected {format_quantity(wanted) if wanted is not None else 'its setpoint'} after "
                    f"{seconds:.0f} s; the readback is {format_quantity(late[0].read().value)}; "
                    "check the device, or allow more time in the recipe",
                    late[0].name,
                )
            deadline += self._wait_until(min(deadline, self._clock.monotonic() + POLL))

    # -- actions

    def _configure(self, action: Configure) -> None:
        imaging, column = action.imaging, self._instrument.column
        for parameter, value in (
            (column.beam_energy, imaging.beam_energy),
            (column.probe_current, imaging.probe_current),
        ):
            self._send(parameter, value)
        self._wait_arrived([column.beam_energy, column.probe_current], SETTLE)
        self._scan = imaging.scan()

    def _set_gas(self, action: SetGas) -> None:
        lines = self._instrument.gases
        unknown = sorted(set(action.flows) - set(lines))
        if unknown:
            raise RunError(f"there is no gas line for {', '.join(unknown)}; there are {', '.join(sorted(lines))}")
        none = quantity(0.0, "sccm")
        asked = {species: action.flows.get(species, none) for species in lines}
        # What closes goes first, so that the old mixture and the new one never flow together.
        for species in sorted(lines, key=lambda species: (si(asked[species]) > 0, species)):
            self._send(lines[species].flow, asked[species])
        self._wait_arrived([line.flow for line in lines.values()], SETTLE)

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
        self._wait_until(self._clock.monotonic() + si(action.duration))

    def _begin_series(self, action: BeginSeries) -> None:
        self._series = _Series(action.address, self._clock.monotonic(), action.stop_when)

    def _dark(self, action: Dark) -> None:
        self._instrument.column.blank()
        self._darks = [self._take_frame() for _ in range(action.frames)]

    def _due(self, action: Acquire) -> bool:
        """Wait for a frame's moment in its series; return False where the series has ended before it."""
        series = self._series
        if series is None or action.group != series.group:
            return True
        if not series.ended:
            series.began += self._wait_until(series.began + si(action.offset))
        return not series.ended

    def _acquire(self, action: Acquire) -> None:  # noqa: ARG002  the series has seen to its moment
        column = self._instrument.column
        column.unblank()
        try:
            self._take_frame()
        finally:
            column.blank()

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

    def _take_frame(self) -> Frame:
        """Acquire, store, log, acknowledge and offer one frame."""
        if self._scan is None:
            raise RunError("no imaging was configured before the first frame; give the recipe an imaging section")
        self._scanning = True
        try:
            frame = self._instrument.detector.acquire(self._scan, self._readbacks)
        except RilievoError:
            self._end_if_asked()  # aborted: the half frame is not a device's failure
            raise
        finally:
            self._scanning = False
        if self._darks and not frame.dark:
            frame = frame.with_offsets_of(*self._darks)
        number = self._number
        stored = self._store.append(self._run_id, number, frame)
        frame_id = self._log.frame(self._run_id, number, self._index, frame, stored)
        self._number += 1
        if self._feed is not None and not frame.dark and not self._feed.offer(frame_id, frame, self._heights(number)):
            self._left_out.append(frame_id)
            self._log.reconstruction(frame_id, "left out")
        self._store_results()
        self.progress = replace(
            self.progress,
            frames=self._number,
            left_out=len(self._left_out),
            now=self._clock.now(),
        )
        return frame

    def _readbacks(self) -> Mapping[str, Reading]:
        return self._instrument.read_all()[0]

    def _store_results(self, rest: bool = False) -> None:
        """Log the heights that have arrived, and see whether they end a series."""
        if self._feed is None:
            return
        for result in self._feed.rest() if rest else self._feed.results():
            self._store_result(result)

    def _store_result(self, result: LiveResult | int) -> None:
        error = log_result(self._log, self._store, result)
        if error is not None or isinstance(result, int):
            frame_id = result if isinstance(result, int) else result.frame_id
            self._tell("warning", "heights", f"no heights for frame {frame_id}: {error}")
            return
        self._figures = {name: (f.value, f.sigma, f.unit) for name, f in result.figures.items()}
        self.progress = replace(self.progress, heights=self.progress.heights + 1, figures=dict(self._figures))
        self._judge(result.frame_id)

    def _judge(self, frame_id: int) -> None:
        """End the series whose condition the latest figures meet; the evidence goes to the log."""
        series = self._series
        if series is None or series.ended or series.stop_when is None:
            return
        condition = series.stop_when
        known = self._figures.get(condition.figure)
        if known is None:
            return
        value, sigma, unit = known
        if not condition.met(quantity(value, unit)):
            return
        series.ended = True
        threshold = format_quantity(condition.threshold)
        self._tell(
            "info",
            "decision",
            f"{series.group} ends: {condition.figure} {value:.3g} {unit} is {condition.comparison} {threshold}",
            {"frame": frame_id, "value": value, "sigma": sigma, "unit": unit, "threshold": threshold},
        )

    # -- the log, and whoever looks on

    def _enter(self, state: State, reason: str = "") -> None:
        with self._lock:
            self._state = step(self._state, state)
        self.progress = replace(self.progress, state=state, now=self._clock.now())
        self._log_safely(self._log.set_state, self._run_id, state.value, self._clock.now(), reason)
        level = "error" if state is State.FAILED else "info"
        self._tell(level, "state", f"{state}: {reason}" if reason else str(state))

    def _show(self, action: Action) -> None:
        now = self._clock.now()
        self.progress = replace(
            self.progress, action=self._index, address=action.address, name=action.name, since=now, now=now
        )

    def _tell(self, level: str, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        self._log_safely(self._log.event, self._run_id, self._clock.now(), level, kind, message, data)

    def _log_safely(self, write: Callable[..., object], *arguments: Any, **named: Any) -> None:
        """Write to the log where a failure must not keep the cleanup from going on."""
        with suppress(DatabaseError):
            write(*arguments, **named)

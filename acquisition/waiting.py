"""How a run waits: for time, for devices, for people, for what must come back; and how it tries again.

Everything that may take long passes through here, so that whatever is asked of the run reaches it at once.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from acquisition.endurance import Endurance
from acquisition.feed import LiveFeed
from acquisition.ledger import Ledger
from acquisition.progress import Progress
from acquisition.requests import Requests, SafeRequest
from acquisition.states import State, step
from acquisition.watchdog import Watchdog
from drivers.contract import Instrument, Parameter
from drivers.errors import DeviceError, NotArrived, Response, RilievoError
from drivers.units import format_quantity

T = TypeVar("T")

POLL = 1.0
"""Seconds between two looks at something that is on its way to its setpoint."""
MARK = 10.0
"""Seconds of waiting after which the journal is told how far it has come, so that a resumed hold knows what is left."""
_LEVELS = {State.FAILED: "error", State.SAFE: "error", State.SUSPENDED: "warning"}


class Waiting(ABC):
    """The state of a run, and its waits.

    Parameters
    ----------
    instrument : Instrument
    log : Ledger
    run_id : str
    feed : LiveFeed, optional
        Whose results are taken while waiting.
    watchdog : Watchdog, optional
        Is told what moves on.

    Attributes
    ----------
    progress : Progress
        Where the run stands, for whoever looks on.
    """

    def __init__(
        self,
        instrument: Instrument,
        log: Ledger,
        run_id: str,
        feed: LiveFeed | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._instrument = instrument
        self._clock = instrument.clock
        self._log = log
        self._run_id = run_id
        self._feed = feed
        self._requests = Requests(self._clock)
        self._watchdog = watchdog or Watchdog.of(instrument)
        self._endurance = Endurance.of(instrument)
        self._cures: dict[str, Callable[[], bool]] = {}
        self._state = State.IDLE
        self._lock = threading.Lock()
        self._index = 0
        self._waited = 0.0
        self._marked = 0.0
        self.progress = Progress()

    # -- what whoever plays adds

    @abstractmethod
    def _store_results(self, rest: bool = False) -> None:
        """Take what the live reconstruction has brought."""

    @abstractmethod
    def _interrupted(self) -> None:
        """Enter what the journal does not know yet: the run is about to stand still."""

    @abstractmethod
    def _taken_up(self, seconds: float) -> None:
        """Move what has a schedule by the ``seconds`` that the run stood still."""

    @abstractmethod
    def _elapsed(self) -> float | None:
        """Return how far into a series the run is (s), None outside one."""

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
        self._interrupted()
        self._watchdog.rest()
        self._stand_still(began)
        self._enter(State.RUNNING)
        stood = self._clock.monotonic() - began
        self._taken_up(stood)
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
        self._watchdog.progress()
        self._log_safely(self._log.mark, self._run_id, self._index, {"waited": waited, "series": self._elapsed()})

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

    # -- trying again

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
                self.wait(pause, counted=False)
                self._watchdog.progress()
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

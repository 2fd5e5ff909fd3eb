"""Calls into a device that may never come back: each in a thread of the device's own, with a deadline.

A serial line without an answer, a vendor's library in a lock: nothing in the process can end such a call, but nobody
has to wait for it. When its deadline passes, the thread is given up with the call in it, a new one serves the calls
that follow, and :class:`DeviceTimeout` says so. After a few calls in a row without an answer the device counts as
unavailable at once, so that a dead device does not eat threads all night, until it is reconnected.

:mod:`drivers.patient` puts this between an instrument and its drivers. A backend whose calls surely end needs it not,
and says so with an attribute ``prompt`` (:func:`is_prompt`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from drivers.clock import Clock, Participant, Signal
from drivers.errors import DeviceError, DeviceTimeout, DeviceUnavailable

T = TypeVar("T")

CALL = 5.0
"""s that a call may take, unless the instrument's file says otherwise (``deadlines: {call: 5 s}``)."""
RECONNECTION = 6.0
"""Deadlines of a call that a reconnection may take, or letting go: links are slow to come up."""
IN_A_ROW = 3
"""Calls given up one after the other from which on a device counts as unavailable."""
MOST_LOST = 12
"""Threads of a device that may hang at once, before it is not even reconnected any more."""
_SLACK = 1e-6
"""s; a deadline that is nearer has passed: adding it to the clock's time might not move it."""


def is_prompt(backend: object) -> bool:
    """Return whether a backend promises that its calls always end, and wait on the instrument's clock alone."""
    return bool(getattr(backend, "prompt", False))


@dataclass(eq=False)
class _Call(Generic[T]):
    """One call, and what came of it."""

    what: str
    where: str
    function: Callable[[], T]
    limit: float
    done: Signal
    begun: float = 0.0
    given_up: bool = False
    result: T | None = None
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:  # noqa: BLE001  raised again where the call was made
            self.error = error

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return cast("T", self.result)


@dataclass(eq=False)
class _Worker:
    """The thread that serves a device's calls, until it is given up."""

    wake: Signal
    ended: Signal
    thread: threading.Thread = field(init=False)


class Patience:
    """Calls into one device, one at a time and in order.

    Parameters
    ----------
    name : str
        Of the device; names its threads.
    clock : Clock
        Deadlines are kept on it. On a virtual one, a call may wait on the clock alone, as a simulator does.
    deadline : float, s
        Of a call, from the moment when its turn has come.
    in_a_row : int
        Calls given up without an answer in between, from which on every other one fails at once.
    """

    def __init__(self, name: str, clock: Clock, deadline: float = CALL, in_a_row: int = IN_A_ROW) -> None:
        self.name = name
        self.deadline = deadline
        self._clock = clock
        self._in_a_row = in_a_row
        self._lock = threading.Lock()  # never held while anybody waits
        self._waiting: deque[_Call[Any]] = deque()
        self._current: _Call[Any] | None = None
        self._worker: _Worker | None = None
        self._lost: list[threading.Thread] = []
        self._silent = 0
        self._silence = ""
        self._threads = 0
        self._closed = False

    @property
    def given_up(self) -> int:
        """Threads that were given up and still hang."""
        with self._lock:
            return self._hanging()

    @property
    def available(self) -> bool:
        """Whether calls are still tried."""
        return self._silent < self._in_a_row

    def call(self, what: str, function: Callable[[], T], limit: float | None = None, where: str = "") -> T:
        """Call ``function`` in the device's thread and return what it returns, or raise what it raises.

        Parameters
        ----------
        what : str
            The call as the error names it: ``reading heater.temperature``.
        function : callable
        limit : float, s, optional
            The deadline unless given. Calls that came earlier, from other threads, are waited for besides.
        where : str, optional
            The channel; the device unless given.

        Raises
        ------
        DeviceTimeout
            When it has not returned in time. What it was to do may still happen.
        DeviceUnavailable
            When too many calls in a row have not returned, or after :meth:`close`.
        """
        call = _Call(
            what, where or self.name, function, self.deadline if limit is None else limit, self._clock.signal()
        )
        with self._lock:
            self._refuse(call.where)
            self._waiting.append(call)
            self._serve()
        while not call.done.wait(self._patience_left()):
            with self._lock:
                self._give_up_overdue()
        return call.outcome()

    def reconnect(self, function: Callable[[], None] | None, where: str = "") -> None:
        """Try the device again: call its driver's own ``function`` for that, if there is one, in a thread too.

        Raises
        ------
        DeviceTimeout, DeviceUnavailable, DeviceError
            When that fails; the device is then as unavailable as it was.
        """
        with self._lock:
            before, self._silent = self._silent, 0
            hanging = self._hanging()
            if hanging >= MOST_LOST:
                self._silent = before
                raise DeviceUnavailable(
                    f"{hanging} calls hang in this device's driver; switch the device off and on, and start the "
                    "program again",
                    where or self.name,
                )
            if function is not None:
                self._silent = self._in_a_row - 1  # one more that hangs, and it is unavailable again
        if function is None:
            return
        try:
            self.call("reconnecting", function, RECONNECTION * self.deadline, where)
        except BaseException:
            with self._lock:
                self._silent = max(self._silent, before)
            raise

    def close(self) -> None:
        """End the device's thread, once the call under way has returned; refuse calls from now on."""
        with self._lock:
            self._closed = True
            self._refuse_waiting(lambda call: _closed(call.where))
            worker = self._worker
            if worker is not None:
                worker.wake.set()
        if worker is not None and worker.ended.wait(1.0):
            worker.thread.join(1.0)

    # ------------------------------------------------------------------ with the lock held

    def _hanging(self) -> int:
        self._lost = [thread for thread in self._lost if thread.is_alive()]
        return len(self._lost)

    def _refuse(self, where: str) -> None:
        if self._closed:
            raise _closed(where)
        if not self.available:
            raise self._unavailable(where)

    def _unavailable(self, where: str) -> DeviceError:
        return DeviceUnavailable(
            f"{self._silent} calls in a row have not returned ({self._silence} was the last); check the device's power "
            "and cable: it is not called again before it is reconnected",
            where,
        )

    def _serve(self) -> None:
        """Let the next call's turn begin, unless one is under way."""
        if self._current is not None or not self._waiting:
            return
        self._current = self._waiting.popleft()
        self._current.begun = self._clock.monotonic()
        if self._worker is None:
            self._worker = self._hire()
        self._worker.wake.set()

    def _hire(self) -> _Worker:
        self._threads += 1
        name = f"{self.name} #{self._threads}"
        worker = _Worker(self._clock.signal(), self._clock.signal())
        place = self._clock.register(name)
        worker.thread = threading.Thread(target=self._work, args=(worker, place), name=name, daemon=True)
        worker.thread.start()
        return worker

    def _give_up_overdue(self) -> None:
        """Give up the call under way if its deadline has passed, with its thread."""
        call, worker = self._current, self._worker
        if call is None or worker is None or self._clock.monotonic() < call.begun + call.limit - _SLACK:
            return
        self._silent += 1
        self._silence = call.what
        self._lost.append(worker.thread)
        self._current = self._worker = None
        call.given_up = True
        call.error = DeviceTimeout(
            f"{call.what} has not returned after {call.limit:g} s; its thread {worker.thread.name!r} is given up "
            f"({self._silent} in a row; from {self._in_a_row} on the device counts as unavailable). Check the device: "
            "what was asked of it may still happen",
            call.where,
        )
        call.done.set()
        if not self.available:
            self._refuse_waiting(lambda call: self._unavailable(call.where))
        self._serve()

    def _refuse_waiting(self, reason: Callable[[_Call[Any]], DeviceError]) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            call.error = reason(call)
            call.done.set()

    # ------------------------------------------------------------------ without it

    def _patience_left(self) -> float:
        """Return how long (s) to wait before looking again; 0 where nothing is under way any more."""
        with self._lock:
            call = self._current
            return 0.0 if call is None else max(0.0, call.begun + call.limit - self._clock.monotonic())

    def _work(self, worker: _Worker, place: Participant) -> None:
        """Serve calls until given up, or closed."""
        with place:
            while True:
                worker.wake.wait()
                worker.wake.clear()
                with self._lock:
                    call = self._current
                if call is None:  # closed
                    break
                call.run()
                with self._lock:
                    if call.given_up:
                        break
                    self._silent = 0
                    self._current = None
                    call.done.set()
                    self._serve()
                    if self._closed:
                        break
            worker.ended.set()


def _closed(where: str) -> DeviceError:
    return DeviceUnavailable("the instrument has been closed; open it again", where)

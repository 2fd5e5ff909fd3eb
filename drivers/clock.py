"""Time, real and virtual. Nobody else sleeps.

On real hardware :class:`RealClock` runs. The twin runs on :class:`VirtualClock`, where a night takes minutes and
is the same every time: its participants (engine, telemetry, interlocks, …) hold a baton, one at a time, and time
moves only when all of them wait, in the fixed order of their registration.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, Self, runtime_checkable

from drivers.errors import DeviceTimeout, InputError


class Signal(Protocol):
    """A flag that a participant can wait for without holding up the clock."""

    def set(self) -> None:
        """Raise the flag and wake whoever waits."""

    def clear(self) -> None:
        """Lower the flag."""

    def is_set(self) -> bool:
        """Return whether the flag is up."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait (s on the clock) until the flag is up; return whether it is."""


class Participant(Protocol):
    """A thread's place on the clock: enter it in the thread that it is for."""

    def __enter__(self) -> object:
        """Bind the place to the thread that calls."""

    def __exit__(self, *exception: object) -> None:
        """Give the place up."""


@runtime_checkable
class Clock(Protocol):
    """What everybody asks for the time: now, sleep, and flags to wait for with a deadline."""

    @property
    def virtual(self) -> bool:
        """Whether time is simulated: then what happens, and when, must not depend on this computer's speed."""

    def now(self) -> datetime:
        """Return the time of day, UTC."""

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` of this clock."""

    def signal(self) -> Signal:
        """Return a new flag, lowered."""

    def decision(self) -> Signal:
        """Return a new flag for what somebody outside decides; virtual time without a pace stands still for it."""

    def register(self, name: str) -> Participant:
        """Return a place for a thread; call it in the owner, before the thread starts."""

    def free(self, after: float) -> str | None:
        """Let time go on without a participant whose turn has lasted ``after`` real seconds; return its name, if any.

        For whoever must act although a thread hangs in a call: real time needs no help, virtual time stands still for
        the thread whose turn it is.
        """


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment by which something must have happened.

    Attributes
    ----------
    clock : Clock
    at : float, s
        On the clock's monotonic scale.
    """

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """Return the deadline ``seconds`` from now."""
        return cls(clock, clock.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds left, 0 when it has passed."""
        return max(0.0, self.at - self.clock.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.clock.monotonic() >= self.at

    def check(self, what: str) -> None:
        """Raise :class:`DeviceTimeout` with ``what`` was awaited when it has passed."""
        if self.expired:
            raise DeviceTimeout(f"{what} did not happen before its deadline")


class _NoPlace:
    """A place on a clock that needs none."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        return None


class RealClock:
    """The computer's clock."""

    @property
    def virtual(self) -> bool:
        """Return False."""
        return False

    def now(self) -> datetime:
        """Return the time of day, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        time.sleep(max(0.0, seconds))

    def signal(self) -> Signal:
        """Return a new flag, lowered."""
        return threading.Event()

    def decision(self) -> Signal:
        """Return a new flag, lowered."""
        return threading.Event()

    def register(self, name: str) -> Participant:  # noqa: ARG002  real threads need no baton
        """Return a place that asks for nothing: real threads wait by themselves."""
        return _NoPlace()

    def free(self, after: float) -> str | None:  # noqa: ARG002  nothing stands still for a thread
        """Return None: real time goes on whoever hangs."""
        return None


class _Place:
    """One participant's place on a virtual clock."""

    def __init__(self, clock: VirtualClock, name: str, order: int) -> None:
        self.clock = clock
        self.name = name
        self.order = order
        self.turn = threading.Condition(clock._lock)
        self.wake_at: float | None = 0.0  # None: waits for a signal without a timeout
        self.waits_for: _VirtualSignal | None = None

    def __enter__(self) -> Self:
        self.clock._bind(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self.clock._leave(self)


class _VirtualSignal:
    """A flag on a virtual clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._up = False

    def set(self) -> None:
        with self._clock._lock:
            self._up = True
            self._clock._dispatch()

    def clear(self) -> None:
        with self._clock._lock:
            self._up = False

    def is_set(self) -> bool:
        return self._up

    def wait(self, timeout: float | None = None) -> bool:
        self._clock._wait(timeout, self)
        return self._up


class VirtualClock:
    """A clock that moves only when everybody who is registered on it waits.

    Parameters
    ----------
    start : datetime
        UTC, of the first moment.
    speed : float, optional
        Virtual seconds per real second at the most; as fast as it goes unless given.
    elapsed : float, s
        Since ``start``: a clock that continues another one begins there.

    Attributes
    ----------
    speed : float or None

    Notes
    -----
    One participant runs at a time. When it waits, the one that wakes first goes on (the earlier registered, where
    two wake together), and time jumps to its moment. A participant that blocks on something else, such as a
    person's decision or another process, keeps the baton, and time stands still meanwhile. One that waits for a signal
    that is never raised holds nobody up: its thread may be given up.
    """

    def __init__(
        self,
        start: datetime = datetime(2026, 1, 1, 18, tzinfo=UTC),
        speed: float | None = None,
        *,
        elapsed: float = 0.0,
    ) -> None:
        if speed is not None and not (math.isfinite(speed) and speed > 0):
            raise InputError(f"expected a speed above 0 virtual seconds per second; got {speed:g}")
        if start.tzinfo is None:
            raise InputError(f"a clock's start needs a time zone, UTC; got {start}")
        if not (math.isfinite(elapsed) and elapsed >= 0):
            raise InputError(f"a clock goes on from 0 s or more after its start; got {elapsed:g} s")
        self._start = start.astimezone(UTC)
        self.speed = speed
        self._time = elapsed
        self._lock = threading.RLock()  # a handler of a Unix signal may raise a flag while its thread is in here
        self._places: list[_Place] = []
        self._threads: dict[int, _Place] = {}
        self._running: _Place | None = None
        self._handed = time.monotonic()
        """Real moment at which the baton changed hands."""
        self._registered = 0
        # Pacing: the real moment that belongs to the virtual one.
        self._anchor = time.monotonic() - (elapsed / speed if speed is not None else 0.0)
        self._watchers: list[Callable[[float], None]] = []

    @property
    def virtual(self) -> bool:
        """Return True."""
        return True

    def now(self) -> datetime:
        """Return the time of day, UTC."""
        return self._start + timedelta(seconds=self._time)

    def monotonic(self) -> float:
        """Return seconds since the start."""
        return self._time

    def watch(self, watcher: Callable[[float], None]) -> Callable[[], None]:
        """Have ``watcher`` called with each new moment (s), before anybody lives in it; return what ends that.

        It is called while the clock is held: it must be quick, and must not ask the clock for anything.
        """
        with self._lock:
            self._watchers.append(watcher)

        def end() -> None:
            with self._lock:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)

        return end

    def signal(self) -> Signal:
        """Return a new flag, lowered."""
        return _VirtualSignal(self)

    def decision(self) -> Signal:
        """Return a new flag; without a pace, whoever waits for it keeps the baton and time stands still."""
        return threading.Event() if self.speed is None else self.signal()

    def register(self, name: str) -> Participant:
        """Return a place for a thread; from now on time waits for that thread."""
        with self._lock:
            place = _Place(self, name, self._registered)
            place.wake_at = self._time
            self._registered += 1
            self._places.append(place)
            return place

    def free(self, after: float) -> str | None:
        """Take the baton from a participant that has held it for ``after`` real seconds; return its name, if any.

        When its thread comes back it has no place any more: it waits like one that was never registered.
        """
        with self._lock:
            place = self._running
            if place is None or time.monotonic() - self._handed < after:
                return None
            self._threads = {thread: other for thread, other in self._threads.items() if other is not place}
            self._remove(place)
            return place.name

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds`` of this clock."""
        self._wait(max(0.0, seconds), None)

    def _wait(self, timeout: float | None, signal: _VirtualSignal | None) -> None:
        place = self._threads.get(threading.get_ident())
        if place is None:  # a thread that is not registered takes a place for this one wait
            with self.register(threading.current_thread().name):
                self._wait(timeout, signal)
            return
        with self._lock:
            if signal is not None and signal.is_set():
                return
            place.wake_at = None if timeout is None else self._time + timeout
            place.waits_for = signal
            self._running = None
            self._dispatch()
            self._await_baton(place)

    def _bind(self, place: _Place) -> None:
        with self._lock:
            self._threads[threading.get_ident()] = place
            if place not in self._places:  # freed before its thread had begun
                self._places.append(place)
            self._dispatch()
            self._await_baton(place)

    def _leave(self, place: _Place) -> None:
        with self._lock:
            self._threads.pop(threading.get_ident(), None)
            self._remove(place)

    def _remove(self, place: _Place) -> None:
        """Go on without a place; it may have been freed already. Lock held."""
        if place in self._places:
            self._places.remove(place)
        if self._running is place:
            self._running = None
        self._dispatch()
        if self._running is None:  # who comes next is not due yet: those who wait must learn for how long
            for other in self._places:
                other.turn.notify()

    def _await_baton(self, place: _Place) -> None:
        """Wait until the baton is this place's. Call with the lock held."""
        while self._running is not place:
            place.turn.wait(self._real_seconds_to_next())
            self._dispatch()
        place.wake_at, place.waits_for = self._time, None

    def _dispatch(self) -> None:
        """Hand the baton to whoever is next, if nobody holds it and its real moment has come. Lock held."""
        if self._running is not None:
            return
        chosen = self._next()
        if chosen is None:
            return
        moment, place = chosen
        if moment > self._time:
            if self.speed is not None:
                late = -self._real_seconds_to(moment)
                if late < 0:
                    return
                # What was lost (a slow frame, a sleeping computer) is not caught up: speed is an upper bound.
                self._anchor += late
            self._time = moment
            for watcher in self._watchers:
                watcher(moment)
        self._running = place
        self._handed = time.monotonic()
        place.turn.notify()

    def _next(self) -> tuple[float, _Place] | None:
        """Return who wakes first and when; None where everybody waits for a signal. Lock held."""
        best: tuple[float, int, _Place] | None = None
        for place in self._places:
            moment = place.wake_at
            if place.waits_for is not None and place.waits_for.is_set():
                moment = self._time
            if moment is not None and (best is None or (moment, place.order) < best[:2]):
                best = (moment, place.order, place)
        return None if best is None else (max(best[0], self._time), best[2])

    def _real_seconds_to(self, moment: float) -> float:
        speed = self.speed
        return 0.0 if speed is None else self._anchor + moment / speed - time.monotonic()

    def _real_seconds_to_next(self) -> float | None:
        """Return how long a waiting thread may block before it must look again. Lock held."""
        if self.speed is None or self._running is not None:
            return None
        chosen = self._next()
        return None if chosen is None else max(0.0, self._real_seconds_to(chosen[0]))

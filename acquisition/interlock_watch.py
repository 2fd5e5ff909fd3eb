"""The thread that evaluates interlocks, with readbacks of its own, whatever the engine does meanwhile.

Three threads stand on the clock: one evaluates, one reads the channels that rules need, one speaks to whoever plays the
run. A channel that hangs takes its reading thread with it, and another one goes on with the rest; a subject that hangs
holds up words, never the safe state.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from acquisition.interlocks import Interlock
from acquisition.readbacks import Track
from acquisition.rules import Old, Runs
from acquisition.safe_state import SafeState
from acquisition.watchdog import Watchdog
from drivers.contract import Instrument, Readable
from drivers.errors import RilievoError
from drivers.frame import Reading
from drivers.units import parse_quantity, si

PERIOD = 1.0
"""s between two looks, unless the instrument's file says otherwise under ``interlock_period``."""
WAITING = 1000
"""Words that may wait for the subject; the oldest are lost first."""


class Subject(Protocol):
    """Whoever plays the run. Every method returns soon, and may be called at any time from the interlocks' threads."""

    def warn(self, message: str, data: Mapping[str, Any]) -> None:
        """Tell the log, and somebody."""

    def suspend(self, reason: str, rule: str) -> None:
        """Hold the run, beam off the sample, until every rule that asked for it has released it."""

    def release(self, rule: str) -> None:
        """Let a rule go that is clear again, and has been for its settle time."""

    def stalled(self, what: str, waited: float, expected: float) -> None:
        """Tell the log, and somebody, that an action makes no progress; times in s."""

    def make_safe(self, reason: str) -> None:
        """End the run as safe. The safe state is being entered already, by the thread that watches."""


@dataclass
class _State:
    """Where one rule stands: since when it is met or clear, and whether that was acted upon."""

    interlock: Interlock
    met_since: float | None = None
    clear_since: float | None = None
    fired_at: float | None = None


class InterlockWatch:
    """Watches one run.

    Parameters
    ----------
    instrument : Instrument
    interlocks : sequence of Interlock
        The instrument's and the recipe's.
    subject : Subject
    safe_state : SafeState
        Entered in the thread that watches, which waits for nobody.
    watchdog : Watchdog, optional
        Asked in the same thread.
    period : float, s, optional
        As the instrument's file says unless given.

    Notes
    -----
    Places on the clock are taken when the object is made; ``start`` lets the threads go, ``end`` asks for their end
    (on a virtual clock, while holding it), ``close`` waits for it. A rule that is met is acted upon within two periods.
    """

    def __init__(
        self,
        instrument: Instrument,
        interlocks: Sequence[Interlock],
        subject: Subject,
        safe_state: SafeState,
        *,
        watchdog: Watchdog | None = None,
        period: float | None = None,
    ) -> None:
        self._clock = instrument.clock
        self._subject = subject
        self._safe_state = safe_state
        self._watchdog = watchdog
        given = instrument.description.get("interlock_period")
        self._period = period if period is not None else PERIOD if given is None else si(parse_quantity(given, "s"))
        self._states = [_State(interlock) for interlock in interlocks]
        self._reads = _Reads(self, interlocks)
        self._end = self._clock.signal()
        self._wake = self._clock.signal()
        self._words: deque[Callable[[], None]] = deque(maxlen=WAITING)
        self._spoken = self._clock.signal()
        self._threads = [
            self._thread("interlocks", self._watch),
            self._thread("interlocks: words", self._speak),
        ]
        self._over = False

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        place = self._clock.register(name)

        def run() -> None:
            with place:
                work()

        return threading.Thread(target=run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._reads.start()
        for thread in self._threads:
            thread.start()

    def push(self, name: str, reading: Reading) -> None:
        """Take a readback that somebody else has just read; it need not be read again so soon."""
        self._reads.take(name, reading)

    def push_all(self, readings: Mapping[str, Reading]) -> None:
        """Take a whole sample of the telemetry, to which this listens."""
        for name, reading in readings.items():
            self._reads.take(name, reading)

    def end(self) -> None:
        """Ask for the end."""
        self._end.set()
        self._wake.set()
        self._spoken.set()

    def close(self, timeout: float = 10.0) -> None:
        """Wait up to ``timeout`` real seconds for the threads' end; what hangs in a device is left behind."""
        self.end()
        for thread in (*self._threads, *self._reads.threads):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(timeout)

    @property
    def holding(self) -> tuple[str, ...]:
        """The rules that hold the run at present."""
        return tuple(
            state.interlock.text
            for state in self._states
            if state.fired_at is not None and state.interlock.then == "suspend"
        )

    # -- the thread that evaluates

    def _watch(self) -> None:
        while not self._end.is_set():
            self._wake.wait(self._period)
            self._wake.clear()
            if not self._end.is_set():
                self._evaluate(self._clock.monotonic())

    def _evaluate(self, now: float) -> None:
        self._reads.pass_over(now, self._period)
        for state in self._states:
            try:
                told = state.interlock.met(self._reads.tracks, now)
            except Exception as error:  # noqa: BLE001  a rule that cannot be evaluated is as bad as one that is met
                told = f"{state.interlock.text!r} cannot be evaluated: {type(error).__name__}: {error}"
            self._follow(state, told, now)
        if self._watchdog is not None and not self._over:
            self._look_for_stalls(self._watchdog)

    def _follow(self, state: _State, told: str | None, now: float) -> None:
        """Go on with one rule: act when it has been met for long enough, release when clear for long enough."""
        interlock = state.interlock
        if told is not None:
            state.clear_since = None
            state.met_since = now if state.met_since is None else state.met_since
            if state.fired_at is None and now - state.met_since >= interlock.rule.seconds:
                state.fired_at = now
                self._act(interlock, told)
        else:
            state.met_since = None
            state.clear_since = now if state.clear_since is None else state.clear_since
            if state.fired_at is not None and now - state.clear_since >= interlock.settle:
                state.fired_at = None
                if interlock.then == "suspend" and not self._over:
                    self._say(self._subject.release, interlock.text)
        held = state.fired_at is not None and interlock.then == "suspend"
        if held and now - (state.fired_at or 0.0) >= interlock.longest:
            self._make_safe(
                f"the run was suspended for {interlock.longest:g} s by the {interlock.origin}'s interlock "
                f"{interlock.text!r}, which is not over: {told or 'clear, but not for its settle time'}"
            )

    def _act(self, interlock: Interlock, told: str) -> None:
        reason = f"{told} (the {interlock.origin}'s interlock {interlock.text!r})"
        if interlock.then == "safe":
            self._make_safe(reason)
        elif self._over:
            return
        elif interlock.then == "suspend":
            self._say(self._subject.suspend, reason, interlock.text)
        else:
            self._say(self._subject.warn, reason, {"rule": interlock.text, "origin": interlock.origin})

    def _look_for_stalls(self, watchdog: Watchdog) -> None:
        stall = watchdog.look()
        if stall is None:
            return
        if stall.hopeless:
            self._make_safe(stall.sentence)
        else:
            self._say(self._subject.stalled, stall.what, stall.waited, stall.expected)

    def _make_safe(self, reason: str) -> None:
        """Enter the safe state here and now: who plays the run may hang, and is only told."""
        if self._over:
            return
        self._over = True
        self._say(self._subject.make_safe, reason)
        report = self._safe_state.enter(reason)
        if not report.verified:
            self._say(self._subject.warn, report.sentence, report.to_json())

    # -- the thread that speaks

    def _say(self, word: Callable[..., None], *arguments: Any) -> None:
        self._words.append(lambda: word(*arguments))
        self._spoken.set()

    def _speak(self) -> None:
        while True:
            self._spoken.wait()
            self._spoken.clear()
            while self._words:
                word = self._words.popleft()
                with suppress(Exception):  # what the subject makes of it must not end the watch
                    word()
            if self._end.is_set():
                return

    # -- what the reading threads need

    def sweep_over(self) -> None:
        """Look at once, because a round of readbacks has come in."""
        self._wake.set()


class _Reads:
    """Reads the channels that rules need, each as often as they need it."""

    def __init__(self, watch: InterlockWatch, interlocks: Sequence[Interlock]) -> None:
        self._watch = watch
        self._clock = watch._clock  # noqa: SLF001  one mechanism in two parts
        self._period = watch._period  # noqa: SLF001
        now = self._clock.monotonic()
        self.tracks: dict[str, Track] = {}
        self._every: dict[str, float] = {}
        channels = {channel.name: channel for interlock in interlocks for channel in interlock.channels}
        for name, channel in channels.items():
            rules = [interlock for interlock in interlocks if channel in interlock.channels]
            rates = any(isinstance(interlock.rule.condition, Runs) for interlock in rules)
            self.tracks[name] = Track(channel, now, rates=rates)
            self._every[name] = min(self._interval(interlock, channel) for interlock in rules)
        self._busy: dict[str, tuple[float, int]] = {}
        """Channels that are being read, since when, and by which thread."""
        self._number = 0
        self.threads: list[threading.Thread] = []
        if self.tracks:
            self._hire()

    def _interval(self, interlock: Interlock, channel: Readable) -> float:
        condition = interlock.rule.condition
        if isinstance(condition, Old):
            return max(self._period, min(si(condition.age), channel.stale_after) / 3.0)
        return self._period

    def _hire(self) -> None:
        """Make the next reading thread; those before it end as soon as the call returns in which they hang."""
        self._number += 1
        number = self._number
        name = "interlocks: readbacks" if number == 1 else f"interlocks: readbacks {number}"
        place = self._clock.register(name)

        def run() -> None:
            with place:
                self._read(number)

        self.threads = [thread for thread in self.threads if thread.is_alive() or thread.ident is None]
        self.threads.append(threading.Thread(target=run, name=name, daemon=True))

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def take(self, name: str, reading: Reading) -> None:
        track = self.tracks.get(name)
        if track is not None:
            track.take(reading, self._clock.monotonic(), self._clock.now())

    def pass_over(self, now: float, patience: float) -> None:
        """Go on with another thread where the present one has hung in a channel for longer than ``patience`` (s)."""
        if any(reader == self._number and now - since > patience for since, reader in tuple(self._busy.values())):
            self._hire()
            self.threads[-1].start()

    def _read(self, number: int) -> None:
        end, due = self._watch._end, self._clock.monotonic()  # noqa: SLF001
        while not end.is_set():
            for name, track in self.tracks.items():
                if name in self._busy or self._clock.monotonic() - track.arrived < self._every[name] * 0.9:
                    continue
                self._one(name, track, number)
                if number != self._number:
                    return
            self._watch.sweep_over()
            now = self._clock.monotonic()
            due = max(due + self._period, now)
            end.wait(due - now if due > now else self._period)

    def _one(self, name: str, track: Track, number: int) -> None:
        self._busy[name] = self._clock.monotonic(), number
        try:
            reading = track.channel.read()
            track.take(reading, self._clock.monotonic(), self._clock.now())
        except RilievoError:
            pass  # no answer: its age tells
        finally:
            self._busy.pop(name, None)

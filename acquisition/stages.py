"""The stages: one for each instrument, on which one run at a time is played, each in a thread of its own.

What plays a run is handed in: nothing here knows of twins and reconstructions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from acquisition.bookings import Booking, Bookings
from acquisition.chores import Tell
from acquisition.idle import IdleWatch
from acquisition.log import Log
from acquisition.ownership import Owned
from acquisition.queue import Queue
from acquisition.states import State
from drivers.clock import Clock
from drivers.errors import RilievoError, RunError

if TYPE_CHECKING:
    from acquisition.progress import Outcome


class Controls(Protocol):
    """What others ask of a run that is being played."""

    def pause(self) -> None:
        """Pause."""

    def resume(self) -> None:
        """Go on."""

    def stop(self, reason: str = ...) -> None:
        """End after the frame that is being taken, through the cleanup."""

    def abort(self, reason: str = ...) -> None:
        """End at once, through the cleanup."""


class Playing(Protocol):
    """A run that is being played: :class:`acquisition.night.Night`, already started."""

    @property
    def run_id(self) -> str:
        """Of the run."""

    @property
    def engine(self) -> Controls:
        """What takes requests."""

    def make_safe(self, reason: str) -> object:
        """End the run as safe: bring the instrument to its safe state in this thread, whatever the engine's does."""

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` of real time; return whether the run has ended."""

    def finish(self) -> Outcome:
        """Wait for the end and let go of everything, once; return how the run ended."""


Play = Callable[[Booking], AbstractContextManager[Playing]]
"""Checks a booking's recipe once more, begins its run, and gives it; leaving the context settles and lets go.

Raises what a person can act on where the run cannot begin, :class:`Owned` where another process has the instrument.
"""


class Interrupted(Protocol):
    """A run that was interrupted, and can be resumed."""

    @property
    def run_id(self) -> str:
        """Of the run."""

    @property
    def instrument(self) -> str:
        """Name of the instrument that it is played on."""

    def play(self) -> AbstractContextManager[Playing]:
        """Resume it, as :data:`Play` begins a run."""


Resume = Callable[[], Iterable[Interrupted]]
"""Finds what was interrupted and goes on by itself; touches no instrument before ``play``."""


@dataclass
class _Stage:
    """An instrument that is being played on, and the thread that looks after the run."""

    instrument: str
    booking: Booking | None
    playing: Playing | None = None
    asked: list[str] = field(default_factory=list)
    thread: threading.Thread | None = None


class Stages:
    """Plays runs, and notes what becomes of their bookings.

    Parameters
    ----------
    log : Log
    clock : Clock
    play : callable
        See :data:`Play`.
    tell : callable
    ended : callable
        Called from a run's thread when it has ended.
    tick : float, s
        Between two looks at a run.
    idle : IdleWatch, optional
        Lets go of its instrument before that is played on.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        play: Play,
        tell: Tell,
        ended: Callable[[], None],
        *,
        tick: float,
        idle: IdleWatch | None = None,
    ) -> None:
        self._log = log
        self._clock = clock
        self._play = play
        self._tell = tell
        self._ended = ended
        self._tick = tick
        self._idle = idle
        self._bookings = Bookings(log)
        self._queue = Queue(log, clock)
        self._lock = threading.Lock()
        self._open: dict[str, _Stage] = {}
        self._interrupted: list[tuple[Interrupted, Booking | None]] = []
        self._unsettled: list[tuple[Booking, bool, str]] = []

    @property
    def busy(self) -> bool:
        """Whether anything is being played."""
        return bool(self._open)

    def take_up(self, interrupted: Iterable[Interrupted]) -> None:
        """Note what is to be resumed, and what became of bookings that were being played when a server ended."""
        found = list(interrupted)
        running = self._bookings.all(["running"])
        of_run = {booking.run_id: booking for booking in running if booking.run_id is not None}
        for booking in running:
            if booking.run_id is None:
                self._identify(booking, [one.run_id for one in found if one.run_id not in of_run], of_run)
            elif booking.run_id not in {one.run_id for one in found}:
                run = self._log.run(booking.run_id)
                ended = run.state if run.ended is not None else f"interrupted while {run.state}"
                self._queue.ended(booking, well=run.state == State.FINISHED, reason=_how(run.id, ended, run.reason))
        self._interrupted = [(one, of_run.get(one.run_id)) for one in found]

    def _identify(self, booking: Booking, runs: list[str], of_run: dict[str, Booking]) -> None:
        """Find the run of a booking that was killed before it was noted; queue one that had none again."""
        for run_id in runs:
            if self._log.run(run_id).recipe_text == booking.recipe_text:
                self._queue.began(booking, run_id)
                of_run[run_id] = booking
                return
        self._queue.back(booking, "interrupted before its run began")
        self._tell("warning", "calendar", f"{booking.title} was interrupted before its run began; queued again")

    def play_on(self) -> None:
        """Play what comes next on every instrument that is free: what was interrupted before what is queued."""
        for found, booking in list(self._interrupted):
            if found.instrument not in self._open:
                self._interrupted.remove((found, booking))
                self._begin(found.instrument, booking, found.play, f"resume {found.run_id}")
        waiting = [found.instrument for found, _ in self._interrupted]
        while (booking := self._queue.take([*self._open, *waiting])) is not None:
            self._begin(booking.instrument, booking, self._played(booking), f"play {booking.instrument}")

    def _played(self, booking: Booking) -> Callable[[], AbstractContextManager[Playing]]:
        return lambda: self._play(booking)

    def _begin(
        self,
        instrument: str,
        booking: Booking | None,
        begin: Callable[[], AbstractContextManager[Playing]],
        name: str,
    ) -> None:
        stage = _Stage(instrument, booking)
        stage.thread = threading.Thread(target=self._perform, args=(stage, begin), name=name)
        self._open[instrument] = stage
        stage.thread.start()

    def settle(self) -> None:
        """Enter what became of bookings; after an error of the database, with the next call."""
        while self._unsettled:
            booking, well, reason = self._unsettled[0]
            self._queue.ended(booking, well=well, reason="" if well else reason)
            self._unsettled.pop(0)

    def watch_idle(self) -> None:
        """Watch the instrument that plays nothing."""
        if self._idle is not None and self._idle.name not in self._open:
            self._idle.start()

    def stop(self, reason: str) -> None:
        """End every run that is being played, or is about to begin, through its cleanup."""
        with self._lock:
            stages = list(self._open.values())
            for stage in stages:
                stage.asked.append(reason)
        for stage in stages:
            if stage.playing is not None:
                stage.playing.engine.abort(reason)

    def join(self) -> None:
        """Wait until everything has ended."""
        for stage in list(self._open.values()):
            if stage.thread is not None:
                stage.thread.join()

    def to_json(self) -> list[dict[str, Any]]:
        """Return what is being played, as JSON data."""
        with self._lock:
            return [
                {
                    "instrument": stage.instrument,
                    "run": None if stage.playing is None else stage.playing.run_id,
                    "booking": None if stage.booking is None else stage.booking.id,
                }
                for stage in self._open.values()
            ]

    @property
    def playing(self) -> dict[str, Playing]:
        """What is being played, by instrument."""
        with self._lock:
            return {stage.instrument: stage.playing for stage in self._open.values() if stage.playing is not None}

    def controls(self, run_id: str) -> Controls:
        """Return what takes the requests to a run.

        Raises
        ------
        RunError
            For one that is not being played.
        """
        with self._lock:
            playing = {stage.playing.run_id: stage.playing for stage in self._open.values() if stage.playing}
        if run_id not in playing:
            raise RunError(f"run {run_id} is not being played; what is: {', '.join(playing) or 'nothing'}")
        return playing[run_id].engine

    # -- a stage's thread

    def _perform(self, stage: _Stage, begin: Callable[[], AbstractContextManager[Playing]]) -> None:
        """Play one run to its end. What happens to it is told, and never raised."""
        booking, well, reason = stage.booking, False, ""
        try:
            if self._idle is not None and self._idle.name == stage.instrument and not self._idle.stop():
                raise RunError(f"{stage.instrument} is not let go of by the watch while idle; see its devices")
            with begin() as playing:
                outcome = self._attend(stage, playing)
                well, reason = outcome.state is State.FINISHED, _how(playing.run_id, outcome.state, outcome.reason)
        except Owned as error:
            if booking is not None and self._put_back(booking, str(error)):
                booking = None
        except Exception as error:  # noqa: BLE001  one run that cannot begin must not end the server
            reason = f"{reason}; {error}".removeprefix("; ") or type(error).__name__
            what = booking.title if booking is not None else stage.instrument
            self._tell("error", "calendar", f"{what}: {error or type(error).__name__}")
        finally:
            with self._lock:
                if booking is not None:
                    self._unsettled.append((booking, well, reason))
                self._open.pop(stage.instrument, None)
            self._ended()

    def _attend(self, stage: _Stage, playing: Playing) -> Outcome:
        """Wait for a run's end; note at once which run a booking became."""
        with self._lock:
            stage.playing = playing
        if stage.asked:
            playing.engine.abort(stage.asked[0])
        noted = self._note_began(stage.booking, playing.run_id)
        while not playing.wait(self._tick):
            noted = noted or self._note_began(stage.booking, playing.run_id)
        return playing.finish()

    def _note_began(self, booking: Booking | None, run_id: str) -> bool:
        with suppress(RilievoError):  # the run does not wait for the database; the note is made when it answers
            if booking is not None:
                self._queue.began(booking, run_id)
            return True
        return False

    def _put_back(self, booking: Booking, reason: str) -> bool:
        """Queue a booking again whose instrument another process has; a little later, so as not to ask at once."""
        self._clock.sleep(min(5.0, 4 * self._tick))
        with suppress(RilievoError):
            self._queue.back(booking, reason)
            return True
        return False


def _how(run_id: str, state: str, reason: str) -> str:
    return f"run {run_id} ended {state}{f': {reason}' if reason else ''}"

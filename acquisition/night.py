"""One run with its threads: the engine's, the telemetry's, the interlocks', and their end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from acquisition.actions import Action
from acquisition.engine import Engine
from acquisition.feed import LiveFeed
from acquisition.interlock_watch import InterlockWatch
from acquisition.interlocks import Interlock, instrument_interlocks
from acquisition.ledger import Ledger
from acquisition.log import Log
from acquisition.progress import Outcome
from acquisition.resumption import Resumption
from acquisition.safe_state import SafeReport
from acquisition.states import State
from acquisition.store import Store
from acquisition.telemetry import Telemetry
from acquisition.watchdog import Watchdog
from drivers.contract import Instrument
from drivers.errors import RilievoError

GIVE_UP = 20.0
"""Real seconds after the safe state was entered for an engine's thread that hangs in a device to come back."""


def heights_path(store: Store, run_id: str, number: int) -> Path:
    """Return where the heights of a frame belong."""
    return store.folder(run_id) / "heights" / f"{number:06d}.tif"


class Night:
    """Owns the threads of a run.

    Parameters
    ----------
    instrument : Instrument
    log : Log
    store : Store
    run_id : str
    actions : sequence of Action
    feed : LiveFeed, optional
    period : float, s
        Between two samples of the telemetry; the instrument's own unless given.
    interlocks : sequence of Interlock
        The recipe's, beside the instrument's own.
    resumption : Resumption, optional
        Of a run that was interrupted.
    dose_limit : float, optional, C/m²
        Of every area; the recipe's.

    Attributes
    ----------
    closers : ExitStack
        What belongs to the run and ends with it, last first: its guard, its lock.

    Notes
    -----
    All threads take their places on the clock here, before any starts, so that a virtual night is the same every time.
    The engine's thread is a daemon: one that hangs in a device for ever is given up once the instrument is safe.
    """

    def __init__(
        self,
        instrument: Instrument,
        log: Log,
        store: Store,
        run_id: str,
        actions: Sequence[Action],
        *,
        feed: LiveFeed | None = None,
        period: float | None = None,
        interlocks: Sequence[Interlock] = (),
        resumption: Resumption | None = None,
        dose_limit: float | None = None,
    ) -> None:
        self.run_id = run_id
        self.instrument = instrument.name
        self._clock = instrument.clock
        self._began = self._clock.monotonic()
        self._place = instrument.clock.register("engine")
        self._ledger = Ledger(log, store.folder(run_id) / "sidecar.jsonl", self._clock)
        watchdog = Watchdog.of(instrument)
        self.engine = Engine(
            instrument,
            self._ledger,
            store,
            run_id,
            feed=feed,
            heights=partial(heights_path, store, run_id),
            watchdog=watchdog,
            dose_limit=dose_limit,
        )
        self.telemetry = Telemetry(instrument, self._ledger, run_id, period)
        self.watch = InterlockWatch(
            instrument,
            [*instrument_interlocks(instrument), *interlocks],
            self.engine,
            self.engine.safe_state,
            watchdog=watchdog,
        )
        self.telemetry.listen(self.watch.push_all)
        self.telemetry.listen(self.engine.oddities.readings)
        self._actions = actions
        self._resumption = resumption
        self.closers = ExitStack()
        self._outcome: Outcome | None = None
        self._ended = threading.Event()
        self._safe_for = 0.0
        self._thread = threading.Thread(target=self._run, name=f"engine {run_id}", daemon=True)

    def start(self) -> None:
        """Let the run begin."""
        self.watch.start()
        self.telemetry.start()
        self._thread.start()

    def _run(self) -> None:
        with self._place:
            try:
                outcome = self.engine.run(self._actions, self._resumption)
                self._outcome = self._outcome or outcome
            finally:
                self.telemetry.end()
                self.watch.end()
                self._ended.set()

    @property
    def decision(self) -> str:
        """What was decided about a run that was interrupted; empty for a new one."""
        found = self._resumption
        return "" if found is None else found.decision or found.safe or ""

    @property
    def elapsed(self) -> float:
        """Seconds of the instrument's time since the run was made ready."""
        return self._clock.monotonic() - self._began

    def make_safe(self, reason: str) -> SafeReport:
        """End the run as safe: bring the instrument to its safe state in this thread, whatever the engine's does."""
        self.engine.make_safe(reason)
        return self.engine.safe_state.enter(reason)

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` of real time; return whether the run has ended."""
        if self._ended.wait(seconds):
            return True
        report = self.engine.safe_state.report
        self._safe_for = 0.0 if report is None else self._safe_for + seconds
        if report is not None and self._safe_for >= GIVE_UP:
            self._outcome = self.engine.give_up(report.reason)
            self.telemetry.end()
            self.watch.end()
            self._ended.set()
        return self._ended.is_set()

    def finish(self) -> Outcome:
        """Wait for the end and write what is left; return how the run ended."""
        while not self.wait(1.0):
            pass
        if self._outcome is None or self._safe_for < GIVE_UP:
            self._thread.join()
        self.watch.close()
        with suppress(RilievoError):
            self.telemetry.close()
        self._ledger.close()
        self.closers.close()
        return self._outcome or Outcome(State.FAILED, "the engine's thread ended without an outcome")

"""One run with its threads: the engine's, the telemetry's, and their end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from acquisition.actions import Action
from acquisition.engine import Engine, Outcome
from acquisition.feed import LiveFeed
from acquisition.log import Log
from acquisition.states import State
from acquisition.store import Store
from acquisition.telemetry import Telemetry
from drivers.contract import Instrument
from drivers.errors import RilievoError


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

    Notes
    -----
    Both threads take their places on the clock here, before either starts, so that a virtual night is the same
    every time.
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
    ) -> None:
        self.run_id = run_id
        self._clock = instrument.clock
        self._began = self._clock.monotonic()
        self._place = instrument.clock.register("engine")
        self.engine = Engine(instrument, log, store, run_id, feed=feed, heights=partial(heights_path, store, run_id))
        self.telemetry = Telemetry(instrument, log, run_id, period)
        self._actions = actions
        self._outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._run, name=f"engine {run_id}")

    def start(self) -> None:
        """Let the run begin."""
        self.telemetry.start()
        self._thread.start()

    def _run(self) -> None:
        with self._place:
            try:
                self._outcome = self.engine.run(self._actions)
            finally:
                self.telemetry.end()

    @property
    def elapsed(self) -> float:
        """Seconds of the instrument's time since the run was made ready."""
        return self._clock.monotonic() - self._began

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` of real time; return whether the run has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def finish(self) -> Outcome:
        """Wait for the end and write what is left; return how the run ended."""
        self._thread.join()
        with suppress(RilievoError):
            self.telemetry.close()
        return self._outcome or Outcome(State.FAILED, "the engine's thread ended without an outcome")

"""An instrument that is watched while it plays nothing: its readbacks are logged without a run, its interlocks on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from acquisition.held import Held
from acquisition.ledger import Ledger
from acquisition.log import Log
from acquisition.sidecar import NAME
from drivers.clock import Clock
from drivers.contract import Instrument
from drivers.errors import RilievoError

Open = Callable[[], AbstractContextManager[Instrument]]
"""Opens the instrument; a simulated one on a clock that keeps a pace, or it would race through its nights."""

AGAIN = 60.0
"""Seconds after which an instrument that could not be opened is tried again."""
LOOK = 5.0
"""Seconds between two looks whether a database that was away is back."""


class IdleWatch:
    """Logs an instrument's telemetry between runs, in a thread that lets go of it before a run begins.

    Parameters
    ----------
    name : str
        Of the instrument.
    opened : callable
        Opens it.
    log : Log
    folder : Path
        For the side-car journal, while the database is away: the store's root.
    clock : Clock
        Real.
    period : float, s
        Between two samples.
    """

    def __init__(self, name: str, opened: Open, log: Log, folder: Path, clock: Clock, period: float = 10.0) -> None:
        self.name = name
        self._open = opened
        self._log = log
        self._folder = folder
        self._clock = clock
        self._period = period
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble: str | None = None
        self._held: Held | None = None

    @property
    def held(self) -> Held | None:
        """The instrument, for who reads or sets it; None while it is not held."""
        return self._held

    @property
    def watching(self) -> bool:
        """Whether the instrument is held."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to watch, unless it is being watched."""
        if self.watching:
            return
        self._end.clear()
        self._thread = threading.Thread(target=self._run, name=f"idle {self.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Let go of the instrument; return whether that was done in time."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.watching

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with (
                    Ledger(self._log, self._folder / NAME, self._clock, reserve=False) as ledger,
                    self._open() as instrument,
                ):
                    held = Held(instrument, ledger, self._period)
                    held.start()
                    try:
                        self._told(None)
                        self._held = held
                        while not self._end.wait(LOOK):
                            if ledger.stranded:
                                ledger.reconcile()
                    finally:
                        self._held = None
                        held.close()
            except Exception as error:  # noqa: BLE001  a driver raises what it likes; the watch goes on
                self._told(str(error) or type(error).__name__)
                self._end.wait(AGAIN)

    def _told(self, trouble: str | None) -> None:
        """Tell a trouble that is new, or gone."""
        if trouble is not None and self._trouble is None:
            self._event("warning", f"{self.name} cannot be watched while idle: {trouble}")
        if trouble is None and self._trouble is not None:
            self._event("info", f"{self.name} is watched again")
        self._trouble = trouble

    def _event(self, level: str, message: str) -> None:
        with suppress(RilievoError):  # the server meets the same database, and tells
            self._log.event(None, self._clock.now(), level, "readback", message)

"""Every channel's readback, sampled in a thread of its own and logged in batches."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import datetime

from acquisition.log import Log
from drivers.contract import Instrument
from drivers.errors import DatabaseError
from drivers.frame import Reading
from drivers.units import Q


class Telemetry:
    """Samples all channels of an instrument.

    Parameters
    ----------
    instrument : Instrument
    log : Log
    run_id : str
    period : float, s
        Between two samples.
    batch : int
        Samples that are written together.

    Notes
    -----
    ``prepare`` registers the thread on the clock, ``start`` lets it go, ``close`` ends it and writes what is left. A
    database that cannot be written to keeps the batch for later, up to ``batch`` × 100 samples; the loss is counted.
    """

    def __init__(self, instrument: Instrument, log: Log, run_id: str, period: float = 10.0, batch: int = 30) -> None:
        self._instrument = instrument
        self._log = log
        self._run_id = run_id
        self._period = period
        self._batch = batch
        self._rows: list[tuple[str, Reading]] = []
        self._samples = 0
        self._silent: set[str] = set()
        self._end = instrument.clock.signal()
        self._place = instrument.clock.register("telemetry")
        self._thread = threading.Thread(target=self._run, name=f"telemetry {run_id}", daemon=True)
        self.latest: dict[str, Reading] = {}
        self.lost = 0

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def end(self) -> None:
        """Ask for the end; on a virtual clock, while holding it, so that the last sample repeats too."""
        self._end.set()

    def close(self, timeout: float = 30.0) -> None:
        """Wait for the thread's end and write what is left."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._flush()

    def _run(self) -> None:
        with self._place:
            while not self._end.is_set():
                self._sample()
                self._end.wait(self._period)
            self._sample()

    def _sample(self) -> None:
        clock = self._instrument.clock
        readings, failures = self._instrument.read_all()
        self.latest = readings
        self._rows.extend(readings.items())
        self._rows.extend(self._truth(clock.now()))
        for name in sorted(set(failures) - self._silent):
            self._tell(f"{name} does not answer: {failures[name].message}")
        self._silent = set(failures)
        self._samples += 1
        if self._samples >= self._batch:
            self._flush()

    def _truth(self, now: datetime) -> list[tuple[str, Reading]]:
        """Return what only a simulator knows, under names of its own, so that nobody takes it for a measurement."""
        if self._instrument.truth is None:
            return []
        truth: dict[str, Q] = dict(self._instrument.truth())
        return [(f"truth.{name}", Reading(value, now)) for name, value in truth.items()]

    def _tell(self, message: str) -> None:
        with suppress(DatabaseError):  # the engine meets the same database, and tells
            self._log.event(self._run_id, self._instrument.clock.now(), "warning", "readback", message)

    def _flush(self) -> None:
        rows, self._rows, self._samples = self._rows, [], 0
        if not rows:
            return
        try:
            self._log.readings(self._run_id, rows)
        except DatabaseError:
            # Telemetry must not end a night; what does not fit into memory is counted.
            kept = 100 * self._batch * max(1, len(self.latest))
            self.lost += max(0, len(rows) - kept)
            self._rows = rows[-kept:]

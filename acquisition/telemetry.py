"""Every channel's readback, sampled in a thread of its own and logged in batches."""

from __future__ import annotations

import threading
from contextlib import suppress

from acquisition.entry import Entries
from drivers.contract import Instrument
from drivers.errors import RilievoError
from drivers.frame import Reading


class Telemetry:
    """Samples all channels of an instrument.

    Parameters
    ----------
    instrument : Instrument
    log : Entries
    run_id : str or None
        None between runs.
    period : float, s
        Between two samples.
    batch : int
        Samples that are written together.

    Notes
    -----
    The thread's place on the clock is taken when the object is made; ``start`` lets it go, ``close`` ends it. Nothing
    that a channel or the database does ends it earlier. A database that cannot be written to keeps the batch for
    later, up to ``batch`` × 100 samples; what is lost beyond that is told in the log once it answers again.
    """

    def __init__(
        self, instrument: Instrument, log: Entries, run_id: str | None, period: float = 10.0, batch: int = 30
    ) -> None:
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
        self._thread = threading.Thread(target=self._run, name=f"telemetry {run_id or 'idle'}", daemon=True)
        self.latest: dict[str, Reading] = {}
        self._lost = 0

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
        now = self._instrument.clock.now()
        readings, failures = self._instrument.read_all()
        self.latest = readings
        self._rows.extend(readings.items())
        messages = {name: error.message for name, error in failures.items()}
        # What only a simulator knows goes under names of its own, so that nobody takes it for a measurement.
        if self._instrument.truth is not None:
            try:
                self._rows.extend((f"truth.{name}", Reading(v, now)) for name, v in self._instrument.truth().items())
            except Exception as error:  # noqa: BLE001  telemetry must not end a night, nor end with it
                messages["truth"] = f"{type(error).__name__}: {error}"
        for name in sorted(set(messages) - self._silent):
            self._tell(f"{name} does not answer: {messages[name]}")
        self._silent = set(messages)
        self._samples += 1
        if self._samples >= self._batch:
            self._flush()

    def _tell(self, message: str) -> None:
        with suppress(RilievoError):  # the engine meets the same database, and tells
            self._log.event(self._run_id, self._instrument.clock.now(), "warning", "readback", message)

    def _flush(self) -> None:
        rows, self._rows, self._samples = self._rows, [], 0
        if not rows:
            return
        try:
            self._log.readings(self._run_id, rows)
        except RilievoError:
            kept = 100 * self._batch * max(1, len(self.latest))
            self._lost += max(0, len(rows) - kept)
            self._rows = rows[-kept:]
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self._tell(f"{lost} readings were lost while the database did not answer")

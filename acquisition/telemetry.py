"""Every channel's readback, sampled in a thread of its own and logged in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from acquisition.entry import Entries
from acquisition.ledger import Ledger
from drivers.contract import Instrument
from drivers.errors import InputError, RilievoError
from drivers.frame import Reading

ROWS = 2000
"""Readings that are written together, at the most."""
SECONDS = 30.0
"""Between two writes, at the most."""
TRUTH = 10.0
"""Between two looks at what only a simulator knows, s: it does not move fast, and is dear to work out."""
BOUND = 100_000
"""Readings that wait for the log; the oldest beyond that are lost, and told."""

Rows = list[tuple[str, Reading]]
Listener = Callable[[Mapping[str, Reading]], None]


class Telemetry:
    """Samples all channels of an instrument.

    Parameters
    ----------
    instrument : Instrument
    log : Entries
        The run's ledger.
    run_id : str or None
        None while no run is played.
    period : float, s
        Between two samples; the instrument's own unless given.

    Attributes
    ----------
    latest : mapping of str to Reading
        What each channel that answered said last; replaced whole, never changed.

    Notes
    -----
    The thread's place on the clock is taken when the object is made; ``start`` lets it go, ``close`` ends it. Nothing
    that a channel, a listener or the database does ends it earlier. Batches are written by a second thread, one after
    the other, so that a slow database delays no sample; on a virtual clock this one writes, and time waits for it.
    """

    def __init__(
        self,
        instrument: Instrument,
        log: Entries,
        run_id: str | None,
        period: float | None = None,
        *,
        rows: int = ROWS,
        seconds: float = SECONDS,
        bound: int = BOUND,
    ) -> None:
        self._instrument = instrument
        self._clock = instrument.clock
        self._log = log
        self._run_id = run_id
        self._period = instrument.telemetry if period is None else period
        self._most, self._seconds, self._bound = rows, seconds, bound
        self._rows: Rows = []
        self._lost = 0
        self._written = self._clock.monotonic()
        self._writing: Future[Rows] | None = None
        self._silent: set[str] = set()
        self._truth_due = 0.0
        self._sampled = 0.0
        self._listeners: list[Listener] = []
        self._end = self._clock.signal()
        self._place = self._clock.register("telemetry")
        self._thread = threading.Thread(target=self._run, name=f"telemetry {run_id or 'idle'}", daemon=True)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="telemetry-writer")
        self.latest: Mapping[str, Reading] = {}

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have every sample handed on, in the telemetry's thread; return what ends it. One that raises is ended."""
        self._listeners = [*self._listeners, listener]

        def end() -> None:
            self._listeners = [each for each in self._listeners if each is not listener]

        return end

    def end(self) -> None:
        """Ask for the end; on a virtual clock, while holding it, so that the last sample repeats too."""
        self._end.set()

    def close(self, timeout: float = 30.0) -> None:
        """Wait for the thread's end and write what is left."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._hand_over(last=True)
        self._writer.shutdown()

    # -- sampling

    def _run(self) -> None:
        with self._place:
            due = self._clock.monotonic()
            while not self._end.is_set():
                self._sample()
                # From due time to due time: what a sample takes does not add up over a night.
                due = max(due + self._period, self._clock.monotonic())
                self._end.wait(due - self._clock.monotonic())
            if self._clock.monotonic() > self._sampled:
                self._sample()

    def _sample(self) -> None:
        self._sampled = self._clock.monotonic()
        readings, failures = self._instrument.read_all()
        self.latest = readings
        self._rows.extend(readings.items())
        messages = {name: error.message for name, error in failures.items()}
        if self._clock.monotonic() >= self._truth_due - self._period / 2:
            self._truth_due = self._clock.monotonic() + TRUTH
            messages |= self._sample_truth()
        elif "truth" in self._silent:
            messages["truth"] = "as far as is known"
        for name in sorted(set(messages) - self._silent):
            self._tell(f"{name} does not answer: {messages[name]}")
        self._silent = set(messages)
        self._hand_on(readings)
        if len(self._rows) >= self._most or self._clock.monotonic() - self._written >= self._seconds:
            self._hand_over()

    def _sample_truth(self) -> dict[str, str]:
        """Sample what only a simulator knows; return why that does not go, by name."""
        if self._instrument.truth is None:
            return {}
        now = self._clock.now()
        try:
            # Under names of its own, so that nobody takes it for a measurement.
            self._rows.extend((f"truth.{name}", Reading(v, now)) for name, v in self._instrument.truth().items())
        except Exception as error:  # noqa: BLE001  telemetry must not end a night, nor end with it
            return {"truth": f"{type(error).__name__}: {error}"}
        return {}

    def _hand_on(self, readings: Mapping[str, Reading]) -> None:
        for listener in self._listeners:
            try:
                listener(readings)
            except Exception as error:  # noqa: BLE001  the samples go on, with or without whoever listens
                self._listeners = [each for each in self._listeners if each is not listener]
                self._tell(f"a listener failed, and is told no more samples: {type(error).__name__}: {error}")

    def _tell(self, message: str) -> None:
        with suppress(RilievoError):  # the engine meets the same database, and tells
            self._log.event(self._run_id, self._clock.now(), "warning", "readback", message)

    # -- writing

    def _hand_over(self, *, last: bool = False) -> None:
        """Let the second thread write what there is, unless it still writes the batch before."""
        if self._writing is not None:
            if not last and not self._writing.done():
                self._bind()
                return
            self._rows = self._writing.result() + self._rows
        self._bind()
        rows, self._rows = self._rows, []
        self._written = self._clock.monotonic()
        if last or self._clock.virtual:  # here and now: the other thread has no place on the clock
            self._rows, self._writing = self._write(rows), None
        else:
            self._writing = self._writer.submit(self._write, rows)

    def _bind(self) -> None:
        """Give up the oldest readings where more wait than there is room for."""
        beyond = len(self._rows) - self._bound
        if beyond > 0:
            del self._rows[:beyond]
            self._lost += beyond

    def _write(self, rows: Rows) -> Rows:
        """Write rows to the log; return those that have to wait."""
        if self._run_id is None and isinstance(self._log, Ledger) and self._log.stranded:
            self._log.reconcile()  # while a run is played, the engine sees to that
        try:
            self._log.readings(self._run_id, rows)
        except InputError:
            return self._write_each(rows)
        except RilievoError:
            return rows
        if self._lost:
            lost, self._lost = self._lost, 0
            self._tell(f"{lost} readings were lost while the database did not answer")
        return []

    def _write_each(self, rows: Rows) -> Rows:
        """Write channel by channel where one has become something else, which must not take the others along."""
        waiting: Rows = []
        for name in dict.fromkeys(name for name, _ in rows):
            own = [row for row in rows if row[0] == name]
            try:
                self._log.readings(self._run_id, own)
            except InputError as error:
                self._tell(f"{len(own)} readings of {name} cannot be logged: {error}")
            except RilievoError:
                waiting += own
        return waiting

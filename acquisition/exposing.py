"""How a run takes frames, keeps them, and what it does with the heights that come of them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from acquisition import adaptive
from acquisition.conditions import Condition
from acquisition.dose import DoseLedger
from acquisition.feed import LiveFeed, LiveResult, log_result
from acquisition.ledger import Ledger
from acquisition.lent import Lender, LentHands
from acquisition.oddities import Oddities
from acquisition.safe_state import SafeState
from acquisition.store import Store
from acquisition.waiting import Waiting
from acquisition.watchdog import Watchdog
from drivers.contract import Exposure, Instrument, Parameter, Scan
from drivers.errors import RilievoError, RunError
from drivers.frame import Frame, Reading
from drivers.units import Q, format_quantity, si

CONFIRMED = 2
"""Frames in a row that must meet a condition: one wrong estimate does not end a series."""


@dataclass
class Series:
    """The series that is running: its time zero, its end, and the frames that belong to it."""

    group: str
    index: int
    began: float
    stop_when: Condition | None
    pacing: adaptive.Pacing | None = None
    ended: bool = False
    met: int = 0
    late: bool = False
    frames: set[int] = field(default_factory=set)


class Exposing(Waiting, ABC):
    """Sends setpoints, takes frames, keeps them.

    Parameters
    ----------
    instrument, log, run_id, feed, watchdog
        As :class:`acquisition.waiting.Waiting`.
    store : Store
    heights : callable, optional
        From a frame's number to the file for its heights; needed with ``feed``.
    dose_limit : float, optional, C/m²
        What every area may have; the recipe's ``limits.dose``.

    Attributes
    ----------
    safe_state : SafeState
        Shared with whoever may have to enter it.
    oddities : Oddities
        Tells what looks wrong.
    hands : LentHands
        What steps do things with.
    """

    def __init__(
        self,
        instrument: Instrument,
        log: Ledger,
        store: Store,
        run_id: str,
        *,
        feed: LiveFeed | None = None,
        heights: Callable[[int], Path] | None = None,
        watchdog: Watchdog | None = None,
        dose_limit: float | None = None,
    ) -> None:
        super().__init__(instrument, log, run_id, feed, watchdog)
        self._store = store
        self._heights = heights or (lambda number: Path(f"{number:06d}.tif"))
        self._scanning = False
        self._broken_off = False
        self._scan: Scan | None = None
        self._darks: list[Frame] = []
        self._series: Series | None = None
        self._numbers: dict[int, tuple[int, datetime]] = {}
        self.safe_state = SafeState.of(instrument)
        self.oddities = Oddities(self._clock, self.tell)
        lender = Lender(
            self.send, self.wait, self.wait_arrived, self.expose, self.keep, self.tell,
            scan=lambda: self._scan, index=lambda: self._index,
        )  # fmt: skip
        self.hands = LentHands(lender, instrument, log, store, run_id, DoseLedger(dose_limit))

    def _elapsed(self) -> float | None:
        """Return how far into a series the run is (s), None outside one."""
        return None if self._series is None else self._clock.monotonic() - self._series.began

    # -- setpoints and frames

    def send(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint and log it; never once the safe state is being entered."""
        self._requests.raise_if_ended()
        with self.safe_state.sending():
            parameter.set(value)
        self._log.setpoint(self._run_id, parameter.name, value, self._clock.now(), self._index)
        self.hands.moved(parameter, value)
        if parameter.name.startswith("detector."):
            self._darks = []  # brightness and contrast move the offsets

    def _put(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint, and log it where the log still works."""
        parameter.set(value)
        self._log_setpoint(parameter, value)

    def _log_setpoint(self, parameter: Parameter, value: Q) -> None:
        now = self._clock.now()
        self._log_safely(self._log.setpoint, self._run_id, parameter.name, value, now)

    def expose(self, scan: Scan | None = None, *, beam: bool) -> Frame:
        """Take one frame, of the run's own raster unless given; the beam is on the sample for it and no longer."""
        scan = scan or self._scan
        if scan is None:
            raise RunError("no imaging was configured before the first frame; give the recipe an imaging section")
        while True:
            exposure = self._raster(scan, beam=beam)
            if exposure is not None:
                return self._instrument.detector.frame(scan, exposure, self._readbacks())
            self._obey()  # what broke the frame off has its way; then the frame is taken again

    def _raster(self, scan: Scan, *, beam: bool) -> Exposure | None:
        """Expose once; None where the frame was broken off by a pause or a suspension."""
        detector, column = self._instrument.detector, self._instrument.column
        detector.arm(scan)
        self._broken_off, self._scanning = False, True
        try:
            if self._requests.interrupts_frame:
                self._requests.raise_if_ended()
                return None
            with self.safe_state.sending():
                if beam:
                    column.unblank()
                else:
                    column.blank()
            exposure = detector.expose(scan)
        except RilievoError:
            # What broke it off may have been taken back meanwhile.
            if not (self._broken_off or self._requests.interrupts_frame):
                raise
            self._requests.raise_if_ended()  # the half frame is not a device's failure
            return None
        finally:
            self._scanning = False
            if beam:
                column.blank()
        return exposure

    def _break_off(self) -> None:
        """Stop the raster where what was asked does not wait for its end."""
        if self._scanning and self._requests.interrupts_frame:
            self._broken_off = True
            with suppress(Exception):  # the frame ends anyhow, only later; whoever asks has no use for the reason
                self._instrument.detector.backend.stop()

    def keep(self, frame: Frame) -> None:
        """Store, log, acknowledge and offer one frame."""
        number = self.progress.frames
        asked = self._instrument.column.probe_current.setpoint
        self.oddities.frame(frame, None if asked is None else si(asked))
        stored = self._insist("disk", lambda: self._store.append(self._run_id, number, frame))
        frame_id = self._log.frame(self._run_id, number, self._index, frame, stored)
        self.progress = replace(self.progress, frames=number + 1)
        if frame_id is None:  # the side-car holds it until the database is back; its heights are made then
            self.progress = replace(self.progress, left_out=self.progress.left_out + 1)
            return
        self._numbers[frame_id] = (number, frame.time)
        if self._series is not None:
            self._series.frames.add(frame_id)
        if self._feed is not None and not frame.dark and not self._feed.offer(frame_id, frame, self._heights(number)):
            self._numbers.pop(frame_id, None)
            self._log.reconstruction(frame_id, "left out")
            self.progress = replace(self.progress, left_out=self.progress.left_out + 1)
        self._store_results()

    def _readbacks(self) -> Mapping[str, Reading]:
        """Return what the channels say."""
        readings, _ = self._instrument.read_all()
        self.oddities.readings(readings)
        return readings

    # -- heights

    def _store_results(self, rest: bool = False) -> None:
        """Log the heights that have arrived, and see whether they end a series; never harms the run."""
        if self._feed is None:
            return
        working = not self._feed.broken
        try:
            for result in self._feed.rest() if rest else self._feed.results():
                self._store_result(result)
        except Exception as error:  # noqa: BLE001  heights can be made again, the night cannot
            self.tell("warning", "heights", f"heights could not be logged: {error}")
        if working and self._feed.broken:
            self.tell("warning", "heights", f"no more live heights: {self._feed.broken}; they are made after the run")

    def _store_result(self, result: LiveResult) -> None:
        taken = self._numbers.pop(result.frame_id, None)
        error = log_result(self._log, self._store, result, later=True)
        if error is not None:
            self.tell("warning", "heights", f"no heights for frame {result.frame_id}: {error}")
            return
        figures = {name: (f.value, f.sigma, f.unit) for name, f in result.figures.items()}
        if taken is not None:
            self.hands.figures.add(*taken, figures)
        self.progress = replace(self.progress, heights=self.progress.heights + 1, figures=figures)
        if self._series is not None and result.frame_id in self._series.frames:
            self._judge(self._series)

    def _judge(self, series: Series) -> None:
        """End the series whose condition the figures of its frames meet; the evidence goes to the log."""
        condition = series.stop_when
        latest = None if series.ended or condition is None else self.hands.latest(condition.figure)
        if condition is None or latest is None:
            return
        met = adaptive.judge(condition, latest)
        series.met = series.met + 1 if met else 0
        evidence = adaptive.evidence(condition, latest)
        if met is None and not series.late:
            series.late = True
            self.tell("warning", "decision", f"{series.group} goes on: its figures come too late to end it", evidence)
        if series.met < CONFIRMED:
            return
        series.ended = True
        # In the journal, so that a resumed run does not take up a series that has ended.
        self._log_safely(self._log.mark, self._run_id, series.index, {"ended": evidence})
        threshold = format_quantity(condition.threshold)
        reached = f"{condition.figure} {latest.value:.3g} {latest.unit}".rstrip()
        self.tell("info", "decision", f"{series.group} ends: {reached} is {condition.comparison} {threshold}", evidence)

"""How the server plays: the same wiring as ``rilievo run`` and ``rilievo resume``, from what the database kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from acquisition import app as wiring
from acquisition.overview import frames_without_heights
from acquisition.plan import check
from acquisition.recipe import parse_recipe
from drivers.errors import RilievoError

if TYPE_CHECKING:
    from acquisition.bookings import Booking
    from acquisition.feed import Live
    from acquisition.night import Night
    from reconstruction.live import LiveQuality


@contextmanager
def play_booking(laboratory: wiring.Laboratory, booking: Booking) -> Iterator[Night]:
    """Check a booking's recipe once more and begin its run; settle heights and report when it has ended.

    Raises
    ------
    RilievoError
        Where it cannot begin: the instrument has changed, or does not answer, or the disk has no room.
    """
    options = booking.options
    loaded = parse_recipe(booking.recipe_text, booking.recipe_name)
    quality: LiveQuality = options.get("live_quality") or "preview"
    with (
        _instrument_file(booking) as path,
        wiring.open_instrument(path, options.get("speed")) as found,
        wiring.remembering(laboratory, found, path, options.get("speed")) as (instrument, memory),
        _reconstructing(quality if options.get("heights", True) else None) as live,
    ):
        plan = check(loaded, instrument)
        night = wiring.begin(laboratory, loaded, plan, instrument, live, quality=quality, memory=memory)
        with _attended(laboratory, night, live):
            yield night


@dataclass(frozen=True, slots=True)
class InterruptedRun:
    """A run that was interrupted, ready to go on."""

    laboratory: wiring.Laboratory
    run_id: str
    instrument: str

    def play(self) -> AbstractContextManager[Night]:
        """Go on with it; errors as :func:`acquisition.app.open_interrupted`."""
        return _go_on(self.laboratory, self.run_id)


def interrupted_runs(laboratory: wiring.Laboratory) -> list[InterruptedRun]:
    """Return the runs that were interrupted, oldest first; no instrument is touched."""
    log = laboratory.log
    return [InterruptedRun(laboratory, run.id, log.instrument(run.id).name) for run in wiring.interrupted(laboratory)]


@contextmanager
def _go_on(laboratory: wiring.Laboratory, run_id: str) -> Iterator[Night]:
    options = laboratory.log.run(run_id).options or {}
    with (
        wiring.open_interrupted(laboratory, run_id) as instrument,
        _reconstructing(options.get("live_quality")) as live,
    ):
        night = wiring.go_on(laboratory, run_id, instrument, live)
        with _attended(laboratory, night, live):
            yield night


@contextmanager
def _instrument_file(booking: Booking) -> Iterator[Path | None]:
    """Yield a file with the instrument as it was booked; None for the simulated microscope."""
    if booking.instrument_text is None:
        yield None
        return
    with TemporaryDirectory(prefix="rilievo-") as folder:
        path = Path(folder) / "instrument.yaml"
        path.write_text(booking.instrument_text, encoding="utf-8")
        yield path


@contextmanager
def _reconstructing(quality: LiveQuality | None) -> Iterator[Live | None]:
    live = wiring.start_live(quality=quality) if quality is not None else None
    try:
        yield live
    finally:
        if live is not None:
            live.close()


@contextmanager
def _attended(laboratory: wiring.Laboratory, night: Night, live: Live | None) -> Iterator[None]:
    """Start a run, which whoever gets it finishes; then settle its heights and its report.

    Where that one fails, the run is ended here: nothing that befalls the server leaves the instrument to itself.
    """
    night.start()
    try:
        yield
    except BaseException as error:
        night.engine.abort(f"the server failed: {type(error).__name__}: {error}")
        with suppress(Exception):
            night.finish()
        raise
    try:
        if live is not None:
            missing = frames_without_heights(laboratory.log, night.run_id)
            for _ in wiring.make_heights(laboratory, night.run_id, missing, live):
                pass
        wiring.report(laboratory, night.run_id)
    except (RilievoError, OSError) as error:  # trouble here changes no outcome
        changed = laboratory.log.run(night.run_id).changed
        laboratory.log.event(night.run_id, changed, "warning", "report", f"heights or report are missing: {error}")

"""How a booking is played: the same wiring as ``rilievo run``, from what the calendar kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from acquisition import app as wiring
from acquisition.overview import frames_without_heights
from acquisition.plan import check
from acquisition.recipe import parse_recipe
from drivers import document
from drivers.errors import RilievoError

if TYPE_CHECKING:
    from acquisition.bookings import Booking
    from acquisition.feed import Live
    from acquisition.night import Night


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
    source = document.parse(booking.instrument_text, "instrument.yaml") if booking.instrument_text else None
    with wiring.open_instrument(source, options.get("speed")) as instrument:
        plan = check(loaded, instrument)
        heights = options.get("heights", True)
        live = wiring.start_live(quality=options.get("live_quality") or "preview") if heights else None
        try:
            night = wiring.begin(laboratory, loaded, plan, instrument, live)
            night.start()
            try:
                yield night
            except BaseException as error:
                night.engine.abort(f"the server failed: {type(error).__name__}: {error}")
                raise
            finally:
                night.finish()
            _settle(laboratory, night.run_id, live)
        finally:
            if live is not None:
                live.close()


def _settle(laboratory: wiring.Laboratory, run_id: str, live: Live | None) -> None:
    """Make up for missing heights, and write the report; trouble here changes no outcome, and is told."""
    try:
        if live is not None:
            for _ in wiring.make_heights(laboratory, run_id, frames_without_heights(laboratory.log, run_id), live):
                pass
        wiring.report(laboratory, run_id)
    except (RilievoError, OSError) as error:
        ended = laboratory.log.run(run_id)
        laboratory.log.event(run_id, ended.changed, "warning", "report", f"heights or report are missing: {error}")

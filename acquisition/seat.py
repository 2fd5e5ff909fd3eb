"""A person's place at the desk: its methods are what may be asked of the server, from the page or from elsewhere.

Every method answers with the records of :mod:`acquisition.records`, with JSON data as the command's ``--json`` gives
them, or with a frame, heights, a preview; :mod:`acquisition.wire` carries all of these. A run is named by its id, by
enough of its beginning, or by ``last``; commands to the run that is being played need no name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from acquisition import overview, preview
from acquisition.access import AccessDenied, Person, Role
from acquisition.asking import Command, Name, RecipeText, Sentence, asks, commands_of
from acquisition.booking import book, trigger_from
from acquisition.bookings import OPEN, Booking, Bookings
from acquisition.outbox import Alert, Outbox
from acquisition.plan import Plan, check
from acquisition.preview import Preview
from acquisition.recipe import LoadedRecipe, json_schema, parse_recipe
from acquisition.records import (
    Action,
    Channel,
    Event,
    FigureEntry,
    FrameEntry,
    ReconstructionEntry,
    Run,
    Series,
    Setpoint,
)
from acquisition.tail import MOST
from acquisition.triggers import At, Trigger, local_zone
from drivers.errors import RunError, StoreError
from drivers.frame import Frame, Reading
from drivers.sample import HeightMap
from drivers.units import quantity_json

if TYPE_CHECKING:
    from acquisition.desk import Desk

T = TypeVar("T")

WAIT = 25.0
"""s that events are waited for at the most; a reader asks again."""

Count = Annotated[int, Field(ge=1, le=100_000)]
Number = Annotated[int, Field(ge=0, le=2**62)]
Seconds = Annotated[float, Field(ge=0.0, le=WAIT, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=8, le=preview.LARGEST)]


@dataclass(frozen=True, slots=True, eq=False)
class Heights:
    """Heights of a frame with their uncertainty.

    Attributes
    ----------
    run_id : str
    number : int
        Of the frame.
    surface : HeightMap
    sigma : (H, W) array, m
        NaN where it is not known.
    figures : mapping of str to FigureEntry
    """

    run_id: str
    number: int
    surface: HeightMap
    sigma: NDArray[np.float64]
    figures: dict[str, FigureEntry] = field(default_factory=dict)


class Seat:
    """Where one person asks from; make it with :meth:`acquisition.desk.Desk.seat`.

    Parameters
    ----------
    desk : Desk
    person : Person
    """

    def __init__(self, desk: Desk, person: Person) -> None:
        self.desk = desk
        self.person = person

    def perform(self, command: Command, arguments: dict[str, Any], do: Callable[[], T]) -> T:
        """Do what is asked, where the person may; errors as :meth:`acquisition.desk.Desk.perform`."""
        return self.desk.perform(self.person, command, arguments, do)

    def _run(self, name: str) -> Run:
        return overview.find_run(self.desk.log, name)

    # -- what everybody may look at

    @asks()
    def state(self) -> dict[str, Any]:
        """Return what the server does, who holds control, and who asks."""
        held = self.desk.control.holder
        control = None if held is None else {"who": held.person.name, "left": {"value": held.left, "unit": "s"}}
        return {
            **self.desk.server.state,
            "control": control,
            "mine": held is not None and held.person.session == self.person.session,
            "you": {"name": self.person.name, "role": str(self.person.role)},
            "instruments": self.desk.instruments.names,
            "last_event": self.desk.tail.last,
        }

    @asks()
    def runs(self, most: Count = 1000) -> list[Run]:
        """Return the runs, newest first."""
        return self.desk.log.runs()[:most]

    @asks()
    def run(self, run: Name) -> Run:
        """Return a run."""
        return self._run(run)

    @asks()
    def show(self, run: Name) -> dict[str, Any]:
        """Return what a run did, as ``rilievo show --json``."""
        return overview.summary_json(self.desk.log, self._run(run).id)

    @asks()
    def actions(self, run: Name) -> list[Action]:
        """Return the journal of a run."""
        return self.desk.log.actions(self._run(run).id)

    @asks()
    def setpoints(self, run: Name) -> list[Setpoint]:
        """Return what was asked of the instrument in a run."""
        return self.desk.log.setpoints(self._run(run).id)

    @asks()
    def channels(self, run: Name) -> list[Channel]:
        """Return which channels were read in a run."""
        return self.desk.log.channels(self._run(run).id)

    @asks()
    def series(self, run: Name, channel: Name, most: Count = 2000) -> Series:
        """Return what a channel said in a run, thinned to about ``most`` points; no peak is lost."""
        return self.desk.log.series(self._run(run).id, channel, most)

    @asks()
    def figures(self, run: Name, name: Name) -> list[FigureEntry]:
        """Return one figure of every frame that has it."""
        return self.desk.log.figures(self._run(run).id, name)

    @asks()
    def reconstructions(self, run: Name) -> list[ReconstructionEntry]:
        """Return what became of the frames of a run."""
        return self.desk.log.reconstructions(self._run(run).id)

    @asks()
    def events(
        self, after: Number = 0, most: Count = MOST, wait: Seconds = 0.0, run: Name | None = None
    ) -> list[Event]:
        """Return events after one of a number, oldest first, waiting up to ``wait`` seconds for the first."""
        return self.desk.tail.after(after, most, wait, None if run is None else self._run(run).id)

    @asks()
    def bookings(self, every: bool = False) -> list[Booking]:
        """Return what is booked, the next start first; with ``every`` also what nothing can become of any more."""
        found = Bookings(self.desk.log)
        return found.all() if every else found.all(OPEN)

    @asks()
    def queue(self) -> list[Booking]:
        """Return whose time has come, in the order in which they are played."""
        return self.desk.server.queue()

    @asks()
    def alerts(self, every: bool = False) -> list[Alert]:
        """Return which alerts wait to be delivered or could not be; with ``every`` also what was."""
        found = Outbox(self.desk.log)
        return found.alerts() if every else found.alerts(("waiting", "failed"))

    # -- instruments

    @asks()
    def readbacks(self, instrument: Name | None = None) -> dict[str, Reading]:
        """Return the latest readback of every channel, of a run that is being played or of an instrument held idle."""
        name = instrument or self._shown_instrument()
        playing = self.desk.playing_on(name)
        telemetry = getattr(playing, "telemetry", None)
        if telemetry is not None:
            return dict(telemetry.latest)
        idle = self.desk.server.idle
        if idle is not None and idle.name == name and idle.held is not None:
            return dict(idle.held.readbacks)
        raise RunError(
            f"{name} is neither playing a run nor held between runs (rilievo serve --watch FILE holds it); "
            f"its readbacks are not known",
            "readbacks",
        )

    def _shown_instrument(self) -> str:
        """Return the name of the instrument that is meant where none is named."""
        playing = list(self.desk.server.playing)
        idle = self.desk.server.idle
        if len(playing) == 1:
            return playing[0]
        return idle.name if idle is not None else self.desk.instruments.names[0]

    @asks()
    def devices(self, instrument: Name | None = None) -> dict[str, Any]:
        """Return every channel's latest readback and its limits, as ``rilievo devices --json``."""
        name = instrument or self._shown_instrument()
        found = self.desk.instruments.on_paper(name)
        latest: dict[str, Reading] = {}
        with suppress(RunError):
            latest = self.readbacks(found.name)
        limits = found.limits_json()
        return {
            "instrument": found.name,
            "channels": [
                {
                    "channel": channel,
                    "readback": quantity_json(latest[channel].value) if channel in latest else None,
                    "fresh": latest[channel].fresh if channel in latest else None,
                    "limits": limits.get(channel),
                }
                for channel in found.channels()
            ],
        }

    # -- frames, heights, reports

    @asks()
    def frames(self, run: Name, after: Annotated[int, Field(ge=-1)] = -1, most: Count = 1000) -> list[FrameEntry]:
        """Return the acknowledged frames of a run after one of a number, dark ones included."""
        return [entry for entry in self.desk.log.frames(self._run(run).id) if entry.number > after][:most]

    @asks()
    def frame(self, run: Name = "last", number: Number | None = None) -> Frame:
        """Return a frame; the newest that is not dark unless a number is given."""
        return self._frame(run, number)[2]

    def _frame(self, run: str, number: int | None) -> tuple[str, int, Frame]:
        """Return a frame with its run and number; one that was asked for by its full id needs no database."""
        kept: Frame | None = None if number is None else self.desk.shelf.look(("frame", run, number))
        if kept is not None and number is not None:
            return run, number, kept
        if number is None:
            entry, found = self.desk.lately.get(("frame", run), lambda: self._newest_frame(run))
        else:
            found = self._run(run).id
            entry = self.desk.log.one_frame(found, number)
        read = self.desk.store.read
        frame: Frame = self.desk.shelf.get(
            ("frame", found, entry.number), lambda: read(entry.stored.path), lambda frame: frame.counts.nbytes
        )
        return found, entry.number, frame

    def _newest_frame(self, run: str) -> tuple[FrameEntry, str]:
        found = self._run(run).id
        return self.desk.log.one_frame(found), found

    @asks()
    def frame_preview(self, run: Name = "last", number: Number | None = None, largest: Pixels = 128) -> Preview:
        """Return a frame's segments as small pictures."""
        found, of, frame = self._frame(run, number)
        names = tuple(frame.geometry.names)
        pixel = frame.beam.pixel_size
        made: Preview = self.desk.shelf.get(
            ("frame preview", found, of, largest),
            lambda: preview.preview(found, of, names, frame.counts, "ADU", pixel, largest),
            lambda small: small.pixels.nbytes,
        )
        return made

    @asks()
    def heights(self, run: Name = "last", number: Number | None = None) -> Heights:
        """Return the heights of a frame with σ; the newest there are unless a number is given."""
        return self._heights(run, number)

    def _heights(self, run: str, number: int | None) -> Heights:
        found = self._run(run).id
        of, entry = self.desk.log.one_reconstruction(found, number)
        path = self.desk.store.absolute(entry.path or "")

        def read() -> Heights:
            surface, sigma = read_heights(path)
            return Heights(found, of, surface, sigma, dict(entry.figures))

        made: Heights = self.desk.shelf.get(
            ("heights", entry.frame_id), read, lambda heights: heights.surface.z.nbytes + heights.sigma.nbytes
        )
        return made

    @asks()
    def heights_preview(self, run: Name = "last", number: Number | None = None, largest: Pixels = 128) -> Preview:
        """Return the heights of a frame as a small picture."""
        heights = self._heights(run, number)
        image = heights.surface.z[None] * 1e9
        pixel = heights.surface.pixel_size
        return preview.preview(heights.run_id, heights.number, ("heights",), image, "nm", pixel, largest)

    @asks()
    def report(self, run: Name = "last") -> bytes:
        """Return the report of a run, one HTML file; the one that was written at its end, or made now."""
        found = self._run(run)
        path = self.desk.store.folder(found.id) / "report.html"
        if found.ended is None or not path.exists():
            from acquisition.report import write_report

            with self.desk.turn():
                write_report(self.desk.log, self.desk.store, found.id, path)
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"the report cannot be read: {error.strerror or error}", str(path)) from None

    # -- recipes

    @asks()
    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of recipes."""
        return json_schema()

    @asks()
    def check(self, recipe: RecipeText, name: Name = "recipe.yaml", instrument: Name | None = None) -> dict[str, Any]:
        """Validate a recipe and return its plan, as ``rilievo check --json``.

        Raises
        ------
        DocumentError
            With everything that is wrong, each with its line and column.
        """
        found, _, plan = self._checked(recipe, name, instrument)
        return {"instrument": found, **plan.to_json()}

    def _checked(self, recipe: str, name: str, instrument: str | None) -> tuple[str, LoadedRecipe, Plan]:
        with self.desk.turn():
            found = self.desk.instruments.on_paper(instrument)
            loaded = parse_recipe(recipe, Path(name).name or "recipe.yaml")
            return found.name, loaded, check(loaded, found)

    @asks(Role.OPERATOR, control=True, audited=True)
    def start(
        self,
        recipe: RecipeText,
        name: Name = "recipe.yaml",
        instrument: Name | None = None,
        priority: int = 0,
        speed: float | None = None,
        heights: bool = True,
        live_quality: Name | None = None,
    ) -> Booking:
        """Check a recipe and have it played as soon as its instrument is free; return its booking."""
        now = self.desk.clock.now()
        soon = At(now + timedelta(milliseconds=1), local_zone())  # what is due now has passed already
        options = {"speed": speed, "heights": heights, "live_quality": live_quality}
        return self._book(recipe, name, instrument, soon, now, priority=priority, missed="run", **options)

    @asks(Role.OPERATOR, control=True, audited=True)
    def schedule(
        self,
        recipe: RecipeText,
        name: Name = "recipe.yaml",
        instrument: Name | None = None,
        at: Name | None = None,
        cron: Name | None = None,
        after: Name | None = None,
        any_end: bool = False,
        priority: int = 0,
        missed: Name | None = None,
        speed: float | None = None,
        heights: bool = True,
        live_quality: Name | None = None,
    ) -> Booking:
        """Book a recipe, as ``rilievo schedule add``."""
        now = self.desk.clock.now()
        trigger = trigger_from(at, cron, after, any_end, now)
        options = {"speed": speed, "heights": heights, "live_quality": live_quality}
        return self._book(recipe, name, instrument, trigger, now, priority=priority, missed=missed, **options)

    def _book(
        self, recipe: str, name: str, instrument: str | None, trigger: Trigger, now: datetime, **options: Any
    ) -> Booking:
        found, loaded, plan = self._checked(recipe, name, instrument)
        text = self.desk.instruments.text(found)
        booking = book(self.desk.log, loaded, plan, found, text, trigger, now=now, **options)
        self.desk.server.look_soon()
        return booking

    @asks(Role.OPERATOR, control=True, audited=True)
    def remove(self, booking: Number) -> Booking:
        """Take a booking out of the calendar."""
        return self.desk.server.remove(booking)

    # -- the run that is being played

    @asks(Role.OPERATOR, control=True, audited=True)
    def pause(self, run: Name | None = None) -> str:
        """Pause a run; return its id."""
        found = self.desk.played(run)
        self.desk.server.pause(found)
        return found

    @asks(Role.OPERATOR, control=True, audited=True)
    def resume(self, run: Name | None = None) -> str:
        """Let a run go on; return its id."""
        found = self.desk.played(run)
        self.desk.server.resume(found)
        return found

    @asks(Role.OPERATOR, control=True, audited=True, urgent=True)
    def stop(self, run: Name | None = None, reason: Sentence | None = None) -> str:
        """End a run after the frame that is being taken, through the cleanup; return its id."""
        found = self.desk.played(run)
        self.desk.server.stop(found, self._reason("stopped", reason))
        return found

    @asks(Role.OPERATOR, control=True, audited=True, urgent=True)
    def abort(self, run: Name | None = None, reason: Sentence | None = None) -> str:
        """End a run at once, through the cleanup; return its id."""
        found = self.desk.played(run)
        self.desk.server.abort(found, self._reason("aborted", reason))
        return found

    @asks(Role.OPERATOR, audited=True, urgent=True)
    def safe(self, reason: Sentence | None = None) -> list[str]:
        """Bring every instrument to its safe state; return their names. Whoever may operate may, without control."""
        names = self.desk.make_safe(self._reason("brought to the safe state", reason))
        if not names:
            raise RunError(
                "no run is being played, and no instrument is held between runs: nothing can be brought to its safe "
                "state from here"
            )
        return names

    def _reason(self, what: str, reason: str | None) -> str:
        by = f"{what} by {self.person.name}"
        return f"{by}: {reason}" if reason else by

    @asks(Role.OPERATOR, control=True, audited=True)
    def set(self, parameter: Name, value: Name, instrument: Name | None = None) -> Reading:
        """Set a parameter between runs, such as ``stage.x`` to ``1 mm``; return its readback afterwards.

        Within the limits, and with the instrument's interlocks on. While a run is being played, the recipe alone sets.
        """
        name = instrument or self._shown_instrument()
        playing = self.desk.playing_on(name)
        if playing is not None:
            raise RunError(
                f"run {playing.run_id} is being played on {name}, and its recipe alone sets parameters; pause does not "
                "change that. Stop it first",
                parameter,
            )
        idle = self.desk.server.idle
        if idle is None or idle.name != name or idle.held is None:
            raise RunError(f"{name} is not held between runs; rilievo serve --watch FILE holds it", parameter)
        return idle.held.set(parameter, value)

    # -- control

    @asks(Role.OPERATOR, audited=True)
    def take_control(self, force: bool = False) -> dict[str, Any]:
        """Hold control of the microscope; an administrator may with ``force`` although somebody else holds it."""
        if force and not self.person.role.covers(Role.ADMINISTRATOR):
            raise AccessDenied("only an administrator may take control from somebody who holds it", "take_control")
        lease = self.desk.control.take(self.person, force=force)
        return {"who": lease.person.name, "lease": {"value": lease.left, "unit": "s"}}

    @asks(Role.OPERATOR)
    def keep_control(self) -> dict[str, Any]:
        """Keep control for another lease: the heartbeat."""
        lease = self.desk.control.keep(self.person)
        return {"who": lease.person.name, "lease": {"value": lease.left, "unit": "s"}}

    @asks(Role.OPERATOR, audited=True)
    def release_control(self) -> bool:
        """Let go of control; return whether it was held."""
        return self.desk.control.release(self.person)

    @asks(Role.OPERATOR, control=True, audited=True)
    def hand_over(self, to: Name) -> None:
        """Let go of control in favour of somebody, who alone may take it within a minute."""
        self.desk.control.hand_over(self.person, to)


COMMANDS = commands_of(Seat)
"""Everything that may be asked, by name."""


def read_heights(path: Path) -> tuple[HeightMap, NDArray[np.float64]]:
    """Return heights and σ (m) of a file in a run's folder.

    Raises
    ------
    StoreError
        For a file that is missing or damaged.
    """
    import json

    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            said = json.loads(tif.pages.first.description)
            pages = [page.asarray() for page in tif.pages[:2]]
        if said["unit"] != "nm" or pages[0].ndim != 2 or len(pages) < 2:
            raise ValueError("it holds no heights in nm")
        surface = HeightMap(pages[0].astype(np.float64) * 1e-9, float(said["pixel_size"]["value"]) * 1e-9)
        return surface, np.asarray(pages[1].astype(np.float64) * 1e-9)
    except Exception as error:  # noqa: BLE001  tifffile meets damaged files with whatever error comes first
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StoreError(f"the heights cannot be read ({reason})", str(path)) from None

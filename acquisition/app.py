"""The one place that wires the house together: instrument, twin, log, store, engine and reconstruction."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from drivers.errors import DiskFull, InputError, StoreError

if TYPE_CHECKING:
    from acquisition.feed import Live, LiveResult
    from acquisition.log import Log
    from acquisition.night import Night
    from acquisition.plan import Plan
    from acquisition.recipe import LoadedRecipe
    from acquisition.records import FrameEntry
    from acquisition.store import Store
    from drivers.clock import Clock
    from drivers.contract import Instrument
    from drivers.document import Document
    from reconstruction.live import LiveQuality

TWIN = "twin"
"""Name of the driver whose devices are simulated, and live on a virtual clock."""


def data_folder(given: Path | None) -> Path:
    """Return where runs live: what was given, ``RILIEVO_DATA``, or the user's data folder."""
    if given is not None:
        return given
    if os.environ.get("RILIEVO_DATA"):
        return Path(os.environ["RILIEVO_DATA"])
    from platformdirs import user_data_path

    return user_data_path("rilievo")


@dataclass(frozen=True)
class Laboratory:
    """The log and the store that runs are written to.

    Attributes
    ----------
    folder : Path
    log : Log
    store : Store
    """

    folder: Path
    log: Log
    store: Store


@contextmanager
def open_laboratory(data: Path | None, database: str | None = None, *, create: bool = True) -> Iterator[Laboratory]:
    """Open log and store, made where there are none yet unless ``create`` is False.

    Raises
    ------
    StoreError, DatabaseError
        For a folder or a database that cannot be used.
    """
    from acquisition.log import Log
    from acquisition.store import Store

    folder = data_folder(data)
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the data folder cannot be made: {error.strerror}; name another with --data", str(folder)
        ) from None
    with Log.open(database or folder / "rilievo.db", create=create) as log, Store(folder / "runs") as store:
        yield Laboratory(folder, log, store)


def instrument_document(path: Path | None) -> Document:
    """Return the instrument's description: a file's, or the bundled twin's."""
    from drivers import document

    if path is not None:
        return document.read(path)
    text = resources.files("simulators").joinpath("twin.yaml").read_text(encoding="utf-8")
    return document.parse(text, "twin.yaml")


def _clock(source: Document, speed: float | None) -> Clock:
    """Return a virtual clock where every device is simulated, else the real one."""
    from drivers.clock import RealClock, VirtualClock

    data = source.data if isinstance(source.data, dict) else {}
    gases = data.get("gases")
    entries = [*data.values(), *(gases.values() if isinstance(gases, dict) else ())]
    drivers = {str(entry["driver"]) for entry in entries if isinstance(entry, dict) and "driver" in entry}
    if drivers and drivers <= {TWIN}:
        return VirtualClock(speed=speed)
    if speed is not None:
        raise InputError("--speed is for simulated instruments; real hardware runs in real time")
    return RealClock()


@contextmanager
def open_instrument(path: Path | Document | None = None, speed: float | None = None) -> Iterator[Instrument]:
    """Build an instrument, and let go of it in the end; errors as :meth:`drivers.registry.Registry.instrument`.

    Parameters
    ----------
    path : Path or Document, optional
        The instrument's file, or what stands in it; the bundled twin unless given.
    speed : float, optional
        Virtual seconds per real second of a simulated instrument; as fast as it goes unless given.
    """
    from drivers.registry import Registry

    source = instrument_document(path) if path is None or isinstance(path, Path) else path
    instrument = Registry.discover().instrument(source, _clock(source, speed))
    try:
        yield instrument
    finally:
        instrument.close()


def start_live(capacity: int = 8, quality: LiveQuality = "preview", material: str = "Cu") -> Live:
    """Start the live reconstruction's process.

    Parameters
    ----------
    capacity : int
        Frames that may wait at once.
    quality : {"auto", "preview", "fast", "full"}
        The preview unless said: what ``auto`` chooses hangs on this computer's speed, and a night on a virtual clock
        has to repeat to the bit.
    material : str
    """
    from reconstruction.live import LiveReconstruction

    return LiveReconstruction(capacity=capacity, quality=quality, material=material)


def _require_room(folder: Path, needed: int) -> None:
    """Refuse a run whose frames would not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"the run needs about {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free. Make room, or choose another "
            "folder with --data",
            str(folder),
        )


def begin(laboratory: Laboratory, loaded: LoadedRecipe, plan: Plan, instrument: Instrument, live: Live | None) -> Night:
    """Log a new run and return it, ready to start.

    Raises
    ------
    DiskFull
        Where the disk has not the room that the plan foretells.
    """
    from acquisition.feed import LiveFeed
    from acquisition.night import Night
    from acquisition.recipe import compile_recipe

    _require_room(laboratory.folder, plan.disk_bytes)
    actions = compile_recipe(loaded.recipe)
    run_id = laboratory.log.create_run(
        name=loaded.recipe.name,
        recipe_text=loaded.text,
        recipe_name=Path(loaded.document.name).name,
        actions=[action.model_dump(mode="json") for action in actions],
        instrument_name=instrument.name,
        instrument_description=instrument.description,
        limits=instrument.limits_json(),
        started=instrument.clock.now(),
        version=version("rilievo"),
        plan=plan.to_json(),
    )
    feed = LiveFeed(live, instrument.clock) if live is not None else None
    return Night(instrument, laboratory.log, laboratory.store, run_id, actions, feed=feed)


def make_heights(
    laboratory: Laboratory, run_id: str, frames: Sequence[FrameEntry], live: Live, patience: float = 120.0
) -> Iterator[LiveResult]:
    """Make and log the heights of frames that the store holds; yields what became of each.

    ``patience`` is how many real seconds without any result are waited for.
    """
    from acquisition import feed
    from acquisition.night import heights_path

    store, log = laboratory.store, laboratory.log
    by_id = {frame.id: frame for frame in frames}
    wanted = [(frame.id, heights_path(store, run_id, frame.number)) for frame in frames]
    for result in feed.catch_up(live, wanted, lambda frame_id: store.read(by_id[frame_id].stored.path), patience):
        feed.log_result(log, store, result)
        yield result


def report(laboratory: Laboratory, run_id: str, output: Path | None = None) -> Path:
    """Write a run's report; into the run's folder unless told where."""
    from acquisition.report import write_report

    target = output or laboratory.store.folder(run_id) / "report.html"
    return write_report(laboratory.log, laboratory.store, run_id, target)

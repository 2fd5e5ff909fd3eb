"""The one place that wires the house together: instrument, twin, log, store, engine and reconstruction."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivers.errors import DiskFull, InputError, RunError, StoreError
from drivers.units import si

if TYPE_CHECKING:
    from acquisition.actions import Action
    from acquisition.feed import Live, LiveResult
    from acquisition.guard import Guard
    from acquisition.log import Log
    from acquisition.night import Night
    from acquisition.plan import Plan
    from acquisition.recipe import LoadedRecipe, Recipe
    from acquisition.records import FrameEntry, Run
    from acquisition.resumption import Resumption
    from acquisition.store import Store
    from drivers.clock import Clock
    from drivers.contract import Instrument
    from drivers.document import Document
    from reconstruction.live import LiveQuality

TWIN = "twin"
"""Name of the driver whose devices are simulated, and live on a virtual clock."""
INSTRUMENT = "instrument.yaml"
"""In a run's folder: the instrument's file, as it was when the run began."""
MEMORY = "twin.jsonl"
"""In a run's folder: the state of a simulated instrument."""
OWNER = "run"
"""Name of the lock in a run's folder that the process which plays it holds."""


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

    What killed processes left in side-car journals is brought into the log first.

    Raises
    ------
    StoreError, DatabaseError
        For a folder or a database that cannot be used.
    """
    from acquisition.ledger import Ledger
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
        Ledger.recover(log, store.root)
        yield Laboratory(folder, log, store)


def instrument_document(path: Path | None) -> Document:
    """Return the instrument's description: a file's, or the bundled twin's."""
    from drivers import document

    if path is not None:
        return document.read(path)
    text = resources.files("simulators").joinpath("twin.yaml").read_text(encoding="utf-8")
    return document.parse(text, "twin.yaml")


def _clock(source: Document, speed: float | None, memory: Path | None = None, outage: float | None = None) -> Clock:
    """Return a virtual clock where every device is simulated, else the real one."""
    from drivers.clock import RealClock, VirtualClock
    from simulators.memory import continued_clock

    data = source.data if isinstance(source.data, dict) else {}
    gases = data.get("gases")
    entries = [*data.values(), *(gases.values() if isinstance(gases, dict) else ())]
    drivers = {str(entry["driver"]) for entry in entries if isinstance(entry, dict) and "driver" in entry}
    if drivers and drivers <= {TWIN}:
        return VirtualClock(speed=speed) if memory is None else continued_clock(memory, speed, outage)
    if speed is not None:
        raise InputError("--speed is for simulated instruments; real hardware runs in real time")
    return RealClock()


@contextmanager
def open_instrument(
    path: Path | None = None, speed: float | None = None, memory: Path | None = None, outage: float | None = None
) -> Iterator[Instrument]:
    """Build an instrument, and let go of it in the end; errors as :meth:`drivers.registry.Registry.instrument`.

    Parameters
    ----------
    path : Path, optional
        The instrument's file; the bundled twin unless given.
    speed : float, optional
        Virtual seconds per real second of a simulated instrument; as fast as it goes unless given.
    memory : Path, optional
        Where a simulated instrument keeps its state: it goes on from there, as hardware would, moved on through the
        time in which no process held it. Hardware needs none.
    outage : float, s, optional
        That time, virtual, where it should not be measured.
    """
    from drivers.registry import Registry

    source = instrument_document(path)
    instrument = Registry.discover().instrument(source, _clock(source, speed, memory, outage), memory)
    try:
        _require_safety(instrument)
        yield instrument
    finally:
        instrument.close()


def _require_safety(instrument: Instrument) -> None:
    """Refuse an instrument whose file names a safe state or interlocks that it cannot have."""
    from acquisition.interlocks import instrument_interlocks
    from acquisition.safe_state import SafeState

    SafeState.of(instrument)
    instrument_interlocks(instrument)


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


@contextmanager
def reconstructing(quality: LiveQuality | None) -> Iterator[Live | None]:
    """Yield a live reconstruction while a run is played; None where no heights are wanted."""
    live = start_live(quality=quality) if quality is not None else None
    try:
        yield live
    finally:
        if live is not None:
            live.close()


def _require_room(folder: Path, needed: int) -> None:
    """Refuse a run whose frames would not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"the run needs about {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free. Make room, or choose another "
            "folder with --data",
            str(folder),
        )


def is_simulated(instrument: Instrument) -> bool:
    """Return whether every device lives on virtual time, and keeps its state in a file where it is given one."""
    return instrument.clock.virtual


@contextmanager
def remembering(
    laboratory: Laboratory, instrument: Instrument, path: Path | None, speed: float | None
) -> Iterator[tuple[Instrument, Path | None]]:
    """Yield an instrument that outlives this process, and the file that holds its state where it is simulated.

    Parameters
    ----------
    laboratory : Laboratory
    instrument : Instrument
        As it was opened to check the recipe.
    path, speed
        As :func:`open_instrument` was given them.
    """
    if not is_simulated(instrument):
        yield instrument, None
        return
    laboratory.store.root.mkdir(parents=True, exist_ok=True)
    memory = laboratory.store.root / f".twin-{uuid.uuid4().hex}.jsonl"
    try:
        with open_instrument(path, speed, memory) as twin:
            yield twin, memory
    finally:
        memory.unlink(missing_ok=True)  # it lies in the run's folder by now, where there is a run


def begin(
    laboratory: Laboratory,
    loaded: LoadedRecipe,
    plan: Plan,
    instrument: Instrument,
    live: Live | None,
    *,
    quality: LiveQuality = "preview",
    memory: Path | None = None,
) -> Night:
    """Log a new run and return it, ready to start.

    Parameters
    ----------
    laboratory, loaded, plan, instrument, live
    quality : {"auto", "preview", "fast", "full"}
        Of the live heights, for a resumption.
    memory : Path, optional
        Of a simulated instrument; moves into the run's folder.

    Raises
    ------
    DiskFull
        Where the disk has not the room that the plan foretells.
    Owned
        Where another run, or its guard, holds the hardware.
    """
    from acquisition.ownership import Ownership
    from acquisition.recipe import compile_recipe
    from acquisition.tenure import let_go, take_hardware

    _require_room(laboratory.folder, plan.disk_bytes)
    actions = compile_recipe(loaded.recipe)
    speed = getattr(instrument.clock, "speed", None)
    with ExitStack() as stack:
        if not is_simulated(instrument):
            stack.enter_context(take_hardware(laboratory, instrument.name))
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
            options={"speed": speed, "live_quality": quality if live is not None else None},
        )
        folder = laboratory.store.folder(run_id)
        _keep_instrument(folder, instrument, memory)
        stack.enter_context(Ownership.take(folder, OWNER))
        guard = _guard(laboratory, run_id, speed, instrument)
        if is_simulated(instrument):
            stack.callback(guard.dismiss)
        else:
            stack.callback(let_go, guard, laboratory.log, run_id)
        night = _night(laboratory, run_id, actions, instrument, live, loaded.recipe)
        night.closers = stack.pop_all()
        return night


def _keep_instrument(folder: Path, instrument: Instrument, memory: Path | None) -> None:
    """Put the instrument's file, and a simulated one's state, where a resumption and the guard find them."""
    import yaml

    from acquisition.durable import Writer, make_folder

    make_folder(folder)
    text = yaml.safe_dump(dict(instrument.description), sort_keys=False, allow_unicode=True)
    Writer().write(folder / INSTRUMENT, [text.encode()])
    if memory is not None:
        memory.rename(folder / MEMORY)


def _night(
    laboratory: Laboratory,
    run_id: str,
    actions: Sequence[Action],
    instrument: Instrument,
    live: Live | None,
    recipe: Recipe,
    resumption: Resumption | None = None,
) -> Night:
    from acquisition.feed import LiveFeed
    from acquisition.interlocks import instrument_interlocks, recipe_interlocks
    from acquisition.night import Night

    interlocks, _ = recipe_interlocks(recipe.interlocks, instrument, instrument_interlocks(instrument))
    dose = recipe.limits.dose if recipe.limits is not None else None
    feed = LiveFeed(live, instrument.clock) if live is not None else None
    return Night(
        instrument,
        laboratory.log,
        laboratory.store,
        run_id,
        actions,
        feed=feed,
        interlocks=interlocks,
        resumption=resumption,
        dose_limit=None if dose is None else si(dose),
    )


def _guard(laboratory: Laboratory, run_id: str, speed: float | None, instrument: Instrument | None = None) -> Guard:
    """Start the process that brings the instrument to its safe state should this one die or hang.

    ``instrument``, where it is open already, arms its devices' own answer to a lost connection.
    """
    from acquisition.guard import Guard, patience_of

    folder = laboratory.store.folder(run_id)
    log, memory = laboratory.log, folder / MEMORY

    def tell(level: str, message: str) -> None:
        log.event(run_id, datetime.now(UTC) if instrument is None else instrument.clock.now(), level, "guard", message)

    return Guard.start(
        folder,
        run_id=run_id,
        database=log.engine.url.render_as_string(hide_password=False),
        instrument_path=folder / INSTRUMENT,
        speed=speed,
        memory=memory if memory.exists() else None,
        patience=patience_of(_description(folder / INSTRUMENT)),
        tell=tell,
        instrument=instrument,
    )


def _description(path: Path) -> Mapping[str, Any]:
    description: Mapping[str, Any] = instrument_document(path).data
    return description


@contextmanager
def open_interrupted(laboratory: Laboratory, run_id: str, outage: float | None = None) -> Iterator[Instrument]:
    """Relieve the guard of a run that was interrupted, and yield the instrument as it is now, under a guard of its own.

    Parameters
    ----------
    laboratory : Laboratory
    run_id : str
    outage : float, s, optional
        How long a simulated instrument was left to itself; measured unless given.

    Raises
    ------
    RunError
        For a run that has ended, is still being played, or whose instrument is not known.
    """
    from acquisition.guard import enter_journal, relieve
    from acquisition.ownership import Ownership, holder
    from acquisition.resumption import refuse_ended
    from acquisition.tenure import let_go, take_hardware

    run = laboratory.log.run(run_id)
    folder = laboratory.store.folder(run.id)
    refuse_ended(run)
    playing = holder(folder, OWNER)
    if playing is not None:
        raise RunError(f"run {run.id} is still being played, by {playing}; end that process first")
    if not (folder / INSTRUMENT).exists():
        raise RunError(
            f"run {run.id} was interrupted before it began ({folder / INSTRUMENT} is missing); start it anew"
        )
    speed = (run.options or {}).get("speed")
    with ExitStack() as stack:
        stack.enter_context(Ownership.take(folder, OWNER))
        memory = folder / MEMORY
        if not memory.exists():
            stack.enter_context(take_hardware(laboratory, laboratory.log.instrument(run.id).name, run.id))
        relieve(folder)
        guard = _guard(laboratory, run.id, speed)
        simulated = memory if memory.exists() else None
        stack.callback(let_go, guard, laboratory.log, run.id, simulated is not None)
        instrument = stack.enter_context(open_instrument(folder / INSTRUMENT, speed, simulated, outage))
        enter_journal(folder, laboratory.log, run.id, instrument.clock.now())
        refuse_ended(laboratory.log.run(run.id))  # the guard may have ended it in the safe state
        yield instrument


def go_on(laboratory: Laboratory, run_id: str, instrument: Instrument, live: Live | None) -> Night:
    """Return a run that was interrupted, ready to go on; what is decided stands in the log before anything moves.

    Raises
    ------
    RunError
        For a run that has ended.
    """
    from acquisition.actions import actions_from_data
    from acquisition.endurance import Endurance
    from acquisition.recipe import parse_recipe
    from acquisition.resumption import enter_resumption, plan_resumption

    run = laboratory.log.run(run_id)
    laboratory.store.sweep(run.id)
    _tell_disagreement(laboratory, run.id, instrument.clock)
    actions = actions_from_data([entry.arguments for entry in laboratory.log.actions(run.id)])
    recipe = parse_recipe(run.recipe_text, run.recipe_name).recipe
    limits = recipe.limits
    longest = si(limits.outage) if limits is not None and limits.outage is not None else None
    longest = Endurance.of(instrument).longest_outage if longest is None else longest
    resumption = plan_resumption(laboratory.log, run.id, actions, instrument, longest)
    enter_resumption(laboratory.log, run.id, resumption)
    return _night(laboratory, run.id, actions, instrument, live, recipe, resumption)


def _tell_disagreement(laboratory: Laboratory, run_id: str, clock: Clock) -> None:
    """Tell the log which frames on the disk it does not know, and which that it knows are not there."""
    from acquisition.ledger import check

    found = check(laboratory.log, laboratory.store, run_id)
    for numbers, level, what in (
        (found.unlogged, "info", "had been written and not acknowledged when the run was interrupted; taken again"),
        (found.missing, "error", "were acknowledged, and there is no file of theirs; restore them from a copy"),
    ):
        if numbers:
            listed = ", ".join(str(number) for number in numbers)
            laboratory.log.event(run_id, clock.now(), level, "frames", f"frames {listed} {what}")


def interrupted(laboratory: Laboratory) -> list[Run]:
    """Return the runs that have no end and that no process plays, oldest first."""
    from acquisition.ownership import holder

    return [
        run
        for run in reversed(laboratory.log.runs())
        if run.ended is None and holder(laboratory.store.folder(run.id), OWNER) is None
    ]


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

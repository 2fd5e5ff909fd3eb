"""A harness that kills ``rilievo run`` with SIGKILL, resumes it, and looks at what is left.

Each attempt plays a short night on the twin in a process of its own and lets it be killed: at a named point (before or
after the n-th call of something that matters), or at a random moment. Then ``rilievo resume`` is run, itself perhaps
killed, until the run has ended; :func:`verdict` says what is wrong with what lies on the disk.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tifffile

from acquisition.log import Log
from simulators.instruments import TWIN

RECIPE = """\
name: a night to be killed
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 4 um, pixels: 16, dwell_time: 10 us}
steps:
  - note: it begins
  - gas: {H2: 10 sccm}
  - ramp: {heater: 120 degC, rate: 60 K/min}
  - set: {column.focus: 8.01 mm}
    name: focus
  - dark: 2
  - frame: true
  - purge: {N2: 50 sccm, for: 90 s}
  - name: oxidation
    gas: {O2: 5 sccm}
    series: {every: 20 s, count: 5}
  - hold: 45 s
  - frames: 2
"""
SPEED = 400.0
"""Virtual seconds in a second: the night takes about a second and a half."""
LONGEST = 120.0
"""Real seconds after which a process counts as hung."""


@dataclass(frozen=True)
class Trap:
    """Where a process kills itself: around the n-th call of ``module:Class.method`` (or ``module:function``)."""

    target: str
    call: int
    after: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} call {self.call} of {self.target}"


# What the journal, the store and the hardware live through; how often each is called in the night above.
NAMED: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("acquisition.log:Log.create_run", (1,)),
    ("acquisition.app:_keep_instrument", (1,)),
    ("acquisition.night:Night.start", (1,)),
    ("acquisition.ledger:Ledger.set_state", (1, 2, 3)),
    ("acquisition.ledger:Ledger.intent", tuple(range(1, 20))),
    ("acquisition.ledger:Ledger.outcome", tuple(range(1, 20))),
    ("acquisition.ledger:Ledger.setpoint", (1, 2, 3, 5, 7, 8, 9, 11, 14)),
    ("acquisition.ledger:Ledger.frame", tuple(range(1, 11))),
    ("acquisition.ledger:Ledger.mark", (1, 2, 4)),
    ("acquisition.ledger:Ledger.event", (1, 2, 3, 4)),
    ("acquisition.store:Store.append", tuple(range(1, 11))),
    ("acquisition.durable:Writer._write_directly", (2, 4, 8)),
    ("acquisition.durable:sync_folder", (4, 6, 8, 10)),
    ("drivers.contract:Parameter.set", (1, 2, 3, 5, 8, 9, 10, 12)),
    ("drivers.contract:Column.unblank", (1, 3, 8)),
    ("drivers.contract:Column.blank", (1, 2, 3, 9)),
    ("drivers.contract:SegmentedDetector.arm", (1, 3, 6)),
    ("drivers.contract:SegmentedDetector.expose", (1, 3, 6, 10)),
    ("acquisition.engine:clean_up", (1,)),
    ("acquisition.night:Night.finish", (1,)),
    ("acquisition.resumption:enter_resumption", (1,)),
    ("acquisition.resumption:Resumption.restore", (1,)),
)


def preload() -> None:
    """Import what a night needs once, so that forked processes need not."""
    for name in (
        "alembic.command",
        "acquisition.cli",
        "acquisition.app",
        "acquisition.night",
        "acquisition.play",
        "acquisition.resumption",
        "acquisition.guard",
        "acquisition.terminal",
        "simulators.specimen",
        "simulators.raster",
        "simulators.memory",
        "sqlalchemy.dialects.sqlite",
        "tifffile",
    ):
        importlib.import_module(name)


def named_traps() -> list[Trap]:
    """Return every named point, before and after."""
    return [Trap(target, call, after) for target, calls in NAMED for call in calls for after in (False, True)]


@dataclass
class Story:
    """What happened to one night.

    Attributes
    ----------
    trap : str
        Where it was killed.
    killed : int
        How many of its processes died by SIGKILL.
    problems : list of str
        What is wrong; empty where all is well.
    """

    trap: str
    killed: int = 0
    processes: int = 0
    problems: list[str] = field(default_factory=list)


def play(data: Path, trap: Trap | None, arguments: Sequence[str], kill_after: float | None = None) -> tuple[int, str]:
    """Run the command in a forked process that kills itself at a trap, or is killed after some seconds.

    Returns
    -------
    (int, str)
        Exit code, negative for the signal that ended it; and what it said.
    """
    said = data / "said.txt"
    process = os.fork()
    if process == 0:
        _become(said, trap, [*arguments, "--data", str(data)])
    deadline = time.monotonic() + LONGEST
    kill_at = None if kill_after is None else time.monotonic() + kill_after
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), said.read_text(errors="replace")
        if kill_at is not None and time.monotonic() >= kill_at:
            os.kill(process, signal.SIGKILL)
            kill_at = None
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return 124, f"hung for {LONGEST:g} s\n{said.read_text(errors='replace')}"
        time.sleep(0.002)


def _become(said: Path, trap: Trap | None, arguments: Sequence[str]) -> None:
    """Turn this forked process into the command; does not return."""
    code = 70
    try:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if trap is not None:
            _set(trap)
        from acquisition import play
        from acquisition.cli import main

        play._settle = lambda *_: {}  # a report of each night would take longer than the night

        sys.argv = ["rilievo", *arguments]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _set(trap: Trap) -> None:
    module, _, path = trap.target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def trapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != trap.call:
            return real(*arguments, **named)
        if trap.after:
            real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        return None

    setattr(owner, name, trapped)
    # Functions that were imported by name are looked up where they are used.
    for other in list(sys.modules.values()):
        if getattr(other, name, None) is real and other is not owner:
            setattr(other, name, trapped)


def killed_night(data: Path, trap: Trap | None = None, moments: Iterator[float] | None = None, most: int = 12) -> Story:
    """Play a night that is killed, resume it until it has ended, and return what is left.

    Parameters
    ----------
    data : Path
        An empty folder.
    trap : Trap, optional
        Set in the first process, and in the resuming ones as long as it was not met.
    moments : iterator of float, optional
        Real seconds after which each process is killed instead; when it is used up, none is.
    most : int
        Processes that may be needed at most.
    """
    data.mkdir(parents=True, exist_ok=True)
    recipe, instrument = data / "night.yaml", data / "small-twin.yaml"
    recipe.write_text(RECIPE)
    instrument.write_text(TWIN.read_text("utf-8").replace("extent: 30 um", "extent: 8 um"))
    begin = ["run", str(recipe), "--instrument", str(instrument), "--speed", str(SPEED), "--no-heights"]
    story = Story(str(trap) if trap is not None else "random moments")
    arguments = begin
    while story.processes < most:
        story.processes += 1
        after = next(moments, None) if moments is not None else None
        code, said = play(data, trap, arguments, after)
        if "Traceback" in said or "Error in Rilievo itself" in said or code == 124:
            story.problems.append(f"process {story.processes} ({code}): {said[-2000:]}")
            return story
        if code == -signal.SIGKILL:
            story.killed += 1
            if trap is not None and "resum" not in trap.target:
                trap = None  # met
            elif trap is not None and story.killed > 1:
                trap = None
        elif code == 0:
            break
        elif "no run" in said or "there is no database yet" in said or "before it began" in said:
            (data / "said.txt").unlink()
            arguments = begin
            continue
        elif "has ended" in said:
            break
        else:
            story.problems.append(f"process {story.processes} ended with {code}: {said[-2000:]}")
            return story
        if trap is not None and "resum" in trap.target and story.killed == 0:
            trap = None
        (data / "said.txt").write_text("")
        arguments = ["resume", "last"]
    story.problems += verdict(data)
    return story


def verdict(data: Path) -> list[str]:
    """Return what is wrong with the night in a folder: nothing, where it was brought to its end as it should."""
    problems: list[str] = []
    with Log.open(data / "rilievo.db", create=False) as log:
        run = log.runs()[0]
        folder = data / "runs" / run.id
        journal, frames, setpoints = log.actions(run.id), log.frames(run.id), log.setpoints(run.id)
        events = log.events(run.id)
    if run.state != "finished":
        problems.append(f"the run is {run.state}: {run.reason}")
    problems += [f"{entry.address} is {entry.state}" for entry in journal if entry.state != "done"]
    for entry in journal:
        planned = {"frame": 1, "dark": entry.arguments.get("frames", 0)}.get(entry.kind, 0)
        taken = sum(frame.action_index == entry.index for frame in frames)
        if taken != planned:
            problems.append(f"{entry.address}: {taken} frames, {planned} planned")
    for frame in frames:
        path = data / "runs" / frame.stored.path
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != frame.stored.sha256:
            problems.append(f"{path.name}: the checksum differs")
        with tifffile.TiffFile(path) as opened:
            shape = opened.asarray().shape
        if shape != (4, 16, 16):
            problems.append(f"{path.name}: shape {shape}")
    if [frame.number for frame in frames] != list(range(len(frames))):
        problems.append(f"frames are numbered {[frame.number for frame in frames]}")
    problems += _hardware(folder / "twin.jsonl", setpoints)
    problems += [event.message for event in events if "internal error" in event.message]
    return problems


def _hardware(memory: Path, setpoints: Sequence[Any]) -> list[str]:
    """Return where the log's last setpoints and what the twin was last told differ, and what was not left safe."""
    told: dict[str, float] = {}
    blanked = False
    for line in memory.read_text().splitlines()[2:]:
        entry = json.loads(line)
        if "put" in entry:
            told[entry["put"]] = float(entry["value"])
        blanked = entry.get("blank", blanked)
    problems = [] if blanked else ["the beam was left on the sample"]
    asked = {each.channel: each for each in setpoints}
    from drivers.units import quantity

    for channel, value in told.items():
        unit = {"heater.temperature": "K", "heater.rate": "K/min"}.get(channel, "sccm" if "gases" in channel else "")
        if not unit:
            continue
        last = asked.get(channel)
        found = None if last is None else quantity(last.value, last.unit).to(unit).magnitude
        if found is None or abs(found - value) > 1e-6 * max(1.0, abs(value)):
            problems.append(f"{channel}: the log says {found} {unit}, the hardware was told {value}")
    if abs(told.get("heater.temperature", 298.15) - 298.15) > 1e-6:
        problems.append(f"the heater was left at {told['heater.temperature']} K")
    problems += [f"{name} was left open" for name, flow in told.items() if "gases" in name and flow != 0]
    return problems


def random_moments(seed: int, longest: float = 4.0) -> Iterator[float]:
    """Yield moments at which to kill: one or two processes of a night, then none."""
    rng = random.Random(seed)
    for _ in range(rng.choice((1, 1, 2))):
        yield rng.uniform(0.02, longest)


def in_parallel(tasks: Sequence[Any], work: Callable[[Any], Story], jobs: int) -> list[Story]:
    """Return the stories of tasks, each worked on in one of ``jobs`` forked processes."""
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    answers = [folder / f"killed-{os.getpid()}-{job}.jsonl" for job in range(jobs)]
    workers = []
    for job, answer in enumerate(answers):
        worker = os.fork()
        if worker == 0:
            with answer.open("w") as file:
                for index in range(job, len(tasks), jobs):
                    story = work(tasks[index])
                    file.write(json.dumps([index, story.trap, story.killed, story.processes, story.problems]) + "\n")
                    file.flush()
            os._exit(0)
        workers.append(worker)
    for worker in workers:
        os.waitpid(worker, 0)
    found: dict[int, Story] = {}
    for answer in answers:
        for line in answer.read_text().splitlines():
            index, *values = json.loads(line)
            found[index] = Story(*values)
        answer.unlink()
    return [found.get(index, Story("lost", problems=["its worker died"])) for index in range(len(tasks))]

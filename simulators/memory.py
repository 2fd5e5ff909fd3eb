"""What the twin keeps beside the data, so that it outlives its process as hardware would.

The world is the same bit by bit for the same description, seed and setpoints at the same times. So its memory is a
record of what the hardware was told, a file of JSON lines: a header, the latest moment of its clock, then a line for
everything that changed it::

    {"format": "rilievo twin 1", "start": "2026-01-01T18:00:00+00:00", "origin": 0.0, "seed": 1, "fingerprint": "…"}
    {"now": 1873.25, "real": 1790000000.1, "speed": null, "process": 4711}
    {"at": 12.5, "real": 1790000000.0, "put": "heater.temperature", "value": 1073.15}
    {"at": 13.0, "real": 1790000000.0, "blank": true}
    {"at": 20.0, "real": 1790000000.1, "frame": [512, 512, 1e-05, 1e-05], "centre": [0.0, 0.0]}

``now`` and ``at`` are the world's seconds, ``real`` is Unix time. The second line has a fixed length and is written
anew whenever the clock moves; the rest only grows. Whoever opens the file again plays it back, and lets the world move
on through the time in which nobody held it: real seconds times the speed (one where none was given).

Every line is one unbuffered write, so that a killed process loses nothing; a power cut takes the twin with it, unlike
hardware. One process at a time owns the file, by a lock that its end releases, however it ends (a child that was
forked without a new program would hold the lock too: start children with *spawn*). What faults had frozen is forgotten.

A night of twelve hours, three cycles of oxidation and reduction, is played back in 3 s, an idle one in 1 s.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from drivers.clock import Clock, VirtualClock
from drivers.errors import DeviceError, DeviceUnavailable, InputError

FORMAT = "rilievo twin 1"
_MOMENT_LENGTH = 160
"""Bytes of the second line, its end included."""


@dataclass(frozen=True, slots=True)
class Story:
    """What a file tells.

    Attributes
    ----------
    start : datetime
        UTC at which the twin's clock began.
    origin : float, s
        On that clock, when the world began.
    seed : int
    fingerprint : str
        Of the instrument's description.
    now : float, s
        The latest moment of the world that is known.
    real : float, s
        Unix time at that moment.
    speed : float or None
        Virtual seconds per real second; None where none was given.
    process : int
        That held the twin last.
    told : list of mapping
        In the order of their times.
    length : int
        Bytes of the file up to the end of its last whole line.
    """

    start: datetime
    origin: float
    seed: int
    fingerprint: str
    now: float
    real: float
    speed: float | None
    process: int
    told: list[Mapping[str, Any]]
    length: int

    def present(self, outage: float | None = None) -> float:
        """Return where the world is now (s): it moved on while nobody held it, for ``outage`` seconds if that is given.

        A computer's clock that was set back does not take the world back.
        """
        if outage is None:
            outage = max(0.0, time.time() - self.real) * (1.0 if self.speed is None else self.speed)
        return self.now + outage


def fingerprint(settings: Mapping[str, Any], devices: Mapping[str, Any]) -> str:
    """Return a short name of everything that decides how a twin behaves: not its faults, which may come and go."""
    lasting = {key: value for key, value in settings.items() if key != "faults"}
    text = json.dumps([lasting, devices], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: Path) -> Story | None:
    """Return what a file tells; None where there is none yet.

    A last line that was not finished is left out: what it told had not been acknowledged.

    Raises
    ------
    InputError
        For a file that is something else, of another version, or damaged.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"the twin's memory cannot be read: {error.strerror or error}", str(path)) from None
    if not content:
        return None
    length = content.rfind(b"\n") + 1
    lines = content[:length].split(b"\n")[:-1]
    header = _line(lines[0]) if lines else None
    if header is None or not str(header.get("format", "")).startswith("rilievo twin "):
        raise InputError("this is not the memory of a twin; name another file for it", str(path))
    if header["format"] != FORMAT:
        raise InputError(
            f"expected the memory of a twin as {FORMAT!r}; this is {header['format']!r}, of another version of the "
            "program; move it away to begin with a new specimen",
            str(path),
        )
    told = [_line(line) for line in lines[1:]]
    damaged = next((number for number, line in enumerate(told, 2) if line is None), None)
    try:
        if damaged is not None:
            raise ValueError(f"line {damaged} is no JSON object")
        return _story(header, [line for line in told if line is not None], length)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the twin's memory is damaged ({error}); move it away to begin with a new specimen", str(path)
        ) from None


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _story(header: Mapping[str, Any], lines: list[dict[str, Any]], length: int) -> Story:
    moment, told = lines[0], lines[1:]
    # The moment is written after what was told at it: a kill in between leaves it behind.
    known = [(float(line["at"]), float(line["real"])) for line in told]
    if any(after < before for (before, _), (after, _) in pairwise(known)):
        raise ValueError("its lines are not in the order of their times")
    now, real = max([(float(moment["now"]), float(moment["real"])), *known[-1:]])
    if not (math.isfinite(now) and math.isfinite(real)):
        raise ValueError(f"its moment is {now} s")
    return Story(
        start=datetime.fromisoformat(header["start"]).astimezone(UTC),
        origin=float(header["origin"]),
        seed=int(header["seed"]),
        fingerprint=str(header["fingerprint"]),
        now=now,
        real=real,
        speed=None if moment["speed"] is None else float(moment["speed"]),
        process=int(moment["process"]),
        told=list(told),
        length=length,
    )


def continued_clock(path: Path, speed: float | None = None, outage: float | None = None) -> VirtualClock:
    """Return the clock for a twin that remembers: it goes on where the file left it, moved on through the outage.

    Parameters
    ----------
    path : Path
        Of the memory; where there is none yet, the clock is a new one.
    speed : float, optional
        From now on, virtual seconds per real second; as fast as it goes unless given.
    outage : float, s, optional
        Virtual time for which nobody held the twin, where it should not be measured.

    Raises
    ------
    DeviceUnavailable
        When another process holds the twin.
    InputError
        For a file that is not a twin's memory.
    """
    if outage is not None and not (math.isfinite(outage) and outage >= 0):
        raise InputError(f"expected an outage of 0 s or more; got {outage:g} s")
    if not path.is_file():
        return VirtualClock(speed=speed)
    with _owned(path):
        story = read(path)
    if story is None:
        return VirtualClock(speed=speed)
    return VirtualClock(story.start, speed, elapsed=story.origin + story.present(outage))


@contextmanager
def _owned(path: Path) -> Iterator[int]:
    """Hold the file for a moment."""
    descriptor = _own(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _own(path: Path) -> int:
    """Open the file and lock it; return its descriptor.

    Raises
    ------
    DeviceUnavailable
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DeviceUnavailable(f"the twin's memory cannot be opened: {error.strerror or error}", str(path)) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DeviceUnavailable(
            f"another process holds this instrument{_holder(path)}; end it, or wait until it has ended", str(path)
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise DeviceUnavailable(
            f"the twin's memory cannot be locked: {error.strerror or error}; keep it on a local disk", str(path)
        ) from None
    return descriptor


def _holder(path: Path) -> str:
    with suppress(InputError):
        story = read(path)
        if story is not None:
            return f" (process {story.process})"
    return ""


@dataclass
class Memory:
    """An open memory, owned by this process until :meth:`close`.

    Attributes
    ----------
    path : Path
    descriptor : int
    origin : float, s
        On the clock's monotonic scale, when the world began.
    start : datetime
        UTC, when the world began.
    time : float, s
        Of the world, when the file was opened.
    told : list of mapping
        What the hardware had been told until then; empty for a new world.
    speed : float or None
    """

    path: Path
    descriptor: int
    origin: float
    start: datetime
    time: float
    told: list[Mapping[str, Any]]
    speed: float | None
    _header: bytes
    _end: int
    _unwritten: bytes = field(default=b"", repr=False)

    @classmethod
    def open(cls, path: Path, clock: Clock, seed: int, description: str) -> Memory:
        """Hold a memory for a twin on a clock, an old one or a new one.

        Parameters
        ----------
        path : Path
        clock : Clock
            For a memory that exists, a virtual one has to come from :func:`continued_clock`.
        seed : int
        description : str
            The instrument's :func:`fingerprint`.

        Raises
        ------
        DeviceUnavailable
            When another process holds the file, or it cannot be written.
        InputError
            For another file, another instrument's memory, or a clock that lies behind it.
        """
        descriptor = _own(path)
        try:
            story = read(path)
            if story is None:
                return cls._begin(path, descriptor, clock, seed, description)
            return cls._continue(path, descriptor, clock, story, (seed, description))
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def _begin(cls, path: Path, descriptor: int, clock: Clock, seed: int, description: str) -> Memory:
        elapsed = clock.monotonic() if clock.virtual else 0.0
        header = {
            "format": FORMAT,
            "start": (clock.now() - timedelta(seconds=elapsed)).isoformat(),
            "origin": elapsed,
            "seed": seed,
            "fingerprint": description,
        }
        first = json.dumps(header).encode() + b"\n"
        end = len(first) + _MOMENT_LENGTH
        return cls(path, descriptor, clock.monotonic(), clock.now(), 0.0, [], _speed(clock), first, end)

    @classmethod
    def _continue(cls, path: Path, descriptor: int, clock: Clock, story: Story, same: tuple[int, str]) -> Memory:
        if (story.seed, story.fingerprint) != same:
            raise InputError(
                "this is the memory of a twin with another description or seed; name another file for this one, or "
                "move it away to begin with a new specimen",
                str(path),
            )
        if clock.virtual:
            origin, now = story.origin, clock.monotonic() - story.origin
        else:
            now = story.present()
            origin = clock.monotonic() - now
        if now < story.now:
            raise InputError(
                f"the clock lies {story.now - now:g} s before what the twin remembers; make it with continued_clock",
                str(path),
            )
        begun = story.start + timedelta(seconds=story.origin)
        first = os.pread(descriptor, 4096, 0)
        first = first[: first.index(b"\n") + 1]
        return cls(path, descriptor, origin, begun, now, story.told, _speed(clock), first, story.length)

    def begin(self) -> None:
        """Remember from now on; before this, the file is only held and read.

        Raises
        ------
        DeviceUnavailable
        """
        try:
            os.pwrite(self.descriptor, self._header + self._moment(self.time), 0)
            os.ftruncate(self.descriptor, self._end)  # a torn last line
        except OSError as error:
            raise DeviceUnavailable(
                f"the twin's memory cannot be written: {error.strerror or error}", str(self.path)
            ) from None

    def _moment(self, now: float) -> bytes:
        speed = "null" if self.speed is None else repr(self.speed)
        line = f'{{"now": {now!r}, "real": {time.time()!r}, "speed": {speed}, "process": {os.getpid()}}}'
        return line.ljust(_MOMENT_LENGTH - 1).encode() + b"\n"

    def note(self, now: float) -> None:
        """Remember that the world's clock has reached ``now`` (s)."""
        with suppress(OSError):  # its place is there: what fails is the disk itself, and the lines that follow tell
            os.pwrite(self.descriptor, self._moment(now), len(self._header))

    def write(self, at: float, **what: Any) -> None:
        """Remember what the hardware was told at ``at`` (s of the world).

        A full disk does not hold the hardware up: what could not be written goes before the next line, or is lost if
        the process is killed first.
        """
        line = json.dumps({"at": at, "real": time.time(), **what}).encode() + b"\n"
        self._unwritten += line
        self._flush()

    def _flush(self) -> OSError | None:
        try:
            written = os.pwrite(self.descriptor, self._unwritten, self._end)
        except OSError as error:
            return error
        if written == len(self._unwritten):  # else the disk is full: a torn end is written over
            self._end += written
            self._unwritten = b""
        return None

    def close(self) -> None:
        """Let go of the file.

        Raises
        ------
        DeviceError
            When what was told at last could not be written.
        """
        try:
            error = self._flush() if self._unwritten else None
            if self._unwritten:
                reason = "no room left" if error is None else error.strerror or str(error)
                raise DeviceError(f"the last setpoints could not be remembered: {reason}", str(self.path))
        finally:
            os.close(self.descriptor)


def _speed(clock: Clock) -> float | None:
    """Return at what pace the world goes on while nobody holds it."""
    return clock.speed if isinstance(clock, VirtualClock) else None

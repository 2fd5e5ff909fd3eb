"""What guard, owner and whoever resumes a run share: who lives, locks, and the guard's state and journal on the disk.

Only the standard library is imported here: a guard waits all night in a few megabytes.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

STATE = "guard.json"
"""Who guards whom, and where it stands: watching, waiting, taking, safe, relieved or dismissed."""
LOCK = "guard.lock"
"""Held by a guard for its whole life."""
CLAIM = "guard.claim"
"""Held by whoever decides what happens next: a guard that takes over, or a process that relieves it."""
RELIEF = "guard.relief"
"""Made by whoever relieves the guard; it ends when it sees it."""
JOURNAL = "guard.jsonl"
"""What the guard has to tell, until the database has it."""
ENTERED = "guard.entered.jsonl"
OUTPUT = "guard.log"
"""What went wrong with the guard itself."""


def pause(seconds: float) -> None:
    """Wait for real seconds: a guard has no instrument yet, and so no clock of one."""
    threading.Event().wait(max(0.0, seconds))


@dataclass(frozen=True, slots=True)
class Life:
    """A process, told apart from a later one that was given the same number.

    Attributes
    ----------
    pid : int
    started : str
        Ticks after the computer's start, as the kernel tells; empty where it tells nothing.
    """

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Life:
        """Return the process that has a number now."""
        return cls(pid, _stat(pid)[1])

    @classmethod
    def read(cls, given: Any) -> Life | None:
        """Return the process that :meth:`to_json` wrote; None for anything else."""
        if isinstance(given, dict) and isinstance(given.get("pid"), int) and isinstance(given.get("started"), str):
            return cls(given["pid"], given["started"])
        return None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"pid": self.pid, "started": self.started}

    @property
    def alive(self) -> bool:
        """Whether it still lives; one that only waits to be buried does not."""
        state, started = _stat(self.pid)
        if state:
            return state not in "ZX" and started == self.started
        if Path("/proc/self").exists():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, ``seconds`` at the most; return whether it has."""
        for _ in range(max(1, round(seconds / 0.02))):
            if not self.alive:
                return True
            pause(0.02)
        return not self.alive


def _stat(pid: int) -> tuple[str, str]:
    """Return state and start time of a process as Linux tells them; empty where there is none."""
    try:
        # The name, in parentheses, may hold anything; what follows is fields 3, 4, …; the start time is field 22.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), fields[19].decode()
    except (OSError, IndexError):
        return "", ""


class Lock:
    """A lock on a file, which the kernel releases when its holder ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Take it if nobody has it; return whether it is held now."""
        if self._file is None:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return False
            self._file = file
        return True

    def release(self) -> None:
        """Let it go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def keep_through_exec(self) -> int:
        """Have it held by the program that takes this process's place; return the number of the open file."""
        assert self._file is not None  # noqa: S101  whoever keeps it has it
        os.set_inheritable(self._file, True)
        return self._file

    def adopt(self, file: int) -> None:
        """Hold what :meth:`keep_through_exec` returned in the program before."""
        os.set_inheritable(file, False)
        self._file = file

    def wait(self, seconds: float) -> bool:
        """Take it within ``seconds``; return whether it is held now."""
        for _ in range(max(1, round(seconds / 0.02))):
            if self.take():
                return True
            pause(0.02)
        return self.take()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def read_state(folder: Path) -> dict[str, Any]:
    """Return what the last guard of a folder said of itself; nothing where there was none."""
    try:
        state = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write it whole or not at all."""
    fresh = folder / f"{STATE}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / STATE)


def note(folder: Path, level: str, message: str, data: Any = None, *, state: str = "") -> None:
    """Write a line to the guard's journal; it is on the disk when this returns.

    Parameters
    ----------
    folder : Path
    level, message : str
    data : JSON data, optional
    state : str
        That the run is in from now on.
    """
    line = {
        "key": uuid.uuid4().hex,
        "real": datetime.now(UTC).isoformat(),
        "level": level,
        "message": message,
        "data": data,
        "state": state,
    }
    with (folder / JOURNAL).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return the lines that the database does not have yet; one that was cut off by a power failure is left out."""
    try:
        text = (folder / JOURNAL).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and "key" in line]

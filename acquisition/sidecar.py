"""A journal beside the frames, for what the database cannot take just now: one line of JSON for each transaction.

A line holds a key (the ledger's, and a number that grows), the entries, and a checksum of all that follows it. It is
forced to the disk before it counts. What a killed process left of its last line has no newline or another checksum: it
was never acknowledged, and is not taken for an entry.

Room for the first thousands of entries is taken while there is some: a disk that is full of frames still takes them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from acquisition.durable import make_folder, sync_folder
from acquisition.entry import Entry
from drivers.errors import RunError, StoreError

NAME = "sidecar.jsonl"
RESERVE = ".sidecar.reserve"
ROOM = 1 << 20
"""Bytes that are taken beforehand."""

_START = b'{"checksum": "'
_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Line:
    """Entries that belong in one transaction.

    Attributes
    ----------
    session : str
        Of the ledger that wrote it.
    sequence : int
        Grows from line to line of a ledger.
    entries : sequence of Entry
    """

    session: str
    sequence: int
    entries: Sequence[Entry]

    def encode(self) -> bytes:
        """Return the line's bytes, newline included."""
        data = {"key": f"{self.session}:{self.sequence}", "entries": [entry.to_json() for entry in self.entries]}
        body = json.dumps(data, ensure_ascii=True).encode("ascii")[1:]
        return _START + _checksum(body) + b'", ' + body + b"\n"

    @classmethod
    def decode(cls, text: bytes) -> Line | None:
        """Return what a line says, None where it is torn or damaged."""
        place = len(_START) + _DIGITS
        body = text[place + 3 :]
        if not text.startswith(_START) or text[len(_START) : place] != _checksum(body):
            return None
        data = json.loads(text)
        session, _, sequence = data["key"].rpartition(":")
        return cls(session, int(sequence), [Entry.from_json(entry) for entry in data["entries"]])


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:_DIGITS].encode("ascii")


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of a side-car: the line, or None where it is damaged, and the place behind it in the file."""

    line: Line | None
    end: int


def read(path: Path, start: int = 0) -> Iterator[Found]:
    """Yield the whole lines of a side-car; a torn last line is no line."""
    with path.open("rb") as file:
        file.seek(start)
        end = start
        for text in file:
            if not text.endswith(b"\n") or text.startswith(b"\0"):
                return
            end += len(text)
            yield Found(Line.decode(text[:-1]), end)


class Sidecar:
    """The side-car of one run, held by one process at a time.

    Parameters
    ----------
    path : Path
    reserve : bool
        Whether to take room on the disk beforehand.

    Raises
    ------
    RunError
        When another process holds it.
    StoreError
        When a side-car that is there cannot be read.

    Attributes
    ----------
    replayed : int
        Up to which byte it is in the database.
    damaged : int
        Lines among those that cannot be read.
    """

    def __init__(self, path: Path, *, reserve: bool = True) -> None:
        self.path = path
        self._wants_reserve = reserve
        self._file: int | None = None
        self._length = 0
        self.replayed = 0
        self.damaged = 0
        if path.exists():
            self._take_over()
        else:
            self._reserve()

    @property
    def length(self) -> int:
        """Bytes of whole lines."""
        return self._length

    @property
    def exists(self) -> bool:
        """Whether there is a side-car, with lines or without."""
        return self.path.exists()

    def append(self, lines: bytes) -> None:
        """Write whole lines; when this returns, they survive a power cut.

        Raises
        ------
        OSError
            As the system says it; then nothing of them counts.
        """
        if self._file is None or not self.path.exists():
            self._begin()
        assert self._file is not None  # noqa: S101  _begin made it
        try:
            done = 0
            while done < len(lines):
                done += os.pwrite(self._file, lines[done:], self._length + done)
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._length)
            raise
        self._length += len(lines)

    def lines(self, most: int) -> list[Found]:
        """Return up to ``most`` lines of those that are not in the database yet."""
        if self.replayed >= self._length:
            return []
        within = takewhile(lambda piece: piece.end <= self._length, read(self.path, self.replayed))
        return list(islice(within, most))

    def remove(self) -> None:
        """Remove it after it was replayed; one with damaged lines is kept under another name."""
        if self.damaged:
            self.path.rename(_free(self.path, "damaged"))
            self.damaged = 0
        else:
            self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)
        self._let_go()
        self._length = self.replayed = 0
        self._reserve()

    def close(self) -> None:
        """Let go of it; what is in it stays, the room that was taken for nothing does not."""
        if self._file is not None and not self.path.exists():
            with suppress(OSError):
                self.path.with_name(RESERVE).unlink(missing_ok=True)
        self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _reserve(self) -> None:
        """Take room on the disk, where there is some; without it, entries are written all the same."""
        if not self._wants_reserve:
            return
        try:
            make_folder(self.path.parent)
            self._open(self.path.with_name(RESERVE))
            assert self._file is not None  # noqa: S101  _open made it
            os.posix_fallocate(self._file, 0, ROOM)
        except OSError:
            self._let_go()

    def _begin(self) -> None:
        """Make the side-car of the reserve, or anew."""
        reserve = self.path.with_name(RESERVE)
        if self._file is not None and reserve.exists():
            reserve.rename(self.path)
        else:  # somebody removed it, or there was no room
            self._let_go()
            make_folder(self.path.parent)
            self._open(self.path)
        self._length = self.replayed = 0
        sync_folder(self.path.parent)

    def _open(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._let_go()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunError("another process plays this run; let it end", str(path)) from None
            raise

    def _take_over(self) -> None:
        """Go on with a side-car that is there; what was torn is cut off."""
        try:
            self._open(self.path)
            for piece in read(self.path):
                # A last line with another checksum was torn as well: its blocks reached the disk in another order.
                self._length = self._length if piece.line is None else piece.end
            assert self._file is not None  # noqa: S101  _open made it
            os.ftruncate(self._file, self._length)
        except OSError as error:
            raise StoreError(f"the side-car journal cannot be read: {error.strerror}", str(self.path)) from None


def _free(path: Path, word: str) -> Path:
    """Return a name for a file to be kept under."""
    number = 1
    while (kept := path.with_name(f"{path.stem}.{word}-{number}{path.suffix}")).exists():
        number += 1
    return kept


def discard_reserve(path: Path) -> None:
    """Remove the reserve that a killed process left; that of a living one stays."""
    with suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)

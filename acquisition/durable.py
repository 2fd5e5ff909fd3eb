"""Files that are there whole, or not at all: written aside, forced to the disk, renamed.

Frames are large and are not read again soon, so they go past the page cache where the file system allows it
(``O_DIRECT``): the cache stays free for what is in use, and the write takes the same time from the first frame of the
night to the last. Direct writes need memory that is aligned; one such buffer is kept and used again.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path

Buffer = bytes | memoryview

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 4096


class Writer:
    """Writes files durably, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory = mmap.mmap(-1, _BLOCK)

    def write(self, path: Path, pieces: Sequence[Buffer]) -> None:
        """Write the pieces one after the other as a new file; when this returns, it will survive a power cut.

        Raises
        ------
        OSError
            As the system says it; then nothing is left behind. A file of the same name is replaced.
        """
        part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            with self._lock:
                if not self._write_directly(part, pieces):
                    _write_through_cache(part, pieces)
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def _write_directly(self, path: Path, pieces: Sequence[Buffer]) -> bool:
        """Write past the page cache; return whether this file system can."""
        size = sum(len(piece) for piece in pieces)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_DIRECT", 0), 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        try:
            _reserve(descriptor, size)
            with self._gathered(pieces, size) as content:
                done = 0
                while done < len(content):
                    written = os.write(descriptor, content[done:])
                    done += written
                    if written % _BLOCK:  # the rest would not be aligned
                        return False
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        finally:
            os.close(descriptor)
        return True

    def _gathered(self, pieces: Sequence[Buffer], size: int) -> memoryview:
        """Return the pieces in the aligned buffer, padded with zeros to whole blocks."""
        whole = -(-size // _BLOCK) * _BLOCK
        if len(self._memory) < whole:
            self._memory = mmap.mmap(-1, whole)
        view = memoryview(self._memory)[:whole]
        place = 0
        for piece in pieces:
            view[place : place + len(piece)] = piece
            place += len(piece)
        view[size:] = bytes(whole - size)
        return view


def _write_through_cache(path: Path, pieces: Sequence[Buffer]) -> None:
    with path.open("wb", buffering=0) as file:
        _reserve(file.fileno(), sum(len(piece) for piece in pieces))
        for piece in pieces:
            left = memoryview(piece)
            while left:
                left = left[file.write(left) :]
        os.fsync(file.fileno())


def _reserve(descriptor: int, size: int) -> None:
    """Take the room on the disk first: a full disk is told before a byte is written, and the write is faster."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        # A file system that cannot reserve (some on the network) takes the bytes as they come.


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk: a rename is durable only then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

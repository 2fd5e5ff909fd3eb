"""Frames on disk: one OME-TIFF each, whole or not there at all.

A frame is written to a temporary file in the folder where it will lie, forced to the disk, renamed, and the folder
forced to the disk as well. When :meth:`Store.append` has returned, the frame survives a power cut, and plain tifffile,
ImageJ and Fiji open it. Nothing is ever written into a file that already bears a frame's name.

The files lie at ``<root>/<run>/frames/000042.ome.tif``: uint16, one page for each segment, uncompressed unless asked
otherwise. What they carry beside the counts is described in :mod:`acquisition.frame_record`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from acquisition import frame_record
from acquisition.durable import NO_ROOM, Buffer, Writer, make_folder
from acquisition.tiff import tiff
from drivers.errors import DiskFull, InputError, StoreError
from drivers.frame import Frame

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_NAME = re.compile(r"(\d{6,})\.ome\.tif")


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """Where a frame lies, and how to tell that it is still the same.

    Attributes
    ----------
    path : Path
        Relative to the store's root.
    sha256 : str
        Of the whole file, hexadecimal.
    bytes : int
        Size of the file.
    """

    path: Path
    sha256: str
    bytes: int


class Store:
    """The folder where the frames of all runs are kept.

    Parameters
    ----------
    root : Path
        Made when the first frame arrives.
    compression : {"zlib"}, optional
        None writes as fast as the disk takes it; ``zlib`` halves the size at about a tenth of the speed.

    Notes
    -----
    May be used from several threads.
    """

    def __init__(self, root: Path, compression: Literal["zlib"] | None = None) -> None:
        self.root = Path(root)
        self.compression = compression
        self._writer = Writer()
        # The checksum is worked out on another core while the bytes go to the disk: hashlib lets go of the lock.
        self._hasher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="frame-checksum")

    def close(self) -> None:
        """Let go of the thread that computes checksums."""
        self._hasher.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def folder(self, run_id: str) -> Path:
        """Return where a run's files lie.

        Raises
        ------
        InputError
            For a run whose name could lead out of the store.
        """
        if not _RUN.fullmatch(run_id):
            raise InputError(f"expected a run's id of letters, digits, points and hyphens; got {run_id!r}")
        return self.root / run_id

    def append(self, run_id: str, number: int, frame: Frame) -> StoredFrame:
        """Write a frame; when this returns it will survive a power cut.

        A file that already bears the number was written but never acknowledged, since the log holds a number only
        once. It is set aside as ``000042.set-aside-1.ome.tif``, not overwritten.

        Parameters
        ----------
        run_id : str
        number : int
            From 0, within the run.
        frame : Frame

        Raises
        ------
        DiskFull
            When there is no room; nothing is left behind.
        StoreError
            When the disk refuses for another reason; the message holds path and reason.
        """
        if number < 0:
            raise InputError(f"expected a frame number of 0 or more; got {number}")
        path = self.folder(run_id) / "frames" / f"{number:06d}.ome.tif"
        pieces = encoded(frame, self.compression)
        size = sum(len(piece) for piece in pieces)
        digest = self._hasher.submit(_sha256, pieces)
        try:
            make_folder(path.parent)
            _set_aside(path)
            self._writer.write(path, pieces)
        except OSError as error:
            _refuse(error, path, size)
        return StoredFrame(path.relative_to(self.root), digest.result(), size)

    def numbers(self, run_id: str) -> list[int]:
        """Return the numbers of the frames that lie in a run's folder, ascending."""
        folder = self.folder(run_id) / "frames"
        names = (_NAME.fullmatch(path.name) for path in folder.glob("*.ome.tif"))
        return sorted(int(match.group(1)) for match in names if match)

    def sweep(self, run_id: str) -> list[Path]:
        """Remove what a killed process left half written in a run's folder; return what was removed."""
        left = sorted((self.folder(run_id) / "frames").glob(".*.part"))
        for path in left:
            path.unlink(missing_ok=True)
        return left

    def absolute(self, path: Path | str) -> Path:
        """Return where a path of the log (relative to the root) lies on this computer."""
        return self.root / path

    def read(self, path: Path | str) -> Frame:
        """Return a frame by its path in the log; errors as :func:`read_frame`."""
        return read_frame(self.absolute(path))

    def verify(self, stored: StoredFrame) -> None:
        """Check that a frame is there and still holds what was written.

        Raises
        ------
        StoreError
            That says what differs.
        """
        path = self.absolute(stored.path)
        try:
            size = path.stat().st_size
            if size != stored.bytes:
                raise StoreError(
                    f"expected {stored.bytes} bytes; the file holds {size}. Restore it from a copy", str(path)
                )
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StoreError(f"the frame cannot be read: {error.strerror}", str(path)) from None
        if found != stored.sha256:
            raise StoreError("the content has changed since it was written; restore it from a copy", str(path))


def read_frame(path: Path) -> Frame:
    """Return the frame that a file of the store holds, with everything it was written with.

    Raises
    ------
    StoreError
        When the file is not there, is cut short, or was not written by this program; one sentence each.
    """
    import tifffile

    where = str(path)
    try:
        with _quiet(), tifffile.TiffFile(path) as tif:
            description = tif.pages.first.description
            images = [page.asarray() for page in tif.pages]
    except OSError as error:
        raise StoreError(f"the frame cannot be read: {error.strerror or error}", where) from None
    except Exception as error:  # noqa: BLE001  tifffile meets damaged files with whatever error comes first
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StoreError(f"the file is damaged or cut short ({reason})", where) from None
    if len({image.shape for image in images}) != 1:
        raise StoreError("the file is damaged: its pages differ in size", where)
    try:
        return frame_record.decode(description, _counts(images))
    except StoreError as error:
        raise StoreError(error.message, where) from None
    except InputError as error:
        raise StoreError(f"the file's metadata do not fit its pages: {error.message}", where) from None


def _counts(images: list[NDArray[Any]]) -> NDArray[np.uint16]:
    counts: NDArray[np.uint16] = np.stack(images)
    return counts


def encoded(frame: Frame, compression: Literal["zlib"] | None = None) -> list[Buffer]:
    """Return the bytes of a frame's OME-TIFF, in pieces.

    X and Y resolution stand in the TIFF tags as well as in the OME-XML, because not every program reads the latter.
    """
    return tiff(frame.counts, frame.beam.pixel_size, frame_record.encode(frame), "Rilievo", compression)


def _sha256(pieces: list[Buffer]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _set_aside(path: Path) -> None:
    """Move a file of the same name out of the way, under a name that is free."""
    attempt = 1
    while path.exists():
        aside = path.with_name(path.name.replace(".ome.tif", f".set-aside-{attempt}.ome.tif"))
        if not aside.exists():
            path.rename(aside)
        attempt += 1


def _refuse(error: OSError, path: Path, size: int) -> NoReturn:
    """Raise what the operating system said as an error that tells the remedy."""
    if error.errno in NO_ROOM:
        free = _free_bytes(path)
        raise DiskFull(
            f"a frame of {size / 1e6:.1f} MB does not fit on the disk ({free / 1e6:.1f} MB free); "
            "make room or choose another folder with --data",
            str(path),
        ) from None
    raise StoreError(
        f"the frame cannot be written: {error.strerror or error}; check that the folder exists and may be written to",
        str(path),
    ) from None


def _free_bytes(path: Path) -> int:
    for folder in path.parents:
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile from logging what this thread is about to report as an error of its own."""
    thread = threading.get_ident()

    def others_only(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger = logging.getLogger("tifffile")
    logger.addFilter(others_only)
    try:
        yield
    finally:
        logger.removeFilter(others_only)

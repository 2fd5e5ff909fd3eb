"""The bytes of a baseline TIFF file (TIFF 6.0, little-endian), in pieces that need not be copied.

All directories stand before the pixels, so that the file is a head of a few kilobytes followed by the pages as they
lie in memory: head and pages go to the disk in one gathered write, and the checksum runs over the same pieces.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acquisition.durable import Buffer
from drivers.errors import InputError

_SHORT, _LONG, _RATIONAL, _ASCII = 3, 4, 5, 2
_LARGEST = 2**32 - 1
_PIXELS_AT = 16  # alignment of the pixel data


def tiff(
    pages: NDArray[np.uint16],
    pixel_size: float,
    description: bytes,
    software: str,
    compression: Literal["zlib"] | None = None,
) -> list[Buffer]:
    """Return the pieces of a TIFF file; written one after the other they make the file.

    Parameters
    ----------
    pages : (N, H, W) uint16 array
    pixel_size : float, m
        Goes to the resolution tags, in pixels per centimetre.
    description : bytes
        ASCII, of the first page.
    software : str
    compression : {"zlib"}, optional

    Raises
    ------
    InputError
        For more than 4 GiB, which this kind of TIFF cannot address.
    """
    if pages.nbytes > _LARGEST - 2**20:  # room for the head
        raise InputError(f"a frame of {pages.nbytes / 1e9:.1f} GB is too large for one TIFF file; scan fewer pixels")
    little = np.ascontiguousarray(pages, dtype="<u2")
    data: list[Buffer] = [memoryview(page).cast("B") for page in little]
    if compression:
        data = [zlib.compress(page, level=1) for page in data]
    sizes = [len(page) for page in data]
    common = _Common(little.shape[1], little.shape[2], _resolution(pixel_size), 8 if compression else 1)
    # The directories' lengths do not depend on the offsets in them: lay out once to measure, once for good.
    length = len(_head(common, sizes, [0] * len(sizes), description, software))
    offsets = list(accumulate(sizes, initial=length))[:-1]
    return [_head(common, sizes, offsets, description, software), *data]


class _Common:
    """What all pages have in common."""

    def __init__(self, rows: int, columns: int, resolution: tuple[int, int], compression: int) -> None:
        self.rows, self.columns, self.resolution, self.compression = rows, columns, resolution, compression


def _resolution(pixel_size: float) -> tuple[int, int]:
    """Return pixels per centimetre as a ratio of two 32-bit numbers."""
    per_centimetre = 0.01 / pixel_size
    if not 1e-6 < per_centimetre < _LARGEST:
        raise InputError(f"expected a pixel size from 3 pm to 10 km; got {pixel_size:g} m")
    ratio = Fraction(per_centimetre).limit_denominator(max(1, int(_LARGEST / max(1.0, per_centimetre))))
    return ratio.numerator, ratio.denominator


def _head(common: _Common, sizes: Sequence[int], offsets: Sequence[int], description: bytes, software: str) -> bytes:
    """Return header and directories, padded to where the pixels begin."""
    head = bytearray(struct.pack("<2sHI", b"II", 42, 8))
    for index, (size, offset) in enumerate(zip(sizes, offsets, strict=True)):
        entries = _entries(common, size, offset)
        if index == 0:
            entries[270] = (_ASCII, description + b"\0")
        entries[305] = (_ASCII, software.encode("ascii", "replace") + b"\0")
        head += _directory(entries, len(head), last=index == len(sizes) - 1)
    return bytes(head + b"\0" * (-len(head) % _PIXELS_AT))


def _entries(common: _Common, size: int, offset: int) -> dict[int, tuple[int, bytes]]:
    """Return tag, type and value of what every page says."""
    resolution = struct.pack("<II", *common.resolution)
    numbers = {
        254: (_LONG, 0),  # a full page
        256: (_LONG, common.columns),
        257: (_LONG, common.rows),
        258: (_SHORT, 16),  # bits
        259: (_SHORT, common.compression),
        262: (_SHORT, 1),  # zero is black
        273: (_LONG, offset),
        277: (_SHORT, 1),  # sample per pixel
        278: (_LONG, common.rows),  # one strip
        279: (_LONG, size),
        296: (_SHORT, 3),  # centimetre
        339: (_SHORT, 1),  # unsigned
    }
    entries = {
        tag: (kind, struct.pack("<H" if kind == _SHORT else "<I", value)) for tag, (kind, value) in numbers.items()
    }
    return {**entries, 282: (_RATIONAL, resolution), 283: (_RATIONAL, resolution)}


def _directory(entries: dict[int, tuple[int, bytes]], start: int, *, last: bool) -> bytes:
    """Return one directory and the values that do not fit into it; the next begins where it ends."""
    count = {_SHORT: 2, _LONG: 4, _RATIONAL: 8, _ASCII: 1}
    place = start + 2 + 12 * len(entries) + 4
    table, values = bytearray(struct.pack("<H", len(entries))), bytearray()
    for tag, (kind, value) in sorted(entries.items()):
        table += struct.pack("<HHI", tag, kind, len(value) // count[kind])
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack("<I", place + len(values))
            values += value + b"\0" * (len(value) % 2)
    table += struct.pack("<I", 0 if last else place + len(values))
    return bytes(table + values)

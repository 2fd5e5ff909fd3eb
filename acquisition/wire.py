"""What travels: numbers and text as msgpack, records by name, quantities as value and unit, arrays beside the message.

Nothing else can be said on the wire: no classes but the ones listed here, no pickled objects, no code. Arrays and files
travel as annotations of Pyro's messages, so that they are neither copied into the message nor out of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray
from pint.facets.plain import PlainQuantity

from acquisition import frame_record, outbox, ownership, records, seat, triggers
from acquisition.bookings import Booking
from acquisition.preview import Preview
from acquisition.store import StoredFrame
from drivers.errors import DocumentError, Problem, RilievoError
from drivers.frame import Frame, Reading
from drivers.sample import HeightMap
from drivers.units import quantity, quantity_json

KEY = "!"
"""In a map: the name of what it stands for."""
RECORDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        records.Run,
        records.Action,
        records.Setpoint,
        records.Channel,
        records.Series,
        records.FrameEntry,
        records.FigureEntry,
        records.ReconstructionEntry,
        records.Event,
        StoredFrame,
        Booking,
        triggers.At,
        triggers.Cron,
        triggers.After,
        outbox.Alert,
        Reading,
        Preview,
    )
}
_FIELDS = {kind: tuple(entry.name for entry in dataclasses.fields(kind)) for kind in RECORDS.values()}
_TYPES = ("|u1", "<u2", "<f4", "<f8", "<M8[us]", "|b1")
_TIME = 1
"""Code of msgpack's extension for a moment: microseconds since 1970, UTC."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NM = 1e-9
MOST_PIECES = 64
_ERRORS_ELSEWHERE = (ownership.Owned,)
"""Kept here so that a client, which imports nothing else of the server, knows their classes."""


class WireError(RilievoError):
    """What came over the wire is not what was agreed on."""

    code = "wire"
    number = 611


class Packed:
    """A message that is ready to be sent.

    Attributes
    ----------
    body : bytes
        msgpack.
    pieces : list of bytes-like
        What travels beside it.
    """

    def __init__(self, value: Any) -> None:
        self.pieces: list[Any] = []
        self.body: bytes = msgpack.packb(self._plain(value), use_bin_type=True)

    def _plain(self, value: Any) -> Any:
        if value is None or (isinstance(value, bool | int | str) and not isinstance(value, Enum)):
            return value
        if isinstance(value, float):
            return float(value)
        if isinstance(value, datetime):
            return msgpack.ExtType(_TIME, ((value - _EPOCH) // _MICROSECOND).to_bytes(8, "big", signed=True))
        if isinstance(value, Mapping):
            return self._map(value)
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | str):
            return [self._plain(item) for item in value]
        fields = _FIELDS.get(type(value))
        if fields is not None:
            return {KEY: type(value).__name__, **{name: self._plain(getattr(value, name)) for name in fields}}
        return self._special(value)

    def _map(self, value: Mapping[Any, Any]) -> Any:
        if KEY in value or any(not isinstance(key, str) for key in value):
            return {KEY: "map", "of": [[self._plain(key), self._plain(item)] for key, item in value.items()]}
        return {key: self._plain(item) for key, item in value.items()}

    def _special(self, value: Any) -> Any:
        if isinstance(value, PlainQuantity):
            return quantity_json(value)
        if isinstance(value, Enum):
            return self._plain(value.value)
        if isinstance(value, Path):
            return {KEY: "path", "is": str(value)}
        if isinstance(value, bytes | bytearray):
            return {KEY: "bytes", "at": self._beside(value)}
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.generic):
            return self._plain(value.item())
        if isinstance(value, Frame):
            return {KEY: "Frame", "text": frame_record.encode(value).decode(), "counts": self._array(value.counts)}
        if isinstance(value, HeightMap):
            z = self._array((value.z / _NM).astype(np.float32))
            return {KEY: "HeightMap", "z": z, "pixel_size": value.pixel_size, "origin": list(value.origin)}
        if isinstance(value, seat.Heights):
            return {
                KEY: "Heights",
                "run_id": value.run_id,
                "number": value.number,
                "surface": self._plain(value.surface),
                "sigma": self._array((value.sigma / _NM).astype(np.float32)),
                "figures": self._map(value.figures),
            }
        raise TypeError(f"{type(value).__name__} cannot travel")

    def _array(self, value: NDArray[Any]) -> Any:
        whole = np.ascontiguousarray(value)
        if whole.dtype.str not in _TYPES:
            whole = whole.astype(whole.dtype.newbyteorder("<"))
        if whole.dtype.str not in _TYPES:
            raise TypeError(f"an array of {whole.dtype} cannot travel")
        at = self._beside(memoryview(whole.reshape(-1).view(np.uint8).data) if whole.size else b"")
        return {KEY: "array", "type": whole.dtype.str, "shape": list(whole.shape), "at": at}

    def _beside(self, piece: Any) -> int:
        self.pieces.append(piece)
        if len(self.pieces) > MOST_PIECES:
            raise TypeError("too many arrays for one message")
        return len(self.pieces) - 1


def piece_name(number: int) -> str:
    """Return the name of an annotation: four letters."""
    return f"B{number:03d}"


def plain(body: Any, most: int = 2**21) -> Any:
    """Return what a message of untrusted msgpack holds: maps with text as keys, lists, text, numbers; nothing else.

    Raises
    ------
    WireError
        For anything else.
    """
    if len(body) > most:
        raise WireError(f"expected a message of at most {most} bytes; got {len(body)}")
    try:
        return msgpack.unpackb(body, raw=False, strict_map_key=True, ext_hook=_no_extension)
    except WireError:
        raise
    except Exception as error:  # noqa: BLE001  msgpack meets damaged messages with whatever error comes first
        raise WireError(f"the message is no msgpack ({type(error).__name__})") from None


def _no_extension(code: int, data: bytes) -> Any:  # noqa: ARG001
    raise WireError(f"expected text and numbers; got an extension of msgpack ({code})")


def unpacked(body: Any, pieces: Mapping[str, Any]) -> Any:
    """Return what a :class:`Packed` message was made of; a quantity for every value with a unit.

    Raises
    ------
    WireError
        For what does not fit together.
    """
    try:
        return _Unpacking(pieces).value(
            msgpack.unpackb(body, raw=False, strict_map_key=True, ext_hook=_extension), deep=True
        )
    except RilievoError:
        raise
    except Exception as error:  # noqa: BLE001  whatever does not fit
        raise WireError(
            f"the answer cannot be read ({type(error).__name__}: {error}); are both of one version?"
        ) from None


def _extension(code: int, data: bytes) -> Any:
    if code != _TIME or len(data) != 8:
        raise WireError(f"an extension of msgpack is not known ({code})")
    return _EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))


class _Unpacking:
    def __init__(self, pieces: Mapping[str, Any]) -> None:
        self._pieces = pieces

    def value(self, given: Any, *, deep: bool) -> Any:
        if isinstance(given, list):
            return [self.value(item, deep=deep) for item in given]
        if not isinstance(given, dict):
            return given
        name = given.get(KEY)
        if name is None:
            if deep and given.keys() == {"value", "unit"} and isinstance(given["value"], int | float):
                return _quantity(given)
            return {key: self.value(item, deep=deep) for key, item in given.items()}
        kind = RECORDS.get(name)
        if kind is not None:
            return self._record(kind, given)
        return self._special(name, given)

    def _record(self, kind: type, given: Mapping[str, Any]) -> Any:
        # JSON data that a record carries (a plan, an event's data) stays as the log gives it.
        deep = kind is Reading
        values = {name: self.value(item, deep=deep) for name, item in given.items() if name != KEY}
        if kind is Preview:
            values |= {name: tuple(values[name]) for name in ("names", "low", "high")}
        return kind(**values)

    def _special(self, name: str, given: Mapping[str, Any]) -> Any:
        if name == "map":
            return {key: self.value(item, deep=False) for key, item in given["of"]}
        if name == "path":
            return Path(given["is"])
        if name == "bytes":
            return bytes(self._pieces[piece_name(given["at"])])
        if name == "array":
            return self._array(given)
        if name == "Frame":
            return frame_record.decode(given["text"], self._array(given["counts"]))
        if name == "HeightMap":
            z = self._array(given["z"]).astype(np.float64) * _NM
            return HeightMap(z, given["pixel_size"], tuple(given["origin"]))
        if name == "Heights":
            sigma = self._array(given["sigma"]).astype(np.float64) * _NM
            figures = self.value(given["figures"], deep=False)
            surface = self.value(given["surface"], deep=False)
            return seat.Heights(given["run_id"], given["number"], surface, sigma, figures)
        raise WireError(f"a {name!r} is not known here; are both of one version?")

    def _array(self, given: Mapping[str, Any]) -> NDArray[Any]:
        kind, shape = given["type"], tuple(given["shape"])
        if kind not in _TYPES:
            raise WireError(f"an array of {kind!r} is not known here")
        piece = self._pieces[piece_name(given["at"])] if math.prod(shape) else b""
        made = np.frombuffer(piece, dtype=kind)
        return made.reshape(shape)


def _quantity(given: Mapping[str, Any]) -> Any:
    return quantity(float(given["value"]), given["unit"])


def in_words(value: Any) -> Any:
    """Return an argument as it travels: a quantity as text that the other side reads to the last digit."""
    if isinstance(value, PlainQuantity):
        told = quantity_json(value)
        return f"{told['value']!r} {told['unit']}".strip()
    if isinstance(value, Path):
        return str(value)
    return value


def error_body(error: Exception) -> dict[str, Any]:
    """Return an error as it travels: its wire name, sentence and place."""
    if not isinstance(error, RilievoError):
        return {"code": RilievoError.code, "message": f"the server failed ({type(error).__name__})", "where": None}
    body: dict[str, Any] = {"code": error.code, "message": error.message, "where": error.where}
    if isinstance(error, DocumentError):
        body["problems"] = [[p.message, p.address, p.file, p.line, p.column] for p in error.problems]
    return body


def error_of(body: Any) -> RilievoError:
    """Return the error that the server raised, as the class that it raised; of a code unknown here, the base class."""
    try:
        code, message, where = str(body["code"]), str(body["message"]), body["where"]
        kind = _kinds().get(code, RilievoError)
        if kind is DocumentError:
            return DocumentError(Problem(*problem) for problem in body["problems"])
        return kind(message, None if where is None else str(where))
    except (KeyError, TypeError, ValueError):
        return WireError("the server told an error that cannot be read; are both of one version?")


def _kinds() -> dict[str, type[RilievoError]]:
    """Return every class of error by its wire name."""
    found: dict[str, type[RilievoError]] = {}
    waiting: list[type[RilievoError]] = [RilievoError]
    while waiting:
        kind = waiting.pop()
        found.setdefault(kind.code, kind)
        waiting.extend(kind.__subclasses__())
    return found

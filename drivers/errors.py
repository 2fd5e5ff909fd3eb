"""Errors that say what was expected, what came and what to do.

Every error has a ``code``: a stable name that travels in JSON and over the wire, so that a client can
raise the class that the server raised.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Response(StrEnum):
    """What a night does about an error that nobody is awake to look at.

    ``retry``: a bounded number of times, with growing pauses. ``pause``: wait, sample safe and beam off, until the
    cause has gone. ``alert``: tell somebody and go on. ``safe``: end in the safe state.
    """

    RETRY = "retry"
    PAUSE = "pause"
    ALERT = "alert"
    SAFE = "safe"


class RilievoError(Exception):
    """Something that Rilievo can explain.

    Parameters
    ----------
    message : str
        One sentence or two: what was expected, what came, what to do.
    where : str, optional
        A place that a person can look up: ``recipe.yaml:8:5``, a device's name, a file.
    """

    code: ClassVar[str] = "error"
    number: ClassVar[int] = 900
    """Stable, for tables and alerts: 1xx input, 2xx devices, 3xx frames, 4xx database, 5xx runs, 9xx the program."""
    response: ClassVar[Response] = Response.SAFE
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class InputError(RilievoError):
    """What the user gave cannot be used; nothing was started."""

    code = "input"
    number = 100
    exit_code = 2


class QuantityError(InputError):
    """A number with a unit that could not be read, or has the wrong dimension."""

    code = "quantity"
    number = 101


class LimitError(InputError):
    """A setpoint outside the limits of its parameter."""

    code = "limit"
    number = 102


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a document.

    Attributes
    ----------
    message : str
        What is wrong and what to write instead.
    address : str
        Where in the document's structure, e.g. ``steps[1].hold``; empty for the whole.
    file, line, column : str, int, int
        Where in its text, counted from 1; line 0 where no text belongs to it.
    """

    message: str
    address: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    @property
    def where(self) -> str:
        """Return ``file:line:column``, or the file alone where no text belongs to the problem."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.address, self.message) if part)


class DocumentError(InputError):
    """A recipe, an instrument or a detector file with one problem or more: all of them, not only the first."""

    code = "document"
    number = 103

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ImageError(InputError):
    """An image file that cannot be used as a segment's signal."""

    code = "image"
    number = 104


class DriverError(InputError):
    """A driver that is unknown, failed to load or was given options it does not have."""

    code = "driver"
    number = 105


class DeviceError(RilievoError):
    """A device answered with an error, or not sensibly."""

    code = "device"
    number = 200
    response = Response.RETRY


class DeviceTimeout(DeviceError):
    """A device did not answer, or did not get where it was sent, within its deadline."""

    code = "device-timeout"
    number = 201
    response = Response.RETRY


class NotArrived(DeviceTimeout):
    """A device answers, but did not get where it was sent in the time that was allowed; asking again does not help."""

    code = "not-arrived"
    number = 203
    response = Response.SAFE


class DeviceUnavailable(DeviceError):
    """A device that cannot be reached."""

    code = "device-unavailable"
    number = 202
    response = Response.RETRY


class BeamError(DeviceError):
    """The probe current is not what was asked for, and the recipe wants the run to end safely."""

    code = "beam"
    number = 210
    response = Response.SAFE


class BeamLost(BeamError):
    """The probe current is not what was asked for, and the recipe waits for it to come back."""

    code = "beam-lost"
    number = 211
    response = Response.PAUSE


class StoreError(RilievoError):
    """A frame that could not be written or read back."""

    code = "store"
    number = 300
    response = Response.PAUSE
    exit_code = 2  # nothing was started; a store lost in mid-run ends the run as failed


class DiskFull(StoreError):
    """No room left where frames are kept."""

    code = "disk-full"
    number = 301
    response = Response.PAUSE


class DatabaseError(RilievoError):
    """The database cannot be used: locked, damaged, unreachable or made by another version."""

    code = "database"
    number = 400
    response = Response.PAUSE
    exit_code = 2  # nothing was started; a database lost in mid-run ends the run as failed


class RunError(RilievoError):
    """A run that cannot do what was asked of it."""

    code = "run"
    number = 500
    exit_code = 2


class DoseError(RunError):
    """An area has had the dose that the recipe allows it."""

    code = "dose"
    number = 510
    response = Response.ALERT


class DecisionError(RunError):
    """A decision could not be taken, and the recipe says that the run ends then."""

    code = "decision"
    number = 511


def system_error(error: OSError) -> StoreError:
    """Return what the operating system refused as an error that tells the remedy."""
    where = str(error.filename) if error.filename else None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("there is no room left on the disk; make room or choose another folder with --data", where)
    return StoreError(f"the operating system refused: {error.strerror or error}", where)

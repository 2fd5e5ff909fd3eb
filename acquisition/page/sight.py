"""What the page knows at a moment: frozen, made once for everybody who looks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from acquisition.bookings import Booking
from acquisition.records import Event, FrameEntry, ReconstructionEntry, Run

ENDED = ("finished", "stopped", "failed", "safe")


@dataclass(frozen=True, slots=True)
class Gauge:
    """A channel as it was read last, in its canonical unit; ``asked`` is its setpoint."""

    channel: str
    unit: str
    value: float
    time: datetime
    fresh: bool
    asked: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run stands: the stretch of its plan that is being played."""

    number: int
    count: int
    label: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that must not be overlooked.

    Attributes
    ----------
    level : str
        error, or warning.
    title, text : str
    event : int
        Number of the event that raised it; 0 for a state that lasts. Only the former can be put aside by a person.
    """

    level: str
    title: str
    text: str
    event: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Frames of a run, and what became of them."""

    lit: int = 0
    dark: int = 0
    done: int = 0
    failed: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Sight:
    """A look at the database.

    Attributes
    ----------
    time : datetime
        UTC, by this computer's clock, of the first look that saw this.
    run : Run or None
        The newest that has not ended, else the newest.
    played : bool
        Whether a process plays it.
    elapsed : float, s
        Of the run, on the instrument's clock.
    left : float or None, s
        As the plan foretells; None where there is none, or the run has ended.
    frame, segments, shape
        The latest frame with the beam on, the names of its segments, and the latest heights.
    curves : int
        Grows with the readings, setpoints and figures.
    trouble : str or None
        Why the database could not be read; everything else is older then.
    """

    time: datetime
    run: Run | None = None
    instrument: str = ""
    played: bool = False
    step: Step | None = None
    elapsed: float = 0.0
    left: float | None = None
    gauges: tuple[Gauge, ...] = ()
    counts: Counts = Counts()
    frame: FrameEntry | None = None
    segments: tuple[str, ...] = ()
    shape: ReconstructionEntry | None = None
    events: tuple[Event, ...] = ()
    bookings: tuple[Booking, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    curves: int = 0
    trouble: str | None = None

    @property
    def active(self) -> bool:
        """Whether there is a run that has not ended."""
        return self.run is not None and self.run.state not in ENDED

"""The tables of the database, as typed models.

Times are UTC. Figures carry one canonical unit for each dimension (K, Pa, mol/s, m, s, J, A, …), so that SQL can
compare a setpoint with a readback; the unit stands beside each value, or in the column's name.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

RUN_STATES = ("idle", "running", "paused", "suspended", "stopping", "finished", "stopped", "failed", "safe")
ACTION_STATES = ("planned", "begun", "done", "skipped", "failed", "stopped")
ALERT_STATES = ("waiting", "sent", "failed")
BOOKING_STATES = ("waiting", "queued", "running", "done", "failed", "missed", "removed")
RECONSTRUCTION_STATES = ("done", "failed", "left out")


def utc(time: datetime) -> datetime:
    """Return a time in UTC; a naive one is a programming error."""
    if time.tzinfo is None:
        raise ValueError(f"a time in the log needs a time zone; got {time}")
    return time.astimezone(UTC)


def clean(text: str) -> str:
    """Return text without what one of the databases cannot hold: NUL, lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets time zones, PostgreSQL answers in the session's; both are mended here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware time into UTC."""
        if value is None:
            return None
        return utc(value).replace(tzinfo=None) if dialect.name == "sqlite" else utc(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text from people and devices, without what one of the databases cannot hold (NUL, lone surrogates)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Replace what cannot be held."""
        return None if value is None else clean(value)


def _one_of(column: str, names: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{name}'" for name in names)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


# Wide where rows are many; SQLite numbers rows by itself only in a column of type INTEGER.
_Key = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """What the tables share."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcTime,
        str: CleanText,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class Instrument(Base):
    """A microscope as its file described it; runs with the same description share a row."""

    __tablename__ = "instruments"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[dict[str, Any]]
    limits: Mapped[dict[str, Any]]
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)


class Run(Base):
    """A night: a recipe on an instrument."""

    __tablename__ = "runs"
    __table_args__ = (_one_of("state", RUN_STATES),)

    number: Mapped[int] = mapped_column(primary_key=True, doc="In the order of creation.")
    id: Mapped[str] = mapped_column(String(120), unique=True)
    name: Mapped[str]
    recipe_name: Mapped[str]
    recipe_text: Mapped[str]
    instrument_id: Mapped[int] = mapped_column(ForeignKey("instruments.id"))
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]
    started: Mapped[datetime]
    changed: Mapped[datetime] = mapped_column(doc="When the state last changed.")
    ended: Mapped[datetime | None]
    version: Mapped[str] = mapped_column(doc="Of the program that made the run.")
    plan: Mapped[dict[str, Any] | None]
    options: Mapped[dict[str, Any] | None] = mapped_column(doc="How it was started: enough to resume it.")
    resumed: Mapped[int] = mapped_column(default=0, doc="How often it was resumed after an interruption.")


class Action(Base):
    """One entry of the journal: intent before, outcome after."""

    __tablename__ = "actions"
    __table_args__ = (_one_of("state", ACTION_STATES),)

    run_id: Mapped[str] = mapped_column(String(120), ForeignKey("runs.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    address: Mapped[str]
    kind: Mapped[str] = mapped_column(String(32))
    arguments: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(doc="How often it was begun; more than once after an interruption.")
    intent_time: Mapped[datetime | None]
    outcome_time: Mapped[datetime | None]
    message: Mapped[str]
    result: Mapped[dict[str, Any] | None] = mapped_column(doc="What it found, for later actions and for a resume.")


class Setpoint(Base):
    """What a channel was asked for."""

    __tablename__ = "setpoints"
    __table_args__ = (Index(None, "run_id", "channel", "time"),)

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    run_id: Mapped[str] = mapped_column(String(120), ForeignKey("runs.id"))
    action_index: Mapped[int | None]
    channel: Mapped[str] = mapped_column(String(120))
    value: Mapped[float]
    unit: Mapped[str] = mapped_column(String(32))
    time: Mapped[datetime]


class ReadingChannel(Base):
    """A channel of a run (of an idle instrument, without one): name and unit are not repeated a million times."""

    __tablename__ = "channels"
    __table_args__ = (UniqueConstraint("run_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str | None] = mapped_column(String(120), ForeignKey("runs.id"))
    name: Mapped[str] = mapped_column(String(120))
    unit: Mapped[str] = mapped_column(String(32))


class ReadingRow(Base):
    """What a channel said, in the channel's unit, at the time of the measurement."""

    __tablename__ = "readings"
    __table_args__ = (Index(None, "channel_id", "time"),)

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    channel_id: Mapped[int] = mapped_column(ForeignKey("channels.id"))
    time: Mapped[datetime]
    value: Mapped[float]
    fresh: Mapped[bool]


class SpanRow(Base):
    """The readings of a channel within a stretch of time, summed up: what a view of a whole night is drawn from."""

    __tablename__ = "spans"
    __table_args__ = (UniqueConstraint("channel_id", "start"),)

    id: Mapped[int] = mapped_column(_Key, primary_key=True)
    channel_id: Mapped[int] = mapped_column(ForeignKey("channels.id"))
    start: Mapped[datetime] = mapped_column(doc="Of the stretch.")
    end: Mapped[datetime] = mapped_column(doc="Of the last reading.")
    count: Mapped[int]
    low: Mapped[float]
    low_time: Mapped[datetime] = mapped_column(doc="Of the lowest reading.")
    high: Mapped[float]
    high_time: Mapped[datetime] = mapped_column(doc="Of the highest.")
    mean: Mapped[float]
    fresh: Mapped[bool] = mapped_column(doc="Whether every reading was.")


class FrameRow(Base):
    """An acknowledged frame. It exists on the disk before its row does."""

    __tablename__ = "frames"
    __table_args__ = (UniqueConstraint("run_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(String(120), ForeignKey("runs.id"))
    number: Mapped[int]
    action_index: Mapped[int | None]
    time: Mapped[datetime]
    path: Mapped[str] = mapped_column(doc="Relative to the store's root.")
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    dark: Mapped[bool]
    segments: Mapped[int]
    rows: Mapped[int]
    columns: Mapped[int]
    pixel_size_m: Mapped[float]
    working_distance_m: Mapped[float]
    beam_energy_j: Mapped[float]
    probe_current_a: Mapped[float | None]
    dwell_time_s: Mapped[float | None]


class Reconstruction(Base):
    """What became of a frame on its way to a height map."""

    __tablename__ = "reconstructions"
    __table_args__ = (_one_of("state", RECONSTRUCTION_STATES),)

    id: Mapped[int] = mapped_column(primary_key=True)
    frame_id: Mapped[int] = mapped_column(ForeignKey("frames.id"), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    path: Mapped[str | None] = mapped_column(doc="Of the heights, relative to the store's root.")
    seconds: Mapped[float | None] = mapped_column(doc="Of computing time.")
    error: Mapped[str | None]


class FigureRow(Base):
    """A figure of a reconstruction with its standard uncertainty, in a canonical unit."""

    __tablename__ = "figures"
    __table_args__ = (UniqueConstraint("reconstruction_id", "name"), Index(None, "name", "value"))

    id: Mapped[int] = mapped_column(primary_key=True)
    reconstruction_id: Mapped[int] = mapped_column(ForeignKey("reconstructions.id"))
    name: Mapped[str] = mapped_column(String(64))
    value: Mapped[float]
    sigma: Mapped[float | None]
    unit: Mapped[str] = mapped_column(String(32))


class EventRow(Base):
    """Something that happened. Numbers only grow, so that a reader asks for what came after the last it saw."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "run_id", "number"), {"sqlite_autoincrement": True})

    number: Mapped[int] = mapped_column(_Key, primary_key=True)
    run_id: Mapped[str | None] = mapped_column(String(120), ForeignKey("runs.id"))
    time: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(64))
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]


class CorrectionRow(Base):
    """What the run corrected by itself: focus, stigmators, drift, brightness and contrast, with the evidence."""

    __tablename__ = "corrections"
    __table_args__ = (Index(None, "run_id", "kind", "time"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(String(120), ForeignKey("runs.id"))
    action_index: Mapped[int | None]
    time: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]


class AlertRow(Base):
    """A message to somebody outside, on one of the ways there are; it stays until it was delivered or given up."""

    __tablename__ = "alerts"
    __table_args__ = (
        _one_of("state", ALERT_STATES),
        Index(None, "state", "due"),
        UniqueConstraint("event_number", "channel"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str | None] = mapped_column(String(120), ForeignKey("runs.id"))
    time: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(64))
    title: Mapped[str]
    text: Mapped[str]
    channel: Mapped[str] = mapped_column(String(64), doc="Name of the way, as the settings call it.")
    event_number: Mapped[int | None] = mapped_column(_Key, doc="Of the event that it tells; no way tells one twice.")
    key: Mapped[str] = mapped_column(
        String(32), doc="The same on every attempt, so that a receiver knows a repetition."
    )
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    due: Mapped[datetime] = mapped_column(doc="When it is tried next.")
    sent: Mapped[datetime | None]
    error: Mapped[str | None]


class BookingRow(Base):
    """A recipe that is to be played: at a time, again and again, or after another run."""

    __tablename__ = "bookings"
    __table_args__ = (_one_of("state", BOOKING_STATES), Index(None, "state", "due"))

    id: Mapped[int] = mapped_column(primary_key=True)
    recipe_name: Mapped[str]
    recipe_text: Mapped[str]
    instrument: Mapped[str] = mapped_column(String(200), doc="Name of the instrument, which plays one run at a time.")
    instrument_text: Mapped[str | None] = mapped_column(doc="Its file; the simulated one without.")
    options: Mapped[dict[str, Any] | None]
    trigger: Mapped[dict[str, Any]] = mapped_column(doc="One of at, cron and after.")
    priority: Mapped[int]
    missed: Mapped[str] = mapped_column(String(32), doc="What to do with a start that was missed.")
    created: Mapped[datetime]
    due: Mapped[datetime | None] = mapped_column(doc="Of the next start, where it is known.")
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]
    run_id: Mapped[str | None] = mapped_column(String(120), ForeignKey("runs.id"), doc="Of the last run it became.")


class Replayed(Base):
    """How far a ledger's entries have reached the database, written with them, so that none is entered twice."""

    __tablename__ = "replayed"

    key: Mapped[str] = mapped_column(String(64), primary_key=True, doc="Of the ledger.")
    sequence: Mapped[int] = mapped_column(BigInteger, doc="Of the last entry that is in the database.")
    time: Mapped[datetime]

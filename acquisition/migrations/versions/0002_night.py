"""What a night without anybody awake needs: resumption, alerts, a calendar, corrections, spans of readings.

Revision: 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only in a column of type INTEGER.
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True)
TIME = sa.DateTime(timezone=True)


def _known(table: str, *states: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{state}'" for state in states)
    return sa.CheckConstraint(f"state IN ({listed})", name=op.f(f"ck_{table}_state_known"))


def _run_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f(f"fk_{table}_run_id_runs"))


def upgrade() -> None:
    op.add_column("runs", sa.Column("options", JSON, nullable=True))
    op.add_column("runs", sa.Column("resumed", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("actions", sa.Column("result", JSON, nullable=True))
    with op.batch_alter_table("channels") as channels:
        channels.alter_column("run_id", existing_type=sa.String(length=120), nullable=True)
    op.create_table(
        "spans",
        sa.Column("id", KEY, nullable=False),
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("start", TIME, nullable=False),
        sa.Column("end", TIME, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("low_time", TIME, nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("high_time", TIME, nullable=False),
        sa.Column("mean", sa.Double(), nullable=False),
        sa.Column("fresh", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["channel_id"], ["channels.id"], name=op.f("fk_spans_channel_id_channels")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spans")),
        sa.UniqueConstraint("channel_id", "start", name=op.f("uq_spans_channel_id_start")),
    )
    op.create_table(
        "corrections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=120), nullable=False),
        sa.Column("action_index", sa.Integer(), nullable=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("data", JSON, nullable=False),
        _run_key("corrections"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corrections")),
    )
    op.create_index(op.f("ix_corrections_run_id_kind_time"), "corrections", ["run_id", "kind", "time"])
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=120), nullable=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("channel", sa.String(length=64), nullable=False),
        sa.Column("event_number", KEY, nullable=True),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due", TIME, nullable=False),
        sa.Column("sent", TIME, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        _known("alerts", "waiting", "sent", "failed"),
        _run_key("alerts"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
        sa.UniqueConstraint("event_number", "channel", name=op.f("uq_alerts_event_number_channel")),
    )
    op.create_index(op.f("ix_alerts_state_due"), "alerts", ["state", "due"])
    op.create_table(
        "bookings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("recipe_name", sa.Text(), nullable=False),
        sa.Column("recipe_text", sa.Text(), nullable=False),
        sa.Column("instrument", sa.String(length=200), nullable=False),
        sa.Column("instrument_text", sa.Text(), nullable=True),
        sa.Column("options", JSON, nullable=True),
        sa.Column("trigger", JSON, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("missed", sa.String(length=32), nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("due", TIME, nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("run_id", sa.String(length=120), nullable=True),
        _known("bookings", "waiting", "queued", "running", "done", "failed", "missed", "removed"),
        _run_key("bookings"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bookings")),
    )
    op.create_index(op.f("ix_bookings_state_due"), "bookings", ["state", "due"])
    op.create_table(
        "replayed",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_replayed")),
    )

"""How Alembic reaches the database: on the connection that the program hands over."""

from __future__ import annotations

from alembic import context

from acquisition.tables import Base

connection = context.config.attributes["connection"]
# SQLite changes a table by copying it; batch mode writes migrations so that they work on both databases.
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()

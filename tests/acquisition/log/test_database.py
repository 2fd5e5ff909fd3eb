from __future__ import annotations

import logging
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from acquisition import database, tables
from acquisition.log import Log
from drivers.errors import DatabaseError, DiskFull

START = datetime(2026, 1, 1, 18, tzinfo=UTC)

NEWEST = database.newest_schema()
ANOTHER_VERSION = """
import sqlalchemy as sa
from alembic import op
revision = "9999"
down_revision = "{newest}"
branch_labels = None
depends_on = None


def upgrade():
    with op.batch_alter_table("frames") as table:
        table.add_column(sa.Column("note", sa.Text(), nullable=False, server_default=""))
        table.alter_column("path", new_column_name="file")
""".replace("{newest}", NEWEST)


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The program one version on; ``undo`` on what is returned goes back."""
    folder = tmp_path / "migrations"
    shutil.copytree(database.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "9999_note.py").write_text(ANOTHER_VERSION)
    monkeypatch.setattr(database, "MIGRATIONS", folder)
    return monkeypatch


def test_migrations_make_the_tables_of_the_models(log):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with log.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []


def test_opening_again_finds_everything(book, target):
    book.log.close()
    with Log.open(target, create=False) as again:
        assert again.run(book.run).name == "copper redox"
        assert again.note is None


def test_an_older_database_is_upgraded_with_a_note(book, target, frame, stored, newer):
    book.log.frame(book.run, 0, None, frame, stored)
    book.log.close()
    with Log.open(target) as upgraded:
        assert upgraded.note == f"the database was upgraded from schema {NEWEST} to 9999"
        with upgraded.engine.connect() as connection:
            assert connection.execute(text("SELECT file, note FROM frames")).all() == [(str(stored.path), "")]
    newer.undo()
    with pytest.raises(DatabaseError, match=rf"schema 9999, made by a newer version .* up to {NEWEST}\. Install"):
        Log.open(target)


def test_the_first_schema_is_upgraded_with_what_it_holds(book, target):
    from alembic import command

    book.log.close()
    if book.log.engine.dialect.name != "sqlite":
        pytest.skip("the tables of a server are changed in place")
    old = Path(str(book.log.engine.url.database)).with_name("old.sqlite")
    engine = database.connect(database.locate(old))
    config = database._config()
    with engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO instruments VALUES (1, 'twin', '{}', '{}', 'f')",
            (
                "INSERT INTO runs "
                "VALUES (1, 'r', 'n', 'f', 't', 1, 'idle', '', '2026-01-01', '2026-01-01', NULL, '0', NULL)"
            ),
            "INSERT INTO channels VALUES (1, 'r', 'gauge.pressure', 'Pa')",
            "INSERT INTO readings VALUES (1, 1, '2026-01-01 00:00:00', 17.0, 1)",
        ):
            connection.execute(text(statement))
    engine.dispose()
    with Log.open(old) as log:
        assert log.series("r", "gauge.pressure").values.tolist() == [17.0]
        assert log.run("r").state == "idle"
        with log.engine.connect() as connection:
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_an_upgrade_that_fails_changes_nothing(book, target, newer):
    broken = database.MIGRATIONS / "versions" / "9999_note.py"
    broken.write_text(ANOTHER_VERSION + '    op.execute("SELECT * FROM nothing_like_it")\n')
    book.log.close()
    with pytest.raises(DatabaseError, match="refused"):
        Log.open(target)
    newer.undo()
    with Log.open(target) as log:
        assert log.frames(book.run) == []


def test_alembic_leaves_logging_alone(target):
    before = logging.getLogger().handlers[:]
    Log.open(target).close()
    assert logging.getLogger().handlers == before


def test_sqlite_is_durable_and_checked(tmp_path):
    with Log.open(tmp_path / "a.sqlite") as log, log.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


@pytest.mark.parametrize("content", [b"hello, this is text and no database", b"\x89PNG\r\n\x1a\n" + bytes(500), b"a"])
def test_a_file_that_is_no_database(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match="the file is not a database") as caught:
        Log.open(path)
    assert caught.value.where == str(path)
    assert path.read_bytes() == content


def test_a_damaged_database(book, tmp_path):
    path = Path(str(book.log.engine.url.database))
    if book.log.engine.dialect.name != "sqlite":
        pytest.skip("a server looks after its own files")
    book.log.close()
    content = bytearray(path.read_bytes())
    content[100:20000] = b"\xff" * len(content[100:20000])
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match="damaged"):
        Log.open(path)


def test_a_database_of_another_program(tmp_path):
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (id INTEGER)")
    connection.close()
    with pytest.raises(DatabaseError, match=r"belongs to another program.*customers"):
        Log.open(path)


def test_a_database_that_is_not_there(tmp_path):
    path = tmp_path / "deep" / "rilievo.sqlite"
    with pytest.raises(DatabaseError, match="no database yet"):
        Log.open(path, create=False)
    assert not path.parent.exists()
    Log.open(str(path)).close()
    assert path.exists()


def test_a_folder_in_the_place_of_the_database(tmp_path):
    with pytest.raises(DatabaseError, match="cannot be read: Is a directory"):
        Log.open(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="folder cannot be made"):
        Log.open(tmp_path / "file" / "rilievo.sqlite")


def test_a_locked_database(tmp_path):
    path = tmp_path / "rilievo.sqlite"
    with Log.open(path, timeout=0.2) as log:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match=r"locked by another program for more than 0\.2 s; end that program"):
            log.event(None, START, "info", "x", "y")
        assert log.events(None) == []  # who only reads need not wait
        other.execute("ROLLBACK")
        other.close()
        assert log.event(None, START, "info", "x", "y") == 1


def test_a_new_database_that_is_locked(tmp_path):
    path = tmp_path / "rilievo.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseError, match="locked by another program"):
        Log.open(path, timeout=0.1)
    other.close()


def test_a_full_disk(tmp_path):
    with Log.open(tmp_path / "rilievo.sqlite") as log:
        with log.engine.connect() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar()
            connection.execute(text(f"PRAGMA max_page_count={pages}"))
        number = log.event(None, START, "info", "x", "before")
        with pytest.raises(DiskFull, match="the disk with the database is full") as caught:
            log.event(None, START, "info", "x", "long " * 10_000)
        assert isinstance(caught.value, DatabaseError)
        assert [event.number for event in log.events(None)] == [number]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mysql://somebody@localhost/x", "mysql is not supported"),
        ("sqlite://", "sqlite is not supported"),
        ("postgresql://user@host:port/x", "not a database URL"),
        ("://", "not a database URL"),
    ],
)
def test_urls_that_cannot_be_used(target, message):
    with pytest.raises(DatabaseError, match=message):
        Log.open(target)


def test_a_server_that_does_not_answer():
    with pytest.raises(DatabaseError, match=r"cannot be reached .* check that it runs") as caught:
        Log.open("postgresql://somebody:secret@127.0.0.1:1/rilievo", timeout=2)
    assert "secret" not in str(caught.value)
    assert "postgresql://somebody:***@127.0.0.1:1/rilievo" in str(caught.value)


def test_the_short_name_of_postgresql_works():
    assert database.locate("postgres://a@b/c").drivername == "postgresql+psycopg"
    assert database.locate("sqlite:////tmp/a.sqlite").database == "/tmp/a.sqlite"


def test_a_backup_is_whole_while_the_log_is_in_use(book, tmp_path):
    copy = tmp_path / "copy.sqlite"
    if book.log.engine.dialect.name != "sqlite":
        with pytest.raises(DatabaseError, match="pg_dump"):
            book.log.backup(copy)
        return
    book.log.event(book.run, START, "info", "x", "y")
    assert book.log.backup(copy) == copy
    assert sorted(path.name for path in tmp_path.glob("*copy*")) == ["copy.sqlite"]
    with Log.open(copy) as opened:
        assert [event.message for event in opened.events(book.run)] == ["y"]
    with pytest.raises(DatabaseError, match="exists already"):
        book.log.backup(copy)
    with pytest.raises(DatabaseError, match="cannot be written"):
        book.log.backup(tmp_path / "nowhere" / "copy.sqlite")


def test_schema_before_and_after(target):
    engine = database.connect(database.locate(target))
    assert database.schema(engine) == database.Schema(None, NEWEST)
    database.upgrade(engine)
    assert database.schema(engine) == database.Schema(NEWEST, NEWEST)
    engine.dispose()

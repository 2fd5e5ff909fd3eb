"""The same tests on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from acquisition.log import Log
from acquisition.store import StoredFrame
from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
from drivers.units import KEV

START = datetime(2026, 1, 1, 18, tzinfo=UTC)
_names = count()


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """An empty database."""
    if request.param == "sqlite":
        return tmp_path / "rilievo.sqlite"
    import psycopg
    from sqlalchemy import make_url

    url = request.getfixturevalue("postgresql")
    name = f"rilievo_{next(_names)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def log(target: str | Path) -> Iterator[Log]:
    with Log.open(target) as opened:
        yield opened


@dataclass
class Book:
    """A log with a run of three actions in it."""

    log: Log
    run: str

    def new_run(self, name: str = "copper redox", started: datetime = START) -> str:
        return new_run(self.log, name, started)


def new_run(log: Log, name: str = "copper redox", started: datetime = START) -> str:
    return log.create_run(
        name=name,
        recipe_text="name: copper redox\n",
        recipe_name="copper.yaml",
        actions=[{"kind": "note", "address": f"steps[{index}].note", "text": "Grüße"} for index in range(3)],
        instrument_name="twin",
        instrument_description={"name": "twin", "heater": {"driver": "twin"}},
        limits={"heater.temperature": {"high": {"value": 900.0, "unit": "degC"}}},
        started=started,
        version="0.1.0",
        plan={"seconds": 60.0},
    )


@pytest.fixture(scope="session")
def make_run() -> Callable[..., str]:
    """Enters a run of three actions in a log."""
    return new_run


@pytest.fixture
def book(log: Log) -> Book:
    return Book(log, new_run(log))


@pytest.fixture
def frame() -> Frame:
    geometry = annular(4, 2e-3, 8e-3, 8e-3)
    beam = BeamSettings(5 * KEV, 20e-9, probe_current=1e-9, dwell_time=10e-6)
    counts = np.zeros((4, 6, 8), dtype=np.uint16)
    return Frame(counts, geometry, beam, tuple(Channel(name) for name in geometry.names), START)


@pytest.fixture
def stored() -> StoredFrame:
    return StoredFrame(Path("run/frames/000000.ome.tif"), "0" * 64, 1234)

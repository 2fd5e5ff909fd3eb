"""A server that plays on the simulated microscope, its page, and a browser that looks at it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from acquisition import app as wiring
from acquisition.bookings import Bookings
from acquisition.dashboard import Dashboard, PageSettings
from acquisition.log import Log
from acquisition.plan import check_text
from acquisition.playing import play_booking
from acquisition.serve import Server, ServerSettings
from acquisition.store import Store
from acquisition.triggers import At, parse_at
from drivers.clock import RealClock
from drivers.errors import InputError, RilievoError
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import annular
from drivers.units import KEV, quantity

START = datetime(2026, 1, 1, 18, tzinfo=UTC)
TWIN = "Simulated environmental SEM"
TOKENS = {"of-ada": ("Ada", "operator"), "of-bob": ("Bob", "observer")}
LIVE = """\
name: a night that is watched
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 4 um, pixels: 64, dwell_time: 1 us}
steps:
  - name: watching
    series: {every: 1 s, for: 30 min}
"""


def json_of(value: float, unit: str) -> dict[str, float | str]:
    return {"value": value, "unit": unit}


def tell_night(log: Log, store: Store, name: str = "a finished night", state: str = "finished", frames: int = 3) -> str:
    """Enter a small night with frames, heights and readings; return its id."""
    planned = [
        {"address": "steps[0].ramp", "kind": "ramp", "name": "heating"},
        {"address": "steps[1].series[0]", "kind": "series", "name": "watching"},
    ]
    timeline = [
        {
            "start": json_of(0, "s"),
            "duration": json_of(60, "s"),
            "address": "steps[0].ramp",
            "label": "ramp to 400 degC",
        },
        {"start": json_of(60, "s"), "duration": json_of(90, "s"), "address": "steps[1].series", "label": "3 frames"},
    ]
    run = log.create_run(
        name=name,
        recipe_text=LIVE,
        recipe_name="told.yaml",
        actions=planned,
        instrument_name=TWIN,
        instrument_description={"name": TWIN},
        limits={},
        started=START,
        version="0",
        plan={"duration": json_of(150, "s"), "timeline": timeline},
    )
    log.set_state(run, "running", START)
    log.intent(run, 0, START)
    log.setpoint(run, "heater.temperature", quantity(400, "degC"), START, 0)
    rows = [
        ("heater.temperature", Reading(quantity(25 + 6 * second, "degC"), START + timedelta(seconds=second)))
        for second in range(0, 61, 5)
    ]
    log.readings(run, rows)
    log.outcome(run, 0, START + timedelta(seconds=60), "done")
    log.intent(run, 1, START + timedelta(seconds=60))
    for number in range(frames):
        expose_frame(log, store, run, number, START + timedelta(seconds=70 + 20 * number))
    if state != "running":
        log.set_state(run, "stopping", START + timedelta(seconds=150))
        log.set_state(run, state, START + timedelta(seconds=150), "as told" if state != "finished" else "")
    return run


@dataclass
class Figure:
    value: float
    sigma: float | None
    unit: str


def expose_frame(log: Log, store: Store, run: str, number: int, time: datetime, pixels: int = 32) -> None:
    """Enter a frame with its heights."""
    rng = np.random.default_rng(number)
    geometry = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)
    counts = rng.integers(1000, 9000, (4, pixels, pixels)).astype(np.uint16)
    channels = tuple(Channel(name, offset=1000.0, read_noise=20.0) for name in geometry.names)
    beam = BeamSettings(5 * KEV, 10e-6 / pixels, probe_current=1e-9, dwell_time=1e-5)
    frame = Frame(counts, geometry, beam, channels, time, False, {})
    key = log.frame(run, number, 1, frame, store.append(run, number, frame))
    folder = store.folder(run) / "heights"
    folder.mkdir(exist_ok=True)
    path = folder / f"{number:06d}.tif"
    y, x = np.mgrid[0:pixels, 0:pixels] / pixels
    with tifffile.TiffWriter(path) as tif:
        for page in (60 * np.sin(5 * x + number) * np.cos(4 * y), np.full_like(x, 3.0)):
            tif.write(page.astype(np.float32), photometric="minisblack", metadata=None)
    figures = {"coverage": Figure(0.1 * number, 0.02, ""), "roughness": Figure(4e-8, 2e-9, "m")}
    log.reconstruction(key, "done", path=path.relative_to(store.root), figures=figures, seconds=0.01)


@dataclass
class Person:
    name: str
    role: str
    session: str = ""


def admit(token: str, called: str, session: str) -> Person:
    if token not in TOKENS:
        raise InputError("nobody has this token; look into the file that rilievo serve names")
    name, role = TOKENS[token]
    return Person(called or name, role, session)


class Denied(RilievoError):
    code = "denied"


@dataclass
class Seats:
    """The desk in a few lines: the real server behind it, and what was asked of it."""

    server: Server
    log: Log
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    @property
    def control(self) -> Seats:
        return self

    @property
    def holder(self) -> None:
        return None

    def take(self, person: Person) -> None:
        self.asked.append((person.name, "take_control", {}))

    def release(self, person: Person) -> None:
        self.asked.append((person.name, "release_control", {}))

    def seat(self, person: Person) -> Seat:
        return Seat(self, person)


@dataclass
class Seat:
    desk: Seats
    person: Person

    def _note(self, name: str, given: dict[str, Any]) -> None:
        if self.person.role == "observer":
            raise Denied(f"{name} needs the role operator; {self.person.name} is an observer", name)
        self.desk.asked.append((self.person.name, name, given))

    def pause(self, run: str) -> str:
        self._note("pause", {"run": run})
        self.desk.server.pause(run)
        return run

    def resume(self, run: str) -> str:
        self._note("resume", {"run": run})
        self.desk.server.resume(run)
        return run

    def stop(self, run: str) -> str:
        self._note("stop", {"run": run})
        self.desk.server.stop(run, f"stopped by {self.person.name}")
        return run

    def safe(self) -> list[str]:
        self._note("safe", {})
        return [TWIN]

    def remove(self, booking: int) -> Any:
        self._note("remove", {"booking": booking})
        return self.desk.server.remove(booking)

    def start(self, recipe: str, priority: int, instrument: str) -> Any:
        return self._book(recipe, At(datetime.now(UTC) + timedelta(milliseconds=20), "UTC"), priority)

    def schedule(self, recipe: str, priority: int, instrument: str, at: str) -> Any:
        return self._book(recipe, parse_at(at, datetime.now(UTC), "UTC"), priority)

    def _book(self, recipe: str, trigger: At, priority: int) -> Any:
        self._note("book", {"priority": priority})
        with wiring.open_instrument() as found:
            _, plan = check_text(recipe, "recipe.yaml", found)
        return Bookings(self.desk.log).add(
            recipe_name="recipe.yaml",
            recipe_text=recipe,
            instrument=TWIN,
            instrument_text=None,
            options={"speed": 1.0, "heights": False, "duration": plan.duration, "disk": plan.disk_bytes},
            trigger=trigger,
            priority=priority,
            missed="within 1 h",
            now=datetime.now(UTC),
        )


@dataclass
class Site:
    """A server with its page."""

    laboratory: wiring.Laboratory
    server: Server
    desk: Seats
    page: Dashboard
    told: list[tuple[str, str]]
    finished: str

    @property
    def log(self) -> Log:
        return self.laboratory.log

    def address(self, path: str = "") -> str:
        return self.page.url + path


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    ending = threading.Event()
    told: list[tuple[str, str]] = []
    with wiring.open_laboratory(folder) as laboratory:
        finished = tell_night(laboratory.log, laboratory.store)
        wiring.report(laboratory, finished)
        server = Server(
            folder,
            laboratory.log,
            partial(play_booking, laboratory),
            settings=ServerSettings(tick=0.02, reserve=1.0),
        )
        desk = Seats(server, laboratory.log)
        settings = PageSettings(port=0, instruments=(TWIN,), simulated=(TWIN,))
        database = laboratory.log.engine.url.render_as_string(hide_password=False)
        page = Dashboard(folder, database, desk, admit, settings, lambda level, text: told.append((level, text)))
        page.start()
        server.start()
        playing = threading.Thread(
            target=lambda: server.run(lambda: "the test is over" if ending.is_set() else None, stop_runs=True),
            name="server",
        )
        playing.start()
        try:
            assert page.wait(60.0)
            yield Site(laboratory, server, desk, page, told, finished)
        finally:
            ending.set()
            playing.join()
            page.close()
            server.close()


@pytest.fixture(scope="module")  # its event loop must have gone before another module runs one
def browser() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("RILIEVO_REQUIRE_CHROMIUM"):
            pytest.fail("chromium is not installed, and RILIEVO_REQUIRE_CHROMIUM asks for it")
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=[*quiet, "--no-first-run"])
        yield found
        found.close()


@dataclass
class Visitor:
    """Somebody in front of a browser."""

    page: Any
    origins: set[str]
    complaints: list[str]


@pytest.fixture
def visit(site: Site, browser: Any) -> Iterator[Any]:
    contexts = []

    def come(token: str = "of-ada", path: str = "", width: int = 1280) -> Visitor:
        context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        visitor = Visitor(page, set(), [])
        page.on("request", lambda request: visitor.origins.add("/".join(request.url.split("/")[:3])))
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        page.goto(site.address("login"))
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector(".page h1")
        if path:
            page.goto(site.address(path))
            page.wait_for_selector(".page h1")
        return visitor

    yield come
    for context in contexts:
        context.close()


@pytest.fixture
def clock() -> RealClock:
    return RealClock()


@pytest.fixture
def laboratory(tmp_path: Path) -> Iterator[tuple[Log, Store]]:
    with Log.open(tmp_path / "rilievo.db") as log, Store(tmp_path / "runs") as store:
        yield log, store


@pytest.fixture
def told_night() -> Any:
    return tell_night


@pytest.fixture
def expose() -> Any:
    return expose_frame

"""How fast the page comes, how far it lags behind, what it keeps. Run: ``python tests/benchmarks/page.py [FRAMES]``.

A night is told to log and store as an engine would, a process of its own serves the page, and a headless chromium
looks at it. The lag of a frame runs from its acknowledgement until the browser has decoded all its segment images.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import tifffile

from acquisition.dashboard import Dashboard, PageSettings
from acquisition.log import Log
from acquisition.ownership import Ownership
from acquisition.store import Store
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import annular
from drivers.units import KEV, quantity

PAINTS, LAGS = 5, 30
FAST = 12.0
"""Frames a second in the long run over memory."""
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
WATCH = """() => {
  window.seen = {};
  const look = () => {
    const pictures = [...document.querySelectorAll('#segments img')], frame = pictures[0]?.dataset.frame;
    const whole = (one) => one.complete && one.naturalWidth && one.currentSrc.includes(`/${frame}/segment/`);
    if (frame && !window.seen[frame] && pictures.length === 4 && pictures.every(whole))
      window.seen = {[frame]: performance.timeOrigin + performance.now()};
    requestAnimationFrame(look);
  };
  look();
}"""


class Teller:
    """Tells a night that goes on and on."""

    def __init__(self, log: Log, store: Store) -> None:
        self.log, self.store = log, store
        self.start = datetime.now(UTC)
        timeline = [_entry(0, 36_000, "steps[0].series", "a series")]
        self.run = log.create_run(
            name="a long night",
            recipe_text="",
            recipe_name="long.yaml",
            actions=[{"address": "steps[0].series[0]", "kind": "series", "name": "long"}],
            instrument_name="paper",
            instrument_description={},
            limits={},
            started=self.start,
            version="0",
            plan={"duration": _json(36_000, "s"), "timeline": timeline},
        )
        log.set_state(self.run, "running", self.start)
        log.intent(self.run, 0, self.start)
        self.number = 0

    def expose(self, pixels: int) -> float:
        """Acknowledge one more frame with readings, an event and heights; return when it was (s since 1970)."""
        rng = np.random.default_rng(self.number)
        now = self.start + timedelta(seconds=10 * self.number)
        geometry = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)
        smooth = rng.normal(0, 1, (4, 16, 16)).repeat(pixels // 16, 1).repeat(pixels // 16, 2)
        counts = (9000 + 2000 * smooth + rng.normal(0, 300, (4, pixels, pixels))).clip(0, 65535).astype(np.uint16)
        channels = tuple(Channel(name, offset=1000.0) for name in geometry.names)
        beam = BeamSettings(5 * KEV, 10e-6 / pixels, probe_current=1e-9, dwell_time=1e-5)
        frame = Frame(counts, geometry, beam, channels, now)
        readings = [
            (f"{name}.temperature", Reading(quantity(700 + rng.normal(), "K"), now)) for name in ("heater", "stage")
        ]
        readings += [
            (f"gases.{name}.flow", Reading(quantity(5 + rng.normal(), "sccm"), now)) for name in ("O2", "N2", "H2")
        ]
        self.log.readings(self.run, readings)
        if self.number % 5 == 0:
            self.log.event(self.run, now, "info", "note", f"frame {self.number} is on its way")
        stored = self.store.append(self.run, self.number, frame)
        key = self.log.frame(self.run, self.number, 0, frame, stored)
        told = time.time()
        folder = self.store.folder(self.run) / "heights"
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.number:06d}.tif"
        with tifffile.TiffWriter(path) as tif:
            for page in (30 * smooth[0], np.full((pixels, pixels), 3.0)):
                tif.write(page.astype(np.float32), photometric="minisblack", metadata=None)
        figures = {
            "coverage": SimpleNamespace(value=min(1.0, self.number / 2000), sigma=0.02, unit=""),
            "roughness": SimpleNamespace(value=3e-8, sigma=2e-9, unit="m"),
        }
        self.log.reconstruction(key, "done", path=path.relative_to(self.store.root), figures=figures, seconds=0.05)
        self.number += 1
        return told


def _json(value: float, unit: str) -> dict[str, Any]:
    return {"value": float(value), "unit": unit}


def _entry(start: float, duration: float, address: str, label: str) -> dict[str, Any]:
    return {"start": _json(start, "s"), "duration": _json(duration, "s"), "address": address, "label": label}


@contextmanager
def served(folder: Path) -> Iterator[tuple[Teller, Dashboard]]:
    """Yield a night that is played on paper, and its page."""
    with Log.open(folder / "rilievo.db") as log, Store(folder / "runs") as store:
        teller = Teller(log, store)
        teller.expose(512)
        somebody = SimpleNamespace(name="the benchmark", role="observer")
        url = f"sqlite:///{folder / 'rilievo.db'}"
        page = Dashboard(folder, url, SimpleNamespace(), lambda *_: somebody, PageSettings(port=0), print)
        page.start()
        try:
            with Ownership.take(store.folder(teller.run), "run"):
                if not page.wait(60):
                    sys.exit("the page did not answer within 60 s")
                yield teller, page
        finally:
            page.close()


def come_in(context: Any, page: Dashboard) -> tuple[Any, float, float]:
    """Log in; return the tab, when something was painted, and when the run stood there (s after the click)."""
    tab = context.new_page()
    tab.goto(f"{page.url}login")
    tab.fill("#token", "any")
    begin = time.perf_counter()
    tab.click("button")
    tab.wait_for_selector("#run h1")
    shown = time.perf_counter() - begin
    painted = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0") / 1e3
    return tab, painted, shown


def first_paint(browser: Any, page: Dashboard) -> tuple[float, float, set[str]]:
    """Return medians of first paint and of the run's name, each with an empty cache, and who was asked."""
    paints, shown, asked = [], [], set()
    for _ in range(PAINTS):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
        tab, painted, there = come_in(context, page)
        tab.wait_for_timeout(1500)
        paints.append(painted)
        shown.append(there)
        context.close()
    return median(paints), median(shown), asked


def lags(browser: Any, teller: Teller, page: Dashboard) -> list[float]:
    """Return by how much each of some frames, one a second, was behind (s)."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab, _, _ = come_in(context, page)
    tab.evaluate(WATCH)
    found = []
    for _ in range(LAGS):
        begin = time.perf_counter()
        number, told = teller.number, teller.expose(512)
        tab.wait_for_function(f"window.seen['{number}']", timeout=10_000, polling=20)
        found.append(tab.evaluate(f"window.seen['{number}']") / 1e3 - told)
        time.sleep(max(0.0, 1.0 - (time.perf_counter() - begin)))
    context.close()
    return sorted(found)


def memory(browser: Any, teller: Teller, page: Dashboard, count: int) -> list[tuple[int, float, float, int]]:
    """Return frames, memory of the page's process and of the tab's script (MB), nodes of the tab, along a long run."""
    context = browser.new_context(viewport={"width": 1280, "height": 2600})
    tab, _, _ = come_in(context, page)
    devtools = context.new_cdp_session(tab)
    devtools.send("Performance.enable")
    found = []
    for index in range(1, count + 1):
        begin = time.perf_counter()
        teller.expose(128)
        if index % max(1, count // 10) == 0:
            tab.wait_for_timeout(1000)
            devtools.send("HeapProfiler.collectGarbage")
            told = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
            found.append((index, resident(page.pid or 0), told["JSHeapUsedSize"] / 1e6, int(told["Nodes"])))
        tab.wait_for_timeout(max(0.0, 1e3 * (1 / FAST - (time.perf_counter() - begin))))
    context.close()
    return found


def resident(pid: int) -> float:
    """Return the memory that a process holds, MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    """Print the table."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        sys.exit("chromium is not installed")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with (
        tempfile.TemporaryDirectory(prefix="rilievo-") as folder,
        served(Path(folder)) as (teller, page),
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=path, args=QUIET)
        painted, shown, asked = first_paint(browser, page)
        print(
            f"first paint after login         {painted:5.2f} s, the run stands there after {shown:.2f} s  (goal: 2 s)"
        )
        print(f"who was asked                   {', '.join(sorted(asked))}  (goal: the page's own server alone)")
        behind = lags(browser, teller, page)
        print(f"lag at 1 frame/s                {median(behind):5.2f} s, at most {behind[-1]:.2f} s  (goal: 1 s)")
        along = memory(browser, teller, page, count)
        print("frames   page's process   script   nodes of the tab")
        for frames, process, script, nodes in along:
            print(f"{frames:6d}   {process:10.1f} MB {script:8.1f} MB {nodes:8d}")
        early, last = along[len(along) // 4], along[-1]
        print(
            f"growth   {last[1] - early[1]:10.1f} MB {last[2] - early[2]:8.1f} MB {last[3] - early[3]:8d}  (goal: flat)"
        )
        browser.close()


if __name__ == "__main__":
    main()

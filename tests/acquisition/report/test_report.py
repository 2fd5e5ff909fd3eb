from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from acquisition.chronicle import Chronicle
from acquisition.log import Log
from acquisition.report import write_report
from acquisition.store import Store
from drivers.errors import RunError, StoreError
from drivers.frame import Reading
from drivers.units import quantity

START = datetime(2026, 1, 1, 18, tzinfo=UTC)
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Collects a page's elements and checks that they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.elements, self.words, self._open = text, [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self._open.append(name)

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def shown(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name):
        return [attributes for element, attributes in self.elements if element == name]

    def data(self, identifier):
        found = re.search(rf'<script type="application/json" id="{identifier}">(.*?)</script>', self.text, re.DOTALL)
        assert found
        return json.loads(found.group(1))


@pytest.fixture(scope="session")
def written(night, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    assert write_report(night.log, night.store, night.run, path) == path
    return path


@pytest.fixture(scope="session")
def page(written):
    return Page(written.read_text(encoding="utf-8"))


@pytest.fixture
def empty(tmp_path):
    """A log, a store, and a run that has not begun."""
    with Log.open(tmp_path / "rilievo.sqlite") as log, Store(tmp_path / "runs") as store:
        run = log.create_run(
            name="not begun",
            recipe_text="",
            recipe_name="x.yaml",
            actions=[],
            instrument_name="twin",
            instrument_description={},
            limits={},
            started=START,
            version="0.1.0",
        )
        yield log, store, run


def test_the_page_asks_the_network_for_nothing(page):
    assert "http:" not in page.text
    assert "https:" not in page.text
    assert page.all("link") == []
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "url(" not in re.sub(r"url\(#[\w.-]+\)", "", page.text)


def test_what_people_wrote_stays_text(page):
    assert "<script>alert" not in page.text
    assert "copper <script>alert('redox')</script> & \"800 °C\"" in page.shown
    assert [script.get("type") for script in page.all("script")].count(None) == 1
    assert "…/x <b>" in page.shown
    assert page.all("b")
    assert not any(element == "b" and "x" in attributes for element, attributes in page.elements)


def test_no_path_and_no_host_is_told(page, night):
    assert str(night.store.root) not in page.text
    assert "/tmp" not in page.shown
    assert "10.0.0.5" not in page.text
    assert "column.host …" in page.shown


def test_the_summary(page):
    shown = page.shown
    assert "✓ finished" in shown
    assert "1 January 2026, 18:00 UTC · 3 h 2 min · Simulated environmental SEM" in shown
    assert "802 °C highest temperature as read back" in shown
    assert "68.7 Pa highest pressure" in shown
    assert "1 failed" in shown


def test_the_counts_are_those_of_the_log(page, night):
    tiles = dict(re.findall(r'<div class="tile"><b>([^<]*)</b><span>([^<]*)</span>', page.text))
    tiles = {label: figure for figure, label in tiles.items()}
    states = [entry.state for entry in night.log.reconstructions(night.run)]
    frames = night.log.frames(night.run)
    assert tiles["frames"] == str(sum(not frame.dark for frame in frames))
    assert tiles["height maps"] == str(states.count("done"))
    assert tiles["frames left out"] == str(states.count("left out")) != "0"


def test_the_timeline_has_setpoints_readbacks_frames_and_steps(page, night):
    data = page.data("data-night")
    labels = [line["label"] for line in data["lines"]]
    assert labels == [
        "heater, asked",
        "heater",
        "sample (twin's truth)",
        "gauge",
        "H2, asked",
        "H2",
        "N2, asked",
        "N2",
        "O2, asked",
        "O2",
    ]
    assert max(data["lines"][1]["values"]) == pytest.approx(800, abs=3)
    assert max(data["lines"][9]["values"]) == pytest.approx(5, abs=0.1)
    assert len(data["marks"]) == len(night.log.frames(night.run))
    assert [step[2] for step in data["steps"]][5] == "6 oxidation"
    assert len(page.all("svg")) == 5  # two charts at two widths, and the detector


def test_coverage_is_drawn_beside_the_truth(page):
    truths = [line for line in page.data("data-surface")["lines"] if line["label"] == "the twin's truth"]
    assert [line["unit"] for line in truths] == ["%", "nm"]
    assert [max(line["values"]) for line in truths] == pytest.approx([100, 100], abs=2)
    assert {line["style"] for line in truths} == {"truth"}
    assert "what only the twin knows: the truth" in page.shown


def test_what_cannot_be_told_is_drawn_apart(page, night):
    entries = [entry for entry in night.log.reconstructions(night.run) if "coverage" in entry.figures]
    vague = sum((entry.figures["coverage"].sigma or 0) > 0.2 for entry in entries)
    wide = page.text.split("<svg")[3]
    assert "chart wide" in wide
    assert vague > 0
    assert wide.count('class="point untold"') == vague + 1  # and one in the key
    assert "cannot be told: σ above 20 %" in page.shown


def test_steps_of_a_repeat_are_numbered(empty):
    log, _, _ = empty
    places = [f"steps[0].repeat[{turn}].steps[1].hold" for turn in range(3)]
    actions = [{"address": place, "kind": "hold", "name": "oxidation"} for place in [*places, "steps[1].hold"]]
    run = log.create_run(
        name="cycles",
        recipe_text="",
        recipe_name="x.yaml",
        actions=actions,
        instrument_name="twin",
        instrument_description={},
        limits={},
        started=START,
        version="0.1.0",
    )
    for index in (0, 1, 3):
        log.intent(run, index, START + timedelta(seconds=index))
    names = [stretch.name for stretch in Chronicle(log, run).stretches]
    assert names == ["oxidation, 1 of 3", "oxidation, 2 of 3", "oxidation"]


def test_chosen_frames_show_the_change(page, night):
    chosen = Chronicle(night.log, night.run).chosen()
    values = [entry.figures["coverage"].value for entry in chosen]
    assert len(chosen) == 6
    assert chosen[0].frame_number < chosen[-1].frame_number
    assert max(values) > 0.8
    assert values[0] < 0.1
    scene = page.data("scene")
    assert len(scene["surfaces"]) == 6
    assert scene["surfaces"][0]["width"] == pytest.approx(10_000)
    assert len(page.all("img")) == 6 * (4 + 2)


def test_metadata_carry_units(page):
    for text in ("5 keV", "1 nA", "10 µs", "208.333 nm", "10 µm", "8 mm", "1200 ADU", "270°", "not known", "20 sccm"):
        assert text in page.shown, text


def test_a_run_that_has_not_begun(empty, tmp_path):
    log, store, run = empty
    page = Page(write_report(log, store, run, tmp_path / "r.html").read_text())
    assert "idle: not ended when this was written" in page.shown
    assert "Chosen frames" not in page.shown


def test_a_run_that_failed_says_why(empty, tmp_path):
    log, store, run = empty
    log.set_state(run, "running", START)
    log.set_state(run, "failed", START + timedelta(hours=30), "heater: no answer from /dev/serial/by-id/usb-7")
    log.readings(run, [("heater.temperature", Reading(quantity(25, "degC"), START))])
    page = Page(write_report(log, store, run[:8], tmp_path / "r.html").read_text())
    assert "✕ failed" in page.shown
    assert "no answer from …/usb-7" in page.shown
    assert "02 Jan" in page.shown


def test_the_drift_that_was_found_is_drawn(empty, tmp_path):
    log, store, run = empty
    log.set_state(run, "running", START)
    for minute, total in enumerate([(0.0, 0.0), (40e-9, -15e-9), (85e-9, -33e-9)]):
        time = START + timedelta(minutes=minute)
        log.correction(run, time, "drift", {"outcome": "corrected", "standing": {"total": list(total)}})
    across, up = Chronicle(log, run).drift
    assert across.values == pytest.approx([0, 40, 85])
    assert up.values == pytest.approx([0, -15, -33])
    assert (across.unit, list(across.times)) == ("nm", [0, 60, 120])
    assert "Drift of the sample" in Page(write_report(log, store, run, tmp_path / "r.html").read_text()).shown


def test_files_that_are_gone_or_damaged_are_told(night, tmp_path):
    chosen = Chronicle(night.log, night.run).chosen()
    copy = tmp_path / "runs"
    shutil.copytree(night.store.root, copy)
    frames = {frame.id: frame for frame in night.log.frames(night.run)}
    (copy / chosen[0].path).unlink()
    (copy / chosen[1].path).write_bytes(b"II*\x00 and no more")
    (copy / frames[chosen[2].frame_id].stored.path).unlink()
    with Store(copy) as store:
        page = Page(write_report(night.log, store, night.run, tmp_path / "r.html").read_text())
    assert page.shown.count("Missing here: the heights:") == 2
    assert page.shown.count("Missing here: the segments' images:") == 1
    assert len(page.data("scene")["surfaces"]) == 4


def test_all_files_are_gone(night, tmp_path):
    with Store(tmp_path / "nothing") as store:
        page = Page(write_report(night.log, store, night.run, tmp_path / "r.html").read_text())
    assert page.all("canvas") == []
    assert "Roughness Sq" in page.shown


def test_what_cannot_be_written(night, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="the report cannot be written"):
        write_report(night.log, night.store, night.run, tmp_path / "file" / "r.html")
    with pytest.raises(RunError, match="no run 'nobody'"):
        write_report(night.log, night.store, "nobody", tmp_path / "r.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_report_is_the_same_every_time(night, tmp_path):
    one, two = (write_report(night.log, night.store, night.run, tmp_path / name).read_text() for name in "ab")
    assert one == two


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_runs_the_script_and_nothing_else(written, tmp_path):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", written.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # The script filled these in; an error or the page's own policy would have kept it from that.
    assert re.search(r'id="surface-note"[^>]*>frame \d+, .* into the run · 10 × 10 µm', done.stdout)
    assert re.search(r'<output id="stretched"[^>]*>× \d', done.stdout)
    assert "CONSOLE" not in done.stderr

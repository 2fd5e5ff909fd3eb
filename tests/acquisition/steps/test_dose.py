"""The dose of every area: counted, bounded, and found again from the log."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition.dose import EXPOSURE, PLACE, DoseLedger, Field, axes_of, field_from_json, field_of, field_to_json
from acquisition.records import Correction, FrameEntry, Setpoint
from acquisition.store import StoredFrame
from drivers.contract import Scan

SCAN = Scan(128, 128, 10e-6, 1e-5)
CURRENT = 1e-9
FRAME = CURRENT * SCAN.dwell_time / SCAN.pixel_size**2
START = datetime(2026, 1, 1, tzinfo=UTC)


def ledger_at(*places, limit=None):
    ledger = DoseLedger(limit)
    for x, y in places:
        ledger.axes = {"stage.x": x, "stage.y": y}
        ledger.add(ledger.coming(SCAN, CURRENT))
    return ledger


def test_frames_of_one_place_add_up():
    ledger = ledger_at((0, 0), (0, 0), (0, 0))
    assert ledger.highest == pytest.approx(3 * FRAME)
    assert ledger.after(ledger.coming(SCAN, CURRENT)) == pytest.approx(4 * FRAME)


def test_places_apart_do_not():
    ledger = ledger_at((0, 0), (10e-6, 0), (0, 10e-6))
    assert ledger.highest == pytest.approx(FRAME)


def test_only_what_overlaps_adds_up():
    """Two fields apart, and one across both: no point has had three."""
    ledger = ledger_at((0, 0), (12e-6, 0), (6e-6, 0))
    assert ledger.highest == pytest.approx(2 * FRAME)


def test_beam_shift_and_stage_lead_to_the_same_place():
    one, other = field_of(SCAN, 1e-9, {"stage.x": 2e-6}), field_of(SCAN, 1e-9, {"column.beam_shift_x": 2e-6})
    assert one == other


def test_the_budget_of_one_area_is_not_that_of_another():
    ledger = ledger_at((0, 0), (0, 0), limit=2.5 * FRAME)
    assert not ledger.allows(ledger.coming(SCAN, CURRENT))
    ledger.moved("stage.x", 50e-6)
    assert ledger.allows(ledger.coming(SCAN, CURRENT))
    ledger.moved("heater.temperature", 900.0)
    assert set(ledger.axes) == {"stage.x", "stage.y"}


def test_a_smaller_field_brings_more():
    small = Scan(128, 128, 1e-6, 1e-5)
    ledger = DoseLedger(limit=50 * FRAME)
    assert not ledger.allows(ledger.coming(small, CURRENT))


PLACES = st.tuples(st.integers(-3, 3), st.integers(-3, 3))


@given(st.lists(PLACES, max_size=12), PLACES)
def test_the_sum_is_that_of_every_point(places, last):
    """Against a grid of points, on places a third of a field apart."""
    third = SCAN.field_of_view / 3
    ledger = ledger_at(*((x * third, y * third) for x, y in places))
    ledger.axes = {"stage.x": last[0] * third, "stage.y": last[1] * third}

    def times(i, j):
        return sum(abs(i - 3 * x) <= 4 and abs(j - 3 * y) <= 4 for x, y in places)

    around = [(3 * last[0] + i, 3 * last[1] + j) for i in range(-4, 5) for j in range(-4, 5)]
    expected = 1 + max((times(i, j) for i, j in around), default=0)
    assert ledger.after(ledger.coming(SCAN, CURRENT)) == pytest.approx(expected * FRAME)


def entry(number, seconds, dark=False):
    return FrameEntry(
        number + 1, number, number, START + timedelta(seconds=seconds), StoredFrame(Path("x"), "", 0), dark, 4,
        SCAN.rows, SCAN.columns, SCAN.pixel_size, 8e-3, 8e-16, CURRENT, SCAN.dwell_time,
    )  # fmt: skip


def test_a_resumed_run_counts_from_its_log():
    def moved(seconds, channel, value):
        return Setpoint(channel, value, "m", START + timedelta(seconds=seconds), 0)

    frames = [entry(0, 10), entry(1, 20, dark=True), entry(2, 30), entry(3, 50), entry(4, 70)]
    setpoints = [moved(40, "stage.x", 1e-3), moved(45, "heater.temperature", 300.0), moved(60, "stage.x", 2e-3)]
    search = field_of(SCAN, CURRENT, {"stage.x": 1e-3, "stage.y": 5e-4})
    corrections = [
        Correction(None, START, PLACE, {"stage.x": 2e-3, "stage.y": 5e-4}),
        Correction(3, START + timedelta(seconds=55), EXPOSURE, field_to_json(search)),
        Correction(3, START + timedelta(seconds=56), "focus", {"outcome": "found"}),
    ]
    ledger = DoseLedger.of(frames, setpoints, corrections, limit=4 * FRAME)
    # At 2 mm: frames 0, 2 and 4; at 1 mm: frame 3 and the one that was not kept.
    assert ledger.axes == {"stage.x": 2e-3, "stage.y": 5e-4}
    assert ledger.after(ledger.coming(SCAN, CURRENT)) == pytest.approx(4 * FRAME)
    assert ledger.after(search) == pytest.approx(3 * FRAME)
    assert ledger.highest == pytest.approx(3 * FRAME)


def test_a_field_survives_json():
    field = field_of(SCAN, CURRENT, {"stage.x": 1e-3})
    assert field_from_json(field_to_json(field)) == field
    assert isinstance(field, Field)
    assert math.isclose(field.x[1] - field.x[0], SCAN.field_of_view)


def test_axes_are_read_from_the_instrument(obedient):
    obedient.backends["stage.x"].value = 3.0
    assert axes_of(obedient.instrument)["stage.x"] == pytest.approx(3e-3)

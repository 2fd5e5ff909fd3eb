"""A sample of the fault matrix: nights with one fault end as they may, never hang, and tell what happened."""

import sys
from pathlib import Path

import pytest

from simulators.faults import KINDS

sys.path.insert(0, str(Path(__file__).parent))

import faulty_nights

LASTING = [
    ("timeout", "gas"),
    ("hang", "ramp"),
    ("hang", "frame"),
    ("disconnect", "set"),
    ("disk_full", "series"),
    ("stuck", "frame"),
    ("thermocouple", "hold"),
    ("pressure_burst", "autofocus"),
    ("beam_trip", "beam check"),
]


@pytest.mark.parametrize(
    ("kind", "action", "lasting"), [*((kind, "series", False) for kind in KINDS), *((*case, True) for case in LASTING)]
)
def test_a_night_with_a_fault(tmp_path, kind, action, lasting):
    ending = faulty_nights.play(kind, action, lasting, tmp_path)
    assert ending.wrong == ""
    if kind not in ("drift", "stuck") or lasting:
        assert ending.told > 0
    if lasting:
        assert ending.state in ("safe", "failed")

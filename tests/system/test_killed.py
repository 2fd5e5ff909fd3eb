"""A sample of the harness in ``killing.py``: nights that are killed with SIGKILL go on, and lose nothing."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import killing

SAMPLE = [
    killing.Trap("acquisition.log:Log.create_run", 1, after=True),
    killing.Trap("acquisition.ledger:Ledger.intent", 7, after=True),
    killing.Trap("acquisition.store:Store.append", 5, after=True),
    killing.Trap("drivers.contract:Parameter.set", 8, after=True),
    killing.Trap("acquisition.engine:clean_up", 1),
]


@pytest.mark.parametrize("trap", SAMPLE, ids=str)
def test_killed_at_a_named_point(tmp_path, trap):
    killing.preload()
    story = killing.killed_night(tmp_path, trap)
    assert story.problems == []
    assert story.killed == 1


def test_killed_at_random(tmp_path):
    killing.preload()
    story = killing.killed_night(tmp_path, moments=iter([1.2, 0.9]))
    assert story.problems == []
    assert story.killed >= 1

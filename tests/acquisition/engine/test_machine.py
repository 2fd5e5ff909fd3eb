"""A sample of the engine's state machine under hypothesis; ``tests/benchmarks/states.py`` plays it for longer."""

import importlib.util
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test


def test_whatever_is_asked(bench):
    spec = importlib.util.spec_from_file_location("machine", Path(__file__).with_name("machine.py"))
    machine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(machine)
    machine.Asked.make_bench = staticmethod(type(bench))
    run_state_machine_as_test(
        machine.Asked,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert machine.Asked.transitions > 100

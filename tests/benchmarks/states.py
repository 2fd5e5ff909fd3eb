"""The engine as a state machine under hypothesis: at least 10,000 transitions, and what must hold after each night.

python tests/benchmarks/states.py [TRANSITIONS]

Only ways that exist are taken, every night passes through its cleanup, no frame is lost or double.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.acquisition.engine import conftest, machine

ROUND = 50
"""Nights after which the transitions are counted."""


def main() -> None:
    """Play until there are enough transitions."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    machine.Asked.make_bench = staticmethod(conftest.Bench)
    began, nights = time.monotonic(), 0
    while machine.Asked.transitions < wanted:
        run_state_machine_as_test(
            machine.Asked,
            settings=settings(
                max_examples=ROUND,
                stateful_step_count=60,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        nights += ROUND
        print(f"{nights} nights, {machine.Asked.transitions} transitions", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{'transitions without a violation':<44}{'≥ 10,000':>10}{machine.Asked.transitions:>10}   in {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()

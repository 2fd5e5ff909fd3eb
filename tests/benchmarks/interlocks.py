"""How soon an interlock acts while the engine's thread is blocked. Run: ``python tests/benchmarks/interlocks.py``.

The engine sits in a call to a device that does not come back. A channel goes beyond its rule's limit at a random
moment; what is measured is the time from there to the moment at which the watch begins to enter the safe state, in
polling periods, and to the moment at which the beam is off the sample. Goal: two periods at the most, on the virtual
clock and on the real one. Beside it: what watching costs on a virtual night.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from statistics import median
from typing import Any

from acquisition.app import instrument_document
from acquisition.interlock_watch import InterlockWatch
from acquisition.interlocks import Names, instrument_interlocks, interlock
from acquisition.safe_state import SafeState
from drivers.clock import Clock, RealClock, VirtualClock
from drivers.contract import Instrument, PressureGauge, Readable
from drivers.registry import Registry
from drivers.safety import InterlockFile

TRIALS = 60
REAL_TRIALS = 40
REAL_PERIOD = 0.1
"""s."""


class Gauge:
    """Shows 10 Pa, and 5 kPa from a moment on."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.bursts_at = float("inf")

    def get(self) -> tuple[float, datetime]:
        """Return the pressure, Pa."""
        return (5000.0 if self.clock.monotonic() >= self.bursts_at else 10.0), self.clock.now()


class Nobody:
    """A run whose engine is blocked: it is told, and does nothing."""

    def warn(self, message: str, data: Mapping[str, Any]) -> None:
        """Do nothing."""

    def suspend(self, reason: str, rule: str) -> None:
        """Do nothing."""

    def release(self, rule: str) -> None:
        """Do nothing."""

    def stalled(self, what: str, waited: float, expected: float) -> None:
        """Do nothing."""

    def make_safe(self, reason: str) -> None:
        """Do nothing."""


def instrument(clock: Clock) -> tuple[Instrument, Gauge]:
    """Return the twin's devices on a clock, with a gauge that bursts on command."""
    twin = Registry.discover().instrument(instrument_document(None), clock)
    gauge = Gauge(clock)
    values = {name: getattr(twin, name) for name in twin.__dataclass_fields__}
    values["description"] = {**twin.description, "safe_state": [{"blank": "beam", "within": "5 s"}]}
    values["gauge"] = PressureGauge(Readable("gauge.pressure", "Pa", gauge, clock))
    return Instrument(**values), gauge


def react(clock: Clock, period: float, block: Callable[[float], None]) -> tuple[float, float]:
    """Return the time (s) from the burst to the safe state being entered, and to the beam being off."""
    bench, gauge = instrument(clock)
    rule = interlock(InterlockFile.model_validate({"when": "pressure above 2 kPa", "then": "safe"}), Names(bench), "")
    safe_state = SafeState.of(bench)
    entered: list[float] = []
    enter = safe_state.enter

    def noted(*arguments: Any, **options: Any) -> Any:
        entered.append(clock.monotonic())
        return enter(*arguments, **options)

    safe_state.enter = noted  # type: ignore[method-assign]
    place = clock.register("engine")
    watch = InterlockWatch(bench, [rule], Nobody(), safe_state, period=period)
    gauge.bursts_at = clock.monotonic() + 5 * period + random.uniform(0, 3) * period
    blank: list[float] = []
    blanker = bench.column.blanker
    put = blanker.put

    def switched(on: bool) -> None:
        put(on)
        blank.append(clock.monotonic())

    blanker.put = switched  # type: ignore[method-assign]

    def engine() -> None:
        with place:
            block(12 * period)
            watch.end()

    thread = threading.Thread(target=engine)
    watch.start()
    thread.start()
    thread.join()
    watch.close()
    bench.close()
    return entered[0] - gauge.bursts_at, blank[0] - gauge.bursts_at


def show(name: str, period: float, times: list[tuple[float, float]]) -> bool:
    """Print one line; return whether the goal is met."""
    first, beam = (sorted(values) for values in zip(*times, strict=True))
    worst = first[-1] / period
    print(
        f"{name}: {len(times)} bursts, period {period:g} s: acted after {median(first) / period:.2f} periods, "
        f"{worst:.2f} at the most (goal 2); beam off after {beam[-1] / period:.2f} at the most"
    )
    return worst <= 2.0


def cost(hours: float = 2.0) -> tuple[float, float]:
    """Return processor seconds for each hour of a virtual night, without the twin's rules and with them."""
    spent = []
    for rules in (False, True):
        clock = VirtualClock()
        bench, _ = instrument(clock)
        place = clock.register("engine")
        watch = InterlockWatch(bench, instrument_interlocks(bench), Nobody(), SafeState.of(bench)) if rules else None

        def engine(watch: InterlockWatch | None = watch, place: Any = place, clock: Clock = clock) -> None:
            with place:
                for _ in range(round(hours * 360)):
                    clock.sleep(10.0)
                if watch is not None:
                    watch.end()

        thread = threading.Thread(target=engine)
        began = time.process_time()
        if watch is not None:
            watch.start()
        thread.start()
        thread.join()
        if watch is not None:
            watch.close()
        spent.append((time.process_time() - began) / hours)
        bench.close()
    return spent[0], spent[1]


def main() -> None:
    """Measure and print."""
    random.seed(1)
    sound = True
    virtual = []
    for _ in range(TRIALS):
        clock = VirtualClock()
        virtual.append(react(clock, 1.0, clock.sleep))
    sound &= show("virtual clock, the engine hangs on it", 1.0, virtual)
    real = [react(RealClock(), REAL_PERIOD, lambda seconds: threading.Event().wait(seconds) and None)
            for _ in range(REAL_TRIALS)]  # fmt: skip
    sound &= show("real clock, the engine's thread is blocked", REAL_PERIOD, real)
    without, with_rules = cost()
    print(
        f"watching the twin's {len(instrument_document(None).data['interlocks'])} rules once a second costs "
        f"{with_rules - without:.2f} processor seconds for each hour of a virtual night"
    )
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()

"""The thread that watches: within two periods, whatever the engine, a channel or the log does meanwhile."""

import threading
import time

import pytest

from acquisition.interlock_watch import InterlockWatch
from acquisition.interlocks import instrument_interlocks
from acquisition.safe_state import SafeState
from acquisition.watchdog import Watchdog
from drivers.frame import Reading
from drivers.units import quantity

FILE = """\
name: bench
safe_state: [{blank: beam, within: 5 s}, {close: all, within: 5 s}]
interlocks:
"""


class Subject:
    """Writes down what it is told, and when."""

    def __init__(self, clock):
        self.clock, self.told, self.hang = clock, [], None

    def _note(self, *what):
        if self.hang is not None:
            self.hang()
        self.told.append((self.clock.monotonic(), *what))

    def warn(self, message, data):
        self._note("warn", message)

    def suspend(self, reason, rule):
        self._note("suspend", rule)

    def release(self, rule):
        self._note("release", rule)

    def stalled(self, what, waited, expected):
        self._note("stalled", what)

    def make_safe(self, reason):
        self._note("safe", reason)

    def words(self):
        return [(round(time, 3), kind) for time, kind, *_ in self.told]


class Watched:
    """A bench with a watch, and an engine that is blocked all the while."""

    def __init__(self, bench, **options):
        self.bench, self.clock = bench, bench.clock
        self.subject = Subject(bench.clock)
        self.safe = SafeState.of(bench.instrument)
        interlocks = instrument_interlocks(bench.instrument)
        self.watch = InterlockWatch(bench.instrument, interlocks, self.subject, self.safe, **options)

    def during(self, seconds, *events, register=True):
        """Let ``seconds`` pass on a virtual clock, with what happens at its times; the engine sits in a call."""
        place = self.clock.register("engine")
        happening = self.clock.register("what happens")

        def engine():
            with place:
                self.clock.sleep(seconds)  # a call to a device that does not come back so soon
                self.watch.end()

        def happen():
            with happening:
                for moment, event in events:
                    self.clock.sleep(moment - self.clock.monotonic())
                    event()

        threads = [threading.Thread(target=work) for work in (engine, happen)]
        self.watch.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        self.watch.close()
        return self.subject.words()


def watched(make, rules, **options):
    return Watched(make(FILE + "".join(f"  - {{{rule}}}\n" for rule in rules)), **options)


def test_a_rule_is_acted_upon_within_two_periods(virtual):
    w = watched(virtual, ["when: heater above 900 K, then: safe"])
    assert w.during(100, (50.3, lambda: w.bench.heater.jump(950.0))) == [(51.0, "safe")]
    assert w.safe.report.verified
    assert w.bench.blanker.on
    assert (w.safe.report.began - w.bench.clock._start).total_seconds() == pytest.approx(51.0)


def test_it_must_last_as_long_as_the_rule_says(virtual):
    w = watched(virtual, ["when: pressure above 100 Pa for 5 s, then: safe"])
    events = [(10.5, 200.0), (14.5, 20.0), (30.5, 200.0)]
    told = w.during(60, *((at, lambda value=value: w.bench.pressure.jump(value)) for at, value in events))
    assert told == [(36.0, "safe")]


def test_suspended_and_released_after_it_has_settled(virtual):
    w = watched(virtual, ["when: pressure above 100 Pa, then: suspend, settle: 30 s, longest: 10 min"])
    events = [(10.5, 200.0), (20.5, 20.0), (40.5, 200.0), (50.5, 20.0)]
    told = w.during(200, *((at, lambda value=value: w.bench.pressure.jump(value)) for at, value in events))
    assert told == [(11.0, "suspend"), (81.0, "release")]
    assert not w.safe.entered


def test_suspended_for_too_long_is_safe(virtual):
    w = watched(virtual, ["when: pressure above 100 Pa, then: suspend, longest: 5 min"])
    told = w.during(600, (10.5, lambda: w.bench.pressure.jump(200.0)))
    assert told == [(11.0, "suspend"), (311.0, "safe")]
    assert "suspended for 300 s by the instrument's interlock 'pressure above 100 Pa'" in w.subject.told[1][2]
    assert w.safe.report.verified


def test_a_warning_comes_once_until_it_was_over(virtual):
    w = watched(virtual, ["when: O2 above 5 sccm, then: warn, settle: 10 s"])
    events = [(10.5, 8.0), (20.5, 0.0), (50.5, 8.0)]
    told = w.during(100, *((at, lambda value=value: w.bench.flow("O2").jump(value)) for at, value in events))
    assert told == [(11.0, "warn"), (51.0, "warn")]


def test_a_channel_that_hangs_keeps_no_other_rule_from_being_watched(virtual):
    w = watched(
        virtual,
        [
            "when: O2 above 50 sccm, then: warn",
            "when: heater above 900 K, then: safe",
            "when: any readback older than 10 s, then: warn",
        ],
    )

    def hang():
        w.bench.flow("O2").hang = lambda: w.clock.sleep(500)

    told = w.during(300, (10.2, hang), (100.4, lambda: w.bench.heater.jump(950.0)))
    assert [kind for _, kind in told] == ["warn", "warn", "safe", "warn"]
    assert "could not close O2" in w.subject.told[3][2]
    assert told[0][0] <= 18  # O2's own 5 s of staleness, and how often it is read
    assert told[1][0] <= 24
    assert 100.4 < told[2][0] <= 102.4
    assert "gases.O2.flow has not answered for" in w.subject.told[0][2]


def test_nonsense_and_errors_count_as_silence(virtual):
    w = watched(virtual, ["when: heater above 900 K, then: safe, stale_after: 20 s"])

    def nonsense():
        w.bench.heater.reads_wrong = lambda: float("nan")

    assert w.during(100, (30.5, nonsense)) == [(51.0, "safe")]
    w = watched(virtual, ["when: heater above 900 K, then: safe, stale_after: 20 s"])

    def break_down():
        w.bench.heater.fails = 10**9

    assert w.during(100, (30.5, break_down)) == [(51.0, "safe")]


def test_a_frozen_readback_grows_old(virtual):
    w = watched(virtual, ["when: heater older than 10 s, then: suspend"])

    def freeze():
        stamp = w.clock.now()
        w.bench.heater.get = lambda: (300.0, stamp)

    assert w.during(100, (30.5, freeze)) == [(41.0, "suspend")]


def test_pushed_values_spare_the_wire_and_count(virtual):
    w = watched(virtual, ["when: heater above 900 K, then: safe"])

    def push(value):
        reading = Reading(quantity(value, "K"), w.clock.now())
        w.watch.push_all({"heater.temperature": reading, "nobody.asked": reading})

    events = [(second + 0.9, lambda: push(300.0)) for second in range(50)] + [(50.9, lambda: push(950.0))]
    assert w.during(51.5, *events) == [(51.0, "safe")]
    assert w.bench.heater.reads == 1  # before the first was pushed


def test_a_subject_that_hangs_does_not_keep_the_safe_state_from_being_entered(virtual):
    w = watched(virtual, ["when: heater above 900 K, then: safe"])
    w.subject.hang = lambda: w.clock.sleep(1000)
    w.during(200, (50.3, lambda: w.bench.heater.jump(950.0)))
    assert w.safe.report.verified
    assert (w.safe.report.began - w.bench.clock._start).total_seconds() == pytest.approx(51.0)


def test_a_subject_that_raises_does_not_end_the_watch(virtual):
    w = watched(virtual, ["when: O2 above 5 sccm, then: warn", "when: heater above 900 K, then: safe"])
    original, calls = w.subject._note, []

    def broken(*what):
        calls.append(what)
        if what[0] == "warn":
            raise RuntimeError("no log")
        original(*what)

    w.subject._note = broken
    w.during(100, (10.5, lambda: w.bench.flow("O2").jump(8.0)), (50.3, lambda: w.bench.heater.jump(950.0)))
    assert [call[0] for call in calls] == ["warn", "safe"]


def test_a_stall_is_told_and_then_ends_safe(virtual):
    bench = virtual(FILE.removesuffix("interlocks:\n"))
    dog = Watchdog.of(bench.instrument)
    w = Watched(bench, watchdog=dog)

    def begin():
        dog.expect("steps[3].frames", 10.0)

    told = w.during(1000, (100.0, begin), (150.0, dog.progress))
    assert [kind for _, kind in told] == ["stalled", "safe"]
    stalled, safe = (when for when, _ in told)
    assert stalled == pytest.approx(150 + 3 * 10 + 120, abs=2)
    assert safe == pytest.approx(stalled + 300, abs=2)
    assert "steps[3].frames has made no progress for" in w.subject.told[1][2]
    assert w.safe.report.verified


def test_the_same_night_twice(virtual):
    def night():
        w = watched(virtual, ["when: pressure above 100 Pa, then: suspend", "when: heater above 900 K, then: safe"])
        return w.during(300, (10.5, lambda: w.bench.pressure.jump(200.0)), (100.5, lambda: w.bench.heater.jump(950.0)))

    assert night() == night() == [(11.0, "suspend"), (101.0, "safe")]


def test_no_rules_no_readbacks(virtual):
    bench = virtual("name: bench\n")
    w = Watched(bench)
    assert w.during(100) == []
    assert all(backend.reads == 0 for backend in bench.backends.values())


def test_on_the_real_clock_with_the_engine_blocked(real):
    w = watched(real, ["when: heater above 900 K, then: safe"], period=0.05)
    let_go = threading.Event()
    engine = threading.Thread(target=lambda: let_go.wait(20))
    engine.start()
    w.watch.start()
    time.sleep(0.12)
    began = time.monotonic()
    w.bench.heater.jump(950.0)
    deadline = began + 5
    while not w.safe.entered and time.monotonic() < deadline:
        time.sleep(0.001)
    reaction = time.monotonic() - began
    let_go.set()
    engine.join()
    w.watch.close()
    assert reaction <= 0.1 + 0.1  # two periods, and a busy computer
    assert w.safe.enter("again").verified

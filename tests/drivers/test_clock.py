"""The virtual clock: one at a time, in a fixed order, and time only when everybody waits."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from drivers.clock import Clock, Deadline, RealClock, VirtualClock
from drivers.errors import DeviceTimeout, InputError


def play(clock, works):
    """Run each ``work(log)`` in a registered thread of its own; return the common log."""
    log = []
    places = [clock.register(name) for name in works]

    def enter(place, work):
        with place:
            work(log)

    threads = [
        threading.Thread(target=enter, args=(place, work)) for place, work in zip(places, works.values(), strict=True)
    ]
    for thread in reversed(threads):  # whoever starts first, the order of registration decides
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return log


def sleeper(clock, name, seconds, times):
    def work(log):
        for _ in range(times):
            clock.sleep(seconds)
            log.append((clock.monotonic(), name))

    return work


def test_order_is_the_same_every_time():
    logs = []
    for _ in range(5):
        clock = VirtualClock()
        logs.append(play(clock, {name: sleeper(clock, name, 1.0 + index, 20) for index, name in enumerate("abc")}))
    assert all(log == logs[0] for log in logs)
    assert logs[0] == sorted(logs[0], key=lambda entry: entry[0])


def test_a_night_takes_no_time():
    clock = VirtualClock()
    began = time.monotonic()
    clock.sleep(12 * 3600)
    assert time.monotonic() - began < 60
    assert clock.now() == datetime(2026, 1, 1, 18, tzinfo=UTC) + timedelta(hours=12)


def test_time_stands_still_while_somebody_works():
    clock = VirtualClock()

    def busy(log):
        before = clock.monotonic()
        time_spent = threading.Event()
        time_spent.wait(0.05)  # real work, no virtual time
        log.append(clock.monotonic() - before)

    log = play(clock, {"busy": busy, "sleeper": sleeper(clock, "sleeper", 1.0, 3)})
    assert log[0] == 0.0


def test_signal_wakes_before_the_timeout():
    clock = VirtualClock()
    flag = clock.signal()

    def waits(log):
        log.append((flag.wait(100.0), clock.monotonic()))

    def raises(log):
        clock.sleep(5.0)
        flag.set()

    assert play(clock, {"waits": waits, "raises": raises}) == [(True, 5.0)]


def test_signal_times_out():
    clock = VirtualClock()
    flag = clock.signal()
    assert play(clock, {"waits": lambda log: log.append((flag.wait(7.0), clock.monotonic()))}) == [(False, 7.0)]


def test_signal_from_outside_wakes_whoever_waits_without_end():
    clock = VirtualClock(speed=1000.0)
    flag = clock.signal()
    threading.Timer(0.05, flag.set).start()
    assert play(clock, {"waits": lambda log: log.append(flag.wait())}) == [True]


def test_decision_holds_unpaced_time():
    clock = VirtualClock()
    decision = clock.decision()
    threading.Timer(0.05, decision.set).start()

    def waits(log):
        decision.wait()
        log.append(("decided", clock.monotonic()))

    log = play(clock, {"waits": waits, "telemetry": sleeper(clock, "telemetry", 1.0, 3)})
    assert log[0] == ("decided", 0.0)


def test_speed_paces_virtual_time():
    clock = VirtualClock(speed=100.0)
    began = time.monotonic()
    clock.sleep(10.0)
    assert 0.09 < time.monotonic() - began < 9.0  # unpaced: 0; in real time: 10


def test_deadline():
    clock = VirtualClock()
    deadline = Deadline.after(clock, 3.0)
    clock.sleep(2.0)
    assert deadline.remaining == pytest.approx(1.0)
    deadline.check("the valve's opening")
    clock.sleep(1.0)
    with pytest.raises(DeviceTimeout, match="valve's opening"):
        deadline.check("the valve's opening")


@pytest.mark.parametrize("clock", [RealClock(), VirtualClock()])
def test_both_clocks_keep_the_contract(clock):
    assert isinstance(clock, Clock)
    assert clock.now().tzinfo is UTC
    before = clock.monotonic()
    clock.sleep(0.01)
    assert clock.monotonic() >= before + 0.009
    with clock.register("somebody"):
        assert not clock.signal().wait(0.001)


def test_bad_clock_is_refused():
    with pytest.raises(InputError, match="speed"):
        VirtualClock(speed=0.0)
    with pytest.raises(InputError, match="time zone"):
        VirtualClock(start=datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("speed", [None, 1000.0])
def test_a_thread_that_waits_for_ever_holds_nobody_up(speed):
    clock = VirtualClock(speed=speed)
    never = clock.signal()
    place = clock.register("hung")

    def hang():
        with place:
            never.wait()

    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    log = play(clock, {name: sleeper(clock, name, 1.0 + index, 10) for index, name in enumerate("ab")})
    assert log[-1] == (20.0, "b")
    assert thread.is_alive()
    never.set()
    clock.sleep(0.0)
    thread.join(10)
    assert not thread.is_alive()


def test_who_leaves_before_another_is_due_does_not_leave_it_asleep():
    clock = VirtualClock(speed=50.0)

    def brief(log):
        clock.sleep(1.0)
        log.append(("brief", clock.monotonic()))

    assert play(clock, {"brief": brief, "long": sleeper(clock, "long", 3.0, 1)}) == [("brief", 1.0), (3.0, "long")]


def test_a_clock_that_continues_another():
    clock = VirtualClock(speed=1000.0, elapsed=3600.5)
    assert clock.now() == datetime(2026, 1, 1, 19, 0, 0, 500_000, tzinfo=UTC)
    moments = []
    end = clock.watch(moments.append)
    began = time.monotonic()
    clock.sleep(10.0)
    assert 0.009 < time.monotonic() - began < 1.0  # not the hour that went before
    end()
    clock.sleep(1.0)
    assert moments == [3610.5]
    with pytest.raises(InputError, match="0 s or more after its start"):
        VirtualClock(elapsed=-1.0)


def test_time_goes_on_without_a_thread_that_hangs():
    clock = VirtualClock()
    let_go, hangs = threading.Event(), threading.Event()
    log = []
    engine, other = clock.register("engine"), clock.register("other")

    def hang():
        with engine:
            hangs.set()
            let_go.wait(10)  # a call that does not come back
            clock.sleep(5.0)  # and does after all: it waits like one that was never registered
            log.append(("engine", clock.monotonic()))

    def go_on():
        with other:
            clock.sleep(100.0)
            log.append(("other", clock.monotonic()))

    threads = [threading.Thread(target=work) for work in (hang, go_on)]
    for thread in threads:
        thread.start()
    assert hangs.wait(5)
    assert clock.free(3600.0) is None  # it has not hung for so long
    time.sleep(0.02)
    assert clock.free(0.01) == "engine"
    threads[1].join(5)
    assert log == [("other", 100.0)]
    let_go.set()
    threads[0].join(5)
    assert log == [("other", 100.0), ("engine", 105.0)]
    assert clock.free(0.0) is None
    assert RealClock().free(0.0) is None


def test_a_thread_that_was_freed_before_it_began_gets_its_place_back():
    clock = VirtualClock()
    late, other = clock.register("late"), clock.register("other")
    time.sleep(0.02)
    with clock._lock:
        clock._dispatch()  # somebody waits, and it is the turn of the one that has not begun
    time.sleep(0.02)
    assert clock.free(0.01) == "late"
    log = []

    def work(place, name, seconds):
        with place:
            clock.sleep(seconds)
            log.append((name, clock.monotonic()))

    threads = [threading.Thread(target=work, args=part) for part in ((late, "late", 1.0), (other, "other", 2.0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(log) == [("late", 1.0), ("other", 2.0)]

"""Calls that never come back: given up in time, counted, the same on both clocks."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.clock import RealClock, VirtualClock
from drivers.errors import DeviceError, DeviceTimeout, DeviceUnavailable
from drivers.patience import MOST_LOST, Patience, is_prompt

SHORT = 0.02
"""s of real time, for calls that hang on the real clock."""
LONG = 60.0
"""s for calls that are answered, however busy this computer is."""


class Device:
    """Answers after ``delay`` (s on the clock), or never while it hangs."""

    def __init__(self, clock):
        self.clock = clock
        self.hung = False
        self.free = clock.signal()
        self.calls = 0
        self.threads = set()

    def answer(self, delay=0.0, value=7.0):
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        if self.hung:
            self.free.wait()
            raise OSError("let go")
        if delay:
            self.clock.sleep(delay)
        return value


def on(clock, deadline=None, name="heater"):
    device = Device(clock)
    patience = Patience(name, clock, deadline or (5.0 if clock.virtual else SHORT))
    return device, patience


def settle(threads):
    """Wait (real time) until threads have ended."""
    for thread in threads:
        thread.join(5.0)
        assert not thread.is_alive()


@pytest.fixture(params=["virtual", "paced", "real"])
def clock(request):
    return {"virtual": VirtualClock, "paced": lambda: VirtualClock(speed=1000.0), "real": RealClock}[request.param]()


def test_answers_and_errors_come_back_to_the_caller(clock):
    device, patience = on(clock, LONG)
    assert patience.call("reading", device.answer, LONG) == 7.0
    with pytest.raises(ZeroDivisionError):
        patience.call("reading", lambda: 1 / 0)
    assert patience.call("reading", lambda: threading.current_thread().name) == "heater #1"
    patience.close()
    with pytest.raises(DeviceUnavailable, match="has been closed"):
        patience.call("reading", device.answer)


def test_a_call_that_hangs_is_given_up_at_its_deadline_and_the_next_is_served(clock):
    device, patience = on(clock)
    device.hung = True
    before = clock.monotonic()
    with pytest.raises(
        DeviceTimeout, match=r"setting heater to 800 has not returned after .* s; its thread 'heater #1'"
    ):
        patience.call("setting heater to 800", device.answer, where="heater.temperature")
    waited = clock.monotonic() - before
    assert patience.deadline <= waited < patience.deadline + (1.0 if clock.virtual else 5.0)
    assert patience.given_up == 1
    device.hung = False
    assert patience.call("reading", device.answer, LONG) == 7.0
    assert device.threads == {"heater #1", "heater #2"}
    device.free.set()
    clock.sleep(0.0)
    patience.close()


def test_after_three_in_a_row_it_is_unavailable_at_once_and_no_more_threads_hang(clock):
    device, patience = on(clock)
    device.hung = True
    for _ in range(3):
        with pytest.raises(DeviceTimeout):
            patience.call("reading", device.answer)
    before, calls = clock.monotonic(), device.calls
    for _ in range(20):
        with pytest.raises(DeviceUnavailable, match="3 calls in a row have not returned") as failure:
            patience.call("setting", device.answer, where="heater.rate")
    assert failure.value.where == "heater.rate"
    assert clock.monotonic() - before < (1e-9 if clock.virtual and clock.speed is None else 1.0)
    assert (device.calls, patience.given_up) == (calls, 3)
    device.free.set()
    patience.close()


def test_an_answer_in_between_begins_the_count_anew(clock):
    device, patience = on(clock)
    for _ in range(3):
        for hung in (True, True, False):
            device.hung = hung
            if hung:
                with pytest.raises(DeviceTimeout):
                    patience.call("reading", device.answer)
            else:
                assert patience.call("reading", device.answer, LONG) == 7.0
    assert patience.given_up == 6
    device.free.set()
    patience.close()


def silent(patience, device):
    device.hung = True
    for _ in range(3):
        with pytest.raises(DeviceTimeout):
            patience.call("reading", device.answer)


def test_a_reconnection_makes_it_available_unless_it_fails_or_hangs_too():
    clock = VirtualClock()
    device, patience = on(clock)
    silent(patience, device)

    def refuse():
        raise DeviceUnavailable("no link", "heater")

    with pytest.raises(DeviceUnavailable, match="no link"):
        patience.reconnect(refuse)
    assert not patience.available
    before = clock.monotonic()
    with pytest.raises(DeviceTimeout, match="reconnecting has not returned after 30 s"):
        patience.reconnect(device.answer)
    assert clock.monotonic() - before == 30.0
    with pytest.raises(DeviceUnavailable):
        patience.call("reading", device.answer)
    device.hung = False
    patience.reconnect(device.answer)
    assert patience.call("reading", device.answer, LONG) == 7.0
    patience.close()


def test_a_dead_device_does_not_eat_threads_all_night():
    clock = VirtualClock()
    device, patience = on(clock)
    silent(patience, device)
    for _ in range(50):
        with pytest.raises(DeviceError):
            patience.reconnect(device.answer)
        clock.sleep(60.0)
    assert patience.given_up == MOST_LOST
    with pytest.raises(DeviceUnavailable, match="12 calls hang in this device's driver; switch the device off"):
        patience.reconnect(None)
    device.free.set()
    clock.sleep(0.0)
    patience.close()


def test_an_answer_that_comes_too_late_is_nobodys():
    clock = VirtualClock()
    device, patience = on(clock, name="late")
    with clock.register("caller"):
        with pytest.raises(DeviceTimeout):
            patience.call("reading", lambda: device.answer(8.0, "late"))
        late = next(thread for thread in threading.enumerate() if thread.name == "late #1")
        assert patience.call("reading", lambda: device.answer(4.0, "in time")) == "in time"
        assert clock.monotonic() == 9.0
        settle([late])  # it ended by itself
        assert patience.given_up == 0
        patience.close()


def night(hangs):
    """Two callers at different paces share a device that hangs at times; return what each saw, and when."""
    clock = VirtualClock()
    device, patience = on(clock)
    seen = []
    places = [clock.register(name) for name in ("engine", "telemetry")]

    def work(place, name, pace, calls):
        with place:
            for _ in range(calls):
                device.hung = any(begin <= clock.monotonic() < begin + length for begin, length in hangs)
                try:
                    answer = patience.call(f"call of {name}", lambda: device.answer(0.25, clock.monotonic()))
                except DeviceError as error:
                    answer = error.code
                seen.append((clock.monotonic(), name, answer))
                clock.sleep(pace)

    threads = [
        threading.Thread(target=work, args=(place, *rest))
        for place, rest in zip(places, (("engine", 3.0, 12), ("telemetry", 1.0, 30)), strict=True)
    ]
    for thread in threads:
        thread.start()
    settle(threads)
    device.free.set()
    patience.close()
    return seen


@settings(max_examples=12, deadline=None)
@given(hangs=st.lists(st.tuples(st.floats(0.0, 40.0), st.floats(0.1, 20.0)), max_size=3))
def test_a_night_with_hangs_repeats_to_the_bit_and_ends(hangs):
    seen = night(hangs)
    assert seen == night(hangs)
    assert len(seen) == 42
    longest = 2 * 5.0 + 0.5  # the other's call, and one's own
    for name, pace in (("engine", 3.0), ("telemetry", 1.0)):
        moments = [0.0, *(moment for moment, who, _ in seen if who == name)]
        assert all(b - a <= longest + pace + 1e-6 for a, b in itertools.pairwise(moments))


def test_who_waits_behind_a_call_that_hangs_gets_its_turn():
    clock = VirtualClock()
    device, patience = on(clock)
    device.hung, came = True, []
    place, own = clock.register("first"), clock.register("second")

    def first():
        with place:
            try:
                patience.call("first", device.answer)
            except DeviceTimeout:
                came.append(("first", clock.monotonic()))

    thread = threading.Thread(target=first)
    thread.start()
    with own:
        clock.sleep(1.0)
        device.hung = False
        came.append((patience.call("second", device.answer), clock.monotonic()))
    settle([thread])
    assert sorted(came, key=str) == [("first", 5.0), (7.0, 5.0)]
    device.free.set()
    patience.close()


def test_closing_ends_the_threads_that_can_be_ended(clock):
    device, patience = on(clock, name=f"closing {id(clock)}")
    patience.call("reading", device.answer, LONG)
    device.hung = True
    with pytest.raises(DeviceTimeout):
        patience.call("reading", device.answer)
    device.hung = False
    patience.call("reading", device.answer, LONG)
    ours = [thread for thread in threading.enumerate() if thread.name.startswith(patience.name)]
    assert len(ours) == 2
    patience.close()
    alive = [thread for thread in ours if thread.is_alive()]
    assert [thread.name for thread in alive] == [f"{patience.name} #1"]
    device.free.set()
    clock.sleep(0.001)
    settle(alive)


def test_closing_while_somebody_waits_refuses_it_and_lets_the_call_under_way_end():
    clock = VirtualClock()
    device, patience = on(clock)
    came = []
    places = [clock.register(name) for name in ("first", "second")]

    def call(place, name, pause):
        with place:
            clock.sleep(pause)
            try:
                came.append((name, patience.call(name, lambda: device.answer(3.0))))
            except DeviceUnavailable:
                came.append((name, "closed"))

    threads = [
        threading.Thread(target=call, args=(place, name, pause))
        for place, name, pause in zip(places, ("first", "second"), (0.0, 1.0), strict=True)
    ]
    own = clock.register("owner")
    for thread in threads:
        thread.start()
    with own:
        clock.sleep(2.0)
        patience.close()
        clock.sleep(5.0)
    settle(threads)
    assert came == [("second", "closed"), ("first", 7.0)]


def test_real_calls_really_run_beside_the_caller():
    device, patience = on(RealClock())
    device.hung = True
    began = time.monotonic()
    with pytest.raises(DeviceTimeout):
        patience.call("reading", device.answer)
    assert time.monotonic() - began < 5.0
    device.free.set()
    patience.close()


def test_a_promise_is_an_attribute_that_is_true():
    class Prompt:
        prompt = True

    assert is_prompt(Prompt())
    assert not is_prompt(lambda: None)

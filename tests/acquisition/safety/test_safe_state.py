"""The safe state: attempted to the end, each part with its deadline, seen to be done; from any thread."""

import threading
import time

import pytest

from acquisition.safe_parts import default_parts
from acquisition.safe_state import SafeState
from drivers.errors import DocumentError, RunError

SHORT = """\
name: bench
safe_state:
  - {blank: beam, within: 5 s}
  - {heater: 25 degC, rate: 20 K/min, within: 10 s}
  - {close: reactive, within: 30 s}
  - {purge: {N2: 50 sccm}, for: 5 min, within: 30 s}
  - {close: all, within: 30 s}
"""


def hot(bench):
    """An instrument in the middle of a run: hot, under oxygen, beam on."""
    bench.instrument.heater.ramp("1000 K", "20 K/min")
    bench.heater.jump(1000.0)
    bench.instrument.gases["O2"].flow.set("5 sccm")
    return SafeState.of(bench.instrument)


def states(report):
    return {part.what: part.state for part in report.parts}


def test_every_part_in_its_order_and_seen_to_be_done(virtual, on_clock):
    bench = virtual(SHORT)
    safe = hot(bench)
    assert not safe.entered
    notes, told = [], []
    report = on_clock(
        bench.clock,
        lambda: safe.enter(
            "a test", send=lambda p, v: notes.append((p.name, float(v.magnitude))), tell=lambda *a: told.append(a)
        ),
    )
    assert report.verified, report.sentence
    assert [part.what for part in report.parts] == [
        "blank the beam", "set the heater's rate", "send the heater down", "close H2", "close O2", "purge with N2",
        "close H2", "close O2", "close Ar", "close N2",
    ]  # fmt: skip
    assert bench.blanker.on
    assert bench.heater.target == pytest.approx(298.15)
    assert bench.flow("N2").sent == [50.0, 0.0]
    assert 300 <= report.seconds < 310
    assert ("gases.N2.flow", 50.0) in notes
    assert [level for level, _, _ in told] == ["warning"]
    assert told[0][2]["verified"] is True
    assert safe.entered
    assert safe.report is report


def test_the_default_list_blanks_cools_closes_purges_and_closes(virtual, on_clock):
    bench = virtual()
    assert [part.what for part in default_parts(bench.instrument)] == [
        "blank the beam", "send the heater down", "close H2", "close O2", "purge with N2",
        "close H2", "close O2", "close Ar", "close N2",
    ]  # fmt: skip
    safe = hot(bench)
    assert on_clock(bench.clock, lambda: safe.enter("a test")).verified


def test_a_part_that_fails_keeps_no_other_from_being_done(virtual, on_clock):
    bench = virtual(SHORT)
    safe = hot(bench)
    bench.blanker.stuck = True
    bench.flow("H2").fails = 10**6
    report = on_clock(bench.clock, lambda: safe.enter("a test"))
    assert not report.verified
    got = states(report)
    assert got["blank the beam"] == "failed"
    assert got["close H2"] == "failed"
    assert {state for what, state in got.items() if what not in ("blank the beam", "close H2")} == {"verified"}
    assert "beam is still on the sample" in report.sentence
    assert bench.flow("O2").target == 0.0
    assert report.seconds < 345  # failing costs no more than the last deadline


def test_a_lost_answer_is_tried_again(virtual, on_clock):
    bench = virtual(SHORT)
    safe = hot(bench)
    bench.heater.fails = 2
    report = on_clock(bench.clock, lambda: safe.enter("a test"))
    assert report.verified
    assert bench.heater.target == pytest.approx(298.15)


def test_a_stuck_valve_is_sent_to_again_and_told(virtual, on_clock):
    bench = virtual(SHORT)
    safe = hot(bench)
    bench.flow("O2").stuck = True
    report = on_clock(bench.clock, lambda: safe.enter("a test"))
    assert states(report)["close O2"] == "done"
    assert "O2 still reads 5 sccm" in report.sentence
    assert len(bench.flow("O2").sent) == 7  # once open, three times in each of two parts


def test_a_heater_that_does_not_fall_is_told(virtual, on_clock):
    bench = virtual(SHORT)
    safe = hot(bench)
    bench.heater.reads_wrong = lambda: 1000.0
    report = on_clock(bench.clock, lambda: safe.enter("a test"))
    assert states(report)["send the heater down"] == "done"
    assert "has not begun to fall" in report.sentence


def test_a_heater_that_rises_for_a_while_first_is_seen_to_turn(virtual, on_clock):
    bench = virtual(SHORT)
    safe = hot(bench)
    began = bench.clock.monotonic()

    def lagging():
        passed = bench.clock.monotonic() - began
        return 1000.0 + (passed if passed < 5 else 10.0 - passed)

    bench.heater.reads_wrong = lagging
    report = on_clock(bench.clock, lambda: safe.enter("a test"))
    assert states(report)["send the heater down"] == "verified"


def test_a_call_that_hangs_on_the_clock_costs_its_deadline(virtual, on_clock):
    bench = virtual(SHORT)
    safe = hot(bench)
    bench.heater.hang = lambda: bench.clock.sleep(10_000)
    report = on_clock(bench.clock, lambda: safe.enter("a test"))
    (part,) = [part for part in report.parts if part.what == "send the heater down"]
    assert part.state == "failed"
    assert "no answer within 10 s" in part.message
    assert report.seconds == pytest.approx(305, abs=3)
    assert bench.flow("O2").target == 0.0


@pytest.mark.parametrize("registered", [True, False], ids=["a registered thread", "any thread"])
def test_a_call_that_really_hangs_does_not_stop_virtual_time(virtual, on_clock, registered):
    bench = virtual(SHORT)
    hot(bench)
    safe = SafeState(bench.instrument, lambda: default_parts(bench.instrument), hung=0.1)
    let_go = threading.Event()
    bench.flow("H2").hang = lambda: let_go.wait(20)
    try:
        report = on_clock(bench.clock, lambda: safe.enter("a test")) if registered else safe.enter("a test")
    finally:
        let_go.set()
    assert states(report)["close O2"] == "verified"
    assert states(report)["close H2"] == "failed"
    assert bench.blanker.on


def test_entering_while_the_engine_hangs_with_the_clock_in_its_hand(virtual):
    bench = virtual(SHORT)
    hot(bench)
    safe = SafeState(bench.instrument, lambda: default_parts(bench.instrument), hung=0.1)
    let_go, hangs = threading.Event(), threading.Event()
    place = bench.clock.register("engine")

    def engine():
        with place:
            hangs.set()
            let_go.wait(20)  # a call to a device that does not come back
            bench.clock.sleep(1.0)  # and does after all

    thread = threading.Thread(target=engine)
    thread.start()
    assert hangs.wait(5)
    assert safe.enter("a test").verified
    let_go.set()
    thread.join(5)
    assert not thread.is_alive()


def test_on_the_real_clock_a_hang_costs_its_deadline_and_no_more(real):
    text = "name: bench\nsafe_state:\n  - {close: H2, within: 200 ms}\n  - {blank: beam, within: 1 s}\n"
    bench = real(text)
    safe = SafeState.of(bench.instrument)
    let_go = threading.Event()
    bench.flow("H2").hang = lambda: let_go.wait(20)
    began = time.monotonic()
    report = safe.enter("a test")
    took = time.monotonic() - began
    let_go.set()
    assert states(report) == {"close H2": "failed", "blank the beam": "verified"}
    assert took < 1.5


def test_only_one_enters_and_others_get_its_report(real):
    bench = real("name: bench\nsafe_state: [{close: all, within: 2 s}]\n")
    safe = SafeState.of(bench.instrument)
    bench.flow("H2").hang = lambda: time.sleep(0.05)
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(safe.enter("a test"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len({id(report) for report in reports}) == 1
    assert safe.enter("once more") is reports[0]
    assert bench.flow("H2").sent == [0.0]


def test_what_was_not_seen_to_be_done_is_attempted_anew(virtual, on_clock):
    bench = virtual("name: bench\nsafe_state: [{close: O2, within: 3 s}]\n")
    safe = hot(bench)
    bench.flow("O2").stuck = True
    assert not on_clock(bench.clock, lambda: safe.enter("a test")).verified
    bench.flow("O2").stuck = False
    assert on_clock(bench.clock, lambda: safe.enter("a test")).verified


def test_nothing_is_sent_after_it_was_entered(virtual, on_clock):
    bench = virtual("name: bench\nsafe_state: [{close: all, within: 3 s}]\n")
    safe = hot(bench)
    with safe.sending():
        bench.instrument.gases["H2"].flow.set("5 sccm")
    on_clock(bench.clock, lambda: safe.enter("a test"))
    with pytest.raises(RunError, match="safe state"), safe.sending():
        raise AssertionError("it was let through")


def test_a_call_that_comes_back_late_is_undone(virtual, on_clock):
    bench = virtual("name: bench\nsafe_state: [{close: all, within: 3 s}]\n")
    safe = hot(bench)

    def interlocks(place):
        with place:
            bench.clock.sleep(1.0)
            safe.enter("a test")

    def engine():
        threading.Thread(target=interlocks, args=(bench.clock.register("interlocks"),)).start()
        with safe.sending():
            bench.clock.sleep(60.0)  # hangs, while the safe state is entered
            bench.instrument.gases["O2"].flow.set("5 sccm")
        return bench.flow("O2").target

    assert on_clock(bench.clock, engine) == 0.0


def test_a_log_that_fails_harms_nothing(virtual, on_clock):
    bench = virtual("name: bench\nsafe_state: [{close: all, within: 3 s}]\n")

    def broken(*_):
        raise OSError("the disk is gone")

    assert on_clock(bench.clock, lambda: hot(bench).enter("a test", send=broken, tell=broken)).verified


@pytest.mark.parametrize(
    ("part", "place", "message"),
    [
        ("{close: He, within: 5 s}", "3:13", "expected all, reactive, or a gas of this instrument"),
        ("{purge: {H2: 5 sccm}, for: 1 min, within: 5 s}", "3:18", "H2 reacts, and cannot purge"),
        ("{purge: {N2: 500 sccm}, for: 1 min, within: 5 s}", "3:18", "above the upper limit of 100 sccm"),
        ("{heater: 2000 K, within: 5 s}", "3:14", "above the upper limit of 1273 K"),
        ("{heater: 300 K, rate: 900 K/min, within: 5 s}", "3:27", "above the upper limit of 100 K/min"),
    ],
)
def test_what_the_instrument_cannot_do_is_told_with_its_place(virtual, part, place, message):
    bench = virtual(f"name: bench\nsafe_state:\n  - {part}\n")
    with pytest.raises(DocumentError) as caught:
        SafeState.of(bench.instrument)
    told = str(caught.value)
    assert f"bench.yaml:{place}" in told
    assert message in told

"""The engine: what each action does, what interrupts it, and that every way out passes through the cleanup."""

import threading
from datetime import timedelta
from itertools import pairwise

import pytest

from acquisition.actions import Acquire, BeginSeries, Condition, Dark, Hold, Note, Ramp, Set, SetGas
from acquisition.ledger import Ledger
from acquisition.requests import Requests, SafeRequest, Standstill, StopRequest
from acquisition.states import IN_ORDER, WAYS, State, step
from drivers.clock import RealClock, VirtualClock
from drivers.errors import DatabaseError, DeviceError, DiskFull, RunError
from drivers.units import quantity


def frames(count, *, every="10 s", stop_when=None, group="steps[1].series"):
    """Return a series as a recipe compiles it."""
    seconds = float(every.split()[0])
    begin = BeginSeries(address=group, every=every, count=count, stop_when=stop_when)
    rest = [
        Acquire(address=f"{group}[{number}]", group=group, number=number, offset=f"{number * seconds} s")
        for number in range(count)
    ]
    return [begin, *rest]


def states(bench, run_id):
    return [action.state for action in bench.log.actions(run_id)]


def left_safe(bench):
    """Whether beam, heater and gas are where a run must leave them."""
    return (
        bench.blanker.closed
        and bench.sent("heater.temperature")[-1] == pytest.approx(298.15)
        and all(bench.backends[f"gas.{species}.flow"].target == 0 for species in ("H2", "N2", "O2"))
    )


def test_a_whole_run(bench, configure, live):
    actions = [
        configure,
        SetGas(address="steps[0].gas", flows={"H2": "10 sccm"}),
        Ramp(address="steps[1].ramp", target="800 degC", rate="60 K/min"),
        Dark(address="steps[2].dark", frames=2),
        *frames(3),
        Hold(address="steps[4].hold", duration="1 min"),
        Set(address="steps[5].set", parameter="column.focus", value="8.01 mm"),
        Note(address="steps[6].note", text="all is well"),
    ]
    outcome, run_id = bench.play(actions, live)
    assert (outcome.state, outcome.reason) == (State.FINISHED, "")
    assert set(states(bench, run_id)) == {"done"}
    assert left_safe(bench)
    acquired = bench.log.frames(run_id)
    assert [frame.dark for frame in acquired] == [True, True, False, False, False]
    assert [(f.time - acquired[2].time).total_seconds() for f in acquired[2:]] == [0.0, 10.0, 20.0]
    for frame in acquired:
        bench.store.verify(frame.stored)
    assert [entry.state for entry in bench.log.reconstructions(run_id)] == ["done"] * 3
    assert any(event.message == "all is well" for event in bench.log.events(run_id))
    setpoints = {(s.channel, round(s.value, 6), s.unit) for s in bench.log.setpoints(run_id)}
    assert ("heater.temperature", 1073.15, "K") in setpoints
    assert ("heater.rate", 1.0, "K/s") in setpoints


def test_dark_frames_give_the_offsets_of_later_frames(bench, configure):
    _, run_id = bench.play([configure, Dark(address="d", frames=2), *frames(1)])
    stored = [bench.store.read(frame.stored.path) for frame in bench.log.frames(run_id)]
    assert [frame.dark for frame in stored] == [True, True, False]
    assert stored[0].channels[0].offset is None
    assert stored[2].channels[0].offset == 100.0


def test_gas_is_the_whole_mixture_and_closes_before_it_opens(bench, configure):
    actions = [
        configure,
        SetGas(address="a", flows={"H2": "10 sccm", "N2": "5 sccm"}),
        SetGas(address="b", flows={"O2": "3 sccm"}),
    ]
    bench.play(actions)
    flows = [(name, value) for _, name, value in bench.journal if name.startswith("gas.")]
    second = flows[3:6]
    assert sorted(second[:2]) == [("gas.H2.flow", 0.0), ("gas.N2.flow", 0.0)]
    assert second[2] == ("gas.O2.flow", 3.0)


def test_the_beam_is_on_the_sample_only_while_the_raster_lasts(bench, configure, monkeypatch):
    append = bench.store.append

    def slow(run_id, number, frame):
        bench.clock.sleep(5.0)  # a disk that takes its time
        return append(run_id, number, frame)

    monkeypatch.setattr(bench.store, "append", slow)
    bench.play([configure, *frames(2, every="30 s"), Hold(address="h", duration="1 min")])
    beam = [(time, on) for time, name, on in bench.journal if name == "blank"]
    exposed, since = 0.0, None
    for time, blanked in beam:
        if not blanked and since is None:
            since = time
        elif blanked and since is not None:
            exposed += time - since
            since = None
    assert since is None
    assert exposed == pytest.approx(2 * 8 * 8 * 0.01)


def test_ramp_waits_until_the_readback_is_there(bench, configure):
    bench.play([configure, Ramp(address="r", target="398.15 K", rate="600 K/min"), Hold(address="h", duration="1 s")])
    times = {name: time for time, name, value in bench.journal if name == "heater.temperature" and value > 300}
    assert bench.clock.monotonic() >= times["heater.temperature"] + 9.8


def test_a_ramp_that_never_arrives_ends_safe(bench, configure):
    bench.backends["heater.temperature"].speed = 1e-6
    outcome, run_id = bench.play([configure, Ramp(address="r", target="800 K", rate="60 K/min", at_most="5 min")])
    assert outcome.state is State.SAFE
    assert "expected 800 K after 300 s; the readback is 298.15 K" in outcome.reason
    assert states(bench, run_id) == ["done", "failed"]
    assert left_safe(bench)


def test_series_ends_when_its_condition_is_met(bench, configure, live):
    condition = Condition(figure="coverage", comparison="above", threshold="25 percent")
    actions = [configure, *frames(10, every="10 s", stop_when=condition), Note(address="n", text="after")]
    outcome, run_id = bench.play(actions, live, latency=2.0)
    assert outcome.state is State.FINISHED
    kept = len(bench.log.frames(run_id))
    assert kept == 4  # coverage is 0.3 in frame 3, and 0.4 in frame 4, known 2 s later
    assert states(bench, run_id)[2:] == ["done"] * 4 + ["skipped"] * 6 + ["done"]
    (decision,) = [event for event in bench.log.events(run_id) if event.kind == "decision"]
    assert decision.data["frame"] == 3  # its number; the fourth
    assert decision.data["value"] == pytest.approx(0.4)
    assert decision.data["sigma"] == 0.01
    assert decision.data["threshold"] == {"value": 25.0, "unit": "%"}


def test_one_wrong_figure_does_not_end_a_series(bench, configure, live):
    live.coverage = lambda frame_id: 0.9 if frame_id == 2 else 0.1
    condition = Condition(figure="coverage", comparison="above", threshold=quantity(0.25, ""))
    _, run_id = bench.play([configure, *frames(6, stop_when=condition)], live)
    assert len(bench.log.frames(run_id)) == 6


def test_a_figure_that_cannot_tell_does_not_end_a_series(bench, configure, live):
    live.sigma = 0.47
    live.coverage = lambda frame_id: 0.9
    condition = Condition(figure="coverage", comparison="above", threshold=quantity(0.5, ""))
    _, run_id = bench.play([configure, *frames(6, stop_when=condition)], live)
    assert len(bench.log.frames(run_id)) == 6


def test_a_late_result_cannot_stop_what_virtual_time_has_already_done(bench, configure, live):
    condition = Condition(figure="coverage", comparison="above", threshold=quantity(0.25, ""))
    _, run_id = bench.play([configure, *frames(10, every="10 s", stop_when=condition)], live, latency=25.0)
    assert len(bench.log.frames(run_id)) > 3


def test_frames_the_queue_cannot_hold_are_left_out_and_counted(bench, configure, live):
    outcome, run_id = bench.play([configure, *frames(12, every="1 s")], live, latency=30.0, capacity=3)
    assert outcome.state is State.FINISHED
    by_state = [entry.state for entry in bench.log.reconstructions(run_id)]
    assert by_state.count("left out") == 9
    assert by_state.count("done") == 3
    assert len(bench.log.frames(run_id)) == 12


def test_a_dead_reconstruction_does_not_harm_the_run(bench, configure, live):
    live.dead = True
    outcome, run_id = bench.play([configure, *frames(2)], live)
    assert outcome.state is State.FINISHED
    assert [entry.state for entry in bench.log.reconstructions(run_id)] == ["left out", "left out"]
    assert any("no more live heights" in event.message for event in bench.log.events(run_id))


def test_a_reconstruction_that_raises_does_not_harm_the_run(bench, configure, live):
    live.error = BrokenPipeError("gone")
    outcome, run_id = bench.play([configure, *frames(4)], live)
    assert outcome.state is State.FINISHED
    assert len(bench.log.frames(run_id)) == 4
    assert {entry.state for entry in bench.log.reconstructions(run_id)} == {"left out"}
    assert any("BrokenPipeError: gone" in event.message for event in bench.log.events(run_id))


FAULTS = {
    "device error": (DeviceError("the scanner is confused", "detector"), "the scanner is confused"),
    "a driver's bug": (ZeroDivisionError("division by zero"), "detector: the driver failed with ZeroDivisionError"),
    "a lost connection": (ConnectionResetError("reset by peer"), "reset by peer"),
}


@pytest.mark.parametrize(("error", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_every_failure_passes_through_the_cleanup(bench, configure, error, words):
    def fail(taken):
        if taken == 1:
            bench.scanner.error = error

    bench.scanner.during = fail
    actions = [configure, Ramp(address="r", target="800 K", rate="600 K/min"), *frames(3)]
    outcome, run_id = bench.play(actions)
    assert outcome.state is State.SAFE
    assert words in outcome.reason
    assert left_safe(bench)
    assert bench.log.run(run_id).state == "safe"
    assert len(bench.log.frames(run_id)) == 1
    retries = [event for event in bench.log.events(run_id) if event.kind == "retry"]
    assert [event.data["retry"] for event in retries] == [1, 2, 3]
    pauses = [(after.time - before.time).total_seconds() for before, after in pairwise(retries)]
    assert pauses[1] > 2 * pauses[0]  # the pauses grow


LOG_METHODS = ("set_state", "intent", "outcome", "setpoint", "frame", "event")


@pytest.mark.parametrize("method", LOG_METHODS)
@pytest.mark.parametrize("call", [1, 2, 5])
@pytest.mark.parametrize(
    "error", [DatabaseError("gone"), MemoryError(), ValueError("odd")], ids=["lost", "memory", "bug"]
)
def test_a_log_that_fails_once_anywhere_leaves_the_instrument_safe(bench, configure, monkeypatch, method, call, error):
    calls = []

    def fails(*arguments, **named):
        calls.append(arguments)
        if len(calls) == call:
            raise error
        return written(*arguments, **named)

    actions = [
        configure,
        SetGas(address="g", flows={"H2": "5 sccm"}),
        Ramp(address="r", target="400 K", rate="600 K/min"),
        *frames(2),
    ]
    night = bench.night(actions)
    written = getattr(night._ledger, method)
    monkeypatch.setattr(night._ledger, method, fails)
    night.start()
    assert night.wait(60)
    outcome = night.finish()
    assert outcome.state in (State.FINISHED, State.FAILED, State.SAFE)
    assert left_safe(bench)
    assert bench.log.run(night.run_id).state == outcome.state


def test_one_lost_answer_does_not_leave_the_heater_on(bench, configure):
    backend = bench.backends["heater.temperature"]
    put, failed = backend.put, []

    def fails_once(value):
        if value < 300 and not failed:
            failed.append(value)
            raise TimeoutError("no answer")
        put(value)

    backend.put = fails_once
    outcome, _ = bench.play([configure, Ramp(address="r", target="400 K", rate="600 K/min")])
    assert failed
    assert outcome.state is State.FINISHED
    assert left_safe(bench)


def test_the_old_mixture_has_closed_before_the_new_one_opens(bench, configure):
    for species in ("H2", "O2"):
        bench.backends[f"gas.{species}.flow"].speed = 1.0
    actions = [
        configure,
        SetGas(address="a", flows={"H2": "10 sccm"}),
        SetGas(address="b", flows={"O2": "5 sccm"}),
    ]
    bench.play(actions)
    closed = next(time for time, name, value in bench.journal if name == "gas.H2.flow" and value == 0 and time > 5)
    opened = next(time for time, name, value in bench.journal if name == "gas.O2.flow" and value > 0)
    assert opened >= closed + 9.9


def test_a_blanker_that_does_not_open_is_told(bench, configure):
    def stick(on):
        bench.blanker.closed = True

    bench.blanker.put = stick
    outcome, run_id = bench.play([configure, *frames(1)])
    assert outcome.state is State.SAFE
    assert "still blanked after unblanking" in outcome.reason
    assert bench.log.frames(run_id) == []


def test_offsets_are_forgotten_when_the_dwell_time_changes(bench, configure):
    slower = configure.model_copy(
        update={"imaging": configure.imaging.model_copy(update={"dwell_time": quantity(20, "ms")})}
    )
    _, run_id = bench.play([configure, Dark(address="d", frames=1), Acquire(address="a"), slower, Acquire(address="b")])
    offsets = [bench.store.read(frame.stored.path).channels[0].offset for frame in bench.log.frames(run_id)]
    assert offsets == [None, 100.0, None]


def test_a_late_result_of_one_series_does_not_end_the_next(bench, configure, live):
    condition = Condition(figure="coverage", comparison="above", threshold=quantity(0.25, ""))
    live.coverage = lambda frame_id: 0.9 if frame_id in (1, 2) else 0.1
    actions = [
        configure,
        *frames(2, every="2 s", stop_when=condition, group="steps[0].series"),
        *frames(4, every="2 s", stop_when=condition, group="steps[1].series"),
    ]
    _, run_id = bench.play(actions, live, latency=3.0)
    assert len(bench.log.frames(run_id)) == 6
    assert not [event for event in bench.log.events(run_id) if event.kind == "decision"]


def test_stop_among_dark_frames_that_end_the_recipe(bench, configure):
    night = bench.night([configure, Dark(address="d", frames=6)])
    bench.scanner.during = lambda taken: night.engine.stop("enough") if taken == 1 else None
    night.start()
    assert night.wait(30)
    assert night.finish().state is State.STOPPED
    assert len(bench.log.frames(night.run_id)) == 2


def test_a_pause_moves_the_series_instead_of_hurrying_after_it(bench, configure):
    paced = type(bench)(bench.log, bench.store, VirtualClock(speed=50.0))
    night = paced.night([configure, *frames(5, every="5 s")])
    paced.scanner.during = lambda taken: night.engine.pause() if taken == 1 else None
    night.start()
    while night.engine.progress.state is not State.PAUSED:
        assert not night.wait(0.01)
    assert not night.wait(0.5)  # some 25 s of the instrument's time
    paced.scanner.during = None
    night.engine.resume()
    assert night.wait(30)
    assert night.finish().state is State.FINISHED
    times = [frame.time for frame in paced.log.frames(night.run_id)]
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert gaps[1] > 15
    assert gaps[2:] == pytest.approx([5.0, 5.0], abs=0.01)


def test_requests_that_cross_each_other(bench):
    """A pause after a stop does not hold the stop up; a resume always wakes."""
    requests = Requests(bench.clock)
    requests.stop("enough")
    requests.pause()
    assert requests.standstill is None
    with pytest.raises(StopRequest, match="enough"):
        requests.raise_if_ended()
    requests.safe("too hot")  # goes before a mere stop
    with pytest.raises(SafeRequest, match="too hot"):
        requests.raise_if_ended()
    again = Requests(bench.clock)
    again.pause()
    again.pause()
    again.resume()
    again.wait_for_change(Standstill(State.PAUSED))
    again.raise_if_ended()


def test_a_pause_lies_over_a_suspension(bench):
    requests = Requests(bench.clock)
    requests.suspend("pressure", "the pressure is too high")
    requests.suspend("database", "the database is away")
    assert requests.standstill == Standstill(State.SUSPENDED, "the pressure is too high; the database is away")
    requests.pause()
    assert requests.standstill == Standstill(State.PAUSED)
    requests.resume()
    requests.release("pressure")
    requests.release("nothing of the kind")
    assert requests.standstill == Standstill(State.SUSPENDED, "the database is away")
    requests.release("database")
    assert requests.standstill is None


def test_abort_before_the_raster_begins_is_not_lost(bench, configure):
    night = bench.night([configure, *frames(3)])
    arm = bench.scanner.arm

    def abort_while_arming(scan):
        night.engine.abort("now")
        arm(scan)

    bench.scanner.arm = abort_while_arming
    night.start()
    assert night.wait(30)
    assert night.finish().state is State.STOPPED
    assert bench.log.frames(night.run_id) == []


def test_old_readbacks_are_told_once(bench, configure):
    backend = bench.backends["column.working_distance"]
    backend.get = lambda: (8.0, bench.clock.now() - timedelta(hours=2))
    _, run_id = bench.play([configure, *frames(3)])
    told = [event.message for event in bench.log.events(run_id) if event.kind == "readback"]
    assert len(told) == 1
    assert told[0].startswith("column.working_distance repeats an old value")


def test_cleanup_attempts_every_part_and_tells_what_failed(bench, configure):
    def break_valve(taken):
        bench.backends["gas.H2.flow"].fails = DeviceError("valve stuck", "gas.H2.flow")

    bench.scanner.during = break_valve
    outcome, run_id = bench.play([configure, SetGas(address="g", flows={"H2": "5 sccm"}), *frames(1)])
    assert outcome.state is State.FAILED
    assert "could not close H2: gas.H2.flow: valve stuck" in outcome.reason
    assert bench.backends["gas.O2.flow"].target == 0
    assert bench.sent("heater.temperature")[-1] == pytest.approx(298.15)
    assert any(event.kind == "cleanup" and event.level == "error" for event in bench.log.events(run_id))


def test_a_blanker_that_does_not_close_is_told(bench, configure):
    bench.blanker.stuck = True
    outcome, _ = bench.play([configure])
    assert outcome.state is State.FAILED
    assert "after blanking" in outcome.reason


def test_stop_ends_after_the_frame_and_keeps_it(bench, configure):
    night = bench.night([configure, *frames(5)])
    bench.scanner.during = lambda taken: night.engine.stop("enough") if taken == 2 else None
    night.start()
    assert night.wait(30)
    outcome = night.finish()
    assert (outcome.state, outcome.reason) == (State.STOPPED, "enough")
    assert len(bench.log.frames(night.run_id)) == 3
    assert left_safe(bench)
    assert bench.log.run(night.run_id).state == "stopped"


def test_abort_drops_the_frame_that_is_being_taken(bench, configure):
    night = bench.night([configure, *frames(5)])
    bench.scanner.during = lambda taken: night.engine.abort("now") if taken == 2 else None
    night.start()
    assert night.wait(30)
    outcome = night.finish()
    assert outcome.state is State.STOPPED
    assert len(bench.log.frames(night.run_id)) == 2
    assert [action.state for action in bench.log.actions(night.run_id)].count("stopped") == 1
    assert left_safe(bench)


def test_stop_interrupts_a_hold(bench, configure):
    night = bench.night([configure, Note(address="n", text="x"), Hold(address="h", duration="12 h")], period=600.0)
    original = night.engine._handlers[Note]

    def note_and_stop(action):
        original(action)
        night.engine.stop("enough")

    night.engine._handlers[Note] = note_and_stop
    night.start()
    assert night.wait(30)
    assert night.finish().state is State.STOPPED
    assert bench.clock.monotonic() < 3600


def test_pause_holds_the_night_and_resume_goes_on(bench, configure):
    night = bench.night([configure, *frames(4)])
    seen = []

    def pause(taken):
        if taken == 1 and not seen:
            seen.append("paused")
            night.engine.pause()

    bench.scanner.during = pause
    night.start()
    while night.engine.progress.state is not State.PAUSED:
        assert not night.wait(0.01)
    before = bench.clock.monotonic()
    assert not night.wait(0.2)
    assert bench.clock.monotonic() == before  # unpaced virtual time stands still for a person
    night.engine.resume()
    assert night.wait(30)
    assert night.finish().state is State.FINISHED
    assert len(bench.log.frames(night.run_id)) == 4
    told = [event.message for event in bench.log.events(night.run_id) if event.kind == "state"]
    assert told == ["running", "paused", "running", "stopping", "finished"]


def test_a_pause_at_once_takes_the_frame_again(bench, configure):
    paced = type(bench)(bench.log, bench.store, VirtualClock(speed=50.0))
    night = paced.night([configure, *frames(3)])
    paced.scanner.during = lambda taken: night.engine.pause(at_once=True) if taken == 1 else None
    night.start()
    while night.engine.progress.state is not State.PAUSED:
        assert not night.wait(0.01)
    assert paced.blanker.closed
    paced.scanner.during = None
    night.engine.resume()
    assert night.wait(30)
    assert night.finish().state is State.FINISHED
    assert [frame.number for frame in paced.log.frames(night.run_id)] == [0, 1, 2]


def test_the_end_tells_whether_the_instrument_was_left_in_order(bench, configure):
    def in_order(run_id):
        return [event.data for event in bench.log.events(run_id) if event.kind == "state"][-1][IN_ORDER]

    assert in_order(bench.play([configure, *frames(1)])[1]) is True
    bench.scanner.during = lambda _: setattr(bench.blanker, "stuck", True)
    assert in_order(bench.play([configure, *frames(1)])[1]) is False


def test_a_pause_that_is_taken_back_before_the_raster_ends_is_no_failure_of_a_device(bench, configure):
    paced = type(bench)(bench.log, bench.store, VirtualClock(speed=1e5))
    night = paced.night([configure, Dark(address="dark", frames=2), *frames(1)])

    def waver(taken):
        if taken == 1:
            paced.scanner.during = None
            night.engine.pause(at_once=True)
            night.engine.resume()

    paced.scanner.during = waver
    night.start()
    assert night.wait(30)
    assert night.finish().state is State.FINISHED
    assert [frame.action_index for frame in paced.log.frames(night.run_id)] == [1, 1, 3]
    assert not [event for event in paced.log.events(night.run_id) if event.kind == "retry"]


def test_a_retry_of_dark_frames_takes_what_is_missing_and_no_more(bench, configure):
    def fail_once(taken):
        if taken == 1:
            bench.scanner.during = None
            raise DeviceError("the scan generator did not answer", "detector")

    bench.scanner.during = fail_once
    outcome, run_id = bench.play([configure, Dark(address="dark", frames=3), *frames(1)])
    assert outcome.state is State.FINISHED
    assert [frame.action_index for frame in bench.log.frames(run_id)] == [1, 1, 1, 3]
    assert len([event for event in bench.log.events(run_id) if event.kind == "retry"]) == 1


def test_a_suspension_takes_the_frame_again_and_moves_the_series(bench, configure):
    night = bench.night([configure, *frames(4, every="10 s")])
    clock = bench.clock

    def other(place):
        with place:
            clock.sleep(10.2)  # in the middle of the second frame
            night.engine.suspend("the pressure is too high", "pressure")
            clock.sleep(100.0)
            night.engine.release("pressure")

    watch = threading.Thread(target=other, args=(clock.register("watch"),), name="watch")
    watch.start()
    night.start()
    assert night.wait(30)
    watch.join(10)
    assert night.finish().state is State.FINISHED
    times = [frame.time for frame in bench.log.frames(night.run_id)]
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert gaps == pytest.approx([110.2, 10.0, 10.0], abs=0.7)
    told = [event.message for event in bench.log.events(night.run_id) if event.kind == "state"]
    assert told == ["running", "suspended: the pressure is too high", "running", "stopping", "finished"]


def test_the_safe_state_does_not_wait_for_the_engine(bench, configure):
    """An interlock makes safe in its own thread while the engine hangs in a device; afterwards nothing is sent."""
    hangs, goes_on = threading.Event(), threading.Event()
    actions = [
        configure,
        SetGas(address="g", flows={"H2": "5 sccm"}),
        Ramp(address="r", target="600 K", rate="600 K/min"),
        Set(address="s", parameter="column.focus", value="8.01 mm"),
        SetGas(address="o", flows={"O2": "5 sccm"}),
    ]
    real = type(bench)(bench.log, bench.store, RealClock())
    real.backends["heater.temperature"].speed = 1e6
    put = real.backends["column.focus"].put

    def hang(value):
        hangs.set()
        assert goes_on.wait(30)
        put(value)

    real.backends["column.focus"].put = hang
    night = real.night(actions)
    night.start()
    assert hangs.wait(30)
    assert night.make_safe("the heater is too hot").verified
    assert left_safe(real)  # while the engine's thread still hangs
    goes_on.set()
    assert night.wait(30)
    outcome = night.finish()
    assert (outcome.state, outcome.reason) == (State.SAFE, "the heater is too hot")
    assert left_safe(real)
    assert real.sent("gas.O2.flow")[-1] == 0
    assert bench.log.run(night.run_id).state == "safe"


def test_stop_while_paused(bench, configure):
    night = bench.night([configure, *frames(4)])
    bench.scanner.during = lambda taken: night.engine.pause() if taken == 1 else None
    night.start()
    while night.engine.progress.state is not State.PAUSED:
        assert not night.wait(0.01)
    night.engine.stop("enough")
    assert night.wait(30)
    assert night.finish().state is State.STOPPED
    assert left_safe(bench)


def test_pause_of_a_run_that_does_not_run_is_refused(bench, configure):
    night = bench.night([configure])
    with pytest.raises(RunError, match="only a running run can be paused; this one is idle"):
        night.engine.pause()
    night.start()
    assert night.finish().state is State.FINISHED


def fill_disk(bench, monkeypatch, *, until):
    """Let frame 2 find no room until a moment of the clock."""
    append = bench.store.append

    def full(run_id, number, frame):
        if number == 2 and bench.clock.monotonic() < until:
            raise DiskFull("a frame does not fit")
        return append(run_id, number, frame)

    monkeypatch.setattr(bench.store, "append", full)


def test_a_full_disk_suspends_the_run_until_there_is_room(bench, configure, monkeypatch):
    fill_disk(bench, monkeypatch, until=600.0)
    outcome, run_id = bench.play([configure, *frames(5)])
    assert outcome.state is State.FINISHED
    kept = bench.log.frames(run_id)
    assert [frame.number for frame in kept] == [0, 1, 2, 3, 4]
    for frame in kept:
        bench.store.verify(frame.stored)
    assert kept[2].time < kept[0].time + timedelta(seconds=30)  # the frame that was taken is kept, not taken again
    assert kept[3].time > kept[0].time + timedelta(seconds=600)
    told = [event.message for event in bench.log.events(run_id) if event.kind == "state"]
    assert told == ["running", "suspended: a frame does not fit", "running", "stopping", "finished"]


def test_a_disk_that_stays_full_ends_safe_and_keeps_what_was_acknowledged(bench, configure, monkeypatch):
    fill_disk(bench, monkeypatch, until=1e9)
    outcome, run_id = bench.play([configure, *frames(5)])
    assert outcome.state is State.SAFE
    assert "does not fit; that has lasted for 1800 s" in outcome.reason
    assert left_safe(bench)
    kept = bench.log.frames(run_id)
    assert len(kept) == 2
    for frame in kept:
        bench.store.verify(frame.stored)


def cut_off(bench, monkeypatch, *, begin, end):
    """Let the database refuse everything from one moment of the clock to another."""

    def refusing(real):
        def refuses(*arguments, **named):
            if begin <= bench.clock.monotonic() < end:
                raise DatabaseError("the database is gone")
            return real(*arguments, **named)

        return refuses

    for name in ("write", "replay"):
        monkeypatch.setattr(bench.log, name, refusing(getattr(bench.log, name)))


def test_a_database_that_is_away_for_a_minute_loses_nothing(bench, configure, monkeypatch):
    cut_off(bench, monkeypatch, begin=15.0, end=75.0)
    outcome, run_id = bench.play([configure, SetGas(address="g", flows={"H2": "5 sccm"}), *frames(5)])
    assert outcome.state is State.FINISHED
    assert [frame.number for frame in bench.log.frames(run_id)] == [0, 1, 2, 3, 4]
    assert set(states(bench, run_id)) == {"done"}
    told = [event.message for event in bench.log.events(run_id) if event.kind == "state"]
    assert told == ["running", "suspended: the database is gone", "running", "stopping", "finished"]
    assert not (bench.store.folder(run_id) / "sidecar.jsonl").exists()


def test_a_database_that_stays_away_ends_safe_and_everything_waits_beside_the_frames(bench, configure, monkeypatch):
    with monkeypatch.context() as patch:
        cut_off(bench, patch, begin=15.0, end=1e9)
        outcome, run_id = bench.play([configure, SetGas(address="g", flows={"H2": "5 sccm"}), *frames(5)])
    assert outcome.state is State.SAFE
    assert "the database is gone; that has lasted for 1800 s" in outcome.reason
    assert left_safe(bench)
    assert bench.log.run(run_id).state == "running"  # nobody could tell it
    known = len(bench.log.frames(run_id))
    (recovered,) = Ledger.recover(bench.log, bench.store.root)
    assert recovered.entries > 0
    assert recovered.reason == ""
    assert bench.log.run(run_id).state == "safe"
    kept = bench.log.frames(run_id)
    assert len(kept) == known + 1  # the frame during which it went
    for frame in kept:
        bench.store.verify(frame.stored)


def test_frames_without_imaging_are_refused(bench):
    outcome, _ = bench.play([Acquire(address="f")])
    assert outcome.state is State.FAILED
    assert "imaging" in outcome.reason


def test_two_nights_are_the_same(tmp_path, configure, make_live, bench):
    """The same actions on a fresh bench give the same frames, readings, events and times."""

    def story(bench):
        actions = [
            configure,
            Ramp(address="r", target="500 K", rate="60 K/min"),
            *frames(4),
            Hold(address="h", duration="1 min"),
        ]
        _, run_id = bench.play(actions, make_live(), latency=7.0)
        series = bench.log.series(run_id, "heater.temperature")
        return (
            [(f.time, f.stored.sha256) for f in bench.log.frames(run_id)],
            [(e.time, e.kind, e.message) for e in bench.log.events(run_id)],
            list(zip(series.times.tolist(), series.values.tolist(), strict=True)),
        )

    from acquisition.log import Log
    from acquisition.store import Store

    first = story(bench)
    with Log.open(tmp_path / "again.db") as log, Store(tmp_path / "again") as store:
        assert story(type(bench)(log, store)) == first


def test_the_same_engine_runs_on_the_real_clock(bench, configure, live):
    real = type(bench)(bench.log, bench.store, RealClock())
    outcome, run_id = real.play([configure, *frames(2, every="1 s"), Hold(address="h", duration="100 ms")], live)
    assert outcome.state is State.FINISHED
    first, second = (frame.time for frame in bench.log.frames(run_id))
    assert (second - first).total_seconds() == pytest.approx(1.0, abs=0.5)
    assert [entry.state for entry in bench.log.reconstructions(run_id)] == ["done", "done"]


def test_telemetry_keeps_the_truth_apart(bench, configure):
    _, run_id = bench.play([configure, Hold(address="h", duration="2 min")])
    names = [channel.name for channel in bench.log.channels(run_id)]
    assert "truth.coverage" in names
    assert "coverage" not in names
    assert len(bench.log.series(run_id, "heater.temperature").values) >= 13


def test_a_channel_that_falls_silent_is_told_once(bench, configure):
    backend = bench.backends["stage.x"]
    backend.get = lambda: (_ for _ in ()).throw(DeviceError("no answer", "stage.x"))
    _, run_id = bench.play([configure, Hold(address="h", duration="2 min")])
    told = [event for event in bench.log.events(run_id) if event.kind == "readback"]
    assert [event.message for event in told] == ["stage.x does not answer: no answer"]


@pytest.mark.parametrize("present", State)
@pytest.mark.parametrize("following", State)
def test_only_the_ways_that_exist_are_taken(present, following):
    if following in WAYS[present]:
        assert step(present, following) is following
    else:
        with pytest.raises(RunError, match=f"that is {present} cannot become {following}"):
            step(present, following)

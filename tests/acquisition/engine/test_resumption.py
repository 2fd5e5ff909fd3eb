"""A run that was killed anywhere goes on: every planned frame once, the sample where it was left, the log truthful."""

import threading
from itertools import pairwise

import pytest

from acquisition.actions import Acquire, BeginSeries, Condition, Dark, Hold, Note, Ramp, Set, SetGas
from acquisition.ledger import Ledger
from acquisition.states import State
from drivers.errors import RunError


class Killed(BaseException):
    """What a SIGKILL is to the code that it strikes: nothing after it is executed."""


def series(count, *, every="10 s", group="steps[3].series", stop_when=None, **common):
    seconds = float(every.split()[0])
    begin = BeginSeries(address=group, every=every, count=count, stop_when=stop_when, **common)
    return [
        begin,
        *(
            Acquire(address=f"{group}[{n}]", group=group, number=n, offset=f"{n * seconds} s", **common)
            for n in range(count)
        ),
    ]


@pytest.fixture
def actions(configure):
    return [
        configure,
        SetGas(address="steps[0].gas", flows={"H2": "10 sccm"}),
        Ramp(address="steps[1].ramp", target="800 K", rate="600 K/min"),
        Set(address="steps[1].set.column.focus", parameter="column.focus", value="8.01 mm"),
        Dark(address="steps[2].dark", frames=2),
        *series(3),
        SetGas(address="steps[4].gas", flows={"N2": "5 sccm"}),
        Hold(address="steps[5].hold", duration="2 min"),
        Acquire(address="steps[6].frame"),
    ]


PLANNED = [True, True, False, False, False, False]
"""Whether each planned frame is a dark one."""


def die(bench, actions, arrange, live=None):
    """Play until ``arrange``'s trap kills the run's threads; return the run's id."""
    night = bench.night(actions, live)
    arrange(night)
    bury(night)
    return night.run_id


def bury(night):
    """Play until the engine's thread is killed, and let go of what the kernel takes from a dead process."""
    before, threading.excepthook = threading.excepthook, lambda arguments: None
    try:
        night.start()
        assert night.wait(30)
        night.watch.close()
        night.telemetry.close()
        night._ledger.close()
    finally:
        threading.excepthook = before


def trap(monkeypatch, target, name, call, *, after):
    """Kill at the ``call``-th use of a method, before or after it did its work."""
    real, calls = getattr(target, name), []

    def trapped(*arguments, **named):
        if not threading.current_thread().name.startswith("engine"):
            return real(*arguments, **named)
        calls.append(name)
        if len(calls) != call:
            return real(*arguments, **named)
        if after:
            real(*arguments, **named)
        raise Killed

    monkeypatch.setattr(target, name, trapped)


POINTS = [
    *(("log", name, call) for name in ("intent", "outcome") for call in range(1, 13)),
    *(("log", "setpoint", call) for call in (1, 2, 3, 5, 6, 8, 9)),
    *(("log", "frame", call) for call in range(1, 7)),
    *(("store", "append", call) for call in range(1, 7)),
    *(("log", "set_state", call) for call in (1, 2, 3)),
    *(("scanner", "acquire", call) for call in range(1, 7)),
    *(("heater", "put", call) for call in (1, 2)),
    *(("log", "event", call) for call in (1, 2, 3)),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("target", "name", "call"), POINTS, ids=str)
def test_killed_anywhere(bench, actions, monkeypatch, target, name, call, after):
    targets = {
        "log": Ledger,
        "store": bench.store,
        "scanner": bench.scanner,
        "heater": bench.backends["heater.temperature"],
    }
    with monkeypatch.context() as patch:
        run_id = die(bench, actions, lambda night: trap(patch, targets[target], name, call, after=after))
    if bench.log.run(run_id).ended is not None:  # the trap lay behind the last word
        with pytest.raises(RunError, match="has ended: it is finished"):
            bench.resumed(run_id, actions)
        return
    night = bench.resumed(run_id, actions)
    night.start()
    assert night.wait(30)
    outcome = night.finish()
    assert outcome.state is State.FINISHED, outcome.reason
    acquired = bench.log.frames(run_id)
    assert [frame.dark for frame in acquired] == PLANNED
    assert [frame.number for frame in acquired] == list(range(len(PLANNED)))
    for frame in acquired:
        bench.store.verify(frame.stored)
    journal = bench.log.actions(run_id)
    assert {action.state for action in journal} == {"done"}
    assert len({(f.action_index, f.number) for f in acquired}) == len(PLANNED)
    for index, action in enumerate(actions):
        planned = action.frames if isinstance(action, Dark) else int(isinstance(action, Acquire))
        assert sum(frame.action_index == index for frame in acquired) == planned
    assert bench.log.run(run_id).resumed == 1
    assert bench.blanker.closed
    assert bench.sent("heater.temperature")[-1] == pytest.approx(298.15)


def kill_when(bench, moment):
    """Return what kills the engine at a moment of the clock (s), in the middle of a wait."""

    def arrange(night):
        obey = night.engine._obey

        def fatal():
            if bench.clock.monotonic() >= moment:
                raise Killed
            return obey()

        night.engine._obey = fatal

    return arrange


def let_pass(bench, seconds):
    """Let time go on while nobody plays."""
    with bench.clock.register("outage"):
        bench.clock.sleep(seconds)


def test_a_hold_goes_on_with_what_is_left(bench, configure):
    actions = [configure, Hold(address="steps[0].hold", duration="10 min"), Acquire(address="steps[1].frame")]
    run_id = die(bench, actions, kill_when(bench, 200.0))
    let_pass(bench, 300.0)
    began = bench.clock.monotonic()
    night = bench.resumed(run_id, actions)
    night.start()
    assert night.finish().state is State.FINISHED
    assert bench.clock.monotonic() - began == pytest.approx(400.0, abs=15.0)


def test_a_series_keeps_its_intervals(bench, configure):
    actions = [configure, *series(6, every="100 s")]
    run_id = die(bench, actions, kill_when(bench, 250.0))
    let_pass(bench, 1000.0)
    night = bench.resumed(run_id, actions)
    night.start()
    assert night.finish().state is State.FINISHED
    times = [frame.time for frame in bench.log.frames(run_id)]
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert gaps == pytest.approx([100.0, 100.0, 1100.0, 100.0, 100.0], abs=12.0)


def test_the_sample_is_brought_back_before_the_run_goes_on(bench, configure):
    actions = [
        configure,
        SetGas(address="steps[0].gas", flows={"H2": "10 sccm"}),
        Ramp(address="steps[1].ramp", target="800 K", rate="600 K/min"),
        Hold(address="steps[2].hold", duration="10 min"),
        Acquire(address="steps[3].frame"),
    ]
    run_id = die(bench, actions, kill_when(bench, 300.0))
    heater, hydrogen = bench.backends["heater.temperature"], bench.backends["gas.H2.flow"]
    heater.put(400.0)  # a guard has sent it down, and closed the gas
    hydrogen.put(0.0)
    let_pass(bench, 600.0)
    assert heater.get()[0] == pytest.approx(400.0)
    del bench.journal[:]
    night = bench.resumed(run_id, actions)
    seen = []
    bench.scanner.during = lambda taken: seen.append((heater.get()[0], hydrogen.get()[0]))
    night.start()
    assert night.finish().state is State.FINISHED
    assert seen == [pytest.approx((800.0, 10.0), abs=2.0)]
    sent = [(name, value) for _, name, value in bench.journal if name != "blank"]
    assert sent[:4] == [
        ("gas.N2.flow", 0.0),
        ("gas.O2.flow", 0.0),
        ("gas.H2.flow", pytest.approx(10.0)),
        ("heater.rate", pytest.approx(600.0)),
    ]
    told = [event for event in bench.log.events(run_id) if event.kind == "resume"]
    assert told[0].message.startswith("continues after an outage of 6")
    assert told[0].data["channels"]["heater.temperature"]["left"]["value"] == pytest.approx(800.0)
    assert told[0].data["channels"]["heater.temperature"]["now"]["value"] == pytest.approx(400.0)
    assert "400 K away" in told[1].message


@pytest.mark.parametrize(
    ("policy", "outage", "state", "words"),
    [
        ("safe", 60.0, State.SAFE, "the recipe says to end safe where this step is interrupted"),
        ("continue", 4000.0, State.SAFE, "is longer than 3600 s, the longest after which a run may go on"),
        ("repeat", 4000.0, State.SAFE, "is longer than 3600 s"),
        ("continue", 60.0, State.FINISHED, ""),
    ],
)
def test_what_a_step_says_of_an_interruption(bench, configure, policy, outage, state, words):
    actions = [configure, *series(4, on_interruption=policy)]
    run_id = die(bench, actions, kill_when(bench, 15.0))
    let_pass(bench, outage)
    night = bench.resumed(run_id, actions)
    night.start()
    outcome = night.finish()
    assert outcome.state is state
    assert words in outcome.reason
    assert bench.log.run(run_id).state == state
    assert bench.blanker.closed
    assert bench.sent("heater.temperature")[-1] == pytest.approx(298.15)


def test_a_step_that_is_repeated_is_done_again_as_a_whole(bench, configure):
    step = {"on_interruption": "repeat"}
    actions = [
        configure,
        Note(address="steps[0].note", text="before"),
        SetGas(address="steps[3].gas", flows={"O2": "5 sccm"}, **step),
        *series(4, **step),
        Note(address="steps[4].note", text="after"),
    ]
    run_id = die(bench, actions, kill_when(bench, 25.0))
    first = len(bench.log.frames(run_id))
    assert 1 <= first < 4
    night = bench.resumed(run_id, actions)
    night.start()
    assert night.finish().state is State.FINISHED
    frames = bench.log.frames(run_id)
    assert [frame.number for frame in frames] == list(range(first + 4))
    assert [action.attempts for action in bench.log.actions(run_id)][:4] == [1, 1, 2, 2]
    notes = [event.message for event in bench.log.events(run_id) if event.kind == "note"]
    assert notes == ["before", "after"]


def test_a_series_that_had_ended_is_not_taken_up(bench, configure, live):
    condition = Condition(figure="coverage", comparison="above", threshold="25 percent")
    actions = [configure, *series(10, stop_when=condition), Note(address="steps[4].note", text="after")]

    def arrange(night):
        tell = night.engine.tell

        def fatal(level, kind, message, data=None):
            if kind == "decision":
                raise Killed
            tell(level, kind, message, data)

        night.engine.tell = fatal

    run_id = die(bench, actions, arrange, live)
    taken = len(bench.log.frames(run_id))
    night = bench.resumed(run_id, actions, live)
    night.start()
    assert night.finish().state is State.FINISHED
    assert len(bench.log.frames(run_id)) == taken
    assert [action.state for action in bench.log.actions(run_id)][-2:] == ["skipped", "done"]


def test_dark_frames_still_tell_the_offsets(bench, configure):
    actions = [configure, Dark(address="steps[0].dark", frames=2), *series(3)]
    run_id = die(bench, actions, kill_when(bench, 12.0))
    night = bench.resumed(run_id, actions)
    night.start()
    night.finish()
    offsets = [bench.store.read(frame.stored.path).channels[0].offset for frame in bench.log.frames(run_id)]
    assert offsets == [None, None, 100.0, 100.0, 100.0]


def test_killed_again_and_again(bench, actions):
    """A run that dies at every tenth second still brings each frame once."""
    run_id = die(bench, actions, kill_when(bench, 10.0))
    deaths = 1
    while bench.log.run(run_id).ended is None:
        deaths += 1
        assert deaths < 40
        night = bench.resumed(run_id, actions)
        kill_when(bench, bench.clock.monotonic() + 25.0)(night)
        bury(night)
    assert deaths > 4
    assert [frame.dark for frame in bench.log.frames(run_id)] == PLANNED
    assert bench.log.run(run_id).state == "finished"


def test_a_run_that_has_ended_is_not_resumed(bench, configure):
    _, run_id = bench.play([configure])
    with pytest.raises(RunError, match=r"has ended: it is finished; there is nothing to resume, start it anew"):
        bench.resumed(run_id, [configure])

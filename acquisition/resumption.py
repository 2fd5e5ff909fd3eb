"""After an interruption: what the journal says of where a run stood, and what brings the instrument back there.

The journal is a write-ahead log: an intent without an outcome is what was being done. From it, the acknowledged frames
and the setpoints follows everything a new engine needs; what each step means by an interruption stands in its recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from acquisition.actions import Acquire, Action, BeginSeries, Configure, CorrectDrift, Dark, Ramp, SetGas
from acquisition.log import Log
from acquisition.records import Action as Entry
from acquisition.records import FrameEntry, Run, Setpoint
from acquisition.store import StoredFrame
from drivers.contract import Instrument, Parameter, Scan
from drivers.errors import RilievoError, RunError
from drivers.units import Q, format_quantity, quantity, quantity_json, si

SETTLE = 60.0
"""Seconds within which flows and the column must stand where they were."""
NEAR = 2.0
"""K within which the heater must have come back to where it was left."""
_GENTLE = quantity(10.0, "K/min")
"""Rate at which a heater is brought back whose rate was never set."""
_STEP = re.compile(r".*steps\[\d+\]")


class Hands(Protocol):
    """What a restoration may do through the engine."""

    def send(self, parameter: Parameter, value: Q) -> None:
        """Send a setpoint and log it."""

    def wait_arrived(self, parameters: Sequence[Parameter], seconds: float, within: float | None = None) -> None:
        """Wait until every readback has come to its setpoint."""

    def tell(self, level: str, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        """Tell the log."""


@dataclass(frozen=True, slots=True)
class SeriesLeft:
    """A series that was interrupted.

    Attributes
    ----------
    begin : BeginSeries
    index : int
        Of that action.
    elapsed, last : float, s
        How far into it the run was, and when its last frame began.
    ended : bool
        Whether it had ended early.
    """

    begin: BeginSeries
    index: int
    elapsed: float
    last: float | None
    ended: bool


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on, and what has to be restored before.

    Attributes
    ----------
    instrument : Instrument
    index : int
        Of the first action to play.
    decision : str
        What was decided and why; goes to the log.
    outage : float, s
        Of the instrument's time, since the run was last heard of.
    safe, stop : str or None
        Why the run ends instead of going on, in the safe state or as stopped.
    frames : int
        Acknowledged so far, which is the number of the next.
    setpoints : mapping of channel to quantity
        What was last asked of each.
    scan : Scan or None
    darks, taken : tuple of StoredFrame
        Dark frames that still hold, and those of a dark step that was interrupted.
    waited : float, s
        Of the action at ``index``, before the interruption.
    series : SeriesLeft or None
    done : tuple of int
        Actions without an outcome whose frames are there: they are done.
    again : tuple of int
        Actions of a step that is repeated as a whole.
    """

    instrument: Instrument
    index: int
    decision: str
    outage: float
    safe: str | None = None
    stop: str | None = None
    frames: int = 0
    setpoints: Mapping[str, Q] = field(default_factory=dict)
    scan: Scan | None = None
    darks: tuple[StoredFrame, ...] = ()
    taken: tuple[StoredFrame, ...] = ()
    waited: float = 0.0
    series: SeriesLeft | None = None
    done: tuple[int, ...] = ()
    again: tuple[int, ...] = ()
    sends_gas: bool = False
    sends_heater: bool = False
    """Whether the first action sets the gas, the heater, itself."""

    def verify(self) -> dict[str, Any]:
        """Return what was left and what is there now, by channel, as value and unit."""
        readings, failures = self.instrument.read_all()
        told: dict[str, Any] = {}
        for name, left in sorted(self.setpoints.items()):
            reading = readings.get(name)
            now = str(failures[name]) if name in failures else quantity_json(reading.value) if reading else None
            told[name] = {"left": quantity_json(left), "now": now}
        return told

    def restore(self, hands: Hands) -> None:
        """Bring column, stage, gas and heater back, in this order, within the heater's rate; wait until they are there.

        Raises
        ------
        NotArrived
            For what does not come back.
        """
        heater = self.instrument.heater
        rest = [name for name in self.setpoints if not name.startswith(("heater.", *self._flows()))]
        moved = [parameter for name in rest if (parameter := self._moved(name)) is not None]
        for parameter in moved:
            hands.send(parameter, self.setpoints[parameter.name])
        hands.wait_arrived(moved, SETTLE)
        if not self.sends_gas:
            self._restore_gas(hands)
        target = self.setpoints.get(heater.temperature.name)
        if target is None or self.sends_heater:
            return
        rate = self.setpoints.get(heater.rate.name, _GENTLE)
        away = abs(si(target) - float(heater.temperature.read().value.to("K").magnitude))
        hands.send(heater.rate, rate)
        hands.send(heater.temperature, target)
        if away > NEAR:
            hands.tell(
                "info",
                "resume",
                f"the heater goes back to {format_quantity(target.to('degC'), 4)}, from which it is {away:.0f} K away",
            )
        hands.wait_arrived([heater.temperature], 1.5 * away / si(rate) + 600.0, NEAR)

    def _flows(self) -> tuple[str, ...]:
        return tuple(line.flow.name for line in self.instrument.gases.values())

    def _moved(self, name: str) -> Parameter | None:
        """Return a parameter whose readback is not where the run left it, or which does not answer."""
        parameter = self.instrument.parameter(name)
        try:
            now = float(parameter.read().value.to(parameter.unit).magnitude)
        except RilievoError:
            return parameter
        away = abs(now - float(self.setpoints[name].to(parameter.unit).magnitude))
        return parameter if away > parameter.tolerance else None

    def _restore_gas(self, hands: Hands) -> None:
        """Let the mixture in that flowed; what was closed has closed before anything opens."""
        lines = {line.flow.name: line.flow for line in self.instrument.gases.values()}
        flows = {name: self.setpoints[name] for name in sorted(lines) if name in self.setpoints}
        opening = {name: flow for name, flow in flows.items() if si(flow) > 0}
        closing = [lines[name] for name in flows if name not in opening]
        for flow in closing:
            hands.send(flow, quantity(0.0, "sccm"))
        hands.wait_arrived(closing, SETTLE)
        for name, asked in opening.items():
            hands.send(lines[name], asked)
        hands.wait_arrived([lines[name] for name in opening], SETTLE)


@dataclass(frozen=True)
class _Journal:
    """A run's journal with the actions themselves, and the frames that belong to them."""

    actions: Sequence[Action]
    entries: Sequence[Entry]
    frames: Sequence[FrameEntry]
    setpoints: Sequence[Setpoint]

    def of(self, index: int) -> tuple[StoredFrame, ...]:
        """Return the frames of an action."""
        return tuple(frame.stored for frame in self.frames if frame.action_index == index)

    def complete(self, index: int) -> bool:
        """Return whether an action is done, by its outcome or because its frames are there."""
        if self.entries[index].state in ("done", "skipped"):
            return True
        action = self.actions[index]
        if self.entries[index].state != "begun" or not isinstance(action, Acquire | Dark):
            return False
        return len(self.of(index)) >= (action.frames if isinstance(action, Dark) else 1)

    def last_heard(self, started: datetime) -> datetime:
        """Return when the run was last known to live."""
        times = [started, *(frame.time for frame in self.frames), *(each.time for each in self.setpoints)]
        for entry in self.entries:
            waited = float((entry.result or {}).get("waited") or 0.0)
            times += [time for time in (entry.outcome_time,) if time is not None]
            if entry.intent_time is not None:
                times.append(entry.intent_time + timedelta(seconds=waited))
        return max(times)


def plan_resumption(
    log: Log, run_id: str, actions: Sequence[Action], instrument: Instrument, longest_outage: float
) -> Resumption:
    """Return where an interrupted run goes on.

    Parameters
    ----------
    log : Log
    run_id : str
    actions : sequence of Action
        As the run was compiled.
    instrument : Instrument
        As it is now.
    longest_outage : float, s
        Beyond which the run ends safe.

    Raises
    ------
    RunError
        For a run that has ended.
    """
    run = log.run(run_id)
    refuse_ended(run)
    journal = _Journal(actions, log.actions(run_id), log.frames(run_id), log.setpoints(run_id))
    index = next((n for n in range(len(actions)) if not journal.complete(n)), len(actions))
    told = [event.time for event in log.events(run.id) if event.kind != "guard"]  # a guard speaks after the death
    heard = max([journal.last_heard(run.started), *told])
    outage = max(0.0, (instrument.clock.now() - heard).total_seconds())
    found = Resumption(
        instrument,
        index,
        "",
        outage,
        frames=max((frame.number + 1 for frame in journal.frames), default=0),
        setpoints={each.channel: quantity(each.value, each.unit) for each in journal.setpoints},
        scan=_scan(journal, index),
        darks=_darks(journal, index),
        done=tuple(n for n in range(index) if journal.entries[n].state == "begun"),
    )
    if run.state == "stopping":
        return _ended(found, run, log)
    if index == len(actions):
        return replace(found, decision="every action had been done; only the end is left")
    return _decided(found, journal, longest_outage)


def _ended(found: Resumption, run: Run, log: Log) -> Resumption:
    """Return what is left of a run that was on its way out: the same end, attempted again."""
    states = [event for event in log.events(run.id) if event.kind == "state" and event.data is not None]
    end = (states[-1].data or {}).get("end") if states else None
    decision = "it was being ended when it was interrupted; the end is attempted again"
    if end == "finished":
        return replace(found, decision=decision)
    if end == "stopped":
        return replace(found, decision=decision, stop=run.reason)
    return replace(found, decision=decision, safe=run.reason or "it was being ended when it was interrupted")


def refuse_ended(run: Run) -> None:
    """Raise :class:`RunError` for a run that has ended."""
    if run.ended is not None:
        why = f" ({run.reason})" if run.reason else ""
        raise RunError(f"run {run.id} has ended: it is {run.state}{why}; there is nothing to resume, start it anew")


def enter_resumption(log: Log, run_id: str, resumption: Resumption) -> None:
    """Tell the log what was found and decided, before anything is touched."""
    now = resumption.instrument.clock.now()
    log.resumed(run_id, dict.fromkeys(resumption.done, now), resumption.again)
    level = "info" if resumption.safe is None else "warning"
    decision = "; ".join(part for part in (resumption.decision, resumption.safe) if part)
    data = {"outage": resumption.outage, "index": resumption.index, "channels": resumption.verify()}
    log.event(run_id, now, level, "resume", decision, data)


def _decided(found: Resumption, journal: _Journal, longest_outage: float) -> Resumption:
    """Return what the interrupted step's recipe says, within the longest outage."""
    action, entry = journal.actions[found.index], journal.entries[found.index]
    where = f"{action.address} ({entry.state})"
    if found.outage > longest_outage:
        return replace(
            found,
            safe=f"the outage of {found.outage:.0f} s is longer than {longest_outage:.0f} s, the longest after which "
            f"a run may go on; it was interrupted at {where}",
        )
    step = [n for n, other in enumerate(journal.actions) if _step(other) == _step(action)]
    touched = any(journal.entries[n].state != "planned" for n in step)
    policy = action.on_interruption if touched else "continue"
    after = f"after an outage of {found.outage:.0f} s, at {where}"
    if policy == "safe":
        return replace(found, safe=f"the recipe says to end safe where this step is interrupted; {after}")
    if policy == "repeat":
        first = step[0]
        again = tuple(n for n in step if journal.entries[n].state != "planned")
        return _first_action(
            replace(found, index=first, again=again, decision=f"repeats {_step(action) or 'the beginning'} {after}"),
            journal,
        )
    begun = entry.state == "begun"
    waited = float((entry.result or {}).get("waited") or 0.0) if begun else 0.0
    found = replace(found, waited=waited, taken=journal.of(found.index) if isinstance(action, Dark) else ())
    return _first_action(replace(found, series=_series(journal, found.index), decision=f"continues {after}"), journal)


def _first_action(found: Resumption, journal: _Journal) -> Resumption:
    action = journal.actions[found.index]
    return replace(found, sends_gas=isinstance(action, SetGas), sends_heater=isinstance(action, Ramp))


def _step(action: Action) -> str:
    """Return the address of the innermost step that an action belongs to; empty for what comes before all steps."""
    match = _STEP.match(action.address)
    return match.group(0) if match else ""


def _scan(journal: _Journal, index: int) -> Scan | None:
    done = [action for action in journal.actions[:index] if isinstance(action, Configure)]
    return done[-1].imaging.scan() if done else None


def _darks(journal: _Journal, index: int) -> tuple[StoredFrame, ...]:
    """Return the dark frames that still tell the offsets: taken with this dwell time, and these amplifiers."""
    darks, dwell, since = -1, 0.0, None
    for n, action in enumerate(journal.actions[:index]):
        if isinstance(action, Configure):
            if si(action.imaging.dwell_time) != dwell:
                darks = -1
            dwell = si(action.imaging.dwell_time)
        elif isinstance(action, Dark):
            darks, since = n, journal.entries[n].outcome_time
    changed = [each.time for each in journal.setpoints if each.channel.startswith("detector.")]
    if darks < 0 or (since is not None and any(time > since for time in changed)):
        return ()
    return journal.of(darks)


def _series(journal: _Journal, index: int) -> SeriesLeft | None:
    """Return the series that the action at ``index`` belongs to: its schedule goes on with what was left."""
    action = journal.actions[index]
    group = action.group if isinstance(action, Acquire | CorrectDrift) else None
    if group is None:
        return None
    begin = next(n for n, other in enumerate(journal.actions) if other.address == group)
    opened = journal.actions[begin]
    assert isinstance(opened, BeginSeries)  # noqa: S101  the compiler makes it so
    before = [n for n in range(begin + 1, index) if isinstance(journal.actions[n], Acquire)]
    last = _began(journal, before[-1], opened) if before else None
    mark = (journal.entries[index].result or {}).get("series")
    elapsed = max(0.0, last or 0.0, 0.0 if mark is None else float(mark))
    skipped = bool(before) and journal.entries[before[-1]].state == "skipped"
    ended = bool((journal.entries[begin].result or {}).get("ended")) or skipped
    return SeriesLeft(opened, begin, elapsed, last, ended)


def _began(journal: _Journal, index: int, series: BeginSeries) -> float | None:
    """Return when a frame of a series began, from the time zero of the series; s."""
    action = journal.actions[index]
    if series.pace is None:
        return si(action.offset) if isinstance(action, Acquire) else None
    mark = (journal.entries[index].result or {}).get("series")
    return None if mark is None else float(mark)

"""An instrument that is held between runs: its readbacks are logged, its interlocks watch, and a person may set it.

The way of a setpoint is the run's: limits, interlocks, log. The instrument's interlocks are on the whole time; one that
ends a run as safe brings an instrument between runs to its safe state, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from acquisition.entry import Entries
from acquisition.gas_rules import is_reactive
from acquisition.interlock_watch import InterlockWatch
from acquisition.interlocks import Interlock, instrument_interlocks
from acquisition.readbacks import Track
from acquisition.safe_state import SafeReport, SafeState
from acquisition.telemetry import Telemetry
from drivers.contract import Instrument, Parameter
from drivers.errors import LimitError, RilievoError, RunError
from drivers.frame import Reading
from drivers.units import Q, format_quantity, parse_quantity


class Held:
    """Holds an open instrument until :meth:`close`.

    Parameters
    ----------
    instrument : Instrument
    log : Entries
        A ledger, which loses nothing while the database is away.
    period : float, s
        Between two samples of the telemetry.
    """

    def __init__(self, instrument: Instrument, log: Entries, period: float) -> None:
        self.instrument = instrument
        self._log = log
        self._lock = threading.Lock()
        self._interlocks = instrument_interlocks(instrument)
        self._safe_state = SafeState.of(instrument)
        self._watch = self._watching()
        self._telemetry = Telemetry(instrument, log, None, period)
        self._closed = False

    def _watching(self) -> InterlockWatch:
        return InterlockWatch(self.instrument, self._interlocks, _Subject(self._tell), self._safe_state)

    def start(self) -> None:
        """Begin to watch."""
        self._watch.start()
        self._telemetry.start()

    def close(self) -> None:
        """End; a setpoint that is being sent is waited for."""
        with self._lock:
            self._closed = True
        self._watch.close()
        self._telemetry.close()

    @property
    def readbacks(self) -> Mapping[str, Reading]:
        """The latest readback of every channel that answered."""
        return self._telemetry.latest

    def set(self, name: str, value: Q | str) -> Reading:
        """Send a setpoint, within the limits and with the interlocks on; return the readback after it.

        Raises
        ------
        InputError, LimitError, QuantityError
            As :meth:`drivers.contract.Parameter.set`; also for reactive gas, which only a recipe lets in.
        RunError
            Where an interlock stands against it.
        DeviceError
            When the hardware does not answer.
        """
        with self._lock:
            if self._closed:
                raise RunError(f"{self.instrument.name} is about to play a run; a recipe sets it from now on")
            parameter = self.instrument.parameter(name)
            number = parameter.check(value)
            self._refuse_gas(name, number)
            self._refuse_interlocked(parameter, number)
            if self._safe_state.entered:
                self._begin_anew()
            with self._safe_state.sending():
                parameter.set(value)
            asked = format_quantity(parse_quantity(value, parameter.unit))
            self._tell("info", "setpoint", f"{name} was set to {asked} between runs")
            return parameter.read()

    def make_safe(self, reason: str) -> SafeReport:
        """Bring the instrument to its safe state; may be called at any time, also while it is being set."""
        report = self._safe_state.enter(reason)
        self._tell("warning", "safe", f"{reason}: {report.sentence}", report.to_json())
        return report

    def _refuse_gas(self, name: str, number: float) -> None:
        for species, line in self.instrument.gases.items():
            if line.flow.name == name and number > 0 and is_reactive(species, self.instrument.gases):
                raise LimitError(
                    f"{species} reacts; between runs it can only be closed (0 sccm). Let it in with a recipe, whose "
                    "gas rules are checked",
                    name,
                )

    def _refuse_interlocked(self, parameter: Parameter, number: float) -> None:
        """Refuse where a rule is met by what the channels say now, or would be once the setpoint is reached."""
        clock = self.instrument.clock
        rules = [rule for rule in self._interlocks if rule.then != "warn" and not rule.watches_age]
        channels = {channel.name: channel for rule in rules for channel in rule.channels}
        tracks = {name: Track(channel, clock.monotonic()) for name, channel in channels.items()}
        for name, track in tracks.items():
            with suppress(RilievoError):  # a channel that does not answer is found to be silent below
                track.take(channels[name].read(), clock.monotonic(), clock.now())
        now = clock.monotonic()
        for rule in rules:
            if any(not tracks[channel.name].known for channel in rule.channels):
                silent = ", ".join(channel.name for channel in rule.channels if not tracks[channel.name].known)
                raise RunError(f"{silent} does not answer, and the interlock {rule.text!r} cannot be watched")
            _refuse_met(rule, rule.met(tracks, now), "stands against it")
        if parameter.name in tracks:
            tracks[parameter.name].value = number
            for rule in rules:
                _refuse_met(rule, rule.met(tracks, now), "would be met by it")

    def _begin_anew(self) -> None:
        """Watch again after the safe state: whoever sets something then means it."""
        self._watch.close()
        self._safe_state = SafeState.of(self.instrument)
        self._watch = self._watching()
        self._watch.start()

    def _tell(self, level: str, kind: str, message: str, data: Mapping[str, Any] | None = None) -> None:
        with suppress(RilievoError):  # a database that does not answer is told by the alerts
            self._log.event(None, self.instrument.clock.now(), level, kind, message, data)


def _refuse_met(rule: Interlock, told: str | None, what: str) -> None:
    if told is not None:
        raise RunError(f"the {rule.origin}'s interlock {rule.text!r} {what}: {told}")


class _Subject:
    """Tells the log what the interlocks say between runs: see :class:`acquisition.interlock_watch.Subject`."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell

    def warn(self, message: str, data: Mapping[str, Any]) -> None:
        """Tell the log."""
        self._tell("warning", "interlock", message, data)

    def suspend(self, reason: str, rule: str) -> None:
        """Tell the log; there is no run that could wait, and nothing is set while the rule is met."""
        self._tell("warning", "interlock", f"{reason}; nothing can be set meanwhile", {"rule": rule})

    def release(self, rule: str) -> None:
        """Tell the log."""
        self._tell("info", "interlock", f"{rule} is clear again")

    def stalled(self, what: str, waited: float, expected: float) -> None:
        """Do nothing: no action is expected to make progress between runs."""

    def make_safe(self, reason: str) -> None:
        """Tell the log that an interlock brings the instrument to its safe state."""
        self._tell("error", "safe", f"between runs, the instrument is brought to its safe state: {reason}")

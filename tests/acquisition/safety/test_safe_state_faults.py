"""The safe state of the twin under each of its faults: never hung, never silent, and everything else is done."""

import pytest

from acquisition.app import instrument_document
from acquisition.safe_state import SafeState
from drivers.clock import VirtualClock
from drivers.document import parse
from drivers.registry import Registry

FAULTS = [
    ("{kind: timeout, target: gases.O2.flow, start: 30 s, wait: 1 h}", {"close O2"}),
    ("{kind: timeout, target: heater, start: 30 s, wait: 2 s}", {"set the heater's rate", "send the heater down"}),
    ("{kind: timeout, target: column.blanker, start: 30 s, wait: 10 s}", {"blank the beam"}),
    ("{kind: disconnect, target: column.blanker, start: 30 s}", {"blank the beam"}),
    (
        "{kind: disconnect, target: gases, start: 30 s}",
        {"close H2", "close O2", "close N2", "close Ar", "purge with N2"},
    ),
    ("{kind: disconnect, target: heater, start: 30 s, duration: 20 s}", set()),
    ("{kind: nonsense, target: heater.temperature, start: 30 s}", {"send the heater down"}),
    ("{kind: nonsense, target: column.blanker, start: 30 s}", {"blank the beam"}),
    ("{kind: freeze, target: heater.temperature, start: 30 s}", {"send the heater down"}),
    ("{kind: thermocouple, target: heater.temperature, start: 30 s}", {"send the heater down"}),
    ("{kind: stuck, target: gases.H2.flow, start: 30 s}", {"close H2"}),
    ("{kind: stuck, target: column.blanker, start: 30 s}", {"blank the beam"}),
    ("{kind: pressure_burst, target: gauge.pressure, start: 30 s}", set()),
    ("{kind: clock_step, target: clock, start: 30 s}", set()),
]


@pytest.mark.parametrize(("fault", "told"), FAULTS, ids=[fault[7:45] for fault, _ in FAULTS])
def test_what_a_fault_leaves_of_it(on_clock, fault, told):
    text = instrument_document(None).text.replace("  seed: 1 ", f"  faults: [{fault}]\n  seed: 1 ")
    clock = VirtualClock()
    instrument = Registry.discover().instrument(parse(text, "twin.yaml"), clock)
    safe = SafeState.of(instrument)

    def night():
        instrument.heater.ramp("600 K", "100 K/min")
        instrument.gases["H2"].flow.set("10 sccm")
        instrument.column.unblank()
        clock.sleep(40.0)
        return safe.enter("a test")

    report = on_clock(clock, night)
    assert report.seconds <= safe.longest
    assert {part.what for part in report.parts if part.state != "verified"} == told
    assert all(part.message for part in report.parts if part.state != "verified")
    assert report.verified is not bool(told)
    instrument.close()

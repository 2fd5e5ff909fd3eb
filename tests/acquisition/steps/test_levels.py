"""Brightness and contrast of the segments, and the probe current."""

from __future__ import annotations

import numpy as np
import pytest

from acquisition.actions import Balance, BeamCheck
from acquisition.balancing import balance
from acquisition.beam_check import check_beam
from drivers.errors import BeamError, BeamLost, DeviceTimeout, Response
from drivers.units import quantity, si


def levels(look, **changes):
    given = {"dark": "2 percent", "bright": "60 percent", "percentile": "99 percent", "tolerance": "3 percent"}
    return Balance(**{"address": "b", "imaging": look, "rounds": 10, **given, **changes})


class Amplifiers:
    """Segments whose gain grows exponentially with contrast, and whose offset grows with brightness."""

    def __init__(self, hands, signal=40000.0):
        self.hands, self.signal = hands, signal
        self.rng = np.random.default_rng(4)
        hands.picture = self

    def __call__(self, scan, beam):
        detector = self.hands.instrument.detector
        images = []
        for index, name in enumerate(detector.geometry.names):
            contrast, brightness = (si(knob[name].read().value) for knob in (detector.contrast, detector.brightness))
            gain = (1.0 + 0.2 * index) * 10.0 ** (3.0 * contrast - 1.5)
            shown = self.signal * (1.0 + 0.1 * self.rng.random((scan.rows, scan.columns))) * beam
            images.append(gain * shown + 4000.0 * brightness + 50.0 * index)
        return np.clip(np.array(images), 0, 65535).astype(np.uint16)


@pytest.mark.parametrize("signal", [4000.0, 40000.0, 4e5])
def test_levels_come_to_where_they_are_wanted(obedient, look, signal):
    Amplifiers(obedient, signal)
    found = balance(obedient, levels(look, rounds=14))
    assert found["outcome"] == "balanced"
    for told in found["segments"].values():
        assert told["dark"] == pytest.approx(0.02, abs=0.0075)
        assert told["bright"] == pytest.approx(0.60, abs=0.03)
        assert told["clipped"] <= 1e-3
    assert obedient.exposed == 2 * found["rounds"]
    assert [kind for kind, _ in obedient.corrected] == ["balance"]
    # What is already right stays as it is, and needs one look.
    sent = len(obedient.sent)
    again = balance(obedient, levels(look))
    assert (again["outcome"], again["rounds"], len(obedient.sent)) == ("unchanged", 1, sent)


def test_levels_of_the_twin(make_twin, look):
    hands = make_twin()
    found = balance(hands, levels(look, bright="40 percent"))
    assert found["outcome"] == "balanced"
    assert found["rounds"] <= 8
    frame = hands.expose(look.scan())
    assert np.quantile(frame.counts, 0.99, axis=(1, 2)) / 65535 == pytest.approx(0.4, abs=0.04)
    channel = hands.instrument.detector.channels["A"]
    assert channel.gain is not None
    assert channel.gain > 4.0, "what is told of the channel follows its contrast"


def test_without_a_beam_there_is_no_signal(obedient, look):
    Amplifiers(obedient, 0.0)
    found = balance(obedient, levels(look, rounds=30))
    assert found["outcome"] == "no signal"
    assert obedient.told[-1][0] == "warning"
    assert "there is no signal" in obedient.told[-1][2]


def test_a_knob_at_its_end_is_told(obedient, look):
    Amplifiers(obedient, 40.0)
    found = balance(obedient, levels(look, rounds=30))
    assert found["outcome"] == "out of range"
    contrasts = [told["contrast"]["value"] for told in found["segments"].values()]
    assert contrasts == [pytest.approx(100.0)] * 4
    assert "end of its range" in obedient.told[-1][2]


def test_used_up_rounds_are_told_with_the_levels(obedient, look):
    Amplifiers(obedient)
    found = balance(obedient, levels(look, rounds=2))
    assert found["outcome"] == "unfinished"
    assert "after 2 looks" in obedient.told[-1][2]
    assert "% to " in obedient.told[-1][2]


def test_a_knob_that_does_not_move_is_told_by_its_device(obedient, look):
    Amplifiers(obedient)
    name = obedient.instrument.detector.geometry.names[0]
    obedient.stuck = {f"detector.{name}.contrast"}
    with pytest.raises(DeviceTimeout):
        balance(obedient, levels(look))


def check(**changes):
    return BeamCheck(**{"address": "c", "current": "1 nA", "within": "5 percent", **changes})


def test_a_current_that_is_right(obedient):
    began = obedient.clock.monotonic()
    found = check_beam(obedient, check(readings=4))
    assert found["within"] is True
    assert found["current"] == {"value": pytest.approx(1.0), "unit": "nA"}
    assert obedient.clock.monotonic() - began == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("otherwise", "error", "response"), [("suspend", BeamLost, Response.PAUSE), ("safe", BeamError, Response.SAFE)]
)
def test_a_current_that_is_off(obedient, otherwise, error, response):
    obedient.backends["column.probe_current"].sees = lambda value: 0.8 * value
    with pytest.raises(error, match=r"-20\.0% off") as raised:
        check_beam(obedient, check(otherwise=otherwise))
    assert raised.value.response is response
    assert obedient.told[-1][:2] == ("error", "beam")


def test_a_current_that_is_off_may_only_be_told(obedient):
    obedient.backends["column.probe_current"].sees = lambda value: 1.06 * value
    found = check_beam(obedient, check(otherwise="warn"))
    assert found["within"] is False
    assert found["off"] == pytest.approx(0.06)
    assert obedient.told[-1][0] == "warning"


def test_noise_of_the_readings_averages(obedient):
    rng = np.random.default_rng(2)
    obedient.backends["column.probe_current"].sees = lambda value: value * (1.0 + 0.04 * rng.standard_normal())
    found = check_beam(obedient, check(readings=50, within="3 percent"))
    assert found["within"] is True
    assert found["spread"]["value"] == pytest.approx(0.04, rel=0.3)


def test_the_current_of_the_twin(make_twin):
    hands = make_twin()
    hands.send(hands.instrument.column.probe_current, quantity(2.0, "nA"))
    hands.wait(2.0)
    assert check_beam(hands, check(current="2 nA"))["within"] is True
    with pytest.raises(BeamLost):
        check_beam(hands, check(current="1 nA"))

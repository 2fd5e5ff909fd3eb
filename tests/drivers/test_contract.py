"""Parameters and frames: limits with units, staleness, setpoint against readback, dark frames."""

import math
import pickle
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from drivers.clock import VirtualClock
from drivers.contract import Heater, Limits, Parameter, Readable, Scan, ScanTiming
from drivers.errors import DeviceError, InputError, LimitError, QuantityError
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import annular
from drivers.units import KEV, quantity, si


class Memory:
    """A backend that remembers, and whose readback can differ."""

    def __init__(self, clock, value=300.0):
        self.clock, self.value, self.sent, self.age = clock, value, [], 0.0

    def put(self, value):
        self.sent.append(value)
        self.value = value

    def get(self):
        return self.value, self.clock.now() - timedelta(seconds=self.age)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def backend(clock):
    return Memory(clock)


@pytest.fixture
def temperature(clock, backend):
    return Parameter("heater.temperature", "K", backend, clock, limits=Limits(250.0, 1273.15), tolerance=2.0)


def test_set_converts_once_and_remembers_the_setpoint(temperature, backend):
    assert temperature.setpoint is None
    temperature.set("800 degC")
    assert backend.sent == [pytest.approx(1073.15)]
    assert si(temperature.setpoint) == pytest.approx(1073.15)


def test_limit_error_names_value_limit_and_unit(temperature, backend):
    with pytest.raises(LimitError, match=r"heater.temperature: 1200 degC is above the upper limit of 1000 degC"):
        temperature.set("1200 degC")
    with pytest.raises(LimitError, match=r"200 K is below the lower limit of 250 K"):
        temperature.set("200 K")
    assert backend.sent == []


def test_wrong_dimension_is_never_sent(temperature, backend):
    with pytest.raises(QuantityError, match="a pressure; expected a temperature"):
        temperature.set("300 Pa")
    assert backend.sent == []


def test_exactly_the_limit_is_allowed(temperature):
    temperature.set("1000 degC")


def test_arrived_needs_a_fresh_readback_within_tolerance(temperature, backend):
    temperature.set("500 K")
    assert temperature.arrived()
    backend.value = 497.0
    assert not temperature.arrived()
    backend.value = 499.0
    backend.age = 60.0
    assert not temperature.arrived()


def test_a_readback_says_when_it_is_old(clock, backend):
    gauge = Readable("gauge.pressure", "Pa", backend, clock, stale_after=3.0)
    assert gauge.read().fresh
    backend.age = 10.0
    assert not gauge.read().fresh


@pytest.mark.parametrize("nonsense", [math.nan, math.inf])
def test_a_readback_that_is_no_number_is_an_error(clock, backend, nonsense):
    backend.value = nonsense
    with pytest.raises(DeviceError, match=r"gauge.pressure: expected a number in Pa"):
        Readable("gauge.pressure", "Pa", backend, clock).read()


def test_ramp_sends_nothing_when_the_target_is_refused(clock, temperature, backend):
    rate_backend = Memory(clock)
    heater = Heater(temperature, Parameter("heater.rate", "K/min", rate_backend, clock, limits=Limits(0.0, 100.0)))
    with pytest.raises(LimitError):
        heater.ramp("2000 K", "10 K/min")
    with pytest.raises(LimitError):
        heater.ramp("500 K", "200 K/min")
    assert backend.sent == []
    assert rate_backend.sent == []
    heater.ramp("500 K", "10 degC/min")
    assert (backend.sent, rate_backend.sent) == ([500.0], [pytest.approx(10.0)])


def test_scan_timing():
    scan = Scan(512, 512, 10e-6, 10e-6)
    assert scan.pixel_size == pytest.approx(10e-6 / 512)
    assert scan.area == pytest.approx(1e-10)
    assert ScanTiming(line=1e-4, frame=0.1).seconds(scan) == pytest.approx(512 * 512 * 1e-5 + 0.0512 + 0.1)


def frame(counts, *, dark=False):
    geometry = annular(counts.shape[0], 2e-3, 8e-3, 8e-3)
    channels = tuple(Channel(name) for name in geometry.names)
    beam = BeamSettings(5 * KEV, 20e-9, probe_current=1e-9, dwell_time=1e-5)
    readbacks = {"heater.temperature": Reading(quantity(1073.0, "K"), datetime(2026, 1, 1, tzinfo=UTC))}
    return Frame(counts, geometry, beam, channels, datetime(2026, 1, 1, tzinfo=UTC), dark, readbacks)


def test_offsets_and_noise_come_from_dark_frames():
    generator = np.random.default_rng(3)
    offsets, noise = np.array([100.0, 200.0, 300.0, 400.0]), 5.0
    darks = [
        frame(np.rint(offsets[:, None, None] + generator.normal(0, noise, (4, 64, 64))).astype(np.uint16), dark=True)
        for _ in range(4)
    ]
    bright = frame(np.full((4, 8, 8), 1000, np.uint16)).with_offsets_of(*darks)
    for channel, offset in zip(bright.channels, offsets, strict=True):
        assert channel.offset == pytest.approx(offset, abs=5 * noise / math.sqrt(4 * 64 * 64))
        assert channel.read_noise == pytest.approx(math.sqrt(noise**2 + 1 / 12), rel=0.05)
        assert channel.gain is None


def test_offsets_are_refused_from_frames_with_the_beam_on():
    bright = frame(np.zeros((4, 8, 8), np.uint16))
    with pytest.raises(InputError, match="beam blanked"):
        bright.with_offsets_of(bright)
    with pytest.raises(InputError, match="segments"):
        bright.with_offsets_of(frame(np.zeros((3, 8, 8), np.uint16), dark=True))


def test_a_frame_cannot_be_written_to_and_travels_between_processes():
    made = frame(np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8))
    with pytest.raises(ValueError, match="read-only"):
        made.counts[0, 0, 0] = 1
    again = pickle.loads(pickle.dumps(made))
    assert np.array_equal(again.counts, made.counts)
    assert again.readbacks == made.readbacks
    assert made.beam.electrons_per_pixel == pytest.approx(62415, rel=1e-4)


@pytest.mark.parametrize(
    ("counts", "word"),
    [(np.zeros((4, 8), np.uint16), "segment, row, column"), (np.zeros((4, 8, 8)), "uint16")],
)
def test_malformed_frames_are_refused(counts, word):
    geometry = annular(4, 2e-3, 8e-3, 8e-3)
    with pytest.raises(InputError, match=word):
        Frame(
            counts,
            geometry,
            BeamSettings(5 * KEV, 20e-9),
            tuple(Channel(name) for name in geometry.names),
            datetime(2026, 1, 1, tzinfo=UTC),
        )

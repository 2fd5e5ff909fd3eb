"""The twin as an instrument: devices by the contract, frames that repeat, errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivers import document
from drivers.clock import VirtualClock
from drivers.contract import Scan
from drivers.errors import DeviceError, DeviceTimeout, DeviceUnavailable, DocumentError, DriverError, LimitError
from drivers.registry import Registry
from simulators.instruments import TWIN, build, world_of

SMALL = Scan(96, 128, 4e-6, 1e-5)


def twin(change=None):
    """Build the default twin on a virtual clock; ``change`` maps pieces of its file to others."""
    text = TWIN.read_text()
    for old, new in (change or {}).items():
        assert old in text
        text = text.replace(old, new)
    registry = Registry(drivers={"twin": build})
    return registry.instrument(document.parse(text, "twin.yaml"), VirtualClock())


@pytest.fixture
def instrument():
    return twin()


def magnitude(parameter, unit):
    return float(parameter.read().value.to(unit).magnitude)


def test_the_entry_point_builds_the_default_instrument():
    registry = Registry.discover()
    assert not [failure for failure in registry.failures if failure.name == "twin"]
    instrument = registry.instrument(document.read(TWIN), VirtualClock())
    assert sorted(instrument.gases) == ["Ar", "H2", "N2", "O2"]
    assert not instrument.gases["N2"].reactive
    assert instrument.gases["H2"].reactive
    assert instrument.limits_json()["heater.temperature"]["high"] == {"value": 1273.0, "unit": "K"}


def test_every_channel_answers_with_a_fresh_number(instrument):
    readings, failures = instrument.read_all()
    assert not failures
    assert all(reading.fresh for reading in readings.values())
    assert len(readings) == len(instrument.channels())


def test_a_ramp_keeps_its_rate_and_arrives(instrument):
    instrument.heater.ramp("200 degC", "60 K/min")
    instrument.clock.sleep(90)
    assert magnitude(instrument.heater.temperature, "K") == pytest.approx(298.15 + 90 - 20, abs=1.0)
    assert not instrument.heater.temperature.arrived()
    instrument.clock.sleep(200)
    assert instrument.heater.temperature.arrived()
    truth = instrument.truth()
    assert 0 < 473.15 - float(truth["sample_temperature"].to("K").magnitude) < 3


def test_gas_makes_pressure(instrument):
    instrument.gases["O2"].flow.set("5 sccm")
    instrument.clock.sleep(3)
    assert magnitude(instrument.gases["O2"].flow, "sccm") == pytest.approx(5.0, rel=0.02)
    instrument.clock.sleep(117)
    assert magnitude(instrument.gauge.pressure, "Pa") == pytest.approx(17.0, rel=0.03)
    instrument.gases["O2"].close()
    instrument.clock.sleep(200)
    assert magnitude(instrument.gauge.pressure, "Pa") < 0.05


def test_limits_name_value_and_unit(instrument):
    with pytest.raises(LimitError, match=r"1500 K is above the upper limit of 1273 K"):
        instrument.heater.temperature.set("1500 K")
    with pytest.raises(LimitError, match=r"120 K/min is above"):
        instrument.heater.rate.set("120 K/min")
    with pytest.raises(LimitError, match=r"0.1 sccm is below 0.4 sccm, the least that this controller holds"):
        instrument.gases["O2"].flow.set("0.1 sccm")


def night(instrument, looks):
    """Heat in oxygen and take two frames; ``looks`` readbacks along the way."""
    instrument.gases["O2"].flow.set("5 sccm")
    instrument.heater.ramp("800 degC", "100 K/min")
    for _ in range(max(looks, 1)):
        instrument.clock.sleep(840.0 / max(looks, 1))
        if looks:
            instrument.read_all()
            instrument.truth()
    frames = [instrument.detector.acquire(SMALL).counts]
    instrument.clock.sleep(10)
    return [*frames, instrument.detector.acquire(SMALL).counts]


def test_the_same_seed_gives_the_same_frames_whoever_reads_along():
    first, again, watched = night(twin(), 0), night(twin(), 0), night(twin(), 60)
    other = night(twin({"seed: 1 ": "seed: 2 "}), 0)
    for a, b, c in zip(first, again, watched, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


def test_a_frame_lasts_its_raster_and_carries_its_settings(instrument):
    begun = instrument.clock.now()
    frame = instrument.detector.acquire(SMALL)
    seconds = (instrument.clock.now() - begun).total_seconds()
    assert seconds == pytest.approx(96 * (128 * 1e-5 + 1e-4) + 0.2, abs=1e-6)
    assert seconds == pytest.approx(instrument.detector.timing.seconds(SMALL), abs=1e-6)
    assert frame.time == begun
    assert frame.beam.electrons_per_pixel == pytest.approx(62_415, rel=0.02)
    assert not frame.dark
    assert frame.counts.dtype == np.uint16
    assert {channel.gain_unit for channel in frame.channels} == {"ADU/keV"}


def test_dark_frames_find_the_offset_that_the_file_does_not_know(instrument):
    instrument.column.blank()
    dark = instrument.detector.acquire(SMALL)
    assert dark.dark
    nominal = np.array([channel.offset for channel in dark.channels])
    measured = dark.counts.mean(axis=(1, 2))
    assert np.abs(measured - nominal).max() > 20
    amplifiers = world_of(instrument).diode.amplifiers
    true = [amplifier.true(0.0) for amplifier in amplifiers]
    assert measured == pytest.approx([channel.offset for channel in true], abs=1.0)
    assert dark.counts.std(axis=(1, 2)) == pytest.approx([channel.read_noise for channel in true], rel=0.03)
    lit = [amplifier.true(0.0).gain / amplifier.nominal(0.0).gain for amplifier in amplifiers]
    assert 0.0 < np.std(lit) < 0.1


def test_a_hot_stage_glows_into_silicon(instrument):
    instrument.column.blank()
    cold = instrument.detector.acquire(SMALL).counts.mean(axis=(1, 2))
    instrument.heater.ramp("700 degC", "100 K/min")
    instrument.clock.sleep(600)
    warm = instrument.detector.acquire(SMALL).counts.mean(axis=(1, 2))
    instrument.heater.ramp("900 degC", "100 K/min")
    instrument.clock.sleep(300)
    hot = instrument.detector.acquire(SMALL).counts.mean(axis=(1, 2))
    assert (warm - cold > 50).all()
    assert (hot - warm > 5 * (warm - cold)).all()


def test_rows_go_dark_when_the_beam_is_blanked_during_the_raster(instrument):
    world, scanner = world_of(instrument), instrument.detector.backend
    scanner.arm(SMALL)
    begun = scanner._begin(SMALL)
    instrument.clock.sleep(48 * (128e-5 + 1e-4))
    instrument.column.blank()
    instrument.clock.sleep(0.3)
    counts = scanner._finish(begun)
    assert counts[:, :47].mean() > 5 * counts[:, 50:].mean()
    assert world.frames == 1


def test_a_stopped_raster_raises_and_the_next_one_works(instrument):
    backend, clock = instrument.detector.backend, instrument.clock
    backend.arm(SMALL)
    backend.stop()
    with pytest.raises(DeviceError, match="stopped before its end"):
        backend.acquire()
    backend.arm(SMALL)
    counts, time = backend.acquire()
    assert counts.shape == (4, 96, 128)
    assert time <= clock.now()


def test_contrast_and_brightness_change_gain_and_offset(instrument):
    before = instrument.detector.acquire(SMALL)
    instrument.detector.contrast["A"].set("40 percent")
    instrument.detector.brightness["A"].set("80 %")
    instrument.clock.sleep(1)
    after = instrument.detector.acquire(SMALL)
    assert after.channels[0].gain == pytest.approx(before.channels[0].gain * 10**-0.2)
    assert after.channels[0].offset == pytest.approx(1600.0)
    signals = [frame.counts[0].mean() - frame.channels[0].offset for frame in (before, after)]
    assert signals[1] / signals[0] == pytest.approx(10**-0.2, rel=0.02)
    assert after.counts[1].mean() == pytest.approx(before.counts[1].mean(), rel=0.01)


def test_too_much_contrast_saturates(instrument):
    for knob in instrument.detector.contrast.values():
        knob.set("100 %")
    instrument.clock.sleep(1)
    assert instrument.detector.acquire(SMALL).counts.min() == 65535


def test_few_electrons_are_counted_one_by_one(instrument):
    few = Scan(96, 128, 4e-6, 2e-8)
    instrument.column.blank()
    dark = instrument.detector.acquire(few).counts.mean(axis=(1, 2))
    instrument.column.unblank()
    frame = instrument.detector.acquire(few)
    signal = frame.counts.mean(axis=(1, 2)) - dark
    variance = frame.counts.var(axis=(1, 2)) - 12.5**2
    assert (signal > 10).all()
    assert variance / signal == pytest.approx(np.full(4, 12.0), rel=0.15)  # gain × keV of an electron


def test_stage_and_beam_shift_move_the_image(instrument):
    def shift(move):
        first = instrument.detector.acquire(SMALL).counts.astype(float)
        move()
        instrument.clock.sleep(2)
        second = instrument.detector.acquire(SMALL).counts.astype(float)
        parts = [np.fft.fft2(np.diff(c[0] - c[2], axis=0)) for c in (first, second)]
        peak = np.fft.ifft2(parts[0] * parts[1].conj() / np.abs(parts[0] * parts[1])).real
        row, column = np.unravel_index(np.argmax(peak), peak.shape)
        return (row + 47) % 95 - 47, (column + 64) % 128 - 64

    # The field goes to the right: what is in it goes to the left, and back the shift that registers it is positive.
    assert shift(lambda: instrument.column.beam_shift_x.set("0.25 um")) == (0, 8)
    assert shift(lambda: instrument.column.beam_shift_y.set("0.25 um")) == (-8, 0)
    assert shift(lambda: instrument.stage.x.set("0.00025 mm")) == (0, 8)


def test_focus_off_the_working_distance_blurs(instrument):
    def detail():
        counts = instrument.detector.acquire(SMALL).counts.astype(float)
        difference = counts[0] - counts[2]
        return float(np.abs(difference - np.roll(difference, 4, axis=1)).mean())

    sharp = detail()
    instrument.column.focus.set("8.04 mm")
    instrument.clock.sleep(1)
    blurred = detail()
    instrument.stage.z.set("-0.04 mm")
    instrument.clock.sleep(1)
    assert blurred < 0.9 * sharp
    assert detail() == pytest.approx(sharp, rel=0.05)
    assert magnitude(instrument.column.working_distance, "mm") == pytest.approx(8.04, abs=1e-3)
    assert instrument.detector.acquire(SMALL).geometry.working_distance == pytest.approx(8.04e-3, abs=1e-6)


def test_the_stage_stops_where_it_is(instrument):
    instrument.stage.x.set("10 mm")
    instrument.clock.sleep(4)
    instrument.stage.stop()
    assert magnitude(instrument.stage.x, "mm") == pytest.approx(4.0, abs=0.01)
    instrument.clock.sleep(10)
    assert magnitude(instrument.stage.x, "mm") == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("count", [3, 5, 6])
def test_other_numbers_of_segments(count):
    lines = [
        f"    - {{name: S{i}, inner_radius: 2 mm, outer_radius: 8 mm, azimuth: {i * 360 / count} deg, "
        f"span: {360 / count} deg}}"
        for i in range(count)
    ]
    text = TWIN.read_text()
    start, end = text.index("    - {name: A"), text.index("  contrast:")
    registry = Registry(drivers={"twin": build})
    source = document.parse(text[:start] + "\n".join(lines) + "\n" + text[end:])
    instrument = registry.instrument(source, VirtualClock())
    frame = instrument.detector.acquire(SMALL)
    assert frame.counts.shape == (count, 96, 128)
    assert (frame.counts.mean(axis=(1, 2)) > 3000).all()


def test_truth_is_of_the_last_frame(instrument):
    instrument.detector.acquire(SMALL)
    truth, surface = instrument.truth(), world_of(instrument).truth_surface()
    assert surface.height.shape == (96, 128)
    assert {"coverage", "nuclei", "oxide_volume", "sample_temperature", "partial_pressure.O2"} <= set(truth)
    assert float(truth["coverage"].magnitude) == 0.0
    assert float(truth["roughness"].to("m").magnitude) == pytest.approx(float(surface.height.z.std()), rel=0.1)


def test_faults_of_the_file_act():
    instrument = twin(
        {
            "  seed: 1 ": "  faults:\n"
            "    - {kind: timeout, target: gauge.pressure, start: 10 s, duration: 5 s}\n"
            "    - {kind: segment_dead, target: detector.B, start: 0 s}\n"
            "  seed: 1 "
        }
    )
    instrument.gauge.pressure.read()
    assert not instrument.detector.acquire(SMALL).counts[1].any()
    instrument.clock.sleep(10)
    with pytest.raises(DeviceTimeout):
        instrument.gauge.pressure.read()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  threshold: 1 keV", "  treshold: 1 keV", r"twin.yaml:\d+:\d+: detector.treshold.*did you mean 'threshold'"),
        ("highest: 1273 K", "highest: 5 kg", r"heater.highest: 5 kg is a mass; expected a temperature"),
        ("  seed: 1 ", "  sead: 1 ", r"settings.sead.*did you mean 'seed'"),
        ("{driver: twin, full_scale: 20 sccm}", "{driver: twin}", r"gases.O2: the key 'full_scale' is missing"),
        ("azimuth: 90 deg", "azimuth: 45 deg", r"segments A and B overlap"),
    ],
)
def test_a_wrong_file_is_explained(old, new, message):
    with pytest.raises(DocumentError, match=message):
        twin({old: new})


def test_a_closed_twin_answers_no_more(instrument):
    instrument.close()
    with pytest.raises(DeviceUnavailable, match="closed"):
        instrument.heater.temperature.read()


def test_only_a_twin_has_a_world(instrument):
    from dataclasses import replace

    with pytest.raises(DriverError, match="not a twin"):
        world_of(replace(instrument, truth=None))


def test_the_default_file_lies_beside_the_driver():
    assert Path(TWIN).name == "twin.yaml"
    assert Path(TWIN).is_file()

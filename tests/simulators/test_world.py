"""Furnace, gas, drift and axes: their figures, and that they do not depend on who reads when."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.clock import VirtualClock
from drivers.contract import Scan
from drivers.errors import DeviceUnavailable
from drivers.units import KEV
from simulators.chamber import Chamber, FlowController, skirt_radius, unscattered_share
from simulators.furnace import ROOM, Furnace
from simulators.optics import Axis, Beam, Settling
from simulators.randomness import Stream, Wander
from simulators.specimen import Specimen
from simulators.world import World

SCCM = 7.436e-7


def test_streams_are_normal_and_independent():
    one, other = Stream(1, "a"), Stream(1, "b")
    draws = np.array([[one.normal(i), other.normal(i)] for i in range(4000)])
    assert draws.mean(axis=0) == pytest.approx([0, 0], abs=0.06)
    assert draws.std(axis=0) == pytest.approx([1, 1], abs=0.04)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.06
    assert abs(np.corrcoef(draws[1:, 0], draws[:-1, 0])[0, 1]) < 0.06
    assert one.normal(7) == Stream(1, "a").normal(7) != Stream(2, "a").normal(7)
    assert one.generator(3).random() == Stream(1, "a").generator(3).random()


def test_a_wander_has_its_spread_and_memory():
    wander = Wander(Stream(5, "w"), spread=2.0, memory=50.0, step=5.0)
    walk = np.array([wander.step() for _ in range(20_000)])
    assert walk.std() == pytest.approx(2.0, rel=0.1)
    lag = 10
    assert np.corrcoef(walk[lag:], walk[:-lag])[0, 1] == pytest.approx(math.exp(-1), abs=0.08)


def test_the_sensor_lags_a_ramp_by_its_time_constant_and_arrives():
    furnace = Furnace(time_constant=20.0, rate=0.5)
    furnace.target = ROOM + 300
    for _ in range(600):  # 300 s
        furnace.step(0.5, {})
    assert furnace.working == pytest.approx(ROOM + 150)
    assert furnace.working - furnace.sensor == pytest.approx(10.0, rel=1e-3)
    for _ in range(1200):
        furnace.step(0.5, {})
    assert furnace.working == ROOM + 300
    assert furnace.sensor == pytest.approx(ROOM + 300, abs=1e-3)


@pytest.mark.parametrize(("gas", "deficit"), [({"H2": 300.0}, 60.0), ({"O2": 17.0}, 6.0), ({}, 3.5)])
def test_the_sample_is_cooler_than_the_sensor(gas, deficit):
    furnace = Furnace(target=1173.15, working=1173.15, sensor=1173.15, sample=1173.15)
    for _ in range(200):
        furnace.step(0.5, gas)
    assert furnace.sensor - furnace.sample == pytest.approx(deficit, rel=0.25)
    if "H2" in gas:
        assert furnace.sensor - furnace.sample == pytest.approx(60.0, abs=0.5)


@given(cuts=st.lists(st.floats(0.1, 30.0), min_size=1, max_size=8))
def test_a_ramp_is_exact_however_it_is_cut(cuts):
    fine, whole = (Furnace(target=ROOM + 1000, rate=0.3) for _ in range(2))
    for cut in cuts:
        fine.step(cut, {})
    whole.step(sum(cuts), {})
    assert fine.sensor == pytest.approx(whole.sensor, rel=1e-9)


def test_five_sccm_of_oxygen_settle_at_seventeen_pascal():
    chamber = Chamber()
    for _ in range(400):
        chamber.step(0.5, {"O2": 5 * SCCM * 0.5})
    assert chamber.pressures["O2"] == pytest.approx(17.0, rel=0.01)
    assert chamber.pressure == pytest.approx(17.0, rel=0.01)
    tau = chamber.volume / chamber.pumping_speed
    chamber.step(tau, {})
    assert chamber.pressures["O2"] == pytest.approx(17.0 / math.e, rel=0.01)


def test_a_flow_settles_within_one_to_three_seconds():
    line = FlowController(20 * SCCM, setpoint=5 * SCCM)
    line.step(1.0)
    assert abs(line.flow / (5 * SCCM) - 1) > 0.02
    line.step(2.0)
    assert abs(line.flow / (5 * SCCM) - 1) < 0.02
    line.setpoint = 0.0
    line.step(20.0)
    assert line.flow == 0.0
    assert line.step(1.0) == 0.0


def test_moles_are_the_integral_of_the_flow():
    coarse, fine = (FlowController(20 * SCCM, setpoint=10 * SCCM, gain=1.01) for _ in range(2))
    assert coarse.step(5.0) == pytest.approx(math.fsum(fine.step(0.01) for _ in range(500)), rel=1e-9)


def test_gas_takes_electrons_out_of_the_probe():
    assert unscattered_share({}, 5.0, 5e-3) == 1.0
    light, heavy = (unscattered_share({gas: 50.0}, 5.0, 5e-3) for gas in ("H2", "O2"))
    assert 0.3 < heavy < light < 1.0
    assert unscattered_share({"O2": 50.0}, 20.0, 5e-3) > heavy
    assert skirt_radius(8, 5.0, 17.0, 8e-3) == pytest.approx(100e-6, rel=0.02)


def test_settings_settle_and_axes_travel():
    setting = Settling(1.0, 0.2)
    setting.go(2.0, 10.0)
    assert setting.at(10.0) == 1.0
    assert setting.at(10.2) == pytest.approx(2 - math.exp(-1))
    assert setting.at(20.0) == 2.0
    axis = Axis(0.0, 1e-3)
    axis.go(-5e-3, 0.0)
    assert axis.at(2.0) == pytest.approx(-2e-3)
    axis.stop(2.0)
    assert axis.at(100.0) == pytest.approx(-2e-3)


def test_defocus_widens_the_probe_and_astigmatism_turns_with_its_sign():
    beam = Beam(Settling(5 * KEV, 0.2), Settling(1e-9, 0.2), Settling(8e-3, 0.05))
    sharp = beam.covariance(0.0, 8e-3)
    assert np.sqrt(sharp[0, 0]) * 2.3548 == pytest.approx(3e-9, rel=1e-4)
    beam.stigmator[0].value = beam.stigmator[0].target = 0.5
    over, under = beam.covariance(0.0, 8e-3 - 10e-6), beam.covariance(0.0, 8e-3 + 10e-6)
    assert over[0, 0] > over[1, 1]
    assert under[0, 0] < under[1, 1]


def test_the_blanker_is_remembered_by_time():
    beam = Beam(Settling(5 * KEV, 0.2), Settling(1e-9, 0.2), Settling(8e-3, 0.05))
    beam.blank(True, 10.0)
    beam.blank(True, 11.0)
    beam.blank(False, 12.0)
    assert beam.is_blanked(np.array([0.0, 9.9, 10.0, 11.9, 12.0])).tolist() == [False, False, True, True, False]


def world(seed=3):
    clock = VirtualClock()
    made = World(clock, Specimen(seed), seed)
    made.beam = Beam(Settling(5 * KEV, 0.2), Settling(1e-9, 0.2), Settling(8e-3, 0.05))
    made.lines["O2"] = FlowController(20 * SCCM)
    made.furnace.target, made.furnace.rate = 1073.0, 1.0
    return clock, made


def state(made):
    with made.lock:
        made.catch_up()
    furnace, drift = made.furnace, made.drift
    return (
        furnace.sensor,
        furnace.sample,
        tuple(sorted(made.chamber.pressures.items())),
        drift.offset,
        made.emission.value,
        made.specimen.time,
    )


@settings(max_examples=10, deadline=None)
@given(looks=st.lists(st.floats(0.01, 40.0), max_size=12))
def test_it_does_not_matter_who_reads_when(looks):
    def night(looks):
        clock, made = world()
        end = clock.monotonic() + 100.0
        for look in looks:
            if clock.monotonic() + look < end:
                clock.sleep(look)
                state(made)
        clock.sleep(end - clock.monotonic())
        with made.lock:
            made.catch_up()
            made.lines["O2"].setpoint = 5 * SCCM
        clock.sleep(60.0)
        return state(made)

    assert night(looks) == night([])


def test_drift_is_nanometres_a_minute_and_larger_while_the_stage_warms():
    clock, made = world()
    made.furnace.target = ROOM
    clock.sleep(600.0)
    before = state(made)[3]
    clock.sleep(3600.0)
    after = state(made)[3]
    still = math.hypot(after[0] - before[0], after[1] - before[1]) / 60
    assert 0.05e-9 < still < 10e-9
    made.furnace.target, made.furnace.rate = ROOM + 700, 0.5
    clock.sleep(900.0)
    warm = state(made)[3]
    assert math.hypot(warm[0] - after[0], warm[1] - after[1]) / 15 > 5 * still


def test_the_field_follows_stage_shift_and_rotation():
    _, made = world()
    made.stage.x.value = made.stage.x.target = 2e-6
    made.beam.shift[1].value = made.beam.shift[1].target = 1e-6
    assert made.centre(0.0) == pytest.approx((2e-6, 1e-6))
    made.stage.rotation.value = made.stage.rotation.target = math.pi / 2
    # What lies above the axis in the image lies, on a specimen turned by 90°, in its +x.
    assert made.centre(0.0) == pytest.approx((3e-6, 0.0), abs=1e-12)


def test_a_rotated_stage_shows_a_rotated_relief():
    _, made = world()
    scan = Scan(60, 60, 3e-6, 1e-5)
    plain = made.surface(scan)
    made.stage.rotation.value = made.stage.rotation.target = math.pi / 2
    turned = made.surface(scan)
    assert turned.height.z == pytest.approx(np.rot90(plain.height.z), abs=1e-10)
    assert (turned.grain == np.rot90(plain.grain)).mean() > 0.99


def test_a_tilted_stage_leans_the_relief():
    _, made = world()
    scan = Scan(60, 60, 3e-6, 1e-5)
    level = made.surface(scan).height.z
    made.stage.tilt.value = made.stage.tilt.target = math.radians(5)
    rise = np.polyfit(np.arange(60) * scan.pixel_size, (made.surface(scan).height.z - level).mean(axis=1)[::-1], 1)[0]
    assert rise == pytest.approx(math.tan(math.radians(5)), rel=0.05)


def test_a_closed_world_says_so():
    _, made = world()
    made.close()
    with pytest.raises(DeviceUnavailable, match="closed"):
        state(made)

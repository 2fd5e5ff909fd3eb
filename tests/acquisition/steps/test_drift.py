"""Drift: how well frames are registered, and that the field stays where it was."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from acquisition.actions import CorrectDrift
from acquisition.drift import correct_drift
from acquisition.registration import displacement
from drivers.contract import Scan
from drivers.errors import DeviceTimeout
from drivers.units import quantity, si
from simulators.instruments import world_of

RASTER = Scan(128, 128, 2e-6, 2e-6)


def correction(number, every=1, **changes):
    previous = f"s[{number - every}].drift" if number else None
    given = {"address": f"s[{number}].drift", "group": "s", "number": number, "previous": previous, "limit": "5 um"}
    return CorrectDrift(**{**given, **changes})


def corrected(hands, number, **changes):
    """Take a frame of the series and correct."""
    hands.take(f"s[{number}]")
    action = correction(number, **changes)
    hands.results[action.address] = correct_drift(hands, action)
    return hands.results[action.address]


class Scene:
    """Pictures of a random texture at a place that a test moves; the field follows beam shift and stage."""

    def __init__(self, hands, *, noise=30.0, contrast=200.0, seed=1):
        self.hands, self.noise, self.contrast = hands, noise, contrast
        self.rng = np.random.default_rng(seed)
        size = 256
        k = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
        self.k = (np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
        self.texture = np.fft.fft2(self.rng.standard_normal((size, size))) * np.exp(-0.5 * (2 * np.pi * k * 1.5) ** 2)
        self.texture *= 1.0 / np.fft.ifft2(self.texture).real.std()
        self.sample = np.zeros(2)
        self.blank = False
        self.sign = 1.0
        hands.picture = self

    @property
    def off(self):
        """How far the sample lies from the middle of the field, m: right, up."""
        column, stage = self.hands.instrument.column, self.hands.instrument.stage
        shift = np.array([si(column.beam_shift_x.read().value), si(column.beam_shift_y.read().value)])
        place = np.array([si(stage.x.read().value), si(stage.y.read().value)])
        return self.sample - self.sign * shift - place

    def __call__(self, scan, beam):
        dx, dy = self.off / scan.pixel_size
        phase = np.exp(-2j * np.pi * (self.k[1] * dx - self.k[0] * dy))
        image = np.fft.ifft2(self.texture * phase).real[: scan.rows, : scan.columns]
        shown = 0.0 if self.blank else self.contrast
        images = 3000 + shown * image + self.noise * self.rng.standard_normal((4, scan.rows, scan.columns))
        return np.clip(images, 0, 65535).astype(np.uint16)


@pytest.fixture
def scene(obedient):
    obedient.scan = RASTER
    return Scene(obedient)


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.3, -0.7), (11.25, -6.5), (-30.0, 22.4)])
def test_displacements_to_a_twentieth_of_a_pixel(obedient, scene, dx, dy):
    first = obedient.expose()
    scene.sample = np.array([dx, dy]) * RASTER.pixel_size
    found = displacement(first, obedient.expose())
    # The window pulls towards none, the more the less the frames have in common.
    assert (found.x, found.y) == (pytest.approx(dx, abs=0.05, rel=0.005), pytest.approx(dy, abs=0.05, rel=0.005))
    assert found.confidence > 10
    assert found.sigma < 0.05


def test_a_change_of_contrast_does_not_move_the_peak(obedient, scene):
    first = obedient.expose()
    scene.sample, scene.contrast = np.array([4.5, 2.0]) * RASTER.pixel_size, -150.0
    scene.texture += 0.5 * scene.texture.std() * np.random.default_rng(9).standard_normal(scene.texture.shape)
    scene.contrast = 120.0
    found = displacement(first, obedient.expose())
    assert (found.x, found.y) == (pytest.approx(4.5, abs=0.3), pytest.approx(2.0, abs=0.3))


def test_unrelated_frames_have_no_confidence(obedient, scene):
    first = obedient.expose()
    other = Scene(obedient, seed=2)
    assert displacement(first, obedient.expose()).confidence < 8
    scene.blank = other.blank = True
    assert displacement(first, obedient.expose()).confidence < 8


def test_the_field_follows_by_beam_shift(obedient, scene):
    assert corrected(obedient, 0)["outcome"] == "anchored"
    for number in range(1, 6):
        scene.sample = scene.sample + np.array([3.0, -2.0]) * RASTER.pixel_size
        result = corrected(obedient, number)
        assert result["outcome"] == "corrected"
        assert np.abs(scene.off).max() < 0.1 * RASTER.pixel_size
    total = np.array(result["standing"]["total"])
    assert total == pytest.approx(np.array([15.0, -10.0]) * RASTER.pixel_size, abs=2e-9)
    kinds = [data["by"] for kind, data in obedient.corrected if "by" in data]
    assert kinds == ["beam_shift"] * 5
    assert obedient.exposed == 6 + 1, "one control frame, after the first step"


def test_the_stage_takes_over_where_the_shift_is_used_up(obedient, scene):
    corrected(obedient, 0, limit="100 nm")
    for number in range(1, 5):
        scene.sample = scene.sample + np.array([4.0, 0.0]) * RASTER.pixel_size
        result = corrected(obedient, number, limit="100 nm")
        assert np.abs(scene.off).max() < 0.2 * RASTER.pixel_size
    used = [data["by"] for _, data in obedient.corrected if "by" in data]
    assert used == ["beam_shift", "stage", "beam_shift", "stage"]
    assert result["standing"]["total"][0] == pytest.approx(16 * RASTER.pixel_size, abs=3e-9)
    assert abs(si(obedient.instrument.column.beam_shift_x.setpoint)) < 100e-9


def test_a_stage_alone_follows_its_rotation(obedient, scene):
    obedient.instrument.stage.rotation.set(quantity(0.0, "deg"))
    corrected(obedient, 0, by="stage")
    scene.sample = np.array([6.0, 3.0]) * RASTER.pixel_size
    assert corrected(obedient, 1, by="stage")["by"] == "stage"
    assert np.abs(scene.off).max() < 0.2 * RASTER.pixel_size


def test_a_shift_with_the_wrong_sign_is_noticed_at_once(obedient, scene):
    scene.sign = -1.0
    corrected(obedient, 0)
    scene.sample = np.array([5.0, 0.0]) * RASTER.pixel_size
    result = corrected(obedient, 1)
    assert result["outcome"] == "wrong way"
    assert si(obedient.instrument.column.beam_shift_x.setpoint) == 0.0
    before = len(obedient.sent)
    assert corrected(obedient, 2)["outcome"] == "off"
    assert len(obedient.sent) == before


def test_a_new_anchor_keeps_what_has_drifted(obedient, scene):
    corrected(obedient, 0)
    for number in range(1, 12):
        scene.sample = scene.sample + np.array([1.5, 0.5]) * RASTER.pixel_size
        # The surface changes little by little, until nothing of the first frame is left.
        change = np.random.default_rng(number).standard_normal(scene.texture.shape)
        scene.texture = 0.85 * scene.texture + 0.5 * scene.texture.std() * np.fft.fft2(change) / np.fft.fft2(
            change
        ).std() * np.exp(-0.5 * (2 * np.pi * np.hypot(*scene.k) * 1.5) ** 2)
        result = corrected(obedient, number)
    renewed = [data for _, data in obedient.corrected if data.get("renewed")]
    assert renewed, "the anchor was renewed on the way"
    assert result["standing"]["total"] == pytest.approx([16.5 * RASTER.pixel_size, 5.5 * RASTER.pixel_size], abs=16e-9)


def test_what_is_not_recognised_moves_nothing_and_is_begun_anew(obedient, scene):
    corrected(obedient, 0)
    scene.sample = np.array([2.0, 0.0]) * RASTER.pixel_size
    corrected(obedient, 1)
    scene.blank = True
    before = len(obedient.sent)
    outcomes = [corrected(obedient, number)["outcome"] for number in (2, 3, 4)]
    assert outcomes == ["unrecognised", "unrecognised", "lost"]
    assert len(obedient.sent) == before
    scene.blank = False
    assert obedient.results["s[4].drift"]["standing"]["total"][0] == pytest.approx(2 * RASTER.pixel_size, abs=1e-9)


def test_a_skipped_frame_is_no_reason_to_move(obedient, scene):
    assert correct_drift(obedient, correction(3)) is None
    assert obedient.sent == []


def test_a_correction_that_is_done_again_does_not_add_up(obedient, scene):
    """The process died between the step and its outcome: the frame tells where the field stood."""
    corrected(obedient, 0)
    scene.sample = np.array([5.0, 0.0]) * RASTER.pixel_size
    shift = obedient.instrument.column.beam_shift_x
    number = obedient.take("s[1]")
    frame = obedient.frames[number]
    obedient.frames[number] = replace(frame, readbacks={shift.name: shift.read()})
    for _ in range(2):
        correct_drift(obedient, correction(1))
        assert np.abs(scene.off).max() < 0.2 * RASTER.pixel_size
    assert si(shift.setpoint) == pytest.approx(5.0 * RASTER.pixel_size, rel=0.02)


def test_a_shift_that_does_not_move_is_told_by_its_device(obedient, scene):
    corrected(obedient, 0)
    scene.sample = np.array([5.0, 0.0]) * RASTER.pixel_size
    obedient.stuck = {"column.beam_shift_x"}
    with pytest.raises(DeviceTimeout):
        corrected(obedient, 1)


def test_the_field_of_the_twin_stays_within_a_pixel(make_twin):
    """A frame a minute, while the sample creeps and the stage warms by 5 K; the hour is a benchmark."""
    scan = Scan(128, 128, 3e-6, 5e-6)
    hands = make_twin(scan=scan)
    world = world_of(hands.instrument)
    hands.instrument.heater.ramp(quantity(303.15, "K"), quantity(1.0, "K/min"))
    start, free, residuals = world.centre(world.time), world.drift.offset[:2], []
    for number in range(12):
        residuals.append(math.dist(world.centre(world.time), start) / scan.pixel_size)
        corrected(hands, number)
        hands.wait(60.0)
    assert math.dist(world.drift.offset[:2], free) / scan.pixel_size > 1.5, "there was something to correct"
    assert max(residuals) <= 1.0

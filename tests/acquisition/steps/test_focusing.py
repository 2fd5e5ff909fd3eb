"""Autofocus and stigmation: what they find on the twin, and that they move nothing without evidence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from acquisition.actions import Autofocus, Place, Stigmation
from acquisition.effort import PASSES, VERIFYING
from acquisition.focusing import autofocus, stigmation
from acquisition.sharpness import find_peak, spectrum
from drivers.errors import DeviceTimeout
from drivers.units import quantity, si
from simulators.instruments import world_of

CONVERGENCE = 5e-3  # rad, of the twin's probe


def search(look, **changes):
    return Autofocus(**{"address": "a", "imaging": look, "frames": 9, "range": "50 um", "tolerance": "1 um", **changes})


def defocus(hands):
    """Return how far the twin's focus lies from its sample, m."""
    world = world_of(hands.instrument)
    with world.lock:
        time = world.catch_up()
        return world.beam.focus.at(time) - world.working_distance(time)


@pytest.mark.parametrize("start", [-20.0, 20.0])
def test_focus_is_found_within_the_depth_of_focus(make_twin, look, start):
    hands = make_twin()
    hands.send(hands.instrument.column.focus, quantity(8.0 + start * 1e-3, "mm"))
    hands.wait(1.0)
    found = autofocus(hands, search(look))
    # The depth of focus: a ray at the edge of the probe strays by half a pixel.
    depth = look.scan().pixel_size / (2 * CONVERGENCE)
    assert found["outcome"] == "found"
    assert abs(defocus(hands)) < depth / 2
    assert abs(defocus(hands)) < 5 * found["sigma"]["value"] * 1e-3
    assert hands.exposed == found["frames"] <= 2 * 9 + VERIFYING
    assert found["dose"]["value"] == pytest.approx(found["frames"] * look.dose_per_frame())
    assert found["sharpness"]["after"] > found["sharpness"]["before"]
    assert [kind for kind, _ in hands.corrected] == ["focus"]


def test_stigmators_are_found_within_a_few_percent(make_twin, look):
    hands = make_twin({"convergence: 5 mrad": "convergence: 5 mrad\n  astigmatism: [0.2, -0.15]"})
    focus = autofocus(hands, search(look))
    assert focus["outcome"] == "found"
    found = stigmation(
        hands, Stigmation(address="s", imaging=look, frames=9, range="80 percent", tolerance="2 percent")
    )
    column = hands.instrument.column
    assert [found[axis]["outcome"] for axis in "xy"] == ["found", "found"]
    assert si(column.stigmator_x.setpoint) == pytest.approx(0.2, abs=0.03)
    assert si(column.stigmator_y.setpoint) == pytest.approx(-0.15, abs=0.03)
    assert found["frames"] == hands.exposed - focus["frames"]


def test_a_sacrificial_area_takes_the_dose_and_the_beam_comes_back(make_twin, look):
    hands = make_twin()
    places = []
    expose = hands.expose

    def noted(scan=None, *, beam=True):
        places.append(world_of(hands.instrument).centre(world_of(hands.instrument).time))
        return expose(scan, beam=beam)

    hands.expose = noted
    autofocus(hands, search(look, frames=5, at=Place(x="12 um", y="0 um")))
    assert all(x == pytest.approx(12e-6, abs=1e-7) for x, _ in places)
    assert si(hands.instrument.column.beam_shift_x.setpoint) == 0.0
    # Beyond the beam's reach the stage goes.
    places.clear()
    autofocus(hands, search(look, frames=5, at=Place(x="40 um", y="-3 um")))
    assert all(x == pytest.approx(40e-6, abs=1e-6) and y == pytest.approx(-3e-6, abs=1e-6) for x, y in places)
    assert si(hands.instrument.stage.x.setpoint) == 0.0


def grating(hands, true_focus, *, noise=20.0, kappa=1e-2, level=2000.0):
    """Pictures of a grating and a random texture that blur away from a focus (µm)."""
    rng = np.random.default_rng(7)
    texture = rng.standard_normal((128, 128))
    k2 = (2 * np.pi) ** 2 * (np.fft.fftfreq(128)[:, None] ** 2 + np.fft.fftfreq(128)[None, :] ** 2)

    def picture(scan, beam):
        off = si(hands.instrument.column.focus.read().value) * 1e6 - true_focus
        sharp = np.fft.ifft2(np.fft.fft2(texture) * np.exp(-0.5 * k2 * (1.0 + kappa * off**2))).real
        images = level + 200.0 * sharp[None] + noise * rng.standard_normal((4, 128, 128))
        return np.clip(images, 0, 65535).astype(np.uint16)

    return picture


def test_without_contrast_nothing_moves(obedient, look):
    rng = np.random.default_rng(3)
    obedient.picture = lambda scan, beam: rng.normal(2000, 30, (4, 128, 128)).astype(np.uint16)
    found = autofocus(obedient, search(look))
    assert found["outcome"] == "weak"
    assert obedient.sent[-1] == ("column.focus", pytest.approx(8e-3))
    assert obedient.exposed == 9, "no second pass after one that saw nothing"
    assert [level for level, _, _ in obedient.told] == ["warning"]
    assert "equally sharp" in obedient.told[0][2]


def test_noise_alone_is_rarely_taken_for_evidence():
    """Nineteen searches over noise: none comes near the threshold of 40."""
    rng = np.random.default_rng(5)
    worst = -np.inf
    for _ in range(19):
        frames = [_frame(rng.normal(2000, 30, (4, 64, 64)).astype(np.uint16)) for _ in range(7)]
        worst = max(worst, find_peak(np.linspace(-1, 1, 7), [spectrum(frame) for frame in frames]).evidence)
    assert worst < 0.0


def _frame(counts):
    from datetime import UTC, datetime

    from drivers.frame import BeamSettings, Channel, Frame
    from drivers.geometry import annular

    geometry = annular(4, 2e-3, 8e-3, 8e-3)
    channels = tuple(Channel(name) for name in geometry.names)
    return Frame(counts, geometry, BeamSettings(8e-16, 1e-8), channels, datetime(2026, 1, 1, tzinfo=UTC))


def test_clipped_frames_are_no_evidence(obedient, look):
    obedient.picture = lambda scan, beam: np.full((4, 128, 128), 65535, np.uint16)
    found = autofocus(obedient, search(look))
    assert found["outcome"] == "saturated"
    assert obedient.sent[-1] == ("column.focus", pytest.approx(8e-3))
    assert "balance" in obedient.told[0][2]


def test_a_focus_far_away_is_followed_and_given_up_at_the_end(obedient, look):
    obedient.picture = grating(obedient, 8000.0 + 60.0)
    found = autofocus(obedient, search(look))
    assert found["outcome"] == "found", "two passes reach beyond the first range"
    assert si(obedient.instrument.column.focus.setpoint) == pytest.approx(8060e-6, abs=1e-6)
    obedient.send(obedient.instrument.column.focus, quantity(8.0, "mm"))
    obedient.picture = grating(obedient, 8000.0 + 400.0, kappa=1e-4)
    before = obedient.exposed
    found = autofocus(obedient, search(look))
    assert found["outcome"] in ("edge", "weak")
    assert obedient.exposed - before <= PASSES * 9 + VERIFYING
    assert si(obedient.instrument.column.focus.setpoint) == pytest.approx(8e-3)


def test_a_worse_frame_puts_the_old_value_back(obedient, look):
    pictures, taken = grating(obedient, 8005.0), []

    def picture(scan, beam):
        counts = pictures(scan, beam)
        taken.append(None)
        flat = np.full_like(counts, 2000)
        flat[:, ::2, ::2] += 3
        return flat if len(taken) == expected else counts

    obedient.picture = pictures
    expected = autofocus(obedient, search(look))["frames"]  # a rehearsal tells how many frames it takes
    obedient.send(obedient.instrument.column.focus, quantity(8.0, "mm"))
    obedient.picture = picture
    found = autofocus(obedient, search(look))
    assert found["outcome"] == "worse"
    assert si(obedient.instrument.column.focus.setpoint) == pytest.approx(8e-3)
    assert "less sharp" in obedient.told[-1][2]


def test_a_lens_that_does_not_move_ends_the_search(obedient, look):
    obedient.picture = grating(obedient, 8000.0)
    obedient.stuck = {"column.focus"}
    with pytest.raises(DeviceTimeout):
        autofocus(obedient, search(look))
    assert obedient.exposed == 0


def test_a_stage_that_does_not_move_spoils_nothing(obedient, look):
    obedient.picture = grating(obedient, 8000.0)
    obedient.stuck = {"stage.x"}
    with pytest.raises(DeviceTimeout):
        autofocus(obedient, search(look, at=Place(x="1 mm", y="0 um")))
    assert obedient.exposed == 0, "no dose where the sample was to be spared"
    assert obedient.sent[-2:] == [("stage.x", 0.0), ("stage.y", 0.0)], "it is sent back all the same"


def test_limits_of_the_lens_bound_the_search(obedient, look):
    obedient.send(obedient.instrument.column.focus, quantity(4.005, "mm"))
    obedient.picture = grating(obedient, 4010.0)
    found = autofocus(obedient, search(look))
    assert found["outcome"] == "found"
    focuses = [value for name, value in obedient.sent if name == "column.focus"]
    assert min(focuses) >= 4e-3
    assert any(a > b for a, b in pairwise(focuses)), "each pass begins again from its lower end"

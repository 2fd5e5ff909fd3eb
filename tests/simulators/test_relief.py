from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from drivers.sample import HeightMap
from drivers.units import KEV
from simulators import relief, transport
from simulators.materials import material
from simulators.scene import Beam, Surface, build_scene, least_cosines, lowest_within

F = np.float32


def scene_of(z: np.ndarray, border: str = "reflecting") -> object:
    """Heights in pixels of 10 nm."""
    return build_scene(Surface(HeightMap(z * 10e-9, 10e-9), material("Cu"), border=border), Beam(5 * KEV))


@pytest.mark.parametrize(("border", "mode"), [("reflecting", "reflect"), ("periodic", "grid-wrap")])
def test_heights_go_on_beyond_the_border(border: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(7, 5))
    scene = scene_of(z, border)
    points = rng.uniform(-20, 20, (200, 2))
    expected = map_coordinates(z, points[:, ::-1].T, order=1, mode=mode)
    found = [relief.value_at(scene.heights, F(u), F(v), scene.periodic) for u, v in points]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@given(st.integers(0, 10_000))
@settings(max_examples=150, deadline=None)
def test_crossings_agree_with_a_fine_march(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = scene_of(rng.normal(size=(6, 6)) * rng.choice([0.2, 2.0]), str(rng.choice(["reflecting", "periodic"])))
    u, v = rng.uniform(-8, 14, 2)
    side = F(rng.choice([-1.0, 1.0]))
    w = relief.value_at(scene.heights, F(u), F(v), scene.periodic) - side * F(rng.uniform(0.01, 1.0))
    d = rng.normal(size=3)
    d = (d / np.linalg.norm(d)).astype(np.float32)
    length = 12.0
    met = relief.crossing(scene, F(u), F(v), F(w), d[0], d[1], d[2], F(length), side)
    t = np.linspace(0, length, 6001)
    mode = "grid-wrap" if scene.periodic else "reflect"
    heights = map_coordinates(scene.heights, [v + t * d[1], u + t * d[0]], order=1, mode=mode)
    beyond = side * (w + t * d[2] - heights)
    if met >= 0:
        assert beyond[t < met - 0.01].max(initial=-1.0) < 2e-3
        at = float(relief.value_at(scene.heights, F(u + met * d[0]), F(v + met * d[1]), scene.periodic))
        assert abs(w + met * d[2] - at) < 2e-3
    else:
        assert beyond.max() < 2e-3


def test_a_clear_ball_holds_no_surface() -> None:
    rng = np.random.default_rng(3)
    scene = scene_of(rng.normal(size=(32, 32)) * 2)
    fine = rng.normal(size=(400, 3))
    fine /= np.linalg.norm(fine, axis=1)[:, None]
    for _ in range(300):
        u, v = rng.uniform(0, 31, 2)
        w = relief.value_at(scene.heights, F(u), F(v), scene.periodic) - rng.exponential(4.0)
        for radius in (
            relief.clearance(scene, scene.lowest, F(u), F(v), F(w)),
            relief.near_clearance(scene, F(u), F(v), F(w)),
        ):
            ball = np.array([u, v, w]) + max(float(radius), 0.0) * 0.999 * fine
            heights = map_coordinates(scene.heights, [ball[:, 1], ball[:, 0]], order=1, mode="reflect")
            assert (ball[:, 2] <= heights + 1e-3).all()


def test_filters_know_flat_and_steep() -> None:
    z = np.zeros((8, 8))
    z[3, 3] = -2.0
    lowest = lowest_within(z, np.array([1.0], dtype=np.float32), "reflecting")[0]
    assert lowest[3, 3] == -2.0
    assert lowest[3, 4] == -2.0
    assert lowest[0, 7] == 0.0
    cosines = least_cosines(z, 1.0, "reflecting")
    assert cosines[0, 7] == 1.0
    assert cosines[3, 3] == pytest.approx(1 / np.sqrt(9))


def test_the_generator_is_pcg32() -> None:
    # The reference implementation's first numbers for seed 42 and sequence 54.
    stream = np.uint64(54 * 2 + 1)
    state, _ = transport.draw(np.uint64(0), stream)
    state = np.uint64((int(state) + 42) % 2**64)
    state, _ = transport.draw(state, stream)
    found = []
    for _ in range(6):
        state, bits = transport.draw(np.uint64(state), stream)
        found.append(int(bits))
    assert found == [0xA15C02B7, 0x7B47F409, 0xBA1D3330, 0x83D2F293, 0xBFA4784B, 0xCBED606E]


@pytest.mark.parametrize("direction", [(0, 0, -1), (0, 0, 1), (1, 0, 0), (0.6, 0, -0.8), (0, 1e-4, -1)])
@pytest.mark.parametrize("loss", [1e-6, 0.3, 1.0, 1.9, 2.0])
def test_turning_keeps_angle_and_length_even_at_the_pole(direction: tuple[float, float, float], loss: float) -> None:
    old = np.array(direction, dtype=np.float32)
    old /= np.linalg.norm(old)
    new = np.array([transport.turned(*old, F(loss), turn) for turn in range(1024)], dtype=np.float64)
    assert np.abs(np.linalg.norm(new, axis=1) - 1).max() < 1e-5
    assert np.abs(new @ old - (1 - loss)).max() < 2e-6
    assert np.abs(new.mean(axis=0) - (1 - loss) * old).max() < 1e-5

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry, annular
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.kernels import tally
from simulators.materials import material
from simulators.scanning import FrameRun, SegmentTally, frame_exits, grid_points, tally_frame
from simulators.scattering import Cancelled, backscatter, seeds
from simulators.scene import Beam, Stage, Surface, build_diode, build_gun, build_scene

COPPER = material("Cu")
BEAM = Beam(5 * KEV)
FOUR = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)


def surface(z: Any, pixel: float = 100e-9, **options: Any) -> Surface:
    return Surface(HeightMap(np.asarray(z, dtype=float), pixel), COPPER, **options)


def bump(sign: float) -> Surface:
    y, x = np.mgrid[:24, :24] - 11.5
    return surface(sign * 100e-9 * np.maximum(9 - np.hypot(x, y), 0) * 0.5)


def rough(seed: int = 0, shape: tuple[int, int] = (16, 16), amplitude: float = 60e-9) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * amplitude


@pytest.fixture(scope="module")
def level() -> SegmentTally:
    return tally_frame(surface(np.zeros((16, 16)), border="periodic"), BEAM, FOUR, 150, 1)


def test_segments_see_a_level_surface_alike(level: SegmentTally) -> None:
    counts = level.counts.sum(axis=(1, 2))
    assert np.abs(counts - counts.mean()).max() < 3 * math.sqrt(counts.mean())
    total = int(level.backscattered.sum())
    plane = backscatter(COPPER, 5 * KEV, electrons=38_400, seed=2)
    assert total / 38_400 == pytest.approx(plane.coefficient, abs=4 * 1.4 * plane.error)
    assert (level.backscattered + level.absorbed == 150).all()
    assert level.error.mean() == pytest.approx(level.signal.std(axis=(1, 2)).mean(), rel=0.15)


def test_a_face_is_bright_in_the_segment_that_it_leans_towards() -> None:
    """Segments A, B, C, D stand at 0, 90, 180, 270°; x to the right, y up."""
    up, down = (tally_frame(bump(sign), BEAM, FOUR, 40, 3).signal for sign in (1, -1))
    east, west, north, south = ((slice(8, 16), slice(15, 19)), (slice(8, 16), slice(5, 9)),
                                (slice(5, 9), slice(8, 16)), (slice(15, 19), slice(8, 16)))  # fmt: skip
    for frame, sign in ((up, 1), (down, -1)):
        along, across = frame[0] - frame[2], frame[1] - frame[3]
        assert sign * along[east].mean() > 0.02
        assert sign * along[west].mean() < -0.02
        assert sign * across[north].mean() > 0.02
        assert sign * across[south].mean() < -0.02


def test_a_rotated_surface_permutes_the_segments() -> None:
    z = np.add.outer(np.zeros(12), 0.7 * np.arange(12) * 100e-9) + np.linspace(0, 200e-9, 12)[:, None]
    one = tally_frame(surface(z), BEAM, FOUR, 800, 4)
    turned = tally_frame(surface(np.rot90(z).copy()), BEAM, FOUR, 800, 5)  # by 90° counter-clockwise as displayed
    a, b = one.signals.sum(axis=(1, 2)), np.roll(turned.signals.sum(axis=(1, 2)), -1)
    spread = np.sqrt(one.squares.sum(axis=(1, 2)) + turned.squares.sum(axis=(1, 2)))
    assert np.abs(a - b).max() < 4 * spread.max()
    assert min(np.abs(a - np.roll(b, turn)).max() for turn in (1, 2, 3)) > 4.5 * spread.max()


def test_working_distance_offset_and_position_count() -> None:
    flat = surface(np.zeros((8, 8)))
    near = tally_frame(flat, BEAM, FOUR, 300, 6).counts.sum()
    far = tally_frame(flat, BEAM, FOUR.at(16e-3), 300, 6).counts.sum()
    assert near > 1.5 * far
    shifted = DetectorGeometry(FOUR.segments, FOUR.working_distance, (1e-3, 0.0), threshold=KEV)
    counts = tally_frame(flat, BEAM, shifted, 300, 6).counts.sum(axis=(1, 2))
    # The diode moved to +x: its eastern segment lies further out, its western one nearer the axis.
    assert counts[0] < counts[2]


def test_pixel_zero_lies_at_the_top_left() -> None:
    """Under a diode of micrometres a pixel's own position decides by itself which segments lie close."""
    small = annular(4, 2e-6, 20e-6, 15e-6)
    frame = tally_frame(surface(np.zeros((4, 4)), pixel=2e-6), BEAM, small, 1500, 7)
    west_column, east_column = frame.counts[:, :, 0].sum(axis=1), frame.counts[:, :, 3].sum(axis=1)
    top_row, bottom_row = frame.counts[:, 0].sum(axis=1), frame.counts[:, 3].sum(axis=1)
    for close, far, segment in ((east_column, west_column, 0), (top_row, bottom_row, 1)):
        assert close[segment] > far[segment] + 3 * math.sqrt(close[segment])
        assert far[segment + 2] > close[segment + 2] + 3 * math.sqrt(far[segment + 2])


def test_the_stage_tilts_towards_its_azimuth() -> None:
    flat = surface(np.zeros((8, 8)), border="periodic")
    tilted = tally_frame(flat, BEAM, FOUR, 300, 8, Stage(math.radians(40), math.radians(90))).counts.sum(axis=(1, 2))
    assert tilted[1] == tilted.max()
    assert tilted[3] == tilted.min()
    assert abs(tilted[0] - tilted[2]) < 4 * math.sqrt(tilted[0] + tilted[2])


def test_giving_up_early_changes_no_electron() -> None:
    """Each electron has a generator of its own here, so that fates compare one by one."""
    z = rough(1, (24, 24), 150e-9)
    z[:, 12:] += 400e-9  # a wall
    relief = surface(z, 50e-9)
    points = np.tile(grid_points((24, 24)), (20, 1))
    result = []
    for reach in (1.0, 1e6):
        scene, gun = build_scene(relief, BEAM, reach=reach), build_gun(BEAM, Stage(), 50e-9)
        states, streams = seeds(9, len(points))
        fates, energy = np.zeros((len(points), 2), np.int64), np.zeros(len(points))
        sums = np.zeros((len(points), 4), np.int64), np.zeros((len(points), 4)), np.zeros((len(points), 4))
        tally(scene, gun, build_diode(FOUR, Stage(), relief.height), points, states, streams, 1, fates, energy, *sums)
        result.append((fates, energy))
    assert 0.1 < result[0][0][:, 1].mean() < 0.6
    # Balls that are asked for at other moments round otherwise; nothing but rounding may differ.
    assert (result[0][0] != result[1][0]).any(axis=1).mean() < 1e-3
    assert np.isclose(result[0][1], result[1][1], rtol=1e-4).mean() > 0.999


def test_portions_and_saved_states_change_nothing() -> None:
    relief = surface(rough())
    whole = tally_frame(relief, BEAM, FOUR, 30, 10)
    run = FrameRun(relief, BEAM, FOUR, 10)
    run.advance(11)
    other = FrameRun(relief, BEAM, FOUR, 10)
    other.restore(run.state())
    other.advance(19)
    np.testing.assert_array_equal(other.result().signals, whole.signals)
    np.testing.assert_array_equal(other.result().counts, whole.counts)
    with pytest.raises(InputError, match="does not fit"):
        FrameRun(surface(np.zeros((3, 3))), BEAM, FOUR).restore(run.state())


def test_kept_exits_are_the_tallied_electrons() -> None:
    relief, stage = surface(rough(2)), Stage(math.radians(10), 0.3)
    frame = tally_frame(relief, BEAM, FOUR, 50, 11, stage)
    counts = np.zeros((4, 256), dtype=int)
    for piece, found, exits in frame_exits(relief, BEAM, 50, 11, stage, most=5000):
        pixels = piece.start + np.repeat(np.arange(len(found)), found)
        segment = FOUR.segment_of(np.zeros((len(exits), 2)), exits[:, :3].astype(float))
        for index in range(4):
            np.add.at(counts[index], pixels[segment == index], 1)
    assert np.abs(counts - frame.counts.reshape(4, -1)).sum() <= 3  # a micrometre off the axis may cross a seam


def test_an_oxide_layer_lies_under_its_surface() -> None:
    flat, oxide = HeightMap(np.zeros((8, 8)), 100e-9), material("Cu2O")
    patch = np.zeros((8, 8), np.uint8)
    patch[:, 4:] = 1

    def eta(layer: np.ndarray, thickness: float) -> np.ndarray:
        depth = np.where(layer > 0, thickness, 0.0)
        return tally_frame(Surface(flat, COPPER, (oxide,), layer, depth), BEAM, FOUR, 1500, 12).signal.sum(axis=0)

    bare = eta(np.zeros((8, 8), np.uint8), 0.0).mean()
    thick = eta(np.ones((8, 8), np.uint8), 1e-6).mean()
    thin = eta(np.ones((8, 8), np.uint8), 20e-9).mean()
    assert thick / bare == pytest.approx(0.92, abs=0.025)
    assert thick < thin < bare
    halves = eta(patch, 1e-6)
    assert halves[:, :3].mean() == pytest.approx(bare, rel=0.02)
    assert halves[:, 5:].mean() == pytest.approx(thick, rel=0.02)


def test_a_layer_of_the_substrate_itself_changes_nothing() -> None:
    z = rough(4)
    layered = Surface(HeightMap(z, 50e-9), COPPER, (COPPER,), np.ones((16, 16), np.uint8), np.full((16, 16), 30e-9))
    one = tally_frame(surface(z, 50e-9), BEAM, FOUR, 200, 13).backscattered.sum()
    two = tally_frame(layered, BEAM, FOUR, 200, 14).backscattered.sum()
    assert abs(one - two) < 4 * math.sqrt(one + two)


def test_a_deep_trench_swallows_electrons() -> None:
    z = np.zeros((9, 9))
    z[:, 3:6] = -3e-6
    frame = tally_frame(surface(z, 100e-9, border="periodic"), BEAM, FOUR, 300, 15)
    assert frame.backscattered[:, 4].mean() < 0.4 * frame.backscattered[:, 0].mean()


def test_probe_and_convergence_blur_an_edge() -> None:
    z = np.zeros((8, 32))
    z[:, 16:] = 300e-9
    sharp = tally_frame(surface(z, 50e-9), BEAM, FOUR, 300, 16).signal.sum(axis=(0, 1))
    for beam in (Beam(5 * KEV, probe_diameter=400e-9), Beam(5 * KEV, convergence=0.4)):
        soft = tally_frame(surface(z - 500e-9, 50e-9), beam, FOUR, 300, 16).signal.sum(axis=(0, 1))
        assert np.abs(np.diff(soft)).max() < 0.8 * np.abs(np.diff(sharp)).max()


def test_a_frame_can_be_cancelled() -> None:
    def stop(_: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        tally_frame(surface(np.zeros((4, 4))), BEAM, FOUR, 5, progress=stop)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": (COPPER,)}, "need a map"),
        (
            {"layers": (COPPER,), "layer": np.zeros((2, 2), np.uint8), "thickness": np.zeros((4, 4))},
            "layer and thickness",
        ),
        ({"layers": (COPPER,), "layer": np.full((4, 4), 2, np.uint8), "thickness": np.zeros((4, 4))}, "counts to 2"),
        (
            {"layers": (COPPER,), "layer": np.ones((4, 4), np.uint8), "thickness": np.full((4, 4), np.nan)},
            "0 nm or more",
        ),
        ({"border": "open"}, "reflecting or periodic"),
    ],
)
def test_impossible_surfaces_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        surface(np.zeros((4, 4)), **options)


def test_heights_must_be_numbers() -> None:
    z = np.zeros((4, 4))
    z[1, 2] = np.nan
    with pytest.raises(InputError, match="1 of 16"):
        surface(z)


@pytest.mark.parametrize(("pixel", "words"), [(1e-3, "too coarse"), (1e-14, "too fine")])
def test_pixels_far_from_the_free_path_are_refused(pixel: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tally_frame(surface(np.zeros((4, 4)), pixel=pixel), BEAM, FOUR, 10)


def test_shortcuts_through_a_film_change_nothing() -> None:
    z, shape = rough(5), (16, 16)
    film = Surface(HeightMap(z, 50e-9), COPPER, (material("Cu2O"),), np.ones(shape, np.uint8), z - z.min() + 40e-9)
    signals = []
    for ceiling in (None, np.full(shape, np.inf, np.float32)):
        run = FrameRun(film, BEAM, FOUR, 17)
        assert np.isfinite(run._scene.ceiling).all()
        if ceiling is not None:
            run._scene = run._scene._replace(ceiling=ceiling)
        run.advance(40)
        signals.append(run.result().signals)
    np.testing.assert_array_equal(*signals)

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.units import KEV
from simulators.materials import material
from simulators.scattering import Backscatter, Cancelled, backscatter, plane_exits, seeds
from simulators.scene import Beam, Stage

HEINRICH = {
    (10, "C"): 0.069, (10, "Si"): 0.174, (10, "Cu"): 0.318, (10, "Ag"): 0.397, (10, "Au"): 0.483,
    (20, "C"): 0.060, (20, "Cu"): 0.309, (20, "Mo"): 0.382, (20, "W"): 0.494, (20, "Au"): 0.506,
}  # fmt: skip


@pytest.mark.parametrize(("energy", "name"), HEINRICH)
def test_coefficients_are_those_measured(energy: float, name: str) -> None:
    result = backscatter(material(name), energy * KEV, electrons=20_000, seed=1)
    allowed = 0.025 if name == "Au" else 0.02
    assert abs(result.coefficient - HEINRICH[energy, name]) < allowed + 2 * result.error


def test_tilt_raises_the_coefficient_as_arnal_found() -> None:
    copper = material("Cu")
    tilts = (0, 30, 45, 60, 70, 80)
    found = [backscatter(copper, 20 * KEV, math.radians(tilt), 20_000, 2).coefficient for tilt in tilts]
    for tilt, eta in zip(tilts[:4], found, strict=False):
        assert abs(eta - (1 + math.cos(math.radians(tilt))) ** (-9 / math.sqrt(29))) < 0.02
    assert all(later > earlier for earlier, later in itertools.pairwise(found))


def test_directions_follow_the_cosine_law_and_lean_forward_at_tilt() -> None:
    level = backscatter(material("Cu"), 20 * KEV, electrons=60_000, seed=3)
    share = level.polar.reshape(6, 3).sum(axis=1) / level.backscattered
    cosine = np.diff(np.sin(np.radians(np.arange(0, 91, 15))) ** 2)
    assert np.abs(share[:4] / cosine[:4] - 1).max() < 0.12
    assert share[5] < cosine[5]
    assert abs(level.azimuth / level.backscattered * 24 - 1).max() < 5 * math.sqrt(24 / level.backscattered)
    leaning = backscatter(material("Cu"), 20 * KEV, math.radians(60), 20_000, 3)
    assert leaning.azimuth[11:13].sum() > 1.6 * leaning.azimuth[[0, 23]].sum()


def test_oxide_is_darker_than_copper() -> None:
    def signal(name: str) -> float:
        result = backscatter(material(name), 10 * KEV, electrons=100_000, seed=4)
        return result.coefficient * result.mean_energy

    assert signal("Cu2O") / signal("Cu") == pytest.approx(0.92, abs=0.02)


@pytest.mark.parametrize("electrons", [1, 511, 513, 20_001])
def test_every_electron_is_accounted_for(electrons: int) -> None:
    result = backscatter(material("Cu"), 5 * KEV, electrons=electrons, seed=5)
    assert result.backscattered + result.absorbed == result.electrons == electrons
    assert result.polar.sum() == result.azimuth.sum() == result.energies.sum() == result.backscattered


def test_rutherford_backscatters_more_from_gold() -> None:
    # The plain screened Rutherford law is known to give about 0.545 at 20 keV.
    result = backscatter(material("Au"), 20 * KEV, electrons=20_000, seed=6, law="rutherford")
    assert result.coefficient == pytest.approx(0.545, abs=0.015)


def test_the_same_seed_gives_the_same_electrons_for_any_threads() -> None:
    import numba

    def run(threads: int) -> list[np.ndarray]:
        numba.set_num_threads(threads)
        return [exits for _, exits in plane_exits(material("Cu2O"), Beam(5 * KEV), 5000, 7)]

    before = numba.get_num_threads()
    try:
        one, all_of_them = run(1), run(before)
    finally:
        numba.set_num_threads(before)
    for a, b in zip(one, all_of_them, strict=True):
        np.testing.assert_array_equal(a, b)
    other = [exits for _, exits in plane_exits(material("Cu2O"), Beam(5 * KEV), 5000, 8)]
    assert not np.array_equal(one[0], other[0])


def test_energies_stay_between_the_cut_and_the_beam() -> None:
    for _, exits in plane_exits(material("Cu"), Beam(0.5 * KEV), 20_000, 9):
        assert exits[:, 3].min() >= 0.0499
        assert exits[:, 3].max() <= 0.5
        assert np.abs(np.linalg.norm(exits[:, :3], axis=1) - 1).max() < 1e-5
        assert exits[:, 2].min() > 0


def test_seeds_differ_from_pixel_to_pixel_and_from_seed_to_seed() -> None:
    states, streams = seeds(1, 1000)
    assert len(np.unique(states)) == 1000
    assert (streams % 2 == 1).all()
    assert not np.isin(states, seeds(2, 1000)[0]).any()
    np.testing.assert_array_equal(seeds(1, 10)[0], states[:10])


def test_progress_and_cancellation() -> None:
    told: list[float] = []

    def stop(share: float) -> None:
        told.append(share)
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        backscatter(material("Cu"), 5 * KEV, electrons=3000, progress=stop)
    assert len(told) == 1
    assert 0 < told[0] <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"energy": 0.1 * KEV}, "0.5 to 30 keV"),
        ({"energy": float("nan")}, "0.5 to 30 keV"),
        ({"energy": 31 * KEV}, "31 keV"),
        ({"tilt": math.radians(89)}, "0 to 85 deg"),
        ({"tilt": float("nan")}, "0 to 85 deg"),
        ({"electrons": 0}, "one electron"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        backscatter(material("Cu"), **{"energy": 5 * KEV, **arguments})  # type: ignore[arg-type]


def test_a_tilted_stage_leans_the_normal_towards_its_azimuth() -> None:
    normal = Stage(math.radians(30), math.radians(90)).to_microscope() @ np.array([0.0, 0.0, 1.0])
    assert normal.tolist() == pytest.approx([0.0, 0.5, math.sqrt(0.75)])


def test_error_is_binomial() -> None:
    result = Backscatter(100, 36, 64, 0.0, np.zeros(18, int), np.zeros(24, int), np.zeros(50, int))
    assert result.coefficient == 0.36
    assert result.error == pytest.approx(0.048)

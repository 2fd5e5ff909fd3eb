from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.units import KEV
from simulators.dataset import LARGEST_SEED, DatasetPlan, build_dataset
from simulators.exits import ExitFile
from simulators.materials import material
from simulators.surfaces import FAMILIES, random_surface, relief

PLAN = DatasetPlan(seed=3, pixels=12, electrons=20, energies=(5.0,), finest=0.1, coarsest=0.3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [3.0, 20.0])
def test_every_family_gives_heights(family: str, size: float) -> None:
    z = relief(family, np.random.default_rng(1), (24, 33), size)
    assert z.shape == (24, 33)
    assert np.isfinite(z).all()
    assert abs(z.mean()) < 1e-9
    assert 0 < np.ptp(z) < 60 * size
    np.testing.assert_array_equal(z, relief(family, np.random.default_rng(1), (24, 33), size))
    assert not np.array_equal(z, relief(family, np.random.default_rng(2), (24, 33), size))


@pytest.mark.parametrize("family", ["islands", "fractal"])
def test_layers_lie_where_they_are_thick(family: str) -> None:
    surface = random_surface(np.random.default_rng(4), family, (20, 20), 5 * KEV, 0.1, material("Cu"), True)
    assert surface.layer is not None
    assert surface.thickness is not None
    np.testing.assert_array_equal(surface.layer > 0, surface.thickness > 0)
    assert 0 < surface.layer.mean() < 1


def test_an_interrupted_set_goes_on_and_is_the_same(tmp_path: Path) -> None:
    def interrupt(share: float, _: str) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(tmp_path / "one", PLAN, samples=4, progress=interrupt)
    half = len(list((tmp_path / "one").glob("*.exits")))
    assert 0 < half < 4
    done = build_dataset(tmp_path / "one", PLAN, samples=4)
    assert done["new"] == 4 - half
    build_dataset(tmp_path / "two", PLAN, samples=4)
    for path in (tmp_path / "one").glob("*.exits"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert done["electrons"] == 4 * 144 * 20
    with ExitFile(tmp_path / "one" / "sample-000000.exits") as file:
        assert sum(chunk.counts.sum() for chunk in file.chunks()) > 0.1 * 144 * 20


def test_the_largest_seed_draws_samples(tmp_path: Path) -> None:
    plan = DatasetPlan(seed=LARGEST_SEED, pixels=4, electrons=2, energies=(5.0,), finest=0.1, coarsest=0.3)
    assert build_dataset(tmp_path, plan, samples=1)["samples"] == 1


def test_budgets(tmp_path: Path) -> None:
    assert build_dataset(tmp_path / "electrons", PLAN, electrons=3 * 144 * 20 + 5)["samples"] == 3
    # A sample that was begun is finished, and the time is over before the next.
    assert build_dataset(tmp_path / "time", PLAN, minutes=1e-9)["samples"] <= 1
    for budget in ({}, {"samples": 0}, {"minutes": -1.0}):
        with pytest.raises(InputError, match="budget above 0"):
            build_dataset(tmp_path / "none", PLAN, **budget)  # type: ignore[arg-type]


def test_a_folder_belongs_to_one_plan(tmp_path: Path) -> None:
    build_dataset(tmp_path, PLAN, samples=1)
    with pytest.raises(InputError, match="another plan"):
        build_dataset(tmp_path, DatasetPlan(seed=4, pixels=12, electrons=20), samples=1)
    (tmp_path / "dataset.json").write_text('{"version": 0}')
    with pytest.raises(InputError, match="another version"):
        build_dataset(tmp_path, PLAN, samples=1)
    (tmp_path / "dataset.json").write_text("not JSON")
    with pytest.raises(InputError, match="not the description"):
        build_dataset(tmp_path, PLAN, samples=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pixels": 1}, "2 pixels"),
        ({"electrons": 0}, "1 electron"),
        ({"finest": 0.0}, "above 0 electron ranges"),
        ({"energies": (50.0,)}, "50 keV"),
        ({"energies": ()}, "one energy"),
        ({"families": ("dunes",)}, "dunes"),
        ({"materials": ("Xx",)}, "Xx"),
        ({"layered": 2.0}, "0 to 1"),
        ({"seed": -1}, "seed from 0"),
        ({"seed": LARGEST_SEED + 1}, "seed from 0"),
        ({"pixels": 10**6}, "up to 4096 pixels"),
        ({"electrons": 10**9}, "up to 4096 pixels and 1000000 electrons"),
    ],
)
def test_impossible_plans_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        DatasetPlan(**options)  # type: ignore[arg-type]

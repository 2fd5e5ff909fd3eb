from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.geometry import annular
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.fill import histogram, main, project, two_gaussians
from simulators.materials import material
from simulators.scanning import tally_frame
from simulators.scattering import backscatter, plane_exits
from simulators.scene import Beam, Stage, Surface
from simulators.tables import SHIPPED, TERMS, EmissionTables, radial_coefficients

FOUR = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)


@pytest.fixture(scope="module")
def tables() -> EmissionTables:
    return EmissionTables.load()


def test_the_shipped_table_is_small_and_says_how_it_was_made(tables: EmissionTables) -> None:
    assert SHIPPED.stat().st_size < 1e6
    assert {"Cu", "Cu2O"} <= set(tables.materials)
    assert str(tables.made["command"]).startswith("python -m simulators.tables")


def test_zernike_polynomials_are_one_at_the_rim() -> None:
    for n, m in TERMS:
        assert radial_coefficients(n, m).sum() == pytest.approx(1.0)
    assert radial_coefficients(4, 0).tolist() == [1.0, -6.0, 6.0]


@pytest.mark.parametrize(("name", "energy"), [("Cu", 20.0), ("Cu", 4.0), ("Cu2O", 10.0)])
def test_coefficients_agree_with_monte_carlo(tables: EmissionTables, name: str, energy: float) -> None:
    law = tables.law(name, energy * KEV)
    for tilt in (0.0, 50.0, 75.0):
        truth = backscatter(material(name), energy * KEV, math.radians(tilt), 30_000, 5)
        assert law.coefficient(np.array([math.radians(tilt)]))[0] == pytest.approx(truth.coefficient, abs=0.012)


@pytest.mark.parametrize(("tilt", "azimuth"), [(0, 0), (15, 90), (50, 200)])
def test_segment_signals_agree_with_monte_carlo(tables: EmissionTables, tilt: float, azimuth: float) -> None:
    stage = Stage(math.radians(tilt), math.radians(azimuth))
    plane = Surface(HeightMap(np.zeros((16, 16)), 20e-9), material("Cu"), border="periodic")
    truth = tally_frame(plane, Beam(8 * KEV), FOUR, 300, 6, stage)
    expected, error = truth.signal.mean(axis=(1, 2)), truth.error.mean(axis=(1, 2)) / 16
    found = tables.segment_signal(FOUR, "Cu", 8 * KEV, np.array(stage.tilt), np.array(stage.azimuth))
    assert (np.abs(found - expected) < 4 * error + 0.01 * expected.sum()).all()


def test_a_level_surface_is_symmetric_and_a_leaning_one_bright_towards_its_segment(tables: EmissionTables) -> None:
    grid = np.array([[0.0, 0.3], [0.6, 0.9]])
    signal = tables.segment_signal(FOUR, "Cu", 10 * KEV, grid, np.zeros((2, 2)))
    assert signal.shape == (4, 2, 2)
    assert np.ptp(signal[:, 0, 0]) < 1e-9
    assert (np.diff((signal[0] - signal[2]).ravel()[:3]) > 0).all()
    np.testing.assert_allclose(signal[1], signal[3], rtol=1e-9)


def test_the_threshold_lowers_the_signal_evenly(tables: EmissionTables) -> None:
    law = tables.law("Cu", 10 * KEV)
    means = [law.deposit(threshold)[0] for threshold in (0.0, 1.0, 2.0, 5.0)]
    assert means[0] == pytest.approx(backscatter(material("Cu"), 10 * KEV, 0, 30_000, 7).mean_energy / KEV, rel=0.01)
    assert 0.95 < means[0] - means[1] < 1.0
    for threshold, mean in zip((0.0, 2.0), (means[0], means[2]), strict=True):
        exits = np.concatenate([e for _, e in plane_exits(material("Cu"), Beam(10 * KEV), 30_000, 8)])
        response = np.maximum(exits[:, 3] - threshold, 0)
        assert mean == pytest.approx(response.mean(), rel=0.015)
        assert law.deposit(threshold)[1] == pytest.approx((response**2).mean(), rel=0.03)


def test_spread_scales_with_the_range(tables: EmissionTables) -> None:
    spread = tables.spread_of("Cu", 20 * KEV)
    assert spread.narrow < spread.wide
    assert spread.rms == pytest.approx(
        math.sqrt(2 * (spread.share * spread.narrow**2 + (1 - spread.share) * spread.wide**2)), rel=0.1
    )
    exits = np.concatenate([e for _, e in plane_exits(material("Cu"), Beam(20 * KEV), 20_000, 9)])
    rms = math.sqrt(np.average(exits[:, 4] ** 2 + exits[:, 5] ** 2, weights=exits[:, 3]))
    assert spread.rms == pytest.approx(rms, rel=0.05)
    assert tables.spread_of("Cu", 5 * KEV).rms < spread.rms / 8


def test_projection_of_a_lambert_emitter_is_constant() -> None:
    rng = np.random.default_rng(0)
    radius, angle = np.sqrt(rng.random(200_000)), rng.uniform(-math.pi, math.pi, 200_000)
    exits = np.stack(
        [radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius**2), np.full(200_000, 4.5)], axis=1
    )
    counts, _ = histogram(exits.astype(np.float32), 5.0)
    coefficients = project(counts, 200_000).sum(axis=0)
    assert coefficients[TERMS.index((0, 0))] == pytest.approx(1 / math.pi, rel=1e-3)
    assert np.abs(coefficients[1:]).max() < 0.03


def test_two_gaussians_are_found_again() -> None:
    edges = np.linspace(0, 8, 401)
    within = 1 - 0.3 * np.exp(-(edges**2) / 2 / 0.2**2) - 0.7 * np.exp(-(edges**2) / 2)
    _, share, narrow, wide = two_gaussians(edges, np.diff(within))
    assert (share, narrow, wide) == pytest.approx((0.3, 0.2, 1.0), rel=0.02)


def test_what_the_tables_do_not_hold_is_refused(tables: EmissionTables, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="material of the emission tables"):
        tables.law("U", 5 * KEV)
    with pytest.raises(InputError, match=r"0\.5 keV"):
        tables.law("Cu", 0.5 * KEV)
    with pytest.raises(InputError, match="make one with"):
        EmissionTables.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("tables")
    with pytest.raises(InputError, match="not an emission table"):
        EmissionTables.load(tmp_path / "text.npz")
    np.savez(tmp_path / "old.npz", header=np.array(json.dumps({"format": 0})))
    with pytest.raises(InputError, match="format 0; this program reads 1"):
        EmissionTables.load(tmp_path / "old.npz")


def test_tables_can_be_made_again(tmp_path: Path) -> None:
    main(["--materials", "C", "--electrons", "600", "-o", str(tmp_path / "carbon.npz")])
    carbon = EmissionTables.load(tmp_path / "carbon.npz")
    assert carbon.materials == ("C",)
    assert carbon.law("C", 10 * KEV).coefficient(np.zeros(1))[0] == pytest.approx(0.066, abs=0.02)

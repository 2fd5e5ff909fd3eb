"""The specimen: exact in time, right in volume, and the same at every magnification."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import InputError
from simulators.grains import Grains
from simulators.kinetics import GAS_CONSTANT, Kinetics
from simulators.nuclei import GROWN, Oxide
from simulators.specimen import Grid, Specimen

HOT = 1073.15
OXYGEN, HYDROGEN, INERT = {"O2": 17.0, "N2": 1.0}, {"H2": 17.0}, {"N2": 20.0}
FIELD = Grid((6e-6, 9e-6), 80e-9, (96, 128))
WHOLE = Grid((15e-6, 15e-6), 30e-6 / 180, (180, 180))
MINUTE = 60.0

# Heating in H2, oxidation with a change of temperature and pressure, an interruption, reduction, both once more, and a
# mixture at the end.
NIGHT = [
    (400.0, 900.0, HYDROGEN),
    (900.0, HOT, OXYGEN),
    (120.0, HOT, INERT),
    (90.0, HOT, HYDROGEN),
    (800.0, HOT - 40, {"O2": 25.0, "H2": 0.01}),
    (1700.0, HOT, HYDROGEN),
    (900.0, HOT, OXYGEN),
    (700.0, HOT, {"H2": 20.0, "O2": 0.01}),
]


def oxidised(minutes, seed=1, extent=30e-6):
    specimen = Specimen(seed, extent=extent)
    specimen.advance(minutes * MINUTE, HOT, OXYGEN)
    return specimen


def same(one, other):
    """Whether two specimens agree in every figure and at every place of a field."""
    first, second = one.surface(FIELD), other.surface(FIELD)
    np.testing.assert_allclose(first.height.z, second.height.z, rtol=0, atol=1e-12)
    np.testing.assert_allclose(first.oxide, second.oxide, rtol=0, atol=1e-12)
    for name in ("coverage", "nuclei", "metal_nuclei", "oxide_volume", "roughness", "time"):
        assert getattr(one.truth(FIELD), name) == pytest.approx(getattr(other.truth(FIELD), name), rel=1e-6), name


@pytest.fixture(scope="module")
def whole_night():
    specimen = Specimen(4)
    for seconds, temperature, pressures in NIGHT:
        specimen.advance(seconds, temperature, pressures)
    return specimen


@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.floats(0.003, 0.997), min_size=8, max_size=24))
def test_the_state_does_not_depend_on_how_time_is_cut(whole_night, cuts):
    specimen = Specimen(4)
    for number, (seconds, temperature, pressures) in enumerate(NIGHT):
        mine = sorted(cuts[number::8])
        for share, before in zip([*mine, 1.0], [0.0, *mine], strict=True):
            specimen.advance((share - before) * seconds, temperature, pressures)
            specimen.truth(FIELD)  # looking changes nothing
    same(specimen, whole_night)


def test_steps_of_a_second_give_the_same_night(whole_night):
    specimen = Specimen(4)
    for seconds, temperature, pressures in NIGHT:
        for _ in range(round(seconds)):
            specimen.advance(1.0, temperature, pressures)
    same(specimen, whole_night)


def test_the_night_has_the_episodes_that_it_should(whole_night):
    assert whole_night.truth().nuclei > 20
    assert whole_night.truth().metal_nuclei > 5


def test_a_seed_is_a_specimen():
    one, two, other = oxidised(12, 1), oxidised(12, 1), oxidised(12, 2)
    assert np.array_equal(one.surface(FIELD).height.z, two.surface(FIELD).height.z)
    assert not np.array_equal(one.surface(FIELD).height.z, other.surface(FIELD).height.z)


def test_the_observed_times_of_oxidation_and_reduction():
    specimen = Specimen(1)
    coverage, first = {}, None
    for minute in range(1, 46):
        specimen.advance(MINUTE, HOT, OXYGEN)
        truth = specimen.truth(WHOLE)
        coverage[minute] = truth.coverage
        if first is None and truth.nuclei:
            first = minute
    assert 1 <= first <= 4
    assert 20 <= min(minute for minute, share in coverage.items() if share >= 0.95) <= 45
    assert specimen.truth().nuclei * (3e-6) ** 2 == pytest.approx(specimen.extent**2, rel=0.35)
    began = next(minute for minute in range(1, 20) if _reduced(specimen, MINUTE).metal_nuclei)
    assert 4 <= began <= 9
    specimen.advance(35 * MINUTE, HOT, HYDROGEN)
    assert specimen.truth().coverage > 0.02  # slower than the oxidation
    specimen.advance(60 * MINUTE, HOT, HYDROGEN)
    assert specimen.truth().coverage == pytest.approx(0.0, abs=1e-3)


def _reduced(specimen, seconds):
    specimen.advance(seconds, HOT, HYDROGEN)
    return specimen.truth(WHOLE)


def test_the_reduction_is_autocatalytic():
    specimen = oxidised(45)
    curve = [_reduced(specimen, 3 * MINUTE).coverage for _ in range(24)]
    speed = -np.diff(curve)
    fastest = int(np.argmax(speed))
    assert speed[:2].max() < 0.1 * speed[fastest]  # hardly anything at first
    assert 0.25 < curve[fastest] < 0.85  # fastest in the middle
    assert (np.diff(curve) <= 1e-9).all()


def test_the_arrhenius_slope_comes_back_from_coverage_curves_alone():
    halves, temperatures = [], [973.15, 1023.15, 1073.15, 1123.15]
    for seed, temperature in enumerate(temperatures):
        specimen = oxidised(60, seed)
        step = 200.0 * math.exp(115e3 / GAS_CONSTANT * (1 / temperature - 1 / HOT))
        times, curve = [], []
        while not curve or curve[-1] > 0.4:
            specimen.advance(step, temperature, HYDROGEN)
            times.append(specimen.time)
            curve.append(specimen.truth(WHOLE).coverage)
        halves.append(np.interp(-0.5, -np.array(curve), times) - 3600.0)
    slope = np.polyfit(1 / np.array(temperatures), np.log(halves), 1)[0]
    assert slope * GAS_CONSTANT == pytest.approx(115e3, rel=0.05)


def test_nuclei_appear_by_the_saturation_law():
    kinetics = Kinetics.default()
    rates = kinetics.rates(HOT, 17.0, 0.0)
    grains = Grains(np.random.default_rng(1), 60e-6, kinetics.copper)
    oxide = Oxide(np.random.default_rng(2), 60e-6, kinetics, grains)
    open_ = oxide.mark < rates.density
    for time in (50.0, 200.0, 600.0):
        due = oxide.due(time, rates.oxide_nucleation, rates.density)
        expected = (1 - np.exp(-rates.oxide_nucleation * oxide.factor[open_] * time)).sum()
        assert len(due) == pytest.approx(expected, abs=4 * math.sqrt(expected))
    # N_s by orientation
    kind = grains.kind[grains.at(oxide.x, oxide.y)]
    for number, name in enumerate(("100", "110", "111")):
        share = np.count_nonzero(open_ & (kind == number)) / max(1, np.count_nonzero(kind == number))
        wanted = rates.density * kinetics.orientations[name].density / 6e12
        assert share == pytest.approx(wanted, rel=0.3)


def test_cold_copper_gets_many_more_islands():
    few, many = oxidised(30), Specimen(1)
    many.advance(20 * 3600.0, 723.15, {"O2": 1000.0})
    assert many.truth().nuclei > 5 * few.truth().nuclei
    assert np.isfinite(many.surface(FIELD).height.z).all()


def test_oxide_stands_above_and_reaches_below_the_old_surface():
    bare, specimen = Specimen(1), oxidised(35)
    before, after = bare.surface(FIELD), specimen.surface(FIELD)
    swelling = after.height.z.mean() - before.height.z.mean()
    assert swelling == pytest.approx(after.oxide.mean() * (1 - 1 / 1.648), rel=0.02)
    assert 50e-9 < np.median(after.oxide) * (1 - 1 / 1.648) < 300e-9


def test_copper_is_conserved_when_the_oxide_is_reduced():
    specimen = oxidised(40)
    volume = specimen.truth(FIELD).oxide_volume
    specimen.advance(30 * MINUTE, HOT, HYDROGEN)
    surface = specimen.surface(FIELD)
    total = surface.oxide + surface.buried + surface.cover * 1.648
    assert total.mean() == pytest.approx(volume, rel=1e-4)
    specimen.advance(4 * 3600.0, HOT, HYDROGEN)
    surface = specimen.surface(FIELD)
    assert surface.cover.mean() * 1.648 == pytest.approx(volume, rel=1e-3)
    assert specimen.truth().oxide_volume == pytest.approx(0.0, abs=1e-11)


def test_reduced_copper_is_rough_and_smooths():
    specimen = oxidised(40)
    specimen.advance(100 * MINUTE, HOT, HYDROGEN)
    fine = Grid((6e-6, 9e-6), 20e-9, (256, 256))

    def slope():
        z = specimen.surface(fine).height.z
        return float(np.hypot(*np.gradient(z, 20e-9)).mean())

    rough = slope()
    specimen.advance(2 * 3600.0, HOT, INERT)
    smooth = slope()
    assert rough > 1.5 * smooth


def test_the_oxide_covers_what_the_truth_says():
    specimen = oxidised(15)
    surface, truth = specimen.surface(FIELD), specimen.truth(FIELD)
    assert truth.coverage == pytest.approx((surface.oxide > 5e-9).mean())
    assert 0.1 < truth.coverage < 0.9


@pytest.mark.parametrize("minutes", [6, 15, 30])
def test_a_field_is_the_same_in_parts_and_from_afar(minutes):
    specimen = oxidised(minutes)
    specimen.advance(20 * MINUTE, HOT, HYDROGEN)
    large = specimen.surface(Grid((5e-6, 5e-6), 40e-9, (200, 200)))
    part = specimen.surface(Grid((5e-6 + 40e-9 * 30, 5e-6 - 40e-9 * 20), 40e-9, (60, 40)))
    rows, columns = slice(100 + 20 - 30, 100 + 20 + 30), slice(100 + 30 - 20, 100 + 30 + 20)
    np.testing.assert_allclose(part.height.z, large.height.z[rows, columns], atol=2e-10)
    np.testing.assert_allclose(part.oxide, large.oxide[rows, columns], atol=2e-11)
    one = specimen.surface(Grid((5e-6 + 20e-9, 5e-6 + 20e-9), 40e-9, (1, 1)))
    assert one.height.z[0, 0] == pytest.approx(large.height.z[99, 100], abs=2e-11)


def test_the_specimen_repeats_beyond_its_edge():
    specimen = oxidised(15)
    here = specimen.surface(Grid((1e-6, 29e-6), 50e-9, (64, 64)))
    there = specimen.surface(Grid((31e-6, -1e-6), 50e-9, (64, 64)))
    # Single precision of a place 30 µm away.
    assert np.quantile(np.abs(here.height.z - there.height.z), 0.99) < 1e-9
    assert (here.grain != there.grain).mean() < 0.002


def test_an_island_keeps_what_it_reached_first():
    """The tessellation against its definition, island by island and place by place."""
    specimen = oxidised(22)
    oxide = specimen._episodes[0]
    sites = np.flatnonzero(oxide.state == GROWN)
    grid = Grid((11e-6, 17e-6), 150e-9, (40, 40))
    x, y = np.meshgrid(grid.x, grid.y)
    covered = np.zeros(x.shape, dtype=bool)
    for site, gone in zip(sites, oxide.advances(sites, oxide.grown, oxide.elongated), strict=True):
        dx, dy = x - oxide.x[site], y - oxide.y[site]
        dx, dy = (delta - 30e-6 * np.round(delta / 30e-6) for delta in (dx, dy))
        out = oxide.normal[0, site] * dx[..., None] + oxide.normal[1, site] * dy[..., None]
        covered |= (gone > out).all(axis=-1)
    assert 0.3 < covered.mean() < 0.95
    assert ((specimen.surface(grid).oxide > 0) != covered).mean() < 0.003


def test_shapes_follow_the_orientation_of_the_grain():
    specimen = oxidised(7)
    oxide = specimen._episodes[0]
    sites = np.flatnonzero(oxide.state == GROWN)
    gone = oxide.advances(sites, oxide.grown, oxide.elongated)
    kind = specimen.grains.kind[specimen.grains.at(oxide.x[sites], oxide.y[sites])]
    assert set(kind) == {0, 1, 2}
    wide = gone[kind == 1][:, 0] / gone[kind == 1][:, 2]
    np.testing.assert_allclose(wide, Kinetics.default().aspect(HOT), rtol=1e-6)
    np.testing.assert_allclose(gone[kind == 0][:, 0], gone[kind == 0][:, 2])
    assert np.isinf(gone[kind == 2][:, 6:]).all()  # a triangle with blunted corners


def test_orientations_are_rotations_with_their_nearest_pole():
    grains = Specimen(3).grains
    for orientation, kind, inclination in zip(grains.orientation, grains.kind, grains.inclination, strict=True):
        np.testing.assert_allclose(orientation @ orientation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(orientation) == pytest.approx(1.0)
        normal = np.sort(np.abs(orientation[2]))
        poles = np.array([[0, 0, 1], [0, 0.5**0.5, 0.5**0.5], [3**-0.5] * 3])
        cosines = poles @ normal
        assert int(np.argmax(cosines)) == kind
        assert math.cos(inclination) == pytest.approx(cosines.max())


def test_clean_copper_in_hydrogen_stays_clean():
    specimen = Specimen(1)
    specimen.advance(5 * 3600.0, HOT, HYDROGEN)
    truth = specimen.truth()
    assert (truth.coverage, truth.nuclei, truth.oxide_volume) == (0.0, 0, 0.0)
    # and the hydrogen has not used up the induction of a later reduction
    specimen.advance(30 * MINUTE, HOT, OXYGEN)
    specimen.advance(3 * MINUTE, HOT, HYDROGEN)
    assert specimen.truth().metal_nuclei == 0


def test_old_cycles_are_forgotten_only_when_nothing_of_them_is_left():
    specimen = Specimen(2)
    for _ in range(4):
        specimen.advance(35 * MINUTE, HOT, OXYGEN)
        specimen.advance(110 * MINUTE, HOT, HYDROGEN)
    assert len(specimen._episodes) <= 6
    partly = Specimen(2)
    volumes = [0.0]
    for _ in range(4):  # each reduction takes only a part, and the rest stays
        partly.advance(35 * MINUTE, HOT, OXYGEN)
        volumes.append(partly.truth(FIELD).oxide_volume)
        partly.advance(18 * MINUTE, HOT, HYDROGEN)
    assert len(partly._episodes) == 8
    assert (np.diff(volumes) > 0).all()


def test_gentle_copper():
    surface = Specimen(2).surface(FIELD)
    z = surface.height.z
    assert 10e-9 < z.std() < 60e-9
    assert surface.grain.max() > 0
    assert not surface.oxide.any()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Specimen(-1), "seed"),
        (lambda: Specimen(1, extent=0.0), "specimen edge"),
        (lambda: Specimen(1).advance(-1.0, HOT, {}), "time of 0 s or more"),
        (lambda: Specimen(1).advance(math.nan, HOT, {}), "time of 0 s or more"),
        (lambda: Specimen(1).advance(1.0, -3.0, {}), "above 0 K"),
        (lambda: Grid((0.0, 0.0), 0.0, (4, 4)), "pixel size"),
        (lambda: Grid((0.0, 0.0), 1e-9, (0, 4)), "one row"),
        (lambda: Grid((math.nan, 0.0), 1e-9, (4, 4)), "finite"),
    ],
)
def test_what_cannot_be_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()

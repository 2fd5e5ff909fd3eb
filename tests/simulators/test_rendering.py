"""Signs, symmetries and effects of the fast twin's images."""

from __future__ import annotations

import math

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.geometry import annular
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.emission import collect, segment_table
from simulators.raster import renderer
from simulators.rendering import Layers, Optics, Spread, depth_weight, solid_transfer

PIXEL = 20e-9
FIELD = 64
POINT = Optics(covariance=np.zeros((2, 2)))


def ring(count=4, first=0.0, **changes):
    given = {"inner_radius": 2e-3, "outer_radius": 8e-3, "working_distance": 8e-3, "threshold": 1 * KEV} | changes
    return annular(count, first_azimuth=first, **given)


@pytest.fixture(scope="module")
def view():
    return renderer(5 * KEV, ring())


def grid(margin, shape=(FIELD, FIELD)):
    rows, columns = (length + 2 * margin for length in shape)
    x = (np.arange(columns) + 0.5 - columns / 2) * PIXEL
    y = (rows / 2 - np.arange(rows) - 0.5) * PIXEL
    return np.meshgrid(x, y)


def render(view, relief, optics=POINT, oxide=None, **layers):
    margin = view.margin((FIELD, FIELD), PIXEL)
    x, y = grid(margin)
    z = relief(x, y)
    top = np.zeros(z.shape, dtype=np.float32) if oxide is None else oxide(x, y).astype(np.float32)
    return view.render(HeightMap(z, PIXEL), Layers(top, **layers), optics, margin)


def bump(height, radius=300e-9):
    return lambda x, y: height * np.exp(-(x**2 + y**2) / (2 * radius**2))


class LambertLaw:
    """A flat cosine emitter of one energy: closed forms are known."""

    def radiance(self, tilt, directions, threshold):
        up = np.sin(tilt) * directions[..., 0] + np.cos(tilt) * directions[..., 2]
        return np.clip(up, 0.0, None) / math.pi

    def deposit(self, threshold):
        return 1.0, 1.0


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_level_lambert_fills_the_ring_as_the_closed_form_says(count):
    geometry = ring(count)
    inner, outer = (r**2 / (r**2 + 8e-3**2) for r in (2e-3, 8e-3))
    collected = collect(LambertLaw(), geometry, np.zeros(1), np.zeros(1))[0]
    assert collected == pytest.approx((outer - inner) / count, rel=1e-6)


def test_tilted_lambert_agrees_with_a_sum_over_random_directions():
    geometry = ring()
    rng = np.random.default_rng(1)
    tilt, azimuth, count = 0.5, 2.2, 400_000
    # Cosine-distributed about the normal: a point of the unit disc, raised to the hemisphere.
    radius, phi = np.sqrt(rng.random(count)), 2 * math.pi * rng.random(count)
    local = np.stack([radius * np.cos(phi), radius * np.sin(phi), np.sqrt(1 - radius**2)])
    about_y = np.array([[math.cos(tilt), 0, math.sin(tilt)], [0, 1, 0], [-math.sin(tilt), 0, math.cos(tilt)]])
    about_z = np.array(
        [[math.cos(azimuth), -math.sin(azimuth), 0], [math.sin(azimuth), math.cos(azimuth), 0], [0, 0, 1]]
    )
    directions = (about_z @ about_y @ local).T
    hits = geometry.segment_of(np.zeros((count, 2)), directions)
    counted = np.bincount(hits[hits >= 0], minlength=4) / count
    u, v = math.tan(tilt / 2) * np.array([[math.cos(azimuth)], [math.sin(azimuth)]])
    assert collect(LambertLaw(), geometry, u, v)[0] == pytest.approx(counted, abs=4 * math.sqrt(0.15 / count))


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_a_face_is_bright_in_the_segment_that_its_normal_leans_to(count):
    view = renderer(5 * KEV, ring(count))
    for index, azimuth in enumerate(view.geometry.azimuths):
        slope = -0.3 * np.array([math.cos(azimuth), math.sin(azimuth)])  # downhill towards the segment
        image = render(view, lambda x, y, slope=slope: slope[0] * x + slope[1] * y)
        middle = image[:, 24:40, 24:40].mean(axis=(1, 2))
        assert np.argmax(middle) == index
        assert middle[index] > view.table.flat[index] > middle[(index + count // 2) % count]


def test_bump_and_pit_are_told_apart(view):
    raised, sunken = render(view, bump(60e-9)), render(view, bump(-60e-9))
    east, west = np.s_[24:40, 40:52], np.s_[24:40, 12:24]
    assert raised[0][east].mean() > raised[0][west].mean() * 1.03
    assert sunken[0][east].mean() * 1.03 < sunken[0][west].mean()
    north, south = np.s_[12:24, 24:40], np.s_[40:52, 24:40]
    assert raised[1][north].mean() > raised[1][south].mean() * 1.03


def test_a_rotated_surface_permutes_the_segments(view):
    def relief(x, y):
        return 80e-9 * np.exp(-((x - 2e-7) ** 2 + (y + 1e-7) ** 2) / (2 * 2e-7**2)) + 0.1 * x

    plain = render(view, relief)
    turned = render(view, lambda x, y: relief(y, -x))  # by 90° counter-clockwise
    for index in range(4):
        expected = np.rot90(plain[index])
        assert turned[(index + 1) % 4] == pytest.approx(expected, rel=2e-3)


def test_a_pixel_off_the_axis_sees_the_detector_tilted(view):
    image = render(view, lambda x, y: 0 * x)
    assert image.mean(axis=(1, 2)) == pytest.approx(view.table.flat, rel=1e-3)
    # A pixel to the east lies closer under the eastern segment, as if its normal leant there: 5 µm look like 0.1°.
    east, west = image[0][:, -1].mean(), image[0][:, 0].mean()
    shift = (FIELD - 1) * PIXEL / 8e-3
    small = 1e-3
    tilted = collect(view.law, view.geometry, np.array([math.tan(small / 2)]), np.zeros(1))[0, 0]
    per_radian = (tilted - view.table.flat[0]) / small
    assert (east - west) / shift / per_radian == pytest.approx(math.radians(0.1) / (5e-6 / 8e-3), rel=0.15)


def test_the_table_meets_the_quadrature_between_its_nodes(view):
    table = segment_table(view.law, view.geometry)
    rng = np.random.default_rng(3)
    u, v = rng.uniform(-0.5, 0.5, (2, 200))
    exact = collect(view.law, view.geometry, u, v)
    nodes = table.values.shape[0]
    from scipy.ndimage import map_coordinates

    at = np.stack([v, u]) * (nodes - 1) / (2 * 0.92) + (nodes - 1) / 2
    for index in range(4):
        found = map_coordinates(table.values[:, :, index, 0], at, order=1)
        assert found == pytest.approx(exact[:, index], abs=2e-3 * float(table.flat[index]))


def test_detail_is_lost_below_the_range_and_the_mean_is_kept(view):
    relief = lambda x, y: 5e-9 * np.sin(2 * math.pi * x / 160e-9)  # noqa: E731
    contrasts = []
    for energy in (3, 5, 10):
        image = render(renderer(energy * KEV, ring()), relief)
        contrasts.append(float((image[0] - image[2]).std() / image.mean()))
    assert contrasts[0] > 1.2 * contrasts[1] > 1.5 * contrasts[2] > 0


def test_what_a_segment_gets_leaves_on_its_side_of_the_probe(view):
    transfer = solid_transfer(Spread(), view.geometry, 1.44e-7, (64, 64), PIXEL)
    density = np.fft.irfft2(transfer, s=(64, 64))
    assert density.sum(axis=(1, 2)) == pytest.approx(1.0, rel=1e-5)
    # exp(+ik·d) looks up what lies at +d: the density that is convolved is the mirrored one.
    y, x = (-np.fft.fftfreq(64, 1 / 64)[:, None] * PIXEL, np.fft.fftfreq(64, 1 / 64)[None, :] * PIXEL)
    for azimuth, part in zip(view.geometry.azimuths, density, strict=True):
        mean = -np.array([(part * x).sum(), (part * y).sum()]) / 1.44e-7
        assert mean @ [math.cos(azimuth), math.sin(azimuth)] == pytest.approx(0.053, abs=0.01)


def test_a_wall_throws_a_shadow_towards_its_far_side(view):
    # A trench 200 nm wide between walls of 400 nm; segment A in the east cannot see the foot of the east wall.
    def trench(x, y):
        return np.where(np.abs(x) < 100e-9, 0.0, 400e-9)

    image = render(view, trench)
    foot = np.s_[20:44, 34:36]
    assert image[0][foot].mean() < 0.75 * image[2][foot].mean()


def test_oxide_is_darker_and_copper_above_it_hides_it(view):
    def level(oxide, cover=0.0, buried=0.0):
        margin = view.margin((FIELD, FIELD), PIXEL)
        full = np.ones((FIELD + 2 * margin, FIELD + 2 * margin), dtype=np.float32)
        layers = {"cover": full * np.float32(cover), "buried": full * np.float32(buried)}
        return float(render(view, lambda x, y: 0 * x, oxide=lambda x, y: oxide + 0 * x, **layers)[0].mean())

    bare, thin, thick = (level(depth) for depth in (0.0, 15e-9, 300e-9))
    assert bare > thin > thick
    assert thick / bare == pytest.approx(0.905, abs=0.02)
    assert thick < level(0.0, cover=10e-9, buried=300e-9) < level(0.0, cover=60e-9, buried=300e-9) < bare * 1.0001
    assert float(depth_weight(np.float32([0.0]), 1e-7)[0]) == 0.0


def test_defocus_blurs_and_astigmatism_blurs_one_way(view):
    relief = bump(40e-9, 80e-9)

    def sharpness(covariance):
        image = render(view, relief, Optics(covariance=np.array(covariance)))
        difference = image[0] - image[2]
        other = image[1] - image[3]
        return float(np.ptp(difference)), float(np.ptp(other))

    sharp = sharpness([[0.0, 0.0], [0.0, 0.0]])
    round_ = sharpness([[1e-14, 0.0], [0.0, 1e-14]])
    along = sharpness([[1e-14, 0.0], [0.0, 0.0]])
    assert round_[0] < 0.7 * sharp[0]
    assert round_[0] < along[0] < sharp[0]
    assert along[0] < along[1]


def test_drift_bends_the_image_row_by_row(view):
    relief = bump(60e-9, 60e-9)
    still = render(view, relief)
    moved = render(view, relief, Optics(np.zeros((2, 2)), displacement=np.tile([[3 * PIXEL, 2 * PIXEL]], (FIELD, 1))))
    # Looking 3 pixels to the right and 2 up shows the bump 3 to the left and 2 down.
    assert moved[:, 10:50, 10:50] == pytest.approx(still[:, 8:48, 13:53], abs=1e-4)


def test_the_skirt_takes_contrast_and_keeps_the_mean(view):
    clear = render(view, bump(60e-9))
    gas = render(view, bump(60e-9), Optics(np.zeros((2, 2)), unscattered=0.7))
    assert gas.mean(axis=(1, 2)) == pytest.approx(clear.mean(axis=(1, 2)), rel=1e-5)
    assert gas.std() / clear.std() == pytest.approx(0.7, abs=0.02)


def test_rows_without_a_beam_are_dark(view):
    intensity = np.ones(FIELD)
    intensity[20:] = 0.0
    image = render(view, bump(60e-9), Optics(np.zeros((2, 2)), intensity=intensity))
    assert not image[:, 20:].any()
    assert (image[:, :20] > 0).all()


def test_a_surface_with_holes_is_refused(view):
    with pytest.raises(InputError, match="needs a height in every pixel"):
        render(view, lambda x, y: np.where(x > 0, np.nan, 0.0))


def test_an_energy_without_a_table_is_refused():
    with pytest.raises(InputError, match="keV"):
        renderer(45 * KEV, ring())


@pytest.mark.parametrize("shape", [(512, 512), (64, 80), (100, 333), (1024, 768)])
def test_margins_make_transforms_quick(view, shape):
    margin = view.margin(shape, PIXEL)
    assert 12 <= margin < 60
    for length in shape:
        left = length + 2 * margin
        for prime in (2, 3, 5, 7, 11, 13):
            while left % prime == 0:
                left //= prime
        assert left < 50

"""Coverage on histograms that are drawn by hand, and the measures of a surface."""

import numpy as np
import pytest

from reconstruction.composition import estimate_coverage
from reconstruction.metrology import arithmetic_mean_height, relative_error, root_mean_square_height


def field(coverage, ratio=0.92, noise=0.012, level=30_000.0):
    rng = np.random.default_rng(3)
    oxide = rng.random((128, 128)) < coverage
    return level * np.where(oxide, ratio, 1.0) * (1 + noise * rng.normal(size=oxide.shape)), oxide.mean()


@pytest.mark.parametrize("coverage", [0.0, 0.02, 0.1, 0.5, 0.9, 0.98, 1.0])
@pytest.mark.parametrize("noise", [0.012, 0.025])
def test_with_a_reference_any_coverage_is_found(coverage, noise):
    image, truth = field(coverage, noise=noise)
    figure = estimate_coverage(image, reference_level=30_100.0).figure
    assert abs(figure.value - truth) < 3 * figure.sigma + 0.01
    assert figure.value == pytest.approx(truth, abs=0.05)


@pytest.mark.parametrize("coverage", [0.1, 0.5, 0.9])
def test_two_populations_need_no_reference(coverage):
    image, truth = field(coverage)
    found = estimate_coverage(image)
    assert found.figure.value == pytest.approx(truth, abs=0.02)
    assert found.level == pytest.approx(30_000, rel=5e-3)


@pytest.mark.parametrize("coverage", [0.0, 1.0])
def test_one_population_without_reference_is_owned_to_be_unknown(coverage):
    found = estimate_coverage(field(coverage)[0])
    assert found.figure.sigma >= 0.4
    assert any("no level of clean copper" in sentence for sentence in found.assumptions)


@pytest.mark.parametrize("ratio", [0.905, 0.935])
def test_a_ratio_within_its_uncertainty_moves_the_result_within_sigma(ratio):
    image, truth = field(0.3, ratio=ratio)
    figure = estimate_coverage(image, reference_level=30_000.0).figure
    assert abs(figure.value - truth) < 2.5 * figure.sigma + 0.01


def test_a_plane_has_no_roughness_and_no_error():
    rows, columns = np.mgrid[0:40, 0:50]
    tilted = 3.0 + 0.2 * rows - 0.7 * columns
    assert root_mean_square_height(tilted) == pytest.approx(0, abs=1e-12)
    wave = np.sin(2 * np.pi * columns / 10)
    assert root_mean_square_height(wave + tilted) == pytest.approx(np.sqrt(0.5), rel=0.02)
    assert arithmetic_mean_height(wave) == pytest.approx(2 / np.pi, rel=0.05)
    assert relative_error(wave + tilted, wave) == pytest.approx(0, abs=1e-12)
    assert relative_error(0.9 * wave, wave, crop=5) == pytest.approx(0.1 * np.sqrt(0.5) / 1.9, rel=0.2)

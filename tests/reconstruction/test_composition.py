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


@pytest.mark.parametrize("ratio", [0.9, 0.905, 0.91, 0.93])
@pytest.mark.parametrize("covered", [0.955, 0.985, 1.0])
def test_a_full_layer_darker_than_expected_is_not_taken_for_copper(ratio, covered):
    # Grooves and pores: most oxide in a narrow peak, some blocks far below, few on the way up to copper.
    rng = np.random.default_rng(5)
    level = ratio * (1 + 0.008 * rng.normal(size=65_536))
    level[:5000] -= rng.exponential(0.03, 5000)
    between = int((1 - covered) * level.size)
    level[-between or level.size :] = rng.uniform(ratio, 1.0, between)
    found = estimate_coverage(23_700 * level.reshape(256, 256), reference_level=23_750.0)
    assert found.figure.value > 0.93
    assert found.figure.sigma < 0.05
    # Nor does copper a little darker than its reference become oxide.
    clean = estimate_coverage(0.985 * 23_700 * (1 + 0.012 * rng.normal(size=(256, 256))), reference_level=23_700.0)
    assert clean.figure.value < 0.02


@pytest.mark.parametrize("truth_of_between", [0.0, 0.5, 1.0])
def test_layers_thinner_than_the_signals_depth_are_held_by_sigma(truth_of_between):
    rng = np.random.default_rng(7)
    kind = rng.choice(3, p=[0.3, 0.5, 0.2], size=(256, 256))
    level = np.choose(kind, [0.91, 1.0, rng.uniform(0.91, 1.0, kind.shape)])
    found = estimate_coverage(30_000 * level * (1 + 0.01 * rng.normal(size=kind.shape)), reference_level=30_000.0)
    truth = np.mean(kind == 0) + truth_of_between * np.mean(kind == 2)
    assert abs(found.figure.value - truth) < 2.6 * found.figure.sigma
    assert found.between == pytest.approx(np.mean(kind == 2), abs=0.05)
    assert 0.03 < found.figure.sigma < 0.08
    assert any("lies between the two levels" in sentence for sentence in found.assumptions)


def test_the_scale_of_the_counts_does_not_matter():
    image, _ = field(0.3)
    many, few = (estimate_coverage(image * scale, reference_level=30_000.0 * scale) for scale in (1.0, 1e-3))
    assert few.figure.value == pytest.approx(many.figure.value, abs=1e-6)
    assert few.level == pytest.approx(many.level * 1e-3)


def test_a_plane_has_no_roughness_and_no_error():
    rows, columns = np.mgrid[0:40, 0:50]
    tilted = 3.0 + 0.2 * rows - 0.7 * columns
    assert root_mean_square_height(tilted) == pytest.approx(0, abs=1e-12)
    wave = np.sin(2 * np.pi * columns / 10)
    assert root_mean_square_height(wave + tilted) == pytest.approx(np.sqrt(0.5), rel=0.02)
    assert arithmetic_mean_height(wave) == pytest.approx(2 / np.pi, rel=0.05)
    assert relative_error(wave + tilted, wave) == pytest.approx(0, abs=1e-12)
    assert relative_error(0.9 * wave, wave, crop=5) == pytest.approx(0.1 * np.sqrt(0.5) / 1.9, rel=0.2)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss

from reconstruction.basis import POLAR, emission_basis

BASIS = emission_basis()


def cap_nodes(basis, polar=48, azimuths=64):
    """Directions over the cap and the solid angle of each."""
    x, weight = leggauss(polar)
    half = (1 - basis.lowest) / 2
    z, azimuth = 1 - half + half * x, np.arange(azimuths) * 2 * np.pi / azimuths
    ring = np.sqrt(1 - z**2)
    directions = np.stack(
        [np.outer(ring, np.cos(azimuth)), np.outer(ring, np.sin(azimuth)), np.outer(z, np.ones(azimuths))]
    )
    return directions, np.outer(weight * half, np.full(azimuths, 2 * np.pi / azimuths))


def project(basis, intensity):
    """Coefficients of I(d): ∫ I φ dΩ over the cap."""
    directions, solid = cap_nodes(basis)
    return np.array([(intensity(*directions) * solid * f).sum() for f in basis(*directions)])


def random_directions(seed, count, lowest):
    rng = np.random.default_rng(seed)
    z, azimuth = rng.uniform(lowest, 1, count), rng.uniform(0, 2 * np.pi, count)
    return np.sqrt(1 - z**2) * np.cos(azimuth), np.sqrt(1 - z**2) * np.sin(azimuth), z


@pytest.mark.parametrize("polar", [POLAR, (3, 2), (6, 6, 5, 4, 3, 2)])
def test_functions_are_orthonormal_over_the_cap(polar):
    basis = emission_basis(polar)
    directions, solid = cap_nodes(basis)
    functions = np.stack([np.broadcast_to(f, solid.shape) for f in basis(*directions)])
    gram = np.einsum("iab,jab,ab->ij", functions, functions, solid)
    assert len(basis) == polar[0] + 2 * sum(polar[1:])
    np.testing.assert_allclose(gram, np.eye(len(basis)), atol=1e-10)


def test_the_first_function_is_constant():
    area = 2 * math.pi * (1 - BASIS.lowest)
    np.testing.assert_allclose(BASIS(*random_directions(0, 20, BASIS.lowest))[0], 1 / math.sqrt(area))


def test_a_level_lambert_emitter_in_closed_form():
    # I = d_z/π on the cap: c_0 = ∫ d_z dΩ / (π √area), and d_z is linear, so that two functions carry all of it.
    found = project(BASIS, lambda x, y, z: z / np.pi)
    area, low = 2 * math.pi * (1 - BASIS.lowest), BASIS.lowest
    assert found[0] == pytest.approx((1 - low**2) / math.sqrt(area))
    squared = 2 / (3 * math.pi) * (1 - low**3)  # ∫ (d_z/π)² dΩ
    assert found[0] ** 2 + found[1] ** 2 == pytest.approx(squared)
    np.testing.assert_allclose(found[2:], 0, atol=1e-12)
    tilt = 0.4
    leaning = project(BASIS, lambda x, y, z: (x * math.sin(tilt) + z * math.cos(tilt)) / np.pi)
    directions = random_directions(1, 50, low)
    again = sum(c * f for c, f in zip(leaning, BASIS(*directions), strict=True))
    np.testing.assert_allclose(
        again, (directions[0] * math.sin(tilt) + directions[2] * math.cos(tilt)) / np.pi, atol=1e-12
    )


@given(st.integers(0, 7), st.integers(0, 10**6))
def test_turned_coefficients_are_those_of_turned_electrons(symmetry, seed):
    """Surface mirrored (x → −x), then turned counter-clockwise: so is every electron that leaves it."""
    quarters, mirrored = symmetry % 4, symmetry >= 4
    x, y, z = random_directions(seed, 7, BASIS.lowest)
    before = np.sum(BASIS(x, y, z), axis=1)
    if mirrored:
        x = -x
    for _ in range(quarters):
        x, y = -y, x
    after = np.sum(BASIS(x, y, z), axis=1)
    source, sign = BASIS.turned(quarters, mirrored)
    np.testing.assert_allclose(sign * before[source], after, atol=1e-9)


@given(st.integers(0, 7), st.integers(0, 7))
def test_symmetries_compose(one, other):
    """A symmetry after another one is again one of the eight."""
    coefficients = np.random.default_rng(3).normal(size=len(BASIS))

    def act(symmetry, c):
        source, sign = BASIS.turned(symmetry % 4, symmetry >= 4)
        return sign * c[source]

    both = act(other, act(one, coefficients))
    assert sum(np.allclose(both, act(each, coefficients)) for each in range(8)) == 1


def test_tensors_and_arrays_agree_and_gradients_are_right():
    x, y, z = random_directions(5, 6, BASIS.lowest)
    tensors = [torch.tensor(part, requires_grad=True) for part in (x, y, z)]
    found = torch.stack(BASIS(*tensors))
    np.testing.assert_allclose(found.detach().numpy(), np.stack(BASIS(x, y, z)), atol=1e-12)
    assert torch.autograd.gradcheck(lambda *d: torch.stack(BASIS(*d)), tensors)


def test_outside_the_cap_functions_are_continued():
    grazing = (np.array([math.sin(1.4)]), np.array([0.0]), np.array([math.cos(1.4)]))
    assert np.isfinite(np.stack(BASIS(*grazing))).all()
    assert emission_basis(widest=1.0).lowest == pytest.approx(math.sqrt(0.5))

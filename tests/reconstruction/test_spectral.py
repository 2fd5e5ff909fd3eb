from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn

from reconstruction.spectral import cosine_transform, inverse_cosine_transform

SHAPES = [(1, 1), (2, 3), (7, 5), (8, 8), (31, 64), (33, 27)]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}


def field(shape, dtype=torch.float64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


@pytest.mark.parametrize("derived", [False, True], ids=["plain", "under differentiation"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_transforms_are_those_of_scipy(shape, dtype, derived):
    z = field(shape, dtype)
    for ours, theirs in ((cosine_transform, dctn), (inverse_cosine_transform, idctn)):
        found = ours(z.clone().requires_grad_(derived)).detach()
        assert found.dtype == dtype
        expected = theirs(z.double().numpy(), type=2, norm="ortho")
        np.testing.assert_allclose(found.numpy(), expected, atol=TOLERANCE[dtype] * np.sqrt(z.numel()))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**16))
@settings(deadline=None, max_examples=40)
def test_the_transform_keeps_energy_and_comes_back(rows, columns, seed):
    z = field((rows, columns), seed=seed)
    modes = cosine_transform(z)
    assert float((modes**2).sum()) == pytest.approx(float((z**2).sum()), rel=1e-12)
    np.testing.assert_allclose(inverse_cosine_transform(modes).numpy(), z.numpy(), atol=1e-12)


def test_stacks_are_transformed_field_by_field_and_views_like_copies():
    stack = field((3, 2, 6, 9))
    whole = cosine_transform(stack)
    assert torch.equal(whole[2, 1], cosine_transform(stack[2, 1]))
    turned = stack[0, 0].mT
    assert not turned.is_contiguous()
    for transform in (cosine_transform, inverse_cosine_transform):
        np.testing.assert_allclose(transform(turned).numpy(), transform(turned.contiguous()).numpy(), atol=1e-14)


def test_a_cosine_is_one_mode():
    rows, columns, u, v = 10, 13, 3, 4
    along = np.cos(np.pi * u * (np.arange(rows) + 0.5) / rows)
    across = np.cos(np.pi * v * (np.arange(columns) + 0.5) / columns)
    modes = cosine_transform(torch.from_numpy(np.outer(along, across))).numpy()
    expected = np.zeros((rows, columns))
    expected[u, v] = np.sqrt(rows * columns) / 2
    np.testing.assert_allclose(modes, expected, atol=1e-12)


@pytest.mark.parametrize("transform", [cosine_transform, inverse_cosine_transform])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3)])
def test_gradients_are_exact(transform, shape):
    z = field(shape).requires_grad_(True)
    assert torch.autograd.gradcheck(transform, (z,))
    # The transform is orthonormal: the gradient of a product is the other transform.
    other = field(shape, seed=1)
    (transform(z) * other).sum().backward()
    inverse = inverse_cosine_transform if transform is cosine_transform else cosine_transform
    np.testing.assert_allclose(z.grad.numpy(), inverse(other).numpy(), atol=1e-13)

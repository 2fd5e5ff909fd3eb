from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.ndimage import convolve

from drivers.geometry import annular
from reconstruction.features import blur
from reconstruction.fidelity import Forward, Nuisances, Observation
from reconstruction.linear import emission_kernels, linearise, wiener, wiener_modes
from reconstruction.local_law import Condition
from reconstruction.metrology import without_plane
from reconstruction.spectral import cosine_transform, inverse_cosine_transform
from reconstruction.weights import load_model

CONDITION = Condition(0.2, 5.0, 0.2)


@dataclass(eq=False)
class Stencils:
    """A model whose emission is known convolutions of the heights, plus what is even in them."""

    stencils: torch.Tensor
    level: torch.Tensor

    def __call__(self, z, oxide, condition):
        reach = self.stencils.shape[-1] // 2
        wide = torch.nn.functional.pad(z, (reach,) * 4)
        # conv2d correlates: the stencil is turned around so that it is the answer to a single pixel.
        out = torch.nn.functional.conv2d(wide[:, None], self.stencils[:, None].flip(-1, -2))
        return out + self.level[:, None, None] + 3 * z[:, None] ** 2


@dataclass
class Convolving:
    """A forward model of such a model."""

    model: Stencils
    matrix: torch.Tensor
    condition: Condition = CONDITION
    live: tuple[int, ...] = field(default=(0, 1, 2))
    probe: float = 0.0

    @property
    def stencils(self):
        return self.model.stencils

    def responses(self, nuisances=None):
        return torch.stack([self.matrix, 0 * self.matrix, 0 * self.matrix])


@pytest.fixture(scope="module")
def convolving():
    generator = torch.Generator().manual_seed(0)
    stencils = torch.randn(3, 5, 5, generator=generator)
    stencils -= stencils.mean(dim=(1, 2), keepdim=True)
    return Convolving(Stencils(stencils, torch.tensor([1.0, 2.0, 3.0])), torch.eye(3) + 0.2)


def observation(signals, floor=1e-4, slope=0.0):
    count = len(signals)
    ones = torch.ones(count)
    return Observation(signals, slope * ones, floor * ones, torch.ones(signals.shape[1:]), ones)


def smooth(shape, seed, size=1.0, width=2.0):
    z = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, *shape))).float()
    z = blur(z, (width,))[0]
    return size * z / z.std()


def test_kernels_are_read_off_the_model(convolving):
    kernels, level = emission_kernels(convolving)
    n = kernels.shape[-1] // 2
    assert 2 * n == 16  # 1.6 ranges on each side
    expected = torch.zeros_like(kernels)
    expected[:, n - 2 : n + 3, n - 2 : n + 3] = convolving.stencils
    np.testing.assert_allclose(kernels.numpy(), expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(level.numpy(), [1.0, 2.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("pixel", [0.01, 0.1, 0.45])
def test_kernels_reach_as_far_as_electrons_do(convolving, pixel):
    far = Convolving(convolving.model, convolving.matrix, Condition(pixel, 5.0, 0.2))
    reach = emission_kernels(far)[0].shape[-1] // 2
    assert reach % 4 == 0
    assert reach == 64 if pixel == 0.01 else reach * pixel >= 1.6


@pytest.mark.parametrize("shape", [(24, 24), (21, 34), (6, 5)])
def test_the_answer_is_the_convolution_of_the_mirrored_field(convolving, shape):
    linear = linearise(convolving, shape)
    z = smooth(shape, 1)
    mixed = np.einsum("lk,khw->lhw", convolving.matrix.numpy(), convolving.stencils.numpy())
    expected = np.stack([convolve(z.numpy(), kernel, mode="reflect") for kernel in mixed])
    np.testing.assert_allclose(linear.apply(z).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(linear.flat.numpy(), convolving.matrix.numpy() @ [1.0, 2.0, 3.0], rtol=1e-5)
    np.testing.assert_allclose(linear.apply(torch.ones(shape)).numpy(), 0, atol=2e-4)


def test_gains_scale_the_answer(convolving):
    none = Nuisances.none(3)
    gains = torch.tensor([1.0, 1.1, 0.8])
    scaled = Nuisances(gains, none.offsets, none.shift, none.rotation, none.tilt)
    plain, other = linearise(convolving, (16, 16)), linearise(convolving, (16, 16), scaled)
    np.testing.assert_allclose(other.kernels.numpy(), (gains[:, None, None] * plain.kernels).numpy(), atol=1e-5)
    np.testing.assert_allclose(other.flat.numpy(), (gains * plain.flat).numpy(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(24, 24), (21, 34), (5, 40)])
def test_adjoint_is_the_transpose(convolving, shape):
    linear = linearise(convolving, shape)
    rng = np.random.default_rng(2)
    z = torch.from_numpy(rng.normal(size=shape)).float()
    signals = torch.from_numpy(rng.normal(size=(3, *shape))).float()
    there = float((linear.apply(z).double() * signals.double()).sum())
    back = float((z.double() * linear.adjoint(signals).double()).sum())
    scale = float(linear.apply(z).norm() * signals.norm())
    assert there == pytest.approx(back, abs=1e-6 * scale)
    assert abs(there) > 1e-4 * scale


def test_information_is_the_mean_over_the_four_waves_of_a_mode(convolving):
    shape = (9, 14)
    linear = linearise(convolving, shape)
    signals = torch.ones(3, *shape) * torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    observed = observation(signals, floor=0.3, slope=0.2)
    kernels, n = linear.kernels.double().numpy(), linear.reach
    place = np.arange(-n, n)
    expected = np.zeros(shape)
    for u in range(shape[0]):
        for v in range(shape[1]):
            for up in (1, -1):
                for right in (1, -1):
                    ky, kx = up * np.pi * u / shape[0], right * np.pi * v / shape[1]
                    wave = np.exp(-1j * (ky * place[:, None] + kx * place[None, :]))
                    power = np.abs((kernels * wave).sum(axis=(1, 2))) ** 2
                    expected[u, v] += np.sum(power / (0.2 * np.array([1.0, 2.0, 4.0]) + 0.3)) / 4
    found = linear.information(observed).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * expected.max())
    assert found.min() >= 0


def test_information_is_the_energy_of_the_answer_to_a_mode(convolving):
    """On a field that is long against the kernel, Σ (K ⊛ mode)² is the information for unit noise."""
    shape = (40, 48)
    linear = linearise(convolving, shape)
    told = linear.information(observation(torch.ones(3, *shape), floor=1.0))
    for u, v in ((3, 0), (7, 11), (20, 30)):
        modes = torch.zeros(shape)
        modes[u, v] = 1.0
        energy = float((linear.apply(inverse_cosine_transform(modes)) ** 2).sum())
        # Borders take part in the answer's odd half, hence not exact.
        assert float(told[u, v]) == pytest.approx(energy, rel=0.1)


# -- the model itself


@pytest.fixture(scope="module")
def forward():
    return Forward(load_model(), CONDITION, annular(4, 2e-3, 8e-3, 8e-3, 0.3), (0, 1, 2, 3), 20e-9)


@pytest.fixture(scope="module")
def linear(forward):
    return linearise(forward, (48, 40))


def test_the_linear_answer_is_that_of_the_model_to_a_gentle_surface(forward, linear):
    z, none = smooth(linear.shape, 3, 0.05), torch.zeros(linear.shape)
    response = forward.responses().float()

    def signal(surface):
        return forward.collect(forward.emission(surface, none), response, (0, 0), linear.shape)

    change = (signal(z) - signal(-z)) / 2
    found = linear.apply(z)
    assert float((found - change).norm() / change.norm()) < 0.05
    np.testing.assert_allclose(signal(none).mean(dim=(1, 2)).numpy(), linear.flat.numpy(), rtol=2e-3)


def test_opposite_segments_answer_with_opposite_signs(linear):
    rows, columns = np.indices(linear.shape)
    angle = 0.3
    ramp = torch.from_numpy(math.cos(angle) * columns - math.sin(angle) * rows).float()
    answer = linear.apply(ramp)[:, 12:-12, 12:-12].mean(dim=(1, 2))
    # Rising towards segment A, the surface turns its face away from it.
    assert float(answer[0]) < 0 < float(answer[2])
    assert abs(float(answer[1])) < 0.1 * abs(float(answer[0]))


def drawn(power, seed):
    modes = torch.from_numpy(np.random.default_rng(seed).normal(size=power.shape)).float() * power.sqrt()
    modes[0, 0] = 0
    return modes


def test_the_wiener_estimate_errs_as_the_posterior_says(linear):
    """Apart from the plane, which the Wiener inverse leaves out with each segment's mean."""
    shape = linear.shape
    rows, columns = (torch.pi * torch.arange(size) / size for size in shape)
    k = torch.hypot(rows[:, None], columns[None, :]).clamp(min=0.05)
    power, floor = 0.05 * k**-3, 1.5e-6
    told = linear.information(observation(torch.ones(4, *shape), floor))
    left = 1 / (told + 1 / power)
    # The frame tells long waves better than the prior, short ones worse.
    assert float((told * power)[1, 1]) > 10
    assert float((told * power)[-1, -1]) < 0.2
    found, promised = [], []
    for seed in range(10):
        truth = drawn(power, seed)
        noise = np.random.default_rng(100 + seed).normal(size=(4, *shape)) * math.sqrt(floor)
        signals = linear.flat[:, None, None] + linear.apply(inverse_cosine_transform(truth))
        observed = observation(signals + torch.from_numpy(noise).float(), floor)
        modes = wiener_modes(linear, observed, power)
        assert float(modes[0, 0]) == 0
        for kept, error in ((found, modes - truth), (promised, drawn(left, 200 + seed))):
            kept.append(without_plane(inverse_cosine_transform(error).double().numpy()))
    assert np.std(found) == pytest.approx(np.std(promised), rel=0.1)
    spent, said = (np.mean([dctn(each, norm="ortho") ** 2 for each in kept], axis=0) for kept in (found, promised))
    for low, high in ((0.4, 1.0), (1.0, 2.0), (2.0, 5.0)):
        band = ((k >= low) & (k < high)).numpy()
        assert spent[band].mean() / said[band].mean() == pytest.approx(1, abs=0.12), (low, high)
    z = wiener(linear, observed, power, told)
    np.testing.assert_allclose(cosine_transform(z).numpy(), modes.numpy(), atol=1e-4)


def test_pixels_without_weight_say_nothing(linear):
    signals = linear.flat[:, None, None] + linear.apply(smooth(linear.shape, 4, 0.1))
    dead = torch.ones(linear.shape)
    dead[10:14, 20:24] = 0
    # What stands there does not matter, as long as the mean is the same.
    estimates = []
    for value in (5.0, -5.0):
        spoilt = signals.clone()
        spoilt[:, 10:14, 20:22] += value
        spoilt[:, 10:14, 22:24] -= value
        ones = torch.ones(4)
        observed = Observation(spoilt, 0 * ones, 1e-5 * ones, dead, ones)
        estimates.append(wiener(linear, observed, torch.ones(linear.shape)))
    np.testing.assert_allclose(estimates[0].numpy(), estimates[1].numpy(), atol=1e-4)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reconstruction.basis import emission_basis
from reconstruction.features import blur, differences, feature_count, features, mirror, slopes
from reconstruction.local_law import Condition, LocalLaw, law_terms, local_emission
from reconstruction.vft import TOKEN, WINDOW, Architecture, Network, VisionFieldTransformer, _edged, _finer

BASIS = emission_basis()
SMALL = Architecture(width=8, token_width=16, heads=2, blocks=2)
CONDITION = Condition(0.1, 5.0, 0.2)


@pytest.fixture(scope="module")
def law() -> LocalLaw:
    table = torch.randn((2, 3, 2, len(law_terms(BASIS)), 4), generator=torch.Generator().manual_seed(0))
    table[..., 0, 0] = 2 + table[..., 0, 0].abs()
    return LocalLaw((3.0, 5.0, 20.0), (0.0, 0.4), table)


def model_with(law, seed=None) -> VisionFieldTransformer:
    """A model whose network says nothing, or something at random."""
    torch.manual_seed(seed or 0)
    network = Network(SMALL, len(BASIS)).eval()
    if seed is not None:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return VisionFieldTransformer(network, law, BASIS)


@pytest.fixture(scope="module")
def model(law) -> VisionFieldTransformer:
    return model_with(law, seed=1)


def surface(shape, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(size * rng.normal(size=(1, *shape))).float()


# -- the local law


def plane(p, q, shape=(12, 14)):
    rows, columns = np.indices(shape)
    return torch.from_numpy(p * columns - q * rows).float()[None]


@given(st.floats(0, math.radians(70)), st.floats(-math.pi, math.pi), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_plane_emits_what_the_tilt_law_says(law, tilt, azimuth, oxide):
    """The normal leans towards the azimuth: cos parts of the table times cos m·azimuth, sin parts times sin."""
    slope = math.tan(tilt)
    z = plane(-slope * math.cos(azimuth), -slope * math.sin(azimuth))
    share = torch.full_like(z, float(oxide))
    condition = Condition(0.1, 5.0, 0.0, oxide)
    found = model_with(law).local(z, share, condition)[0, :, 5, 5].numpy()
    table, sine, pair = law.table[int(oxide), 1, 0].numpy(), math.sin(tilt), -1
    for index, (m, odd) in enumerate(zip(BASIS.order, BASIS.sine, strict=True)):
        pair += not odd
        radial = sum(table[pair, n] * sine ** (int(m) + 2 * n) for n in range(4))
        turn = math.sin(m * azimuth) if odd else math.cos(m * azimuth)
        assert found[index] == pytest.approx(radial * turn, abs=2e-4)


def test_the_law_is_linear_between_its_nodes_and_constant_beyond(law):
    middle = math.sqrt(3.0 * 5.0)
    expected = (law.table[0, 0, 0] + law.table[0, 1, 0] + law.table[0, 0, 1] + law.table[0, 1, 1]) / 4
    torch.testing.assert_close(law.at(Condition(0.1, middle, 0.2), False), expected)
    torch.testing.assert_close(law.at(Condition(0.1, 1.0, 0.9), True), law.table[1, 0, 1])
    torch.testing.assert_close(law.at(Condition(0.1, 30.0, 0.0), True), law.table[1, 2, 0])
    alone = LocalLaw((5.0,), (0.0, 0.4), law.table[:, 1:2])
    torch.testing.assert_close(alone.at(Condition(0.1, 12.0, 0.0), False), law.table[0, 1, 0])


def test_oxide_mixes_the_two_materials(law):
    z = plane(0.3, -0.5)
    share = torch.linspace(0, 1, z.numel()).reshape(z.shape)
    whole = model_with(law)
    copper, oxide = (local_emission(*slopes(z), law.at(CONDITION, kind)[None], BASIS) for kind in (False, True))
    torch.testing.assert_close(whole.local(z, share, CONDITION), (1 - share) * copper + share * oxide)
    torch.testing.assert_close(whole.local(z, torch.zeros_like(z), CONDITION), copper)
    # A substrate of Cu2O is all oxide, whatever the map says.
    substrate = Condition(0.1, 5.0, 0.2, True)
    torch.testing.assert_close(whole.local(z, torch.ones_like(z), substrate), oxide)


def test_oxide_is_felt_where_there_is_none_yet(law):
    z, weight = plane(0.3, -0.5), torch.from_numpy(np.random.default_rng(1).normal(size=(len(BASIS), 1, 1))).float()
    nothing = torch.zeros_like(z, requires_grad=True)
    (weight * model_with(law).local(z, nothing, CONDITION)).sum().backward()
    copper, oxide = (local_emission(*slopes(z), law.at(CONDITION, kind)[None], BASIS) for kind in (False, True))
    torch.testing.assert_close(nothing.grad, (weight * (oxide - copper)).sum(dim=1))


def moved(image, symmetry):
    """An image mirrored (x → −x), then turned counter-clockwise by quarters, as it is displayed."""
    image = torch.flip(image, (-1,)) if symmetry >= 4 else image
    return torch.rot90(image, symmetry % 4, (-2, -1))


@given(st.integers(0, 7), st.integers(0, 10**6))
@settings(deadline=None, max_examples=24)
def test_the_local_law_knows_the_square(law, symmetry, seed):
    z = surface((9, 13), seed)
    share = torch.rand((1, 9, 13), generator=torch.Generator().manual_seed(seed))
    whole = model_with(law)
    source, sign = BASIS.turned(symmetry % 4, symmetry >= 4)
    before = moved(whole.local(z, share, CONDITION), symmetry)[:, source]
    before = before * torch.from_numpy(sign).float()[:, None, None]
    after = whole.local(moved(z, symmetry), moved(share, symmetry), CONDITION)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


# -- features


def test_slopes_have_the_signs_of_the_picture():
    p, q = slopes(plane(0.3, -0.2))
    assert p[0, 4, 4] == pytest.approx(0.3)
    assert q[0, 4, 4] == pytest.approx(-0.2)
    right, left, up, down = differences(plane(0.3, -0.2))
    assert right[0, 4, -1] == left[0, 4, 0] == up[0, 0, 4] == down[0, -1, 4] == 0  # mirrored: level at the border


def test_blur_keeps_the_mean_and_the_second_moment():
    image = torch.zeros((1, 41, 41))
    image[0, 20, 20] = 1
    for sigma in (1.0, 2.2, 4.0):
        found = blur(image, (sigma,))[0].double()
        place = torch.arange(41) - 20.0
        assert float(found.sum()) == pytest.approx(1, abs=1e-5)
        # A pixel's own width adds 1/12.
        assert float((found.sum(0) * place**2).sum()) == pytest.approx(sigma**2 + 1 / 12, rel=2e-3, abs=1e-3)
    each = blur(torch.cat([image, image]), (1.0, 4.0))
    torch.testing.assert_close(each[1], blur(image, (4.0,))[0])


@pytest.mark.parametrize("pixel", [0.02, 0.1, 0.5])
def test_features_know_no_absolute_height(pixel):
    z, oxide = surface((32, 32)), torch.rand((1, 32, 32))
    found = features(z, oxide, (pixel,), SMALL.scales)
    assert found.shape == (1, feature_count(len(SMALL.scales)), 32, 32)
    assert torch.isfinite(found).all()
    # Single precision of heights of a hundred pixels, times the reach of up to fifty that curvatures are scaled by.
    torch.testing.assert_close(features(z + 100, oxide, (pixel,), SMALL.scales), found, atol=6e-3, rtol=1e-3)


# -- the whole


def test_a_network_that_learned_nothing_leaves_the_local_law_alone(law):
    whole = model_with(law)
    z, oxide = surface((32, 64)), torch.zeros((1, 32, 64))
    change = whole.network(z, oxide, (0.1,), CONDITION.vector()[None])
    assert change.shape == (1, len(BASIS), 32, 64)
    assert not change.any()
    torch.testing.assert_close(whole(z, oxide, CONDITION), whole.local(z, oxide, CONDITION))


@pytest.mark.parametrize("shape", [(5, 7), (32, 32), (33, 47), (64, 31), (1, 40)])
def test_any_size_will_do(model, shape):
    z = surface(shape)
    found = model(z, torch.zeros_like(z), CONDITION)
    assert found.shape == (1, len(BASIS), *shape)
    assert torch.isfinite(found).all()


def test_absolute_height_does_not_matter(model):
    z = surface((33, 40))
    lifted = model(z + 50, torch.zeros_like(z), CONDITION)
    torch.testing.assert_close(lifted, model(z, torch.zeros_like(z), CONDITION), atol=1e-2, rtol=1e-3)


def test_a_batch_is_its_surfaces(model):
    z = torch.cat([surface((32, 32), seed) for seed in (0, 1)])
    oxide = torch.rand(z.shape, generator=torch.Generator().manual_seed(0))
    both = model(z, oxide, CONDITION)
    for index in (0, 1):
        alone = model(z[index : index + 1], oxide[index : index + 1], CONDITION)
        torch.testing.assert_close(both[index : index + 1], alone, atol=1e-4, rtol=1e-4)
    # In training each surface has its own pixel size.
    vectors = torch.stack([Condition(pixel, 5.0, 0.2).vector() for pixel in (0.05, 0.3)])
    mixed = model.network(z, oxide, (0.05, 0.3), vectors)
    alone = model.network(z[1:], oxide[1:], (0.3,), vectors[1:])
    torch.testing.assert_close(mixed[1:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("covered", [0.0, 0.3])
def test_wanted_combinations_are_those_of_all_coefficients(model, covered):
    z = surface((33, 47))
    oxide = covered * torch.rand(z.shape, generator=torch.Generator().manual_seed(0))
    readout = torch.randn((3, len(BASIS)), generator=torch.Generator().manual_seed(1))
    expected = torch.einsum("mk,bkhw->bmhw", readout, model(z, oxide, CONDITION))
    torch.testing.assert_close(model(z, oxide, CONDITION, readout), expected, atol=1e-3, rtol=1e-4)


def test_bands_are_of_no_consequence(model, monkeypatch):
    z, oxide = surface((70, 64)), torch.zeros((1, 70, 64))
    whole = model(z, oxide, CONDITION)
    monkeypatch.setattr("reconstruction.vft.BAND", 256)
    monkeypatch.setattr("reconstruction.vft.GROUP", 3)
    torch.testing.assert_close(model(z, oxide, CONDITION), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sigma", [0.4, 3.0, 20.0])
def test_a_large_field_is_blurred_stretch_by_stretch_to_the_same(sigma, monkeypatch):
    image = surface((300, 270), 3)
    image.requires_grad_(True)
    weight = surface((300, 270), 4)
    (weight * blur(image, (sigma,))).sum().backward()
    found, slope = blur(image, (sigma,)).detach(), image.grad.clone()
    monkeypatch.setattr("reconstruction.features.STRETCH", 1000)
    image.grad = None
    whole = blur(image, (sigma,))
    (weight * whole).sum().backward()
    torch.testing.assert_close(found, whole.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slope, image.grad, atol=1e-5, rtol=1e-5)


def test_opposite_borders_do_not_know_of_each_other(model):
    z, oxide = surface((96, 96)), torch.zeros((1, 96, 96))
    before = model(z, oxide, CONDITION)
    z[:, -8:] += 5.0 * torch.rand((8, 96), generator=torch.Generator().manual_seed(0))
    after = model(z, oxide, CONDITION)
    torch.testing.assert_close(after[:, :, :12], before[:, :, :12], atol=1e-5, rtol=1e-5)
    assert not torch.equal(after[:, :, 64:], before[:, :, 64:])


def test_tokens_give_to_pixels_as_bilinear_interpolation_does():
    tokens = torch.randn((2, 3, 5, 7), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(
        tokens.permute(0, 3, 1, 2), scale_factor=TOKEN, mode="bilinear", align_corners=False
    )
    found = _finer(_edged(_finer(_edged(tokens, 1), 1), 2), 2)
    torch.testing.assert_close(found.permute(0, 3, 1, 2), expected)


def test_gradients_are_finite_everywhere(model):
    for z in (surface((33, 37), size=3.0), torch.zeros((1, 33, 37)), plane(20.0, 0.0, (33, 37))):
        z.requires_grad_(True)
        oxide = torch.zeros_like(z, requires_grad=True)
        model(z, oxide + 0.5, CONDITION).square().sum().backward()
        assert torch.isfinite(z.grad).all()
        assert torch.isfinite(oxide.grad).all()
        assert z.grad.any()
        assert oxide.grad.any()


def test_the_gradient_is_that_of_finite_differences(model):
    z = surface((32, 32)).double()
    double = VisionFieldTransformer(
        Network(SMALL, len(BASIS)).double().eval(),
        LocalLaw(model.law.energies, model.law.thresholds, model.law.table.double()),
        BASIS,
    )
    double.network.load_state_dict({name: value.double() for name, value in model.network.state_dict().items()})
    weights = torch.from_numpy(np.random.default_rng(5).normal(size=(1, len(BASIS), 32, 32)))
    along = torch.from_numpy(np.random.default_rng(6).normal(size=(1, 32, 32)))

    def total(step):
        return (double(z + step * along, torch.zeros_like(z), CONDITION) * weights).sum()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    total(step).backward()
    with torch.no_grad():
        numeric = float(total(1e-5) - total(-1e-5)) / 2e-5
    # blur_matrix and the local law are single precision within.
    assert float(step.grad) == pytest.approx(numeric, rel=1e-3)


def test_moving_the_surface_by_a_token_moves_what_it_emits(law):
    """Windows move with it: only where they are cut anew the emission may differ, for that is what windows do.

    Without attention between tokens nothing depends on where the windows are cut.
    """
    whole = model_with(law, seed=1)
    for block in whole.network.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
        torch.nn.init.zeros_(block.attention.out.bias)
    base = surface((96, 96), 3)
    condition = Condition(0.5, 5.0, 0.2)  # blurs reach no further than eight pixels
    one, other = base[..., :64, :64], base[..., TOKEN : 64 + TOKEN, TOKEN : 64 + TOKEN]
    first = whole(one, torch.zeros_like(one), condition)
    second = whole(other, torch.zeros_like(other), condition)
    inner = slice(20, 44)
    torch.testing.assert_close(
        second[..., inner, inner], first[..., 20 + TOKEN : 44 + TOKEN, 20 + TOKEN : 44 + TOKEN], atol=1e-4, rtol=1e-4
    )


def test_moving_the_surface_by_a_window_moves_what_it_emits(model):
    side = TOKEN * WINDOW
    base = surface((7 * side, 7 * side), 4)
    condition = Condition(0.5, 5.0, 0.2)
    one, other = base[..., : 6 * side, : 6 * side], base[..., side:, side:]
    first, second = (model(each, torch.zeros_like(each), condition) for each in (one, other))
    # Of two blocks, one shifted, a window sees itself and its neighbours; the outermost windows see the border.
    inner = slice(2 * side, 3 * side)
    torch.testing.assert_close(
        second[..., inner, inner],
        first[..., 3 * side : 4 * side, 3 * side : 4 * side],
        atol=1e-4,
        rtol=1e-4,
    )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None, max_examples=30)
def test_mirroring_reads_back_and_forth(height, width, rows, columns):
    image = torch.arange(height * width).reshape(1, height, width)
    found = mirror(image, rows, columns)
    expected = np.pad(image.numpy()[0], ((0, rows), (0, columns)), mode="symmetric")
    np.testing.assert_array_equal(found[0].numpy(), expected)


def test_energy_pixel_size_and_threshold_are_conditions(model):
    z, oxide = surface((32, 32)), torch.zeros((1, 32, 32))
    usual = model(z, oxide, CONDITION) / model.flat_level(CONDITION)
    others = (Condition(0.3, 5.0, 0.2), Condition(0.1, 15.0, 0.2), Condition(0.1, 5.0, 0.5))
    for other in others:
        assert (model(z, oxide, other) / model.flat_level(other) - usual).abs().max() > 1e-3

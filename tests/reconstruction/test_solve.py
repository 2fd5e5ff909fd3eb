from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from drivers.geometry import annular
from reconstruction import problem as problem_module
from reconstruction import solve as module
from reconstruction.creases import Creases
from reconstruction.descent import minimise
from reconstruction.features import blur
from reconstruction.fidelity import Forward, Nuisances, Observation
from reconstruction.local_law import Condition
from reconstruction.nuisances import Beliefs
from reconstruction.problem import Problem, tiles
from reconstruction.solve import (
    Effort,
    State,
    continued,
    corrected,
    first_state,
    oxide_information,
    oxide_power,
    solve,
)
from reconstruction.spectral import cosine_transform
from reconstruction.uncertainty import posterior
from reconstruction.weights import load_model

CONDITION = Condition(0.2, 5.0, 0.2)
ELECTRONS = 20_000
BELIEFS = Beliefs(gain=0.02)
SHAPE = (32, 32)


@pytest.fixture(scope="module")
def forward():
    return Forward(load_model(), CONDITION, annular(4, 2e-3, 8e-3, 8e-3, 0.3), (0, 1, 2, 3), 20e-9)


@pytest.fixture(scope="module", autouse=True)
def linear_once():
    """The linear answer of the one model to each size of field is found once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "linearise", lru_cache(module.linearise))
        yield


def relief(shape, seed=0, size=0.6, width=2.5):
    z = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, *shape))).float()
    z = blur(z, (width,))[0]
    return size * (z - z.mean()) / z.std()


def observe(forward, z, seed=0, oxide=None, electrons=ELECTRONS):
    """A frame of the forward model itself, with the noise of counts."""
    share = torch.zeros_like(z) if oxide is None else oxide
    shape = (z.shape[0], z.shape[1])
    with torch.no_grad():
        clean = forward.collect(forward.emission(z, share), forward.responses().float(), (0, 0), shape)
    ones = torch.ones(len(clean))
    observed = Observation(clean, 0.6 / electrons * ones, 1e-12 * ones, torch.ones(shape), ones)
    noise = torch.from_numpy(np.random.default_rng(1000 + seed).normal(size=clean.shape)).float()
    return replace(observed, signals=clean + noise * observed.variances(clean).sqrt())


def state_of(z, oxide=None):
    none = torch.zeros_like(z)
    return State(z, none if oxide is None else oxide, Nuisances.none(4), torch.ones_like(z))


# -- tiles


@pytest.mark.parametrize("seam", [32, 64, 96])
@pytest.mark.parametrize("shape", [(20, 30), (576, 576), (577, 40), (1024, 1300), (513, 2048)])
def test_tiles_answer_for_every_pixel_once(shape, seam):
    answered = np.zeros(shape, int)
    for outer, inner, core in tiles(shape, seam):
        answered[inner] += 1
        for axis in (0, 1):
            # The core is the inner part as seen within the outer one.
            assert outer[axis].start + core[axis].start == inner[axis].start
            assert outer[axis].start + core[axis].stop == inner[axis].stop
            assert outer[axis].start % 32 == 0
            assert 0 <= outer[axis].start <= inner[axis].start < inner[axis].stop <= outer[axis].stop <= shape[axis]
            assert inner[axis].start in (0, outer[axis].start + seam)
            assert outer[axis].stop in (shape[axis], inner[axis].stop + seam)
            assert outer[axis].stop - outer[axis].start <= problem_module.TILE + 2 * seam
    assert (answered == 1).all()
    assert (len(list(tiles(shape, seam))) == 1) == (max(shape) <= problem_module.TILE + 2 * seam)


def test_tiles_overlap_by_more_than_the_electrons_reach():
    for pixel in (0.03, 0.05, 0.14, 0.5, 1.0):
        assert problem_module.seam_of(pixel) * pixel >= 2.0
        assert problem_module.seam_of(pixel) % 32 == 0
    # Memory stays bounded however fine the pixels are.
    assert problem_module.seam_of(1e-3) == 128


def test_a_tiled_field_is_the_same_field(forward, monkeypatch):
    shape = (136, 24)
    z = relief(shape, 1)
    observed = observe(forward, z)
    start = state_of(0.8 * z)
    whole = Problem(forward, observed)
    untiled = whole.look(start.nuisances, start.z, start.oxide)
    monkeypatch.setattr(problem_module, "TILE", 64)
    parted = Problem(forward, observed)
    assert len(list(tiles(shape, parted.seam))) == 3
    tiled = parted.look(start.nuisances, start.z, start.oxide)
    sigma = observed.variances(untiled.predicted).sqrt()
    assert float(((tiled.predicted - untiled.predicted) / sigma).abs().max()) < 0.1
    assert tiled.value == pytest.approx(untiled.value, rel=1e-3)
    change = (tiled.gradient - untiled.gradient).abs()
    assert float(change.max()) < 0.1 * float(untiled.gradient.abs().max())
    assert float(change.square().mean().sqrt()) < 0.02 * float(untiled.gradient.square().mean().sqrt())
    emitted = parted.emission(start.z, start.oxide)
    with torch.no_grad():
        expected = forward.emission(start.z, start.oxide)
    assert len(emitted.places) == shape[0] * shape[1]
    for found, wanted in ((emitted.some, expected.flatten(1)), (emitted.mean, expected.mean(dim=(1, 2)))):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=2e-3 * float(expected.abs().max()))


def test_of_a_large_field_some_pixels_speak_for_all(forward, monkeypatch):
    monkeypatch.setattr("reconstruction.nuisances.MOST_PIXELS", 300)
    z = relief((45, 62), 1)
    with torch.no_grad():
        whole = forward.emission(z, 0 * z)
    emitted = Problem(forward, observe(forward, z)).emission(z, 0 * z)
    assert 200 < len(emitted.places) <= 300
    assert set((emitted.places % 62 % 4).tolist()) == {0, 1, 2, 3}
    np.testing.assert_allclose(emitted.some.numpy(), whole.flatten(1)[:, emitted.places].numpy(), atol=1e-6)
    np.testing.assert_allclose(emitted.mean.numpy(), whole.mean(dim=(1, 2)).numpy(), atol=1e-5)


# -- the misfit


@pytest.mark.parametrize("signal_noise", [False, True], ids=["one variance", "counting noise"])
def test_the_misfit_s_gradients_are_those_of_differences(forward, signal_noise):
    z, share = relief(SHAPE, 2), 0.5 + 0.1 * relief(SHAPE, 3)
    observed = observe(forward, relief(SHAPE, 4))
    ones = torch.ones(4)
    if not signal_noise:
        observed = replace(observed, variance_slope=0 * ones, variance_floor=1e-6 * ones)
    problem, none = Problem(forward, observed, with_oxide=True), Nuisances.none(4)
    # Within a round the variances stand still: the gradient is that of the value.
    variances = observed.variances(problem.look(none, z, share).predicted)
    look = problem.look(none, z, share, variances)
    for seed in range(3):
        direction = relief(SHAPE, 10 + seed, 1.0)
        for by, found in ((0, look.gradient), (1, look.slope)):
            step = (2e-3, 5e-3)[by]
            up, down = (
                problem.look(
                    none,
                    z + (by == 0) * sign * step * direction,
                    share + (by == 1) * sign * step * direction,
                    variances,
                ).value
                for sign in (1, -1)
            )
            exact = float((found * direction).sum())
            assert exact == pytest.approx((up - down) / (2 * step), abs=0.01 * float(found.norm() * direction.norm()))
    assert float(look.gradient.norm()) > 0
    assert float(look.slope.norm()) > 0
    assert problem.evaluations == 14


def test_the_misfit_of_the_truth_is_the_noise(forward):
    z = relief(SHAPE, 2)
    observed = observe(forward, z)
    look = Problem(forward, observed).look(Nuisances.none(4), z, torch.zeros_like(z))
    count = observed.signals.numel()
    assert 2 * look.value == pytest.approx(count, abs=4 * math.sqrt(2 * count))
    # The oxide is not sought: it has no gradient.
    assert float(look.slope.abs().max()) == 0
    # Weightless pixels count for nothing.
    nothing = Problem(forward, replace(observed, weight=torch.zeros(SHAPE)))
    look = nothing.look(Nuisances.none(4), 0 * z, 0 * z, noise=nothing.noise(0))
    assert look.value == float(look.gradient.abs().max()) == float(look.echo.abs().max()) == 0


def test_nuisances_take_part_in_what_is_predicted(forward):
    z = relief(SHAPE, 2)
    problem, none = Problem(forward, observe(forward, z)), Nuisances.none(4)
    plain = problem.look(none, z, 0 * z).predicted
    gains, offsets = torch.tensor([1.0, 1.1, 0.9, 1.0]), torch.tensor([0.0, 0.0, 1e-3, -1e-3])
    moved = problem.look(replace(none, gains=gains, offsets=offsets), z, 0 * z).predicted
    expected = gains[:, None, None] * plain + offsets[:, None, None]
    np.testing.assert_allclose(moved.numpy(), expected.numpy(), atol=1e-7)


def test_noise_that_is_sent_back_has_the_power_of_the_information(forward):
    z = torch.zeros(SHAPE)
    problem = Problem(forward, observe(forward, z))
    linear = module.linearise(forward, SHAPE)
    told = linear.information(problem.observed)
    echoes = [problem.look(Nuisances.none(4), z, z, noise=problem.noise(seed)).echo for seed in range(8)]
    ratio = torch.stack([cosine_transform(echo) ** 2 for echo in echoes]).mean(0)[1:, 1:] / told[1:, 1:]
    assert float((ratio * told[1:, 1:]).sum() / told[1:, 1:].sum()) == pytest.approx(1.0, abs=0.1)


# -- the optimiser


def quadratic(size, condition, seed=0):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
    curvature = torch.from_numpy(turn @ np.diag(np.geomspace(1, condition, size)) @ turn.T)
    least, calls = torch.from_numpy(rng.normal(size=size)), []

    def cost(x):
        calls.append(1)
        force = curvature @ (x - least)
        return 0.5 * float((x - least) @ force), force

    return cost, curvature, least, calls


def test_a_quadratic_with_its_own_metric_takes_one_step():
    cost, curvature, least, calls = quadratic(40, 1e4)
    inverse = torch.linalg.inv(curvature)
    x = minimise(cost, lambda g: inverse @ g, torch.zeros(40).double(), 10, 1e-12)
    np.testing.assert_allclose(x.numpy(), least.numpy(), atol=1e-8)
    assert len(calls) <= 4


def test_a_metric_that_is_roughly_right_takes_few_steps():
    cost, curvature, _, calls = quadratic(40, 1e4, 1)
    bent = curvature + 0.4 * torch.diag(curvature.diagonal())
    inverse = torch.linalg.inv(bent)
    start = cost(torch.zeros(40).double())[0]
    x = minimise(cost, lambda g: inverse @ g, torch.zeros(40).double(), 12, 0.0)
    assert cost(x)[0] < 1e-3 * start
    assert len(calls) <= 18


def test_steps_and_gains_are_bounded():
    cost, _, _, calls = quadratic(40, 1e3, 2)
    minimise(cost, lambda g: 1e-3 * g, torch.zeros(40).double(), 3, 0.0)
    assert len(calls) <= 3 * 5 + 1
    calls.clear()
    minimise(cost, lambda g: 1e-3 * g, torch.zeros(40).double(), 50, 1e9)
    assert len(calls) <= 6


def test_a_cost_never_grows_however_wrong_the_metric():
    for scale in (1e-4, 1.0, 1e4):
        cost, _, _, _ = quadratic(20, 1e2, 3)
        start = torch.zeros(20).double()
        x = minimise(cost, lambda g, scale=scale: scale * g, start, 6, 0.0)
        assert cost(x)[0] <= cost(start)[0]


def test_a_step_to_where_nothing_can_be_said_is_not_taken():
    def cost(x):
        value = float(x @ x)
        return (math.nan, x * math.nan) if value < 0.9 else (value, 2 * x)

    x = minimise(cost, lambda g: g, torch.ones(1), 5, 0.0)
    assert torch.isfinite(x).all()


# -- the solution


@pytest.fixture(scope="module")
def truth():
    return relief(SHAPE, 5, 0.6)


@pytest.fixture(scope="module")
def observed(forward, truth):
    return observe(forward, truth, 5)


@pytest.fixture(scope="module")
def solution(forward, observed):
    return solve(forward, observed, beliefs=BELIEFS)


def error(z, truth):
    rows, columns = np.indices(truth.shape)
    off = (z - truth).double().numpy()
    terms = np.stack([np.ones(off.size), rows.ravel(), columns.ravel()], axis=1)
    return (off.ravel() - terms @ np.linalg.lstsq(terms, off.ravel(), rcond=None)[0]).reshape(off.shape)


def test_the_surface_is_found(forward, observed, solution, truth):
    off = error(solution.state.z, truth)
    sigma = posterior(solution.state.z, solution.information, solution.state.power).sigma
    assert off.std() < 0.35 * float(truth.std())
    assert off.std() < 1.5 * float(np.sqrt((sigma**2).mean()))
    assert 0.8 < solution.misfit < 1.15
    linear = module.linearise(forward, SHAPE)
    first = first_state(forward, observed, linear, linear.information(observed))
    assert off.std() < error(first.z, truth).std()
    assert solution.evaluations <= 30


def test_one_step_of_the_fixed_point_does_most_of_the_way(forward):
    steep = relief(SHAPE, 8, 2.0, width=4.0)
    observed = observe(forward, steep, 8)
    linear = module.linearise(forward, SHAPE)
    information = linear.information(observed)
    first = first_state(forward, observed, linear, information)
    problem = Problem(forward, observed)
    step, predicted = corrected(problem, first, linear, information)
    whole = solve(forward, observed, beliefs=BELIEFS)
    before, after, best = (error(each.z, steep).std() for each in (first, step, whole.state))
    assert best < after < before
    assert before - after > 0.6 * (before - best)
    assert problem.evaluations == 1
    exact = problem.prediction(step.nuisances, step.z, step.oxide)
    spread = observed.variances(exact).sqrt()
    assert float(((predicted - exact) / spread).square().mean().sqrt()) < 1.0
    # The start is left as it was.
    again = first_state(forward, observed, linear, information)
    assert torch.equal(first.z, again.z)


def test_faces_and_edges_are_met_as_such(forward, solution):
    """A frame of plane faces says so, and its heights come out better for it; one of waves is left alone."""
    rows, columns = np.indices(SHAPE)
    z = np.zeros(SHAPE)
    for row, column, half, slope in ((9, 10, 8, 0.4), (22, 22, 8, 0.5)):
        z = np.maximum(z, np.minimum(slope * (half - np.maximum(abs(rows - row), abs(columns - column))), 2.0))
    z = torch.from_numpy(z).float()
    observed = observe(forward, z, 4)
    found, plain = (
        solve(forward, observed, beliefs=BELIEFS, effort=replace(Effort(), sharpened=steps)) for steps in (1, 0)
    )
    assert found.creases is not None
    assert plain.creases is None
    assert error(found.state.z, z).std() < 0.85 * error(plain.state.z, z).std()
    # Faces cannot follow the noise as waves do.
    assert plain.misfit < found.misfit < 1.05
    assert found.misfit == pytest.approx(1.0, abs=0.06)
    assert solution.creases is None


def test_nobody_asks_for_edges_where_much_was_not_measured(forward, observed, monkeypatch):
    monkeypatch.setattr(module, "choose_creases", lambda *_: pytest.fail("was asked"))
    weight = observed.weight.clone()
    weight[:4, :4] = 0.0
    effort = Effort(rounds=(1,))
    assert solve(forward, replace(observed, weight=weight), beliefs=BELIEFS, effort=effort).creases is None
    assert solve(forward, observed, beliefs=BELIEFS, effort=effort, with_oxide=True).creases is None


def test_creases_that_do_not_explain_the_frame_are_dropped(forward, observed, monkeypatch):
    monkeypatch.setattr(module, "choose_creases", lambda *_: Creases(0.2, 0.01, 9.0))
    monkeypatch.setattr(module, "reweighted", lambda _creases, z, *_: 40 * z)
    monkeypatch.setattr(module, "minimise", lambda _cost, _metric, x, *_: x)
    effort = Effort(rounds=(1,))
    found = solve(forward, observed, beliefs=BELIEFS, effort=effort)
    assert found.creases is None
    plain = solve(forward, observed, beliefs=BELIEFS, effort=replace(effort, sharpened=0))
    assert torch.equal(found.state.z, plain.state.z)


def test_straightened_signals_are_a_better_beginning(forward):
    """Where a segment answers less and less to steeper slopes, a linear estimate of it is too flat."""
    z = relief(SHAPE, 9, 2.0, width=4.0)
    observed = observe(forward, z, 9)
    linear = module.linearise(forward, SHAPE)
    information = linear.information(observed)
    flat = linear.flat[:, None, None]
    straight = replace(observed, straight=flat + linear.apply(z))
    ours, plain = (first_state(forward, each, linear, information).z for each in (straight, observed))
    assert error(ours, z).std() < error(plain, z).std()


def test_the_same_frame_gives_the_same_bits(forward, observed):
    one, two = (solve(forward, observed, beliefs=BELIEFS, effort=Effort(rounds=(2, 1))) for _ in range(2))
    assert torch.equal(one.state.z, two.state.z)
    assert torch.equal(one.state.nuisances.gains, two.state.nuisances.gains)
    assert torch.equal(one.information, two.information)
    assert one.misfit == two.misfit


def test_a_solution_is_continued(forward, observed, solution, truth):
    start = continued(solution)
    kept = start.z.clone()
    effort = Effort(rounds=(3,))
    further = solve(forward, observed, beliefs=BELIEFS, effort=effort, start=start)
    assert further.evaluations < solution.evaluations
    assert further.misfit < 1.02 * solution.misfit
    assert error(further.state.z, truth).std() < 1.15 * error(solution.state.z, truth).std()
    # The start is left as it was, and so is the solution that it came from.
    assert torch.equal(start.z, kept)
    assert torch.equal(solution.state.z, kept)


def test_whoever_watches_may_stop(forward, observed):
    heard = []

    def watch(share, words):
        heard.append((share, words))
        if len(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(forward, observed, beliefs=BELIEFS, effort=Effort(rounds=(1, 1, 1)), progress=watch)
    assert heard == [(0.0, "round 1"), (pytest.approx(1 / 4), "faces and edges")]


def test_dirt_spoils_its_own_place_alone(forward, observed, solution, monkeypatch):
    signals = observed.signals.clone()
    signals[:, 15, 17] *= torch.tensor([2.5, 0.5, 0.6, 2.0])
    dirty = replace(observed, signals=signals)
    effort, start = Effort(rounds=(8,)), continued(solution)

    def moved(knee):
        monkeypatch.setattr(problem_module, "KNEE", knee)
        found = solve(forward, dirty, beliefs=BELIEFS, effort=effort, start=replace(start))
        change = np.abs(error(found.state.z, solution.state.z))
        far = np.hypot(*(np.indices(SHAPE) - np.array([15, 17])[:, None, None])) > 6
        return np.sqrt((change[far] ** 2).mean())

    sigma = posterior(solution.state.z, solution.information, solution.state.power).sigma
    gentle = moved(problem_module.KNEE)
    assert gentle < 0.5 * float(sigma.mean())
    assert gentle < 0.7 * moved(1e9)


def test_oxide_is_found_with_the_heights(forward):
    rows, columns = np.indices(SHAPE)
    share = torch.from_numpy((np.hypot(rows - 15.5, columns - 15.5) < 9).astype(np.float32))
    z = relief(SHAPE, 6, 0.3)
    observed = observe(forward, z, 6, oxide=share)
    found = solve(forward, observed, beliefs=Beliefs(gain=1e-3), with_oxide=True, effort=Effort(rounds=(6, 5)))
    middle, outside = share > 0, torch.from_numpy(np.hypot(rows - 15.5, columns - 15.5) > 12)
    contrast = float(found.state.oxide[middle].mean() - found.state.oxide[outside].mean())
    assert 0.5 < contrast < 1.3
    assert error(found.state.z, z).std() < 0.6 * float(z.std())


def test_what_is_believed_of_the_oxide(forward, observed):
    power = oxide_power((40, 48), 0.2)
    # The variance of a pixel is that of the share.
    assert float(power.mean()) == pytest.approx(module.OXIDE_SPREAD**2, rel=1e-5)
    assert float(power[0, 5]) > float(power[0, 20]) > float(power[30, 30]) > 0
    told = oxide_information(Problem(forward, observed))
    assert told.shape == SHAPE
    assert (told > 0).all()
    assert float(told[0, 1]) > float(told[20, 20])

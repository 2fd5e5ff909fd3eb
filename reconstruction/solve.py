"""The non-linear inverse: the surface that explains a frame.

Minimises, over heights and (where it is asked for) the share of oxide,

    ½ Σ (signal − predicted)²/variance  −  log prior(heights)  (− the oxide's)

by L-BFGS (:mod:`reconstruction.descent`) in the cosine modes' own metric: the posterior variance of the linear problem
preconditions each step, so that some eight evaluations of the network suffice. The start is the Wiener inverse of
straightened signals; between rounds the prior's strength and the nuisances are estimated again from the frame. Within
a round the variances stand still, so that value and gradient are of one function. The prior is one of waves
(:mod:`reconstruction.prior`); where the frame is foretold better by faces and edges (:mod:`reconstruction.creases`),
those take its place after the first round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from reconstruction.creases import MOST_BLIND, Creases, Touching, choose_creases, posed, reweighted
from reconstruction.descent import minimise
from reconstruction.fidelity import Forward, Nuisances, Observation
from reconstruction.linear import Linear, linearise, matched_modes
from reconstruction.nuisances import Beliefs, Estimate, estimate_nuisances
from reconstruction.prior import evidence_power, first_guess, rescaled
from reconstruction.problem import KNEE, Look, Problem
from reconstruction.spectral import cosine_transform, inverse_cosine_transform

OXIDE_SPREAD, OXIDE_LENGTH = 0.5, 1.0
"""Prior of the oxide's share: standard deviation, and correlation length in electron ranges."""
ABSORBED = 0.1
"""Noise of a pixel, over its signal, that stands for what the heights have taken up of wrong gains, shift and tilt: it
does not shrink with counting. At 60,000 electrons a pixel a quarter of a shift is found, and further rounds hardly move
it; as many electrons as make this noise, some 3,000, tell as much."""
UNEXPLAINED = 0.05
"""By so much the misfit of creases may exceed what waves leave, beside the noise that those have followed."""
Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a solution may take.

    Attributes
    ----------
    rounds : tuple of int
        Most steps in each round; the prior and the nuisances are estimated between rounds.
    gain : float
        A round ends when a step gains less than this in the logarithm of the posterior, per thousand pixels.
    sharpened : int
        Steps with creases, where the frame prefers these to waves; with none, and where oxide is sought, it is not
        asked.
    """

    rounds: tuple[int, ...] = (5, 4)
    gain: float = 0.1
    sharpened: int = 1


@dataclass(slots=True, eq=False)
class State:
    """A solution on its way.

    Attributes
    ----------
    z : (H, W) tensor, pixels
    oxide : (H, W) tensor
    nuisances : Nuisances
    power : (H, W) tensor
        The prior of the heights' modes.
    """

    z: Tensor
    oxide: Tensor
    nuisances: Nuisances
    power: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Heights that explain a frame, and how well.

    Attributes
    ----------
    state : State
    predicted : (L, H, W) tensor
        Signals of the solution.
    information : (H, W) tensor
        Of the linear problem, for each mode.
    linear : Linear
    estimate : Estimate
        Of the nuisances.
    misfit : float
        Mean square of the residuals over their variance.
    evaluations : int
        Of the network, forwards and backwards.
    creases : Creases or None
        The prior that the heights were found with; None for that of waves.
    """

    state: State
    predicted: Tensor
    information: Tensor
    linear: Linear
    estimate: Estimate
    misfit: float
    evaluations: int
    creases: Creases | None = None


def solve(
    forward: Forward,
    observed: Observation,
    *,
    beliefs: Beliefs,
    effort: Effort | None = None,
    with_oxide: bool = False,
    start: State | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Return the surface that explains a frame.

    Parameters
    ----------
    forward : Forward
    observed : Observation
    beliefs : Beliefs
        How well gains, offsets, detector's place and rotation are known.
    effort : Effort, optional
    with_oxide : bool
        Whether a share of oxide is sought in each pixel.
    start : State, optional
        Such as the solution of the frame before; the Wiener inverse unless given.
    progress : callable, optional
        Called with the share done and a few words; may raise to stop.

    Returns
    -------
    Solution
    """
    work = effort or Effort()
    problem = Problem(forward, observed, with_oxide)
    linear = linearise(forward, problem.shape)
    flat = information = linear.information(observed)
    state = replace(start) if start else first_state(forward, observed, linear, information)
    enough = work.gain * observed.weight.numel() / 1000
    look = None
    for number, most in enumerate(work.rounds):
        if progress is not None:
            progress((number + (number > 0)) / (len(work.rounds) + 1), f"round {number + 1}")
        _descend(problem, state, _waves(problem, state, information), most, enough, look)
        estimate = _estimate(problem, state, beliefs)
        # The next round begins with this look; the last one tells what the frame knows there.
        look = problem.look(state.nuisances, state.z, state.oxide, noise=problem.noise(number))
        assert look.echo is not None  # noqa: S101  noise was sent
        information = rescaled(flat, cosine_transform(look.echo) ** 2)
        if number < len(work.rounds) - 1:
            state.power = evidence_power(cosine_transform(state.z), state.power, information)
        if number == 0 and work.sharpened and not with_oxide:
            if progress is not None:
                progress(1 / (len(work.rounds) + 1), "faces and edges")
            before = _solution(problem, state, look.predicted, information, linear, estimate)
            sharp = _sharpened(problem, before, look.gradient, beliefs, work.sharpened, enough)
            if sharp is not None:
                return sharp
    assert look is not None  # noqa: S101  there is one round at least
    return _solution(problem, state, look.predicted, information, linear, estimate)


def _solution(
    problem: Problem,
    state: State,
    predicted: Tensor,
    information: Tensor,
    linear: Linear,
    estimate: Estimate,
    creases: Creases | None = None,
) -> Solution:
    observed = problem.observed
    left = (predicted - observed.signals) ** 2 / observed.variances(predicted)
    misfit = float((left * observed.weight).sum() / (observed.weight.sum() * len(left)))
    return Solution(state, predicted, information, linear, estimate, misfit, problem.evaluations, creases)


def _sharpened(
    problem: Problem, waves: Solution, gradient: Tensor, beliefs: Beliefs, steps: int, enough: float
) -> Solution | None:
    """Return the solution with creases in the place of waves, where the frame prefers these; else None.

    ``gradient`` is the misfit's at the solution with waves.
    """
    z, power, information = waves.state.z, waves.state.power, waves.information
    weight = problem.observed.weight
    if float((weight == 0).float().mean()) > MOST_BLIND:
        return None
    creases = choose_creases(z, gradient, information, power)
    if creases is None:
        return None
    state = replace(waves.state, z=reweighted(creases, z, *posed(z, gradient, information), power))
    for _ in range(steps):
        _estimate(problem, state, beliefs)
        _descend(problem, state, Touching(power, information, creases.weights(state.z)), 1, enough)
    estimate = _estimate(problem, state, beliefs)
    predicted = problem.prediction(state.nuisances, state.z, state.oxide)
    found = _solution(problem, state, predicted, information, waves.linear, estimate, creases)
    # Each number that waves have followed the noise with lowers the sum of squares by one.
    told, followed = float(weight.sum()) * len(predicted), float((information / (information + 1 / power)).sum())
    allowed = waves.misfit * told / max(told - followed, 0.5 * told)
    return found if found.misfit <= allowed * (1 + UNEXPLAINED) else None


def _estimate(problem: Problem, state: State, beliefs: Beliefs) -> Estimate:
    """Estimate the nuisances anew from what the state's surface emits; changes them."""
    emitted = problem.emission(state.z, state.oxide)
    found = estimate_nuisances(problem.forward, problem.observed, emitted, beliefs, least_noise=ABSORBED)
    state.nuisances = found.nuisances
    return found


def first_state(forward: Forward, observed: Observation, linear: Linear, information: Tensor) -> State:
    """Return the Wiener inverse with the prior that the frame's evidence prefers."""
    shape = (observed.signals.shape[1], observed.signals.shape[2])
    power = first_guess(shape, forward.condition.pixel)
    matched = matched_modes(linear, observed)
    matched[0, 0] = 0.0
    for _ in range(3):
        power = evidence_power(matched / (information + 1 / power), power, information)
    z = inverse_cosine_transform(matched / (information + 1 / power))
    oxide = torch.full(shape, float(forward.condition.oxide))
    return State(z, oxide, Nuisances.none(len(forward.live)), power)


def corrected(problem: Problem, state: State, linear: Linear, information: Tensor) -> tuple[State, Tensor]:
    """Return a state moved by one step of the fixed point, heights ← heights + inverse(measured − predicted).

    And the signals (L, H, W) that it explains, to first order in the step.

    One evaluation of the network forwards: what is left over, weighted by the noise that each pixel's own brightness
    makes, goes back through the linear response. Bright faces are noisier than flat ground, and the flat ground's
    response is that of steep faces well enough for a step: on surfaces with walls of 45° the errors come down to
    those of the full descent within a few per cent.
    """
    predicted = problem.prediction(state.nuisances, state.z, state.oxide)
    observed = problem.observed
    left = (observed.signals - predicted) / observed.variances(predicted)
    # Dirt pulls with its root only, as in the full descent.
    limit = KNEE / observed.variances(predicted).sqrt()
    modes = cosine_transform(linear.adjoint(torch.clamp(left, -limit, limit) * observed.weight))
    modes -= cosine_transform(state.z) / state.power
    modes[0, 0] = 0.0
    step = inverse_cosine_transform(modes / (information + 1 / state.power))
    return replace(state, z=state.z + step), predicted + linear.apply(step)


class Prior(Protocol):
    """What is believed of the fields, (1 or 2, H, W), as a parabola."""

    def value(self, x: Tensor) -> tuple[float, Tensor]:
        """Return −log prior and its gradient."""

    def metric(self, gradient: Tensor) -> Tensor:
        """Return the inverse curvature of the posterior, roughly, applied to a gradient."""


@dataclass(frozen=True, slots=True, eq=False)
class Waves:
    """Independent cosine modes: of the heights, and of the oxide's share where it is sought.

    Attributes
    ----------
    power, curvature : (1 or 2, H, W) tensors
        Variance of each mode beforehand, and what it costs afterwards.
    """

    power: Tensor
    curvature: Tensor

    def value(self, x: Tensor) -> tuple[float, Tensor]:
        """Return −log prior and its gradient."""
        modes = cosine_transform(x)
        return 0.5 * float((modes**2 / self.power).sum()), inverse_cosine_transform(modes / self.power)

    def metric(self, gradient: Tensor) -> Tensor:
        """Return the inverse curvature of the linear problem, applied to a gradient; no mean of the heights."""
        modes = cosine_transform(gradient) / self.curvature
        modes[0, 0, 0] = 0.0
        return inverse_cosine_transform(modes)


def _waves(problem: Problem, state: State, information: Tensor) -> Waves:
    powers, told = [state.power], [information]
    if problem.with_oxide:
        powers.append(oxide_power(problem.shape, problem.forward.condition.pixel))
        told.append(oxide_information(problem))
    power = torch.stack(powers)
    return Waves(power, torch.stack(told) + 1 / power)


def _descend(problem: Problem, state: State, prior: Prior, most: int, enough: float, look: Look | None = None) -> None:
    """Take up to so many steps of L-BFGS; changes the state's heights, and its oxide where it is sought.

    The variances are those of the prediction that the round begins with (``look``): value and gradient are of one
    function, and where the rounds come to rest the variances are those of the prediction.
    """
    first = look or problem.look(state.nuisances, state.z, state.oxide)
    variances = problem.observed.variances(first.predicted)
    fields = 2 if problem.with_oxide else 1

    def with_prior(seen: Look, x: Tensor) -> tuple[float, Tensor]:
        value, slope = prior.value(x)
        return seen.value + value, torch.stack([seen.gradient, seen.slope][:fields]) + slope

    def cost(x: Tensor) -> tuple[float, Tensor]:
        return with_prior(problem.look(state.nuisances, x[0], x[1] if fields == 2 else state.oxide, variances), x)

    x = torch.stack([state.z, state.oxide][:fields])
    x = minimise(cost, prior.metric, x, most, enough, with_prior(first, x))
    state.z = x[0]
    if fields == 2:
        state.oxide = x[1]


def oxide_power(shape: tuple[int, int], pixel: float) -> Tensor:
    """Return the prior variance of each cosine mode of the oxide's share: smooth over an electron range."""
    rows, columns = (torch.pi * torch.arange(size) / size for size in shape)
    k = torch.hypot(rows[:, None], columns[None, :])
    length = OXIDE_LENGTH / pixel
    # The transform of a correlation (1 + r/l) exp(−r/l) falls as (1 + k²l²)^−5/2.
    shape_of = (1 + (k * length) ** 2) ** -2.5
    return (OXIDE_SPREAD**2 * shape_of / shape_of.mean()).float()


def oxide_information(problem: Problem) -> Tensor:
    """Return the information on each mode of the oxide's share, from what it takes off the signals of a flat field."""
    forward = problem.forward
    local = forward.model.local
    flat, none = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    change = (local(flat, none + 1, forward.condition) - local(flat, none, forward.condition))[0, :, 4, 4]
    response = forward.responses()[0].float() @ change
    told = (response**2 / problem.observed.mean_variances()).sum()
    rows, columns = (torch.pi * torch.arange(size) / size for size in problem.shape)
    k = torch.hypot(rows[:, None], columns[None, :])
    # What an edge of oxide shows is blurred by the electrons' spread.
    return (told * torch.exp(-((k * 0.2 / forward.condition.pixel) ** 2))).float()


def continued(solution: Solution) -> State:
    """Return a solution's state as a start for the next frame."""
    return replace(solution.state)

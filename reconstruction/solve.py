"""The non-linear inverse: the surface that explains a frame.

Minimises, over heights and (where it is asked for) the share of oxide,

    ½ Σ (signal − predicted)²/variance  +  ½ Σ_k |z(k)|²/P(k)  (+ the same of the oxide)

by L-BFGS (J. Nocedal, Math. Comput. 35 (1980) 773) in the cosine modes' own metric: the posterior variance of the
linear problem preconditions each step, so that some ten evaluations of the network suffice. The start is the Wiener
inverse; between rounds the prior's strength and the nuisances are estimated again from the frame. Large fields are
evaluated in tiles that overlap by more than the electrons reach, so that memory stays bounded and time grows as the
area.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reconstruction.fidelity import Forward, Nuisances, Observation
from reconstruction.linear import Linear, linearise, matched_modes
from reconstruction.nuisances import Beliefs, Estimate, estimate_nuisances
from reconstruction.prior import evidence_power, first_guess, rescaled
from reconstruction.spectral import cosine_transform, inverse_cosine_transform
from reconstruction.vft import TOKEN, WINDOW

TILE, SEAM_RANGES = 640, 2.0
"""Side of a tile in pixels, at most and about, and how far tiles overlap, in electron ranges."""
GRAIN = TOKEN * WINDOW
"""Pixels of a window: all cuts are multiples."""
MEMORY = 8
"""Steps that L-BFGS remembers."""
OXIDE_SPREAD, OXIDE_LENGTH = 0.5, 1.0
"""Prior of the oxide's share: standard deviation, and correlation length in electron ranges."""
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
    """

    rounds: tuple[int, ...] = (5, 4)
    gain: float = 0.1


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
    """

    state: State
    predicted: Tensor
    information: Tensor
    linear: Linear
    estimate: Estimate
    misfit: float
    evaluations: int


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """How far the prediction of a surface is from the frame.

    Attributes
    ----------
    value : float
        Half the weighted sum of squares.
    gradient, slope : (H, W) tensors
        Its derivatives by heights and by oxide.
    predicted : (L, H, W) tensor
    echo : (H, W) tensor or None
        What a field of noise, sent back through the model, makes of the heights (:meth:`Problem.information`).
    """

    value: float
    gradient: Tensor
    slope: Tensor
    predicted: Tensor
    echo: Tensor | None = None


@dataclass(slots=True, eq=False)
class Problem:
    """A frame and its forward model, ready to be evaluated.

    Attributes
    ----------
    forward : Forward
    observed : Observation
    with_oxide : bool
        Whether the share of oxide is sought, too.
    evaluations : int
        Of the network, forwards and backwards, so far.
    """

    forward: Forward
    observed: Observation
    with_oxide: bool = False
    evaluations: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.observed.signals.shape[1], self.observed.signals.shape[2])

    @property
    def seam(self) -> int:
        """By how many pixels tiles overlap."""
        return seam_of(self.forward.condition.pixel)

    def look(
        self,
        nuisances: Nuisances,
        z: Tensor,
        oxide: Tensor,
        variances: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Look:
        """Return value and gradient of the misfit.

        Parameters
        ----------
        nuisances : Nuisances
        z, oxide : (H, W) tensors
        variances : (L, H, W) tensor, optional
            Of the signals. Where they are not given, those of the prediction itself: then the gradient is that of
            given variances, not of ones that move with the prediction.
        noise : (L, H, W) tensor, optional
            White noise of variance 1, to be sent back (``echo``).
        """
        self.evaluations += 1
        responses = self.forward.responses(nuisances).float()
        gains = nuisances.gains[:, None, None]
        levels = self.forward.levels(responses, nuisances)[:, None, None]
        gradient, slope = torch.zeros_like(z), torch.zeros_like(z)
        echo = None if noise is None else torch.zeros_like(z)
        predicted, total = torch.zeros_like(self.observed.signals), 0.0
        for outer, inner, core in tiles(self.shape, self.seam):
            part = z[outer].detach().clone().requires_grad_(True)
            share = oxide[outer].detach().clone().requires_grad_(self.with_oxide)
            origin = (outer[0].start, outer[1].start)
            seen = self.forward.signals(part, share, responses, origin, self.shape)
            signal = seen[:, core[0], core[1]] * gains + levels
            here = (slice(None), *inner)
            variance = self.observed.variances(signal.detach()) if variances is None else variances[here]
            weight, deviation = self.observed.weight[inner], variance.sqrt()
            # A residual far beyond the noise (dirt, a shadow that is not modelled) pulls with its root only.
            value = (weight * _gentle((signal - self.observed.signals[here]) / deviation)).sum()
            if echo is not None and noise is not None:
                sent = (signal * (noise[here] * weight.sqrt() / deviation)).sum()
                echo[outer] += torch.autograd.grad(sent, part, retain_graph=True)[0]
            value.backward()  # type: ignore[no-untyped-call]
            total += float(value.detach())
            predicted[here] = signal.detach()
            if part.grad is not None:
                gradient[outer] += part.grad
            if share.grad is not None:
                slope[outer] += share.grad
        return Look(total, gradient, slope, predicted, echo)

    def prediction(self, nuisances: Nuisances, z: Tensor, oxide: Tensor) -> Tensor:
        """Return the signals that a surface would give, without gradients. (L, H, W)."""
        self.evaluations += 1
        responses = self.forward.responses(nuisances).float()
        gains = nuisances.gains[:, None, None]
        levels = self.forward.levels(responses, nuisances)[:, None, None]
        predicted = torch.zeros_like(self.observed.signals)
        with torch.no_grad():
            # Without derivatives a tile takes little memory.
            for outer, inner, core in tiles(self.shape, self.seam, 2 * TILE):
                origin = (outer[0].start, outer[1].start)
                seen = self.forward.signals(z[outer], oxide[outer], responses, origin, self.shape)
                predicted[:, inner[0], inner[1]] = seen[:, core[0], core[1]] * gains + levels
        return predicted

    def noise(self, seed: int) -> Tensor:
        """Return white noise of the signals' shape, the same for the same seed."""
        return torch.randn(self.observed.signals.shape, generator=torch.Generator().manual_seed(seed))

    def emission(self, z: Tensor, oxide: Tensor) -> Tensor:
        """Return the emission of the whole field, without gradients. (K, H, W)."""
        out = torch.zeros(len(self.forward.model.basis), *self.shape)
        with torch.no_grad():
            for outer, inner, core in tiles(self.shape, self.seam):
                emitted = self.forward.emission(z[outer], oxide[outer])
                out[:, inner[0], inner[1]] = emitted[:, core[0], core[1]]
        return out


KNEE = 6.0
"""Residuals beyond so many standard deviations count linearly (P. J. Huber 1964)."""


def _gentle(scaled: Tensor) -> Tensor:
    size = scaled.abs()
    return torch.where(size < KNEE, 0.5 * scaled**2, KNEE * size - 0.5 * KNEE**2)


def seam_of(pixel: float) -> int:
    """Return by how many pixels tiles overlap: more than the electrons reach, and the windows of two blocks.

    Parameters
    ----------
    pixel : float
        Over the electron range.
    """
    return GRAIN * min(max(1, math.ceil(SEAM_RANGES / pixel / GRAIN)), 4)


def tiles(
    shape: tuple[int, int], seam: int, most: int | None = None
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]]:
    """Cut a field: (what a tile sees, what it answers for, where that lies within it), in order of the rows.

    Parameters
    ----------
    shape : (int, int)
    seam : int
        By how many pixels tiles overlap, on each side.
    most : int, optional
        Side of a tile, at most and about; ``TILE`` unless given.
    """
    largest = most or TILE

    def cuts(size: int) -> list[tuple[slice, slice, slice]]:
        count = 1 if size <= largest + 2 * seam else math.ceil(size / largest)
        # Whole windows, so that tiles and the whole field cut alike.
        side = GRAIN * math.ceil(size / count / GRAIN)
        found = []
        for start in range(0, size, side):
            stop = min(start + side, size)
            low, high = max(0, start - seam), min(size, stop + seam)
            found.append((slice(low, high), slice(start, stop), slice(start - low, stop - low)))
        return found

    for row in cuts(shape[0]):
        for column in cuts(shape[1]):
            yield (row[0], column[0]), (row[1], column[1]), (row[2], column[2])


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
    estimate, look = None, None
    for number, most in enumerate(work.rounds):
        if progress is not None:
            progress(number / len(work.rounds), f"round {number + 1}")
        _descend(problem, state, information, most, work.gain * observed.weight.numel() / 1000, look)
        estimate = estimate_nuisances(forward, observed, problem.emission(state.z, state.oxide), beliefs)
        state.nuisances = estimate.nuisances
        # The next round begins with this look; the last one tells what the frame knows there.
        look = problem.look(state.nuisances, state.z, state.oxide, noise=problem.noise(number))
        assert look.echo is not None  # noqa: S101  noise was sent
        information = rescaled(flat, cosine_transform(look.echo) ** 2)
        if number < len(work.rounds) - 1:
            state.power = evidence_power(cosine_transform(state.z), state.power, information)
    assert estimate is not None  # noqa: S101  there is one round at least
    assert look is not None  # noqa: S101
    weight = observed.weight
    left = (look.predicted - observed.signals) ** 2 / observed.variances(look.predicted)
    return Solution(
        state,
        look.predicted,
        information,
        linear,
        estimate,
        float((left * weight).sum() / (weight.sum() * left.shape[0])),
        problem.evaluations,
    )


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


def corrected(problem: Problem, state: State, linear: Linear, information: Tensor) -> State:
    """Return a state moved by one step of the fixed point, heights ← heights + inverse(measured − predicted).

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
    return replace(state, z=state.z + inverse_cosine_transform(modes / (information + 1 / state.power)))


def _descend(
    problem: Problem, state: State, information: Tensor, most: int, enough: float, look: Look | None = None
) -> None:
    """Take up to so many steps of L-BFGS; changes the state's heights and oxide.

    The variances are those of the prediction that the round begins with (``look``): value and gradient are of one
    function, and where the rounds come to rest the variances are those of the prediction.
    """
    fields = 2 if problem.with_oxide else 1
    powers = [state.power]
    metrics = [1 / (information + 1 / state.power)]
    if problem.with_oxide:
        powers.append(oxide_power(problem.shape, problem.forward.condition.pixel))
        metrics.append(1 / (oxide_information(problem) + 1 / powers[1]))
    metrics[0] = metrics[0].clone()
    metrics[0][0, 0] = 0.0
    first = look or problem.look(state.nuisances, state.z, state.oxide)
    variances = problem.observed.variances(first.predicted)

    def with_prior(seen: Look, x: Tensor) -> tuple[float, Tensor]:
        value, gradients = seen.value, [seen.gradient, seen.slope][:fields]
        for index in range(fields):
            modes = cosine_transform(x[index])
            value += 0.5 * float((modes**2 / powers[index]).sum())
            gradients[index] = gradients[index] + inverse_cosine_transform(modes / powers[index])
        return value, torch.stack(gradients)

    def cost(x: Tensor) -> tuple[float, Tensor]:
        return with_prior(problem.look(state.nuisances, x[0], x[1] if fields == 2 else state.oxide, variances), x)

    def metric(g: Tensor) -> Tensor:
        return torch.stack(
            [inverse_cosine_transform(each * cosine_transform(part)) for each, part in zip(metrics, g, strict=True)]
        )

    x = torch.stack([state.z, state.oxide][:fields])
    x = minimise(cost, metric, x, most, enough, with_prior(first, x))
    state.z = x[0]
    if fields == 2:
        state.oxide = x[1]


def minimise(
    cost: Callable[[Tensor], tuple[float, Tensor]],
    metric: Callable[[Tensor], Tensor],
    x: Tensor,
    most: int,
    enough: float,
    first: tuple[float, Tensor] | None = None,
) -> Tensor:
    """Return where a cost is least, by preconditioned L-BFGS.

    Parameters
    ----------
    cost : callable
        Answers value and gradient.
    metric : callable
        The inverse curvature, roughly, applied to a gradient.
    x : tensor
    most : int
        Steps.
    enough : float
        A step that gains less is the last.
    first : tuple, optional
        The cost at x, where it is known.
    """
    value, gradient = first or cost(x)
    steps: list[tuple[Tensor, Tensor]] = []
    for _ in range(most):
        direction = -_two_loops(gradient, steps, metric)
        slope = float((gradient * direction).sum())
        length = 1.0
        while True:
            ahead = x + length * direction
            new, new_gradient = cost(ahead)
            if new <= value + 1e-4 * length * slope or length < 0.05:
                break
            length *= 0.4
        if not new <= value:  # nor where it is not a number
            break
        step, turn = ahead - x, new_gradient - gradient
        if float((step * turn).sum()) > 1e-12:
            steps = [*steps, (step, turn)][-MEMORY:]
        gained = value - new
        x, value, gradient = ahead, new, new_gradient
        if gained < enough:
            break
    return x


def _two_loops(gradient: Tensor, steps: list[tuple[Tensor, Tensor]], metric: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the inverse curvature applied to a gradient, from the metric and the steps so far."""
    rest, factors = gradient.clone(), []
    for step, turn in reversed(steps):
        factor = (step * rest).sum() / (step * turn).sum()
        factors.append(factor)
        rest = rest - factor * turn
    out = metric(rest)
    if steps:
        step, turn = steps[-1]
        out = out * ((step * turn).sum() / (turn * metric(turn)).sum())
    for (step, turn), factor in zip(steps, reversed(factors), strict=True):
        out = out + step * (factor - (turn * out).sum() / (step * turn).sum())
    return out


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

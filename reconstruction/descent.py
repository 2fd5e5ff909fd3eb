"""Where a cost is least: L-BFGS (J. Nocedal, Math. Comput. 35 (1980) 773), preconditioned by a metric that is known."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

MEMORY = 8
"""Steps that L-BFGS remembers."""


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

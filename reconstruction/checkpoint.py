"""Checkpoints of a fit: all that it needs to go on exactly where it stopped.

One safetensors file, written whole or not at all: the network, its average, the best average and the optimiser's state
as tensors; as JSON in the file's metadata ``format``, ``version``, ``architecture``, ``basis``, the ``plan``, the
``state`` (steps, seconds, learning curve), and ``data``, which is what the fit was given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivers.errors import InputError, RilievoError
from reconstruction.basis import EmissionBasis
from reconstruction.training import Training, TrainingPlan, start_training
from reconstruction.vft import Architecture
from reconstruction.weights import write_whole

FORMAT, VERSION = "rilievo training", 2
NETWORKS = ("network", "averaged", "best")


@dataclass(slots=True)
class Checkpoint:
    """A fit that was put away.

    Attributes
    ----------
    training : Training
    plan : TrainingPlan
    data : dict
        Of what was fitted, as it was given to :func:`save_checkpoint`.
    """

    training: Training
    plan: TrainingPlan
    data: dict[str, Any]


@contextmanager
def before_each_step(training: Training, call: Callable[[], None]) -> Iterator[None]:
    """Call before each step of a fit, at the moment when all that a checkpoint keeps agrees; it may raise to stop."""
    handle = training.network.register_forward_pre_hook(lambda *_: call())
    try:
        yield
    finally:
        handle.remove()


def save_checkpoint(
    path: Path, training: Training, plan: TrainingPlan, basis: EmissionBasis, data: dict[str, Any]
) -> None:
    """Write a fit under way; a file of the same name is replaced when the new one is complete.

    Raises
    ------
    OSError
        As the system says it; the earlier file is untouched.
    RilievoError
        When the weights are no longer numbers; the earlier file is untouched.
    """
    from safetensors.torch import save

    if not _finite(training.network.state_dict()) or not _finite(training.averaged.state_dict()):
        raise RilievoError(
            f"the fit ran away: after step {training.step} its weights are no longer numbers; what was saved before "
            "stays as it is. Data with more electrons to each pixel, or another seed, may help"
        )
    tensors, scalars = _optimiser_state(training.optimiser)
    for prefix in NETWORKS:
        network = getattr(training, prefix)
        tensors |= {f"{prefix}.{name}": value for name, value in network.state_dict().items()}
    words = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": json.dumps(asdict(training.network.architecture)),
        "basis": json.dumps(_basis_words(basis)),
        "plan": json.dumps(asdict(plan)),
        "state": json.dumps(
            {
                "step": training.step,
                "seconds": training.seconds,
                "curve": training.curve,
                "best_loss": training.best_loss if math.isfinite(training.best_loss) else None,
                "optimiser": scalars,
            }
        ),
        "data": json.dumps(data),
    }
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, words)
    write_whole(path, content)


def load_checkpoint(path: Path, architecture: Architecture, basis: EmissionBasis) -> Checkpoint:
    """Read a fit that was put away.

    Raises
    ------
    InputError
        When the file is missing, damaged, of another version, or of a network of other sizes.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"there is no checkpoint at {path}; leave --resume out to begin a fit")
    try:
        with safe_open(path, framework="pt") as file:
            words = file.metadata() or {}
            _check(path, words, architecture, basis)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  the file is no mapping
        return _assembled(words, tensors, architecture, basis)
    except InputError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        told = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"{path} is not a checkpoint that can be read ({told}); delete it and begin the fit anew"
        ) from None


def is_finished(path: Path) -> bool:
    """Return whether a checkpoint is of a fit that used up its time; a file that cannot be read is not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            words = file.metadata() or {}
        return bool(json.loads(words["state"])["seconds"] >= 60 * json.loads(words["plan"])["minutes"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return False


def _check(path: Path, words: dict[str, str], architecture: Architecture, basis: EmissionBasis) -> None:
    if words.get("format") != FORMAT or words.get("version") != str(VERSION):
        raise InputError(
            f"{path} is of format {words.get('format')!r}, version {words.get('version')}; expected {FORMAT!r}, "
            f"version {VERSION}: delete it and begin the fit anew"
        )
    found, expected = json.loads(words["architecture"]), _plain(asdict(architecture))
    sizes = {**found, **json.loads(words["basis"])}, {**expected, **_basis_words(basis)}
    other = [name for name in {**sizes[0], **sizes[1]} if sizes[0].get(name) != sizes[1].get(name)]
    if other:
        told = ", ".join(f"{name.replace('_', ' ')} {sizes[0].get(name)}" for name in other)
        wanted = ", ".join(f"{name.replace('_', ' ')} {sizes[1].get(name)}" for name in other)
        raise InputError(
            f"{path} is of a network with other sizes ({told}); expected {wanted}: delete it and begin the fit anew"
        )


def _basis_words(basis: EmissionBasis) -> dict[str, Any]:
    return {"lowest": basis.lowest, "order": basis.order.tolist(), "sine": basis.sine.tolist()}


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples as lists."""
    return json.loads(json.dumps(value))


def _finite(tensors: dict[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in tensors.values())


def _optimiser_state(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of each parameter, numbered: tensors, and what is no tensor."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"optimiser.{index}.{name}"] = value
    return tensors, scalars


def _assembled(
    words: dict[str, str], tensors: dict[str, Tensor], architecture: Architecture, basis: EmissionBasis
) -> Checkpoint:
    if not _finite({name: value for name, value in tensors.items() if not name.startswith("optimiser.")}):
        raise ValueError("some weights are not numbers")
    kept: dict[str, Any] = json.loads(words["plan"])
    plan = TrainingPlan(**{**kept, "held_out": tuple(kept["held_out"])})
    state = json.loads(words["state"])
    training = start_training(architecture, plan, basis)
    for network in NETWORKS:
        prefix = f"{network}."
        getattr(training, network).load_state_dict(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        )
    entries: dict[int, dict[str, Any]] = {}
    for place, value in {**tensors, **state["optimiser"]}.items():
        if place.startswith("optimiser."):
            _, index, name = place.split(".", 2)
            entries.setdefault(int(index), {})[name] = value
    training.optimiser.load_state_dict(
        {"state": entries, "param_groups": training.optimiser.state_dict()["param_groups"]}
    )
    training.best_loss = math.inf if state["best_loss"] is None else float(state["best_loss"])
    training.step, training.seconds = int(state["step"]), float(state["seconds"])
    training.curve = [{str(name): float(value) for name, value in point.items()} for point in state["curve"]]
    return Checkpoint(training, plan, json.loads(words["data"]))

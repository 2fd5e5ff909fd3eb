"""Fits the Vision Field Transformer to Monte Carlo electrons.

The targets are the emission coefficients of single samples, about a hundred electrons to a pixel: noisy, but unbiased,
which serves as well as clean ones. Each coefficient's error is divided by its counting variance, so that the loss of a
perfect model is one. The diode's threshold is drawn anew for each sample and step; the symmetries of the square turn
and mirror surfaces and coefficients alike. One family of surfaces takes no part and tells how well others are met.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drivers.errors import InputError
from reconstruction.basis import EmissionBasis
from reconstruction.exit_file import Exits, read_exits
from reconstruction.local_law import STEEPEST_POWER, Condition, LocalLaw, law_terms
from reconstruction.vft import Architecture, Network, VisionFieldTransformer

THRESHOLDS = (0.0, 0.07, 0.14, 0.2, 0.3, 0.45, 0.65)
"""Of the diode, over the beam's energy, that training draws from."""
OXIDE_DEPTH = 0.12
"""Thickness of Cu2O, in electron ranges of the substrate, at which 63 % of the signal is the oxide's."""
LOOKED_AT = 96
"""Held-out surfaces, at the most, that are looked at every minute."""
STEEPEST_FIT = math.radians(75)
"""Planes tilted by more do not enter the local law."""
Progress = Callable[[float, str], None]


def oxide_share(exits: Exits) -> NDArray[np.float32]:
    """Return the share of oxide in each pixel, 0 … 1: by thickness, or 1 for a substrate of Cu2O. (H, W)."""
    if exits.materials[0] == "Cu2O":
        return np.ones_like(exits.height)
    return np.asarray(1 - np.exp(-exits.thickness / (OXIDE_DEPTH * exits.electron_range)), dtype=np.float32)


# -- the local law


def fit_local_law(folder: Path, basis: EmissionBasis) -> LocalLaw:
    """Return the local law of the flat, tilted surfaces of a data set.

    Over the energies each coefficient is a parabola in their logarithm, or less where there are fewer than three: the
    physics changes slowly with the energy, and what is counted at one serves the others.

    Raises
    ------
    InputError
        When the data set has none.
    """
    planes = [read_exits(path) for path in sorted(folder.glob("tilt-*.exits"))]
    planes = [plane for plane in planes if plane.tilt <= STEEPEST_FIT]
    if not planes:
        raise InputError(f"{folder} holds no tilted planes; add them with: rilievo simulate dataset … --tilts")
    energies = tuple(sorted({plane.energy for plane in planes}))
    terms = law_terms(basis)
    order = basis.order[terms]
    table = np.zeros((2, len(energies), len(THRESHOLDS), len(terms), STEEPEST_POWER))
    for oxide, name in enumerate(("Cu", "Cu2O")):
        chosen = [plane for plane in planes if plane.materials[0] == name]
        for energy in energies:
            count = sum(plane.energy == energy for plane in chosen)
            if count <= STEEPEST_POWER:
                raise InputError(
                    f"{folder} holds {count} tilted planes of {name} at {energy:g} keV; expected {STEEPEST_POWER + 1}"
                )
        sine = np.array([math.sin(plane.tilt) for plane in chosen])
        place = np.array([energies.index(plane.energy) for plane in chosen])
        found = np.stack([plane.coefficients(basis, THRESHOLDS)[0].mean(axis=(2, 3))[:, terms] for plane in chosen])
        table[oxide] = np.moveaxis(_law_fit(sine, np.log(energies), place, order, found), 2, 0)
    return LocalLaw(energies, THRESHOLDS, torch.from_numpy(table).float())


def _law_fit(
    sine: NDArray[np.float64],
    nodes: NDArray[np.float64],
    place: NDArray[np.int64],
    order: NDArray[np.int64],
    found: NDArray[np.floating[Any]],
) -> Any:
    """Return (J, F, energies, n): least squares of sin^m · (sin²)^n over tilts and energies; counting errors are alike.

    ``sine``, ``place`` (planes,): of the tilt, and which of the energies, whose logarithms are ``nodes``;
    ``found`` (planes, J, F).
    """
    curve = np.vander(nodes - nodes.mean(), min(3, len(nodes)), increasing=True)
    fitted = np.empty((found.shape[1], len(order), len(nodes), STEEPEST_POWER))
    for pair, m in enumerate(order):
        powers = np.stack([sine ** (int(m) + 2 * n) for n in range(STEEPEST_POWER)], axis=1)
        design = (curve[place][:, :, None] * powers[:, None, :]).reshape(len(sine), -1)
        solved = np.linalg.lstsq(design, found[:, :, pair], rcond=None)[0]
        parts = solved.T.reshape(-1, curve.shape[1], STEEPEST_POWER)
        fitted[:, pair] = curve @ parts
    return fitted


# -- the data


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One Monte Carlo surface, ready for training.

    Attributes
    ----------
    z : (H, W) float32 tensor, pixels
    oxide : (H, W) float32 tensor
    targets : (J, K, H, W) float16 tensor
        Coefficients for each of ``THRESHOLDS``, over the flat surface's first.
    variances : (J, K) tensor
        Of the targets, in a pixel.
    conditions : tuple of Condition
        For each threshold.
    family : str
    """

    z: Tensor
    oxide: Tensor
    targets: Tensor
    variances: Tensor
    conditions: tuple[Condition, ...]
    family: str


def load_sample(path: Path, law: LocalLaw, basis: EmissionBasis, family: str) -> Sample:
    """Read a sample of a data set and project its electrons."""
    exits = read_exits(path)
    substrate = exits.materials[0]
    if substrate not in ("Cu", "Cu2O"):
        raise InputError(f"{path}: expected a substrate of Cu or Cu2O; got {substrate}")
    ratio = exits.pixel_size / exits.electron_range
    oxide = substrate == "Cu2O"
    conditions = tuple(Condition(ratio, exits.energy, threshold, oxide) for threshold in THRESHOLDS)
    levels = np.array([float(law.at(each, oxide)[0, 0]) for each in conditions])
    targets, variances = exits.coefficients(basis, THRESHOLDS)
    targets /= levels[:, None, None, None].astype(np.float32)
    variances /= levels[:, None] ** 2
    z = (exits.height - exits.height.mean()) / exits.pixel_size
    return Sample(
        torch.from_numpy(np.ascontiguousarray(z)).float(),
        torch.from_numpy(oxide_share(exits)),
        torch.from_numpy(targets.astype(np.float16)),
        torch.from_numpy(variances).float(),
        conditions,
        family,
    )


def load_samples(folder: Path, law: LocalLaw, basis: EmissionBasis, progress: Progress | None = None) -> list[Sample]:
    """Read all samples of a data set.

    Raises
    ------
    InputError
        For a folder that is not a data set, or one without samples.
    """
    try:
        families = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["plan"]["families"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is not a data set of rilievo simulate dataset ({error})") from None
    paths = sorted(folder.glob("sample-*.exits"))
    if not paths:
        raise InputError(f"{folder} holds no samples; add some with: rilievo simulate dataset {folder} --time '30 min'")
    samples = []
    for index, path in enumerate(paths):
        if progress is not None:
            progress(index / len(paths), f"reading {path.name}")
        number = int(path.stem.removeprefix("sample-"))
        samples.append(load_sample(path, law, basis, families[number % len(families)]))
    return samples


# -- the fit


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How the network is fitted.

    Attributes
    ----------
    minutes : float, min
        Of training; the learning rate falls to nothing over them.
    batch : int
        Surfaces in a step.
    rate : float
        Highest learning rate.
    held_out : tuple of str
        Families that only validate.
    seed : int
    average : float
        Decay of the exponential average of the weights, per step.
    floor : float
        Last learning rate over the highest. Where it falls to nothing, the electrons' noise is learned by heart: the
        held-out surfaces were met best at half the highest rate.
    """

    minutes: float = 45.0
    batch: int = 8
    rate: float = 2e-3
    held_out: tuple[str, ...] = ("caps",)
    seed: int = 0
    average: float = 0.999
    floor: float = 0.5


@dataclass(slots=True)
class Training:
    """A fit under way: what a checkpoint keeps.

    Attributes
    ----------
    network, averaged : Network
        As it is now, and its exponential average.
    best : Network
        The average at the moment when it met the held-out surfaces best.
    best_loss : float
        Of the held-out surfaces then; infinite before the first look at them.
    """

    network: Network
    averaged: Network
    best: Network
    optimiser: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = math.inf

    @property
    def result(self) -> Network:
        """What the fit gives: the best average, or, where no surfaces are held out, the last."""
        return self.best if math.isfinite(self.best_loss) else self.averaged


def batches(samples: list[Sample], plan: TrainingPlan, basis: EmissionBasis, start: int) -> Iterator[tuple[Any, ...]]:
    """Draw batches for ever; batch n depends on the plan and n alone."""
    number = start
    while True:
        rng = np.random.default_rng([plan.seed, number])
        chosen = [samples[index] for index in rng.choice(len(samples), plan.batch, replace=len(samples) < plan.batch)]
        yield collate(chosen, rng, basis)
        number += 1


def collate(samples: list[Sample], rng: np.random.Generator, basis: EmissionBasis) -> tuple[Any, ...]:
    """Return z, oxide, targets, variances and conditions of samples, each turned and mirrored at random."""
    fields: tuple[list[Tensor], ...] = ([], [], [], [])
    conditions = []
    for sample in samples:
        place = int(rng.integers(len(THRESHOLDS)))
        if not torch.isfinite(sample.variances[place]).all() or sample.conditions[place].energy <= 0:
            place = 0
        quarters, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        source, sign = basis.turned(quarters, mirrored)
        target = sample.targets[place].float()[source] * torch.from_numpy(sign).float()[:, None, None]
        for kept, image in zip(fields[:3], (sample.z, sample.oxide, target), strict=True):
            turned = torch.flip(image, (-1,)) if mirrored else image
            kept.append(torch.rot90(turned, quarters, (-2, -1)))
        fields[3].append(sample.variances[place][source])
        conditions.append(sample.conditions[place])
    z, oxide, target, variance = (torch.stack(each) for each in fields)
    return z, oxide, target, variance, conditions


def predict(
    network: Network, law: LocalLaw, basis: EmissionBasis, z: Tensor, oxide: Tensor, conditions: list[Condition]
) -> Tensor:
    """Return the coefficients over the flat surface's first, for surfaces of different conditions. (B, K, H, W)."""
    whole = VisionFieldTransformer(network, law, basis)
    local = torch.cat(
        [
            whole.local(z[i : i + 1], oxide[i : i + 1], each) / whole.flat_level(each)
            for i, each in enumerate(conditions)
        ]
    )
    vectors = torch.stack([each.vector() for each in conditions])
    change: Tensor = network(z, oxide, tuple(each.pixel for each in conditions), vectors)
    return local + change


def start_training(architecture: Architecture, plan: TrainingPlan, basis: EmissionBasis) -> Training:
    """Return a fit that has not begun."""
    torch.manual_seed(plan.seed)
    network = Network(architecture, len(basis))
    averaged, best = (Network(architecture, len(basis)) for _ in range(2))
    for copy in (averaged, best):
        copy.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=1e-3, betas=(0.9, 0.99))
    return Training(network, averaged, best, optimiser)


def start_from(training: Training, model: VisionFieldTransformer) -> None:
    """Begin a fit with a model's weights.

    Raises
    ------
    InputError
        For a model of another architecture.
    """
    try:
        for network in (training.network, training.averaged, training.best):
            network.load_state_dict(model.network.state_dict())
    except RuntimeError:
        raise InputError("the weights to begin with belong to another architecture; start without them") from None


def fit(
    training: Training,
    samples: list[Sample],
    law: LocalLaw,
    basis: EmissionBasis,
    plan: TrainingPlan,
    progress: Progress | None = None,
    checkpoint: Callable[[Training], None] | None = None,
) -> None:
    """Go on with a fit until its time is used up.

    Parameters
    ----------
    training : Training
        Changed in place.
    samples : list of Sample
    law, basis
    plan : TrainingPlan
    progress : callable, optional
    checkpoint : callable, optional
        Called about every two minutes and at the end.
    """
    kept = [sample for sample in samples if sample.family not in plan.held_out]
    held = [sample for sample in samples if sample.family in plan.held_out]
    if not kept:
        raise InputError("all samples belong to the families that are held out; nothing is left to train with")
    budget, saved = plan.minutes * 60, training.seconds
    looked, losses = training.seconds, []
    for z, oxide, target, variance, conditions in batches(kept, plan, basis, training.step):
        begin = time.perf_counter()
        share = training.seconds / budget
        if share >= 1:
            break
        warm = min(1.0, (training.step + 1) / 200)
        for group in training.optimiser.param_groups:
            falling = 0.5 * (1 + math.cos(math.pi * share))
            group["lr"] = plan.rate * warm * (plan.floor + (1 - plan.floor) * falling)
        found = predict(training.network, law, basis, z, oxide, conditions)
        loss = ((found - target) ** 2 / variance[:, :, None, None]).mean()
        training.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.network.parameters(), 1.0)
        training.optimiser.step()
        training.step += 1
        _average(training, min(plan.average, 1 - 10 / (training.step + 10)))
        losses.append(float(loss.detach()))
        training.seconds += time.perf_counter() - begin
        if training.seconds - looked > 60:
            looked = training.seconds
            figures = {"minutes": training.seconds / 60, "step": training.step, "loss": float(np.mean(losses))}
            figures |= evaluate(training.averaged, held, law, basis, LOOKED_AT) if held else {}
            _keep_best(training, figures)
            training.curve.append(figures)
            losses = []
            if progress is not None:
                words = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                progress(min(share, 1.0), words)
        if checkpoint is not None and training.seconds - saved > 120:
            saved = training.seconds
            checkpoint(training)
    if checkpoint is not None:
        checkpoint(training)


def _keep_best(training: Training, figures: dict[str, float]) -> None:
    """Note the averaged weights where no earlier ones met the held-out surfaces as well."""
    if figures.get("held_out_loss", math.inf) < training.best_loss:
        training.best_loss = figures["held_out_loss"]
        training.best.load_state_dict(training.averaged.state_dict())


def _average(training: Training, decay: float) -> None:
    with torch.no_grad():
        for kept, new in zip(training.averaged.parameters(), training.network.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


def evaluate(
    network: Network, samples: list[Sample], law: LocalLaw, basis: EmissionBasis, most: int | None = None
) -> dict[str, float]:
    """Return how far a network is from the electrons of samples, counting noise removed.

    Returns
    -------
    dict
        ``held_out_loss`` (a perfect model: 1), ``model_error`` (rms of the error over the rms of what relief adds to a
        flat surface's emission, both less counting noise, at a threshold of a fifth of the beam's energy) and
        ``local_error``, the same of the local law alone.
    """
    place = THRESHOLDS.index(0.2)
    sums = np.zeros(4)
    chosen = samples[:most]
    with torch.no_grad():
        for sample in chosen:
            condition = sample.conditions[place]
            target, noise = sample.targets[place].float(), sample.variances[place]
            z, oxide = sample.z[None], sample.oxide[None]
            found = predict(network, law, basis, z, oxide, [condition])[0]
            whole = VisionFieldTransformer(network, law, basis)
            local = whole.local(z, oxide, condition)[0] / whole.flat_level(condition)
            flat = whole.local(torch.zeros_like(z), oxide, condition)[0] / whole.flat_level(condition)
            weight = 1 / noise[:, None, None]
            sums += [
                float((((found - target) ** 2) * weight).mean()),
                float(((found - target) ** 2 - noise[:, None, None]).sum(0).mean()),
                float(((local - target) ** 2 - noise[:, None, None]).sum(0).mean()),
                float(((flat - target) ** 2 - noise[:, None, None]).sum(0).mean()),
            ]
    loss, model, local_error, signal = sums / max(1, len(chosen))
    return {
        "held_out_loss": float(loss),
        "model_error": _root(model / signal),
        "local_error": _root(local_error / signal),
    }


def _root(square: float) -> float:
    """Return a root that keeps the sign: an estimate with its noise removed may fall below nothing."""
    return math.copysign(math.sqrt(abs(square)), square)

"""The model card: what a transformer was trained on, by which commands, how good it is, and where it is valid.

Also what a data set says of itself before any of its electrons is read, so that a fit that cannot succeed is refused at
once, and a picture of how the fit went.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drivers.errors import InputError
from reconstruction.basis import EmissionBasis
from reconstruction.features import slopes
from reconstruction.local_law import LocalLaw
from reconstruction.training import THRESHOLDS, Sample, Training, TrainingPlan, evaluate
from reconstruction.vft import TOKEN, WINDOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT, VERSION = "rilievo model card", 1
DATA_FORMAT = "rilievo data set"
PIXEL_CLASSES = (0.0, 0.05, 0.1, 0.2, math.inf)
"""Edges of the classes of pixel size, in electron ranges, by which figures are told."""
STEEPEST_SHARE = 0.999
"""Quantile of the slopes that counts as the steepest seen."""
_INK, _OURS, _OTHER, _FAINT = "#22303c", "#2a6f97", "#c8553d", "#8a97a3"


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set of ``rilievo simulate dataset``, as its folder tells it.

    Attributes
    ----------
    folder : Path
    plan : dict
        As ``dataset.json`` has it.
    physics : str
        Version of the Monte Carlo.
    families : tuple of str
        Of each sample.
    planes : int
        Tilted planes, for the local law.
    """

    folder: Path
    plan: dict[str, Any]
    physics: str
    families: tuple[str, ...]
    planes: int

    @property
    def electrons(self) -> int:
        """Beam electrons that were followed into all samples."""
        return len(self.families) * int(self.plan["electrons"]) * int(self.plan["pixels"]) ** 2

    def words(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return {"name": self.folder.resolve().name, "samples": len(self.families), "plan": self.plan}


def read_data_sets(folder: Path, further: Sequence[Path]) -> tuple[DataSet, ...]:
    """Read what data sets are that are trained with together: the first has the tilted planes for all.

    Raises
    ------
    InputError
        As :func:`read_data_set`; also for samples of different sizes, or one folder twice.
    """
    first = read_data_set(folder)
    others = [read_data_set(each, planes=False) for each in further]
    for each in others:
        if each.plan["pixels"] != first.plan["pixels"]:
            raise InputError(
                f"{each.folder} holds samples of {each.plan['pixels']} pixels, {folder} of {first.plan['pixels']}; "
                "expected the same in all data sets"
            )
    if len({each.folder.resolve() for each in (first, *others)}) <= len(others):
        raise InputError("a data set was given twice; name each once", "--with")
    return first, *others


def read_data_set(folder: Path, *, planes: bool = True) -> DataSet:
    """Read what a data set is, and whether it can be trained with.

    Raises
    ------
    InputError
        For a folder that is missing or no data set, or that lacks samples or, where ``planes`` are wanted, tilted ones.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}; make a data set with: rilievo simulate dataset {folder} --tilts --time '1 h'"
        )
    plan, physics = _description(folder / "dataset.json")
    side = TOKEN * WINDOW
    if plan["pixels"] % side:
        raise InputError(f"{folder} holds samples of {plan['pixels']} pixels; expected a multiple of {side}")
    numbers = _numbers(folder, "sample")
    if not numbers:
        raise InputError(f"{folder} holds no samples; add some with: rilievo simulate dataset {folder} --time '30 min'")
    tilted = len(_numbers(folder, "tilt"))
    if planes and not tilted:
        raise InputError(f"{folder} holds no tilted planes; add them with: rilievo simulate dataset {folder} --tilts")
    families = plan["families"]
    return DataSet(folder, plan, physics, tuple(families[number % len(families)] for number in numbers), tilted)


def _description(path: Path) -> tuple[dict[str, Any], str]:
    """Return the plan of a data set and the version of its physics."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        plan = found["plan"]
        sound = (
            found["format"] == DATA_FORMAT
            and all(type(plan[name]) is int and plan[name] > 0 for name in ("pixels", "electrons"))
            and all(plan[name] and isinstance(plan[name], list) for name in ("families", "energies", "materials"))
        )
        physics = str(found["physics"])
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} is not a data set of rilievo simulate dataset: it has no dataset.json"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a data set ({type(error).__name__}: {error})") from None
    if not sound:
        raise InputError(f"{path} does not describe a data set; expected one of rilievo simulate dataset")
    return plan, physics


def _numbers(folder: Path, kind: str) -> list[int]:
    names = [path.stem.removeprefix(f"{kind}-") for path in sorted(folder.glob(f"{kind}-*.exits"))]
    odd = [name for name in names if not name.isdecimal()]
    if odd:
        raise InputError(f"{folder} holds {kind}-{odd[0]}.exits, which no data set has; expected {kind}-000000.exits …")
    return [int(name) for name in names]


def choose_held_out(data: DataSet, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the families that only validate; the usual ones, as far as there are any, unless some are asked for.

    Raises
    ------
    InputError
        For a family without samples, or where none is left to train with.
    """
    there = list(dict.fromkeys(data.families))
    if asked is None:
        chosen = [name for name in TrainingPlan().held_out if name in there and len(there) > 1]
    else:
        chosen = [name for name in dict.fromkeys(asked) if name != "none"]
    for name in chosen:
        if name not in there:
            raise InputError(f"no sample of {data.folder} is of the family {name!r}; there are {', '.join(there)}")
    if len(chosen) == len(there):
        raise InputError(
            f"with {', '.join(chosen)} held out nothing is left to train with; {data.folder} has no other families"
        )
    return tuple(chosen)


# -- figures


def held_out_figures(
    training: Training,
    samples: Iterable[Sample],
    law: LocalLaw,
    basis: EmissionBasis,
    plan: TrainingPlan,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any] | None:
    """Return how far the fitted network is from surfaces that took no part; None where there are none.

    Returns
    -------
    dict
        ``held_out_loss``, ``model_error``, ``local_error`` (:func:`reconstruction.training.evaluate`) over all, and
        the same ``by_energy`` (keV) and ``by_pixel_size`` (from, to; electron ranges), each with its number of samples.
    """
    held = [sample for sample in samples if sample.family in plan.held_out]
    if not held:
        return None
    groups: list[tuple[str, dict[str, Any], list[Sample]]] = [("all", {}, held)]
    for energy in sorted({_energy(sample) for sample in held}):
        chosen = [sample for sample in held if _energy(sample) == energy]
        groups.append(("by_energy", {"energy": energy}, chosen))
    for low, high in pairwise(PIXEL_CLASSES):
        chosen = [sample for sample in held if low <= _pixel(sample) < high]
        if chosen:
            edges = [low, high if math.isfinite(high) else None]
            groups.append(("by_pixel_size", {"pixel_size": edges}, chosen))
    found: dict[str, Any] = {"families": list(plan.held_out), "threshold": 0.2, "by_energy": [], "by_pixel_size": []}
    for index, (kind, where, chosen) in enumerate(groups):
        if progress is not None:
            progress(index / len(groups), "figures on held-out surfaces")
        figures = {name: _number(value) for name, value in evaluate(training.result, chosen, law, basis).items()}
        figures["samples"] = len(chosen)
        if kind == "all":
            found |= figures
        else:
            found[kind].append({**where, **figures})
    return found


def _energy(sample: Sample) -> float:
    return sample.conditions[0].energy


def _pixel(sample: Sample) -> float:
    return sample.conditions[0].pixel


def _number(value: float) -> float | None:
    """Return a figure as JSON can hold it."""
    return float(value) if math.isfinite(value) else None


# -- the card


def build_card(
    data: Sequence[DataSet],
    samples: Sequence[Sample],
    training: Training,
    plan: TrainingPlan,
    figures: dict[str, Any] | None,
    commands: dict[str, str],
    created: str,
) -> dict[str, Any]:
    """Return the card of a trained model.

    Parameters
    ----------
    data : sequence of DataSet
        The first has the tilted planes.
    samples : sequence of Sample
        All of them, those held out as well.
    training : Training
    plan : TrainingPlan
    figures : dict or None
        From :func:`held_out_figures`.
    commands : dict
        The command lines that made ``data`` and ``weights``.
    created : str
        UTC time.
    """
    kept = [sample for sample in samples if sample.family not in plan.held_out]
    network = training.network
    return {
        "format": FORMAT,
        "version": VERSION,
        "program": _program(),
        "created": created,
        "commands": commands,
        "data": _data_words(data, samples, kept),
        "network": {
            **asdict(network.architecture),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        },
        "training": {
            "seconds": round(training.seconds, 3),
            "steps": training.step,
            **asdict(plan),
            "curve": training.curve,
        },
        "figures": figures,
        "limits": limits(kept),
    }


def _program() -> str:
    try:
        return f"rilievo {version('rilievo')}"
    except PackageNotFoundError:
        return "rilievo"


def _data_words(data: Sequence[DataSet], samples: Sequence[Sample], kept: Sequence[Sample]) -> dict[str, Any]:
    first, *others = data
    sizes = [_pixel(sample) for sample in kept]
    return {
        "name": first.folder.resolve().name,
        "samples": len(samples),
        "trained_on": len(kept),
        "held_out": len(samples) - len(kept),
        "tilted_planes": first.planes,
        "electrons": sum(each.electrons for each in data),
        "energies_keV": sorted({_energy(sample) for sample in samples}),
        "families": dict(Counter(sample.family for sample in samples)),
        "materials": _materials(samples),
        "with_oxide_layers": sum(
            bool((sample.oxide > 0).any()) for sample in samples if not sample.conditions[0].oxide
        ),
        "pixel_sizes_in_ranges": [min(sizes), max(sizes)],
        "physics": first.physics,
        "plan": first.plan,
        "further": [each.words() for each in others],
    }


def _materials(samples: Iterable[Sample]) -> list[str]:
    kinds = {sample.conditions[0].oxide for sample in samples}
    return [name for name, oxide in (("Cu", False), ("Cu2O", True)) if oxide in kinds]


def limits(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return where a model that was trained on samples is valid.

    Returns
    -------
    dict
        ``materials``; from and to of ``beam energy`` (keV), ``pixel size`` (electron ranges) and ``diode threshold``
        (over the beam's energy); ``steepest slope`` (deg), below which 99.9 % of the slopes lie.
    """
    energies, sizes = [_energy(sample) for sample in samples], [_pixel(sample) for sample in samples]
    return {
        "materials": _materials(samples),
        "beam energy": [min(energies), max(energies)],
        "pixel size": [min(sizes), max(sizes)],
        "diode threshold": [THRESHOLDS[0], THRESHOLDS[-1]],
        "steepest slope": steepest_slope(samples),
    }


def steepest_slope(samples: Iterable[Sample]) -> float:
    """Return the tilt (deg) below which 99.9 % of the samples' pixels lie."""
    tangents = []
    for sample in samples:
        p, q = slopes(sample.z)
        tangents.append(np.hypot(p.numpy(), q.numpy()).ravel())
    return round(math.degrees(math.atan(float(np.quantile(np.concatenate(tangents), STEEPEST_SHARE)))), 2)


# -- the picture


def draw_curve(card: dict[str, Any], path: Path) -> None:
    """Draw how a fit went as PNG: the loss, and the model's error on held-out surfaces beside the local law's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10.5, 4.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(canvas)
    left, right = canvas.subplots(1, 2)
    curve, figures = card["training"]["curve"], card["figures"]
    end = card["training"]["seconds"] / 60
    minutes = [point["minutes"] for point in curve]
    _line(left, minutes, [point["loss"] for point in curve], "surfaces trained on", _FAINT)
    left.axhline(1.0, color=_INK, lw=0.8, ls=(0, (4, 3)), label="counting noise alone")
    if figures is None:
        right.set_axis_off()
        right.text(0.5, 0.5, "no family was held out", ha="center", va="center", color=_INK, transform=right.transAxes)
    else:
        names = ", ".join(figures["families"])
        count = figures["samples"]
        _held_out(left, curve, "held_out_loss", f"held-out surfaces ({names})", _OURS, figures, end)
        _held_out(right, curve, "local_error", "local law alone", _OTHER, figures, end, 100)
        _held_out(right, curve, "model_error", "transformer", _OURS, figures, end, 100)
        right.axhline(0.0, color=_INK, lw=0.8)
        _dress(right, "Error on held-out surfaces, noise removed", "error / topographic signal (%)")
        right.set_xlabel(f"training (min); ◇ at the end, over all {count} of them", color=_INK)
    _dress(left, "Squared error over counting variance", "loss")
    canvas.savefig(path, dpi=110)


def _held_out(
    ax: Axes,
    curve: list[dict[str, float]],
    name: str,
    label: str,
    colour: str,
    figures: dict[str, Any],
    end: float,
    scale: float = 1.0,
) -> None:
    """Draw a figure on the held-out surfaces looked at on the way, and that of the finished model over all of them."""
    points = [(point["minutes"], point[name] * scale) for point in curve if math.isfinite(point.get(name, math.nan))]
    _line(ax, [point[0] for point in points], [point[1] for point in points], label, colour)
    if figures[name] is not None:
        ax.plot([end], [figures[name] * scale], "D", ms=8, mfc="white", color=colour, label=None if points else label)


def _line(ax: Axes, x: list[float], y: list[float], label: str, colour: str) -> None:
    if x:
        ax.plot(x, y, color=colour, lw=1.6, marker="o", ms=3, label=label)


def _dress(ax: Axes, title: str, label: str) -> None:
    ax.set_title(title, fontsize=10, color=_INK, loc="left")
    ax.set_xlabel("training (min)", color=_INK)
    ax.set_ylabel(label, color=_INK)
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(colors=_INK, labelsize=9)
    ax.legend(frameon=False, fontsize=9, loc="best")

"""Reads and writes trained transformers: one safetensors file with the network, the local law and the model card.

The file's metadata hold, as JSON: ``format``, ``version``, ``architecture``, ``basis``, the axes of the ``law``, and
the ``card``, which says what the model was trained on, by which command, how good it is, and where it is valid.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drivers.errors import InputError
from reconstruction.basis import emission_basis
from reconstruction.local_law import Condition, LocalLaw
from reconstruction.vft import Architecture, Network, VisionFieldTransformer

FORMAT, VERSION = "rilievo transformer", 1
SHIPPED = Path(__file__).with_name("trained") / "copper.safetensors"
"""Trained on Cu and Cu2O."""


def save_model(path: Path, model: VisionFieldTransformer) -> None:
    """Write a model, whole or not at all.

    Raises
    ------
    OSError
        As the system says it; an earlier file is untouched.
    """
    from safetensors.torch import save

    tensors = {f"network.{name}": value.contiguous() for name, value in model.network.state_dict().items()}
    tensors["law"] = model.law.table.contiguous()
    basis = model.basis
    words = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": json.dumps(asdict(model.network.architecture)),
        "basis": json.dumps({"lowest": basis.lowest, "polar": _polar(basis.order.tolist(), basis.sine.tolist())}),
        "law": json.dumps({"energies": model.law.energies, "thresholds": model.law.thresholds}),
        "card": json.dumps(model.card),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, words))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole, or not at all.

    Raises
    ------
    OSError
        As the system says it; an earlier file is untouched.
    """
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _polar(order: list[int], sine: list[bool]) -> list[int]:
    counted = [m for m, odd in zip(order, sine, strict=True) if not odd]
    return [counted.count(m) for m in range(max(counted) + 1)]


def load_model(path: Path | None = None) -> VisionFieldTransformer:
    """Read a model; the shipped one unless a path is given.

    Raises
    ------
    InputError
        When the file is missing, damaged, or of another version.
    """
    chosen = path or SHIPPED
    try:
        stamp = chosen.stat()
    except OSError:
        told = "it comes with the package: install it again, or train it with: rilievo train" if path is None else ""
        raise InputError(
            f"there are no weights at {chosen}; {told or 'give the path of a file of rilievo train'}"
        ) from None
    return _loaded(str(chosen), stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=4)
def _loaded(path: str, _changed: int, _size: int) -> VisionFieldTransformer:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            words = file.metadata() or {}
            if words.get("format") != FORMAT or words.get("version") != str(VERSION):
                raise InputError(
                    f"{path} is of format {words.get('format')!r}, version {words.get('version')}; expected "
                    f"{FORMAT!r}, version {VERSION}: train it again with this program"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  the file is no mapping
        return _assembled(words, tensors)
    except InputError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} does not hold weights that can be read ({_first_line(error)}); fetch or train it again"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _assembled(words: dict[str, str], tensors: dict[str, Tensor]) -> VisionFieldTransformer:
    sizes: dict[str, Any] = json.loads(words["architecture"])
    architecture = Architecture(**{**sizes, "scales": tuple(sizes["scales"])})
    kept = json.loads(words["basis"])
    basis = emission_basis(tuple(kept["polar"]))
    if abs(float(kept["lowest"]) - basis.lowest) > 1e-9:
        raise ValueError(f"its basis ends at d_z = {kept['lowest']}, this program's at {basis.lowest:.6g}")
    axes = json.loads(words["law"])
    law = LocalLaw(tuple(axes["energies"]), tuple(axes["thresholds"]), tensors.pop("law"))
    network = Network(architecture, len(basis))
    network.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items()})
    if not all(bool(torch.isfinite(value).all()) for value in (law.table, *network.state_dict().values())):
        raise ValueError("some weights are not numbers")
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return VisionFieldTransformer(network, law, basis, json.loads(words["card"]))


def check_material(card: dict[str, Any], material: str) -> None:
    """Refuse a material that the model was not trained on.

    Raises
    ------
    InputError
    """
    known = card["limits"]["materials"]
    if material not in known:
        raise InputError(
            f"the transformer was trained on {' and '.join(known)}, not on {material}: use --quality preview, whose "
            "local law knows other materials, or train it on that material"
        )


def check_validity(card: dict[str, Any], condition: Condition) -> list[str]:
    """Return in words where a condition lies outside a model card; empty where it lies inside."""
    said = []
    for name, value, unit in (
        ("beam energy", condition.energy, " keV"),
        ("pixel size", condition.pixel, " electron ranges"),
        ("diode threshold", condition.threshold, " of the beam energy"),
    ):
        low, high = card["limits"][name]
        if not low * 0.999 <= value <= high * 1.001:
            said.append(
                f"THE {name.upper()} OF {value:.3g}{unit} LIES OUTSIDE WHAT THE TRANSFORMER WAS TRAINED ON, {low:g} to "
                f"{high:g}{unit}: heights and σ are not to be trusted"
            )
    return said

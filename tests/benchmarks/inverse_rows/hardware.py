"""Nuisances: metadata that are not true, what they do to the heights, and what the frame tells of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from drivers.frame import Frame
from inverse_rows.table import CROP, NM, NORMAL, Bench, Floats
from reconstruction import inverse
from reconstruction.bounds import (
    height_error,
)
from reconstruction.photometric import Reconstruction


@dataclass
class Wrong:
    """A frame whose metadata are not true, and what would set them right."""

    name: str
    frame: Frame
    gains: Floats
    offsets: Floats
    shift: tuple[float, float]
    rotation: float


def wrong_frames(frame: Frame, which: int = 1) -> list[Wrong]:
    """Return the islands' frame with metadata that are off by the goals' amounts."""
    count = len(frame.channels)
    level = float(frame.counts[which].mean()) - float(frame.channels[which].offset or 0.0)

    def make(name: str, gain: float, offset: float, shift: tuple[float, float], turn: float) -> Wrong:
        channel = frame.channels[which]
        told = replace(
            channel, gain=(channel.gain or 1.0) * (1 + gain), offset=(channel.offset or 0.0) + offset * level
        )
        channels = tuple(told if index == which else each for index, each in enumerate(frame.channels))
        x, y = frame.geometry.centre_offset
        geometry = replace(
            frame.geometry,
            centre_offset=(x - shift[0], y - shift[1]),
            rotation=frame.geometry.rotation - math.radians(turn),
        )
        one = np.arange(count) == which
        gains = np.where(one, 1 / (1 + gain), 1.0)
        return Wrong(name, replace(frame, geometry=geometry, channels=channels), gains, np.where(one, -offset, 0.0),
                     shift, math.radians(turn))  # fmt: skip

    return [
        make("nothing wrong", 0.0, 0.0, (0.0, 0.0), 0.0),
        make("gain of one segment 5 %", 0.05, 0.0, (0.0, 0.0), 0.0),
        make("offset of one segment 1 %", 0.0, 0.01, (0.0, 0.0), 0.0),
        make("detector shifted by 0.3 mm", 0.0, 0.0, (0.3e-3, 0.0), 0.0),
        make("detector turned by 2°", 0.0, 0.0, (0.0, 0.0), 2.0),
        make("all of them", 0.05, 0.01, (0.3e-3, 0.0), 2.0),
    ]


def nuisances(bench: Bench) -> None:
    """Errors of the hardware's figures: what they do to the heights, and whether they are found."""
    bench.head("nuisances: islands at 5 keV; what the metadata have wrong, and what the frame tells")
    case = bench.case("A-islands")
    if case is None:
        return
    before, grown, covers = 0.0, [], []
    for wrong in wrong_frames(case.frame):
        result = inverse.reconstruct(wrong.frame, quality="full")
        error = height_error(result.z, case.truth.z, CROP).rms
        before = before or error
        single, together, words = _recovered(wrong, result)
        covers.append((single, together))
        grown.append(error / before - 1)
        print(f"    {wrong.name:28s} {error / NM:.2f} nm ({grown[-1]:+.1%}); {words}", flush=True)
        bench.data.setdefault("nuisances", {})[wrong.name] = {"error": error, "grown": grown[-1], "words": words}
    bench.row("height error grows by", "≤ 20 %", f"worst {max(grown[1:]):+.1%}", max(grown[1:]) <= 0.2)
    for name, place in (
        ("gains, offsets, shift, turn within their 95 %", 0),
        ("the slope that stands for all, within", 1),
    ):
        hits = np.concatenate([each[place] for each in covers])
        bench.row(name, "95 %", f"{hits.sum()} of {hits.size}", bool(hits.mean() >= 0.9))


def _recovered(wrong: Wrong, result: Reconstruction) -> tuple[NDArray[np.bool_], NDArray[np.bool_], str]:
    """Return which numbers, and which of the slopes that stand for all, are within their intervals; and some words."""
    assert result.nuisances is not None
    found, doubt = result.nuisances.nuisances, result.nuisances.errors
    # One common factor of all gains is the beam's.
    gains = found.gains.double().numpy()
    levels = inverse.prepare(result.frame, "Cu").observed.signals.mean(dim=(1, 2)).double().numpy()
    pairs = [
        (gains / gains.mean(), wrong.gains / wrong.gains.mean(), doubt.gains.double().numpy()),
        (found.offsets.double().numpy() / levels, wrong.offsets, doubt.offsets.double().numpy() / levels),
        (found.shift.double().numpy(), np.array(wrong.shift), doubt.shift.double().numpy()),
        (found.rotation.double().numpy(), np.array(wrong.rotation), doubt.rotation.double().numpy()),
    ]
    hits = [np.atleast_1d(np.abs(a - b) <= NORMAL * c) for a, b, c in pairs]
    slope, error = result.nuisances.combination.double().numpy(), result.nuisances.combination_error.double().numpy()
    wanted = combination(wrong, result.frame)
    together = np.abs(slope - wanted) <= NORMAL * error
    turn = math.degrees(float(found.rotation)), math.degrees(NORMAL * float(doubt.rotation))
    words = (
        f"gain {pairs[0][0][1]:.3f} ± {NORMAL * pairs[0][2][1]:.3f} (true {pairs[0][1][1]:.3f}), shift "
        f"{found.shift[0] * 1e3:+.2f} ± {NORMAL * doubt.shift[0] * 1e3:.2f} mm ({wrong.shift[0] * 1e3:+.1f}), turn "
        f"{turn[0]:+.1f} ± {turn[1]:.1f}° ({math.degrees(wrong.rotation):+.0f}); together like a slope of "
        f"{slope[0]:+.4f} ± {NORMAL * error[0]:.4f} ({wanted[0]:+.4f}), {slope[1]:+.4f} ± {NORMAL * error[1]:.4f} "
        f"({wanted[1]:+.4f})"
    )
    return np.concatenate(hits), together, words


def combination(wrong: Wrong, frame: Frame) -> Floats:
    """Return the slope in x and y that would look like what is wrong: from a flat surface's signals, to first order."""
    import torch

    from reconstruction.fidelity import Nuisances

    prepared = inverse.prepare(frame, "Cu")
    forward, observed = prepared.forward, prepared.observed
    none = torch.zeros(1, 8, 8)
    flat = forward.model.local(none, none, forward.condition)[0, :, 4, 4].double()
    count = len(forward.live)
    right = replace(
        Nuisances.none(count),
        shift=torch.tensor(wrong.shift, dtype=torch.float64),
        rotation=torch.tensor(wrong.rotation, dtype=torch.float64),
    )
    plain, true = (forward.responses(each)[0].double() @ flat for each in (Nuisances.none(count), right))
    change = (torch.from_numpy(wrong.gains) * true + torch.from_numpy(wrong.offsets) * plain - plain).numpy()
    slopes = (forward.responses()[0].double() @ forward.tilt_emission().double()).numpy()
    weight = 1 / observed.mean_variances().double().numpy()
    normal = slopes.T @ (weight[:, None] * slopes)
    return np.asarray(np.linalg.solve(normal, slopes.T @ (weight * change)))

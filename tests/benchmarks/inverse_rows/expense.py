"""Time, memory, growth with the area, seams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import truths
from numpy.typing import NDArray

from inverse_rows.table import Bench, Case
from reconstruction.metrology import without_plane
from reconstruction.photometric import Quality
from simulators.scanning import SegmentTally

CHILD = """
import json, resource, sys, time
from dataclasses import replace
from datetime import UTC, datetime
import numpy as np
path, quality, repeats, tile = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
with np.load(path, allow_pickle=False) as file:
    counts, told, gains = file["counts"], file["told"], file["gains"]
energy, pixel, current, dwell, inner, outer, distance, threshold, offset, read = map(float, told)
geometry = annular(len(counts), inner, outer, distance, threshold=threshold)
channels = tuple(Channel(n, offset, float(g), read, "ADU/electron") for n, g in zip(geometry.names, gains))
frame = Frame(counts, geometry, BeamSettings(energy, pixel, current, dwell), channels, datetime.now(UTC))
began = time.perf_counter()
from reconstruction.inverse import reconstruct
if tile:
    import reconstruction.problem as problem
    problem.TILE = tile
loaded = time.perf_counter() - began
times, spent = [], []
for _ in range(repeats):
    began, worked = time.perf_counter(), time.process_time()
    result = reconstruct(frame, quality=quality)
    times.append(time.perf_counter() - began)
    spent.append(time.process_time() - worked)
np.savez(path + ".out.npz", z=result.z, sigma=result.sigma)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"loading": loaded, "times": times, "spent": spent, "peak": peak}))
"""


def mosaic(tally: SegmentTally, size: int) -> NDArray[np.float64]:
    """Return Σ w of a field of any size: mirrored frames, which is what Monte Carlo gives on the mirrored surface.

    Seen in a mirror, the segments change places: the detector's are at 0, 90, 180 and 270°.
    """
    whole = tally.signals
    row = np.concatenate([whole, whole[[2, 1, 0, 3]][:, :, ::-1]], axis=2)
    tile = np.concatenate([row, row[[0, 3, 2, 1]][:, ::-1]], axis=1)
    times = -(-size // tile.shape[1])
    return np.tile(tile, (1, times, times))[:, :size, :size]


def write_mosaic(case: Case, size: int, path: Path) -> None:
    """Write a frame of size × size for :data:`CHILD`."""
    frame, exposure = case.frame, case.truth.exposure
    scale = truths.BRIGHTEST / float(case.tally.signals.max())
    noise = np.random.default_rng(7).normal(size=(len(frame.counts), size, size)) * 5.0
    counts = np.clip(np.rint(1000.0 + scale * mosaic(case.tally, size) + noise), 0, 65535).astype(np.uint16)
    segment, beam = exposure.detector.segments[0], frame.beam
    told = [beam.beam_energy, beam.pixel_size, beam.probe_current, beam.dwell_time, segment.inner_radius,
            segment.outer_radius, exposure.detector.working_distance, exposure.detector.threshold, 1000.0,
            5.0]  # fmt: skip
    np.savez(path, counts=counts, told=np.array(told), gains=np.array([each.gain for each in frame.channels]))


def child(path: Path, quality: Quality, repeats: int, tile: int = 0) -> dict[str, Any]:
    """Reconstruct in a process of its own; return its times, its peak memory, and heights and σ."""
    arguments = [sys.executable, "-c", CHILD, str(path), quality, str(repeats), str(tile)]
    said = json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout)
    with np.load(f"{path}.out.npz", allow_pickle=False) as file:
        return {**said, "z": file["z"], "sigma": file["sigma"]}


def cost(bench: Bench) -> None:
    """Time and memory at 512² × 4, growth with the area, and seams."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    bench.head(f"time and memory, each in a process of its own, {cores} cores; load before: {load:.1f}")
    if load > 0.5:
        print("    OTHER WORK RUNS ON THIS MACHINE: times are too long")
    case = bench.case("A-islands")
    if case is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.npz"
        side = 256 if bench.quick else 512
        write_mosaic(case, side, path)
        tried: tuple[tuple[Quality, float, int], ...] = (("preview", 0.030, 15), ("fast", 0.5, 3), ("full", 20.0, 0))
        runs: dict[str, dict[str, Any]] = {}
        for quality, goal, repeats in tried:
            run = runs[quality] = child(path, quality, 1 + repeats)
            further = run["times"][1:] or run["times"]
            later, best = float(np.median(further)), min(further)
            shown = f"{1e3 * later:.0f} ms" if later < 1 else f"{later:.1f} s"
            shown += f", best {1e3 * best:.0f} ms" if later < 1 else ""
            first = "" if quality == "full" else f"; first call {run['times'][0]:.2f} s"
            work = min(run["spent"])
            shown += f", {1e3 * work:.0f} ms" if work < 1 else f", {work:.1f} s"
            shown += " of processor time"
            loading = f"; loading the program {run['loading']:.1f} s"
            bench.row(
                f"{quality} at {side}² × 4", f"≤ {goal:g} s",
                f"{shown}{first}{loading}; peak {run['peak'] / 2**30:.2f} GiB", later <= goal,
            )  # fmt: skip
        top = max(each["peak"] for each in runs.values())
        bench.row("peak memory", "≤ 3 GiB", f"{top / 2**30:.2f} GiB", top <= 3 * 2**30)
        bench.data["cost"] = {
            name: {word: run[word] for word in ("loading", "times", "spent", "peak")} for name, run in runs.items()
        }
        _growth(bench, case, side, runs, path)
        _seams(bench, runs["full"], side, path)


def _growth(bench: Bench, case: Case, side: int, runs: dict[str, dict[str, Any]], seams: Path) -> None:
    """Seconds a pixel on larger fields, over those of the smallest."""
    sizes = [2 * side, 4 * side] if bench.full_size else [2 * side]
    path = seams.with_name("large.npz")
    for size in sizes:
        write_mosaic(case, size, path)
        qualities: tuple[Quality, ...] = ("fast", "full")
        for quality in qualities:
            run = child(path, quality, 2 if quality == "fast" else 1)
            # By processor time, which other work on the machine disturbs less.
            before = min(runs[quality]["spent"]) / side**2
            ratio = min(run["spent"]) / size**2 / before
            bench.row(
                f"{quality} at {size}² × 4: time a pixel over that at {side}²", "≤ 1.25",
                f"{ratio:.2f} ({min(run['times']):.1f} s, peak {run['peak'] / 2**30:.2f} GiB)", ratio <= 1.25,
            )  # fmt: skip


def _seams(bench: Bench, whole: dict[str, Any], side: int, path: Path) -> None:
    """The same field in one piece and in four: what the seams do."""
    half = side // 2
    cut = child(path, "full", 1, tile=half)
    apart = without_plane(cut["z"] - whole["z"])
    near = np.abs(np.arange(side) + 0.5 - half) < 8
    at = near[:, None] | near[None, :]
    sigma = float(np.sqrt(np.mean(whole["sigma"] ** 2)))
    seam, elsewhere = (float(np.sqrt(np.mean(apart[where] ** 2))) for where in (at, ~at))
    bench.row(
        f"seams: {side}² in four tiles and in one, over σ", "≤ 0.1",
        f"{seam / sigma:.3f} within 8 px of a seam, {elsewhere / sigma:.3f} elsewhere, worst "
        f"{np.abs(apart).max() / sigma:.2f}", seam <= 0.1 * sigma,
    )  # fmt: skip

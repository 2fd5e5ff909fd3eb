"""The electrons of a CUDA device against the processor's: under numba's simulator, and on a GPU where there is one.

The simulator is chosen when numba is imported, hence a process of its own, which runs this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.geometry import annular
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.materials import material
from simulators.scanning import Device, FrameRun, tally_frame, tally_loop
from simulators.scene import Beam, Stage, Surface

FOUR = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)
SUMS = {"counts", "energy", "electrons", "fates", "signals", "squares", "states"}


def frame(case: str, size: int, device: Device) -> FrameRun:
    """Return a frame to be: bare copper, or a patchy oxide film under a tilted, blurred beam."""
    z = np.random.default_rng(0).normal(size=(size, size)) * 60e-9
    if case == "bare":
        return FrameRun(Surface(HeightMap(z, 50e-9), material("Cu")), Beam(5 * KEV), FOUR, 3, device=device)
    layer = (z > 0).astype(np.uint8)
    film = np.where(layer, 80e-9, 0.0)
    surface = Surface(HeightMap(z, 50e-9), material("Cu"), (material("Cu2O"),), layer, film, "periodic")
    return FrameRun(surface, Beam(2 * KEV, 5e-9, 5e-3), FOUR, 4, Stage(0.3, 1.0), device=device)


def followed(case: str, size: int, device: Device) -> dict[str, Any]:
    run = frame(case, size, device)
    for portion in (5, 9):
        run.advance(portion)
    return run.state()


def agree(here: dict[str, Any], there: dict[str, Any], share: float) -> None:
    """Hold two runs against each other: ``share`` of the pixels drew the same random numbers and met the same fates.

    On one processor, compiled once as it is and once with strict rounding, 0.977 and 0.990 of 64² pixels did.
    """
    assert here.keys() == there.keys() == SUMS
    assert here["electrons"] == there["electrons"] == 14
    assert (there["fates"].sum(axis=1) == 14).all()
    assert (there["counts"].sum(axis=1) <= there["fates"][:, 1]).all()
    assert (here["states"] == there["states"]).mean() >= share
    for name in ("fates", "counts"):
        assert (here[name] == there[name]).all(axis=1).mean() >= share
    for name in ("energy", "signals", "squares"):
        assert here[name].max() > 1.0
        assert np.isclose(here[name], there[name], rtol=1e-3, atol=1e-3).mean() >= share
    sums = here["counts"].sum(axis=0), there["counts"].sum(axis=0)
    assert (np.abs(sums[0] - sums[1]) <= 3 * np.sqrt(2 * (1 - share) * sums[0])).all()


@pytest.mark.parametrize("case", ["bare", "film"])
def test_simulated_threads_follow_the_same_electrons(case: str, tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    # Python's own arithmetic warns where the generator's wraps around.
    arguments = [sys.executable, "-W", "ignore::RuntimeWarning", __file__, case, str(tmp_path / "sums.npz")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "sums.npz") as there:
        agree(followed(case, 4, "cpu"), dict(there), 14 / 16)


@pytest.mark.parametrize("case", ["bare", "film"])
def test_a_gpu_follows_the_same_electrons(case: str) -> None:
    try:
        tally_loop("cuda")
    except InputError as error:
        pytest.skip(str(error))
    agree(followed(case, 64, "cpu"), followed(case, 64, "cuda"), 0.95)


def test_the_compiler_for_gpus_accepts_every_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no GPU, but types and translates what the simulator merely runs as Python."""
    import numba
    from numba import cuda

    import simulators.cuda

    if getattr(cuda, "implementation", "") != "NVIDIA":
        pytest.skip("numba-cuda is not installed")
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: SimpleNamespace(compute_capability=(9, 0)))
    called: list[Any] = []
    run = frame("film", 4, "cpu")
    monkeypatch.setattr(run, "_tally", lambda *arguments: called.extend(arguments))
    run.advance(1)
    types = tuple(numba.typeof(argument) for argument in called)
    code, _ = cuda.compile_ptx(simulators.cuda.thread.__wrapped__().py_func, types, cc=(9, 0))
    assert ".visible .entry" in code


def test_what_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import simulators.cuda

    surface = Surface(HeightMap(np.zeros((2, 2)), 50e-9), material("Cu"))
    silent = {"is_available": lambda: False, "cuda_error": lambda: "\nCUDA driver library cannot be found.\nSee …\n"}
    for device, implementation, words in (
        ("gpu", "", r"the device cpu or cuda; got 'gpu'"),
        ("cuda", "Built-in", r"needs the package numba-cuda: pip install 'rilievo\[cuda\]'"),
        ("cuda", "NVIDIA", r"none answers \(CUDA driver library cannot be found\): take the device cpu"),
    ):
        monkeypatch.setattr(simulators.cuda, "cuda", SimpleNamespace(implementation=implementation, **silent))
        with pytest.raises(InputError, match=words):
            tally_frame(surface, Beam(5 * KEV), FOUR, 1, device=device)  # type: ignore[arg-type]


if __name__ == "__main__":
    np.savez(sys.argv[2], **followed(sys.argv[1], 4, "cuda"))

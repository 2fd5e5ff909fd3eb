"""The same electrons on a CUDA device: a thread for each pixel, which runs the functions that the processor runs.

Nothing is written twice: the bodies of :mod:`simulators.relief`, :mod:`simulators.transport` and
:mod:`simulators.kernels` are compiled anew as device functions. A pixel's electrons come from its own generator as on
the processor, bit for bit; arithmetic does not round alike. About one electron in 600 meets another fate for that (so
many do on the processor itself, compiled with and without its liberties); those that follow it in its pixel are others,
and the pixel differs within its statistical error.

Tested so far: under numba's CUDA simulator, which runs the same bodies as Python, threads and copies included; and by
NVIDIA's compiler without a GPU, through numba-cuda 0.30 and CUDA 12.9, which translates all of them for compute
capability 9.0 (94 registers, nothing spilled). It has not run on a GPU yet: the test that needs one skips without, and
no speed is claimed.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numba import config
from numpy.typing import NDArray

from drivers.errors import InputError
from simulators.kernels import Diode, tally_pixel
from simulators.relief import Scene
from simulators.target import recompiled
from simulators.transport import Gun

MISSING = "the device cuda needs the package numba-cuda: pip install 'rilievo[cuda]', or take the device cpu"
try:
    cuda: Any = import_module("numba.cuda")
except ImportError:
    raise InputError(MISSING) from None

THREADS = 32
"""A block is one warp: pixels take unequal times, and small blocks let a device share them out evenly."""
PIXELS, ELECTRONS = 65_536, 4_000_000
"""In one launch, about: short enough to report progress, and for a device that drives a display."""


def check() -> None:
    """Refuse to go on without a device and a compiler for it.

    Numba's own ``numba.cuda`` will not do: that of release 0.68 fails to compile ``min`` and ``max``.

    Raises
    ------
    InputError
    """
    settings: Any = config
    if settings.ENABLE_CUDASIM:
        return
    if getattr(cuda, "implementation", "Built-in") == "Built-in":
        raise InputError(MISSING)
    if not cuda.is_available():
        reason = str(cuda.cuda_error() or "its driver or toolkit is incomplete").strip().splitlines()[0].rstrip(".")
        raise InputError(f"expected an NVIDIA GPU for the device cuda; none answers ({reason}): take the device cpu")


@cache
def thread() -> Any:
    """Return the kernel: one thread follows the electrons of one point."""
    pixel = recompiled(tally_pixel, cuda.jit(device=True))

    def tally_thread(
        scene: Any,
        gun: Any,
        diode: Any,
        points: Any,
        states: Any,
        streams: Any,
        electrons: int,
        fates: Any,
        energy: Any,
        counts: Any,
        signals: Any,
        squares: Any,
    ) -> None:
        p = cuda.grid(1)
        if p < points.shape[0]:
            pixel(scene, gun, diode, points, states, streams, electrons, fates, energy, counts, signals, squares, p)

    return cuda.jit(tally_thread)


def _there(part: Any) -> Any:
    """Copy the arrays of a named tuple to the device."""
    return type(part)(*(cuda.to_device(value) if isinstance(value, np.ndarray) else value for value in part))


def tally(
    scene: Scene,
    gun: Gun,
    diode: Diode,
    points: NDArray[np.float32],
    states: NDArray[np.uint64],
    streams: NDArray[np.uint64],
    electrons: int,
    *sums: NDArray[Any],
) -> None:
    """Follow electrons from each point on the device, to the effect of :func:`simulators.kernels.tally`."""
    changed = (states, *sums)
    copies = [cuda.to_device(values) for values in changed]
    arguments = (_there(scene), _there(gun), _there(diode), cuda.to_device(points), copies[0], cuda.to_device(streams))
    with warnings.catch_warnings():
        # Few pixels leave most of a device idle; that is no news to whoever sends few.
        warnings.filterwarnings("ignore", message="Grid size")
        thread()[-(-len(points) // THREADS), THREADS](*arguments, electrons, *copies[1:])
    for values, copy in zip(changed, copies, strict=True):
        copy.copy_to_host(values)

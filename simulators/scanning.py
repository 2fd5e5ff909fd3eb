"""Monte Carlo frames: the beam goes from pixel to pixel of a relief, and segments count what comes back.

Exits are tested against the real segments of a :class:`drivers.geometry.DetectorGeometry`, or kept one by one.
Lengths in m, energies in J, angles in rad; signals in keV of the diode's response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry
from simulators.materials import ElasticLaw
from simulators.scattering import BATCH, Counts, Floats, Progress, check_electrons, seeds
from simulators.scene import Beam, Stage, Surface, build_diode, build_gun, build_scene

Device = Literal["cpu", "cuda"]
"""Where electrons are followed. Both draw the same random numbers; arithmetic differs (see :mod:`simulators.cuda`)."""


@dataclass(frozen=True, slots=True, eq=False)
class SegmentTally:
    """What each segment got from each pixel.

    Attributes
    ----------
    electrons : int
        Sent to each pixel.
    counts : (S, H, W) int array
        Electrons that met the segment.
    signals, squares : (S, H, W) float arrays, keV and keV²
        Σ max(E − threshold, 0) over those electrons, and Σ of its square.
    backscattered, absorbed : (H, W) int arrays
        Add up to ``electrons``.
    energy : (H, W) float array, keV
        Sum over the backscattered.
    """

    electrons: int
    counts: Counts
    signals: Floats
    squares: Floats
    backscattered: Counts
    absorbed: Counts
    energy: Floats

    @property
    def signal(self) -> Floats:
        """Diode signal in keV per beam electron. Shape (S, H, W)."""
        return self.signals / self.electrons

    @property
    def error(self) -> Floats:
        """Standard error of :attr:`signal`, keV per beam electron. Shape (S, H, W)."""
        mean = self.signals / self.electrons
        return np.asarray(np.sqrt(np.maximum(self.squares / self.electrons - mean**2, 0.0) / self.electrons))


def grid_points(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return u, v of every pixel's centre, row by row. Shape (H·W, 2)."""
    rows, columns = np.indices(shape)
    return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)


def blocks(pixels: int, electrons: int, most: int = BATCH, least: int = 64) -> Iterator[tuple[slice, int]]:
    """Cut pixels × electrons into pieces of about ``most``: (which pixels, ``least`` if so many; electrons each)."""
    width = min(pixels, max(least, most // electrons))
    for first in range(0, pixels, width):
        piece = slice(first, min(first + width, pixels))
        left = electrons
        while left:
            now = min(left, max(1, most // width))
            left -= now
            yield piece, now


def _on_processor(*arguments: Any) -> None:
    from numba import parallel_chunksize

    from simulators.kernels import tally

    # Small pieces of the loop keep threads busy where some pixels cost more than others.
    with parallel_chunksize(8):
        tally(*arguments)


def tally_loop(device: Device) -> tuple[Callable[..., None], tuple[int, int]]:
    """Return what follows electrons on a device, and how :func:`blocks` should cut them: ``most``, ``least``.

    Raises
    ------
    InputError
        For a device that is unknown, or not to be had.
    """
    if device == "cpu":
        return _on_processor, (BATCH, 64)
    if device != "cuda":
        raise InputError(f"expected the device cpu or cuda; got {device!r}")
    from simulators import cuda

    cuda.check()
    return cuda.tally, (cuda.ELECTRONS, cuda.PIXELS)


class FrameRun:
    """A frame in the making: electrons are added to every pixel until there are enough.

    What it holds depends on the seed and the number of electrons alone, not on how they were portioned, so that a run
    can be put away (:meth:`state`) and taken up again (:meth:`restore`).

    Parameters
    ----------
    surface : Surface
    beam : Beam
    detector : DetectorGeometry
        Its working distance, offset, rotation and threshold count, and so does each exit's own position.
    seed : int
        Pixel p's generator depends on the seed and p alone.
    stage : Stage, optional
    law : {"browning", "rutherford"}
    device : {"cpu", "cuda"}

    Raises
    ------
    InputError
    """

    def __init__(
        self,
        surface: Surface,
        beam: Beam,
        detector: DetectorGeometry,
        seed: int = 0,
        stage: Stage | None = None,
        law: ElasticLaw = "browning",
        device: Device = "cpu",
    ) -> None:
        self._tally, self._cut = tally_loop(device)
        stage = stage or Stage()
        self._shape, self._pixels = surface.height.shape, surface.height.z.size
        self._scene, self._gun = build_scene(surface, beam, law), build_gun(beam, stage, surface.height.pixel_size)
        self._diode = build_diode(detector, stage, surface.height)
        self._points = grid_points(self._shape)
        self.electrons = 0
        states, self._streams = seeds(seed, self._pixels)
        count = len(detector.segments)
        self._sums: dict[str, Any] = {
            "states": states,
            "fates": np.zeros((self._pixels, 2), dtype=np.int64),
            "energy": np.zeros(self._pixels),
            "counts": np.zeros((self._pixels, count), dtype=np.int64),
            "signals": np.zeros((self._pixels, count)),
            "squares": np.zeros((self._pixels, count)),
        }

    def advance(self, electrons: int, progress: Progress | None = None) -> None:
        """Send so many more electrons to every pixel; a progress that raises leaves the run unusable."""
        check_electrons(electrons)
        sums, done = self._sums, 0
        for piece, now in blocks(self._pixels, electrons, *self._cut):
            part = {name: values[piece] for name, values in sums.items()}
            self._tally(
                self._scene,
                self._gun,
                self._diode,
                self._points[piece],
                part["states"],
                self._streams[piece],
                now,
                part["fates"],
                part["energy"],
                part["counts"],
                part["signals"],
                part["squares"],
            )
            done += (piece.stop - piece.start) * now
            if progress is not None:
                progress(done / (self._pixels * electrons))
        self.electrons += electrons

    def state(self) -> dict[str, NDArray[Any]]:
        """Return arrays from which :meth:`restore` goes on."""
        return {**self._sums, "electrons": np.array(self.electrons)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up what :meth:`state` put away, of a run that was started alike.

        Raises
        ------
        InputError
            For arrays of other shapes.
        """
        for name, values in self._sums.items():
            if name not in state or state[name].shape != values.shape:
                raise InputError(f"the saved run does not fit: {name} should have shape {values.shape}")
        self._sums = {name: np.array(state[name], dtype=values.dtype) for name, values in self._sums.items()}
        self.electrons = int(state["electrons"])

    def result(self) -> SegmentTally:
        """Return what has been added up so far."""
        sums, shape = self._sums, self._shape

        def images(values: Any) -> Any:
            return np.ascontiguousarray(values.T).reshape(-1, *shape)

        return SegmentTally(
            self.electrons,
            images(sums["counts"]),
            images(sums["signals"]),
            images(sums["squares"]),
            sums["fates"][:, 1].reshape(shape).copy(),
            sums["fates"][:, 0].reshape(shape).copy(),
            sums["energy"].reshape(shape).copy(),
        )


def tally_frame(
    surface: Surface,
    beam: Beam,
    detector: DetectorGeometry,
    electrons: int,
    seed: int = 0,
    stage: Stage | None = None,
    law: ElasticLaw = "browning",
    progress: Progress | None = None,
    device: Device = "cpu",
) -> SegmentTally:
    """Scan the beam over every pixel of a surface and add up what the detector's segments get.

    Parameters are those of :class:`FrameRun`; ``electrons`` go to each pixel, and memory does not grow with them.

    Raises
    ------
    InputError
    """
    run = FrameRun(surface, beam, detector, seed, stage, law, device)
    run.advance(electrons, progress)
    return run.result()


def frame_exits(
    surface: Surface,
    beam: Beam,
    electrons: int,
    seed: int = 0,
    stage: Stage | None = None,
    law: ElasticLaw = "browning",
    most: int = BATCH,
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.float32]]]:
    """Scan the beam over a surface and keep every exit, some pixels at a time.

    Yields
    ------
    slice
        Of the pixels, counted row by row.
    (n,) int array
        Exits of each of them.
    (sum, 6) float32 array
        Their exits one after the other: direction (x, y, z in the microscope's axes), energy (keV), x, y from the point
        aimed at (m, in the sample's plane).
    """
    from simulators.kernels import keep

    check_electrons(electrons)
    stage = stage or Stage()
    pixel, pixels = surface.height.pixel_size, surface.height.z.size
    scene, gun = build_scene(surface, beam, law), build_gun(beam, stage, pixel)
    points, (states, streams) = grid_points(surface.height.shape), seeds(seed, pixels)
    turn = stage.to_microscope().astype(np.float32)
    width = min(pixels, max(1, most // electrons))
    found, exits = np.zeros(width, dtype=np.int64), np.empty((width, electrons, 6), dtype=np.float32)
    for first in range(0, pixels, width):
        piece = slice(first, min(first + width, pixels))
        size = piece.stop - piece.start
        keep(scene, gun, points[piece], states[piece], streams[piece], electrons, found[:size], exits[:size])
        kept = exits[:size][np.arange(electrons) < found[:size, None]]
        kept[:, :3] = kept[:, :3] @ turn.T
        kept[:, 4:] *= pixel
        yield piece, found[:size].copy(), kept

"""One cache of precise Monte Carlo frames, outside the repository, shared by tests and benchmarks.

A frame of 60,000 electrons a pixel takes minutes to hours; here it is computed once, can be interrupted, and goes on
from where it was. The key is a digest of everything that the result depends on: physics version, surface, beam,
detector, stage, elastic law, electrons and seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry
from simulators.materials import ElasticLaw
from simulators.scanning import FrameRun, SegmentTally
from simulators.scattering import PHYSICS_VERSION, Progress
from simulators.scene import Beam, Stage, Surface

FORMAT = 1
DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    NotImplementedError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a damaged archive of arrays may raise."""
ENVIRONMENT = "RILIEVO_TRUTH"


def default_folder() -> Path:
    """Return where truths are kept: ``RILIEVO_TRUTH``, or the user's cache."""
    from platformdirs import user_cache_path

    named = os.environ.get(ENVIRONMENT)
    return Path(named) if named else user_cache_path("rilievo") / "truth"


@dataclass(frozen=True, slots=True)
class Exposure:
    """All that a Monte Carlo frame depends on.

    Attributes
    ----------
    surface : Surface
    beam : Beam
    detector : DetectorGeometry
    electrons : int
        To each pixel.
    seed : int
    stage : Stage
    law : {"browning", "rutherford"}
    """

    surface: Surface
    beam: Beam
    detector: DetectorGeometry
    electrons: int
    seed: int = 0
    stage: Stage = field(default_factory=Stage)
    law: ElasticLaw = "browning"

    def key(self) -> str:
        """Return the digest of everything, physics version included: 32 hexadecimal digits."""
        surface = self.surface
        words = {
            "physics": PHYSICS_VERSION,
            "pixel_size": surface.height.pixel_size,
            "origin": surface.height.origin,
            "border": surface.border,
            "materials": [(kind.name, kind.density) for kind in (surface.substrate, *surface.layers)],
            "beam": asdict(self.beam),
            "detector": asdict(self.detector),
            "stage": asdict(self.stage),
            "electrons": self.electrons,
            "seed": self.seed,
            "law": self.law,
        }
        digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
        for array in (surface.height.z, surface.layer, surface.thickness):
            if array is not None:
                digest.update(str(array.shape).encode() + np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()[:32]

    def start(self) -> FrameRun:
        """Return the run that computes it."""
        return FrameRun(self.surface, self.beam, self.detector, self.seed, self.stage, self.law)


class TruthCache:
    """Precise frames by their key.

    Parameters
    ----------
    folder : Path, optional
        The user's cache, or what ``RILIEVO_TRUTH`` names, unless given.
    portion : int
        Electrons between two savings of an unfinished frame.
    """

    def __init__(self, folder: Path | None = None, portion: int = 20_000_000) -> None:
        self.folder = folder or default_folder()
        self.portion = portion

    def path(self, exposure: Exposure) -> Path:
        """Return where the frame is or will be."""
        return self.folder / f"{exposure.key()}.npz"

    def frame(self, exposure: Exposure, progress: Progress | None = None) -> SegmentTally:
        """Return a frame, from the cache where it lies there; else compute it, going on where an earlier try stopped.

        Raises
        ------
        InputError
            For a file of another version of physics or format, or a damaged one: remove it and try again.
        """
        path = self.path(exposure)
        if path.exists():
            return read_tally(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        run, part = exposure.start(), path.with_suffix(".part.npz")
        if part.exists():
            _restore(run, part)
        step = max(1, self.portion // exposure.surface.height.z.size)
        while run.electrons < exposure.electrons:
            now = min(step, exposure.electrons - run.electrons)
            run.advance(now, _within(progress, run.electrons, now, exposure.electrons))
            if run.electrons < exposure.electrons:
                _save(part, run.state())
        tally = run.result()
        write_tally(path, tally)
        part.unlink(missing_ok=True)
        return tally


def _restore(run: FrameRun, part: Path) -> None:
    """Take up an unfinished frame; an error names its file."""
    try:
        run.restore(_load(part))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{part} is not an unfinished frame ({error}); remove it") from None
    except InputError as error:
        told = error.message if str(part) in error.message else f"{part}: {error.message}; remove the file"
        raise InputError(told) from None


def _within(progress: Progress | None, before: int, now: int, total: int) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress((before + share * now) / total)


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as stream:
        np.savez(stream, **arrays, format=np.array(FORMAT), physics=np.array(PHYSICS_VERSION))  # type: ignore[arg-type]
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(path)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found = int(arrays.pop("format")), str(arrays.pop("physics"))
    except DAMAGE as error:
        raise InputError(
            f"{path} is not a Monte Carlo frame that can be read ({error or type(error).__name__}); remove it, "
            "and it will be computed again"
        ) from None
    if found != (FORMAT, PHYSICS_VERSION):
        raise InputError(
            f"{path} was made by format {found[0]} and physics version {found[1]}; this program has format {FORMAT} "
            f"and physics version {PHYSICS_VERSION}: remove the file, and it will be computed again"
        )
    return arrays


def write_tally(path: Path, tally: SegmentTally) -> None:
    """Write a frame's sums to a file, whole or not at all."""
    _save(path, {part.name: np.asarray(getattr(tally, part.name)) for part in fields(tally)})


def read_tally(path: Path) -> SegmentTally:
    """Read what :func:`write_tally` wrote.

    Raises
    ------
    InputError
        For a file that is damaged or of another version.
    """
    arrays = _load(path)
    try:
        electrons = int(arrays.pop("electrons"))
        return SegmentTally(electrons=electrons, **{name: np.asarray(values) for name, values in arrays.items()})
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not a Monte Carlo frame ({error}); remove it") from None


def standard_error(tally: SegmentTally) -> float:
    """Return the frame's mean standard error over its mean signal: how precise the truth is."""
    mean = float(tally.signal.mean())
    return float(tally.error.mean()) / mean if mean > 0 else math.inf

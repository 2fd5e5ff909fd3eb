"""Exit files: every backscattered electron of a frame, from which any detector or basis can be projected later.

An exit file is a zip archive of plain members, so that any language reads it; arrays are in NumPy's .npy format.

``header.json``
    ``format`` "rilievo exits", ``version`` 1, ``physics`` (version), ``shape`` [rows, columns], ``electrons`` (to each
    pixel), ``seed``, ``border``, ``materials`` (formulas: substrate, then layers), ``law`` (elastic), and as
    {"value", "unit"}: ``pixel_size``, ``beam_energy``, ``probe_diameter``, ``convergence``, ``tilt``, ``tilt_azimuth``,
    ``electron_range`` (Kanaya–Okayama, of the substrate).
``height.npy``
    (rows, columns) float32, m. ``layer.npy`` uint8 and ``thickness.npy`` float32, m, where there are layers.
``exits/PIXEL.npy``
    Chunks in the order of the pixels, row by row; PIXEL (eight digits) is the first pixel's number. One record of five
    bytes for each electron that left: ``x``, ``y`` int16 and ``energy`` uint8, little-endian.
``counts/PIXEL.npy``
    (pixels of the chunk,) uint16 or uint32: how many records belong to each of its pixels.

A direction (dx, dy, dz) in the microscope's axes, z towards the column, is kept on the equal-area disc:
(x, y) / 32767 · √2 = (dx, dy) / √(1 + dz), so that dz = 1 − r². The energy is (``energy`` + ½)/256 of the beam's.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.units import KEV
from simulators.materials import ElasticLaw, electron_range
from simulators.scanning import frame_exits
from simulators.scattering import PHYSICS_VERSION, Progress
from simulators.scene import Beam, Stage, Surface

FORMAT, VERSION = "rilievo exits", 1
RECORD = np.dtype([("x", "<i2"), ("y", "<i2"), ("energy", "u1")])
STEP = math.sqrt(2.0) / 32767.0
DAMAGE = (KeyError, ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What reading a member of a damaged archive may raise."""
CHUNK = 200_000  # electrons followed for each chunk


def quantise(exits: NDArray[np.float32], energy: float) -> NDArray[Any]:
    """Return records of directions and energies; ``exits`` (n, 4 or more): dx, dy, dz, keV; ``energy`` keV."""
    records = np.empty(len(exits), dtype=RECORD)
    scale = 1.0 / (STEP * np.sqrt(np.maximum(1.0 + exits[:, 2].astype(np.float64), 1e-12)))
    records["x"] = np.clip(np.rint(exits[:, 0] * scale), -32767, 32767)
    records["y"] = np.clip(np.rint(exits[:, 1] * scale), -32767, 32767)
    records["energy"] = np.clip(exits[:, 3] / energy * 256.0, 0, 255)
    return records


def directions(records: NDArray[Any]) -> NDArray[np.float64]:
    """Return the unit vectors of records. Shape (n, 3)."""
    x, y = records["x"] * STEP, records["y"] * STEP
    squared = np.minimum(x * x + y * y, 2.0)
    along = np.sqrt(2.0 - squared)
    return np.stack([x * along, y * along, 1.0 - squared], axis=-1)


def energies(records: NDArray[Any], energy: float) -> NDArray[np.float64]:
    """Return the energies of records, in the unit of the beam's ``energy``. Shape (n,)."""
    return np.asarray((records["energy"] + 0.5) * (energy / 256.0))


def _put(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    archive.writestr(_member(name), buffer.getvalue(), compresslevel=1)


def _member(name: str) -> zipfile.ZipInfo:
    """Return a member without a date, so that the same electrons give the same file."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def header(surface: Surface, beam: Beam, electrons: int, seed: int, stage: Stage, law: ElasticLaw) -> dict[str, Any]:
    """Return what an exit file says of the frame that it holds."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "physics": PHYSICS_VERSION,
        "shape": list(surface.height.shape),
        "electrons": electrons,
        "seed": seed,
        "border": surface.border,
        "materials": [surface.substrate.name, *(layer.name for layer in surface.layers)],
        "law": law,
        "pixel_size": {"value": surface.height.pixel_size, "unit": "m"},
        "beam_energy": {"value": beam.energy / KEV, "unit": "keV"},
        "probe_diameter": {"value": beam.probe_diameter, "unit": "m"},
        "convergence": {"value": beam.convergence, "unit": "rad"},
        "tilt": {"value": stage.tilt, "unit": "rad"},
        "tilt_azimuth": {"value": stage.azimuth, "unit": "rad"},
        "electron_range": {"value": electron_range(surface.substrate, beam.energy), "unit": "m"},
    }


def write_exits(
    path: Path,
    surface: Surface,
    beam: Beam,
    electrons: int,
    seed: int = 0,
    stage: Stage | None = None,
    law: ElasticLaw = "browning",
    progress: Progress | None = None,
) -> int:
    """Follow electrons into every pixel of a surface and write all exits; returns how many there were.

    The file appears whole or not at all.

    Raises
    ------
    InputError
    """
    stage = stage or Stage()
    unfinished = path.with_name(path.name + ".part")
    total = 0
    with zipfile.ZipFile(unfinished, "w") as archive:
        archive.writestr(
            _member("header.json"), json.dumps(header(surface, beam, electrons, seed, stage, law), indent=1)
        )
        _put(archive, "height.npy", surface.height.z.astype("<f4"))
        if surface.layer is not None and surface.thickness is not None:
            _put(archive, "layer.npy", surface.layer)
            _put(archive, "thickness.npy", surface.thickness.astype("<f4"))
        narrow = "<u2" if electrons < 65536 else "<u4"
        for piece, found, exits in frame_exits(surface, beam, electrons, seed, stage, law, CHUNK):
            _put(archive, f"exits/{piece.start:08d}.npy", quantise(exits, beam.energy / KEV))
            _put(archive, f"counts/{piece.start:08d}.npy", found.astype(narrow))
            total += len(exits)
            if progress is not None:
                progress(piece.stop / surface.height.z.size)
    unfinished.replace(path)
    return total


@dataclass(frozen=True, slots=True)
class Chunk:
    """Exits of some pixels: the first one's number, records of each (pixels,), and the records one after the other."""

    first: int
    counts: NDArray[np.int64]
    records: NDArray[Any]

    def pixels(self) -> NDArray[np.int64]:
        """Return the pixel of each record. Shape (n,)."""
        return self.first + np.repeat(np.arange(len(self.counts)), self.counts)


class ExitFile:
    """An exit file, open for reading; use it in a ``with``.

    Raises
    ------
    InputError
        For a file that is not an exit file, is damaged or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"there is no exit file at {path}")
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{path} is not an exit file ({error})") from None
        try:
            self.header = self._checked_header()
        except InputError:
            self._archive.close()
            raise

    def _checked_header(self) -> dict[str, Any]:
        try:
            found = json.loads(self._archive.read("header.json"))
        except DAMAGE as error:
            raise InputError(f"{self.path} is not an exit file ({error})") from None
        if not isinstance(found, dict):
            raise InputError(f"{self.path} is not an exit file (its header is {type(found).__name__}, not a mapping)")
        if found.get("format") != FORMAT or found.get("version") != VERSION:
            raise InputError(
                f"{self.path} is of format {found.get('format')!r}, version {found.get('version')}; "
                f"expected {FORMAT!r}, version {VERSION}"
            )
        energy = found.get("beam_energy")
        if not isinstance(energy, dict) or not isinstance(energy.get("value"), int | float):
            raise InputError(f"{self.path} is not an exit file (its header does not say the beam energy)")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    @property
    def energy(self) -> float:
        """Of the beam, keV."""
        return float(self.header["beam_energy"]["value"])

    def array(self, name: str) -> NDArray[Any] | None:
        """Return ``height``, ``layer`` or ``thickness``; None where the file has none."""
        member = f"{name}.npy"
        return self._read(member) if member in self._archive.namelist() else None

    def chunks(self) -> Iterator[Chunk]:
        """Read the exits some pixels at a time."""
        for name in sorted(name for name in self._archive.namelist() if name.startswith("exits/")):
            place = name.removeprefix("exits/")
            counts = self._read(f"counts/{place}").astype(np.int64)
            yield Chunk(int(place.removesuffix(".npy")), counts, self._read(name))

    def _read(self, member: str) -> NDArray[Any]:
        try:
            with self._archive.open(member) as stream:
                return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
        except DAMAGE as error:
            raise InputError(f"{self.path}: the member {member} cannot be read ({error})") from None

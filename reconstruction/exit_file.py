"""Reads exit files: every electron that left a Monte Carlo surface, as ``rilievo simulate dataset`` writes them.

The format is described where it is written. Here a file becomes the coefficients of the emission basis in each pixel,
for any threshold of a diode.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from drivers.errors import InputError
from reconstruction.basis import EmissionBasis

FORMAT, VERSION = "rilievo exits", 1
_STEP = math.sqrt(2.0) / 32767.0
_DAMAGE = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    OSError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True, eq=False)
class Exits:
    """All electrons that left a surface.

    Attributes
    ----------
    height : (H, W) float32 array, m
    thickness : (H, W) float32 array, m
        Of the layers; zero where there is none.
    pixel_size, electron_range : float, m
    energy : float, keV
        Of the beam.
    electrons : int
        Of the beam, to each pixel.
    materials : tuple of str
        Substrate, then layers.
    tilt, azimuth : float, rad
        Of the stage.
    pixels : (n,) int array
        Where each electron entered.
    directions : (n, 3) array
        Unit vectors, z towards the column.
    energies : (n,) array
        Over the beam's energy.
    """

    height: NDArray[np.float32]
    thickness: NDArray[np.float32]
    pixel_size: float
    electron_range: float
    energy: float
    electrons: int
    materials: tuple[str, ...]
    tilt: float
    azimuth: float
    pixels: NDArray[np.int64]
    directions: NDArray[np.float64]
    energies: NDArray[np.float64]

    @property
    def _unbiased(self) -> float:
        return self.electrons / max(1, self.electrons - 1)

    def coefficients(
        self, basis: EmissionBasis, thresholds: tuple[float, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the emission coefficients per beam electron, and the counting variance of each in a pixel.

        Parameters
        ----------
        basis : EmissionBasis
        thresholds : tuple of float
            Of the diode, over the beam's energy; J of them.

        Returns
        -------
        coefficients : (J, K, H, W) float32 array
        variances : (J, K) array
            Mean over the pixels.
        """
        inside = self.directions[:, 2] >= basis.lowest
        d, pixels, energies = self.directions[inside], self.pixels[inside], self.energies[inside]
        values = np.stack(basis(d[:, 0], d[:, 1], d[:, 2]), axis=1)
        # The electrons stand in the order of their pixels: one row of a sparse matrix for each pixel.
        starts = np.searchsorted(pixels, np.arange(self.height.size + 1))
        found, variances = [], []
        for threshold in thresholds:
            weights = np.maximum(energies - threshold, 0.0) / self.electrons
            matrix = csr_array((weights, np.arange(len(weights)), starts), shape=(self.height.size, len(weights)))
            found.append((matrix @ values).T)
            # As many electrons fall on every pixel: their mean's variance is that of one electron's share over n.
            squares = weights**2 @ values**2 / self.height.size
            variances.append((squares - (found[-1] ** 2).mean(axis=1) / self.electrons) * self._unbiased)
        coefficients = np.stack(found).astype(np.float32).reshape(len(thresholds), len(basis), *self.height.shape)
        return coefficients, np.stack(variances)


def read_exits(path: Path) -> Exits:
    """Read an exit file.

    Raises
    ------
    InputError
        For a file that is not an exit file, is damaged or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except FileNotFoundError:
        raise InputError(f"there is no exit file at {path}") from None
    except InputError as error:
        raise InputError(f"{path}: {error.message}") from None
    except _DAMAGE as error:
        raise InputError(f"{path} is not an exit file, or is damaged ({error or type(error).__name__})") from None


def _read(archive: zipfile.ZipFile) -> Exits:
    header = json.loads(archive.read("header.json"))
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise InputError(
            f"expected an exit file of version {VERSION}; got {header.get('format')!r}, version {header.get('version')}"
        )
    names = archive.namelist()

    def member(name: str) -> NDArray[Any]:
        with archive.open(name) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

    chunks = sorted(name.removeprefix("exits/") for name in names if name.startswith("exits/"))
    records = np.concatenate([member(f"exits/{name}") for name in chunks])
    counts = np.concatenate([member(f"counts/{name}") for name in chunks]).astype(np.int64)
    height = member("height.npy")
    if counts.sum() != len(records):
        raise ValueError(f"{len(records)} electrons, of which the counts know {counts.sum()}")
    x, y = records["x"] * _STEP, records["y"] * _STEP
    squared = np.minimum(x * x + y * y, 2.0)
    along = np.sqrt(2.0 - squared)
    return Exits(
        height=height,
        thickness=member("thickness.npy") if "thickness.npy" in names else np.zeros_like(height),
        pixel_size=float(header["pixel_size"]["value"]),
        electron_range=float(header["electron_range"]["value"]),
        energy=float(header["beam_energy"]["value"]),
        electrons=int(header["electrons"]),
        materials=tuple(header["materials"]),
        tilt=float(header["tilt"]["value"]),
        azimuth=float(header["tilt_azimuth"]["value"]),
        pixels=np.repeat(np.arange(height.size), counts),
        directions=np.stack([x * along, y * along, 1.0 - squared], axis=-1),
        energies=(records["energy"] + 0.5) / 256.0,
    )

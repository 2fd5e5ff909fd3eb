"""Heights in a TIFF file that Fiji and Gwyddion open with the right pixel size.

Two float32 pages in nanometres: the heights, then their σ; where the share of oxide was sought, its map, 0 to 1, is a
third. The resolution tags hold pixels per centimetre, which ImageJ turns into micrometres by itself and Gwyddion reads;
an ImageJ description would name the unit in a way that only ImageJ knows. The first page's description is JSON: what
the pages are and what the heights rest on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from drivers.errors import DiskFull, ImageError, StoreError
from drivers.sample import HeightMap
from reconstruction.integrate import FloatArray

NM = 1e-9


def write_heights(
    path: Path,
    heights: HeightMap,
    sigma: FloatArray,
    details: Mapping[str, Any] | None = None,
    *,
    oxide: FloatArray | None = None,
) -> None:
    """Write heights and σ, through a temporary file that takes the name only when it is whole.

    Parameters
    ----------
    path : Path
        Of the TIFF file; replaced where it exists.
    heights : HeightMap
    sigma : (H, W) float array, m
    details : mapping, optional
        Whatever JSON can hold: assumptions, figures, provenance.
    oxide : (H, W) float array, optional
        Share of oxide.

    Raises
    ------
    DiskFull, StoreError
        When the file cannot be written; what stood there before stays.
    """
    import tifffile

    pages = [(heights.z / NM, "height"), (sigma / NM, "standard deviation")]
    if oxide is not None:
        pages.append((oxide, "share of oxide"))
    description = {
        "software": "Rilievo",
        "pages": [name for _, name in pages],
        "unit": "nm",
        "pixel_size": {"value": heights.pixel_size / NM, "unit": "nm"},
        **(details or {}),
    }
    per_centimetre = 0.01 / heights.pixel_size
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        with tifffile.TiffWriter(temporary) as tiff:
            for index, (page, name) in enumerate(pages):
                tiff.write(
                    np.asarray(page, dtype=np.float32),
                    photometric="minisblack",
                    resolution=(per_centimetre, per_centimetre),
                    resolutionunit="CENTIMETER",
                    description=json.dumps(description) if index == 0 else name + (" in nm" if index == 1 else ""),
                    software="Rilievo",
                    metadata=None,
                )
        temporary.replace(path)
    except OSError as problem:
        kind = DiskFull if problem.errno in (28, 122) else StoreError
        raise kind(f"heights cannot be written: {problem.strerror or problem}", where=os.fspath(path)) from problem
    finally:
        temporary.unlink(missing_ok=True)


def read_heights(path: Path) -> tuple[HeightMap, FloatArray]:
    """Read heights and σ (m) as :func:`write_heights` wrote them.

    Raises
    ------
    ImageError
        When the file is missing, damaged or holds something else.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            said = json.loads(tiff.pages.first.description)
            pages = [page.asarray() for page in tiff.pages]
        if said["unit"] != "nm" or len(pages) not in (2, 3):
            raise KeyError("unit")
        heights = HeightMap(pages[0].astype(np.float64) * NM, float(said["pixel_size"]["value"]) * NM)
        return heights, np.asarray(pages[1].astype(np.float64) * NM)
    except OSError as problem:
        raise ImageError(f"cannot be read: {problem.strerror or problem}", where=os.fspath(path)) from None
    except (KeyError, ValueError, TypeError, IndexError, tifffile.TiffFileError):
        raise ImageError(
            "expected heights as `rilievo reconstruct` writes them: two pages in nm, and perhaps the oxide's",
            where=os.fspath(path),
        ) from None

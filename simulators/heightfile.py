"""Real height maps from files: TIFF, and the formats of AFM and profilers that SurfaceTopography reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError, QuantityError
from drivers.sample import HeightMap
from drivers.units import parse_quantity, si

Floats = NDArray[np.float64]

_CENTIMETRE, _INCH = 3, 2


def read_height(
    path: Path,
    pixel_size: float | None = None,
    height_scale: float = 1.0,
    height_unit: float = 1e-9,
    most: int | None = None,
) -> HeightMap:
    """Read a height map.

    Parameters
    ----------
    path : Path
        ``.tif``: first page, one sample per pixel; anything else through SurfaceTopography.
    pixel_size : float, m, optional
        Stands in for, and goes before, what the file says.
    height_scale : float
        Heights are multiplied by it; negative turns bumps into pits.
    height_unit : float, m
        What one of a TIFF's numbers means; nm unless given. Other formats know it themselves.
    most : int, optional
        Take the middle of the map where it has more rows or columns.

    Returns
    -------
    HeightMap
        Mean at 0.

    Raises
    ------
    InputError
        For a file that is missing, cannot be read, is empty or holds no heights, or whose pixel size is not known.
    """
    if not path.is_file():
        raise InputError(f"there is no height map at {path}")
    if path.suffix.lower() in (".tif", ".tiff"):
        z, found = _read_tiff(path)
        z = z * height_unit
    else:
        z, found = _read_topography(path)
    pixel = found if pixel_size is None else pixel_size
    if pixel is None:
        raise InputError(f"{path} does not say how large its pixels are; give a pixel size, such as 20 nm")
    if z.size == 0 or not np.isfinite(z).any():
        raise InputError(f"{path} holds no heights: expected numbers, every pixel is empty or NaN")
    if not np.isfinite(z).all():
        raise InputError(f"{path}: {int((~np.isfinite(z)).sum())} of {z.size} heights are NaN; fill them first")
    if most is not None:
        z = _middle(z, most)
    return HeightMap((z - z.mean()) * height_scale, pixel)


def _middle(z: Floats, most: int) -> Floats:
    rows, columns = min(z.shape[0], most), min(z.shape[1], most)
    top, left = (z.shape[0] - rows) // 2, (z.shape[1] - columns) // 2
    return z[top : top + rows, left : left + columns]


def _read_tiff(path: Path) -> tuple[Floats, float | None]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            z = np.asarray(page.asarray(), dtype=np.float64)
            pixel = _tiff_pixel(page, file)
    except (tifffile.TiffFileError, ValueError, OSError, IndexError, TypeError) as error:
        raise InputError(f"{path} cannot be read as TIFF: {error}") from None
    if z.ndim != 2:
        raise InputError(f"{path}: expected one height per pixel; got an image of shape {z.shape}")
    return z, pixel


def _tiff_pixel(page: Any, file: Any) -> float | None:
    """Return the pixel size (m) from OME metadata or the resolution tags, or None."""
    if file.is_ome and file.ome_metadata:
        import xml.etree.ElementTree as ET

        for pixels in ET.fromstring(file.ome_metadata).iter():  # noqa: S314  a local file of the user's
            if pixels.tag.endswith("Pixels") and "PhysicalSizeX" in pixels.attrib:
                unit = pixels.attrib.get("PhysicalSizeXUnit", "µm")
                return si(parse_quantity(f"{pixels.attrib['PhysicalSizeX']} {unit}", "meter"))
    unit, resolution = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
    length = {_INCH: 0.0254, _CENTIMETRE: 0.01}.get(int(unit.value)) if unit is not None else None
    if length is None or resolution is None or resolution.value[0] == 0:
        return None
    per = resolution.value[0] / resolution.value[1]
    # 72, 96 or 300 dots per inch are what programs write that know nothing.
    return None if per * 0.0254 / length < 1e4 else length / per


def _read_topography(path: Path) -> tuple[Floats, float | None]:
    import warnings

    # The library speaks of an MPI that is not there, when it is imported.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from SurfaceTopography import read_topography
        from SurfaceTopography.Exceptions import CannotDetectFileFormat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            topography = read_topography(str(path))
            heights = np.ma.filled(np.ma.asarray(topography.heights(), dtype=np.float64), np.nan)
            unit = topography.unit
            sizes = topography.physical_sizes
    except CannotDetectFileFormat:
        raise InputError(f"{path} is in no format of height maps that is known") from None
    except Exception as error:  # noqa: BLE001  each of fifty formats raises what it likes
        raise InputError(f"{path} cannot be read as a height map: {error}") from None
    if heights.ndim != 2:
        raise InputError(f"{path}: expected a map of heights; got a line scan")
    if unit is None:
        raise InputError(f"{path} does not say the unit of its heights; convert it to TIFF in nm")
    try:
        scale = si(parse_quantity(f"1 {unit}", "meter"))
    except QuantityError as error:
        raise InputError(f"{path}: {error.message}") from None
    # There the first index runs along x and the second up along y; here rows run down.
    z = np.ascontiguousarray(heights.T[::-1]) * scale
    along, up = float(sizes[0]) / heights.shape[0] * scale, float(sizes[1]) / heights.shape[1] * scale
    if abs(along - up) > 0.01 * along:
        raise InputError(f"{path}: expected square pixels; got {along * 1e9:g} nm by {up * 1e9:g} nm")
    return z, along

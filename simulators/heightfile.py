"""Real height maps from files: TIFF, and the formats of AFM and profilers that SurfaceTopography reads."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError, QuantityError
from drivers.sample import HeightMap
from drivers.units import parse_quantity, si

Floats = NDArray[np.float64]

_CENTIMETRE, _INCH = 3, 2
_IMAGEJ_UNITS = {
    "pm": 1e-12,
    "nm": 1e-9,
    "um": 1e-6,
    "µm": 1e-6,
    "\u03bcm": 1e-6,  # with the Greek letter instead of the micro sign
    "micron": 1e-6,
    "microns": 1e-6,
    "mm": 1e-3,
    "cm": 1e-2,
    "m": 1.0,
    "inch": 0.0254,
}


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
        z, found = _read_tiff(path, sized=pixel_size is None)
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


def read_thickness(path: Path, height: Path, most: int | None = None) -> Floats:
    """Read the map of a layer's thickness that belongs to a height map.

    Parameters
    ----------
    path : Path
        TIFF in nm, with a value for each pixel of the height map; 0 where there is no layer.
    height : Path
        The height map's file.
    most : int, optional
        As for :func:`read_height`.

    Returns
    -------
    (rows, columns) array, m

    Raises
    ------
    InputError
        For a file that is missing or no TIFF, of another size, or with a thickness that cannot be.
    """
    if not path.is_file():
        raise InputError(f"there is no map of thickness at {path}")
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"expected a map of thickness as TIFF in nm; got {path.name!r}")
    depth = _read_tiff(path, sized=False)[0] * 1e-9
    tiff = height.suffix.lower() in (".tif", ".tiff")
    z = (_read_tiff(height, sized=False) if tiff else _read_topography(height))[0]
    if depth.shape != z.shape:
        raise InputError(f"{path}: expected {_size(z)}, as {height} has them; got {_size(depth)}")
    if not (np.isfinite(depth).all() and depth.min() >= 0):
        raise InputError(f"{path}: expected a thickness of 0 nm or more in every pixel; some are negative or NaN")
    return depth if most is None else _middle(depth, most)


def _size(z: Floats) -> str:
    return f"{z.shape[1]} × {z.shape[0]} pixels"


def _read_tiff(path: Path, *, sized: bool) -> tuple[Floats, float | None]:
    """Return what the first page holds and, where it is wanted, its pixel size (m)."""
    import tifffile

    sizes = None
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            z = np.asarray(page.asarray(), dtype=np.float64)
            if sized:
                sizes = _tiff_pixel(page, file)
    except QuantityError as error:
        raise InputError(f"{path} does not say its pixel size in a way that can be read: {error.message}") from None
    except ET.ParseError as error:
        raise InputError(
            f"{path}: its OME metadata cannot be read ({error}); give a pixel size, such as 20 nm"
        ) from None
    except (tifffile.TiffFileError, ValueError, OSError, IndexError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read as TIFF: {error}") from None
    if z.ndim != 2:
        raise InputError(f"{path}: expected one height per pixel; got an image of shape {z.shape}")
    return z, None if sizes is None else _square(path, *sizes)


def _square(path: Path, along: float, up: float) -> float:
    """Return the edge of a pixel that is as wide as high."""
    if abs(along - up) > 0.01 * along:
        raise InputError(f"{path}: expected square pixels; got {along * 1e9:g} nm by {up * 1e9:g} nm")
    return along


def _tiff_pixel(page: Any, file: Any) -> tuple[float, float] | None:
    """Return a pixel's width and height (m) from OME metadata, ImageJ's unit or the resolution tags, or None."""
    if file.is_ome and file.ome_metadata:
        for pixels in ET.fromstring(file.ome_metadata).iter():  # noqa: S314  a local file of the user's
            if pixels.tag.endswith("Pixels") and "PhysicalSizeX" in pixels.attrib:
                return _ome_size(pixels.attrib, "X"), _ome_size(
                    pixels.attrib, "Y" if "PhysicalSizeY" in pixels.attrib else "X"
                )
    along, up = _resolution(page, "XResolution"), _resolution(page, "YResolution")
    if along is None:
        return None
    up = along if up is None else up
    if file.is_imagej:
        name = str((file.imagej_metadata or {}).get("unit", ""))
        length = _IMAGEJ_UNITS.get(name.replace("\\u00B5", "µ").replace("\\u00b5", "µ"))
        if length is not None:
            return length / along, length / up
    unit = page.tags.get("ResolutionUnit")
    length = {_INCH: 0.0254, _CENTIMETRE: 0.01}.get(int(unit.value)) if unit is not None else None
    # 72, 96 or 300 dots per inch are what programs write that know nothing.
    return None if length is None or along * 0.0254 / length < 1e4 else (length / along, length / up)


def _ome_size(said: dict[str, str], axis: str) -> float:
    unit = said.get(f"PhysicalSize{axis}Unit", "µm")
    return si(parse_quantity(f"{said[f'PhysicalSize{axis}']} {unit}", "meter"))


def _resolution(page: Any, name: str) -> float | None:
    """Return pixels per unit, or None where a tag is missing or says nothing."""
    tag = page.tags.get(name)
    if tag is None or not (tag.value[0] > 0 and tag.value[1] > 0):
        return None
    return float(tag.value[0] / tag.value[1])


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
    return z, _square(path, along, up)

"""One image per segment, from any microscope's TIFF files: pixels, and what the file says about them.

What was read, what was given and what was assumed is kept apart in :class:`Provenance`, because a height rests on it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import ImageError
from drivers.units import KEV
from reconstruction.metadata import Metadata, read_metadata

SATURATED_SHARE = 0.25
"""Share of clipped pixels above which an image is refused."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where each figure came from.

    Attributes
    ----------
    files : tuple of str
    read, given, assumed : mapping of str to str
        Figure → value with its unit and, where it was read, the dialect.
    """

    files: tuple[str, ...]
    read: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class SegmentImage:
    """One segment's image without its data bar.

    Attributes
    ----------
    path : Path
    counts : (H, W) uint16 array, ADU
    saturation : int, ADU
        Counts from here on are clipped.
    metadata : Metadata
    notes : tuple of str
        What was done to the pixels.
    """

    path: Path
    counts: NDArray[np.uint16]
    saturation: int
    metadata: Metadata
    notes: tuple[str, ...] = ()


def read_images(paths: Sequence[Path]) -> list[SegmentImage]:
    """Read one image for each segment and see that they belong together.

    Raises
    ------
    ImageError
        When a file is missing, damaged, not a grey image, black or saturated, when sizes differ, or when the
        files were taken at another magnification or energy. ``where`` names the file.
    """
    images = [read_image(Path(path)) for path in paths]
    for image in images[1:]:
        _match(images[0], image)
    return images


def _match(first: SegmentImage, other: SegmentImage) -> None:
    if other.counts.shape != first.counts.shape:
        raise ImageError(
            f"expected {_size(first.counts)} as in {first.path.name}; got {_size(other.counts)}; segments of one "
            f"exposure have one size",
            where=str(other.path),
        )
    for name, unit, scale in (("pixel_size", "nm", 1e9), ("beam_energy", "keV", 1 / KEV)):
        one, another = getattr(first.metadata, name), getattr(other.metadata, name)
        if one is not None and another is not None and not math.isclose(one, another, rel_tol=1e-3):
            raise ImageError(
                f"expected the {name.replace('_', ' ')} of {first.path.name}, {one * scale:.6g} {unit}; got "
                f"{another * scale:.6g} {unit}; segments belong to one exposure",
                where=str(other.path),
            )


def _size(counts: NDArray[Any]) -> str:
    return f"{counts.shape[1]} × {counts.shape[0]} pixels"


def read_image(path: Path) -> SegmentImage:
    """Read one segment's image, convert it to uint16 and cut off its data bar.

    Raises
    ------
    ImageError
        As :func:`read_images` says, for one file.
    """
    pixels, metadata = _read_tiff(path)
    pixels = _grey(pixels, path)
    counts, saturation, notes = _to_uint16(pixels, path)
    rows = _scan_rows(counts, metadata)
    if rows < counts.shape[0]:
        notes = (*notes, f"data bar of {counts.shape[0] - rows} rows at the bottom cut off")
    counts = np.ascontiguousarray(counts[:rows])
    _usable(counts, saturation, path)
    return SegmentImage(path, counts, saturation, metadata, notes)


def _read_tiff(path: Path) -> tuple[NDArray[Any], Metadata]:
    import tifffile

    if not path.exists():
        raise ImageError("there is no such file; check the name", where=str(path))
    if path.is_dir():
        raise ImageError("expected an image file; this is a folder", where=str(path))
    try:
        with _quiet("tifffile"), tifffile.TiffFile(path) as tiff:
            metadata = read_metadata(tiff)
            page = tiff.pages[0]
            pixels = np.asarray(page.asarray())
    except OSError as problem:
        raise ImageError(f"cannot be read: {problem.strerror or problem}", where=str(path)) from None
    except Exception as problem:  # noqa: BLE001 - whatever a damaged file makes the decoder raise
        reason = " ".join(str(problem).split())[:120] or type(problem).__name__
        raise ImageError(
            f"is not a complete TIFF image ({reason}); copy it again from the microscope", where=str(path)
        ) from None
    return pixels, metadata


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's own complaints off the terminal; what matters becomes an error of ours."""
    logger = logging.getLogger(name)
    filter_all = _Nothing()
    logger.addFilter(filter_all)
    try:
        yield
    finally:
        logger.removeFilter(filter_all)


class _Nothing(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return False


def _grey(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    pixels = np.squeeze(pixels)
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[-1] not in (3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        colours = pixels[..., :3]
        if (colours[..., :1] != colours).any():
            raise ImageError(
                "expected a grey image of one segment; this one is coloured; export the raw signal", where=str(path)
            )
        return np.asarray(colours[..., 0])
    if pixels.ndim != 2 or min(pixels.shape) < 16:
        raise ImageError(
            f"expected one grey image of 16 × 16 pixels or more; got an array of shape {pixels.shape}", where=str(path)
        )
    return pixels


def _to_uint16(pixels: NDArray[Any], path: Path) -> tuple[NDArray[np.uint16], int, tuple[str, ...]]:
    """Return the counts, where they clip, and what was done to them."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * 257, 65535, ("8 bit, spread to 16 bit",)
    if pixels.dtype == np.uint16:
        peak = int(pixels.max())
        # 12- and 14-bit converters write into 16 bits without spreading.
        full = next((2**bits - 1 for bits in (12, 14) if peak == 2**bits - 1), 65535)
        return pixels, full, (() if full == 65535 else (f"clips at {full}, taken for the converter's end",))
    if np.issubdtype(pixels.dtype, np.floating) or np.issubdtype(pixels.dtype, np.integer):
        values = pixels.astype(np.float64)
        if not np.isfinite(values).all():
            raise ImageError("expected finite pixel values; got NaN or infinity", where=str(path))
        if values.min() >= 0 and values.max() <= 65535 and (values == np.rint(values)).all():
            return values.astype(np.uint16), 65535, (f"{pixels.dtype} with whole numbers, taken as counts",)
    raise ImageError(
        f"expected counts of 8 or 16 bits; got {pixels.dtype} from {pixels.min():g} to {pixels.max():g}; export the "
        f"raw signal",
        where=str(path),
    )


def _usable(counts: NDArray[np.uint16], saturation: int, path: Path) -> None:
    if counts.max() == counts.min():
        shade = "black" if counts.max() == 0 else "of one grey value"
        raise ImageError(f"is all {shade}; was the segment connected and the beam on?", where=str(path))
    clipped = float(np.mean(counts >= saturation))
    if clipped > SATURATED_SHARE:
        raise ImageError(
            f"{clipped:.0%} of the pixels are saturated, more than {SATURATED_SHARE:.0%}; lower the contrast or the "
            f"brightness of this segment and take it again",
            where=str(path),
        )
    black = float(np.mean(counts == 0))
    if black > SATURATED_SHARE:
        raise ImageError(
            f"{black:.0%} of the pixels are at zero, more than {SATURATED_SHARE:.0%}; raise the brightness of this "
            f"segment and take it again",
            where=str(path),
        )


def _scan_rows(counts: NDArray[np.uint16], metadata: Metadata) -> int:
    """Return how many rows belong to the scan."""
    rows = int(counts.shape[0])
    if metadata.image_rows is not None and 0 < metadata.image_rows <= rows:
        return metadata.image_rows
    return int(rows - bar_height(counts))


def bar_height(counts: NDArray[np.uint16]) -> int:
    """Return the height of a data bar at the bottom, 0 where there is none.

    A bar is text on an even ground: a third of each row's pixels and more have one value exactly, which noise does
    not do. It is sought upwards from the last row through a quarter of the image; where all of that is even it is
    the scene that is even, and nothing is cut.
    """
    lowest = counts[-max(counts.shape[0] // 4, 1) :]
    height = 0
    for row in lowest[::-1]:
        if np.unique(row, return_counts=True)[1].max() <= row.size / 3:
            break
        height += 1
    return height if 8 <= height < len(lowest) else 0

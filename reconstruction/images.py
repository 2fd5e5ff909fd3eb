"""One image per segment, from any microscope's TIFF files: pixels, and what the file says about them.

What was read, what was given and what was assumed is kept apart in :class:`Provenance`, because a height rests on it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import ImageError
from drivers.units import KEV
from reconstruction.metadata import Metadata, read_metadata

SATURATED_SHARE = 0.25
"""Share of clipped pixels above which an image is not used."""
_FLOAT_PEAK = 65000.0
"""Counts of the brightest pixel of floating images: below the end, because nothing in them clips."""
_MIN_IS_WHITE, _PALETTE = 0, 3
"""PhotometricInterpretation, TIFF 6.0, section 8."""


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
        What was done to the pixels, and what in the file speaks against an untilted, unturned scan.
    defect : str or None
        Why the image carries no usable signal.
    """

    path: Path
    counts: NDArray[np.uint16]
    saturation: int
    metadata: Metadata
    notes: tuple[str, ...] = ()
    defect: str | None = None


def read_images(paths: Sequence[Path]) -> list[SegmentImage]:
    """Read one image for each segment and see that they belong together.

    An image without a usable signal stays in its place, with a note, as long as three others are good: its counts are
    set to zero, or stay saturated, so that the calibration leaves its segment out.

    Raises
    ------
    ImageError
        When a file is missing, damaged or not a grey image, when too few are neither black nor saturated, when sizes
        differ, or when the files were taken at another magnification or energy. ``where`` names the file.
    """
    images = _converted([_read_tiff(Path(path)) for path in paths])
    _refuse_useless(images)
    images = [
        replace(image, counts=np.zeros_like(image.counts), notes=(*image.notes, f"not used: {image.defect}"))
        if image.defect is not None and "saturated" not in image.defect
        else image
        for image in images
    ]
    for image in images[1:]:
        _match(images[0], image)
    return images


def _refuse_useless(images: Sequence[SegmentImage]) -> None:
    useless = [image for image in images if image.defect is not None]
    if useless and len(images) - len(useless) < 3:
        others = f"; three good images are needed, {len(images) - len(useless)} are" if len(images) > 1 else ""
        raise ImageError(f"{useless[0].defect}{others}", where=str(useless[0].path))


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
    image = _converted([_read_tiff(path)])[0]
    _refuse_useless([image])
    return image


@dataclass(frozen=True, slots=True, eq=False)
class _Raw:
    """A file's grey pixels as they are stored, large values bright."""

    path: Path
    pixels: NDArray[Any]
    metadata: Metadata
    notes: tuple[str, ...]


def _converted(raw: Sequence[_Raw]) -> list[SegmentImage]:
    """Return images in counts: one scale for floating numbers and one data bar for all."""
    scale = _common_scale(raw)
    converted = [_to_uint16(each, scale) for each in raw]
    bars = [bar_height(counts) for each, (counts, _, _) in zip(raw, converted, strict=True) if _bar_unknown(each)]
    # The median, because a bar stands in all images or in none.
    bar = sorted(bars)[(len(bars) - 1) // 2] if bars else 0
    images = []
    for each, (counts, saturation, notes) in zip(raw, converted, strict=True):
        rows = counts.shape[0] - bar if _bar_unknown(each) else int(each.metadata.image_rows or 0)
        scan = np.ascontiguousarray(counts[:rows])
        # Zero is a clipped value of an amplifier, but an honest one of a count of electrons.
        defect = _defect(scan, saturation, floor=not np.issubdtype(each.pixels.dtype, np.floating))
        cut = counts.shape[0] - rows
        said = (*each.notes, *notes, *((f"data bar of {cut} rows at the bottom cut off",) if cut else ()))
        images.append(SegmentImage(each.path, scan, saturation, each.metadata, said, defect))
    return images


def _bar_unknown(raw: _Raw) -> bool:
    rows = raw.metadata.image_rows
    return rows is None or not 0 < rows <= raw.pixels.shape[0]


def _read_tiff(path: Path) -> _Raw:
    import tifffile

    if not path.exists():
        raise ImageError("there is no such file; check the name", where=str(path))
    if path.is_dir():
        raise ImageError("expected an image file; this is a folder", where=str(path))
    try:
        with _quiet("tifffile"), tifffile.TiffFile(path) as tiff:
            metadata = read_metadata(tiff)
            page: Any = tiff.pages[0]
            pixels = _decoded(page, path)
            photometric, bits, colours = int(page.photometric), page.bitspersample, page.colormap
    except ImageError:
        raise
    except OSError as problem:
        raise ImageError(f"cannot be read: {problem.strerror or problem}", where=str(path)) from None
    except Exception as problem:  # noqa: BLE001 - whatever a damaged file makes the decoder raise
        reason = " ".join(str(problem).split())[:120] or type(problem).__name__
        raise ImageError(
            f"is not a complete TIFF image ({reason}); copy it again from the microscope", where=str(path)
        ) from None
    _square(metadata, path)
    pixels = _grey(pixels, path)
    notes = metadata.notes
    if photometric == _PALETTE:
        _grey_palette(colours, path)
    if photometric == _MIN_IS_WHITE:
        pixels, notes = (
            _inverted(pixels, int(bits), path),
            (*notes, "zero is stored as white: the values were inverted"),
        )
    return _Raw(path, pixels, metadata, notes)


def _decoded(page: Any, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(page.asarray())
    except ValueError as problem:
        if "imagecodecs" not in str(problem):
            raise
        name = getattr(page.compression, "name", str(page.compression))
        raise ImageError(
            f"is compressed with {name}; save it without compression, or pip install imagecodecs", where=str(path)
        ) from None


def _square(metadata: Metadata, path: Path) -> None:
    width, height = metadata.pixel_size, metadata.pixel_height
    if width is not None and height is not None and not math.isclose(width, height, rel_tol=0.01):
        raise ImageError(
            f"expected square pixels within 1 %; got {width * 1e9:.6g} nm × {height * 1e9:.6g} nm (width × height); "
            f"switch the tilt correction off or resample the image",
            where=str(path),
        )


def _grey_palette(colours: NDArray[Any] | None, path: Path) -> None:
    """Refuse a palette, except one that gives every value its own grey."""
    if colours is not None and colours.ndim == 2:
        ramp = np.linspace(0, 65535, colours.shape[1])
        # Some programs fill 16 bits with 256 · value, some with 257 · value.
        if np.abs(colours - ramp).max() < 300:
            return
    raise ImageError(
        "expected grey values; this image has a palette of colours; export the raw signal", where=str(path)
    )


def _inverted(pixels: NDArray[Any], bits: int, path: Path) -> NDArray[Any]:
    if not np.issubdtype(pixels.dtype, np.unsignedinteger):
        raise ImageError(
            f"stores zero as white in {pixels.dtype}, where black is not told; export it with zero as black",
            where=str(path),
        )
    return np.asarray(pixels.dtype.type(2**bits - 1) - pixels)


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


def _common_scale(raw: Sequence[_Raw]) -> float | None:
    """Return by what floating images are multiplied, one factor for all; None where they hold counts already.

    Raises
    ------
    ImageError
        When values are negative or not finite.
    """
    floating = [each for each in raw if np.issubdtype(each.pixels.dtype, np.floating)]
    for each in floating:
        if not np.isfinite(each.pixels).all():
            raise ImageError("expected finite pixel values; got NaN or infinity", where=str(each.path))
        if each.pixels.min() < 0:
            raise ImageError(
                f"expected counts of 8 or 16 bits, or numbers of 0 and more; got {each.pixels.dtype} from "
                f"{each.pixels.min():g} to {each.pixels.max():g}; export the raw signal",
                where=str(each.path),
            )
    peak = max((float(each.pixels.max()) for each in floating), default=0.0)
    if peak == 0 or (peak <= 65535 and all((each.pixels == np.rint(each.pixels)).all() for each in floating)):
        return None
    if len(floating) < len(raw):
        other = next(each for each in raw if each not in floating)
        raise ImageError(
            f"expected {floating[0].pixels.dtype} as in {floating[0].path.name}; got {other.pixels.dtype}; the "
            f"segments must share one scale",
            where=str(other.path),
        )
    return _FLOAT_PEAK / peak


def _to_uint16(raw: _Raw, scale: float | None) -> tuple[NDArray[np.uint16], int, tuple[str, ...]]:
    """Return the counts, where they clip, and what was done to them."""
    pixels = raw.pixels
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * 257, 65535, ("8 bit, spread to 16 bit",)
    if pixels.dtype == np.uint16:
        peak = int(pixels.max())
        # 12- and 14-bit converters write into 16 bits without spreading.
        full = next((2**bits - 1 for bits in (12, 14) if peak == 2**bits - 1), 65535)
        return pixels, full, (() if full == 65535 else (f"clips at {full}, taken for the converter's end",))
    if np.issubdtype(pixels.dtype, np.floating) and scale is not None:
        note = f"{pixels.dtype} scaled to counts by {scale:.6g}, the same for all segments"
        return np.rint(pixels.astype(np.float64) * scale).astype(np.uint16), 65535, (note,)
    whole = np.issubdtype(pixels.dtype, np.floating) or np.issubdtype(pixels.dtype, np.integer)
    if whole and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16), 65535, (f"{pixels.dtype} with whole numbers, taken as counts",)
    raise ImageError(
        f"expected counts of 8 or 16 bits; got {pixels.dtype} from {pixels.min():g} to {pixels.max():g}; export the "
        f"raw signal",
        where=str(raw.path),
    )


def _defect(counts: NDArray[np.uint16], saturation: int, *, floor: bool) -> str | None:
    """Return why an image carries no usable signal, or None."""
    clipped = float(np.mean(counts >= saturation))
    if clipped > SATURATED_SHARE:
        return (
            f"{clipped:.0%} of the pixels are saturated, more than {SATURATED_SHARE:.0%}; lower the contrast or the "
            f"brightness of this segment and take it again"
        )
    if counts.max() == counts.min():
        shade = "black" if counts.max() == 0 else "of one grey value"
        return f"is all {shade}; was the segment connected and the beam on?"
    black = float(np.mean(counts == 0))
    if floor and black > SATURATED_SHARE:
        return (
            f"{black:.0%} of the pixels are at zero, more than {SATURATED_SHARE:.0%}; raise the brightness of this "
            f"segment and take it again"
        )
    return None


def bar_height(counts: NDArray[np.uint16]) -> int:
    """Return the height of a data bar at the bottom, 0 where there is none.

    A bar is text on an even ground: a third of each row's pixels and more have one value exactly, which noise does
    not do. It is sought upwards from the last row through a quarter of the image; where all of that is even it is
    the scene that is even, and nothing is cut. Quiet images of 8 bits have even rows too, so a bar must also begin
    with a sharp edge across the width.
    """
    lowest = counts[-max(counts.shape[0] // 4, 1) :]
    height = 0
    for row in lowest[::-1]:
        if np.unique(row, return_counts=True)[1].max() <= row.size / 3:
            break
        height += 1
    return height if 8 <= height < len(lowest) and _sharp_edge(counts, height) else 0


def _sharp_edge(counts: NDArray[np.uint16], height: int) -> bool:
    """Return whether the step onto a bar is larger than the scan's own from row to row, nearly everywhere along it."""
    first = counts.shape[0] - height
    if first < 2:
        return False
    before, last, bar = counts[first - 2 : first + 1].astype(np.int64)
    parts = zip(np.array_split(np.abs(bar - last), 8), np.array_split(np.abs(last - before), 8), strict=True)
    return sum(bool(np.median(across) > 3 * np.median(within)) for across, within in parts) >= 6

"""What ``rilievo simulate frame`` writes: signals, counts for ``rilievo reconstruct``, detector file, description.

Every file appears whole or not at all: it is written under another name and then takes its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from drivers.errors import InputError
from drivers.units import KEV

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from drivers.geometry import DetectorGeometry

BRIGHTEST = 60_000
"""Counts of the brightest pixel of all segments."""


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """Where a simulated frame goes.

    Attributes
    ----------
    signals : Path
        TIFF of float32 pages, keV per beam electron.
    description : Path
        JSON beside it.
    segments : tuple of Path
        One TIFF of counts for each segment; empty unless they are wanted.
    detector : Path or None
        YAML file, written with the segments.
    exits : Path or None
    """

    signals: Path
    description: Path
    segments: tuple[Path, ...] = ()
    detector: Path | None = None
    exits: Path | None = None

    @classmethod
    def plan(cls, output: Path, names: Iterable[str] = (), exits: Path | None = None) -> FrameFiles:
        """Return the files of an output; ``names`` of segments that get files of their own."""
        named = list(names)
        plain = [re.sub(r"[^\w.+-]", "_", name) for name in named]
        if len({name.casefold() for name in plain}) < len(plain):  # segments differ in characters that no file has
            plain = [f"{index + 1}_{name}" for index, name in enumerate(plain)]
        stem = output.stem
        return cls(
            output,
            output.with_suffix(".json"),
            tuple(output.with_name(f"{stem}_{name}.tif") for name in plain),
            output.with_name(f"{stem}_detector.yaml") if named else None,
            exits,
        )

    @property
    def images(self) -> list[Path]:
        """All but the description, in the order in which they are told."""
        rest = (self.detector, self.exits)
        return [self.signals, *self.segments, *(path for path in rest if path is not None)]

    def check(self, inputs: Iterable[Path]) -> None:
        """Refuse targets that are no TIFF, lie in no folder, fall together, or would overwrite what is read.

        Raises
        ------
        InputError
        """
        if self.signals.suffix.lower() not in (".tif", ".tiff"):
            raise InputError(f"expected a name that ends in .tif; got {self.signals.name!r}", "-o")
        read = list(inputs)
        taken: dict[Path, Path] = {}
        for path in [*self.images, self.description]:
            option = "--exits" if path == self.exits else "-o"
            if not path.parent.is_dir():
                raise InputError(f"there is no folder {path.parent}; make it first", option)
            if path.is_dir():
                raise InputError(f"{path} is a folder; expected the name of a file", option)
            if any(_same(path, other) for other in read):
                raise InputError(f"{path} would overwrite what is read from there; give another name", option)
            if path.resolve() in taken:
                raise InputError(f"{path} would be written twice; give another name", option)
            taken[path.resolve()] = path


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, which then takes its own."""
    unfinished = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    _replace(path, lambda target: target.write_text(text, encoding="utf-8"))


def to_counts(signal: NDArray[np.floating]) -> tuple[NDArray[np.uint16], float]:
    """Return signals as counts with offset 0, and their common gain.

    Parameters
    ----------
    signal : (S, H, W) array, keV per beam electron

    Returns
    -------
    (S, H, W) uint16 array, ADU
        The brightest pixel has ``BRIGHTEST``.
    float, ADU per keV per beam electron
    """
    peak = float(signal.max())
    gain = BRIGHTEST / peak if peak > 0 else 1.0
    return np.rint(signal * gain).astype(np.uint16), gain


def _tiff(path: Path, pages: NDArray[Any], pixel_size: float, axes: str, said: Mapping[str, Any]) -> None:
    """Write an OME TIFF that says its pixel size (m), in its resolution tags too, and holds ``said`` as JSON."""
    import tifffile

    per_centimetre = 0.01 / pixel_size
    metadata = {
        "axes": axes,
        "PhysicalSizeX": pixel_size * 1e6,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel_size * 1e6,
        "PhysicalSizeYUnit": "µm",
        "Description": json.dumps(said),
    }
    if axes == "CYX":
        metadata["Channel"] = {"Name": list(said["segments"])}
    _replace(
        path,
        lambda target: tifffile.imwrite(
            target,
            pages,
            photometric="minisblack",
            resolution=(per_centimetre, per_centimetre),
            resolutionunit="CENTIMETER",
            software="Rilievo",
            ome=True,
            metadata=metadata,
        ),
    )


def write_images(
    files: FrameFiles,
    signal: NDArray[np.floating],
    geometry: DetectorGeometry,
    pixel_size: float,
    said: Mapping[str, Any],
) -> float | None:
    """Write the signals, and with them one image of counts for each segment and the detector's file.

    Parameters
    ----------
    files : FrameFiles
    signal : (S, H, W) array, keV per beam electron
    geometry : DetectorGeometry
    pixel_size : float, m
    said : mapping
        What was simulated; goes into each TIFF's description.

    Returns
    -------
    float or None, ADU per keV per beam electron
        The counts' common gain, where they were written.
    """
    told = {**said, "segments": list(geometry.names), "unit": "keV per beam electron"}
    _tiff(files.signals, signal.astype(np.float32), pixel_size, "CYX", told)
    if files.detector is None:
        return None
    counts, gain = to_counts(signal)
    for name, path, page in zip(geometry.names, files.segments, counts, strict=True):
        _tiff(path, page, pixel_size, "YX", {**said, "segment": name, "unit": "ADU", **counts_json(gain)})
    write_text(files.detector, detector_yaml(geometry))
    return gain


def counts_json(gain: float) -> dict[str, Any]:
    """Return how counts follow from signals."""
    return {"gain": {"value": gain, "unit": "ADU/keV"}, "offset": {"value": 0.0, "unit": "ADU"}}


def detector_yaml(geometry: DetectorGeometry) -> str:
    """Return the text of a detector file from which :func:`drivers.registry.load_detector` makes this geometry."""
    x, y = geometry.centre_offset
    lines = [
        f"working_distance: {geometry.working_distance * 1e3:.12g} mm",
        f"threshold: {geometry.threshold / KEV:.12g} keV",
        f"rotation: {math.degrees(geometry.rotation):.12g} deg",
        f"centre_offset: [{x * 1e3:.12g} mm, {y * 1e3:.12g} mm]",
        "segments:",
    ]
    for segment in geometry.segments:
        lines += [
            f"  - name: {json.dumps(segment.name)}",
            f"    inner_radius: {segment.inner_radius * 1e3:.12g} mm",
            f"    outer_radius: {segment.outer_radius * 1e3:.12g} mm",
            f"    azimuth: {math.degrees(segment.azimuth):.12g} deg",
            f"    span: {math.degrees(segment.span):.12g} deg",
        ]
    return "\n".join(lines) + "\n"


def detector_json(geometry: DetectorGeometry) -> dict[str, Any]:
    """Return a detector as JSON tells it."""

    def quantity(value: float, unit: str) -> dict[str, Any]:
        return {"value": value, "unit": unit}

    return {
        "working_distance": quantity(geometry.working_distance * 1e3, "mm"),
        "threshold": quantity(geometry.threshold / KEV, "keV"),
        "rotation": quantity(math.degrees(geometry.rotation), "deg"),
        "centre_offset": quantity(0.0, "mm") | {"value": [part * 1e3 for part in geometry.centre_offset]},
        "segments": [
            {
                "name": segment.name,
                "inner_radius": quantity(segment.inner_radius * 1e3, "mm"),
                "outer_radius": quantity(segment.outer_radius * 1e3, "mm"),
                "azimuth": quantity(math.degrees(segment.azimuth), "deg"),
                "span": quantity(math.degrees(segment.span), "deg"),
            }
            for segment in geometry.segments
        ],
    }

"""What a microscope's TIFF file says about its image.

FEI/Thermo Fisher and Zeiss files carry everything in a private tag; ImageJ, OME and plain TIFF at most a pixel size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drivers.units import KEV

_RESOLUTION_UNITS = {2: 0.0254, 3: 0.01}
_IMAGEJ_UNITS = {"nm": 1e-9, "um": 1e-6, "µm": 1e-6, "\u03bcm": 1e-6, "micron": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
_OME_UNITS = {"nm": 1e-9, "µm": 1e-6, "um": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "pm": 1e-12, "Å": 1e-10}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a microscope's file says about an image; ``None`` where it does not say.

    Attributes
    ----------
    source : str
        Which dialect it was read from: ``FEI``, ``Zeiss``, ``ImageJ``, ``OME``, ``resolution tags`` or ``none``.
    pixel_size, working_distance : float or None, m
    beam_energy : float or None, J
    probe_current : float or None, A
    dwell_time : float or None, s
    image_rows : int or None
        Rows of the scan; what lies below them is the data bar.
    segment : str or None
        The detector's own name of the mode.
    """

    source: str = "none"
    pixel_size: float | None = None
    working_distance: float | None = None
    beam_energy: float | None = None
    probe_current: float | None = None
    dwell_time: float | None = None
    image_rows: int | None = None
    segment: str | None = None


def read_metadata(tiff: Any) -> Metadata:
    """Return what an open ``tifffile.TiffFile`` says, in the first dialect that it speaks."""
    for reader in (_fei, _zeiss, _ome, _imagej, _tags):
        found: Metadata | None = reader(tiff)
        if found is not None:
            return found
    return Metadata()


def _fei(tiff: Any) -> Metadata | None:
    said = tiff.fei_metadata
    if not said:
        return None
    beam = said.get("EBeam", {}) | {}
    scan = said.get("Scan", {}) | {}
    image = said.get("Image", {}) | {}
    energy = _number(beam.get("HV")) or _number(said.get("Beam", {}).get("HV"))
    landing = _number(said.get("EBeamDeceleration", {}).get("LandingEnergy"))
    if said.get("EBeamDeceleration", {}).get("ModeOn") == "On" and landing:
        energy = landing
    rows = _number(image.get("ResolutionY"))
    return Metadata(
        source="FEI",
        pixel_size=_number(scan.get("PixelWidth")) or _number(said.get("EScan", {}).get("PixelWidth")),
        working_distance=_number(beam.get("WD")) or _number(said.get("Stage", {}).get("WorkingDistance")),
        beam_energy=None if energy is None else energy * KEV / 1000,
        probe_current=_number(beam.get("BeamCurrent")),
        dwell_time=_number(scan.get("Dwelltime")),
        image_rows=None if rows is None else int(rows),
        segment=str(said.get("Detectors", {}).get("Mode") or "") or None,
    )


def _zeiss(tiff: Any) -> Metadata | None:
    said = tiff.sem_metadata
    if not said:
        return None
    seconds = {"ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0}
    metres = {"pm": 1e-12, "nm": 1e-9, "µm": 1e-6, "um": 1e-6, "mm": 1e-3, "m": 1.0}
    amperes = {"pA": 1e-12, "nA": 1e-9, "µA": 1e-6, "uA": 1e-6, "A": 1.0}
    volts = {"V": KEV / 1000, "kV": KEV}

    def value(keys: tuple[str, ...], units: Mapping[str, float]) -> float | None:
        entry = next((said[key] for key in keys if key in said), None)
        if not isinstance(entry, tuple) or len(entry) < 3 or entry[2] not in units:
            return None
        number = _number(entry[1])
        return None if number is None else number * units[entry[2]]

    return Metadata(
        source="Zeiss",
        pixel_size=value(("ap_image_pixel_size", "ap_pixel_size"), metres),
        working_distance=value(("ap_wd",), metres),
        beam_energy=value(("ap_landing_energy", "ap_actualkv", "ap_manualkv"), volts),
        probe_current=value(("ap_iprobe", "ap_actualcurrent"), amperes),
        dwell_time=value(("dp_dwell_time", "ap_dwell_time"), seconds),
        segment=None,
    )


def _ome(tiff: Any) -> Metadata | None:
    if not tiff.is_ome or not tiff.ome_metadata:
        return None
    import xml.etree.ElementTree as ET

    try:
        root = ET.fromstring(tiff.ome_metadata)  # noqa: S314 - no entities: expat refuses external ones
    except ET.ParseError:
        return None
    pixels = next((element for element in root.iter() if element.tag.endswith("}Pixels")), None)
    if pixels is None or pixels.get("PhysicalSizeX") is None:
        return None
    scale = _OME_UNITS.get(pixels.get("PhysicalSizeXUnit") or "µm")
    size = _number(pixels.get("PhysicalSizeX"))
    return Metadata("OME", pixel_size=size * scale) if size and scale else None


def _imagej(tiff: Any) -> Metadata | None:
    if not tiff.is_imagej:
        return None
    scale = _IMAGEJ_UNITS.get(str((tiff.imagej_metadata or {}).get("unit", "")))
    per_unit = _resolution(tiff)
    return Metadata("ImageJ", pixel_size=scale / per_unit) if scale and per_unit else None


def _tags(tiff: Any) -> Metadata | None:
    unit = tiff.pages[0].tags.get("ResolutionUnit")
    scale = _RESOLUTION_UNITS.get(int(unit.value)) if unit is not None else None
    per_unit = _resolution(tiff)
    # 72 to 600 dots an inch come from a drawing program, not from a microscope.
    if scale is None or per_unit is None or scale / per_unit > 2e-5:
        return None
    return Metadata("resolution tags", pixel_size=scale / per_unit)


def _resolution(tiff: Any) -> float | None:
    tag = tiff.pages[0].tags.get("XResolution")
    if tag is None:
        return None
    numerator, denominator = tag.value
    return numerator / denominator if numerator > 0 and denominator > 0 else None


def _number(value: Any) -> float | None:
    """Return a finite positive number, or None for whatever else a file holds there."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None

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
_IMAGEJ_UNITS = {
    **dict.fromkeys(("um", "µm", "\u03bcm", "micron", "microns"), 1e-6),
    "nm": 1e-9,
    "mm": 1e-3,
    "cm": 1e-2,
    "m": 1.0,
}
_TILTED = 0.5
"""Degrees from which on a stage's tilt or a scan's rotation is worth a word."""
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
    pixel_height : float or None, m
        Down the rows, where the file tells it apart from ``pixel_size``.
    notes : tuple of str
        What is not as heights assume it: a turned scan, a tilted stage, a tilt correction.
    """

    source: str = "none"
    pixel_size: float | None = None
    working_distance: float | None = None
    beam_energy: float | None = None
    probe_current: float | None = None
    dwell_time: float | None = None
    image_rows: int | None = None
    segment: str | None = None
    pixel_height: float | None = None
    notes: tuple[str, ...] = ()


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
        pixel_height=_number(scan.get("PixelHeight")) or _number(said.get("EScan", {}).get("PixelHeight")),
        notes=_fei_notes(said),
    )


def _fei_notes(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is turned or tilted; angles are in radians there."""

    def degrees(*places: tuple[str, str]) -> float:
        angles = [_signed(said.get(section, {}).get(key)) for section, key in places]
        return math.degrees(max(angles, key=abs))

    correction = said.get("EBeam", {}).get("TiltCorrectionIsOn", "no")
    return _orientation(
        degrees(("EBeam", "ScanRotation"), ("Beam", "ScanRotation")),
        degrees(("Stage", "StageT"), ("EBeam", "StageTa")),
        corrected=str(correction).strip().lower() in ("yes", "on", "true", "1"),
    )


def _orientation(rotation: float, tilt: float, *, corrected: bool) -> tuple[str, ...]:
    """Return sentences about a scan's rotation and a stage's tilt, both in degrees, and a tilt correction."""
    rotation = (rotation + 180) % 360 - 180
    notes = []
    if abs(rotation) > _TILTED:
        notes.append(
            f"THE SCAN WAS ROTATED BY {rotation:.3g}°: the detector's azimuths turn with it against the image; a "
            "detector file must say them as the image shows them"
        )
    if abs(tilt) > _TILTED:
        notes.append(
            f"THE STAGE WAS TILTED BY {tilt:.3g}°: heights assume that the beam falls straight onto the sample; slopes "
            "and lengths across the tilt axis are wrong"
        )
    if corrected:
        notes.append("TILT CORRECTION WAS ON: rows are stretched, and pixels are square only on the tilted plane")
    return tuple(notes)


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
        notes=_zeiss_notes(said),
    )


def _zeiss_notes(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is turned or tilted; angles are in degrees there, and switches say On or Off."""

    def entry(key: str) -> Any:
        found = said.get(key)
        return found[1] if isinstance(found, tuple) and len(found) > 1 else None

    def on(*keys: str) -> bool | None:
        switches = [str(entry(key)).strip().lower() for key in keys if entry(key) is not None]
        return any(each in ("on", "yes", "true") for each in switches) if switches else None

    # The angle stays in the file while the rotation is switched off.
    rotation = 0.0 if on("dp_scan_rot", "dp_scan_rotation") is False else _signed(entry("ap_scanrotation"))
    tilt = max((_signed(entry(key)) for key in ("ap_stage_at_t", "ap_tilt_angle")), key=abs)
    return _orientation(rotation, tilt, corrected=bool(on("dp_tilt_correction", "dp_tilt_corrn")))


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
    if not size or not scale:
        return None
    down = _number(pixels.get("PhysicalSizeY"))
    scale_down = _OME_UNITS.get(pixels.get("PhysicalSizeYUnit") or "µm")
    height = down * scale_down if down and scale_down else None
    return Metadata("OME", pixel_size=size * scale, pixel_height=height)


def _imagej(tiff: Any) -> Metadata | None:
    if not tiff.is_imagej:
        return None
    unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ").replace("\\u00b5", "µ").strip()
    return _by_resolution(tiff, "ImageJ", _IMAGEJ_UNITS.get(unit))


def _tags(tiff: Any) -> Metadata | None:
    unit = tiff.pages[0].tags.get("ResolutionUnit")
    scale = _RESOLUTION_UNITS.get(int(unit.value)) if unit is not None else None
    found = _by_resolution(tiff, "resolution tags", scale)
    # 72 to 600 dots an inch come from a drawing program, not from a microscope.
    return None if found is None or (found.pixel_size or 1.0) > 2e-5 else found


def _by_resolution(tiff: Any, source: str, scale: float | None) -> Metadata | None:
    """Return a pixel's sides from the resolution tags; ``scale`` is their unit in metres."""
    across, down = _resolution(tiff, "XResolution"), _resolution(tiff, "YResolution")
    if scale is None or across is None:
        return None
    return Metadata(source, pixel_size=scale / across, pixel_height=scale / down if down else None)


def _resolution(tiff: Any, name: str) -> float | None:
    tag = tiff.pages[0].tags.get(name)
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


def _signed(value: Any) -> float:
    """Return a finite number, or 0 for whatever else a file holds there."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0

"""From image files to heights on disk: what ``rilievo reconstruct`` does."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import ImageError, InputError, StoreError
from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import DetectorGeometry, Segment
from drivers.units import KEV
from reconstruction.azimuths import AzimuthEstimate, estimate_azimuths
from reconstruction.heights_file import write_heights
from reconstruction.images import Provenance, SegmentImage, read_images
from reconstruction.photometric import Quality, Reconstruction
from reconstruction.quality import reconstruct_frame

if TYPE_CHECKING:
    from torch import Tensor

    from reconstruction.solve import Progress

INNER_RADIUS, OUTER_RADIUS, WORKING_DISTANCE = 2e-3, 8e-3, 8e-3
"""Metres, assumed and said where nobody knows the detector."""
BEAM_ENERGY = 10 * KEV
MATERIAL = "Fe"
_SHOWN = {
    "pixel_size": (1e9, "nm"),
    "beam_energy": (1 / KEV, "keV"),
    "working_distance": (1e3, "mm"),
    "probe_current": (1e9, "nA"),
    "dwell_time": (1e6, "us"),
}


def reconstruct_files(
    paths: Sequence[Path],
    *,
    detector: DetectorGeometry | None = None,
    pixel_size: float | None = None,
    beam_energy: float | None = None,
    material: str | None = None,
    probe_current: float | None = None,
    dwell_time: float | None = None,
    quality: Quality | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Return heights from one image per segment.

    Parameters
    ----------
    paths : sequence of Path
        In the order of the detector's segments.
    detector : DetectorGeometry, optional
        Without it equal segments are taken, whose azimuths are estimated from the images.
    pixel_size : float, optional, m
    beam_energy : float, optional, J
    probe_current : float, optional, A
    dwell_time : float, optional, s
        What is given stands above what the files say.
    material : str, optional
        Of the sample: a chemical symbol, a formula, or ``Cu2O on Cu``.
    quality : {"preview", "fast", "full"}, optional
        ``full`` unless given, where material and detector are told and the transformer knows them; else ``preview``.
    progress : callable, optional
        Called with the share done and a few words; may raise to stop.

    Raises
    ------
    ImageError
        When the files cannot be used, with the file's name; when the pixel size or the azimuths cannot be told.
    InputError
        When the material, the asked quality's model or the detector is not known, or they do not fit together.
    """
    given = {
        "pixel_size": pixel_size,
        "beam_energy": beam_energy,
        "probe_current": probe_current,
        "dwell_time": dwell_time,
    }
    _enough(paths, detector)
    images = read_images([Path(path) for path in paths])
    counts = np.stack([image.counts for image in images])
    values, provenance = _settings(images, given)
    notes = _image_notes(images)
    geometry, estimate = detector, None
    if geometry is None:
        _all_good(images)
        estimate = estimate_azimuths(counts)
        geometry = _assumed_detector(images, estimate, values["working_distance"])
    notes += _detector_notes(geometry, estimate, values["working_distance"])
    if material is None:
        notes.append(
            f"the material is not known; the emission law of {MATERIAL} was taken, right to about 10 % in slope"
        )
    frame = _frame(images, counts, geometry, values)
    result = reconstruct_frame(
        frame,
        quality=quality,
        material=material,
        otherwise=MATERIAL,
        detector_known=detector is not None,
        progress=progress,
    )
    return replace(result, assumptions=(*result.assumptions, *notes), provenance=provenance)


def _enough(paths: Sequence[Path], detector: DetectorGeometry | None) -> None:
    if detector is not None and len(paths) != len(detector.segments):
        raise ImageError(
            f"the detector has {len(detector.segments)} segments ({', '.join(detector.names)}); expected one image for "
            f"each, in this order; got {len(paths)}"
        )
    if not 3 <= len(paths) <= 6:
        raise ImageError(f"expected one image per segment, three to six; got {len(paths)}")
    names = [Path(path).resolve() for path in paths]
    if len(set(names)) != len(names):
        raise ImageError("the same file was given twice; every segment has an image of its own")


def _all_good(images: Sequence[SegmentImage]) -> None:
    for image in images:
        if image.defect is not None:
            raise ImageError(
                f"{image.defect}; azimuths can be told only with all segments: to do without this one, describe the "
                f"detector in a file and give it with --detector",
                where=str(image.path),
            )


def _image_notes(images: Sequence[SegmentImage]) -> list[str]:
    """Return the notes of all images, each once with the files that it is true of."""
    names: dict[str, list[str]] = {}
    for image in images:
        for note in image.notes:
            names.setdefault(note, []).append(image.path.name)
    return [f"{'all images' if len(which) == len(images) else ', '.join(which)}: {n}" for n, which in names.items()]


def _settings(
    images: Sequence[SegmentImage], given: dict[str, float | None]
) -> tuple[dict[str, float | None], Provenance]:
    """Return each setting, given before read, and where it came from."""
    said = images[0].metadata
    values: dict[str, float | None] = {}
    read, used, assumed = {}, {}, {}
    for name, (scale, unit) in _SHOWN.items():
        wanted, found = given.get(name), getattr(said, name)
        values[name] = found if wanted is None else wanted
        if wanted is not None:
            used[name] = f"{wanted * scale:.6g} {unit}"
        elif found is not None:
            read[name] = f"{found * scale:.6g} {unit} ({said.source})"
    if values["pixel_size"] is None:
        raise ImageError("says nothing of its pixel size; give it with --pixel-size", where=str(images[0].path))
    if values["beam_energy"] is None:
        values["beam_energy"] = BEAM_ENERGY
        assumed["beam_energy"] = f"{BEAM_ENERGY / KEV:g} keV"
    return values, Provenance(tuple(str(image.path) for image in images), read, used, assumed)


def _assumed_detector(
    images: Sequence[SegmentImage], estimate: AzimuthEstimate, working_distance: float | None
) -> DetectorGeometry:
    span = 2 * math.pi / len(images)
    names = [image.metadata.segment or image.path.stem for image in images]
    if len(set(names)) != len(names):
        names = [f"{index + 1}" for index in range(len(images))]
    segments = tuple(
        Segment(name, INNER_RADIUS, OUTER_RADIUS, float(azimuth), span)
        for name, azimuth in zip(names, estimate.azimuths, strict=True)
    )
    return DetectorGeometry(segments, working_distance or WORKING_DISTANCE)


def _detector_notes(
    geometry: DetectorGeometry, estimate: AzimuthEstimate | None, working_distance: float | None
) -> list[str]:
    if estimate is None:
        if working_distance is None or abs(working_distance / geometry.working_distance - 1) < 0.02:
            return []
        used, said = geometry.working_distance * 1e3, working_distance * 1e3
        return [f"the detector file's working distance, {used:.3g} mm, was taken; the images say {said:.3g} mm"]
    shown = ", ".join(f"{math.degrees(azimuth):.1f}°" for azimuth in estimate.azimuths)
    radii = f"{INNER_RADIUS * 1e3:g} to {OUTER_RADIUS * 1e3:g} mm"
    notes = [
        f"segment azimuths are ESTIMATED from the images: {shown}, ± {math.degrees(estimate.sigma):.1f}° together",
        f"relief and cast are told apart by the field's brightening, {estimate.significance:.0f} standard errors",
        f"the detector's radii are not known: {radii} were assumed; the vertical scale depends on them",
    ]
    if working_distance is None:
        notes.append(f"the working distance is not known: {WORKING_DISTANCE * 1e3:g} mm was assumed")
    return notes


def _frame(
    images: Sequence[SegmentImage],
    counts: NDArray[np.uint16],
    geometry: DetectorGeometry,
    values: dict[str, float | None],
) -> Frame:
    beam = BeamSettings(
        beam_energy=values["beam_energy"] or BEAM_ENERGY,
        pixel_size=values["pixel_size"] or math.nan,
        probe_current=values["probe_current"],
        dwell_time=values["dwell_time"],
    )
    channels = tuple(
        Channel(name, saturation=image.saturation) for name, image in zip(geometry.names, images, strict=True)
    )
    # A microscope's file tells local time without its zone; when the image was taken does not matter here.
    return Frame(counts, geometry, beam, channels, datetime.now(UTC))


def summary(result: Reconstruction) -> dict[str, Any]:
    """Return what JSON tells of a reconstruction: quality, figures, segments, nuisances, assumptions, provenance."""
    beam, geometry = result.frame.beam, result.frame.geometry
    origin = result.provenance
    return {
        "quality": result.quality,
        "figures": {
            name: {"value": figure.value, "unit": figure.unit, "sigma": figure.sigma}
            for name, figure in result.figures.items()
        },
        "pixel_size": {"value": beam.pixel_size * 1e9, "unit": "nm"},
        "beam_energy": {"value": beam.beam_energy / KEV, "unit": "keV"},
        "working_distance": {"value": geometry.working_distance * 1e3, "unit": "mm"},
        "segments": [
            {
                "name": segment.name,
                "state": segment.state,
                "azimuth": {"value": math.degrees(float(azimuth)) % 360, "unit": "deg"},
                "offset": {"value": segment.offset, "unit": "ADU", "source": segment.offset_source},
                "relative_gain": {"value": segment.gain, "unit": "", "interval": list(segment.gain_interval)},
                "noise_gain": {"value": segment.noise_gain, "unit": "ADU"},
            }
            for segment, azimuth in zip(result.segments, geometry.azimuths, strict=True)
        ],
        "nuisances": _nuisances(result),
        "assumptions": list(result.assumptions),
        "provenance": None
        if origin is None
        else {
            "files": list(origin.files),
            "read": dict(origin.read),
            "given": dict(origin.given),
            "assumed": dict(origin.assumed),
        },
    }


def _nuisances(result: Reconstruction) -> dict[str, Any] | None:
    """Return what was estimated beside the heights, each with σ and its interval; None where nothing was."""
    found = result.nuisances
    if found is None:
        return None
    at, errors = found.nuisances, found.errors
    live = [segment.name for segment in result.segments if segment.state == "live"]
    gains = zip(live, at.gains.tolist(), errors.gains.tolist(), strict=True)
    return {
        "gains": [{"name": name, **_told(gain, error)} for name, gain, error in gains],
        "detector_shift": _pair(at.shift * 1e3, errors.shift * 1e3, "mm"),
        "rotation": _told(math.degrees(float(at.rotation)), math.degrees(float(errors.rotation)), "deg"),
        "tilt": _pair(at.tilt, errors.tilt),
        "combination": _pair(found.combination, found.combination_error),
    }


def _pair(values: Tensor, errors: Tensor, unit: str = "") -> dict[str, Any]:
    """Return what has a part in x and one in y."""
    return {
        axis: _told(value, error, unit)
        for axis, value, error in zip("xy", values.tolist(), errors.tolist(), strict=True)
    }


def _told(value: float, error: float, unit: str = "") -> dict[str, Any]:
    """Return a number with its standard deviation and its interval of 95 %."""
    return {"value": value, "unit": unit, "sigma": error, "interval": [value - 1.96 * error, value + 1.96 * error]}


def refuse_target(output: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse an output that would overwrite itself or what is read; to be called before any work.

    Parameters
    ----------
    output : Path
        Of the heights; a JSON and a PNG file are written beside it.
    inputs : iterable of paths
        Whatever is read.

    Raises
    ------
    InputError
        Naming ``-o``.
    """
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"expected a name that ends in .tif or .tiff; got {output.name}", "-o")
    sources = [Path(each) for each in inputs]
    for target in (output, output.with_suffix(".json"), output.with_suffix(".png")):
        for source in sources:
            # Two names of one file, such as hard links, are one file.
            same = target.exists() and source.exists() and target.samefile(source)
            if same or target.resolve() == source.resolve():
                raise InputError(f"{target} is one of the input files and would be overwritten; name another", "-o")


def write_results(path: Path, result: Reconstruction, *, figure: bool = True) -> list[Path]:
    """Write heights, σ and what oxide was found as TIFF, and JSON and a figure beside it; return what was written.

    Raises
    ------
    DiskFull, StoreError
        When something cannot be written.
    InputError
        As :func:`refuse_target` says.
    """
    refuse_target(path, result.provenance.files if result.provenance is not None else ())
    said = summary(result)
    write_heights(path, result.heights, result.sigma, said, oxide=result.oxide)
    written = [path, path.with_suffix(".json")]
    try:
        written[1].write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if figure:
            from reconstruction.figure import draw

            written.append(path.with_suffix(".png"))
            draw(result, written[2])
    except OSError as problem:
        raise StoreError(f"cannot be written: {problem.strerror or problem}", where=str(written[-1])) from problem
    return written

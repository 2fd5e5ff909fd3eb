"""What a frame's file says about itself: OME-XML that microscopy programs read, and a record that loses nothing.

The image description of the first page is OME-XML (schema 2016-06) with segment names as channel names, the physical
pixel size, the acquisition date and a table of beam settings that Fiji shows. What OME has no words for stands in one
annotation of namespace ``urn:rilievo:frame:1`` as JSON: the geometry of every segment, what is known of each channel
(``null`` where it is not), the beam, every readback with unit, time and freshness, and whether the beam was blanked.
Each physical figure is ``{"value": …, "unit": …}``: SI units for beam and geometry, the channel's own for readbacks.
"""

from __future__ import annotations

import json
import math
import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.sax import saxutils

import numpy as np
from numpy.typing import NDArray

from drivers.errors import StoreError
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import DetectorGeometry, Segment
from drivers.units import KEV, quantity, unit_text

NAMESPACE = "urn:rilievo:frame:1"
_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"

Json = dict[str, Any]


def _figure(value: float | None, unit: str) -> Json | None:
    """Return value and unit; JSON has no word for what is not a number, so that becomes null."""
    if value is None:
        return None
    return {"value": value if math.isfinite(value) else None, "unit": unit}


def _value(figure: Json | None) -> float | None:
    if figure is None:
        return None
    return math.nan if figure["value"] is None else float(figure["value"])


def _known(figure: Json | None) -> float:
    value = _value(figure)
    if value is None:
        raise StoreError("the frame's record lacks a figure that every frame has")
    return value


def record(frame: Frame) -> Json:
    """Return everything but the counts as JSON; :func:`from_record` is the way back."""
    geometry, beam = frame.geometry, frame.beam
    return {
        "time": frame.time.astimezone(UTC).isoformat(),
        "dark": frame.dark,
        "beam": {
            "beam_energy": _figure(beam.beam_energy, "J"),
            "pixel_size": _figure(beam.pixel_size, "m"),
            "probe_current": _figure(beam.probe_current, "A"),
            "dwell_time": _figure(beam.dwell_time, "s"),
            "probe_diameter": _figure(beam.probe_diameter, "m"),
        },
        "detector": {
            "working_distance": _figure(geometry.working_distance, "m"),
            "centre_offset": [_figure(offset, "m") for offset in geometry.centre_offset],
            "rotation": _figure(geometry.rotation, "rad"),
            "threshold": _figure(geometry.threshold, "J"),
            "segments": [
                {
                    "name": segment.name,
                    "inner_radius": _figure(segment.inner_radius, "m"),
                    "outer_radius": _figure(segment.outer_radius, "m"),
                    "azimuth": _figure(segment.azimuth, "rad"),
                    "span": _figure(segment.span, "rad"),
                }
                for segment in geometry.segments
            ],
        },
        "channels": [
            {
                "name": channel.name,
                "offset": _figure(channel.offset, "ADU"),
                "gain": _figure(channel.gain, channel.gain_unit),
                "gain_unit": channel.gain_unit,
                "read_noise": _figure(channel.read_noise, "ADU"),
                "saturation": channel.saturation,
            }
            for channel in frame.channels
        ],
        "readbacks": {
            name: {
                **(_figure(float(reading.value.magnitude), unit_text(reading.value.units)) or {}),
                "time": reading.time.astimezone(UTC).isoformat(),
                "fresh": reading.fresh,
            }
            for name, reading in frame.readbacks.items()
        },
    }


def from_record(data: Json, counts: NDArray[np.uint16]) -> Frame:
    """Return the frame of a record and its counts.

    Raises
    ------
    StoreError
        When the record lacks something or holds something else than expected.
    """
    try:
        beam = data["beam"]
        return Frame(
            counts=counts,
            geometry=_geometry(data["detector"]),
            beam=BeamSettings(
                beam_energy=_known(beam["beam_energy"]),
                pixel_size=_known(beam["pixel_size"]),
                probe_current=_value(beam["probe_current"]),
                dwell_time=_value(beam["dwell_time"]),
                probe_diameter=_value(beam["probe_diameter"]),
            ),
            channels=tuple(_channel(channel) for channel in data["channels"]),
            time=datetime.fromisoformat(data["time"]),
            dark=bool(data["dark"]),
            readbacks={name: _reading(reading) for name, reading in data["readbacks"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the frame's record cannot be understood ({type(error).__name__}: {error})") from None


def _geometry(data: Json) -> DetectorGeometry:
    x, y = (_known(offset) for offset in data["centre_offset"])
    return DetectorGeometry(
        segments=tuple(
            Segment(
                segment["name"],
                _known(segment["inner_radius"]),
                _known(segment["outer_radius"]),
                _known(segment["azimuth"]),
                _known(segment["span"]),
            )
            for segment in data["segments"]
        ),
        working_distance=_known(data["working_distance"]),
        centre_offset=(x, y),
        rotation=_known(data["rotation"]),
        threshold=_known(data["threshold"]),
    )


def _channel(data: Json) -> Channel:
    return Channel(
        name=data["name"],
        offset=_value(data["offset"]),
        gain=_value(data["gain"]),
        read_noise=_value(data["read_noise"]),
        gain_unit=data["gain_unit"],
        saturation=int(data["saturation"]),
    )


def _reading(data: Json) -> Reading:
    return Reading(quantity(_known(data), data["unit"]), datetime.fromisoformat(data["time"]), bool(data["fresh"]))


def encode(frame: Frame) -> bytes:
    """Return the OME-XML of a frame's first page, ASCII: other characters as references, which every reader takes."""
    rows, columns = frame.shape
    data = json.dumps(record(frame), allow_nan=False, separators=(",", ":"))
    # The identifier follows from the record, so that the same frame makes the same bytes.
    identifier = uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}:{data}")
    pixel_size = frame.beam.pixel_size * 1e9
    channels = "".join(
        f'<Channel ID="Channel:0:{index}" Name={_attribute(name)} SamplesPerPixel="1"/>'
        for index, name in enumerate(frame.geometry.names)
    )
    settings = "".join(f"<M K={_attribute(key)}>{_text(text)}</M>" for key, text in _settings(frame).items())
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{_SCHEMA}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_SCHEMA} {_SCHEMA}/ome.xsd" Creator="Rilievo" UUID="urn:uuid:{identifier}">'
        f'<Image ID="Image:0" Name={_attribute("dark frame" if frame.dark else "frame")}>'
        f"<AcquisitionDate>{_xml_time(frame.time)}</AcquisitionDate>"
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" BigEndian="false" Interleaved="false" '
        f'SizeX="{columns}" SizeY="{rows}" SizeC="{len(frame.channels)}" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="{pixel_size!r}" PhysicalSizeXUnit="nm" '
        f'PhysicalSizeY="{pixel_size!r}" PhysicalSizeYUnit="nm">'
        f'{channels}<TiffData IFD="0" PlaneCount="{len(frame.channels)}"/></Pixels>'
        '<AnnotationRef ID="Annotation:0"/><AnnotationRef ID="Annotation:1"/></Image>'
        "<StructuredAnnotations>"
        f'<MapAnnotation ID="Annotation:0" Namespace="urn:rilievo:settings:1"><Value>{settings}</Value></MapAnnotation>'
        f'<CommentAnnotation ID="Annotation:1" Namespace="{NAMESPACE}"><Value>{_text(data)}</Value>'
        "</CommentAnnotation></StructuredAnnotations></OME>"
    )
    return text.encode("ascii", "xmlcharrefreplace")


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _text(text: str) -> str:
    """Return text as XML holds it; what XML 1.0 cannot hold at all becomes a question mark."""
    return saxutils.escape(_NOT_XML.sub("?", text))


def _attribute(text: str) -> str:
    return saxutils.quoteattr(_NOT_XML.sub("?", text))


def _xml_time(time: datetime) -> str:
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _settings(frame: Frame) -> Mapping[str, str]:
    """Return the figures that a person looks for, as text with units."""
    beam = frame.beam
    shown = {
        "Beam energy": f"{beam.beam_energy / KEV:.6g} keV",
        "Working distance": f"{frame.geometry.working_distance * 1e3:.6g} mm",
        "Pixel size": f"{beam.pixel_size * 1e9:.6g} nm",
        "Beam": "blanked (dark frame)" if frame.dark else "on the sample",
    }
    if beam.probe_current is not None:
        shown["Probe current"] = f"{beam.probe_current * 1e9:.6g} nA"
    if beam.dwell_time is not None:
        shown["Dwell time"] = f"{beam.dwell_time * 1e6:.6g} us"
    for name, reading in frame.readbacks.items():
        age = "" if reading.fresh else " (old)"
        shown[name] = f"{float(reading.value.magnitude):.6g} {unit_text(reading.value.units)}".strip() + age
    return shown


def decode(description: str, counts: NDArray[np.uint16]) -> Frame:
    """Return the frame of a first page's OME-XML and the counts of all pages.

    Raises
    ------
    StoreError
        When the description is not OME-XML, or has no record of this program.
    """
    try:
        root = ET.fromstring(description)  # noqa: S314  no entities: expat since 2.4.1 limits their growth
    except ET.ParseError as error:
        raise StoreError(f"the file carries no OME-XML ({error}); it was not written by this program") from None
    for annotation in root.iter(f"{{{_SCHEMA}}}CommentAnnotation"):
        if annotation.get("Namespace") == NAMESPACE:
            text = annotation.findtext(f"{{{_SCHEMA}}}Value") or ""
            return from_record(_parse(text), counts)
    raise StoreError(f"the file has no annotation {NAMESPACE}; it was not written by this program")


def _parse(text: str) -> Json:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise StoreError(f"the frame's record is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise StoreError("the frame's record is not a JSON object")
    return data

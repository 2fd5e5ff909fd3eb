"""One exposure of the segmented detector, with everything that is needed to understand it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry
from drivers.sample import read_only
from drivers.units import ELEMENTARY_CHARGE, Q


@dataclass(frozen=True, slots=True)
class Reading:
    """What a channel said, and when.

    Attributes
    ----------
    value : pint.Quantity
    time : datetime
        UTC, of the measurement.
    fresh : bool
        False where the value is older than its channel allows.
    """

    value: Q
    time: datetime
    fresh: bool = True

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise InputError(f"a reading's time needs a time zone, UTC; got {self.time}")


@dataclass(frozen=True, slots=True)
class Channel:
    """How one segment's electrons became numbers. ``None`` says that a figure is not known.

    Attributes
    ----------
    name : str
        Of the segment.
    offset : float or None, ADU
        Signal without electrons.
    gain : float or None
        In ``gain_unit``.
    read_noise : float or None, ADU
        Standard deviation of the amplifier's noise.
    gain_unit : str
        ``ADU/electron``: of a detected electron of average energy; or ``ADU/keV``: of energy above the threshold.
    saturation : int, ADU
        Counts from here on are clipped.
    """

    name: str
    offset: float | None = None
    gain: float | None = None
    read_noise: float | None = None
    gain_unit: Literal["ADU/electron", "ADU/keV"] = "ADU/keV"
    saturation: int = 65535


@dataclass(frozen=True, slots=True)
class BeamSettings:
    """How the beam stood while a frame was taken.

    Attributes
    ----------
    beam_energy : float, J
    probe_current : float or None, A
    dwell_time : float or None, s
        Of one pixel.
    pixel_size : float, m
    probe_diameter : float or None, m
        Full width at half maximum.
    """

    beam_energy: float
    pixel_size: float
    probe_current: float | None = None
    dwell_time: float | None = None
    probe_diameter: float | None = None

    @property
    def electrons_per_pixel(self) -> float | None:
        """Primary electrons in one pixel, I·τ/e."""
        if self.probe_current is None or self.dwell_time is None:
            return None
        return self.probe_current * self.dwell_time / ELEMENTARY_CHARGE


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Digitised signal of each segment, with the geometry, settings and readbacks it was taken with.

    Attributes
    ----------
    counts : (S, H, W) uint16 array, ADU, read-only
        First row at the top; segments in the order of ``geometry.segments``.
    geometry : DetectorGeometry
    beam : BeamSettings
    channels : tuple of Channel
        One for each segment.
    time : datetime
        UTC, of the first pixel.
    dark : bool
        Whether the beam was blanked.
    readbacks : mapping of str to Reading
    """

    counts: NDArray[np.uint16]
    geometry: DetectorGeometry
    beam: BeamSettings
    channels: tuple[Channel, ...]
    time: datetime
    dark: bool = False
    readbacks: Mapping[str, Reading] = field(default_factory=dict)

    def __post_init__(self) -> None:
        segments = len(self.geometry.segments)
        if self.counts.ndim != 3 or self.counts.dtype != np.uint16:
            raise InputError(
                f"a frame needs uint16 counts (segment, row, column); got {self.counts.dtype} {self.counts.shape}"
            )
        if self.counts.shape[0] != segments or len(self.channels) != segments:
            raise InputError(
                f"the detector has {segments} segments; got {self.counts.shape[0]} images and "
                f"{len(self.channels)} channels"
            )
        if self.time.tzinfo is None:
            raise InputError(f"a frame's time needs a time zone, UTC; got {self.time}")
        object.__setattr__(self, "counts", read_only(self.counts))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (int(self.counts.shape[1]), int(self.counts.shape[2]))

    def with_offsets_of(self, *darks: Frame) -> Frame:
        """Return the frame with each segment's offset and read noise as dark frames measured them.

        Raises
        ------
        InputError
            Without a dark frame, or with one taken with the beam on or with other segments.
        """
        if not darks or not all(dark.dark for dark in darks):
            raise InputError(
                "offsets come from frames with the beam blanked; give one dark frame at least, and only those"
            )
        if any(dark.geometry.names != self.geometry.names for dark in darks):
            raise InputError(f"expected dark frames of the segments {', '.join(self.geometry.names)}")
        flat = [dark.counts.reshape(len(self.channels), -1) for dark in darks]
        offsets = np.mean([counts.mean(axis=1, dtype=np.float64) for counts in flat], axis=0)
        variances = np.mean([counts.var(axis=1, dtype=np.float64) for counts in flat], axis=0)
        channels = tuple(
            replace(channel, offset=float(offset), read_noise=float(variance) ** 0.5)
            for channel, offset, variance in zip(self.channels, offsets, variances, strict=True)
        )
        return replace(self, channels=channels)

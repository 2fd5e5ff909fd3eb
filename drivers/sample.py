"""The sample's surface as a map of heights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError


def read_only(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a view of the array that cannot be written through."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, slots=True, eq=False)
class HeightMap:
    """Heights on a square grid whose nodes are the pixel centres (convention: :mod:`drivers.geometry`).

    Attributes
    ----------
    z : (rows, columns) float array, m
        Upwards, towards the column. NaN where nothing is known.
    pixel_size : float, m
    origin : (float, float), m
        x and y of the image's top left corner from the optical axis; the field's middle lies on the axis
        unless given.
    """

    z: NDArray[np.floating]
    pixel_size: float
    origin: tuple[float, float] = field(default=(math.nan, math.nan))

    def __post_init__(self) -> None:
        z = np.asarray(self.z)
        if z.ndim != 2 or z.size == 0:
            raise InputError(f"a height map needs rows and columns; got an array of shape {z.shape}")
        if not (math.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise InputError(f"expected a pixel size above 0 nm; got {self.pixel_size * 1e9:g} nm")
        if not np.issubdtype(z.dtype, np.floating):
            z = z.astype(np.float64)
        object.__setattr__(self, "z", read_only(z))
        if math.isnan(self.origin[0]):
            rows, columns = z.shape
            origin = (-columns * self.pixel_size / 2, rows * self.pixel_size / 2)
            object.__setattr__(self, "origin", origin)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (int(self.z.shape[0]), int(self.z.shape[1]))

"""Figures of a surface, and the one measure of error that all comparisons use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimated number.

    Attributes
    ----------
    value : float
    sigma : float or None
        Standard uncertainty; ``None`` where it is not known.
    unit : str
        Of both; empty for a number without one.
    """

    value: float
    sigma: float | None
    unit: str


def plane(z: FloatArray) -> FloatArray:
    """Return the least-squares plane of a map, in its own unit. Shape (H, W)."""
    rows, columns = z.shape
    y, x = np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2
    mean = float(z.mean(dtype=np.float64))
    # On a grid centred on zero, 1, x and y are orthogonal.
    along = float((z.sum(axis=0, dtype=np.float64) @ x) / (rows * (x @ x)))
    down = float((z.sum(axis=1, dtype=np.float64) @ y) / (columns * (y @ y)))
    return np.asarray(mean + along * x[None, :] + down * y[:, None])


def without_plane(z: FloatArray) -> FloatArray:
    """Return the map less its least-squares plane. Shape (H, W)."""
    return np.asarray(z - plane(z))


def root_mean_square_height(z: FloatArray) -> float:
    """Return Sq (ISO 25178-2), plane removed, in the unit of z."""
    return float(np.sqrt(np.mean(np.square(without_plane(z)))))


def arithmetic_mean_height(z: FloatArray) -> float:
    """Return Sa (ISO 25178-2), plane removed, in the unit of z."""
    return float(np.mean(np.abs(without_plane(z))))


def relative_error(z: FloatArray, truth: FloatArray, crop: int = 0) -> float:
    """Return the rms of z − truth over the truth's range (max − min), both less ``crop`` pixels and a plane.

    Parameters
    ----------
    z, truth : (H, W) arrays, m
    crop : int
        Pixels left out along each border.
    """
    inside = np.s_[crop : z.shape[0] - crop, crop : z.shape[1] - crop]
    wanted = without_plane(np.asarray(truth, dtype=np.float64)[inside])
    error = without_plane(np.asarray(z, dtype=np.float64)[inside] - np.asarray(truth, dtype=np.float64)[inside])
    return float(np.sqrt(np.mean(error**2)) / np.ptp(wanted))

"""Small pictures of frames and heights, 8 bits a pixel, for slow links and small screens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.pictures import reduced

LARGEST = 512
"""Rows and columns that a preview has at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """Pictures that were made small.

    Attributes
    ----------
    run_id : str
    number : int
        Of the frame.
    names : tuple of str
        Of the pictures: the segments, or ``heights``.
    pixels : (N, H, W) array of uint8
        Each picture between its own ``low`` (0) and ``high`` (255); what is not known is 0.
    low, high : tuple of float
        In ``unit``.
    unit : str
        ``ADU`` or ``nm``.
    pixel_size : float, m
    """

    run_id: str
    number: int
    names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: str
    pixel_size: float


def preview(
    run_id: str, number: int, names: tuple[str, ...], images: NDArray[Any], unit: str, pixel_size: float, largest: int
) -> Preview:
    """Return images (N, rows, columns) as small pictures.

    The 0.5 % of the darkest and of the brightest pixels are cut off, so that one hot pixel does not make the rest dark.
    """
    small = np.stack([reduced(image, min(largest, LARGEST)) for image in images])
    low, high = (np.nanpercentile(small, share, axis=(1, 2)) for share in (0.5, 99.5))
    span = np.where(high > low, high - low, 1.0)
    scaled = np.clip((small - low[:, None, None]) / span[:, None, None], 0.0, 1.0)
    pixels = np.nan_to_num(scaled * 255.0).round().astype(np.uint8)
    factor = images.shape[2] / small.shape[2]
    return Preview(
        run_id,
        number,
        names,
        pixels,
        tuple(map(float, low)),
        tuple(map(float, high)),
        unit,
        pixel_size * factor,
    )

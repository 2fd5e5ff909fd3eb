"""What the transformer sees of a surface: differences, and blurred surfaces at several scales in electron ranges.

Nothing depends on the absolute height; everything is differentiable; borders are mirrored, as the Monte Carlo's are.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

SCALES = (0.08, 0.2, 0.45, 1.0)
"""Standard deviations of the blurred surfaces, in electron ranges."""

STRETCH = 128
"""Pixels that a blur works on at a time."""


@lru_cache(maxsize=64)
def blur_matrix(size: int, sigma: float) -> Tensor:
    """Return the Gaussian blur along one axis with mirrored borders. Shape (size, size); sigma in pixels."""
    reach = np.arange(-_reach(sigma), _reach(sigma) + 1)
    # Integrated over the pixel, so that narrow blurs keep their second moment.
    edges = np.concatenate([reach - 0.5, [reach[-1] + 0.5]])
    weight = np.diff([0.5 * (1 + math.erf(edge / (math.sqrt(2) * max(sigma, 1e-3)))) for edge in edges])
    weight /= weight.sum()
    columns = (np.arange(size)[:, None] + reach[None, :]) % (2 * size)
    columns = np.where(columns >= size, 2 * size - 1 - columns, columns)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], columns), weight[None, :])
    return torch.from_numpy(matrix).float()


def blur(image: Tensor, sigmas: tuple[float, ...]) -> Tensor:
    """Return images (B, H, W) blurred by Gaussians of some pixels, one for all or one for each; borders mirrored."""
    rows, columns = (torch.stack([blur_matrix(size, sigma) for sigma in sigmas]).to(image) for size in image.shape[-2:])
    if len(sigmas) == 1:
        rows, columns = rows[0], columns[0]
    reach = _reach(max(sigmas))
    down = [
        rows[..., a:b, low:high] @ image[..., low:high, :] for a, b, low, high in _stretches(image.shape[-2], reach)
    ]
    found = torch.cat(down, dim=-2)
    along = [
        found[..., low:high] @ columns[..., a:b, low:high].mT for a, b, low, high in _stretches(image.shape[-1], reach)
    ]
    return torch.cat(along, dim=-1)


def _reach(sigma: float) -> int:
    return math.ceil(4 * sigma + 1)


def _stretches(size: int, reach: int) -> list[tuple[int, int, int, int]]:
    """Cut an axis: (start, stop, from where, to where the blur looks); the cost then grows as the size alone."""
    if size < 2 * STRETCH or STRETCH + 2 * reach > 0.75 * size:
        return [(0, size, 0, size)]
    starts = range(0, size, STRETCH)
    return [
        (start, min(start + STRETCH, size), max(0, start - reach), min(size, start + STRETCH + reach))
        for start in starts
    ]


def differences(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return differences to the neighbours: right, left, up, down; borders mirrored. (..., H, W) per pixel.

    Each is what the height gains in +x or +y: ``right`` between a pixel and the next column, ``left`` from the column
    before; +y runs against the rows.
    """
    along = z[..., :, 1:] - z[..., :, :-1]
    across = z[..., :-1, :] - z[..., 1:, :]
    right, left = nn.functional.pad(along, (0, 1)), nn.functional.pad(along, (1, 0))
    down, up = nn.functional.pad(across, (0, 0, 0, 1)), nn.functional.pad(across, (0, 0, 1, 0))
    return right, left, up, down


def slopes(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return ∂z/∂x and ∂z/∂y of a height field in pixels, by central differences."""
    right, left, up, down = differences(z)
    return (right + left) / 2, (up + down) / 2


def _soft(slope: Tensor) -> Tensor:
    return slope * torch.rsqrt(1 + slope**2)


def feature_count(scales: int) -> int:
    """Return how many channels :func:`features` gives."""
    return 5 + 6 * scales + 4


def features(z: Tensor, oxide: Tensor, pixels: tuple[float, ...], scales: tuple[float, ...]) -> Tensor:
    """Return what the network sees of a surface; nothing in it depends on the absolute height.

    Parameters
    ----------
    z : (B, H, W) tensor, pixels
    oxide : (B, H, W) tensor, 0 … 1
        Share of oxide.
    pixels : tuple of float
        Pixel size in electron ranges: one for the batch, or one for each surface.
    scales : tuple of float

    Returns
    -------
    (B, C, H, W) tensor
        Of order one, odd or even under reflection as the emission is.
    """
    return torch.stack(feature_maps(z, oxide, pixels, scales), dim=1)


def feature_maps(z: Tensor, oxide: Tensor, pixels: tuple[float, ...], scales: tuple[float, ...]) -> list[Tensor]:
    """Return the channels of :func:`features` one by one."""
    right, left, up, down = differences(z)
    found = [_soft(right), _soft(left), _soft(up), _soft(down)]
    found.append(_soft((_x_slope(up) + _x_slope(down)) / 2))
    before, size = z, torch.tensor(pixels).to(z)[:, None, None]
    for scale in scales:
        smooth = blur(z, tuple(scale / pixel for pixel in pixels))
        right, left, up, down = differences(smooth)
        reach = (scale / size).clamp(min=0.5)
        found += [
            (right + left) / 2,
            (up + down) / 2,
            (right - left) * reach,
            (up - down) * reach,
            (_x_slope(up) + _x_slope(down)) / 2 * reach,
            (before - smooth) / reach,
        ]
        before = smooth
    # What is the same everywhere stays so.
    even = not oxide.requires_grad and bool((oxide == oxide[:, :1, :1]).all())
    middle = oxide if even else blur(oxide, tuple(scales[1] / pixel for pixel in pixels))
    edge = slopes(middle)
    return [*found, oxide, middle, edge[0] * scales[1] / size, edge[1] * scales[1] / size]


def _x_slope(z: Tensor) -> Tensor:
    right, left, _, _ = differences(z)
    return (right + left) / 2


def mirror(image: Tensor, rows: int, columns: int) -> Tensor:
    """Return an image (..., H, W) with rows and columns added at the end, mirrored at the border, again if need be."""
    for axis, more in ((-2, rows), (-1, columns)):
        size = image.shape[axis]
        if more:
            place = torch.arange(size + more, device=image.device) % (2 * size)
            place = torch.where(place >= size, 2 * size - 1 - place, place)
            image = image.index_select(axis, place)
    return image

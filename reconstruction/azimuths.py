"""Where the segments stand, found from the images alone.

Equal segments of a ring stand 360°/N apart; unknown are the order, the sense of rotation and one angle. Two facts tell.

A surface has a gradient without curl. Take the ratios w_s, a guess α_s = 2π·rank(s)/N and (p₀, q₀) = −Σ w_s (cos α_s,
sin α_s): turning the guess by φ turns the gradient, and its curl is C cos φ + D sin φ with C = ∂x q₀ − ∂y p₀ and
D = ∂x p₀ + ∂y q₀. The φ of least Σ curl² is the eigenvector of a 2 × 2 matrix. A wrong order or sense leaves curl at
every φ. Noise adds the same to both diagonal elements and does not turn the eigenvector. It is blind to the sign:
φ and φ + 180° are a relief and its cast.

The sign comes from the flat field: the nearer a pixel lies to a segment, the larger the segment looks from there, so
that each image brightens across the whole field towards its own segment. On a field that is bowed by more than a few
degrees this can err; it is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import ImageError
from reconstruction.integrate import BLOCK, blocks

Floats = NDArray[np.float64]

_PARTS = 8
_SMALLEST = BLOCK * (_PARTS + 4)
"""Pixels to a side: a block for each of the parts, and the border of two that they leave out."""
_FLAT = 0.85
"""Curl at the best angle over curl at the worst, above which the field has no relief to tell an angle by."""
_CLEAR = 4.0
"""Standard errors from which on the flat field's brightening decides."""


@dataclass(frozen=True, slots=True)
class AzimuthEstimate:
    """Azimuths of equal segments, and how sure they are.

    Attributes
    ----------
    azimuths : (N,) array, rad
        Of each image's segment, counter-clockwise from +x as displayed.
    sigma : float, rad
        Standard uncertainty of their common angle.
    curl : float
        Curl left at the best angle over that at the worst: 0 is a perfect surface, 1 none.
    significance : float
        Standard errors by which the flat field tells a relief from its cast.
    """

    azimuths: Floats
    sigma: float
    curl: float
    significance: float


def estimate_azimuths(counts: NDArray[np.uint16]) -> AzimuthEstimate:
    """Estimate the azimuths of equal, evenly spaced segments from one exposure.

    Parameters
    ----------
    counts : (N, H, W) uint16 array, ADU

    Raises
    ------
    ImageError
        When the field is too small, or has neither relief nor brightening enough to tell.
    """
    if min(counts.shape[1:]) < _SMALLEST:
        raise ImageError(
            f"{_SMALLEST} × {_SMALLEST} pixels are needed to tell the segments' azimuths; got {counts.shape[2]} × "
            f"{counts.shape[1]}. Describe the detector in a file and give it with --detector"
        )
    means = np.stack([blocks(each) for each in counts]).astype(np.float64)
    means = means / means.mean(axis=(1, 2))[:, None, None]
    ratios = means / means.sum(axis=0)
    slopes, errors = _brightening(ratios)
    best = min((_guess(ratios, order) for order in _orders(len(counts))), key=lambda guess: guess.curl)
    if best.curl > _FLAT:
        raise ImageError(
            "the segments' azimuths cannot be told from these images: the field has too little relief. Describe the "
            "detector in a file and give it with --detector"
        )
    towards = _along(slopes, best.azimuths)
    doubt = math.sqrt(float(np.sum(errors**2)))
    if abs(towards) < _CLEAR * doubt:
        raise ImageError(
            "a relief cannot be told from its cast in these images: no segment's image brightens towards its side. "
            "Describe the detector in a file and give it with --detector"
        )
    azimuths = best.azimuths + (math.pi if towards < 0 else 0.0)
    return AzimuthEstimate(azimuths % (2 * math.pi), best.sigma, best.curl, abs(towards) / doubt)


def _orders(count: int) -> list[tuple[int, ...]]:
    """Return every order of the segments around the ring, the first at the start."""
    return [(0, *rest) for rest in permutations(range(1, count))]


def _guess(ratios: Floats, order: tuple[int, ...]) -> AzimuthEstimate:
    """Return the angle of least curl for one order; its sign is open."""
    start = 2 * np.pi * np.array(order) / len(order)
    p, q = (-np.tensordot(part, ratios, axes=1) for part in (np.cos(start), np.sin(start)))
    (p_down, p_x), (q_down, q_x) = np.gradient(p), np.gradient(q)
    curl, divergence = q_x + p_down, p_x - q_down
    sums = np.stack([_parts(curl**2), _parts(curl * divergence), _parts(divergence**2)])
    angle, least = _eigen(sums.sum(axis=1))
    without = np.array([_eigen(sums.sum(axis=1) - part)[0] for part in sums.T])
    # An angle of a line, not of an arrow: differences are taken modulo 180°.
    apart = (without - angle + np.pi / 2) % np.pi - np.pi / 2
    spread = math.sqrt((len(apart) - 1) / len(apart) * float(np.sum(apart**2)))
    return AzimuthEstimate(start + angle, spread, least, 0.0)


def _parts(image: Floats) -> Floats:
    """Return sums over 8 × 8 parts of the field, its border left out."""
    rows, columns = ((length - 4) // _PARTS for length in image.shape)
    inside = image[2 : 2 + rows * _PARTS, 2 : 2 + columns * _PARTS]
    return np.asarray(inside.reshape(_PARTS, rows, _PARTS, columns).sum(axis=(1, 3)).ravel())


def _eigen(sums: Floats) -> tuple[float, float]:
    """Return the angle of least curl and the ratio of the least to the most."""
    values, vectors = np.linalg.eigh(np.array([[sums[0], sums[1]], [sums[1], sums[2]]]))
    return math.atan2(vectors[1, 0], vectors[0, 0]), float(values[0] / values[1])


def _brightening(ratios: Floats) -> tuple[Floats, Floats]:
    """Return each ratio's even growth along x and y (N, 2, per pixel), features left out, and its error (N,)."""
    rows, columns = ratios.shape[1:]
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64) * BLOCK
    terms = np.stack([np.ones(x.size), (x - x.mean()).ravel(), -(y - y.mean()).ravel()], axis=1)
    found, errors = [], []
    for ratio in ratios.reshape(len(ratios), -1):
        kept = np.ones(ratio.size, bool)
        fit: Any = np.zeros(3)
        for _ in range(5):
            fit = np.linalg.lstsq(terms[kept], ratio[kept], rcond=None)[0]
            residual = np.abs(ratio - terms @ fit)
            kept = residual < 2.5 * 1.4826 * np.median(residual) + 1e-12
        inverse = np.linalg.inv(terms[kept].T @ terms[kept])
        # Neighbouring blocks share the same texture: count one in sixteen.
        errors.append(
            float(np.std(ratio[kept] - terms[kept] @ fit) * math.sqrt(16 * (inverse[1, 1] + inverse[2, 2]) / 2))
        )
        found.append(fit[1:])
    return np.array(found), np.array(errors)


def _along(slopes: Floats, azimuths: Floats) -> float:
    return float(np.sum(slopes[:, 0] * np.cos(azimuths) + slopes[:, 1] * np.sin(azimuths)))

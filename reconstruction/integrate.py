"""Heights from gradients: least squares on the grid's edges, solved by the discrete cosine transform.

Sampling convention. The gradients ``p = ∂z/∂x`` and ``q = ∂z/∂y`` are point values at the nodes, the pixel
centres, as an analytic derivative or a photometric inverse gives them; x runs along the columns and y against
the rows (:mod:`drivers.geometry`). Between two neighbouring nodes lies an edge; the height difference across it
is the integral of the gradient over the edge. It is taken from the six nearest nodes with the sixth-order rule

    (z[i+1] − z[i]) / h = (11, −93, 802, 802, −93, 11) · (p[i−2] … p[i+3]) / 1440 + O(h⁶),

near a border from the rules of fourth order (−1, 13, 13, −1) / 24 and, one-sided, (9, 19, −5, 1) / 24: the
polynomials through the nodes, integrated. The plain mean of two nodes (second order) loses k²h²/12 of every wave,
more than a per cent at 16 pixels a period; a spectral derivative is exact for waves and rings beside every facet.
All these rules are partitions of unity: their sum over a transition is the sum of the samples, so that the height of
a narrow step comes out as well as its samples tell. What falls between the samples nobody can tell: a kink of the
gradient 2 px from the next, sampled at points, is uncertain by its place between them.

The heights minimise Σ (D z − edge value)² over all edges, whose normal equations with reflecting (Neumann) borders
are diagonal in the type-II cosine transform with eigenvalues 4 sin²(k_x/2) + 4 sin²(k_y/2). The mean height is
zero: gradients do not know it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from drivers.errors import InputError

FloatArray = NDArray[np.floating[Any]]


def integrate(p: FloatArray, q: FloatArray, pixel_size: float, *, workers: int | None = None) -> FloatArray:
    """Return the heights whose differences are nearest, in least squares, to the integrals of the gradients.

    Parameters
    ----------
    p, q : (H, W) float arrays, dimensionless
        ∂z/∂x (along the columns) and ∂z/∂y (against the rows) at the pixel centres. In float32 the work is done
        in float32.
    pixel_size : float, m
    workers : int, optional
        Threads of the transform; one unless given.

    Returns
    -------
    (H, W) float array, m
        Mean zero.

    Raises
    ------
    InputError
        When the two arrays do not have the same two-dimensional shape of at least 6 × 6, or are not finite.
    """
    if p.ndim != 2 or p.shape != q.shape or min(p.shape) < 6:
        raise InputError(f"expected two gradient maps of one shape, 6 × 6 or more; got {p.shape} and {q.shape}")
    dtype = np.float32 if p.dtype == q.dtype == np.float32 else np.float64
    along, up = (np.asarray(each.astype(dtype, copy=False)) for each in (p, q))
    right = _divergence(edge_values(along))
    # Down the rows y decreases: ∂z/∂row = −q.
    right -= _divergence(edge_values(up.T)).T
    spectrum = fft.dctn(right, type=2, norm="ortho", overwrite_x=True, workers=workers)
    spectrum *= _inverse_eigenvalues(p.shape[0], p.shape[1], np.dtype(dtype).name, float(pixel_size))
    z: FloatArray = fft.idctn(spectrum, type=2, norm="ortho", overwrite_x=True, workers=workers)
    if not np.isfinite(z[0, 0]):
        raise InputError("the gradients hold values that are not finite; fill or mask them before integration")
    return z


def edge_values(p: FloatArray) -> FloatArray:
    """Return the mean of the gradient over each edge between neighbouring columns. Shape (H, W) → (H, W − 1)."""
    edges = np.empty((p.shape[0], p.shape[1] - 1), p.dtype)
    for place in (1, -2):
        edges[:, place] = _rule(p[:, :4] if place == 1 else p[:, -4:], (-1 / 24, 13 / 24))[:, 0]
    edges[:, 2:-2] = _rule(p, (11 / 1440, -93 / 1440, 802 / 1440))
    edges[:, 0] = (9 * p[:, 0] + 19 * p[:, 1] - 5 * p[:, 2] + p[:, 3]) / 24
    edges[:, -1] = (9 * p[:, -1] + 19 * p[:, -2] - 5 * p[:, -3] + p[:, -4]) / 24
    return edges


def _rule(p: FloatArray, weights: tuple[float, ...]) -> FloatArray:
    """Return a symmetric rule's values, from the outermost weight inwards. Shape (H, W) → (H, W − 2·len + 1)."""
    count = p.shape[1] - 2 * len(weights) + 1
    total = np.zeros((p.shape[0], count), p.dtype)
    for index, weight in enumerate(weights):
        pair = p[:, index : index + count] + p[:, 2 * len(weights) - 1 - index :][:, :count]
        pair *= p.dtype.type(weight)
        total += pair
    return total


def _divergence(edges: FloatArray) -> FloatArray:
    """Return Dᵀ of the edge values: shape (H, W − 1) → (H, W)."""
    result = np.empty((edges.shape[0], edges.shape[1] + 1), edges.dtype)
    result[:, 0] = -edges[:, 0]
    np.subtract(edges[:, :-1], edges[:, 1:], out=result[:, 1:-1])
    result[:, -1] = edges[:, -1]
    return result


@lru_cache(maxsize=8)
def _inverse_eigenvalues(rows: int, columns: int, dtype: str, pixel_size: float) -> FloatArray:
    """Return h over the eigenvalues of DᵀD in the cosine basis, zero for the mean. Shape (H, W)."""
    eigenvalues = _sine_squared(rows)[:, None] + _sine_squared(columns)[None, :]
    eigenvalues[0, 0] = np.inf
    return np.asarray(pixel_size / eigenvalues, dtype=dtype)


def _sine_squared(count: int) -> NDArray[np.float64]:
    return np.asarray(4 * np.sin(np.pi * np.arange(count) / (2 * count)) ** 2)


def noise_amplification(kx: FloatArray, ky: FloatArray) -> FloatArray:
    """Return the integrator's noise amplification at each spatial frequency, in closed form.

    White noise of variance σ² on p and on q, independent from pixel to pixel, becomes height noise of power

        N(k) = σ² h² (4 s_x² α_x² + 4 s_y² α_y²) / (4 s_x² + 4 s_y²)²,
        s = sin(k/2),  α = (802 c₁ − 93 c₃ + 11 c₅)/720,

    where c_n = cos(n k/2) and α is the response of the edge rule. At small k this is σ² h² / k²: long waves are where
    gradients tell least.

    Parameters
    ----------
    kx, ky : arrays, rad per pixel
        Broadcast against each other.

    Returns
    -------
    array
        N(k) / (σ² h²), dimensionless; zero at k = 0, which gradients do not see.
    """
    square_x, square_y = 4 * np.sin(kx / 2) ** 2, 4 * np.sin(ky / 2) ** 2
    total = square_x + square_y
    safe = np.where(total > 0, total, 1.0)
    power = (square_x * _edge_response(kx) ** 2 + square_y * _edge_response(ky) ** 2) / safe**2
    return np.where(total > 0, power, 0.0)


def _edge_response(k: FloatArray) -> FloatArray:
    return np.asarray((802 * np.cos(k / 2) - 93 * np.cos(3 * k / 2) + 11 * np.cos(5 * k / 2)) / 720)


BLOCK = 4
"""Pixels to a side of the blocks on which σ is propagated: it varies slowly beside the noise it stands for."""


def height_sigma(variance_p: FloatArray, variance_q: FloatArray, pixel_size: float) -> FloatArray:
    """Return the standard deviation of the heights from the variances of the gradients.

    A pixel's height is a sum over all gradients with the integrator's impulse response G: var z = Σ G² var p. The sum
    runs over the reflected field, in closed form by cosine transforms, on blocks of ``BLOCK`` pixels. Images in the
    reflecting borders carry the same noise as the pixels themselves; their correlation enters through the exact
    profile Σ N(k) φ_k(r)² of white noise in the cosine basis, less the tilt that the gradients' mean would make, which
    a reconstruction takes away: exact for even noise, up to a tenth too small in a place where the noise is doubled,
    and up to a third too large far from a place that holds nearly all of it. What is not in it: errors of the emission
    law and of the scale, which are no noise.

    Parameters
    ----------
    variance_p, variance_q : (h, w) float arrays
        Variance of one pixel's gradient, averaged over blocks of ``BLOCK`` × ``BLOCK`` pixels (:func:`blocks`).
    pixel_size : float, m

    Returns
    -------
    (h, w) float array, m
        For heights whose mean and mean slopes are zero.
    """
    spectrum_x, spectrum_y, profile = _squared_response(*variance_p.shape)
    total = fft.dctn(variance_p, norm="ortho") * spectrum_x + fft.dctn(variance_q, norm="ortho") * spectrum_y
    variance = np.maximum(fft.idctn(total, norm="ortho"), 0.0) * profile
    return np.asarray(np.sqrt(variance) * pixel_size)


def blocks(image: FloatArray) -> FloatArray:
    """Return the means over blocks of ``BLOCK`` × ``BLOCK`` pixels; the last ones repeat the border."""
    rows, columns = image.shape
    padding = (-rows % BLOCK, -columns % BLOCK)
    if any(padding):
        image = np.pad(image, ((0, padding[0]), (0, padding[1])), mode="edge")
    # Two passes over contiguous memory, twice as fast as one mean over two axes.
    across = image.reshape(-1, BLOCK).sum(axis=1, dtype=np.float32).reshape(image.shape[0], -1)
    return np.asarray(across.reshape(-1, BLOCK, across.shape[1]).sum(axis=1) / BLOCK**2)


def from_blocks(values: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Return values on blocks as a map of pixels. Shape (h, w) → ``shape``."""
    spread = np.repeat(np.repeat(values, BLOCK, axis=0), BLOCK, axis=1)
    return np.asarray(spread[: shape[0], : shape[1]])


@lru_cache(maxsize=4)
def _squared_response(rows: int, columns: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the cosine spectra of G_x² and G_y² on blocks, and the profile that borders add (module text)."""
    full = (2 * rows * BLOCK, 2 * columns * BLOCK)
    ky = 2 * np.pi * np.fft.fftfreq(full[0])[:, None]
    kx = 2 * np.pi * np.fft.rfftfreq(full[1])[None, :]
    eigenvalues = 4 * np.sin(kx / 2) ** 2 + 4 * np.sin(ky / 2) ** 2
    eigenvalues[0, 0] = np.inf
    spectra = []
    for k in (kx, ky):
        odd = -2j * np.sin(k / 2) * _edge_response(k) / eigenvalues
        kernel = fft.irfft2(odd, s=full) ** 2
        # Between a pixel of one block and all of another: sums over the sources, mean over the targets.
        folded = _fold(_fold(kernel, 0), 1)
        spectra.append(np.asarray(fft.rfft2(folded).real[:rows, :columns]))
    white = _white_profile(rows, columns)
    plain = fft.dctn(np.ones((rows, columns)), norm="ortho") * (spectra[0] + spectra[1])
    profile = white / np.maximum(fft.idctn(plain, norm="ortho"), 1e-30)
    return spectra[0], spectra[1], np.asarray(profile)


def _fold(kernel: FloatArray, axis: int) -> FloatArray:
    """Return the block-to-block kernel along one axis: a triangle of weights over BLOCK pixels to each side."""
    moved = np.moveaxis(kernel, axis, 0)
    total = np.zeros((moved.shape[0] // BLOCK, *moved.shape[1:]))
    for shift in range(-BLOCK + 1, BLOCK):
        total += (BLOCK - abs(shift)) / BLOCK * np.roll(moved, -shift, axis=0)[::BLOCK]
    return np.moveaxis(total, 0, axis)


def _white_profile(rows: int, columns: int) -> FloatArray:
    """Return the height variance of white gradient noise, means over blocks, over σ² h². Shape (h, w).

    Without the common tilt: the mean of N gradients has the variance σ²/N and covaries with the height at the place x
    by σ² x h/N, so that taking it away takes σ² h² x²/N off, and as much along y.
    """
    ky, kx = (np.pi * np.arange(count * BLOCK) / (count * BLOCK) for count in (rows, columns))
    power = noise_amplification(kx[None, :], ky[:, None])
    tilt = (_places_squared(rows)[:, None] + _places_squared(columns)[None, :]) / (rows * columns * BLOCK**2)
    return np.asarray(_basis_squared(rows) @ power @ _basis_squared(columns).T - tilt)


def _places_squared(count: int) -> FloatArray:
    """Return the squared distance from the field's middle, mean over each block. Shape (blocks,), pixels²."""
    places = np.arange(count * BLOCK) - (count * BLOCK - 1) / 2
    return np.asarray((places**2).reshape(count, BLOCK).mean(axis=1))


def _basis_squared(count: int) -> FloatArray:
    """Return the squared cosine basis, mean over each block. Shape (blocks, pixels)."""
    pixels = count * BLOCK
    k = np.pi * np.arange(1, pixels) / pixels
    middles = (np.arange(count) + 0.5) * BLOCK
    squared = np.full((count, pixels), 1 / pixels)
    # cos² = (1 + cos 2kx)/2; the mean of cos 2kx over BLOCK neighbours is its middle's times a Dirichlet kernel.
    kernel = np.sin(BLOCK * k) / (BLOCK * np.sin(k))
    squared[:, 1:] += np.cos(2 * np.outer(middles, k)) * kernel / pixels
    return squared

"""What the emission law sends into each real segment, tabulated against the surface's slope, and its inverse.

The signals S_s(p, q) come from quadrature over each electrode: its radii, span, azimuth and centre, the detector's
rotation and the working distance, and the pixel's own place. Dividing by the sum of all segments removes whatever is
common to them: probe current, composition, the yield's rise with tilt. The ratios w_s = S_s / ΣS are taken together to
two numbers by the weights that are best for Poisson noise on a flat surface,

    (u, v) = Σ_s c_s (w_s − w_s(0)),     c = (Jᵀ F⁻¹ J)⁻¹ Jᵀ F⁻¹,     J = ∂w/∂(p, q),  F = diag w(0),

so that (u, v) ≈ (p, q) for gentle slopes. A table of the exact inverse, found by Newton's method on the tabulated
forward law, turns them into slopes. For a purely Lambertian law and a closed ring the two agree at any slope that no
segment loses sight of.

The pixel's place acts like a slope that grows evenly across the field: (u, v) is corrected by its derivative, to
first order in place over working distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry
from reconstruction.emission import EmissionLaw

Floats = NDArray[np.float64]

STEEPEST = 2.0
"""Tangent of the steepest tilt in the table, 63°; η(θ) is known no further."""
_FORWARD_NODES = 97
_INVERSE_NODES = 257
_RINGS, _SPOKES = 10, 16


def segment_signals(
    geometry: DetectorGeometry,
    law: EmissionLaw,
    p: Floats,
    q: Floats,
    position: tuple[float, float] = (0.0, 0.0),
) -> Floats:
    """Return the signal of each segment from surfaces of given slope, by Gauss–Legendre quadrature.

    Parameters
    ----------
    geometry : DetectorGeometry
    law : EmissionLaw
    p, q : (n,) arrays
        ∂z/∂x and ∂z/∂y.
    position : (float, float), m
        Of the pixel from the optical axis.

    Returns
    -------
    (S, n) array
        As a share of all that a flat surface emits.
    """
    cos_tilt = 1 / np.sqrt(1 + p**2 + q**2)
    normals = np.stack([-p, -q, np.ones_like(p)], axis=1) * cos_tilt[:, None]
    share = law.lobe_share(cos_tilt)
    brightness = law.relative_yield(cos_tilt) / np.pi
    signals = np.empty((len(geometry.segments), p.size))
    for index in range(len(geometry.segments)):
        directions, solid_angles = _directions(geometry, index, position)
        cosines = np.maximum(normals @ directions.T, 0.0)
        # The lobe is a factor of the direction alone: two sums serve for all tilts.
        lobe = cosines @ (solid_angles * law.lobe_shape(directions[:, 2])) / law.lobe_mean(cos_tilt)
        signals[index] = brightness * ((1 - share) * (cosines @ solid_angles) + share * lobe)
    return signals


def _directions(geometry: DetectorGeometry, index: int, position: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return unit vectors from a pixel to nodes on a segment, and the solid angle that each stands for."""
    segment = geometry.segments[index]
    x, weight_x = leggauss(_RINGS)
    t, weight_t = leggauss(_SPOKES)
    squares = segment.inner_radius**2, segment.outer_radius**2
    # Even steps in r²: the area element is d(r²)/2 · dφ.
    radius = np.sqrt((squares[0] + squares[1]) / 2 + (squares[1] - squares[0]) / 2 * x)[:, None]
    azimuth = geometry.azimuths[index] + segment.span / 2 * t[None, :]
    area = (squares[1] - squares[0]) / 4 * weight_x[:, None] * segment.span / 2 * weight_t[None, :]
    offsets = np.stack(
        [
            radius * np.cos(azimuth) + geometry.centre_offset[0] - position[0],
            radius * np.sin(azimuth) + geometry.centre_offset[1] - position[1],
            np.full(area.shape, geometry.working_distance),
        ],
        axis=-1,
    ).reshape(-1, 3)
    distance = np.linalg.norm(offsets, axis=1)
    solid_angle = area.ravel() * geometry.working_distance / distance**3
    return offsets / distance[:, None], solid_angle


@dataclass(frozen=True, slots=True, eq=False)
class SegmentLaw:
    """The tabulated law of a set of live segments, ready to be inverted.

    Attributes
    ----------
    live : tuple of int
        Indices of the segments that take part, L of them.
    flat : (L,) array
        Share of the sum in each segment for a flat surface on the axis; adds to one.
    collected : float
        Share of all emission that the live segments catch from a flat surface.
    weights : (2, L) array
        c, from ratios to (u, v).
    response : (L, 2) array
        J, ∂w/∂(p, q) at zero slope.
    shift : (2, 2) array, 1/m
        ∂(u, v)/∂(x, y) of the pixel's place, at zero slope.
    extent : float
        The table spans (u, v) from −extent to extent.
    table : (n, n, 4) float32 array
        On nodes (v, u): p, q, brightness (sum over that of a flat surface) and 1 where the inverse exists.
    correction : (m, m, 2) float32 array
        (p − u, q − v) on finer nodes.
    derivatives : (n, n, 2, 2) float32 array
        ∂(p, q)/∂(u, v) on the table's nodes.
    checks : (L − 3, L) array
        Combinations of the ratios that a slope leaves unchanged to first order: what is left over to judge by.
    """

    live: tuple[int, ...]
    flat: Floats
    collected: float
    weights: Floats
    response: Floats
    shift: Floats
    extent: float
    table: NDArray[np.float32]
    correction: NDArray[np.float32]
    derivatives: NDArray[np.float32]
    checks: Floats

    def invert(self, u: NDArray[np.floating[Any]], v: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return p, q, brightness and validity at (u, v), bilinear between the nodes. Shape (..., 4)."""
        count = self.table.shape[0]
        step = np.float32(2 * self.extent / (count - 1))
        flat = self.table.reshape(-1, 4)
        column = np.clip((u + np.float32(self.extent)) / step, 0, count - 1.001).astype(np.float32)
        row = np.clip((v + np.float32(self.extent)) / step, 0, count - 1.001).astype(np.float32)
        corner = row.astype(np.int32)
        left = column.astype(np.int32)
        down = (row - corner)[..., None]
        along = (column - left)[..., None]
        corner *= count
        corner += left
        upper = flat.take(corner, axis=0)
        upper += along * (flat.take(corner + 1, axis=0) - upper)
        lower = flat.take(corner + count, axis=0)
        lower += along * (flat.take(corner + (count + 1), axis=0) - lower)
        lower -= upper
        lower *= down
        upper += lower
        return np.asarray(upper)

    def correct(self, u: NDArray[np.float32], v: NDArray[np.float32]) -> None:
        """Turn (u, v) into (p, q) in place, by the nearest node of a finer table of the small differences.

        The differences vary so slowly, 0.002 in slope up to a slope of one, that no interpolation is needed: the error
        is below 1e-5 there and 1e-3 beyond. Twelve times as fast as :meth:`invert`.
        """
        fine = self.correction.shape[0]
        scale = np.float32((fine - 1) / (2 * self.extent))
        middle = np.float32((fine - 1) / 2 + 0.5)
        node = np.clip(v * scale + middle, 0, fine - 1).astype(np.int32)
        node *= fine
        node += np.clip(u * scale + middle, 0, fine - 1).astype(np.int32)
        change = self.correction.reshape(-1, 2).take(node, axis=0)
        u += change[..., 0]
        v += change[..., 1]

    def nearest(self, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what :meth:`invert` does, at the nearest node. Shape (..., 4)."""
        return np.asarray(self.table.reshape(-1, 4).take(self._node(u, v), axis=0))

    def jacobian(self, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ∂(p, q)/∂(u, v) at the node nearest to (u, v). Shape (..., 2, 2)."""
        return np.asarray(self.derivatives.reshape(-1, 2, 2).take(self._node(u, v), axis=0))

    def _node(self, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.int32]:
        count = self.table.shape[0]
        scale, middle = np.float32((count - 1) / (2 * self.extent)), np.float32(count / 2)
        column = np.clip(u * scale + middle, 0, count - 1).astype(np.int32)
        row = np.clip(v * scale + middle, 0, count - 1).astype(np.int32)
        return np.asarray(row * count + column, dtype=np.int32)


def segment_law(geometry: DetectorGeometry, law: EmissionLaw, live: tuple[int, ...] | None = None) -> SegmentLaw:
    """Return the tabulated law; a second call with the same arguments costs nothing.

    Parameters
    ----------
    geometry : DetectorGeometry
        Working distance and centre are rounded to a micrometre, so that a readback's jitter does not rebuild it.
    law : EmissionLaw
    live : tuple of int, optional
        Segments that take part; all unless given.

    Raises
    ------
    InputError
        When the live segments cannot tell both slopes.
    """
    rounded = DetectorGeometry(
        geometry.segments,
        round(geometry.working_distance, 6),
        (round(geometry.centre_offset[0], 6), round(geometry.centre_offset[1], 6)),
        geometry.rotation,
    )
    return _segment_law(rounded, law, tuple(range(len(geometry.segments))) if live is None else live)


@lru_cache(maxsize=16)
def _segment_law(geometry: DetectorGeometry, law: EmissionLaw, live: tuple[int, ...]) -> SegmentLaw:
    flat, jacobian, shift = _linear(geometry, law, live)
    curvature = jacobian.T @ (jacobian / flat[:, None])
    scale = np.linalg.eigvalsh(curvature)
    if len(live) < 3 or scale[0] < 1e-3 * scale[1]:
        names = ", ".join(geometry.segments[index].name for index in live) or "none"
        raise InputError(
            f"three live segments that look from different sides are needed to tell a slope; there are: {names}"
        )
    weights = np.asarray(np.linalg.solve(curvature, (jacobian / flat[:, None]).T), dtype=np.float64)
    slopes = np.linspace(-STEEPEST, STEEPEST, _FORWARD_NODES)
    q, p = np.meshgrid(slopes, slopes, indexing="ij")
    signals = segment_signals(geometry, law, p.ravel(), q.ravel())[list(live)]
    total = signals.sum(axis=0)
    uv = weights @ (signals / total - flat[:, None])
    collected = float(_flat_signals(geometry, law)[list(live)].sum())
    extent, table = _inverse(slopes, uv.reshape(2, *p.shape), (total / collected).reshape(p.shape))
    # What is orthogonal to the sum and to both slopes, with unit length.
    checks = np.linalg.svd(np.column_stack([jacobian, np.ones(len(live))]).T)[2][3:]
    return SegmentLaw(
        live,
        flat,
        collected,
        weights,
        response=jacobian,
        shift=np.asarray(weights @ shift, dtype=np.float64),
        extent=extent,
        table=table,
        correction=_correction(extent, table),
        derivatives=_derivatives(extent, table),
        checks=np.asarray(checks, dtype=np.float64),
    )


def _derivatives(extent: float, table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ∂(p, q)/∂(u, v) on the table's nodes. Shape (n, n, 2, 2)."""
    step = 2 * extent / (table.shape[0] - 1)
    up, along = np.gradient(table[..., :2], step, axis=(0, 1))
    return np.stack([along, up], axis=-1).astype(np.float32)


def _correction(extent: float, table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (p − u, q − v) on nodes half as far apart as the table's."""
    axis = np.linspace(-extent, extent, table.shape[0], dtype=np.float32)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    coarse = np.stack([table[..., 0] - u, table[..., 1] - v], axis=-1)
    fine = np.empty((2 * len(axis) - 1, 2 * len(axis) - 1, 2), np.float32)
    fine[::2, ::2] = coarse
    fine[1::2, ::2] = (coarse[1:] + coarse[:-1]) / 2
    fine[:, 1::2] = (fine[:, 2::2] + fine[:, :-1:2]) / 2
    return fine


def _flat_signals(geometry: DetectorGeometry, law: EmissionLaw) -> Floats:
    return segment_signals(geometry, law, np.zeros(1), np.zeros(1))[:, 0]


def _linear(geometry: DetectorGeometry, law: EmissionLaw, live: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """Return the ratios of a flat surface and their derivatives by slope (L, 2) and by place (L, 2, 1/m)."""

    def ratios(p: float, q: float, x: float, y: float) -> Floats:
        signals = segment_signals(geometry, law, np.array([p]), np.array([q]), (x, y))[list(live), 0]
        return np.asarray(signals / signals.sum())

    h, d = 1e-3, 1e-3 * geometry.working_distance
    slope = [(ratios(h, 0, 0, 0) - ratios(-h, 0, 0, 0)) / (2 * h), (ratios(0, h, 0, 0) - ratios(0, -h, 0, 0)) / (2 * h)]
    place = [(ratios(0, 0, d, 0) - ratios(0, 0, -d, 0)) / (2 * d), (ratios(0, 0, 0, d) - ratios(0, 0, 0, -d)) / (2 * d)]
    return ratios(0, 0, 0, 0), np.column_stack(slope), np.column_stack(place)


def _inverse(slopes: Floats, uv: Floats, brightness: Floats) -> tuple[float, NDArray[np.float32]]:
    """Return the extent and the inverse table: slopes from (u, v) by Newton's method on a cubic spline."""
    forward = [RectBivariateSpline(slopes, slopes, part) for part in (*uv, brightness)]
    extent = float(np.abs(uv).max())
    axis = np.linspace(-extent, extent, _INVERSE_NODES)
    v, u = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    # The weights make (u, v) nearly the slope itself.
    p, q = np.clip(u, -STEEPEST, STEEPEST), np.clip(v, -STEEPEST, STEEPEST)
    active = np.arange(u.size)
    for _ in range(8):
        before = p[active], q[active]
        p[active], q[active] = _newton_step(forward, *before, u[active], v[active])
        active = active[np.hypot(p[active] - before[0], q[active] - before[1]) > 1e-7]
    miss = np.hypot(forward[0].ev(q, p) - u, forward[1].ev(q, p) - v)
    found = (miss < 1e-6) & (np.hypot(p, q) < STEEPEST)
    table = np.stack([p, q, forward[2].ev(q, p), found], axis=-1)
    return extent, np.ascontiguousarray(table.reshape(_INVERSE_NODES, _INVERSE_NODES, 4), dtype=np.float32)


def _newton_step(forward: list[Any], p: Floats, q: Floats, u: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Return slopes one step nearer to those that give (u, v), kept within the table."""
    miss_u, miss_v = u - forward[0].ev(q, p), v - forward[1].ev(q, p)
    u_p, u_q = forward[0].ev(q, p, dy=1), forward[0].ev(q, p, dx=1)
    v_p, v_q = forward[1].ev(q, p, dy=1), forward[1].ev(q, p, dx=1)
    determinant = u_p * v_q - u_q * v_p
    determinant = np.where(np.abs(determinant) < 1e-3, 1e-3, determinant)
    step_p = (v_q * miss_u - u_q * miss_v) / determinant
    step_q = (u_p * miss_v - v_p * miss_u) / determinant
    limit = np.minimum(1.0, 0.3 / np.maximum(np.hypot(step_p, step_q), 1e-12))
    p, q = p + limit * step_p, q + limit * step_q
    return np.clip(p, -STEEPEST, STEEPEST), np.clip(q, -STEEPEST, STEEPEST)

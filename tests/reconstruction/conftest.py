"""Exposures in closed form: a Lambertian surface seen by real electrodes, summed by brute force over directions."""

from datetime import UTC, datetime

import numpy as np
import pytest

from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
from drivers.units import KEV


def lambert_signals(geometry, p, q, rays=60_000):
    """Signals of a tilted Lambert emitter: evenly spread directions, each given to the electrode that it meets.

    Nothing of the package's quadrature is used; the directions follow a Fibonacci lattice on the hemisphere.
    """
    index = np.arange(rays) + 0.5
    dz = 1 - index / rays
    azimuth = index * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - dz**2)
    directions = np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), dz], axis=-1)
    met = geometry.segment_of(np.zeros((rays, 2)), directions)
    signals = []
    for a, b in zip(np.ravel(p), np.ravel(q), strict=True):
        cosine = np.maximum(dz - a * directions[:, 0] - b * directions[:, 1], 0) / np.sqrt(1 + a * a + b * b)
        signals.append(np.bincount(met + 1, cosine, minlength=len(geometry.segments) + 1)[1:])
    return np.array(signals).T * 2 / rays


@pytest.fixture(scope="session")
def lambert():
    return lambert_signals


@pytest.fixture(scope="session")
def expose():
    """Return a function that makes a frame from a surface's slopes, facet by facet."""

    def make(
        p,
        q,
        *,
        segments=4,
        electrons=20_000,
        gains=None,
        offset=500.0,
        offset_known=True,
        seed=0,
        pixel_size=20e-9,
        factor=1.0,
        geometry=None,
    ):
        geometry = geometry or annular(segments, 2e-3, 8e-3, 8e-3, first_azimuth=0.2)
        count = len(geometry.segments)
        pairs, which = np.unique(np.round(np.stack([np.ravel(p), np.ravel(q)]), 6), axis=1, return_inverse=True)
        per_pair = lambert_signals(geometry, *pairs)
        expected = per_pair[:, which.ravel()].reshape(count, *np.shape(p)) * electrons * factor
        rng = np.random.default_rng(seed)
        noisy = rng.poisson(expected) if electrons < 1e8 else expected
        scale = 4.0 if electrons < 1e8 else 20000 / expected.max()
        gain = np.ones(count) if gains is None else np.asarray(gains)
        counts = np.clip(np.rint(noisy * scale * gain[:, None, None] + offset), 0, 65535).astype(np.uint16)
        channels = tuple(
            Channel(name, offset=offset if offset_known else None, read_noise=0.0 if offset_known else None)
            for name in geometry.names
        )
        beam = BeamSettings(5 * KEV, pixel_size, 1e-9, 1e-5)
        return Frame(counts, geometry, beam, channels, datetime(2024, 5, 1, tzinfo=UTC))

    return make

"""Noise that depends on what it is for and when, never on who asked first.

A draw belongs to a seed, a stream (a name) and an index (a moment's or a frame's number). So a readback at 19:04:30.5
has the same noise whether or not somebody read it a second earlier, and two worlds with the same seed agree bit by bit.
"""

from __future__ import annotations

import math
import zlib

import numpy as np

_MASK = (1 << 64) - 1


def _mix(state: int) -> int:
    """Return the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014)."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


class Stream:
    """A series of independent standard normal numbers, by index.

    Parameters
    ----------
    seed : int
        Of the world.
    name : str
        What the noise is for.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._key = _mix((seed * 0x9E3779B97F4A7C15 + zlib.crc32(name.encode())) & _MASK)

    def uniform(self, index: int) -> float:
        """Return a number in (0, 1)."""
        return ((_mix((self._key + index * 0x9E3779B97F4A7C15) & _MASK) >> 11) + 0.5) * 2.0**-53

    def normal(self, index: int) -> float:
        """Return a standard normal number (Box and Muller)."""
        radius = math.sqrt(-2.0 * math.log(self.uniform(2 * index)))
        return radius * math.cos(2.0 * math.pi * self.uniform(2 * index + 1))

    def generator(self, index: int) -> np.random.Generator:
        """Return a generator of arrays for one index, a frame's number say."""
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence([self._key, index])))


class Wander:
    """A quantity that wanders about zero and forgets its past: an Ornstein–Uhlenbeck process on a fixed grid.

    Parameters
    ----------
    stream : Stream
    spread : float
        Standard deviation, in the quantity's own unit.
    memory : float, s
        Correlation time.
    step : float, s
        Of the grid.
    """

    def __init__(self, stream: Stream, spread: float, memory: float, step: float) -> None:
        self._stream = stream
        self._keep = math.exp(-step / memory)
        self._kick = spread * math.sqrt(1.0 - self._keep**2)
        self.value = spread * stream.normal(0)
        self.index = 0

    def step(self) -> float:
        """Go one step of the grid and return the new value."""
        self.index += 1
        self.value = self._keep * self.value + self._kick * self._stream.normal(self.index)
        return self.value

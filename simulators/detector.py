"""The segmented diode and its amplifiers: from collected energy to 16-bit numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.frame import Channel
from drivers.geometry import DetectorGeometry
from simulators.optics import Settling
from simulators.randomness import Stream, Wander

Singles = NDArray[np.float32]

PAIR_ENERGY = 3.6e-3
"""keV of one electron–hole pair in silicon; a photon of the glow makes one."""
GAP_TEMPERATURE = 12997.0
"""K: silicon's gap of 1.12 eV over Boltzmann's constant."""


@dataclass
class Amplifier:
    """One segment's chain.

    What the instrument's file says (``gain``, ``offset_per_percent``, ``read_noise``) is nominal; what the chain does
    differs by the errors, which only the simulator knows.

    Attributes
    ----------
    name : str
    contrast, brightness : Settling
        Fractions of full scale.
    gain : float, ADU/keV
        Nominal, at half contrast; a tenth at none, tenfold at full contrast.
    read_noise : float, ADU
    full_offset : float, ADU
        Nominal offset at full brightness.
    gain_error, noise_error, glow_share : float
        Ratios of the true figures to the nominal ones.
    offset_error : float, ADU
    drift : Wander, ADU
        Slow change of the offset, as charging makes it.
    """

    name: str
    contrast: Settling
    brightness: Settling
    gain: float
    read_noise: float
    full_offset: float
    gain_error: float
    noise_error: float
    glow_share: float
    offset_error: float
    drift: Wander
    saturation: int = 65535

    def nominal(self, time: float) -> Channel:
        """Return what the instrument believes of the chain at ``time`` (s)."""
        return Channel(
            self.name,
            offset=self.full_offset * self.brightness.at(time),
            gain=self.gain * 10.0 ** (2.0 * self.contrast.at(time) - 1.0),
            read_noise=self.read_noise,
            gain_unit="ADU/keV",
            saturation=self.saturation,
        )

    def true(self, time: float) -> Channel:
        """Return what the chain does at ``time`` (s), without the glow."""
        nominal = self.nominal(time)
        assert nominal.offset is not None  # noqa: S101  nominal figures are known
        assert nominal.gain is not None  # noqa: S101
        return Channel(
            self.name,
            offset=nominal.offset + self.offset_error + self.drift.value,
            gain=nominal.gain * self.gain_error,
            read_noise=self.read_noise * self.noise_error,
            gain_unit="ADU/keV",
            saturation=self.saturation,
        )


@dataclass
class Diode:
    """All segments.

    Attributes
    ----------
    geometry : DetectorGeometry
        At its own working distance; the renderer takes it at the true one.
    amplifiers : list of Amplifier
        In the order of the geometry's segments.
    noise : Stream
        Of the frames, by number.
    glow : float, keV/s
        What a stage at 1000 K adds to each segment.
    """

    geometry: DetectorGeometry
    amplifiers: list[Amplifier]
    noise: Stream
    glow: float = 1.2e7
    exact_below: float = 20.0
    """Electrons in a pixel below which Poisson's law itself is drawn. Above, its first three cumulants are kept
    (Cornish and Fisher's expansion of a Gaussian); the fourth, an excess of 1/20 at the most, is not."""

    def glowing(self, temperature: float) -> float:
        """Return what a stage at ``temperature`` (K) shines into a segment, keV/s.

        Light above silicon's gap grows as exp(−1.12 eV / kT): hundredfold from 800 to 1050 K.
        """
        return self.glow * math.exp(-GAP_TEMPERATURE * (1.0 / temperature - 1.0 / 1000.0))

    def digitise(
        self, energy: Singles, deposit: float, dwell_time: float, temperature: float, time: float, number: int
    ) -> NDArray[np.uint16]:
        """Return counts.

        Parameters
        ----------
        energy : (S, H, W) float32 array, keV
            Expected in each pixel.
        deposit : float, keV
            Mean square over mean of the energy of one electron: the variance of the sum is ``deposit`` times it.
        dwell_time : float, s
        temperature : float, K
            Of the stage.
        time : float, s
            Of the world.
        number : int
            Of the frame: decides its noise.

        Returns
        -------
        (S, H, W) uint16 array, ADU
        """
        generator = self.noise.generator(number)
        counts = np.empty(energy.shape, dtype=np.uint16)
        light = self.glowing(temperature) * dwell_time
        for index, amplifier in enumerate(self.amplifiers):
            channel = amplifier.true(time)
            assert channel.gain is not None and channel.offset is not None  # noqa: S101, PT018
            glow = light * amplifier.glow_share
            normal = generator.standard_normal(energy.shape[1:], dtype=np.float32)
            expected = np.maximum(energy[index], np.float32(0))
            single = np.float32(channel.gain * deposit)  # ADU of one electron
            quiet = np.float32(
                (amplifier.read_noise * amplifier.noise_error) ** 2 + channel.gain**2 * PAIR_ENERGY * glow
            )
            signal = np.float32(channel.gain) * expected
            few = expected <= np.float32(self.exact_below * deposit)
            if not few.all():
                shot = single * signal
                variance = np.maximum(shot + quiet, np.float32(1e-30))
                # The third cumulant of the electrons' noise is the second times what one of them gives.
                signal += single / np.float32(6) * (shot / variance) * (normal * normal - np.float32(1))
                signal += normal * np.sqrt(variance)
            if few.any():
                electrons = generator.poisson(expected[few] / np.float32(deposit)).astype(np.float32)
                signal[few] = single * electrons + np.sqrt(quiet) * normal[few]
            signal += np.float32(channel.offset + channel.gain * glow)
            counts[index] = np.clip(np.rint(signal, out=signal), 0, channel.saturation)
        return counts


class Channels(Mapping[str, Channel]):
    """What the instrument believes of its channels now: nominal figures at the contrast and brightness of the moment.

    Parameters
    ----------
    diode : Diode
    now : callable
        Returns the world's time, s.
    """

    def __init__(self, diode: Diode, now: Callable[[], float]) -> None:
        self._amplifiers = {amplifier.name: amplifier for amplifier in diode.amplifiers}
        self._now = now

    def __getitem__(self, name: str) -> Channel:
        return self._amplifiers[name].nominal(self._now())

    def __iter__(self) -> Iterator[str]:
        return iter(self._amplifiers)

    def __len__(self) -> int:
        return len(self._amplifiers)

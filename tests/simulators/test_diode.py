"""The diode's noise: mean, variance and skewness of what is digitised, at few electrons and at many."""

import numpy as np
import pytest

from drivers.geometry import annular
from drivers.units import KEV
from simulators.detector import Amplifier, Diode
from simulators.optics import Settling
from simulators.randomness import Stream, Wander

GAIN, DEPOSIT, READ_NOISE, OFFSET = 8.0, 3.0, 20.0, 2000.0


def diode(read_noise=READ_NOISE):
    geometry = annular(1, 2e-3, 8e-3, 8e-3, threshold=KEV)
    still = Wander(Stream(1, "drift"), 0.0, 600.0, 1.0)
    amplifier = Amplifier(
        geometry.names[0], Settling(0.5, 1.0), Settling(OFFSET / 65535, 1.0), GAIN, read_noise, 65535.0, 1.0, 1.0, 1.0,
        0.0, still,
    )  # fmt: skip
    return Diode(geometry, [amplifier], Stream(7, "frames"), glow=0.0)


@pytest.mark.parametrize("electrons", [0.0, 2.0, 19.0, 21.0, 80.0, 1000.0])
def test_the_noise_is_that_of_the_electrons_and_of_the_amplifier(electrons):
    """At 21 the expansion stands for Poisson's law: the same mean, variance and third cumulant."""
    energy = np.full((1, 512, 512), electrons * DEPOSIT, dtype=np.float32)
    counts = diode().digitise(energy, DEPOSIT, 1e-6, 300.0, 0.0, 3)[0].astype(float)
    number, single = counts.size, GAIN * DEPOSIT
    variance = single**2 * electrons + READ_NOISE**2 + 1 / 12  # the last: rounding
    left = counts - OFFSET - single * electrons
    assert abs(left.mean()) < 4 * np.sqrt(variance / number)
    assert left.var() == pytest.approx(variance, rel=0.015)
    third = single**3 * electrons
    assert abs((left**3).mean() - third) < 4 * np.sqrt(15 * variance**3 / number)


def test_without_any_noise_of_its_own_a_dark_frame_is_its_offset():
    counts = diode(read_noise=0.0).digitise(np.zeros((1, 8, 8), np.float32), DEPOSIT, 1e-6, 300.0, 0.0, 0)
    assert (counts == OFFSET).all()

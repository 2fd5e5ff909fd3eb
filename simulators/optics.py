"""The column and the stage as they really stand: settings that settle, axes that travel, a blurred probe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass
class Settling:
    """A setting that approaches its target exponentially.

    Attributes
    ----------
    value : float
        At ``since``, in the setting's own SI unit.
    time_constant : float, s
    """

    value: float
    time_constant: float
    target: float = math.nan
    since: float = 0.0

    def __post_init__(self) -> None:
        if math.isnan(self.target):
            self.target = self.value

    def at(self, time: float) -> float:
        """Return the value at ``time`` (s); at the target to 1e-9 after 20 time constants."""
        elapsed = (time - self.since) / self.time_constant
        return self.target if elapsed > 20.0 else self.target + (self.value - self.target) * math.exp(-elapsed)

    def go(self, target: float, time: float) -> None:
        """Ask for a new target at ``time`` (s)."""
        self.value, self.since, self.target = self.at(time), time, target


@dataclass
class Axis:
    """An axis that travels at constant speed.

    Attributes
    ----------
    value : float
        Where it stood at ``since``; m or rad.
    speed : float, m/s or rad/s
    """

    value: float
    speed: float
    target: float = math.nan
    since: float = 0.0

    def __post_init__(self) -> None:
        if math.isnan(self.target):
            self.target = self.value

    def at(self, time: float) -> float:
        """Return the position at ``time`` (s)."""
        way = self.target - self.value
        gone = self.speed * (time - self.since)
        return self.target if gone >= abs(way) else self.value + math.copysign(gone, way)

    def go(self, target: float, time: float) -> None:
        """Set off towards ``target`` at ``time`` (s)."""
        self.value, self.since, self.target = self.at(time), time, target

    def stop(self, time: float) -> None:
        """Halt at ``time`` (s)."""
        self.go(self.at(time), time)


@dataclass
class Beam:
    """The probe.

    Attributes
    ----------
    energy : Settling, J
    current : Settling, A
    focus : Settling, m
        Distance from the pole piece at which the beam is narrowest.
    stigmator : tuple of Settling
        In x and y; fractions of full scale.
    shift : tuple of Settling, m
        Of the scanned field on the sample, in x and y.
    probe_diameter : float, m
        Full width at half maximum in focus.
    convergence : float, rad
        Half angle.
    astigmatism : (float, float)
        Stigmator setting at which the probe is round.
    stigmator_strength : float, m
        Difference of focus at full scale.
    blanked : list of (float, bool)
        Since when (s) the beam has been off or on, oldest first.
    """

    energy: Settling
    current: Settling
    focus: Settling
    stigmator: tuple[Settling, Settling] = field(default_factory=lambda: (Settling(0.0, 0.05), Settling(0.0, 0.05)))
    shift: tuple[Settling, Settling] = field(default_factory=lambda: (Settling(0.0, 0.02), Settling(0.0, 0.02)))
    probe_diameter: float = 3e-9
    convergence: float = 5e-3
    astigmatism: tuple[float, float] = (0.0, 0.0)
    stigmator_strength: float = 20e-6
    blanked: list[tuple[float, bool]] = field(default_factory=lambda: [(-math.inf, False)])

    def covariance(self, time: float, working_distance: float) -> Floats:
        """Return the covariance of the probe's density on the sample. Shape (2, 2), m².

        A defocused probe is a uniform ellipse: the ray at the angle α (two components) lands at D·α, where D is the
        matrix of defocus, [[Δ + s_x, s_y], [s_y, Δ − s_x]]; a disc of angles of radius c has a variance of c²/4.
        """
        defocus = self.focus.at(time) - working_distance
        along, across = (
            self.stigmator_strength * (stigmator.at(time) - round_at)
            for stigmator, round_at in zip(self.stigmator, self.astigmatism, strict=True)
        )
        matrix = np.array([[defocus + along, across], [across, defocus - along]])
        sigma = self.probe_diameter / (2.0 * math.sqrt(2.0 * math.log(2.0)))
        return np.asarray(sigma**2 * np.eye(2) + self.convergence**2 / 4.0 * matrix @ matrix.T)

    def blank(self, on: bool, time: float) -> None:
        """Blank the beam or let it onto the sample at ``time`` (s)."""
        if on != self.blanked[-1][1]:
            self.blanked = [*self.blanked[-15:], (time, on)]

    def is_blanked(self, times: Floats) -> NDArray[np.bool_]:
        """Return whether the beam was off at ``times`` (s), an array of any shape."""
        moments = np.array([moment for moment, _ in self.blanked])
        states = np.array([on for _, on in self.blanked])
        return np.asarray(states[np.clip(np.searchsorted(moments, times, side="right") - 1, 0, None)])


@dataclass
class StageAxes:
    """The sample stage: x, y, z in m, rotation and tilt in rad."""

    x: Axis = field(default_factory=lambda: Axis(0.0, 1e-3))
    y: Axis = field(default_factory=lambda: Axis(0.0, 1e-3))
    z: Axis = field(default_factory=lambda: Axis(0.0, 0.5e-3))
    rotation: Axis = field(default_factory=lambda: Axis(0.0, math.radians(5.0)))
    tilt: Axis = field(default_factory=lambda: Axis(0.0, math.radians(1.0)))

    def stop(self, time: float) -> None:
        """Halt every axis at ``time`` (s)."""
        for axis in (self.x, self.y, self.z, self.rotation, self.tilt):
            axis.stop(time)

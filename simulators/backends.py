"""How the contract's devices reach into the simulated world: one figure, or one switch, each."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from drivers.errors import DriverError
from drivers.units import KEV, quantity, si

if TYPE_CHECKING:
    from simulators.world import World

UNITS = {
    "K": 1.0,
    "K/min": 1.0 / 60.0,
    "Pa": 1.0,
    "sccm": si(quantity(1.0, "sccm")),
    "keV": KEV,
    "nA": 1e-9,
    "mm": 1e-3,
    "um": 1e-6,
    "deg": math.pi / 180.0,
    "percent": 1e-2,
}
"""SI value of each channel's unit."""


class Figure:
    """One figure of the world: a :class:`drivers.contract.Backend` in the channel's unit.

    Parameters
    ----------
    world : World
    name : str
        Of the channel.
    unit : str
    read : callable
        Takes the world's time (s) and returns the figure in SI.
    write : callable, optional
        Takes the setpoint in SI and the world's time.
    """

    prompt = True

    def __init__(
        self,
        world: World,
        name: str,
        unit: str,
        read: Callable[[float], float],
        write: Callable[[float, float], None] | None = None,
    ) -> None:
        self._world = world
        self._name = name
        self._scale = UNITS[unit]
        self._read = read
        self._write = write

    def get(self) -> tuple[float, datetime]:
        """Return the readback and when it was measured, UTC."""
        with self._world.lock:
            time = self._world.catch_up()
            return self._read(time) / self._scale, self._world.clock.now()

    def put(self, value: float) -> None:
        """Send a setpoint."""
        if self._write is None:
            raise DriverError("this figure of the twin can only be read")
        with self._world.lock:
            time = self._world.catch_up()
            self._write(value * self._scale, time)
            self._world.tell(time, put=self._name, value=value)


class Blanker:
    """The beam's shutter: a :class:`drivers.contract.SwitchBackend`."""

    prompt = True

    def __init__(self, world: World) -> None:
        self._world = world

    def put(self, on: bool) -> None:
        """Blank the beam, or let it onto the sample."""
        with self._world.lock:
            beam = self._world.beam
            assert beam is not None  # noqa: S101  built with the column
            time = self._world.catch_up()
            beam.blank(on, time)
            self._world.tell(time, blank=on)

    def get(self) -> bool:
        """Return whether the beam is blanked."""
        with self._world.lock:
            beam = self._world.beam
            assert beam is not None  # noqa: S101
            return beam.blanked[-1][1]


class Halt:
    """What stops every axis of the stage when it is called."""

    prompt = True

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self) -> None:
        """Stop them."""
        self._world.halt()


class Reconnection:
    """Makes a device's link anew when it is called: nothing to do for a twin, but it is counted."""

    prompt = True

    def __init__(self, world: World, role: str) -> None:
        self._world = world
        self._role = role

    def __call__(self) -> None:
        """Count it."""
        with self._world.lock:
            self._world.catch_up()
            self._world.reconnections[self._role] = self._world.reconnections.get(self._role, 0) + 1

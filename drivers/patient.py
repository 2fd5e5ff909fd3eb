"""What stands between an instrument and its drivers: backends, a blanker and a scanner that never hang for ever.

What promises to be prompt is left as it is (:func:`drivers.patience.is_prompt`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.clock import Clock
from drivers.contract import (
    Backend,
    Column,
    GasLine,
    Heater,
    PressureGauge,
    Readable,
    Scan,
    ScanBackend,
    ScanTiming,
    SegmentedDetector,
    Stage,
    SwitchBackend,
)
from drivers.errors import DeviceUnavailable, InputError
from drivers.patience import CALL, RECONNECTION, Patience, is_prompt

SCAN_FACTOR = 1.5
"""A raster may take so many times as long as it should, and a call's deadline more."""


class PatientFigure:
    """A figure of the hardware: a :class:`drivers.contract.Backend` whose calls have deadlines.

    Parameters
    ----------
    backend : Backend
        One that only reads will do, where nothing is set.
    patience : Patience
        Of the device.
    name : str
        Of the channel.
    """

    def __init__(self, backend: Backend, patience: Patience, name: str) -> None:
        self._backend = backend
        self._patience = patience
        self._name = name

    def get(self) -> tuple[float, datetime]:
        """Return the readback in the channel's unit, and when it was measured."""
        return self._patience.call(f"reading {self._name}", self._backend.get, where=self._name)

    def put(self, value: float) -> None:
        """Send the setpoint."""
        self._patience.call(f"setting {self._name} to {value:g}", lambda: self._backend.put(value), where=self._name)


class PatientSwitch:
    """A switch: a :class:`drivers.contract.SwitchBackend` whose calls have deadlines."""

    def __init__(self, backend: SwitchBackend, patience: Patience, name: str) -> None:
        self._backend = backend
        self._patience = patience
        self._name = name

    def put(self, on: bool) -> None:
        """Send the new state."""
        word = "on" if on else "off"
        self._patience.call(f"switching {self._name} {word}", lambda: self._backend.put(on), where=self._name)

    def get(self) -> bool:
        """Return the state that the hardware tells."""
        return self._patience.call(f"reading {self._name}", self._backend.get, where=self._name)


class PatientScan:
    """A scanner: a :class:`drivers.contract.ScanBackend` whose calls have deadlines.

    Parameters
    ----------
    backend : ScanBackend
    patience, stopping : Patience
        Of the raster, and of what stops it meanwhile.
    timing : ScanTiming
        Says how long a raster should take; it may take ``SCAN_FACTOR`` times that, and a call's deadline more.
    """

    def __init__(self, backend: ScanBackend, patience: Patience, stopping: Patience, timing: ScanTiming) -> None:
        self._backend = backend
        self._patience = patience
        self._stopping = stopping
        self._timing = timing
        self._expected = 0.0

    def arm(self, scan: Scan) -> None:
        """Prepare a raster."""
        self._patience.call("arming the scanner", lambda: self._backend.arm(scan))
        self._expected = self._timing.seconds(scan)

    def acquire(self) -> tuple[NDArray[np.uint16], datetime]:
        """Scan once; return counts (segment, row, column) and the UTC time of the first pixel."""
        limit = SCAN_FACTOR * self._expected + self._patience.deadline
        what = f"a raster of {self._expected:.3g} s"
        return self._patience.call(what, self._backend.acquire, limit)

    def stop(self) -> None:
        """End a raster early."""
        self._stopping.call("stopping the raster", self._backend.stop)


class Patients:
    """Every thread that calls into an instrument's drivers, by device.

    Parameters
    ----------
    deadline : float, s
        Of a call, for devices that have none of their own.

    Notes
    -----
    What must not wait for a call that hangs has a thread of its own: the blanker, and what stops a raster or the stage.
    Threads start with the first call.
    """

    def __init__(self, deadline: float = CALL) -> None:
        self._deadline = deadline
        self._of: dict[str, dict[str, Patience]] = {}
        self._again: dict[str, Callable[[], None]] = {}

    def treat(self, role: str, device: Any, clock: Clock, deadline: float | None = None) -> Any:
        """Return a device as a driver built it, with deadlines on all calls that may need one."""
        limit = self._deadline if deadline is None else deadline
        own = self._of[role] = {"": Patience(role, clock, limit)}

        def patience(part: str) -> Patience:
            return own.setdefault(part, Patience(f"{role}.{part}", clock, limit))

        for channel in channels(device):
            channel.through(partial(_patient_figure, own[""], channel.name))
        if isinstance(device, Column) and not is_prompt(device.blanker):
            blanker = PatientSwitch(device.blanker, patience("blanker"), f"{role}.blanker")
            return replace(device, blanker=blanker)
        if isinstance(device, Stage) and not is_prompt(device.stop):
            halt, stopping = device.stop, patience("stop")
            return replace(device, stop=lambda: stopping.call("stopping the stage", halt))
        if isinstance(device, SegmentedDetector) and not is_prompt(device.backend):
            scanner = PatientScan(device.backend, patience("scan"), patience("stop"), device.timing)
            return replace(device, backend=scanner)
        return device

    def reconnections(self, functions: Mapping[str, Callable[[], None]]) -> None:
        """Take what drivers offer to make a device's link anew, by role."""
        self._again.update(functions)

    def reconnect(self, name: str) -> None:
        """Try a device again; see :class:`drivers.contract.Instrument`.

        A device of which too many calls had hung is tried again even where its driver offers nothing.
        """
        role = next((role for role in self._of if name == role or name.startswith(f"{role}.")), None)
        if role is None:
            raise InputError(f"there is no device {name!r} on this instrument; there are {', '.join(self._of)}")
        patience, function = self._of[role], self._again.get(role)
        if function is not None and is_prompt(function):
            function()
        elif function is not None:
            patience[""].reconnect(function, role)
        elif all(part.available for part in patience.values()):
            raise DeviceUnavailable("its driver has no way to reconnect; check power and cable, and start again", role)
        for part in patience.values():
            part.reconnect(None, role)

    def let_go(self, close: Callable[[], None], clock: Clock) -> None:
        """Call what closes a driver, which may hang where there is hardware.

        Raises
        ------
        DeviceTimeout
            And whatever ``close`` raises.
        """
        if clock.virtual or is_prompt(close):
            close()
            return
        patience = Patience("closing", clock, RECONNECTION * self._deadline)
        try:
            patience.call("letting go of the hardware", close)
        finally:
            patience.close()

    def close(self) -> None:
        """End all threads that do not hang."""
        for own in self._of.values():
            for patience in own.values():
                patience.close()


def _patient_figure(patience: Patience, name: str, backend: Backend) -> Backend:
    return backend if is_prompt(backend) else PatientFigure(backend, patience, name)


def channels(device: Any) -> Iterator[Readable]:
    """Yield every channel of a device."""
    match device:
        case Column():
            yield from (device.beam_energy, device.probe_current, device.working_distance, device.focus)
            yield from (device.stigmator_x, device.stigmator_y, device.beam_shift_x, device.beam_shift_y)
        case SegmentedDetector():
            yield from (*device.contrast.values(), *device.brightness.values())
        case Stage():
            yield from (device.x, device.y, device.z, device.rotation, device.tilt)
        case Heater():
            yield from (device.temperature, device.rate)
        case GasLine():
            yield device.flow
        case PressureGauge():
            yield device.pressure

"""Backends, switches, scanners and clocks with faults; :mod:`simulators.faults` says when each acts."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from drivers.clock import Clock, Participant, Signal
from drivers.contract import Backend, Scan, ScanBackend, SwitchBackend
from drivers.errors import DeviceError, DeviceTimeout, DeviceUnavailable
from drivers.patience import is_prompt
from drivers.units import si
from simulators.faults import Fault

P = ParamSpec("P")
T = TypeVar("T")
Counts = NDArray[np.uint16]

# A fault of a whole device shows in one of its figures.
_FELT_BY = {"thermocouple": "temperature", "pressure_burst": "pressure", "beam_trip": "current"}


class _Watched:
    """Something with faults, and the moment from which their times count."""

    _backend: Any

    def __init__(self, name: str, clock: Clock, faults: tuple[Fault, ...], since: float | None = None) -> None:
        self.name = name
        self.faults = faults
        self._clock = clock
        self._origin = clock.monotonic() if since is None else since
        self._released = clock.signal()

    @property
    def prompt(self) -> bool:
        """Whether every call ends: a hang in the plan breaks what the backend promises."""
        return is_prompt(self._backend) and all(fault.kind != "hang" for fault in self.faults)

    def release(self) -> None:
        """Let calls that hang fail, and their threads end; nobody waits for them any more."""
        self._released.set()

    @property
    def elapsed(self) -> float:
        """Seconds since the moment from which times count."""
        return self._clock.monotonic() - self._origin

    def acting(self, *kinds: str) -> list[Fault]:
        """Return the faults of some kinds that act now."""
        time = self.elapsed
        return [fault for fault in self.faults if fault.kind in kinds and fault.active(time)]

    def link(self) -> None:
        """Fail as a device does that cannot be talked to.

        Raises
        ------
        DeviceUnavailable, DeviceTimeout
        """
        if self.acting("hang"):
            self._released.wait()
            raise DeviceUnavailable("the call hung until the instrument was closed", self.name)
        if self.acting("disconnect"):
            raise DeviceUnavailable("the device cannot be reached; check its cable and power", self.name)
        for fault in self.acting("timeout"):
            self._clock.sleep(si(fault.wait))
            raise DeviceTimeout(f"the device did not answer within {si(fault.wait):g} s", self.name)


class FaultyFigure(_Watched):
    """A figure of the hardware with faults: a :class:`drivers.contract.Backend`."""

    def __init__(
        self, name: str, backend: Backend, clock: Clock, faults: tuple[Fault, ...], since: float | None = None
    ) -> None:
        super().__init__(name, clock, faults, since)
        self._backend: Backend = backend
        self._frozen: tuple[float, datetime] | None = None

    def put(self, value: float) -> None:
        """Send the setpoint, or lose it."""
        self.link()
        if self.acting("stuck"):
            return
        self._backend.put(value)

    def get(self) -> tuple[float, datetime]:
        """Return the readback as the faults leave it."""
        self.link()
        frozen = self.acting("freeze")
        if frozen:
            if self._frozen is None:
                self._frozen = self._backend.get()
            value, measured = self._frozen
            return (value, self._clock.now()) if any(fault.fresh for fault in frozen) else (value, measured)
        value, measured = self._backend.get()
        # What it shows when it freezes is what it showed last.
        self._frozen = (value, measured) if any(fault.kind == "freeze" for fault in self.faults) else None
        return self._spoilt(value), measured

    def _spoilt(self, value: float) -> float:
        time = self.elapsed
        for fault in self.acting("drift", "pressure_burst", "nonsense", "thermocouple", "beam_trip"):
            if not self.name.endswith(_FELT_BY.get(fault.kind, "")):
                continue
            since = time - fault.begins
            if fault.kind == "drift":
                value += (fault.rate + fault.relative_rate * value) * since
            elif fault.kind == "pressure_burst":
                value += fault.level * math.exp(-since / max(si(fault.decay), 1e-9))
            else:
                value = fault.level
        return value


class FaultySwitch(_Watched):
    """A switch with faults: a :class:`drivers.contract.SwitchBackend`."""

    def __init__(
        self, name: str, backend: SwitchBackend, clock: Clock, faults: tuple[Fault, ...], since: float | None = None
    ) -> None:
        super().__init__(name, clock, faults, since)
        self._backend: SwitchBackend = backend
        self._last: bool | None = None

    def put(self, on: bool) -> None:
        """Send the new state, or lose it."""
        self.link()
        if not self.acting("stuck"):
            self._backend.put(on)

    def get(self) -> bool:
        """Return the state as the faults leave it."""
        self.link()
        if self.acting("freeze") and self._last is not None:
            return self._last
        self._last = self._backend.get()
        return not self._last if self.acting("nonsense") else self._last


class FaultyScan(_Watched):
    """A scanner and its detector with faults: a :class:`drivers.contract.ScanBackend`."""

    def __init__(
        self,
        name: str,
        backend: ScanBackend,
        clock: Clock,
        faults: tuple[Fault, ...],
        segments: tuple[str, ...],
        blanker: SwitchBackend | None = None,
        since: float | None = None,
    ) -> None:
        super().__init__(name, clock, faults, since)
        self._backend: ScanBackend = backend
        self._segments = segments
        self._blanker = blanker
        self._last: tuple[Counts, datetime] | None = None

    def arm(self, scan: Scan) -> None:
        """Prepare a raster."""
        self.link()
        self._backend.arm(scan)

    def stop(self) -> None:
        """End a raster early."""
        self._backend.stop()

    def acquire(self) -> tuple[Counts, datetime]:
        """Scan once; return counts as the faults leave them, and the time of the first pixel."""
        self.link()
        begun = self.elapsed
        tripped = any(fault.kind == "beam_trip" and fault.active(begun) for fault in self.faults)
        counts, time = self._dark() if tripped and self._blanker else self._backend.acquire()
        self.link()
        counts = np.array(counts)  # a copy: the backend may keep its own
        if not (tripped and self._blanker):
            self._darken(counts, begun)
        self._spoil_segments(counts)
        if self.acting("freeze") and self._last is not None and self._last[0].shape == counts.shape:
            return self._last[0].copy(), time
        self._last = (counts.copy(), time)
        return (counts[:, :-1] if self.acting("nonsense") else counts), time

    def _dark(self) -> tuple[Counts, datetime]:
        """Scan with the beam blanked, and leave the blanker as it was."""
        blanker = self._blanker
        if blanker is None:
            raise DeviceError("a dark frame needs the blanker", self.name)
        before = blanker.get()
        blanker.put(True)
        try:
            return self._backend.acquire()
        finally:
            blanker.put(before)

    def _darken(self, counts: Counts, begun: float) -> None:
        """Fill the rows that were scanned without a beam with each segment's least count."""
        length = max(self.elapsed - begun, 1e-9)
        rows = counts.shape[1]
        at = begun + (np.arange(rows) + 0.5) / rows * length
        for fault in self.faults:
            if fault.kind == "beam_trip":
                dark = (at >= fault.begins) & (at < fault.ends)
                counts[:, dark] = counts.min(axis=(1, 2))[:, None, None]

    def _spoil_segments(self, counts: Counts) -> None:
        for fault in self.acting("segment_dead", "segment_saturated"):
            segment = fault.target.rsplit(".", 1)[-1]
            if segment in self._segments:
                counts[self._segments.index(segment)] = np.uint16(max(0.0, min(65535.0, fault.level)))


class FaultyCall(_Watched):
    """What reaches a device as a whole, such as its reconnection, with faults of its link."""

    def __init__(
        self,
        name: str,
        call: Callable[[], None],
        clock: Clock,
        faults: tuple[Fault, ...],
        since: float | None = None,
    ) -> None:
        super().__init__(name, clock, faults, since)
        self._backend = call

    def __call__(self) -> None:
        """Reach it, unless its link is down."""
        self.link()
        self._backend()


class SteppedClock:
    """A clock whose time of day jumps: a :class:`drivers.clock.Clock`.

    Parameters
    ----------
    clock : Clock
    faults : tuple of Fault
        Of kind ``clock_step``; each jump lasts for its duration.
    since : float, s, optional
        From when their times count; now unless given.
    """

    def __init__(self, clock: Clock, faults: tuple[Fault, ...], since: float | None = None) -> None:
        self._clock = clock
        self._faults = faults
        self._origin = clock.monotonic() if since is None else since

    @property
    def virtual(self) -> bool:
        """Whether time is simulated."""
        return self._clock.virtual

    @property
    def speed(self) -> float | None:
        """Virtual seconds per real second, as the clock beneath has it."""
        speed: float | None = getattr(self._clock, "speed", None)
        return speed

    def now(self) -> datetime:
        """Return the time of day, UTC, as the jumps leave it."""
        time = self._clock.monotonic() - self._origin
        jumps = sum(fault.level for fault in self._faults if fault.kind == "clock_step" and fault.active(time))
        return self._clock.now() + timedelta(seconds=jumps)

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        self._clock.sleep(seconds)

    def signal(self) -> Signal:
        """Return a new flag, lowered."""
        return self._clock.signal()

    def decision(self) -> Signal:
        """Return a new flag for what somebody outside decides."""
        return self._clock.decision()

    def register(self, name: str) -> Participant:
        """Return a place for a thread."""
        return self._clock.register(name)

    def free(self, after: float) -> str | None:
        """Let time go on without a thread that hangs."""
        return self._clock.free(after)


def faulty_write(
    name: str, write: Callable[P, T], clock: Clock, faults: tuple[Fault, ...], since: float | None = None
) -> Callable[P, T]:
    """Return ``write``, which fails as on a full disk while a ``disk_full`` acts."""
    watched = _Watched(name, clock, faults, since)

    def attempt(*args: P.args, **kwargs: P.kwargs) -> T:
        if watched.acting("disk_full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*args, **kwargs)

    return attempt

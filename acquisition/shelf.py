"""Frames and heights that were read lately, for everybody who looks at the same ones; bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from drivers.clock import Clock

T = TypeVar("T")

ROOM = 96 * 2**20
"""Bytes that are kept."""


class Shelf:
    """Keeps what was used last; one thing is read at a time, so that fifty readers cost the disk one.

    Parameters
    ----------
    room : int, bytes
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, read: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """Return what lies under a key, read where it is not there; ``size`` is in bytes."""
        kept = self.look(key)
        if kept is not None:
            return kept
        with self._reading:
            kept = self.look(key)
            if kept is not None:
                return kept
            made = read()
            self._keep(key, made, size(made))
            return made

    def look(self, key: Hashable) -> Any:
        """Return what lies under a key; None where nothing does."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def _keep(self, key: Hashable, made: Any, size: int) -> None:
        if size > self._room:
            return
        with self._lock:
            self._kept[key] = made, size
            self._bytes += size
            while self._bytes > self._room:
                self._bytes -= self._kept.popitem(last=False)[1][1]


class Lately:
    """What was found a moment ago, for everybody who asks for the newest within that moment.

    Parameters
    ----------
    clock : Clock
    seconds : float, s
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._lock = threading.Lock()
        self._found: dict[Hashable, tuple[float, Any]] = {}

    def get(self, key: Hashable, find: Callable[[], T]) -> T:
        """Return what was found, or what is found now; errors are everybody's own."""
        with self._lock:
            now = self._clock.monotonic()
            at, found = self._found.get(key, (now - 2 * self._seconds, None))
        if now - at <= self._seconds:
            return cast("T", found)
        fresh = find()
        with self._lock:
            if len(self._found) > 256:
                self._found.clear()
            self._found[key] = now, fresh
        return fresh

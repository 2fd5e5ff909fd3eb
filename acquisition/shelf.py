"""Frames and heights that were read lately, for everybody who looks at the same ones; bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

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
        kept = self._look(key)
        if kept is not None:
            return kept
        with self._reading:
            kept = self._look(key)
            if kept is not None:
                return kept
            made = read()
            self._keep(key, made, size(made))
            return made

    def _look(self, key: Hashable) -> Any:
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

"""The way of a frame to the live reconstruction, and of its result back.

The reconstruction works in a process of its own behind a bounded queue. On a real clock its results are taken when
they come. On a virtual clock a result arrives at the moment of its frame plus a stated latency, whatever this
computer's speed, and what the queue cannot hold is decided in virtual time too: so that nights repeat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from acquisition.log import Log
from acquisition.store import Store
from drivers.clock import Clock
from drivers.frame import Frame


class Figure(Protocol):
    """A number that was estimated, with its standard uncertainty, in a canonical unit."""

    @property
    def value(self) -> float:
        """The estimate."""

    @property
    def sigma(self) -> float | None:
        """Its standard uncertainty, or None where it is not known."""

    @property
    def unit(self) -> str:
        """Canonical unit of both."""


class LiveResult(Protocol):
    """What became of one frame."""

    @property
    def frame_id(self) -> int:
        """As it was offered."""

    @property
    def path(self) -> Path | None:
        """Where the heights are."""

    @property
    def figures(self) -> Mapping[str, Figure]:
        """Coverage, roughness and so on, by name."""

    @property
    def error(self) -> str | None:
        """Why there are no heights."""

    @property
    def seconds(self) -> float:
        """How long it took."""


class Live(Protocol):
    """A reconstruction that runs beside the acquisition."""

    def offer(self, frame_id: int, frame: Frame, output: Path) -> bool:
        """Take a frame, or return False at once where the queue is full."""

    def collect(self, wait: float = 0.0) -> Sequence[LiveResult]:
        """Return the results that are there, after waiting up to ``wait`` real seconds for the first."""

    def close(self) -> None:
        """End the process."""


@dataclass
class LiveFeed:
    """Offers frames and hands results over when they are due.

    Attributes
    ----------
    live : Live
    clock : Clock
    latency : float, s
        On a virtual clock, from a frame's end to its result.
    capacity : int
        Frames that may wait at once.
    patience : float, s
        Real seconds after which a result that should have come is given up.
    """

    live: Live
    clock: Clock
    latency: float = 2.0
    capacity: int = 8
    patience: float = 120.0
    left_out: int = 0
    _due: deque[tuple[float, int]] = field(default_factory=deque)
    _arrived: dict[int, LiveResult] = field(default_factory=dict)

    def offer(self, frame_id: int, frame: Frame, output: Path) -> bool:
        """Pass a frame on; return False, and count it, where it had to be left out."""
        taken = len(self._due) < self.capacity and self._offer(frame_id, frame, output)
        if taken:
            after = self._due[-1][0] if self._due else 0.0
            self._due.append((max(self.clock.monotonic(), after) + self.latency, frame_id))
        else:
            self.left_out += 1
        return taken

    def _offer(self, frame_id: int, frame: Frame, output: Path) -> bool:
        if self.live.offer(frame_id, frame, output):
            return True
        if not self.clock.virtual:
            return False
        # In virtual time there is room: the process is only slower than time is fast. Wait for it.
        self._take(self.live.collect(self.patience))
        return self.live.offer(frame_id, frame, output)

    @property
    def next_due(self) -> float | None:
        """Moment (clock's monotonic seconds) at which the next result is due, None where none is on its way."""
        return self._due[0][0] if self._due else None

    def results(self) -> Iterator[LiveResult | int]:
        """Yield what is due by now: results, and the frame's number for a result that never came."""
        if not self.clock.virtual:
            self._take(self.live.collect())
            ready = [frame_id for _, frame_id in self._due if frame_id in self._arrived]
            self._due = deque(entry for entry in self._due if entry[1] not in ready)
            yield from (self._arrived.pop(frame_id) for frame_id in ready)
            return
        while self._due and self._due[0][0] <= self.clock.monotonic():
            _, frame_id = self._due.popleft()
            yield self._await(frame_id)

    def rest(self) -> Iterator[LiveResult | int]:
        """Yield everything that is still on its way, due or not; waits for the process, not for the clock."""
        while self._due:
            _, frame_id = self._due.popleft()
            yield self._await(frame_id)

    def _await(self, frame_id: int) -> LiveResult | int:
        waited = 0.0
        while frame_id not in self._arrived and waited < self.patience:
            self._take(self.live.collect(1.0))
            waited += 1.0
        return self._arrived.pop(frame_id, frame_id)

    def _take(self, results: Sequence[LiveResult]) -> None:
        for result in results:
            self._arrived[result.frame_id] = result


def catch_up(
    live: Live,
    frames: Sequence[tuple[int, Path]],
    read: Callable[[int], Frame],
    patience: float = 120.0,
) -> Iterator[LiveResult | int]:
    """Reconstruct frames that were left out, as fast as the process goes; yields as :meth:`LiveFeed.results`.

    Parameters
    ----------
    live : Live
    frames : sequence of (frame id, where its heights go)
    read : callable
        Returns the frame of an id from the store.
    patience : float, s
    """
    waiting: set[int] = set()
    todo = deque(frames)
    while todo or waiting:
        while todo and live.offer(todo[0][0], read(todo[0][0]), todo[0][1]):
            waiting.add(todo.popleft()[0])
        results = live.collect(patience)
        for result in results:
            waiting.discard(result.frame_id)
            yield result
        if not results:
            yield from sorted(waiting | {frame_id for frame_id, _ in todo})
            return


def log_result(log: Log, store: Store, result: LiveResult | int) -> str | None:
    """Enter in the log what became of a frame; return why there are no heights, or None where there are."""
    if isinstance(result, int):
        error = "the reconstruction did not answer"
        log.reconstruction(result, "failed", error=error)
        return error
    if result.error is not None or result.path is None:
        error = result.error or "the reconstruction wrote no heights"
        log.reconstruction(result.frame_id, "failed", seconds=result.seconds, error=error)
        return error
    path = result.path.relative_to(store.root)
    log.reconstruction(result.frame_id, "done", path=path, figures=result.figures, seconds=result.seconds)
    return None

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

from acquisition.entry import Entries, FigureLike
from acquisition.store import Store
from drivers.clock import Clock
from drivers.errors import StoreError
from drivers.frame import Frame


class LiveResult(Protocol):
    """What became of one frame."""

    @property
    def frame_id(self) -> int:
        """As it was offered."""

    @property
    def path(self) -> Path | None:
        """Where the heights are."""

    @property
    def figures(self) -> Mapping[str, FigureLike]:
        """Coverage, roughness and so on, by name."""

    @property
    def error(self) -> str | None:
        """Why there are no heights."""

    @property
    def seconds(self) -> float:
        """How long it took."""


@dataclass(frozen=True)
class Lost:
    """A result that never came; the frame itself is safe in the store, and its heights can be made later."""

    frame_id: int
    error: str
    path: Path | None = None
    figures: Mapping[str, FigureLike] = field(default_factory=dict)
    seconds: float = 0.0


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
    """Offers frames and hands results over when they are due. What goes wrong behind it never harms the run.

    Attributes
    ----------
    live : Live
    clock : Clock
    latency : float, s
        On a virtual clock: how long each frame takes; frames wait for each other.
    capacity : int
        Frames that may wait at once.
    patience : float, s
        Real seconds after which a result that should have come is given up.
    broken : str
        Why the reconstruction is no longer asked; empty while it works.
    """

    live: Live
    clock: Clock
    latency: float = 2.0
    capacity: int = 8
    patience: float = 120.0
    broken: str = ""
    _due: deque[tuple[float, int]] = field(default_factory=deque)
    _arrived: dict[int, LiveResult] = field(default_factory=dict)

    def offer(self, frame_id: int, frame: Frame, output: Path) -> bool:
        """Pass a frame on; return False where it had to be left out."""
        if self.broken or len(self._due) >= self.capacity or not self._offer(frame_id, frame, output):
            return False
        after = self._due[-1][0] if self._due else 0.0
        self._due.append((max(self.clock.monotonic(), after) + self.latency, frame_id))
        return True

    def _offer(self, frame_id: int, frame: Frame, output: Path) -> bool:
        try:
            taken = self.live.offer(frame_id, frame, output)
        except Exception as error:  # noqa: BLE001  heights are made later; the frame is safe
            self._break(error)
            return False
        if taken or not self.clock.virtual:
            return taken
        # In virtual time there is room: the process is only slower than time is fast. Wait for it.
        self._collect(self.patience)
        try:
            return not self.broken and self.live.offer(frame_id, frame, output)
        except Exception as error:  # noqa: BLE001  as above
            self._break(error)
            return False

    @property
    def next_due(self) -> float | None:
        """Moment (clock's monotonic seconds) at which the next result is due, None where none is on its way."""
        return self._due[0][0] if self._due else None

    def results(self) -> Iterator[LiveResult]:
        """Yield what is due by now; on a real clock, what has come."""
        if self.clock.virtual:
            while self._due and self._due[0][0] <= self.clock.monotonic():
                yield self._await(self._due.popleft()[1])
            return
        self._collect(0.0)
        waiting: deque[tuple[float, int]] = deque()
        for moment, frame_id in self._due:
            if frame_id in self._arrived:
                yield self._arrived.pop(frame_id)
            elif self.broken or self.clock.monotonic() > moment - self.latency + self.patience:
                yield self._lost(frame_id)
            else:
                waiting.append((moment, frame_id))
        self._due = waiting

    def rest(self) -> Iterator[LiveResult]:
        """Yield everything that is still on its way, due or not; waits for the process, not for the clock."""
        while self._due:
            yield self._await(self._due.popleft()[1])

    def _await(self, frame_id: int) -> LiveResult:
        waited = 0.0
        while frame_id not in self._arrived and waited < self.patience and not self.broken:
            self._collect(1.0)
            waited += 1.0
        if frame_id not in self._arrived and not self.broken:
            self.broken = f"it did not answer within {self.patience:.0f} s"
        return self._arrived.pop(frame_id) if frame_id in self._arrived else self._lost(frame_id)

    def _lost(self, frame_id: int) -> Lost:
        return Lost(frame_id, f"the reconstruction failed: {self.broken or 'it did not answer in time'}")

    def _collect(self, wait: float) -> None:
        if self.broken:
            return
        try:
            for result in self.live.collect(wait):
                self._arrived[result.frame_id] = result
        except Exception as error:  # noqa: BLE001  heights are made later; the frames are safe
            self._break(error)

    def _break(self, error: Exception) -> None:
        self.broken = f"{type(error).__name__}: {error}"


def catch_up(
    live: Live,
    frames: Sequence[tuple[int, Path]],
    read: Callable[[int], Frame],
    patience: float = 120.0,
) -> Iterator[LiveResult]:
    """Reconstruct frames of the store, as fast as the process goes; one that cannot be read does not stop the others.

    Parameters
    ----------
    live : Live
    frames : sequence of (frame id, where its heights go)
    read : callable
        Returns the frame of an id from the store.
    patience : float, s
        Real seconds without any result after which the rest is given up.
    """
    waiting: set[int] = set()
    todo = deque(frames)
    while todo:
        frame_id, output = todo.popleft()
        try:
            frame = read(frame_id)
        except StoreError as error:
            yield Lost(frame_id, str(error))
            continue
        while not live.offer(frame_id, frame, output):
            results = live.collect(patience)
            if not results:
                yield from (Lost(each, "the reconstruction did not answer") for each in sorted(waiting))
                yield from (Lost(each, "the reconstruction did not answer") for each, _ in [(frame_id, output), *todo])
                return
            waiting -= {result.frame_id for result in results}
            yield from results
        waiting.add(frame_id)
    while waiting:
        results = live.collect(patience) or [
            Lost(each, "the reconstruction did not answer") for each in sorted(waiting)
        ]
        waiting -= {result.frame_id for result in results}
        yield from results


def log_result(log: Entries, store: Store, result: LiveResult, *, later: bool = False) -> str | None:
    """Enter in the log what became of a frame; return why there are no heights, or None where there are.

    Parameters
    ----------
    log : Entries
    store : Store
    result : LiveResult
    later : bool
        A result that never came counts as left out, to be made up for, not as failed.
    """
    if result.error is not None or result.path is None:
        error = result.error or "the reconstruction wrote no heights"
        state = "left out" if later and isinstance(result, Lost) else "failed"
        log.reconstruction(result.frame_id, state, seconds=result.seconds, error=error)
        return error
    path = result.path.relative_to(store.root) if result.path.is_relative_to(store.root) else result.path
    log.reconstruction(result.frame_id, "done", path=path, figures=result.figures, seconds=result.seconds)
    return None

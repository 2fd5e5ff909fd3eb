"""The states of a run, and the ways between them."""

from __future__ import annotations

from enum import StrEnum

from drivers.errors import RunError

IN_ORDER = "in order"
"""Of the event that tells a run's end: whether the instrument was seen to be left as it should be."""


class State(StrEnum):
    """Where a run stands. Stopped (somebody asked), failed (something broke) and safe are different ends.

    ``paused``: somebody wants it to wait. ``suspended``: something must pass first (an interlock, a full disk, a
    database that is away); it goes on by itself. ``safe``: the night ended early, and the instrument was brought to
    its safe state, verified. ``failed``: it ended early, and either the program is to blame or the safe state could
    not be verified.
    """

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    SAFE = "safe"

    @property
    def final(self) -> bool:
        """Whether a run in this state has ended."""
        return self in (State.FINISHED, State.STOPPED, State.FAILED, State.SAFE)


WAYS: dict[State, frozenset[State]] = {
    State.IDLE: frozenset({State.RUNNING}),
    State.RUNNING: frozenset({State.PAUSED, State.SUSPENDED, State.STOPPING}),
    State.PAUSED: frozenset({State.RUNNING, State.SUSPENDED, State.STOPPING}),
    State.SUSPENDED: frozenset({State.RUNNING, State.PAUSED, State.STOPPING}),
    # The cleanup lies behind STOPPING, and every end behind the cleanup.
    State.STOPPING: frozenset({State.FINISHED, State.STOPPED, State.FAILED, State.SAFE}),
    State.FINISHED: frozenset(),
    State.STOPPED: frozenset(),
    State.FAILED: frozenset(),
    State.SAFE: frozenset(),
}


def step(present: State, following: State) -> State:
    """Return ``following`` where a way leads there.

    Raises
    ------
    RunError
        Where none does.
    """
    if following not in WAYS[present]:
        allowed = ", ".join(sorted(WAYS[present])) or "nothing: it has ended"
        raise RunError(f"a run that is {present} cannot become {following}; it can become {allowed}")
    return following

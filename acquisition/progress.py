"""Where a run stands, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from acquisition.states import State


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever looks on; replaced whole, never changed."""

    state: State = State.IDLE
    reason: str = ""
    action: int = 0
    actions: int = 0
    address: str = ""
    name: str = ""
    since: datetime | None = None
    frames: int = 0
    left_out: int = 0
    heights: int = 0
    figures: Mapping[str, tuple[float, float | None, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: State
    reason: str = ""

"""A message to somebody outside: what every way delivers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody is told.

    Attributes
    ----------
    key : str
        The same on every attempt.
    kind, level : str
    title : str
        One line.
    text : str
    time : datetime
        UTC, of the first thing that it tells.
    run_id : str or None
    count : int
        How many alerts it sums up.
    """

    key: str
    kind: str
    level: str
    title: str
    text: str
    time: datetime
    run_id: str | None = None
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the message as a webhook and a command get it; ``text`` is what chat programs show."""
        return {
            "key": self.key,
            "kind": self.kind,
            "level": self.level,
            "title": self.title,
            "text": f"{self.title}\n{self.text}".rstrip(),
            "time": self.time.isoformat(),
            "run": self.run_id,
            "count": self.count,
            "source": "rilievo",
        }

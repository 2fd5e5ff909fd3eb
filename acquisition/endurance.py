"""How much a night puts up with before it ends in the safe state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drivers.contract import Instrument
from drivers.registry import EnduranceFile
from drivers.units import si


@dataclass(frozen=True, slots=True)
class Endurance:
    """Retries of what a device refused, and the patience with what must pass.

    Attributes
    ----------
    retries : int
        How often an action is tried again when a device does not do its part.
    pause : float, s
        Before the first retry; each further one waits ``GROWTH`` times as long.
    longest_suspension : float, s
        For a full disk or a database that is away; interlocks have a longest wait of their own.
    longest_outage : float, s
        After which a resumed run ends safe whatever its steps say, unless the recipe says otherwise.
    """

    retries: int = 3
    pause: float = 5.0
    longest_suspension: float = 1800.0
    longest_outage: float = 3600.0

    GROWTH = 3.0
    PROBE = 5.0
    """Seconds between two looks whether a suspension's cause has gone."""

    @classmethod
    def of(cls, instrument: Instrument) -> Endurance:
        """Return what the instrument's file says under ``endurance``, and the defaults for the rest.

        Raises
        ------
        pydantic.ValidationError
            For an entry that the registry would have refused.
        """
        given = EnduranceFile.model_validate(instrument.description.get("endurance") or {})
        times = {name: getattr(given, name) for name in ("pause", "longest_suspension", "longest_outage")}
        known: dict[str, Any] = {name: si(value) for name, value in times.items() if value is not None}
        return cls(**known) if given.retries is None else cls(retries=given.retries, **known)

    def pause_before(self, retry: int) -> float:
        """Return how long to wait (s) before a retry, counted from 1."""
        return self.pause * self.GROWTH ** (retry - 1)

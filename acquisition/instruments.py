"""The instruments that a server knows, by name; nobody from elsewhere can name another one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from drivers.contract import Instrument
from drivers.errors import InputError

Opened = Callable[[Path | None], AbstractContextManager[Instrument]]
"""Opens the instrument of a file; the simulated one for None."""


class Instruments:
    """Opens each instrument once, for its name and its limits, and lets go of it at once.

    Parameters
    ----------
    opened : callable
        See :data:`Opened`.
    files : sequence of Path or None
        The first one is meant where none is named.
    """

    def __init__(self, opened: Opened, files: Sequence[Path | None] = (None,)) -> None:
        self._opened = opened
        self._new = list(dict.fromkeys(files))
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Path | None, Instrument]] = {}

    @property
    def names(self) -> list[str]:
        """Of all; the first one is meant where none is named."""
        return list(self._all())

    def _all(self) -> dict[str, tuple[Path | None, Instrument]]:
        with self._lock:
            while self._new:
                with self._opened(self._new[0]) as found:
                    self._known.setdefault(found.name, (self._new[0], found))
                del self._new[0]
            return self._known

    def on_paper(self, name: str | None = None) -> Instrument:
        """Return an instrument whose limits, timing and description can be looked at; nothing of it answers.

        Raises
        ------
        InputError
            With the names there are.
        """
        return self._find(name)[1]

    def text(self, name: str | None = None) -> str | None:
        """Return an instrument's file; None for the simulated one. Errors as :meth:`on_paper`."""
        file = self._find(name)[0]
        return None if file is None else file.read_text(encoding="utf-8-sig")

    def _find(self, name: str | None) -> tuple[Path | None, Instrument]:
        known = self._all()
        wanted = next(iter(known)) if name is None else name
        if wanted not in known:
            raise InputError(f"this server has no instrument {wanted!r}; it has {', '.join(known)}", "instrument")
        return known[wanted]

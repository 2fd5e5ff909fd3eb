"""A dead man's heartbeat: a file that is touched, a URL that is asked for, as long as everything is well.

An outside monitor raises the alarm when it stays away: when the process died, the computer lost its power, the
database does not answer, or the engine's watch says that something is wrong. Silence needs nobody to send it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from acquisition.alert_settings import HeartbeatText
from acquisition.courier import Courier
from acquisition.message import Message
from acquisition.ways import fetch
from drivers.clock import Clock
from drivers.units import si

Well = Callable[[], str | None]
"""Answers with what is wrong, None while nothing is."""


class _Ping:
    """Asks for a URL; the message is only a form."""

    def __init__(self, url: str) -> None:
        self._url = url

    def deliver(self, message: Message, timeout: float) -> str | None:  # noqa: ARG002
        fetch(self._url, timeout)
        return None


class Heartbeat:
    """Beats when it is asked to and its time has come.

    Parameters
    ----------
    settings : HeartbeatText
    folder : Path
        The data folder; a relative file lies in it.
    clock : Clock
    deadline : float, s
        For one answer of the URL.
    """

    def __init__(self, settings: HeartbeatText, folder: Path, clock: Clock, deadline: float) -> None:
        self.every = si(settings.every)
        self._clock = clock
        self._file = None if settings.file is None else folder / settings.file
        url = settings.url
        self._courier = None if url is None else Courier("heartbeat", _Ping(url), deadline, clock, _nothing)
        self._last: float | None = None
        self._trouble: str | None = None

    def beat(self, wrong: str | None) -> str | None:
        """Beat if it is time and nothing is ``wrong``; return what is new about the beats themselves, to be told."""
        now = self._clock.monotonic()
        told = self._heard()
        if wrong is not None or (self._last is not None and now - self._last < self.every):
            return told
        self._last = now
        if self._courier is not None and self._courier.ready:
            self._courier.send(Message("", "heartbeat", "info", "", "", self._clock.now()))
        if self._file is not None:
            try:
                _touch(self._file, f"{self._clock.now().isoformat()} {os.getpid()}\n")
            except OSError as error:
                return self._news(f"the heartbeat's file cannot be written: {error}") or told
        return told

    def _heard(self) -> str | None:
        result = None if self._courier is None else self._courier.result()
        if result is None:
            return None
        return self._news(None if result.error is None else f"the heartbeat is not heard: {result.error}")

    def _news(self, trouble: str | None) -> str | None:
        """Return a trouble that is new, or that an old one has gone."""
        before, self._trouble = self._trouble, trouble
        if (before is None) == (trouble is None):
            return None
        return trouble or "the heartbeat is heard again"


def _touch(path: Path, content: str) -> None:
    """Write a small file whole; its time is what a monitor looks at."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(content, encoding="utf-8")
    part.replace(path)


def _nothing() -> None:
    """Do nothing: who beats looks by itself."""

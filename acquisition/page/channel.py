"""The channel to the server: commands go there, answers come back, and its end is the page's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from drivers.errors import InputError, RilievoError, RunError

PATIENCE = 15.0
"""Seconds that an answer may take."""


class NoAnswer(RunError):
    """The server did not answer a command in time; whether it acted is not known."""

    code = "no answer"
    number = 520


class Channel:
    """The page's end of a pipe to the server that started it.

    Parameters
    ----------
    pipe : Connection
    ended : callable
        Is called once the server has hung up.
    """

    def __init__(self, pipe: Connection, ended: Callable[[], None]) -> None:
        self._pipe = pipe
        self._ended = ended
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._open: dict[int, Future[Any]] = {}
        self._thread = threading.Thread(target=self._listen, name="page channel", daemon=True)

    def start(self) -> None:
        """Begin to listen for answers."""
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                answer = json.loads(self._pipe.recv_bytes())
                if answer.get("end"):
                    break
                with self._lock:
                    waiting = self._open.pop(answer["id"], None)
                if waiting is None:
                    continue
                error = answer.get("error")
                if error is None:
                    waiting.set_result(answer.get("value"))
                else:
                    waiting.set_exception(_raised(error))
        with self._lock:
            left, self._open = list(self._open.values()), {}
        for waiting in left:
            waiting.set_exception(NoAnswer("the server has ended"))
        self._ended()

    def ready(self) -> None:
        """Say that the page answers."""
        self._pipe.send_bytes(json.dumps({"ready": True}).encode())

    async def ask(self, verb: str, **values: Any) -> Any:
        """Return the server's answer.

        Raises
        ------
        RilievoError
            What the server raised; :class:`NoAnswer` where it says nothing.
        """
        number = next(self._numbers)
        waiting: Future[Any] = Future()
        with self._lock:
            self._open[number] = waiting
            try:
                self._pipe.send_bytes(json.dumps({"id": number, "verb": verb, **values}).encode())
            except OSError:
                self._open.pop(number, None)
                raise NoAnswer("the server has ended") from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(waiting), PATIENCE)
        except TimeoutError:
            with self._lock:
                self._open.pop(number, None)
            raise NoAnswer(
                f"the server did not answer within {PATIENCE:g} s; look at the events before you try again"
            ) from None

    async def login(self, token: str, name: str) -> Mapping[str, Any]:
        """Return name and role of whom a token belongs to; ``name`` is what they call themselves.

        Raises
        ------
        RilievoError
            For a token that nobody has.
        """
        found: Mapping[str, Any] = await self.ask("login", token=token, name=name)
        return found

    async def command(self, who: Mapping[str, str], name: str, **arguments: Any) -> Any:
        """Ask the server to do something in somebody's name; errors as it raises them.

        ``who`` holds token, person and session.
        """
        return await self.ask("command", **who, name=name, arguments=arguments)


def _raised(error: Mapping[str, Any]) -> RilievoError:
    kind = InputError if error.get("exit") == InputError.exit_code else RilievoError
    return kind(str(error.get("message", "an error without a message")), error.get("where"))

"""The desk: everything that a person may ask of the server, with their role checked and every command written down.

Remote control and the page both come here; there is no second way. A :class:`Desk` belongs to a server; each person
sits at it in a :class:`acquisition.seat.Seat`, whose methods are what may be asked. The audit log is the events of kind
``audit``: who asked what, from where, before it is done (after it, where it is urgent); and what was refused, and why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from acquisition.access import AccessDenied, Overload, Person
from acquisition.asking import Command
from acquisition.control import Control
from acquisition.shelf import Lately, Shelf
from acquisition.tail import Tail
from drivers.clock import Clock, RealClock
from drivers.errors import DatabaseError, RilievoError, RunError

if TYPE_CHECKING:
    from acquisition.app import Laboratory
    from acquisition.instruments import Instruments
    from acquisition.seat import Seat
    from acquisition.serve import Server
    from acquisition.stages import Playing

T = TypeVar("T")

AT_ONCE = 2
"""Reports and checks that are made at the same time, for everybody together."""
PATIENCE = 20.0
"""s that somebody waits for their turn."""
REFUSALS = 20
"""Refusals of one session that the audit log holds within :data:`REFUSALS_WITHIN`; more are counted."""
REFUSALS_WITHIN = 60.0
"""s."""
MOMENT = 0.2
"""s for which the newest run and frame are looked up once for everybody who watches them."""
SHOWN = 200
"""Characters of an argument that the audit log holds."""


class Desk:
    """What all who ask share.

    Parameters
    ----------
    laboratory : Laboratory
    server : Server
    instruments : Instruments
    clock : Clock, optional
        Real.
    control : Control, optional

    Attributes
    ----------
    tail : Tail
        Started and ended with the desk.
    """

    def __init__(
        self,
        laboratory: Laboratory,
        server: Server,
        instruments: Instruments,
        *,
        clock: Clock | None = None,
        control: Control | None = None,
    ) -> None:
        self.laboratory = laboratory
        self.log = laboratory.log
        self.store = laboratory.store
        self.server = server
        self.instruments = instruments
        self.clock = clock or RealClock()
        self.control = control or Control(self.clock)
        self.tail = Tail(laboratory.log, self.clock)
        self.shelf = Shelf()
        self.lately = Lately(self.clock, MOMENT)
        self._work = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._making_safe: dict[str, threading.Thread] = {}
        self._refusals: dict[str, tuple[float, int]] = {}

    def start(self) -> None:
        """Begin to follow the events."""
        self.tail.start()

    def close(self) -> None:
        """End, once or more; whoever waits for events is let go."""
        self.tail.close()
        for thread in list(self._making_safe.values()):
            thread.join(60.0)

    def seat(self, person: Person) -> Seat:
        """Return where a person asks from."""
        from acquisition.seat import Seat

        return Seat(self, person)

    # -- who may, and the audit log

    def perform(self, person: Person, command: Command, arguments: Mapping[str, Any], do: Callable[[], T]) -> T:
        """Do what a person asks, where they may; write it down.

        Raises
        ------
        AccessDenied
            Where the role is not enough.
        ControlHeld
            Where control is needed, and not held.
        DatabaseError
            Where the audit log cannot be written; nothing is done then, but for what is urgent.
        """
        if not command.audited:
            self._require_role(person, command)
            return do()
        try:
            self._require_role(person, command)
            if command.control:
                self.control.require(person)
        except RilievoError as error:
            self._note_refusal(person, command, arguments, error)
            raise
        if not command.urgent:
            self._write(person, command, arguments, "info", "")
        try:
            result = do()
        except RilievoError as error:
            self._note_refusal(person, command, arguments, error)
            raise
        if command.urgent:  # what makes things safe does not wait for the database
            with suppress(RilievoError):
                self._write(person, command, arguments, "info", "")
        return result

    @staticmethod
    def _require_role(person: Person, command: Command) -> None:
        if not person.role.covers(command.role):
            raise AccessDenied(
                f"{command.name} needs the role {command.role}; {person.name} is {_article(person.role)}", command.name
            )

    def _note_refusal(
        self, person: Person, command: Command, arguments: Mapping[str, Any], error: RilievoError
    ) -> None:
        now = self.clock.monotonic()
        with self._lock:
            since, count = self._refusals.get(person.session, (now, 0))
            if now - since > REFUSALS_WITHIN:
                since, count = now, 0
            if len(self._refusals) > 10_000:
                self._refusals.clear()
            self._refusals[person.session] = since, count + 1
        if count < REFUSALS:
            with suppress(DatabaseError):
                self._write(person, command, arguments, "warning", str(error))

    def _write(self, person: Person, command: Command, arguments: Mapping[str, Any], level: str, refused: str) -> None:
        told = {name: _short(value) for name, value in arguments.items() if value is not None}
        listed = ", ".join(f"{name} {value}" for name, value in told.items())
        message = (
            f"{person}: {command.name}{f' {listed}' if listed else ''}{f': refused: {refused}' if refused else ''}"
        )
        data = {
            "who": person.name,
            "role": str(person.role),
            "address": person.address,
            "by": person.by,
            "command": command.name,
            "arguments": told,
            "refused": refused or None,
        }
        self.log.event(None, self.clock.now(), level, "audit", message[:1000], data)

    def note(self, person: Person, message: str, level: str = "info") -> None:
        """Write down something about a person that is not a command: that they came, or went."""
        data = {"who": person.name, "role": str(person.role), "address": person.address, "by": person.by}
        with suppress(DatabaseError):
            self.log.event(None, self.clock.now(), level, "audit", f"{person}: {message}", data)

    # -- what several commands need

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn at something that costs this computer much.

        Raises
        ------
        Overload
            Where it does not come in time.
        """
        if not self._work.acquire(timeout=PATIENCE):
            raise Overload(f"the server is busy with the reports and checks of others for {PATIENCE:g} s; try again")
        try:
            yield
        finally:
            self._work.release()

    def played(self, run: str | None) -> str:
        """Return the id of a run that is being played: the only one, or the one that is named.

        Raises
        ------
        RunError
            Where none is, or several are and none was named.
        """
        ids = [playing.run_id for playing in self.server.playing.values()]
        if run in (None, "last") and len(ids) == 1:
            return ids[0]
        if run is None:
            raise RunError(
                f"several runs are being played; name one: {', '.join(ids)}" if ids else "no run is being played"
            )
        from acquisition.overview import find_run

        return find_run(self.log, run).id

    def playing_on(self, instrument: str) -> Playing | None:
        """Return what is being played on an instrument."""
        return self.server.playing.get(instrument)

    def make_safe(self, reason: str) -> list[str]:
        """Bring every instrument of this server to its safe state, each in a thread of its own; return which.

        What comes of it stands in the events: it may take minutes, and whoever asked need not wait.
        """
        wanted: dict[str, Callable[[str], object]] = {
            name: playing.make_safe for name, playing in self.server.playing.items()
        }
        idle = self.server.idle
        if idle is not None and idle.held is not None:
            wanted.setdefault(idle.name, idle.held.make_safe)
        for name, enter in wanted.items():
            with self._lock:
                before = self._making_safe.get(name)
                if before is not None and before.is_alive():
                    continue
                thread = threading.Thread(target=self._enter, args=(enter, reason), name=f"safe {name}", daemon=True)
                self._making_safe[name] = thread
                thread.start()
        return list(wanted)

    def _enter(self, enter: Callable[[str], object], reason: str) -> None:
        try:
            enter(reason)
        except Exception as error:  # noqa: BLE001  told, whatever it is: nobody else would hear of it
            with suppress(RilievoError):
                self.log.event(None, self.clock.now(), "error", "safe", f"{reason}: {error or type(error).__name__}")


def _article(role: str) -> str:
    return f"an {role}"


def _short(value: object) -> str:
    """Return an argument in a line; of a recipe, which the booking holds, how it begins."""
    text = str(value)
    if "\n" in text:
        text = f"{text.partition(chr(10))[0][:60]} … ({len(text)} characters)"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"

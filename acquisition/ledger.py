"""The ledger: what a run writes its log through, so that nothing acknowledged is lost when the database is not there.

An entry goes to the database. When the database refuses (locked, full, read-only, gone, connection lost) it goes to a
side-car journal beside the frames, and so does every one after it, in order, until :meth:`Ledger.reconcile` has brought
all of them into the database, each exactly once. Each transaction carries the number of its last entry, so that an
entry whose commit was lost on the way back is recognised, and a reconciliation may be killed at any moment.

When even the side-car cannot be written, entries wait in memory: up to a bound, and what is lost beyond is told.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from acquisition import sidecar
from acquisition.database import Refusal
from acquisition.entry import Entries, Entry
from acquisition.log import Log
from acquisition.records import Records
from acquisition.sidecar import Line, Sidecar
from acquisition.store import Store
from acquisition.writer import Mark
from drivers.clock import Clock, RealClock
from drivers.errors import DatabaseError, InputError, RilievoError, RunError, StoreError

WAITING = 20_000
"""Transactions that wait in memory at the most."""
TOGETHER = 100
"""Transactions that are replayed in one."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A side-car that was found when a laboratory was opened.

    Attributes
    ----------
    path : Path
    entries : int
        That reached the database.
    reason : str
        Why the rest did not; empty where all of them did.
    """

    path: Path
    entries: int
    reason: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where a run's frames on the disk and in the log differ.

    Attributes
    ----------
    unlogged : tuple of int
        Numbers of frames that lie in the store, and that neither the log nor a side-car knows: the program died after
        it had written them and before it acknowledged them.
    missing : tuple of int
        Numbers of frames that were acknowledged, and of which there is no file.
    """

    unlogged: tuple[int, ...]
    missing: tuple[int, ...]

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.unlogged or self.missing)


class Ledger(Entries):
    """What engine, telemetry and cleanup of a run write to. May be used from several threads.

    Parameters
    ----------
    log : Log
    path : Path
        Of the side-car journal: ``sidecar.jsonl`` in the run's folder.
    clock : Clock
    waiting : int
        Transactions that wait in memory at the most, when the side-car cannot be written either.

    Attributes
    ----------
    stranded : str
        Why entries do not reach the database; empty while they do.
    lost : int
        Entries that neither the database, nor the disk, nor the memory could take.

    Notes
    -----
    What a verb raises that is no matter of reach (an action that is not there, a frame's number that is taken) comes
    through to the caller while the database answers; what turns up only when it is replayed is set aside in
    ``sidecar.refused-1.jsonl``, and told.
    """

    def __init__(
        self, log: Log, path: Path, clock: Clock | None = None, *, waiting: int = WAITING, reserve: bool = True
    ) -> None:
        super().__init__()
        self._log = log
        self._clock: Clock = clock or RealClock()
        self._session = uuid.uuid4().hex
        self._sequence = 0
        self._order = threading.Lock()  # entries take their numbers and their places under it
        self._replaying = threading.Lock()
        self._sidecar = Sidecar(path, reserve=reserve)
        self._waiting: deque[Line] = deque()
        self._most = waiting
        self._run_id = path.parent.name
        self._entered = 0
        self.lost = 0
        self._kept_by = ""  # why the side-car cannot be written
        self._reason = "entries of an earlier process wait in the side-car journal" if self._sidecar.length else ""

    @property
    def stranded(self) -> str:
        """Why entries do not reach the database, and where they are meanwhile; empty while they do."""
        if not self._reason or not self._kept_by:
            return self._reason
        return (
            f"{self._reason}; the side-car journal cannot be written either ({self._kept_by}), entries wait in memory"
        )

    @property
    def records(self) -> Records:
        """What is in the database already, to read."""
        return self._log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Try once more to reach the database, and let go of the side-car; it stays where that fails."""
        if self.stranded:
            self.reconcile()
        with self._order:
            self._sidecar.close()

    # -- entries

    def _enter(self, entries: Sequence[Entry], *, durable: bool) -> int | None:
        with self._order:
            self._sequence += 1
            if not self._reason:
                mark = Mark(self._session, self._sequence, self._clock.now())
                try:
                    return self._log.write(entries, durable=durable, mark=mark)
                except Refusal:
                    raise
                except DatabaseError as error:
                    self._strand(error)
            self._set_down(Line(self._session, self._sequence, entries))
            return None

    def _strand(self, error: DatabaseError) -> None:
        """Note that the database is out of reach."""
        self._reason = str(error)
        self._entered = 0

    def _set_down(self, line: Line) -> None:
        """Keep a line on the disk, or in memory where that does not go."""
        self._waiting.append(line)
        self._write_waiting()
        while len(self._waiting) > self._most:
            # Readings go first: a curve with a gap is better than a journal with one.
            given_up = next((each for each in self._waiting if _readings_only(each)), line)
            self._waiting.remove(given_up)
            self.lost += len(given_up.entries)

    def _write_waiting(self) -> None:
        """Write what waits to the side-car, in order."""
        try:
            while self._waiting:
                self._sidecar.append(self._waiting[0].encode())
                self._waiting.popleft()
        except (OSError, RilievoError) as error:
            self._kept_by = getattr(error, "strerror", None) or str(error)
        else:
            self._kept_by = ""

    @classmethod
    def recover(cls, log: Log, root: Path, clock: Clock | None = None) -> list[Recovered]:
        """Bring what killed processes left in the side-cars of a store into the database.

        A side-car that another process holds is left to it; one that cannot be replayed now stays, and is told in what
        is returned.

        Parameters
        ----------
        log : Log
        root : Path
            Of the store.
        clock : Clock, optional
            For the times of what is told in the log.
        """
        recovered = []
        for path in (*sorted(root.glob(f"*/{sidecar.NAME}")), *root.glob(sidecar.NAME)):
            try:
                with cls(log, path, clock, reserve=False) as ledger:
                    entries = ledger.reconcile()
                    recovered.append(Recovered(path, entries, ledger.stranded))
            except RunError:
                continue
            except StoreError as error:
                recovered.append(Recovered(path, 0, str(error)))
        for path in root.glob(f"*/{sidecar.RESERVE}"):
            sidecar.discard_reserve(path)
        return recovered

    # -- back into the database

    def reconcile(self) -> int:
        """Bring what waits into the database; return how many entries that were.

        ``stranded`` is empty where all of it is there; else it says why not, and the rest goes on waiting.
        """
        entered = 0
        with self._replaying:
            while self._reason:
                try:
                    entered += self._replay_some()
                except DatabaseError as error:
                    self._reason = str(error)
                    break
        return entered

    def _replay_some(self) -> int:
        """Replay some lines, or end the matter where there are none left; return how many entries were entered."""
        with self._order:
            self._write_waiting()
            found = self._sidecar.lines(TOGETHER)
            lines = [piece.line for piece in found if piece.line is not None]
            from_memory = not found and bool(self._waiting)
            if from_memory:
                lines = list(self._waiting)[:TOGETHER]
            if not found and not from_memory:
                self._end_well()
                return 0
        # Not under the lock: whoever enters something meanwhile need not wait for the database.
        entered = sum(self._replay(part) for part in _by_session(lines))
        with self._order:
            self._entered += entered
            if from_memory:
                while self._waiting and self._waiting[0].sequence <= lines[-1].sequence:
                    self._waiting.popleft()
            else:
                self._sidecar.replayed = found[-1].end
                self._sidecar.damaged += sum(piece.line is None for piece in found)
        return entered

    def _replay(self, lines: Sequence[Line]) -> int:
        """Replay lines of one ledger in one transaction; where one is refused, one by one."""
        session = lines[0].session
        batches = [(line.sequence, line.entries) for line in lines]
        now = self._clock.now()
        try:
            return self._log.replay(session, batches, now)
        except (Refusal, RunError, InputError) as error:
            if len(lines) > 1:
                return sum(self._replay([line]) for line in lines)
            self._set_aside(lines[0], error)
            self._log.replay(session, [(lines[0].sequence, [])], now)
            return 0

    def _set_aside(self, line: Line, error: RilievoError) -> None:
        """Keep a line that the database will never take where a person finds it."""
        path = self._sidecar.path.with_name(f"{self._sidecar.path.stem}.refused.jsonl")
        with suppress(OSError), path.open("ab") as file:
            file.write(line.encode())
        self._tell("error", f"an entry of the side-car journal was refused, and lies in {path.name}: {error}")

    def _tell(self, level: str, message: str) -> None:
        for run_id in (self._run_id, None):
            with suppress(Refusal):  # a side-car may lie in a folder that is no run's
                self._log.event(run_id, self._clock.now(), level, "ledger", message)
                return

    def _end_well(self) -> None:
        """Tell what was, and remove the side-car: an entry that goes through is the proof that the database is back."""
        told = f"{self._entered} entries waited in the side-car journal and are in the database now; {self._reason}"
        damaged = self._sidecar.damaged
        if damaged:
            told += f"; {damaged} lines of it were damaged, and are kept beside it"
        if self.lost:
            told += f"; {self.lost} entries were lost, since the disk did not take them either"
        self._tell("error" if damaged or self.lost else "warning", told)
        if self._sidecar.exists:
            self._sidecar.remove()
        self._entered = self.lost = 0
        self._reason = ""


def _by_session(lines: Sequence[Line]) -> list[list[Line]]:
    """Return lines in stretches of one ledger each."""
    stretches: list[list[Line]] = []
    for line in lines:
        if not stretches or stretches[-1][0].session != line.session:
            stretches.append([])
        stretches[-1].append(line)
    return stretches


def _readings_only(line: Line) -> bool:
    return all(entry.verb == "readings" for entry in line.entries)


def check(log: Log, store: Store, run_id: str) -> Disagreement:
    """Compare the frames on the disk with those that were acknowledged."""
    logged = {frame.number: frame for frame in log.frames(run_id)}
    there = set(store.numbers(run_id))
    waiting = {
        int(entry.values["number"])
        for piece in _pieces(store.folder(run_id) / sidecar.NAME)
        if piece.line is not None
        for entry in piece.line.entries
        if entry.verb == "frame"
    }
    known = waiting | set(logged)
    return Disagreement(tuple(sorted(there - known)), tuple(sorted(known - there)))


def _pieces(path: Path) -> list[sidecar.Found]:
    return list(sidecar.read(path)) if path.exists() else []

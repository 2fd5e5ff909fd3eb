"""The guard: a small process that survives the one that plays the run, and holds its own way to the safe state.

The owner starts it with :meth:`Guard.start`, beats for it from a thread, and dismisses it at the run's normal end. Who
resumes the run after a death relieves it first, with :func:`relieve`, and starts one of its own at once, before it
opens the instrument. Between a guard that takes over and a process that relieves it, a lock decides.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from acquisition import guarding
from acquisition.guard_files import (
    CLAIM,
    ENTERED,
    JOURNAL,
    LOCK,
    OUTPUT,
    RELIEF,
    Life,
    Lock,
    read_journal,
    read_state,
)
from acquisition.guarding import Charge
from drivers.errors import RunError

if TYPE_CHECKING:
    from acquisition.log import Log
    from drivers.contract import Instrument

OPENER = "acquisition.app:open_instrument"
PATIENCE = 60.0
"""s of real time, unless the instrument's file says otherwise: ``guard: {patience: 60 s}``."""
START = 20.0
"""s within which a guard must stand."""
INSTRUMENT = "guard-instrument.yaml"
"""Copy of the instrument's file: what lies elsewhere may be changed while the run goes on."""

Tell = Callable[[str, str], None]
"""Tells the log: level, message. Called from a thread of its own, which may wait for a database."""


def patience_of(description: Mapping[str, Any]) -> float:
    """Return how long the guard of an instrument waits, s of real time, by the instrument's description."""
    from drivers.safety import GuardFile
    from drivers.units import si

    given = description.get("guard")
    return PATIENCE if given is None else si(GuardFile.model_validate(given).patience)


class Guard:
    """A guard's owner. Make it with :meth:`start`.

    Parameters
    ----------
    charge : Charge
        What the guard is told.
    tell : callable, optional
        Told when a guard ended by itself and another one was started.
    """

    def __init__(self, charge: Charge, tell: Tell | None = None) -> None:
        self._charge = charge
        self._tell = tell
        self._end = threading.Event()
        self._disarm: Callable[[float], str] | None = None
        self._process = self._begin()
        self._thread = threading.Thread(target=self._beat, name=f"guard {charge.run_id}", daemon=True)

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        run_id: str,
        database: str | Path = "",
        instrument_path: Path | None = None,
        speed: float | None = None,
        memory: Path | None = None,
        patience: float = PATIENCE,
        tell: Tell | None = None,
        instrument: Instrument | None = None,
        opener: str = OPENER,
    ) -> Guard:
        """Start a guard for the run that this process plays, and return once it stands.

        Parameters
        ----------
        folder : Path
            Of the run.
        run_id : str
        database : str or Path
            Of the log, as :meth:`acquisition.log.Log.open` takes it; without one the guard writes to its journal alone.
        instrument_path : Path, optional
            The instrument's file, which is copied unless it lies in the run's folder; the twin unless given.
        speed : float, optional
            Of a simulated instrument.
        memory : Path, optional
            Where a simulated instrument keeps its state.
        patience : float, s
            Of real time, from the last beat.
        tell : callable, optional
        instrument : Instrument, optional
            Its devices' own answer to a lost connection is armed, where it has one.
        opener : str
            ``module:function`` that opens the instrument; for tests.

        Raises
        ------
        RunError
            When the guard does not stand within :data:`START` seconds, or another one watches the same run.
        """
        copied = ""
        if instrument_path is not None:
            copy = folder / INSTRUMENT
            if instrument_path.resolve().parent == folder.resolve():
                copy = instrument_path
            else:
                copy.write_bytes(instrument_path.read_bytes())
            copied = str(copy.resolve())
        target = str(database.resolve()) if isinstance(database, Path) else database
        charge = Charge(
            folder=folder.resolve(),
            run_id=run_id,
            database=target,
            instrument=copied,
            speed=speed,
            memory="" if memory is None else str(memory.resolve()),
            patience=patience,
            engine=Life.of(os.getpid()),
            opener=opener,
        )
        guard = cls(charge, tell)
        guard._thread.start()
        if instrument is not None and instrument.arm_loss is not None:
            guard._disarm = instrument.arm_loss
            guard._say("info", f"armed for a lost connection: {instrument.arm_loss(patience)}")
        return guard

    @property
    def pid(self) -> int:
        """Number of the guard's process."""
        return self._process.pid

    def dismiss(self) -> None:
        """End the guard: the run is over, and left in order."""
        if self._end.is_set():
            return
        process = self._last_word(b"end\n")
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._disarm is not None:
            self._disarm(0.0)

    def leave(self) -> None:
        """Let go of a run that is not in order: nobody of this process plays it any more, or holds its instrument.

        The guard waits its patience for somebody who goes on, and then brings the instrument to its safe state; it
        leaves this process alone.
        """
        if self._end.is_set():
            return
        process = self._last_word(b"gone\n")
        threading.Thread(target=process.wait, name="guard: its end", daemon=True).start()

    def _last_word(self, word: bytes) -> subprocess.Popen[bytes]:
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        process = self._process
        assert process.stdin is not None  # noqa: S101  a pipe, as asked
        with suppress(OSError):
            os.set_blocking(process.stdin.fileno(), True)
            os.write(process.stdin.fileno(), word)
        with suppress(OSError):
            process.stdin.close()
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Dismiss the guard, or leave it to itself where an error came between."""
        if error is None:
            self.dismiss()
        else:
            self.leave()

    def _begin(self) -> subprocess.Popen[bytes]:
        """Start a guard's process; return when it stands."""
        folder = self._charge.folder
        with (folder / OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "acquisition.guard"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # neither Ctrl-C nor a closed terminal ends it
                env={**os.environ, guarding.CONFIGURATION: self._charge.to_text()},
            )
        assert process.stdin is not None  # noqa: S101  pipes, as asked
        assert process.stdout is not None  # noqa: S101
        os.set_blocking(process.stdin.fileno(), False)
        timer = threading.Timer(START, process.kill)
        timer.start()
        try:
            with process.stdout as stdout:
                ready = stdout.readline()
        finally:
            timer.cancel()
        if ready.strip() == b"ready":
            return process
        with suppress(OSError):
            process.stdin.close()
        code = process.wait()
        why = (
            "another guard watches this run; relieve it first, or wait for its end"
            if code == guarding.BUSY
            else f"its process ended with {code}; {folder / OUTPUT} may tell why"
        )
        raise RunError(f"the guard does not stand: {why}", self._charge.run_id)

    def _beat(self) -> None:
        """Beat until the end, and see to it that somebody listens."""
        interval = min(1.0, self._charge.patience / 10)
        while not self._end.wait(interval):
            process = self._process
            assert process.stdin is not None  # noqa: S101
            with suppress(OSError):  # full: it sleeps, and finds enough of them; closed: seen to below
                os.write(process.stdin.fileno(), b".\n")
            if process.poll() is not None:
                self._replace(process)

    def _replace(self, ended: subprocess.Popen[bytes]) -> None:
        if ended.stdin is not None:
            with suppress(OSError):
                ended.stdin.close()
        try:
            self._process = self._begin()
        except (RunError, OSError) as error:
            self._say("error", f"the guard's process ended ({ended.returncode}), and another cannot start: {error}")
            self._end.wait(min(self._charge.patience, 10.0))
            return
        self._say("warning", f"the guard's process ended ({ended.returncode}); another one watches now")

    def _say(self, level: str, message: str) -> None:
        """Tell the log without waiting for it: who waits here does not beat."""
        if self._tell is None:
            return
        tell = self._tell

        def run() -> None:
            with suppress(Exception):
                tell(level, message)

        threading.Thread(target=run, name="guard: a word to the log", daemon=True).start()


def relieve(folder: Path, timeout: float = 900.0) -> Literal["relieved", "already safe", "none"]:
    """Take over from the guard of a run that is to be resumed, and say what was found.

    Parameters
    ----------
    folder : Path
        Of the run.
    timeout : float, s
        How long to wait for a guard that is bringing the instrument to its safe state.

    Returns
    -------
    str
        ``relieved``: a guard waited, and has ended without touching the instrument. ``already safe``: the guard has
        brought the instrument to its safe state. ``none``: there was no guard.

    Raises
    ------
    RunError
        While the process that played the run still lives, or where the guard does not come to an end.
    """
    if not (folder / LOCK).exists():
        return "none"
    with Lock(folder / CLAIM) as claim, Lock(folder / LOCK) as life:
        if not claim.take():  # the guard has decided first
            if not life.wait(timeout):
                raise RunError(
                    f"the guard is bringing the instrument to its safe state, and has not come to an end within "
                    f"{timeout:g} s; {folder / JOURNAL} tells what it meets",
                    str(folder),
                )
            return "already safe"
        if life.take():
            return "already safe" if read_state(folder).get("state") == "safe" else "none"
        _refuse_two_hands(folder)
        (folder / RELIEF).touch()
        try:
            if not life.wait(5.0):  # it is stopped, or hangs, and may not act later
                guard = Life.read(read_state(folder).get("guard"))
                if guard is not None:
                    guard.kill()
                if not life.wait(10.0):
                    raise RunError("the guard does not end; end its process by hand, and resume again", str(folder))
        finally:
            (folder / RELIEF).unlink(missing_ok=True)
        return "relieved"


def _refuse_two_hands(folder: Path) -> None:
    state = read_state(folder)
    engine = Life.read(state.get("engine"))
    if engine is not None and engine.alive and engine.pid != os.getpid():
        raise RunError(
            f"the process {engine.pid} still plays this run; stop it, or, if it hangs, wait until its guard has ended "
            f"it ({state.get('patience', PATIENCE):g} s)",
            str(folder),
        )


def on_duty(folder: Path) -> dict[str, Any] | None:
    """Return what the guard of a run says of itself, while it lives and may yet touch the instrument; else None."""
    state = read_state(folder)
    guard = Life.read(state.get("guard"))
    awake = state.get("state") in ("watching", "waiting", "taking") and guard is not None and guard.alive
    return state if awake else None


def enter_journal(folder: Path, log: Log, run_id: str, time: datetime | None = None) -> int:
    """Bring what a guard had to tell into the database, each line once; return how many lines were new.

    Parameters
    ----------
    folder : Path
        Of the run.
    log : Log
    run_id : str
    time : datetime, optional
        UTC on the instrument's clock, for lines that were written before the guard had the instrument; their real time
        unless given.

    Raises
    ------
    DatabaseError
        When the database cannot be reached; the journal stays.
    """
    lines = read_journal(folder)
    if not lines:
        return 0
    known = {event.data.get("key") for event in log.events(run_id) if event.kind == "guard" and event.data}
    fresh = [line for line in lines if line["key"] not in known]
    for line in fresh:
        at = time or datetime.fromisoformat(line["real"])
        data = {"key": line["key"], "real": line["real"], "report": line.get("data")}
        if line.get("state") and log.run(run_id).state not in ("finished", "stopped", "failed", "safe"):
            log.set_state(run_id, line["state"], at, line["message"])
        log.event(run_id, at, line["level"], "guard", line["message"], data)
    with (folder / ENTERED).open("a", encoding="utf-8") as entered:
        entered.write((folder / JOURNAL).read_text(encoding="utf-8", errors="replace"))
    (folder / JOURNAL).unlink()
    return len(fresh)


if __name__ == "__main__":
    sys.exit(guarding.main(sys.argv[1:]))

"""The guard's process: waits in a few megabytes, and brings the instrument to its safe state when nobody else does.

It notices that the process that plays the run has died, or lives and does not beat. When its patience has passed and
nobody has relieved it, it fences the process with SIGKILL, so that two hands never hold the instrument, opens the
instrument itself, and enters the safe state, again and again until every part of it has been seen to be done.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from acquisition.guard_files import CLAIM, LOCK, RELIEF, Life, Lock, note, pause, write_state

CONFIGURATION = "RILIEVO_GUARD"
"""Environment variable that holds what the owner said."""
BUSY = 3
"""Exit code where another guard watches the same run."""
LOOK = 0.1
"""s between two looks at the process, at the most."""
BACK_OFF = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""s before an attempt is repeated; the last again and again."""
ATTEMPT = 120.0
"""s that an attempt may take beside what its safe state allows itself; then it counts as hung."""
GONE = 30.0
"""s within which a process that was killed has ended."""


@dataclass(frozen=True)
class Charge:
    """What a guard was told.

    Attributes
    ----------
    folder : Path
        Of the run.
    run_id, database : str
        Where it is logged.
    instrument : str
        File of the instrument; empty for the twin.
    speed : float or None
    memory : str
        Where a simulated instrument keeps its state; empty for none.
    patience : float, s
        Of real time.
    engine : Life
        The process that plays the run.
    opener : str
        ``module:function`` that opens the instrument.
    attempt : float, s
        See :data:`ATTEMPT`.
    """

    folder: Path
    run_id: str
    database: str
    instrument: str
    speed: float | None
    memory: str
    patience: float
    engine: Life
    opener: str
    attempt: float = ATTEMPT

    @classmethod
    def read(cls, text: str) -> Charge:
        """Return what the owner wrote."""
        given = json.loads(text)
        engine = Life.read(given.pop("engine"))
        assert engine is not None  # noqa: S101  the owner wrote itself
        return cls(folder=Path(given.pop("folder")), engine=engine, **given)

    def to_text(self) -> str:
        """Return it as text."""
        return json.dumps({**self.__dict__, "folder": str(self.folder), "engine": self.engine.to_json()})


class Post:
    """One guard at its post.

    Parameters
    ----------
    charge : Charge
    pipe : int
        Where the beats come in.
    """

    def __init__(self, charge: Charge, pipe: int) -> None:
        self._charge = charge
        self._pipe: int | None = pipe
        self._lock = Lock(charge.folder / LOCK)
        self._claim = Lock(charge.folder / CLAIM)
        self._dismissed = False
        self._gone = False
        self._hurry = False
        self._beaten = time.monotonic()

    def stand(self) -> int:
        """Watch until somebody says that it is over, or until the instrument is safe; return the exit code."""
        if not self._lock.take():
            return BUSY
        (self._charge.folder / RELIEF).unlink(missing_ok=True)  # left by somebody who was killed
        self._say_state("watching")
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._hasten())
        _ready()
        end = self._watch()
        if end:
            self._say_state(end)
            return 0
        return self.take_over()

    def resume(self, lock: int, claim: int, number: int) -> int:
        """Go on with taking over, in a fresh program after an attempt that hung."""
        self._lock.adopt(lock)
        self._claim.adopt(claim)
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)
        return self._until_safe(number)

    # -- watching

    def _watch(self) -> str:
        """Return ``dismissed`` or ``relieved``, or nothing when it is time to take over."""
        charge, told = self._charge, False
        tick = min(LOOK, charge.patience / 10)
        while True:
            self._listen(tick)
            if self._dismissed:
                return "dismissed"
            if (charge.folder / RELIEF).exists():
                return "relieved"
            silent = time.monotonic() - self._beaten
            dead = self._gone or not charge.engine.alive
            if (dead or silent > charge.patience / 2) and not told:
                self._say_state("waiting")
                what = "has let go of it" if self._gone else "has ended" if dead else "lives, and does not answer"
                what += " without leaving it in order" if dead else ""
                self._note(
                    "warning",
                    f"the process that plays the run ({charge.engine.pid}) {what}; the guard waits until "
                    f"{charge.patience:g} s have passed for somebody to go on",
                )
                told = True
            elif told and not dead and silent < charge.patience / 2:
                self._say_state("watching")
                self._note("info", f"the process that plays the run ({charge.engine.pid}) answers again")
                told = False
            if (silent >= charge.patience or (dead and self._hurry)) and self._claim.take():
                return ""

    def _listen(self, seconds: float) -> None:
        """Wait for a beat, ``seconds`` at the most; beats that waited while this process slept count as fresh."""
        if self._pipe is None:
            pause(seconds)
            return
        try:
            if not select.select([self._pipe], [], [], seconds)[0]:
                return
            data = os.read(self._pipe, 65536)
        except OSError:
            data = b""
        if not data:  # the other end was closed: by death, or by an owner that forgot to say that it is over
            self._pipe = None
        elif b"end" in data:
            self._dismissed = True
        elif b"gone" in data:
            self._gone, self._beaten = True, time.monotonic()
        else:
            self._beaten = time.monotonic()

    def _hasten(self) -> None:
        """Do not wait any longer for a dead process: the computer is going down, and nobody will go on."""
        self._hurry = True

    # -- taking over

    def take_over(self) -> int:
        """Fence the process, and bring the instrument to its safe state."""
        engine = self._charge.engine
        self._say_state("taking")
        if engine.alive and not self._gone:
            self._note(
                "error",
                f"the process that plays the run ({engine.pid}) has not answered for {self._charge.patience:g} s and "
                "is ended, so that two hands never hold the instrument",
            )
            engine.kill()
            if not engine.wait(GONE):
                self._note("error", f"the process {engine.pid} does not end; the guard goes on without that")
        return self._until_safe(0)

    def _until_safe(self, number: int) -> int:
        while True:
            attempt = _Attempt(self._charge, self._reason())
            if not attempt.wait():
                self._note("error", "the attempt to reach the safe state hangs, and is begun anew")
                self._deliver(None)
                pause(BACK_OFF[min(number, len(BACK_OFF) - 1)])
                self._exec(number + 1)
            if attempt.verified:
                told = f"the guard took over, because {self._reason()}: {attempt.sentence}"
                self._note("warning", told, attempt.data, state="safe")
                self._say_state("safe")
                self._deliver(attempt.time, tries=3)
                return 0
            self._note("error", f"the guard could not reach the safe state yet: {attempt.sentence}", attempt.data)
            self._deliver(attempt.time)
            pause(BACK_OFF[min(number, len(BACK_OFF) - 1)])
            number += 1

    def _exec(self, number: int) -> None:
        """Have a fresh program take this one's place: threads that hang end with the old one, and locks are kept."""
        lock, claim = self._lock.keep_through_exec(), self._claim.keep_through_exec()
        arguments = [sys.executable, "-m", "acquisition.guard", str(lock), str(claim), str(number)]
        os.execv(sys.executable, arguments)  # noqa: S606  the same program

    def _reason(self) -> str:
        return (
            f"the process that played the run ({self._charge.engine.pid}) ended or hung, and nobody went on within "
            f"{self._charge.patience:g} s"
        )

    # -- telling

    def _say_state(self, state: str) -> None:
        own = Life.of(os.getpid())
        with suppress(OSError):  # a full disk keeps nobody from reaching the safe state
            write_state(
                self._charge.folder,
                {
                    "state": state,
                    "guard": own.to_json(),
                    "engine": None if self._gone else self._charge.engine.to_json(),
                    "run": self._charge.run_id,
                    "patience": self._charge.patience,
                },
            )

    def _note(self, level: str, message: str, data: Any = None, *, state: str = "") -> None:
        with suppress(OSError):
            note(self._charge.folder, level, message, data, state=state)

    def _deliver(self, time_of_day: Any, tries: int = 1) -> None:
        """Bring the journal into the database; what does not go now is entered by whoever opens the run next."""
        if not self._charge.database or (time_of_day is None and self._charge.memory):
            return  # a simulated instrument has a time of its own, which only the instrument tells
        from acquisition.guard import enter_journal
        from acquisition.log import Log
        from drivers.errors import RilievoError

        for number in range(tries):
            if number:
                pause(BACK_OFF[0])
            try:
                with Log.open(self._charge.database, create=False) as log:
                    enter_journal(self._charge.folder, log, self._charge.run_id, time_of_day)
                return
            except (RilievoError, OSError) as error:
                print(f"the journal waits: {error}", file=sys.stderr)  # noqa: T201  this process has no other output


class _Attempt:
    """One attempt, in a thread of its own: what hangs in it is left behind."""

    def __init__(self, charge: Charge, reason: str) -> None:
        self._charge = charge
        self._reason = reason
        self._over = threading.Event()
        self._deadline = time.monotonic() + charge.attempt
        self.verified = False
        self.sentence = ""
        self.data: Any = None
        self.time: Any = None
        threading.Thread(target=self._run, name="guard: safe state", daemon=True).start()

    def wait(self) -> bool:
        """Wait for its end; return False when it hangs."""
        while not self._over.wait(0.1):
            if time.monotonic() > self._deadline:
                return False
        return True

    def _run(self) -> None:
        try:
            self._enter()
        except Exception as error:  # noqa: BLE001  whatever it is, it is tried again
            self.sentence = f"{type(error).__name__}: {error}"
        finally:
            self._over.set()

    def _enter(self) -> None:
        from acquisition.safe_state import SafeState

        charge = self._charge
        module, _, function = charge.opener.partition(":")
        opened = getattr(import_module(module), function)
        path, memory = (Path(name) if name else None for name in (charge.instrument, charge.memory))
        with opened(path, charge.speed, memory) as instrument:
            safe_state = SafeState.of(instrument)
            self._deadline = time.monotonic() + charge.attempt + safe_state.longest
            report = safe_state.enter(self._reason)
            self.time = instrument.clock.now()
            self.verified, self.sentence, self.data = report.verified, report.sentence, report.to_json()


def _ready() -> None:
    """Tell the owner that the guard stands, and let go of its output."""
    with suppress(OSError):
        os.write(1, b"ready\n")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def main(arguments: list[str]) -> int:
    """Run a guard as its owner configured it."""
    charge = Charge.read(os.environ[CONFIGURATION])
    post = Post(charge, 0)
    if arguments:
        lock, claim, number = (int(argument) for argument in arguments)
        return post.resume(lock, claim, number)
    return post.stand()

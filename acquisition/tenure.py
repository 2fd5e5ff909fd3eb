"""Who may touch real hardware: one run at a time, and a guard for as long as it was not seen to be safe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acquisition.guard import on_duty
from acquisition.guard_files import STATE
from acquisition.ownership import Owned, Ownership
from acquisition.states import IN_ORDER, State
from drivers.errors import RilievoError, RunError

if TYPE_CHECKING:
    from acquisition.app import Laboratory
    from acquisition.guard import Guard
    from acquisition.log import Log


def take_hardware(laboratory: Laboratory, name: str, run_id: str = "") -> Ownership:
    """Take real hardware for one run: two that play on one microscope would undo each other's setpoints.

    Raises
    ------
    Owned
        Where another run holds it, or the guard of a run other than ``run_id`` may yet touch it.
    """
    owned = Ownership.take(laboratory.folder, f"instrument {name}")
    try:
        for path in sorted(laboratory.store.root.glob(f"*/{STATE}")):
            guard = on_duty(path.parent)
            if (
                guard is not None
                and path.parent.name != run_id
                and _instrument_of(laboratory, path.parent.name) == name
            ):
                raise Owned(
                    f"the guard of run {path.parent.name}, process {guard['guard']['pid']}, has not yet seen {name} in "
                    "its safe state, and will act on it. Resume that run, or wait; if you have seen for yourself that "
                    "all is safe, end the guard's process"
                )
    except BaseException:
        owned.release()
        raise
    return owned


def _instrument_of(laboratory: Laboratory, run_id: str) -> str:
    """Return the name of a run's instrument; empty for a folder that the log does not know."""
    try:
        return laboratory.log.instrument(run_id).name
    except RunError:
        return ""


def let_go(guard: Guard, log: Log, run_id: str, simulated: bool = False) -> None:
    """Dismiss the guard of a run that has ended and left the instrument in order, or never began.

    Else it goes on alone: what was not seen to be safe, or could not be taken up again, may be hot, and under gas.
    A simulated instrument is in order whenever its run has ended.
    """
    try:
        over = _over(log, run_id, simulated)
    except RilievoError:
        over = False
    if over:
        guard.dismiss()
    else:
        guard.leave()


def _over(log: Log, run_id: str, simulated: bool) -> bool:
    """Return whether nobody needs to look after a run's instrument any more."""
    state = State(log.run(run_id).state)
    if state is State.IDLE or not state.final:
        return state is State.IDLE
    told = [event.data or {} for event in log.events(run_id) if event.kind == "state"]
    return simulated or not told or bool(told[-1].get(IN_ORDER, True))

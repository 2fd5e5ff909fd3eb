"""Openers for a guard's process that are quick to import, and write down that they were asked."""

import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from drivers.clock import RealClock


class Blanker:
    def __init__(self, marks: Path) -> None:
        self.marks, self.on = marks, False

    def put(self, on):
        self.on = on

    def get(self):
        return self.on


@contextmanager
def blanker_alone(path, speed, memory):
    """An instrument of which only the beam can be blanked; ``memory`` is the file that counts the attempts."""
    from drivers.contract import Column

    count = 0
    if memory is not None:
        count = len(memory.read_text().splitlines()) if memory.exists() else 0
        with memory.open("a") as file:
            file.write("asked\n")
    if count < int(speed or 0):
        raise OSError(f"attempt {count} finds nobody there")
    column = Column(*[None] * 8, Blanker(memory))
    heater = SimpleNamespace(temperature=None, rate=None)
    description = {"safe_state": [{"blank": "beam", "within": "1 s"}]}
    yield SimpleNamespace(
        column=column, heater=heater, gases={}, clock=RealClock(), description=description, source=None, name="blanker"
    )


@contextmanager
def hangs_at_first(path, speed, memory):
    """The same, after a first attempt that never comes back."""
    if not memory.exists():
        memory.write_text("asked\n")
        threading.Event().wait(60)
    with blanker_alone(path, 0, memory) as instrument:
        yield instrument

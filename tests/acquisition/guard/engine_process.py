"""A process that plays a run on the twin, as far as a guard can tell: hot, hydrogen flowing, the beam on the sample.

Called with folder, database, run, patience (s) and what it does in the end.
"""

import ctypes
import os
import sys
import threading
from pathlib import Path

from acquisition.app import open_instrument
from acquisition.guard import Guard


def main(folder: Path, database: str, run_id: str, patience: float, how: str) -> None:
    told = []
    with open_instrument(None, None, folder / "twin.jsonl") as instrument:
        guard = Guard.start(
            folder,
            run_id=run_id,
            database=database,
            memory=folder / "twin.jsonl",
            patience=patience,
            tell=lambda level, message: (told.append(message), print(level, message, flush=True)),
        )
        instrument.heater.ramp("800 K", "20 K/min")
        instrument.gases["H2"].flow.set("10 sccm")
        instrument.clock.sleep(60.0)
        instrument.column.unblank()
        print("up", guard.pid, flush=True)
        if how == "hold the interpreter":
            ctypes.PyDLL(None).sleep(60)
        elif how == "end in order":
            instrument.column.blank()
            guard.dismiss()
        elif how == "die":
            os._exit(1)
        else:
            threading.Event().wait(60)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5])

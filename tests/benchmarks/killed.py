"""Nights that are killed with SIGKILL, at every named point and at random moments, and resumed.

python tests/benchmarks/killed.py [--random N] [--named N] [--jobs N]

Each night is a forked process of the command itself; afterwards every acknowledged frame must open in plain tifffile
with its checksum, each planned frame be there exactly once, every action be done, and the log's last setpoints be what
the hardware was last told. What is wrong is printed, night by night; nothing should be.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))

import killing

SEED = 20260101


def main() -> None:
    """Kill, resume, look, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=200, help="nights that are killed at random moments")
    parser.add_argument("--named", type=int, default=10_000, help="named points at the most, evenly chosen")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    traps = killing.named_traps()
    chosen = traps[:: max(1, len(traps) // max(1, wanted.named))][: wanted.named]
    tasks = [*(("named", index) for index in range(len(chosen))), *(("random", seed) for seed in range(wanted.random))]
    killing.preload()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        stories = killing.in_parallel(tasks, lambda task: _night(task, chosen, Path(folder)), wanted.jobs)
    wrong = [story for story in stories if story.problems]
    for kind in ("named", "random"):
        mine = [story for story, task in zip(stories, tasks, strict=True) if task[0] == kind]
        killed = sum(story.killed for story in mine)
        bad = sum(bool(story.problems) for story in mine)
        print(f"{kind + ' nights':<24}{len(mine):>6}   killed {killed:>4} times   wrong {bad:>3} (goal 0)")
    print(f"{time.monotonic() - began:.0f} s")
    for story in wrong:
        print(f"\n{story.trap} ({story.processes} processes, {story.killed} killed)")
        print("\n".join(f"  {problem}" for problem in story.problems))
    sys.exit(bool(wrong))


def _night(task: tuple[str, int], traps: list[killing.Trap], folder: Path) -> killing.Story:
    kind, number = task
    data = folder / f"{kind}-{number}"
    if kind == "named":
        return killing.killed_night(data, traps[number])
    story = killing.killed_night(data, moments=killing.random_moments(SEED + number))
    story.trap = f"random moments, seed {SEED + number}"
    return story


if __name__ == "__main__":
    main()

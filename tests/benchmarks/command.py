"""The command itself: how soon it answers, and what the demonstration night costs.

python tests/benchmarks/command.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RILIEVO = [sys.executable, "-m", "acquisition"]
MIB = 1 << 20


def help_seconds(repeats: int = 5) -> float:
    """Return the best wall time of ``rilievo --help``: what the machine does beside it only adds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([*RILIEVO, "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return min(times)


def resident_bytes(root: int) -> int:
    """Return the proportional set size of a process and all below it, or 0 once it has gone."""
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        folder = Path(f"/proc/{process}")
        try:
            for line in (folder / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
            for thread in (folder / "task").iterdir():
                waiting += [int(child) for child in (thread / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return total


def demo() -> tuple[float, int, dict[str, object]]:
    """Play the demonstration night; return wall seconds, peak memory of all processes, and its summary."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with subprocess.Popen(
            [*RILIEVO, "demo", "--data", folder, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, resident_bytes(process.pid))
                time.sleep(0.2)
            summary = json.loads(process.stdout.read()) if process.stdout else {}
        return time.perf_counter() - began, peak, summary


def main() -> None:
    """Measure and print."""
    print(f"{'figure':<52}{'goal':>10}{'reached':>12}")
    print(f"{'rilievo --help, s':<52}{'≤ 0.7':>10}{help_seconds():>12.2f}")
    seconds, peak, summary = demo()
    frames = summary["frames"]
    bright = frames["acquired"] - frames["dark"]
    print(f"{'rilievo demo: frames of 512 × 512 × 4':<52}{'≥ 60':>10}{bright:>12}")
    print(f"{'rilievo demo: with heights':<52}{'all':>10}{frames['heights']:>12}")
    print(f"{'rilievo demo: wall time, s':<52}{'≤ 180':>10}{seconds:>12.0f}")
    print(f"{'rilievo demo: memory of all processes, MiB':<52}{'≤ 2048':>10}{peak / MIB:>12.0f}")


if __name__ == "__main__":
    main()

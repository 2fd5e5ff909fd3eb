"""Every figure that the project claims, each against its goal.

python tests/benchmarks/all.py [NAME …]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run the benchmarks of this folder, or those that are named, one after another."""
    here = Path(__file__).parent
    wanted = sys.argv[1:] or sorted(
        path.stem for path in here.glob("*.py") if path.stem not in ("all", "inverse_pictures")
    )
    failed = []
    for name in wanted:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, str(here / f"{name}.py")]).returncode != 0:
            failed.append(name)
    if failed:
        sys.exit(f"could not be measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""The inverse against its goals: heights, their intervals, nuisances, time and memory, each figure beside its goal.

RILIEVO_SAMPLES=DIR python tests/benchmarks/inverse.py [--quick] [--rows NAME …] [--pictures] [--json FILE]
                                                       [--computing-missing]

Truth is Monte Carlo that counts electrons in the real segments (:mod:`truths`), of surfaces that no training has seen.
A frame that is not in the truth cache is told and left out; ``--computing-missing`` computes it, which takes hours.

Error: :func:`reconstruction.bounds.height_error` (plane removed, 4 pixels cropped). Bound: the Wiener bound of the
frame's dose, with the surface's own radial spectrum and transfer functions that Monte Carlo measured. The local law is
given the truth twice over: its heights, by Frankot–Chellappa and by the cosine transform, are scaled to fit it best,
and the better of the two counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from inverse_rows.calibration import intervals
from inverse_rows.dose import dose
from inverse_rows.expense import cost
from inverse_rows.hardware import nuisances
from inverse_rows.indent import vickers
from inverse_rows.relief import heights, oxide
from inverse_rows.shapes import facets, steps
from inverse_rows.surrogate import surrogate
from inverse_rows.table import Bench

SECTIONS: dict[str, Callable[[Bench], None]] = {
    "surrogate": surrogate,
    "heights": heights,
    "dose": dose,
    "steps": steps,
    "facets": facets,
    "intervals": intervals,
    "nuisances": nuisances,
    "oxide": oxide,
    "vickers": vickers,
    "cost": cost,
}


def summarise(bench: Bench) -> None:
    """Say what was and was not reached."""
    judged = [row for row in bench.rows if row.ok is not None]
    missed = [row for row in judged if not row.ok]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} goals reached")
    for row in missed:
        print(f"  not reached: {row.figure}: {row.goal}; {row.reached}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few frames, small fields")
    parser.add_argument("--rows", nargs="+", choices=SECTIONS, metavar="NAME", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--pictures", action="store_true", help="draw docs/pictures/inverse*.png as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table and what it rests on")
    parser.add_argument("--computing-missing", action="store_true", help="compute frames that are not there")
    parser.add_argument("--full-size", action="store_true", help="fields up to 2048²")
    told = parser.parse_args()
    bench = Bench(told.quick, told.computing_missing, told.full_size)
    print(f"  {'figure':50s} {'goal':12s} reached")
    for name in told.rows or SECTIONS:
        SECTIONS[name](bench)
    summarise(bench)
    if told.pictures:
        from inverse_pictures import draw

        draw(bench)
    if told.json:
        words = {"rows": [asdict(row) for row in bench.rows], "data": bench.data}
        told.json.write_text(json.dumps(words, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

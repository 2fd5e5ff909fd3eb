"""Every fault of the twin against every action of a recipe, passing and lasting: a table of how each night ends.

python tests/benchmarks/faults.py

F finished, S suspended and then finished, A safe, X failed because the safe state could not be seen to be done (only
where the fault lasts and keeps it from that); ! is a night that hung, or ended as it must not. Lower-case letters are
nights in which nothing was told: the fault changed nothing there.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))

import faulty_nights
import killing

LETTERS = {"finished": "F", "suspended": "S", "safe": "A", "failed": "X"}


def main() -> None:
    """Play, and print."""
    cases = faulty_nights.cases()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:

        def night(index: int) -> killing.Story:
            kind, action, lasting = cases[index]
            place = Path(folder) / str(index)
            place.mkdir()
            ending = faulty_nights.play(kind, action, lasting, place)
            letter = LETTERS.get(ending.state, "!") if not ending.wrong else "!"
            problems = [ending.wrong] if ending.wrong else []
            return killing.Story(letter if ending.told else letter.lower(), problems=problems)

        stories = killing.in_parallel(range(len(cases)), night, os.cpu_count() or 1)
    found = dict(zip(cases, stories, strict=True))
    for lasting in (False, True):
        print(f"\n{'lasting' if lasting else 'passing'} faults")
        print(f"{'':<20}" + "".join(f"{name[:9]:>10}" for name in faulty_nights.ACTIONS))
        for kind in faulty_nights.KINDS:
            row = "".join(f"{found[kind, action, lasting].trap:>10}" for action in faulty_nights.ACTIONS)
            print(f"{kind:<20}{row}")
    counts = Counter(story.trap.upper() for story in stories)
    wrong = [(case, story) for case, story in found.items() if story.problems]
    seconds = time.monotonic() - began
    print(f"\n{len(cases)} nights in {seconds:.0f} s: {dict(counts)}; not as declared: {len(wrong)} (goal 0)")
    for case, story in wrong:
        print(f"  {case}: {'; '.join(story.problems)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

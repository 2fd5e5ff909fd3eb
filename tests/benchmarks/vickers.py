"""A real Vickers indent: depth, facets and signs, beside sem2surface on the same images.

RILIEVO_SAMPLES=DIR python tests/benchmarks/vickers.py [--with-sem2surface]

What is known of the imprint: faces at 22° to the surface, an ideal depth of diagonal/7, the normals of its own edges,
read by eye (± 2°). A facet is measured as metrology does, by a plane through the heights of its middle. One vertical
scale is fitted to the mean face angle, for both programs alike; what Rilievo reaches without it is told as well.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

EDGES = np.array([38.0, 132.2, 222.6, 309.6])
FACE = np.tan(np.radians(22.0))
DIAGONAL_OVER_DEPTH = 7.0
PEER = """
import sys, numpy
from sem2surface import construct_surface
*images, output = sys.argv[1:]
z = construct_surface(images, remove_curvature=True, output_dir=output)[3]
numpy.save(output + "/z.npy", numpy.rot90(z, -1))
"""


@dataclass(frozen=True)
class Indent:
    """What was measured on one height map; heights in pixels."""

    slopes: np.ndarray
    azimuths: np.ndarray
    depth: float
    diagonal: float
    unscaled: float

    @property
    def separations(self) -> np.ndarray:
        """Angles between neighbouring facets, degrees."""
        return np.diff(np.append(self.azimuths, self.azimuths[0] + 360))


def measure(z: np.ndarray, sign: float = 1.0) -> Indent:
    """Measure the indent in the middle of a height map in pixels."""
    z = sign * (z - np.median(z))
    rows, columns = np.mgrid[0 : z.shape[0], 0 : z.shape[1]]
    near = z[400:640, 640:900]
    row, column = np.unravel_index(near.argmin(), near.shape)
    x, y = columns - (column + 640), (row + 400) - rows
    radius, azimuth = np.hypot(x, y), np.degrees(np.arctan2(y, x)) % 360
    planes = []
    for edge in EDGES:
        facet = (np.abs((azimuth - edge + 180) % 360 - 180) < 35) & (radius > 15) & (radius < 90)
        terms = np.column_stack([np.ones(facet.sum()), x[facet], y[facet]])
        planes.append(np.linalg.lstsq(terms, z[facet], rcond=None)[0])
    p, q = np.array(planes)[:, 1], np.array(planes)[:, 2]
    steepness = np.hypot(p, q)
    scale = FACE / steepness.mean()
    # Rim against apex, where the facets' own planes meet: the ring just outside the imprint is level with the rim.
    ground = np.median(z[(radius > 180) & (radius < 220)])
    apex = np.median(z[radius < 3])
    corners = np.array([[637, 500], [783, 363], [912, 527], [762, 651]])
    diagonal = np.mean([np.hypot(*(corners[0] - corners[2])), np.hypot(*(corners[1] - corners[3]))])
    return Indent(
        slopes=np.degrees(np.arctan(steepness * scale)),
        azimuths=np.degrees(np.arctan2(q, p)) % 360,
        depth=float((ground - apex) * scale),
        diagonal=float(diagonal),
        unscaled=float(np.degrees(np.arctan(steepness.mean()))),
    )


def rilievo(paths: list[Path]) -> Indent:
    """Reconstruct with Rilievo: nothing but the files is given."""
    from reconstruction.files import reconstruct_files

    result = reconstruct_files(paths)
    return measure(np.asarray(result.z, dtype=float) / result.heights.pixel_size)


def sem2surface(paths: list[Path]) -> Indent | str:
    """Reconstruct with sem2surface in an environment of its own; a string says why that could not be done."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "env"
        try:
            venv.create(environment, with_pip=True)
            python = environment / "bin" / "python"
            subprocess.run([python, "-m", "pip", "install", "-q", "sem2surface"], check=True, capture_output=True)
            subprocess.run([python, "-c", PEER, *map(str, paths), folder], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            said = getattr(problem, "stderr", b"") or str(problem).encode()
            return said.decode().strip().splitlines()[-1]
        z = np.load(Path(folder) / "z.npy") / 0.0651042
    # It leaves the sign open: take the one that makes a pit.
    inside = np.median(z[480:550, 740:800]) - np.median(z)
    return measure(z, sign=-np.sign(inside))


def show(name: str, found: Indent) -> None:
    """Print one program's figures against the goals."""
    wanted = np.diff(np.append(EDGES, EDGES[0] + 360))
    # A map that is mirrored or turned still has its separations; compare them from the best start.
    off = min((np.roll(found.separations, turn) - wanted for turn in range(4)), key=lambda each: np.abs(each).max())
    ratio = found.depth / (found.diagonal / DIAGONAL_OVER_DEPTH)
    rows = [
        ("pit", "yes", "yes" if found.depth > 0 else "NO"),
        ("depth / (diagonal/7)", "0.85 to 1.15", f"{ratio:.3f}"),
        ("azimuth separations, largest error", "≤ 5°", f"{np.abs(off).max():.1f}°  ({np.round(found.separations, 1)})"),
        ("slope spread at a mean of 22°", "≤ 1.4°", f"{np.ptp(found.slopes):.2f}°  ({np.round(found.slopes, 1)})"),
        ("mean face angle, no scale fitted", "(22°)", f"{found.unscaled:.1f}°"),
        ("uphill azimuths against the edges", "(38, 132, 223, 310°)", f"{np.round(found.azimuths, 1)}"),
    ]
    print(f"\n{name}")
    for figure, goal, reached in rows:
        print(f"  {figure:38s} {goal:22s} {reached}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--with-sem2surface", action="store_true", help="install and run the peer as well")
    options = parser.parse_args()
    folder = os.environ.get("RILIEVO_SAMPLES")
    if folder is None:
        print("skipped: RILIEVO_SAMPLES names no folder with vickers_bse_{A,B,C}.tif")
        return
    paths = [Path(folder) / f"vickers_bse_{letter}.tif" for letter in "ABC"]
    show("Rilievo", rilievo(paths))
    if options.with_sem2surface:
        peer = sem2surface(paths)
        if isinstance(peer, str):
            print(f"\nsem2surface: skipped, it could not be had: {peer}")
        else:
            show("sem2surface", peer)


if __name__ == "__main__":
    sys.exit(main())

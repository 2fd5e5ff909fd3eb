"""A real indent: the local law with declared assumptions, and the transformer's refusal."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drivers.errors import InputError
from drivers.frame import Frame
from drivers.units import KEV
from inverse_rows.table import Bench
from reconstruction import inverse, photometric
from reconstruction.photometric import Reconstruction


def vickers(bench: Bench) -> None:
    """A real imprint: the local law with declared assumptions, and the transformer's refusal."""
    bench.head("Vickers, real: local law, no filter, no scale fitted")
    folder = os.environ.get("RILIEVO_SAMPLES")
    if folder is None:
        print("  skipped: RILIEVO_SAMPLES names no folder with vickers_bse_{A,B,C}.tif")
        return
    from vickers import EDGES, measure

    from reconstruction.files import reconstruct_files

    plain = reconstruct_files([Path(folder) / f"vickers_bse_{letter}.tif" for letter in "ABC"])

    def indent(result: Reconstruction) -> Any:
        return measure(np.asarray(result.z, dtype=np.float64) / result.heights.pixel_size)

    found = indent(plain)
    away = (found.azimuths - EDGES + 180) % 360 - 180
    bench.row("azimuths against the imprint's edges, worst", "≤ 3°", f"{np.abs(away).max():.1f}° ({np.round(away, 1)})",
              bool(np.abs(away).max() <= 3))  # fmt: skip
    spread = float(np.ptp(found.slopes))
    bench.row("slope spread at a mean of 22°", "≤ 1°", f"{spread:.2f}° ({np.round(found.slopes, 1)})", spread <= 1)
    bench.row("face angle, no scale fitted", "(22°)", f"{found.unscaled:.1f}°")
    told = {}
    for name, frame, matter in assumptions_of(plain):
        told[name] = indent(photometric.reconstruct(frame, material=matter, even_field=True)).unscaled
        print(f"    {name:38s} {told[name]:5.1f}° ({told[name] - found.unscaled:+.1f})", flush=True)
    bench.data["vickers"] = {"as assumed": found.unscaled, **told}
    try:
        inverse.reconstruct(plain.frame, quality="full", material="Fe")
    except InputError as error:
        bench.row("the transformer refuses an unknown material", "yes", f"yes: {error.message}", True)
    else:
        bench.row("the transformer refuses an unknown material", "yes", "no", False)


def assumptions_of(plain: Reconstruction) -> list[tuple[str, Frame, str]]:
    """Return the indent's frame with each assumption changed: words, frame, material."""
    frame = plain.frame
    geometry = frame.geometry
    mm = 1e-3

    def radii(inner: float, outer: float) -> Frame:
        moved = tuple(
            replace(each, inner_radius=each.inner_radius + inner, outer_radius=each.outer_radius + outer)
            for each in geometry.segments
        )
        return replace(frame, geometry=replace(geometry, segments=moved))

    def offset(share: float) -> Frame:
        channels = []
        for index, (channel, segment) in enumerate(zip(frame.channels, plain.segments, strict=True)):
            level = float(frame.counts[index].mean()) - segment.offset
            channels.append(replace(channel, offset=segment.offset + share * level))
        return replace(frame, channels=tuple(channels))

    from reconstruction.files import MATERIAL

    return [
        *((f"inner radius {step:+d} mm", radii(step * mm, 0.0), MATERIAL) for step in (-1, 1)),
        *((f"outer radius {step:+d} mm", radii(0.0, step * mm), MATERIAL) for step in (-1, 1)),
        *(
            (f"working distance {step:+d} mm",
             replace(frame, geometry=geometry.at(geometry.working_distance + step * mm)), MATERIAL)
            for step in (-1, 1)
        ),
        *((f"material {name}{' (assumed)' if name == MATERIAL else ''}", frame, name) for name in ("Fe", "W", "Al")),
        *((f"offsets {share:+.0%} of the mean signal", offset(share), MATERIAL) for share in (-0.05, 0.05)),
        *(
            (f"threshold {keV:g} keV", replace(frame, geometry=replace(geometry, threshold=keV * KEV)), MATERIAL)
            for keV in (1.0, 3.0)
        ),
    ]  # fmt: skip

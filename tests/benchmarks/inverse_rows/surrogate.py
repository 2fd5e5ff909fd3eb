"""The surrogate against Monte Carlo: model error on surfaces that no training has seen, and the speed."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import truths
from scipy import fft

from drivers.units import KEV
from inverse_rows.table import DOSE, FACETS, FAR, NEAR, NM, Bench, Case, Floats, timed
from reconstruction import inverse
from reconstruction.bounds import (
    radial_spectrum,
)


def predicted(case: Case, local: bool = False) -> Floats:
    """Return what the surrogate says of the true surface, keV per beam electron; ``local``: the local law alone."""
    import torch

    forward = inverse.prepare(case.frame, "Cu").forward
    z = torch.from_numpy(case.truth.z / case.pixel).float()
    with torch.no_grad():
        none = torch.zeros_like(z)
        emitted = forward.model.local(z[None], none[None], forward.condition)[0] if local else forward.emission(z, none)
        signal = forward.collect(emitted, forward.responses().float(), (0, 0), case.truth.relief.height.shape)
    return signal.double().numpy() * case.truth.exposure.beam.energy / KEV


@dataclass
class Misfit:
    """Mean squares over segments and pixels, (keV/electron)², the counting noise taken away.

    ``error`` and ``topography`` hold all waves, ``error_seen`` those alone of which the surrogate expects more than the
    noise; ``doubt`` and ``doubt_seen`` are the standard errors that the noise leaves.
    """

    error: float
    doubt: float
    error_seen: float
    doubt_seen: float
    topography: float
    share_seen: float
    noise: float

    def told(self, seen: bool) -> str:
        square, doubt = (self.error_seen, self.doubt_seen) if seen else (self.error, self.doubt)
        upper = math.sqrt(max(square + 2 * doubt, 0.0) / self.topography)
        return f"{math.sqrt(max(square, 0.0) / self.topography):6.1%} (< {upper:.1%})"


def misfit(case: Case, expected: Floats, reference: Floats) -> Misfit:
    """Return how far expected signals (S, H, W) are from the frame's; ``reference`` says which waves stand out."""
    rings = radial_spectrum(case.truth.z, case.pixel)
    shape = case.truth.relief.height.shape
    index = np.rint(np.hypot(*np.meshgrid(*(np.arange(n) * max(shape) / n for n in shape), indexing="ij"))).astype(int)
    index = np.minimum(index, len(rings.modes) - 1).ravel()

    def power(fields: Floats) -> Floats:
        """Mean over the segments in each mode, the mean left out."""
        modes = [fft.dctn(each - each.mean(), norm="ortho").ravel() ** 2 for each in fields]
        return np.asarray(np.mean(modes, axis=0))

    noise = float(truths.noise_variance(case.tally).mean())
    signal, count = case.tally.signal, len(case.tally.signal)
    left, seen, sure = power(expected - signal), power(signal), power(reference)
    ring = np.bincount(index, sure) / np.maximum(np.bincount(index), 1)
    stands = (ring > noise)[index]
    pixels = left.size

    def excess(values: Floats, which: Any) -> float:
        return float(np.sum(values[which] - noise)) / pixels

    every = np.arange(1, pixels)
    chosen = np.flatnonzero(stands[1:]) + 1
    topography = excess(seen, every)
    return Misfit(
        error=excess(left, every),
        doubt=noise * math.sqrt(2 / (count * pixels)),
        error_seen=excess(left, chosen),
        doubt_seen=noise * math.sqrt(2 * len(chosen) / count) / pixels,
        topography=topography,
        share_seen=excess(seen, chosen) / topography,
        noise=noise,
    )


def surrogate(bench: Bench) -> None:
    """Model error on surfaces that no training has seen, and the speed."""
    bench.head("surrogate against Monte Carlo: model error over the topographic signal's rms, counting noise removed")
    print("    (in brackets: two standard errors above; judged: waves of which more than the noise is expected)")
    names = (*NEAR, *FAR, *FACETS[:3], "A-islets60", DOSE)
    cases = bench.several(names)
    pooled: dict[str, list[tuple[Misfit, Misfit]]] = {}
    for case in cases:
        ours = predicted(case)
        both = misfit(case, ours, ours), misfit(case, predicted(case, local=True), ours)
        bench.data.setdefault("surrogate", {})[case.truth.name] = [asdict(each) for each in both]
        level = float(ours.mean() / case.tally.signal.mean()) - 1
        print(
            f"    {case.truth.name:16s} {both[0].told(True)}, all waves {both[0].told(False)}; local law "
            f"{both[1].told(True)}; {both[0].share_seen:.0%} of the signal's power; mean level {level:+.1%}"
        )
        pooled.setdefault(case.configuration, []).append(both)
    for configuration, several in sorted(pooled.items()):
        energy, pixel = truths.CONFIGURATIONS[configuration]
        share, local = (
            math.sqrt(max(sum(each[n].error_seen for each in several), 0.0) / sum(e[n].topography for e in several))
            for n in (0, 1)
        )
        bench.row(
            f"model error at {energy:g} keV, {pixel / NM:.0f} nm, {len(several)} frames", "≤ 5 %",
            f"{share:.1%} (local law {local:.1%})", share <= 0.05,
        )  # fmt: skip
    if cases:
        _speed(bench, cases[0], pooled[cases[0].configuration][0][0])


def _speed(bench: Bench, case: Case, error: Misfit) -> None:
    """Compare with a Monte Carlo frame whose counting noise is as large as the surrogate's error."""
    import torch

    forward = inverse.prepare(case.frame, "Cu").forward
    z = torch.from_numpy(case.truth.z / case.pixel).float()
    responses, shape = forward.responses().float(), case.truth.relief.height.shape

    def image() -> None:
        with torch.no_grad():
            forward.collect(forward.emission(z, torch.zeros_like(z)), responses, (0, 0), shape)

    ours = timed(image, 5)[0]
    run, few = case.truth.exposure.start(), 20
    run.advance(2)
    began = time.perf_counter()
    run.advance(few)
    each = (time.perf_counter() - began) / few
    # No precision is claimed that the noise of the truth does not let through.
    reached = max(error.error_seen, 2 * error.doubt_seen)
    electrons = case.tally.electrons * error.noise / reached
    bench.row(
        "surrogate faster than Monte Carlo of its precision", "≥ 10,000 ×",
        f"{each * electrons / ours:,.0f} × ({1e3 * ours:.0f} ms; {electrons:,.0f} electrons a pixel make the noise as "
        f"small as its error: {each * electrons / 3600:.1f} h at {each * 1e3:.0f} ms each)",
        each * electrons / ours >= 10_000,
    )  # fmt: skip

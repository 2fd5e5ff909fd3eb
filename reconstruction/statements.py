"""What stands beside heights from the transformer: figures with their uncertainty, and what was assumed, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drivers.frame import Frame
from drivers.sample import HeightMap
from reconstruction import calibration, photometric
from reconstruction.calibration import Signals
from reconstruction.metrology import Figure, root_mean_square_height
from reconstruction.photometric import SKIRT_SCALE, Quality

if TYPE_CHECKING:
    from reconstruction.creases import Creases
    from reconstruction.inverse import Prepared
    from reconstruction.nuisances import Estimate
    from reconstruction.solve import Solution
    from reconstruction.uncertainty import Doubt

LAYERED = "Cu2O on Cu"
"""The material of a sample whose share of oxide is sought in each pixel."""
MODEL_SCALE = 0.03
"""Relative standard uncertainty of vertical figures from the transformer: how well it knows its Monte Carlo."""
PHYSICS_SCALE = 0.19
"""The same from the Monte Carlo's own physics, which no frame tells: half of what two elastic laws differ by. The
transformer learned Browning's (J. Appl. Phys. 76 (1994) 2016), whose backscatter coefficients agree with measured ones
within 0.02. Of frames of the screened Rutherford law, which is 0.05 and more off for heavy elements, it makes heights
38 % too high, and beyond that one factor nothing is wrong with them."""


def scale_sigma(signals: Signals) -> float:
    """Return the relative standard uncertainty that all heights share; infinite where nothing tells an offset."""
    live = list(signals.live)
    # Contrasts go with 1 / (counts − offset).
    offset = float(np.max(signals.offset_errors[live] / signals.means[live].mean(axis=(1, 2))))
    return math.hypot(MODEL_SCALE, PHYSICS_SCALE, offset)


def figures(
    heights: HeightMap,
    sigma: NDArray[np.float32],
    flags: NDArray[np.uint8],
    bound: float,
    resolution: float,
    solution: Solution | None,
    scale: float,
) -> dict[str, Figure]:
    """Return the figures of a reconstruction by name.

    Parameters
    ----------
    heights : HeightMap
    sigma : (H, W) array, m
    flags : (H, W) array
    bound : float, m
        Rms error of the best linear estimate for this dose and this spectrum.
    resolution : float, m
    solution : Solution or None
        Of the full descent.
    scale : float
        From :func:`scale_sigma`; infinite where nothing tells it.
    """
    nm = 1e-9
    mean_sigma = float(np.sqrt(np.mean(np.square(sigma, dtype=np.float64))))
    # A scale that nothing tells is said in words; the other figures then hold what is known of theirs.
    known = scale if math.isfinite(scale) else math.hypot(MODEL_SCALE, PHYSICS_SCALE)
    model = math.hypot(known, SKIRT_SCALE)
    roughness, height_range = root_mean_square_height(heights.z), float(np.ptp(heights.z))
    noise = mean_sigma**2 / max(2 * roughness, mean_sigma)
    found = {
        "roughness": Figure(roughness / nm, math.hypot(noise, model * roughness) / nm, "nm"),
        "height_range": Figure(
            height_range / nm, math.hypot(math.sqrt(2) * float(sigma.max()), model * height_range) / nm, "nm"
        ),
        "mean_sigma": Figure(mean_sigma / nm, None, "nm"),
        "scale": Figure(1.0, scale if math.isfinite(scale) else None, ""),
        "flagged": Figure(float(np.mean(flags > 0)), None, ""),
        "bound": Figure(bound / nm, None, "nm"),
        "resolution": Figure(resolution / nm, None, "nm"),
    }
    if solution is not None:
        found["misfit"] = Figure(solution.misfit, math.sqrt(2 / solution.predicted.numel()), "")
    return found


def defocus_note(frame: Frame, doubt: Doubt) -> str:
    """Return what a probe wider than told would do: to first order, what a smoother surface does."""
    from reconstruction.fidelity import PROBE_FWHM

    pixel = frame.beam.pixel_size
    finest = 2 * doubt.resolution
    lowered = 1 - math.exp(-0.5 * (2 * math.pi / finest / PROBE_FWHM) ** 2)
    told = frame.beam.probe_diameter
    probe = "none was told" if told is None else f"{told * 1e9:.3g} nm were told"
    return (
        f"the probe is as wide as told ({probe}): one frame cannot tell defocus from a smoother surface. One pixel "
        f"more ({pixel * 1e9:.3g} nm full width at half maximum) would make waves of {finest * pixel * 1e9:.0f} nm, "
        f"the finest that this frame tells, {lowered:.0%} higher than they come out, and longer ones less"
    )


def assumptions(
    frame: Frame,
    prepared: Prepared,
    material: str,
    quality: Quality,
    estimate: Estimate | None,
    creases: Creases | None,
) -> tuple[str, ...]:
    """Return what the heights rest on, in sentences."""
    condition = prepared.forward.condition
    said = [*prepared.notes]
    said.append(
        f"the transformer's model of {material} at {condition.energy:g} keV, pixels of {condition.pixel:.2g} electron "
        "ranges; the hardware's geometry is taken as given"
    )
    if quality == "fast":
        said.append(
            "one step from the linear inverse; gains, offsets and the detector's place are taken as told: the full "
            "quality estimates them"
        )
    said.append(
        f"all heights, steps, slopes and roughnesses share a scale that one frame does not tell: {PHYSICS_SCALE:.0%} "
        f"(standard uncertainty) for the electron physics, half of what two elastic laws differ by, {MODEL_SCALE:.0%} "
        f"for the model and {SKIRT_SCALE:.0%} for gas on the way. It is in the figures' σ, not in the map of σ: "
        "ratios of heights in one frame, and changes between frames of one night, are free of it"
    )
    if creases is None:
        said.append("the prior on the heights is isotropic; its strength at each wavelength comes from this frame")
    else:
        said.append(
            "faces that meet in edges are taken to be likelier than waves, because heights from one half of this "
            f"frame's noise foretell the other half better so (by {creases.gain:.0f} in the logarithm of the "
            "probability): an edge that is gently rounded may come out sharper than it is. Each frame of a series "
            "chooses for itself"
        )
    if material != LAYERED or quality == "fast":  # which does not seek the oxide
        said.append("the material is the same everywhere: a contrast of composition would pass for relief")
    missing = calibration.describe_missing(frame.geometry.names, prepared.signals.states)
    if missing:
        said.append(f"{missing}: the heights come from the other segments")
    if len(prepared.forward.live) == 2:
        said.append(
            "TWO SEGMENTS ARE ALIVE: opposite ones tell slopes along their line alone, neighbours the other way by "
            "their sum only; what they do not tell is the prior's guess"
            + ("" if creases else ", and σ, which knows no directions, is too small")
        )
    said += photometric.scale_notes(prepared.segments)
    if estimate is not None:
        x, y = estimate.combination.tolist()
        ex, ey = estimate.combination_error.tolist()
        said.append(
            "detector shift, unequal gains and the sample's tilt cannot be told apart in one frame; together they look "
            f"like a slope of {x:+.4f} ± {1.96 * ex:.4f} in x and {y:+.4f} ± {1.96 * ey:.4f} in y, which the heights "
            "do not contain"
        )
    return tuple(said)

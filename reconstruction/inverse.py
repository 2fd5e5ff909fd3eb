"""Heights of one frame, in the quality that is asked for.

``preview`` is the local law (:mod:`reconstruction.photometric`): milliseconds, right where a pixel is larger than the
electron range. ``fast`` is the Wiener inverse of the transformer's transfer functions, with the prior that the frame's
evidence prefers, and one step from there towards what explains the frame. ``full`` solves for the surface whose image,
as the transformer and the hardware's geometry make it, explains the frame, and estimates gains, offsets and the
detector's place with it. Nothing is used but the frame and the geometry.

>>> result = reconstruct(frame, quality="full")        # doctest: +SKIP
>>> result.z, result.sigma, result.figures["roughness"]  # doctest: +SKIP
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from drivers.errors import ImageError, InputError
from drivers.frame import Frame
from drivers.sample import HeightMap
from drivers.units import KEV
from reconstruction import calibration, photometric
from reconstruction.calibration import SegmentEstimate, Signals
from reconstruction.emission import electron_range
from reconstruction.integrate import BLOCK
from reconstruction.metrology import plane, without_plane
from reconstruction.photometric import SATURATED, SHADOW, Quality, Reconstruction
from reconstruction.statements import LAYERED, assumptions, defocus_note, figures, scale_sigma

if TYPE_CHECKING:
    from torch import Tensor

    from reconstruction.fidelity import Forward, Observation
    from reconstruction.nuisances import Beliefs, Estimate
    from reconstruction.solve import Effort, Progress, Solution, State
    from reconstruction.vft import VisionFieldTransformer

GAIN_KNOWN, GAIN_UNKNOWN = 0.05, 0.15
"""Standard deviations of what channels say of their relative gains, and of gains balanced by the mean signals."""
STEEPEST = 70.0
"""Degrees: the training met no steeper faces to speak of."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A frame ready for the inverse.

    Attributes
    ----------
    forward : Forward
    observed : Observation
    beliefs : Beliefs
    signals : Signals
    segments : tuple of SegmentEstimate
    flags : (H, W) uint8 array
    notes : tuple of str
        Where the frame lies outside of what the model was trained on.
    """

    forward: Forward
    observed: Observation
    beliefs: Beliefs
    signals: Signals
    segments: tuple[SegmentEstimate, ...]
    flags: NDArray[np.uint8]
    notes: tuple[str, ...]


def reconstruct(
    frame: Frame,
    *,
    quality: Quality = "full",
    material: str = "Cu",
    dark: Frame | None = None,
    even_field: bool = False,
    model: VisionFieldTransformer | None = None,
    beliefs: Beliefs | None = None,
    effort: Effort | None = None,
    start: State | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """Return the heights of one exposure.

    Parameters
    ----------
    frame : Frame
    quality : {"preview", "fast", "full"}
    material : str
        ``Cu``, ``Cu2O``, or ``Cu2O on Cu``, whose oxide is sought with the heights; the preview knows others.
    dark : Frame, optional
        Taken with the beam blanked; measures each segment's offset.
    even_field : bool
        Remove what bends the whole field like a bowl, in the preview: for a detector whose radii are not known.
    model : VisionFieldTransformer, optional
        The shipped one unless given (:func:`reconstruction.weights.load_model`).
    beliefs : Beliefs, optional
        How well gains, offsets and the detector's place are known.
    effort : Effort, optional
    start : State, optional
        Of a frame before, to begin with.
    progress : callable, optional

    Returns
    -------
    Reconstruction

    Raises
    ------
    ImageError
        When too few segments carry a signal.
    InputError
        For a material or a detector that the model does not know, or weights that cannot be read.
    """
    if quality not in get_args(Quality):
        raise InputError(f"expected the quality preview, fast or full; got {quality!r}")
    if dark is not None:
        frame = frame.with_offsets_of(dark)
    substrate = "Cu" if material == LAYERED else material
    if quality == "preview":
        return photometric.reconstruct(frame, material=substrate, even_field=even_field)
    prepared = prepare(frame, material, model, beliefs)
    if quality == "fast":
        return _fast(frame, prepared, material)
    from reconstruction.solve import solve

    solution = solve(
        prepared.forward,
        prepared.observed,
        beliefs=prepared.beliefs,
        effort=effort,
        with_oxide=material == LAYERED,
        start=start,
        progress=progress,
    )
    return _full(frame, prepared, solution, material)


def prepare(
    frame: Frame, material: str, model: VisionFieldTransformer | None = None, beliefs: Beliefs | None = None
) -> Prepared:
    """Return a frame's signals and the forward model of its microscope.

    Raises
    ------
    ImageError
        When fewer than two segments carry a signal.
    InputError
        For a material or a detector that the model does not know.
    """
    from reconstruction.fidelity import PROBE_FWHM, Forward
    from reconstruction.local_law import Condition
    from reconstruction.response import check_reach
    from reconstruction.weights import check_material, check_validity, load_model

    chosen = model or load_model()
    substrate = "Cu" if material == LAYERED else material
    energy = frame.beam.beam_energy / KEV
    check_material(chosen.card, substrate)
    size = frame.beam.pixel_size / electron_range(substrate, energy)
    condition = Condition(size, energy, frame.geometry.threshold / frame.beam.beam_energy, substrate == "Cu2O")
    notes = check_validity(chosen.card, condition)
    if condition.threshold >= 1:
        raise InputError(
            f"the diode's threshold of {frame.geometry.threshold / KEV:g} keV is not below the beam energy of "
            f"{energy:g} keV: no backscattered electron gives a signal"
        )
    check_reach(frame.geometry)
    signals = calibration.read_signals(frame)
    if len(signals.live) < 2:
        missing = calibration.describe_missing(frame.geometry.names, signals.states)
        raise ImageError(f"two live segments are needed to tell anything of the heights; {missing}")
    probe = (frame.beam.probe_diameter or 0.0) / PROBE_FWHM / frame.beam.pixel_size
    forward = Forward(chosen, condition, frame.geometry, signals.live, frame.beam.pixel_size, probe)
    segments = _segments(frame, signals)
    observed = _observe(frame, forward, signals, segments)
    observed = replace(observed, straight=_straightened(frame, forward, observed, signals, substrate))
    return Prepared(
        forward,
        observed,
        beliefs or _beliefs(frame, signals),
        signals,
        segments,
        _flags(observed),
        tuple(notes),
    )


def _segments(frame: Frame, signals: Signals) -> tuple[SegmentEstimate, ...]:
    """Return what is known of each segment before the heights are: gains not yet estimated."""
    found = []
    for index, channel in enumerate(frame.channels):
        level = float(signals.means[index].mean())
        variance = calibration.noise_variance(frame.counts[index])
        noise_gain, read = calibration.noise_model(channel, variance, level)
        if channel.gain is not None and channel.gain_unit == "ADU/electron":
            noise_gain, read = channel.gain, channel.read_noise or 0.0
        offset, error = float(signals.offsets[index]), float(signals.offset_errors[index])
        found.append(
            SegmentEstimate(
                name=channel.name,
                state=signals.states[index],
                offset=offset,
                offset_source=signals.sources[index],
                offset_interval=(offset - 1.96 * error, offset + 1.96 * error),
                gain=1.0 if index in signals.live else 0.0,
                gain_interval=(0.0, math.inf),
                noise_gain=noise_gain,
                read_noise=read,
            )
        )
    return tuple(found)


def _observe(frame: Frame, forward: Forward, signals: Signals, segments: tuple[SegmentEstimate, ...]) -> Observation:
    import torch

    from reconstruction.fidelity import Observation

    live = list(signals.live)
    levels = forward.flat_signals().numpy()
    means = signals.means[live].mean(axis=(1, 2))
    gains = [frame.channels[index].gain for index in live]
    if all(gain is not None for gain in gains):
        # Channels tell their gains: their ratios are kept, the common factor is the beam's.
        told = np.array(gains, dtype=np.float64)
        scales = told * float(np.mean(means / told) / np.mean(levels))
    else:
        scales = means / levels
    offsets = np.array([segments[index].offset for index in live])
    counts = frame.counts[live].astype(np.float32)
    values = (counts - offsets[:, None, None].astype(np.float32)) / scales[:, None, None].astype(np.float32)
    slope = np.array([segments[index].noise_gain for index in live]) / scales
    floor = np.array([segments[index].read_noise ** 2 + 1 / 12 for index in live]) / scales**2
    good = np.ones(frame.shape, np.float32)
    for index in live:
        good[frame.counts[index] >= frame.channels[index].saturation] = 0.0
    return Observation(
        torch.from_numpy(values),
        torch.from_numpy(np.maximum(slope, 1e-9)).float(),
        torch.from_numpy(floor).float(),
        torch.from_numpy(good),
        torch.from_numpy(scales).float(),
    )


def _straightened(
    frame: Frame, forward: Forward, observed: Observation, signals: Signals, substrate: str
) -> Tensor | None:
    """Return signals that are linear in the slopes, as far as the local law tells. (L, H, W).

    The slopes that the local law finds, steep ones included, through the response of a flat surface; and of the sum
    signal what no slope explains, which is what edges and bends do. None where the live segments do not tell slopes.
    """
    import torch

    try:
        found = photometric.local_slopes(frame, signals, substrate)
    except ImageError:
        return None
    p, q, brightness = (torch.from_numpy(each) for each in found)
    responses = forward.responses()[0].float()
    flat = forward.flat_signals()[:, None, None]
    slopes = (responses @ forward.tilt_emission().float())[..., None, None]
    sums = observed.signals.sum(dim=0) / flat.sum()
    return flat * (sums / brightness.clamp(min=0.05)) + slopes[:, 0] * p + slopes[:, 1] * q


def _beliefs(frame: Frame, signals: Signals) -> Beliefs:
    from reconstruction.nuisances import Beliefs

    live = list(signals.live)
    known = all(frame.channels[index].gain is not None for index in live)
    share = signals.offset_errors[live] / signals.means[live].mean(axis=(1, 2))
    worst = float(np.max(share)) if np.isfinite(share).all() else 0.05
    return Beliefs(gain=GAIN_KNOWN if known else GAIN_UNKNOWN, offset=float(np.clip(worst, 0.005, 0.05)))


def _flags(observed: Observation) -> NDArray[np.uint8]:
    """Return what is flagged before the heights are known: saturated and shadowed pixels."""
    from scipy.ndimage import uniform_filter

    total = uniform_filter(observed.signals.sum(dim=0).numpy(), BLOCK)
    flags = (SHADOW * (total < photometric.SHADOW_SHARE * np.median(total))).astype(np.uint8)
    return np.asarray(flags | (SATURATED * (observed.weight.numpy() == 0)).astype(np.uint8), dtype=np.uint8)


def _fast(frame: Frame, prepared: Prepared, material: str) -> Reconstruction:
    from reconstruction.linear import linearise
    from reconstruction.problem import Problem
    from reconstruction.solve import corrected, first_state

    shape = frame.shape
    linear = linearise(prepared.forward, shape)
    information = linear.information(prepared.observed)
    state = first_state(prepared.forward, prepared.observed, linear, information)
    state, predicted = corrected(Problem(prepared.forward, prepared.observed), state, linear, information)
    brightness = (predicted.sum(dim=0) / linear.flat.sum()).numpy()
    return _assembled(frame, prepared, state, information, brightness, "fast", material, None)


def _full(frame: Frame, prepared: Prepared, solution: Solution, material: str) -> Reconstruction:
    explained = solution.predicted.sum(dim=0) / solution.linear.flat.sum()
    oxide = solution.state.oxide
    # What the relief explains: without what the oxide takes off.
    share = _oxide_brightness(prepared.forward)
    brightness = (explained / (1 + (share - 1) * oxide.clamp(0, 1))).numpy()
    return _assembled(frame, prepared, solution.state, solution.information, brightness, "full", material, solution)


def _oxide_brightness(forward: Forward) -> float:
    """Return the sum signal of a thick oxide over the substrate's."""
    import torch

    none, whole = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    response = forward.responses()[0].float().sum(dim=0)
    signals = [
        float(response @ forward.model.local(none, share, forward.condition)[0, :, 4, 4]) for share in (none, whole)
    ]
    return signals[1] / signals[0]


def _assembled(
    frame: Frame,
    prepared: Prepared,
    state: State,
    information: Tensor,
    brightness: NDArray[np.float32],
    quality: Quality,
    material: str,
    solution: Solution | None,
) -> Reconstruction:
    import torch

    from reconstruction.creases import sampled_variance
    from reconstruction.features import slopes
    from reconstruction.uncertainty import model_share, posterior

    pixel = frame.beam.pixel_size
    found = state.z.double().numpy()
    z = without_plane(found) * pixel
    flat = torch.from_numpy(z / pixel).float()
    p, q = (each.numpy() for each in slopes(flat[None]))
    steep = np.hypot(p[0], q[0]) > math.tan(math.radians(STEEPEST))
    flags = (prepared.flags | (photometric.STEEP * steep)).astype(np.uint8)
    blind = torch.from_numpy((flags & (SATURATED | SHADOW)) > 0)
    share = model_share(prepared.forward.model.card, prepared.forward.condition.pixel)
    creases = solution.creases if solution is not None else None
    drawn = None if creases is None else sampled_variance(creases, state.z, information, state.power)
    doubt = posterior(flat, information, state.power, blind, share, drawn)
    sigma = (doubt.sigma * pixel).astype(np.float32)
    estimate = solution.estimate if solution is not None else None
    if estimate is not None:
        # The slowest waves of the heights have taken up a part of the tilt: it leaves with their plane.
        taken = plane(found)
        slope = torch.tensor([taken[0, 1] - taken[0, 0], taken[0, 0] - taken[1, 0]], dtype=torch.float64)
        estimate = replace(estimate, combination=estimate.combination + slope)
    total = (prepared.observed.signals.sum(dim=0) * float(prepared.observed.scales.mean())).numpy()
    heights = HeightMap(z - z.mean(), pixel)
    scale = scale_sigma(prepared.signals)
    told = figures(heights, sigma, flags, doubt.bound * pixel, doubt.resolution * pixel, solution, scale)
    return Reconstruction(
        heights=heights,
        sigma=sigma,
        p=p[0].astype(np.float32),
        q=q[0].astype(np.float32),
        total=total.astype(np.float32),
        flags=flags,
        segments=_with_gains(prepared, estimate),
        law=None,
        figures=told,
        assumptions=(*assumptions(frame, prepared, material, quality, estimate, creases), defocus_note(frame, doubt)),
        frame=frame,
        quality=quality,
        brightness=brightness.astype(np.float32),
        oxide=state.oxide.clamp(0, 1).numpy() if material == LAYERED and solution is not None else None,
        nuisances=estimate,
    )


def _with_gains(prepared: Prepared, estimate: Estimate | None) -> tuple[SegmentEstimate, ...]:
    scales = prepared.observed.scales.double().numpy()
    gains = scales / scales.mean()
    errors = np.full(len(gains), prepared.beliefs.gain)
    if estimate is not None:
        found = gains * estimate.nuisances.gains.double().numpy()
        gains, errors = found / found.mean(), estimate.errors.gains.double().numpy()
    segments = list(prepared.segments)
    for place, index in enumerate(prepared.forward.live):
        half = 1.96 * gains[place] * errors[place]
        segments[index] = replace(
            segments[index],
            gain=float(gains[place]),
            gain_interval=(float(gains[place] - half), float(gains[place] + half)),
        )
    return tuple(segments)

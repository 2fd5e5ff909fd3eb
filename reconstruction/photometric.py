"""Heights of one exposure: ratios of the segments, through the tabulated local law, to slopes and heights.

    counts → offset, gain → ratios → (u, v) → slopes (p, q) → least-squares heights,   σ along the same way.

Nothing is fitted to a vertical scale: the geometry and the law give it. What was estimated on the way (gains, noise)
and what was assumed stands in the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from drivers.errors import ImageError, InputError
from drivers.frame import Frame
from drivers.geometry import pixel_positions
from drivers.sample import HeightMap
from reconstruction import calibration
from reconstruction.calibration import SegmentEstimate, Signals
from reconstruction.composition import Coverage, estimate_coverage
from reconstruction.detector import SegmentLaw, segment_law
from reconstruction.emission import EmissionLaw, material, threshold_note
from reconstruction.images import Provenance
from reconstruction.integrate import BLOCK, blocks, from_blocks, height_sigma, integrate
from reconstruction.metrology import Figure, root_mean_square_height

if TYPE_CHECKING:
    from reconstruction.nuisances import Estimate

Singles = NDArray[np.float32]
Quality = Literal["preview", "fast", "full"]

SATURATED, SHADOW, STEEP = 1, 2, 4
"""Bits of :attr:`Reconstruction.flags`."""
SHADOW_SHARE = 0.6
"""A sum signal below this share of the field's median is no composition: the electrons did not get out."""
_CHUNK = 32
LAW_SCALE = 0.08
"""Relative standard uncertainty of vertical figures from the local law. On frames rendered with Monte Carlo's spread of
electrons, without gas, roughness came out 3 % low on relief wider than the range and 10 % low on islands with steep
rims, the height range 6 to 15 % low."""
SKIRT_SCALE = 0.10
"""The same from gas: what it scatters out of the probe lights the field evenly and lowers all slopes by its share. That
is 14 % at 5 keV behind 5 mm of oxygen at 17 Pa (σ = 3.4e-21 m² at 10 keV, as 1/E; G. D. Danilatos, Adv. Electron.
Electron Phys. 71 (1988) 109) and 1 % in hydrogen; a frame does not tell which, nor how long the way is."""
_UNKNOWN_SLOPE = 0.5
"""Standard deviation of a slope of which nothing was seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Reconstruction:
    """Heights with their uncertainty, and what they rest on.

    Attributes
    ----------
    heights : HeightMap
        Mean and mean slope zero.
    sigma : (H, W) float32 array, m
        Standard deviation of the heights from the noise of the counts, relative to the field's mean; a scale that is
        wrong for all of them together is apart, in :attr:`scale_sigma`.
    p, q : (H, W) float32 arrays
        ∂z/∂x and ∂z/∂y.
    total : (H, W) float32 array, ADU
        Sum of the live segments, offsets subtracted and gains balanced.
    flags : (H, W) uint8 array
        ``SATURATED``, ``SHADOW``, ``STEEP``: there the slope is a guess and σ is grown.
    segments : tuple of SegmentEstimate
    law : SegmentLaw or None
        None where fewer than three segments are alive.
    figures : mapping of str to Figure
    assumptions : tuple of str
        Sentences.
    frame : Frame
        What was reconstructed.
    provenance : Provenance or None
        Where the figures of a frame from files came from.
    quality : {"preview", "fast", "full"}
    brightness : (H, W) float32 array or None
        Sum signal that the heights explain, over a flat surface's; None where the law tells it.
    oxide : (H, W) float32 array or None
        Share of Cu2O, 0 … 1, where it was sought.
    nuisances : Estimate or None
        Gains, offsets and detector's place, as estimated with the heights.
    """

    heights: HeightMap
    sigma: Singles
    p: Singles
    q: Singles
    total: Singles
    flags: NDArray[np.uint8]
    segments: tuple[SegmentEstimate, ...]
    law: SegmentLaw | None
    figures: Mapping[str, Figure]
    assumptions: tuple[str, ...]
    frame: Frame
    provenance: Provenance | None = None
    quality: Quality = "preview"
    brightness: Singles | None = None
    oxide: Singles | None = None
    nuisances: Estimate | None = None

    @property
    def scale_sigma(self) -> float:
        """Relative standard uncertainty that all heights, slopes and roughnesses share; not in ``sigma``.

        Infinite where nothing tells the vertical scale.
        """
        told = self.figures["scale"].sigma
        return math.inf if told is None else told

    @property
    def z(self) -> NDArray[np.floating[Any]]:
        """The heights, (H, W), m."""
        return self.heights.z

    def coverage(self, reference_level: float | None = None) -> Coverage:
        """Return the oxide's coverage from the sum signal, less the brightness that the slopes explain.

        Parameters
        ----------
        reference_level : float, optional, ADU
            Of clean copper: the ``level`` of an earlier frame's coverage.
        """
        return estimate_coverage(self.flattened(), reference_level=reference_level)

    def flattened(self) -> NDArray[np.floating[Any]]:
        """Return the sum signal over the brightness that the slopes explain, on pairs of pixels. (H/2, W/2), ADU."""
        if self.brightness is not None:
            return np.asarray(_halved(self.total) / np.maximum(_halved(self.brightness), np.float32(0.05)))
        if self.law is None:
            raise ImageError("fewer than three segments are alive: the sum signal does not tell the oxide's coverage")
        total, p, q = (_halved(each) for each in (self.total, self.p, self.q))
        # (u, v) and (p, q) are so near to each other that the brightness may be looked up at either.
        return np.asarray(total / self.law.invert(p, q)[..., 2])


def _halved(image: Singles) -> Singles:
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    part = image[: 2 * rows, : 2 * columns]
    return np.asarray((part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2]) / 4)


def reconstruct(
    frame: Frame, *, material: str = "Cu", dark: Frame | None = None, even_field: bool = False
) -> Reconstruction:
    """Return the heights of one exposure.

    Parameters
    ----------
    frame : Frame
    material : str
        Whose law is used; slopes depend on it by a few per cent, because ratios cancel the yield.
    dark : Frame, optional
        Taken with the beam blanked; measures each segment's offset.
    even_field : bool
        Remove what bends the whole field like a bowl, instead of computing it from the pixels' places: for a
        detector whose radii are not known.

    Raises
    ------
    ImageError
        When too few segments carry a signal to tell a slope, naming those that do not.
    InputError
        When the material is not known or the dark frame does not belong to the frame.
    """
    if dark is not None:
        frame = frame.with_offsets_of(dark)
    signals = calibration.read_signals(frame)
    law = _live_law(frame, signals, material)
    gains, errors = calibration.balance_gains(signals, law)
    segments = tuple(calibration.estimates(frame, signals, law, gains, errors))
    p, q, total = _level_slopes(frame, law, signals.offsets, gains, even_field)
    for each in (p, q, total):
        each.flags.writeable = False
    heights = HeightMap(integrate(p, q, frame.beam.pixel_size), frame.beam.pixel_size)
    flags, doubt = _flag(frame, signals, law, gains)
    sigma = _sigma(frame, signals, law, gains, segments, doubt)
    return Reconstruction(
        heights=heights,
        sigma=from_blocks(sigma.astype(np.float32), frame.shape).astype(np.float32),
        p=p,
        q=q,
        total=total,
        flags=flags,
        segments=segments,
        law=law,
        figures=_figures(heights, sigma, flags, signals),
        assumptions=_assumptions(frame, signals, segments, material, even_field),
        frame=frame,
    )


def local_slopes(frame: Frame, signals: Signals, name: str) -> tuple[Singles, Singles, Singles]:
    """Return p, q (mean zero) and the brightness that they explain, over a flat surface's. Shapes (H, W).

    Parameters
    ----------
    frame : Frame
    signals : Signals
        Of this frame.
    name : str
        The material's.

    Raises
    ------
    ImageError
        When too few segments carry a signal to tell a slope.
    """
    law = _live_law(frame, signals, name)
    p, q, _ = _level_slopes(frame, law, signals.offsets, calibration.balance_gains(signals, law)[0])
    # (u, v) and (p, q) are so near to each other that the brightness may be looked up at either.
    return p, q, np.asarray(law.nearest(p, q)[..., 2])


def _level_slopes(
    frame: Frame,
    law: SegmentLaw,
    offsets: NDArray[np.float64],
    gains: NDArray[np.float64],
    even_field: bool = False,
) -> tuple[Singles, Singles, Singles]:
    """Return p and q, means zero, and the sum signal."""
    p, q, total = _slopes(frame, law, offsets, gains)
    if even_field:
        _level_field(p, q)
    p -= p.mean(dtype=np.float64)
    q -= q.mean(dtype=np.float64)
    return p, q, total


def _live_law(frame: Frame, signals: Signals, name: str) -> SegmentLaw:
    sample = EmissionLaw.of(material(name))
    try:
        return segment_law(frame.geometry, sample, signals.live)
    except InputError as error:
        missing = calibration.describe_missing(frame.geometry.names, signals.states)
        raise ImageError(f"{error.message}{'; ' + missing if missing else ''}") from None


def _slopes(
    frame: Frame, law: SegmentLaw, offsets: NDArray[np.float64], gains: NDArray[np.float64]
) -> tuple[Singles, Singles, Singles]:
    """Return p, q and the sum signal, in bands of rows small enough for the cache."""
    p, q, total = (np.empty(frame.shape, np.float32) for _ in range(3))
    factors = (1 / gains).astype(np.float32)
    zeros = (-offsets[list(law.live)] / gains).astype(np.float32)
    weights = law.weights.astype(np.float32)
    base = (law.weights @ law.flat).astype(np.float32)
    x, y = (each.astype(np.float32) for each in pixel_positions(frame.shape, frame.beam.pixel_size))
    shift = law.shift.astype(np.float32)

    def band(start: int) -> None:
        rows = slice(start, start + _CHUNK)
        u, v, together = p[rows], q[rows], total[rows]
        u[...] = v[...] = together[...] = 0
        for place, index in enumerate(law.live):
            signal = frame.counts[index, rows] * factors[place]
            signal += zeros[place]
            together += signal
            u += weights[0, place] * signal
            v += weights[1, place] * signal
        inverse = 1 / np.maximum(together, np.float32(1e-3))
        u *= inverse
        u -= base[0] + shift[0, 0] * x + (shift[0, 1] * y[rows])[:, None]
        v *= inverse
        v -= base[1] + shift[1, 0] * x + (shift[1, 1] * y[rows])[:, None]
        law.correct(u, v)

    _over_bands(band, frame.shape[0])
    return p, q, total


def _over_bands(band: Callable[[int], None], rows: int) -> None:
    starts = range(0, rows, _CHUNK)
    if len(starts) < 8:
        for start in starts:
            band(start)
        return
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(band, starts))


def _level_field(p: Singles, q: Singles) -> None:
    """Take the bowl out of the slopes, in place: from each, its even growth across the field.

    One robust line for each direction, because the flat field of an unknown detector need not be a circular bowl;
    features are kept out of the fit by their residuals.
    """
    for slope, direction in ((p, 0), (q, 1)):
        coarse = blocks(slope).astype(np.float64)
        x, y = pixel_positions((coarse.shape[0], coarse.shape[1]), float(BLOCK))
        place = np.broadcast_to((x[None, :], y[:, None])[direction], coarse.shape)
        kept, rate = np.ones(coarse.shape, bool), 0.0
        for _ in range(6):
            rate, level = np.polyfit(place[kept], coarse[kept], 1)
            residual = np.abs(coarse - level - rate * place)
            kept = residual < 2.5 * 1.4826 * np.median(residual) + 1e-9
        x, y = pixel_positions((slope.shape[0], slope.shape[1]), float(rate))
        np.subtract(slope, (x[None, :], y[:, None])[direction].astype(np.float32), out=slope)


def _flag(
    frame: Frame, signals: Signals, law: SegmentLaw, gains: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the flags of each pixel, and on blocks the share of pixels whose slope is a guess."""
    scaled = signals.means[list(law.live)] / gains[:, None, None]
    total = scaled.sum(axis=0)
    ratios = scaled / np.maximum(total, 1e-3)
    uv = np.tensordot(law.weights, ratios - law.flat[:, None, None], axes=1).astype(np.float32)
    shadow = total < SHADOW_SHARE * np.median(total)
    steep = law.nearest(uv[0], uv[1])[..., 3] < 0.5
    coarse = (SHADOW * shadow + STEEP * steep).astype(np.uint8)
    flags: NDArray[np.uint8] = np.kron(coarse, np.ones((BLOCK, BLOCK), np.uint8))[: frame.shape[0], : frame.shape[1]]
    doubt: NDArray[np.float64] = (coarse > 0).astype(np.float64)
    if signals.clipped[list(law.live)].any():
        clipped = np.zeros(frame.shape, np.bool_)
        for index in law.live:
            clipped = clipped | (frame.counts[index] >= frame.channels[index].saturation)
        flags = flags | (SATURATED * clipped).astype(np.uint8)
        doubt = np.maximum(doubt, blocks(clipped.astype(np.float32)).astype(np.float64))
    return flags, doubt


def _sigma(
    frame: Frame,
    signals: Signals,
    law: SegmentLaw,
    gains: NDArray[np.float64],
    segments: tuple[SegmentEstimate, ...],
    doubt: NDArray[np.float64],
) -> NDArray[np.floating[Any]]:
    """Return σ of the heights on blocks (m): counts → ratios → law's Jacobian → integrator."""
    scaled = np.maximum(signals.means[list(law.live)], 0.0) / gains[:, None, None]
    total = np.maximum(scaled.sum(axis=0), 1e-3)
    ratios = scaled / total
    uv = np.tensordot(law.weights, ratios, axes=1)
    covariance = np.zeros((3, *total.shape))
    for place, index in enumerate(law.live):
        known = segments[index]
        variance = (known.noise_gain * gains[place] * scaled[place] + known.read_noise**2) / (gains[place] * total) ** 2
        # w_s = S_s / ΣS: a count more in s moves u by (c_us − Σ c w) / ΣS.
        du, dv = (law.weights[direction, place] - uv[direction] for direction in (0, 1))
        covariance += np.stack([du * du, du * dv, dv * dv]) * variance
    base = (law.weights @ law.flat)[:, None, None]
    jacobian = law.jacobian(*(uv - base).astype(np.float32))
    var_p, var_q = (
        jacobian[..., axis, 0] ** 2 * covariance[0]
        + 2 * jacobian[..., axis, 0] * jacobian[..., axis, 1] * covariance[1]
        + jacobian[..., axis, 1] ** 2 * covariance[2]
        for axis in (0, 1)
    )
    # What is guessed is wrong together over a block: its variance does not average out there.
    guessed = doubt * _UNKNOWN_SLOPE**2 * 16
    return height_sigma(var_p + guessed, var_q + guessed, frame.beam.pixel_size)


def _figures(
    heights: HeightMap, sigma: NDArray[np.floating[Any]], flags: NDArray[np.uint8], signals: Signals
) -> dict[str, Figure]:
    nm = 1e-9
    mean_sigma = float(np.sqrt(np.mean(sigma**2)))
    live = list(signals.live)
    # Ratios of signals scale with 1 / (counts − offset): what the offset may be off by, all heights share.
    scale = float(np.max(signals.offset_errors[live] / signals.means[live].mean(axis=(1, 2))))
    model = math.hypot(LAW_SCALE, SKIRT_SCALE)
    roughness, height_range = root_mean_square_height(heights.z), float(np.ptp(heights.z))
    # Noise adds to Sq in squares: its share of the value is the larger part of its doubt.
    noise = mean_sigma**2 / max(2 * roughness, mean_sigma)
    extremes = math.sqrt(2) * float(sigma.max())
    return {
        "roughness": Figure(roughness / nm, math.hypot(noise, model * roughness) / nm, "nm"),
        "height_range": Figure(height_range / nm, math.hypot(extremes, model * height_range) / nm, "nm"),
        "mean_sigma": Figure(mean_sigma / nm, None, "nm"),
        "scale": Figure(1.0, math.hypot(scale, LAW_SCALE) if math.isfinite(scale) else None, ""),
        "flagged": Figure(float(np.mean(flags > 0)), None, ""),
    }


def _assumptions(
    frame: Frame, signals: Signals, segments: tuple[SegmentEstimate, ...], name: str, even_field: bool
) -> tuple[str, ...]:
    said = [
        f"local emission law of {name}: right where a pixel is larger than the electron range, too smooth below it",
        "relative gains of the segments are estimated so that the field's mean tilt is zero; the heights have no tilt",
        "noise is estimated from the image, photon noise on top of known read noise; σ of the heights holds it alone",
        f"σ of roughness and height range adds {LAW_SCALE:.0%} for the law and {SKIRT_SCALE:.0%} for gas on the way",
        "what the law misses and what gas scatters make heights too small rather than too large",
    ]
    threshold = threshold_note(frame.geometry.threshold, frame.beam.beam_energy)
    said += [threshold] if threshold else []
    said += scale_notes(segments)
    missing = calibration.describe_missing(frame.geometry.names, signals.states)
    if missing:
        said.append(f"{missing}: the heights come from the other segments")
    if even_field:
        said.append("the field as a whole is taken for flat: what bends all of it was removed")
    return tuple(said)


def scale_notes(segments: tuple[SegmentEstimate, ...]) -> list[str]:
    """Say what is not known of the vertical scale."""
    unknown = [segment for segment in segments if segment.offset_source != "measured"]
    if not unknown:
        return []
    names = ", ".join(segment.name for segment in unknown)
    if unknown[0].offset_source == "assumed":
        sentence = (
            f"THE VERTICAL SCALE IS NOT KNOWN: no dark frame tells the offset of {names}; zero was assumed. Slopes and "
            "heights may all be too small or too large by one common factor"
        )
        return [sentence]
    shown = ", ".join(f"{each.offset:.0f} ADU" for each in unknown)
    sentence = (
        f"THE VERTICAL SCALE IS NOT WELL KNOWN: no dark frame tells the offset of {names}. It was estimated from how "
        f"the noise grows with the signal ({shown}), as if the amplifier had none; slopes and heights may all be too "
        "small by one common factor, seldom too large"
    )
    return [sentence]

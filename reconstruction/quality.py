"""Which quality a frame gets where nobody asks for one, and why.

``full`` where the sample's material and the detector are told and the transformer knows both; ``preview``, whose local
law knows many materials and needs no weights, everywhere else. The reason is told with the heights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from drivers.errors import InputError
from drivers.frame import Frame
from drivers.units import KEV
from reconstruction.emission import material as find_material
from reconstruction.inverse import reconstruct
from reconstruction.photometric import Quality, Reconstruction
from reconstruction.statements import LAYERED

if TYPE_CHECKING:
    from reconstruction.solve import Progress


def known_material(name: str) -> str:
    """Return a material's name as the program writes it, whatever its capitals and spaces.

    Raises
    ------
    InputError
        When neither the local law nor the transformer knows it.
    """
    words = " ".join(name.split())
    if words.lower() == LAYERED.lower():
        return LAYERED
    return find_material(words).name


def reconstruct_frame(
    frame: Frame,
    *,
    quality: Quality | None = None,
    material: str | None = None,
    otherwise: str = "Cu",
    detector_known: bool = True,
    progress: Progress | None = None,
) -> Reconstruction:
    """Return a frame's heights in the quality that is asked for, else in the best that its knowledge allows.

    Parameters
    ----------
    frame : Frame
    quality : {"preview", "fast", "full"}, optional
    material : str, optional
        Of the sample, as told.
    otherwise : str
        The material that is assumed where none is told.
    detector_known : bool
        False where azimuths were estimated and radii assumed.
    progress : callable, optional
        As :func:`reconstruction.inverse.reconstruct` has it.

    Raises
    ------
    ImageError
        When too few segments carry a signal.
    InputError
        For a material that the asked quality does not know, a threshold above the beam energy, or weights that are
        missing or damaged where they are needed.
    """
    _check_threshold(frame)
    told = None if material is None else known_material(material)
    notes = []
    chosen = quality
    if chosen is None:
        reason = why_not_full(frame, told, detector_known=detector_known)
        chosen = "full" if reason is None else "preview"
        if reason is not None:
            notes.append(f"the preview was taken, not the full quality: {reason}")
    elif chosen != "preview" and told is None:
        try:
            check_quality(chosen, otherwise)
        except InputError as error:
            raise InputError(f"no material is told; name it with --material: {error.message}") from None
        notes.append(f"the material was not told; {otherwise} was assumed: name it with --material")
    if chosen != "preview" and not detector_known:
        notes.append(
            "THE TRANSFORMER TAKES THE DETECTOR AS IT IS DESCRIBED, and here its radii are assumed: heights and σ are "
            "not to be trusted; describe it in a file and give it with --detector"
        )
    result = reconstruct(
        frame,
        quality=chosen,
        material=told or otherwise,
        even_field=not detector_known and chosen == "preview",
        progress=progress,
    )
    return replace(result, assumptions=(*notes, *result.assumptions)) if notes else result


def check_quality(quality: Quality, material: str) -> None:
    """Refuse a quality whose model is not there or does not know a material, before any frame is read.

    Parameters
    ----------
    quality : {"preview", "fast", "full"}
    material : str
        As :func:`known_material` writes it.

    Raises
    ------
    InputError
    """
    if quality == "preview":
        return
    from reconstruction.weights import check_material, load_model

    check_material(load_model().card, "Cu" if material == LAYERED else material)


def _check_threshold(frame: Frame) -> None:
    threshold, energy = frame.geometry.threshold, frame.beam.beam_energy
    if threshold >= energy:
        raise InputError(
            f"the diode's threshold of {threshold / KEV:g} keV is not below the beam energy of {energy / KEV:g} keV: "
            "no backscattered electron gives a signal; give the right --beam-energy or correct the detector"
        )


def why_not_full(frame: Frame, material: str | None, *, detector_known: bool = True) -> str | None:
    """Return why a frame is not reconstructed with the transformer unless that is asked for; None where it is.

    Parameters
    ----------
    frame : Frame
    material : str or None
        As :func:`known_material` writes it.
    detector_known : bool
    """
    if material is None:
        return "the transformer needs the sample's material; name it with --material"
    if not detector_known:
        return "the transformer needs the detector's geometry; describe it in a file and give it with --detector"
    from reconstruction.emission import electron_range
    from reconstruction.local_law import Condition
    from reconstruction.response import check_reach
    from reconstruction.weights import check_material, check_validity, load_model

    substrate = "Cu" if material == LAYERED else material
    try:
        card = load_model().card
        check_material(card, substrate)
        check_reach(frame.geometry)
    except InputError as error:
        return error.message.split(": use")[0]
    energy = frame.beam.beam_energy / KEV
    pixel = frame.beam.pixel_size / electron_range(substrate, energy)
    threshold = frame.geometry.threshold / frame.beam.beam_energy
    outside = check_validity(card, Condition(pixel, energy, threshold, substrate == "Cu2O"))
    # What follows the colon is said of the transformer's heights, which are not made.
    return "; ".join(sentence.split(":")[0] for sentence in outside) or None

"""The dry run: what a recipe would do on an instrument, and everything that speaks against it.

No clock runs and no device is spoken to: the compiled actions are played against a model of their timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acquisition.actions import Action
from acquisition.chamber import Chamber, chamber_of
from acquisition.dry_run import DryRun
from acquisition.foretold import foretold
from acquisition.gas_rules import GasRules
from acquisition.imaging import ImagingText, LimitsText
from acquisition.interlocks import instrument_interlocks, recipe_interlocks
from acquisition.paths import paths
from acquisition.recipe import LoadedRecipe, in_order, load_recipe, outline, parse_recipe, written_steps
from acquisition.setpoint_limits import SetpointLimits
from acquisition.steps import Step
from acquisition.timeline import Entry, notes, timeline
from acquisition.timing import Timing, play
from acquisition.unrolling import place_of
from acquisition.wording import duration_text
from drivers import document
from drivers.contract import Instrument
from drivers.document import Address, Document
from drivers.errors import DocumentError, Problem
from drivers.units import ELEMENTARY_CHARGE


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take.

    Attributes
    ----------
    name : str
        The recipe's.
    duration : float, s
        With overheads; the longest, where a condition decides.
    actions, frames, darks : int
    dose : float, C/m²
        Where it is highest, over the whole run.
    disk_bytes : int
    maximum_temperature : float, K
    maximum_pressure : float or None, Pa
        None where the instrument does not tell how it is pumped.
    timeline : tuple of Entry
        What takes time, in its order; a series is one stretch.
    notes : tuple of str
        What a person should know, and nothing refuses.
    """

    name: str
    duration: float
    actions: int
    frames: int
    darks: int
    dose: float
    disk_bytes: int
    maximum_temperature: float
    maximum_pressure: float | None
    timeline: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    @property
    def electrons_per_area(self) -> float:
        """Primary electrons per area, 1/m²."""
        return self.dose / ELEMENTARY_CHARGE

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON data; every quantity is value and unit."""
        pressure = None if self.maximum_pressure is None else _json(self.maximum_pressure, "Pa")
        return {
            "name": self.name,
            "duration": _json(self.duration, "s"),
            "actions": self.actions,
            "frames": self.frames,
            "dark_frames": self.darks,
            "dose": _json(self.dose, "C/m**2"),
            "electrons_per_area": {"value": self.electrons_per_area * 1e-18, "unit": "1/nm**2"},
            "disk": _json(self.disk_bytes, "B"),
            "maximum_temperature": _json(self.maximum_temperature, "K"),
            "maximum_pressure": pressure,
            "timeline": [
                {"start": _json(start, "s"), "duration": _json(duration, "s"), "address": address, "label": label}
                for start, duration, address, label in self.timeline
            ],
            "notes": list(self.notes),
        }


def _json(value: float, unit: str) -> dict[str, float | str]:
    return {"value": float(value), "unit": unit}


def check(
    loaded: LoadedRecipe,
    instrument: Instrument,
    *,
    rules: GasRules | None = None,
    timing: Timing | None = None,
    chamber: Chamber | None = None,
) -> Plan:
    """Play a recipe dry against an instrument's limits, gas rules, interlocks and timing.

    Parameters
    ----------
    loaded : LoadedRecipe
    instrument : Instrument
        Only its limits, timing and description are looked at.
    rules, timing, chamber : optional
        As the instrument tells unless given.

    Raises
    ------
    DocumentError
        With everything that must not be played, in the order of the text.
    """
    rules = rules or GasRules.of(instrument)
    chamber = chamber or chamber_of(instrument)
    timing = timing or Timing.of(instrument)
    ways = [
        DryRun(tuple(play(way, timing)), instrument, chamber, loaded.recipe.limits or LimitsText())
        for way in paths(outline(loaded.recipe))
    ]
    found = list(SetpointLimits(instrument, loaded.recipe.limits).recipe(loaded.recipe))
    found += _first_of_each(finding for dry in ways for finding in dry.findings(rules))
    worst = max(ways, key=lambda dry: dry.dose)
    found += [(("limits", "dose"), message) for message in worst.over_dose()]
    own = instrument_interlocks(instrument)
    added, problems = recipe_interlocks(loaded.recipe.interlocks, instrument, own)
    ahead = [one for dry in ways for one in foretold([*own, *added], dry.moments, instrument, chamber)]
    found += problems
    found += _first_of_each((one.action, one.message) for one in ahead if one.then != "warn")
    if found:
        raise in_order([loaded.document.problem(message, place) for place, message in found])
    return _sums(loaded.recipe.name, ways, [f"{one.action.address}: {one.message}" for one in ahead])


def _first_of_each(findings: Iterable[tuple[Action, str]]) -> list[tuple[Address, str]]:
    """Return each finding with its place in the document, once where a repeat makes it again."""
    first: dict[tuple[Address, str], str] = {}
    for action, message in findings:
        place = place_of(action.address)
        first.setdefault((place, message.partition(";")[0]), message)
    return [(place, message) for (place, _), message in first.items()]


def _sums(name: str, ways: Sequence[DryRun], warnings: Sequence[str]) -> Plan:
    """Return the most that any of the ways takes, each figure by itself; the timeline is the longest one's."""
    longest = max(ways, key=lambda dry: dry.duration)
    pressures = [dry.maximum_pressure for dry in ways if dry.maximum_pressure is not None]
    return Plan(
        name=name,
        duration=longest.duration,
        actions=max(dry.actions for dry in ways),
        frames=max(dry.frames for dry in ways),
        darks=max(dry.darks for dry in ways),
        dose=max(dry.dose for dry in ways),
        disk_bytes=max(dry.disk_bytes for dry in ways),
        maximum_temperature=max(dry.maximum_temperature for dry in ways),
        maximum_pressure=max(pressures) if pressures else None,
        timeline=tuple(timeline(longest.moments)),
        notes=tuple(dict.fromkeys([*_ranges(ways), *(note for dry in ways for note in notes(dry)), *warnings])),
    )


def _ranges(ways: Sequence[DryRun]) -> Iterator[str]:
    """Yield what a run with decisions takes at least and at most."""
    if len(ways) < 2:
        return
    low, high = (choose(dry.duration for dry in ways) for choose in (min, max))
    fewest, most = (choose(dry.frames for dry in ways) for choose in (min, max))
    yield (
        f"it depends on decisions: from {duration_text(low)} to {duration_text(high)}, from {fewest} to {most} frames; "
        "what is told here is the most of each"
    )


def check_file(path: Path, instrument: Instrument) -> tuple[LoadedRecipe, Plan]:
    """Read a recipe and play it dry; what cannot be read does not hide which readable setpoints are out of limits.

    Raises
    ------
    InputError, DocumentError
        As :func:`acquisition.recipe.load_recipe` and :func:`check`.
    """
    try:
        loaded = load_recipe(path)
    except DocumentError as error:
        found = _limits_of_readable_parts(lambda: document.read(path, lenient=True), instrument)
        raise in_order([*error.problems, *found]) from None
    return loaded, check(loaded, instrument)


def check_text(text: str, name: str, instrument: Instrument) -> tuple[LoadedRecipe, Plan]:
    """As :func:`check_file`, of a recipe that lies in no file; ``name`` is what errors call it."""
    try:
        loaded = parse_recipe(text, name)
    except DocumentError as error:
        found = _limits_of_readable_parts(lambda: document.parse(text, name, lenient=True), instrument)
        raise in_order([*error.problems, *found]) from None
    return loaded, check(loaded, instrument)


def _limits_of_readable_parts(read: Callable[[], Document], instrument: Instrument) -> Iterator[Problem]:
    try:
        source = read()
    except DocumentError:
        return
    written = source.data if isinstance(source.data, dict) else {}
    limits = source.collect(LimitsText, ("limits",))[0] if "limits" in written else None
    checks = SetpointLimits(instrument, limits)
    found: list[tuple[Address, str]] = []
    if "imaging" in written:
        imaging = source.collect(ImagingText, ("imaging",))[0]
        found += checks.imaging(imaging, ("imaging",)) if imaging is not None else ()
    for address, keys in written_steps(source):
        step = source.collect(Step, address)[0] if not {"steps", "then", "else"} & keys.keys() else None
        found += checks.step(step, address) if step is not None else ()
    for place, message in found:
        yield source.problem(message, place)

"""A recipe: what a night does, written in YAML, read with every error at once, compiled to flat actions.

::

    name: a first look
    imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 512, dwell_time: 10 us}
    steps:
      - ramp: {heater: 400 degC, rate: 20 K/min}
      - dark: 4
      - series: {every: 30 s, for: 10 min}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from acquisition.actions import (
    Acquire,
    Action,
    BeginSeries,
    Configure,
    Dark,
    Hold,
    Imaging,
    Interruption,
    Note,
    Ramp,
    Set,
    SetGas,
)
from acquisition.imaging import ImagingText, LimitsText
from acquisition.steps import MAXIMUM_ACTIONS, SeriesText, Step, not_empty, verb_problem
from acquisition.written import Written
from drivers import document
from drivers.document import Address, Document
from drivers.errors import DocumentError, InputError, Problem
from drivers.units import Q, quantity, si

READY_MADE = Path(__file__).with_name("recipes")
"""Folder of the recipes that come with the program."""


class Recipe(Written):
    """A night, as its YAML file says it."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="What the night is called.", examples=["copper redox at 800 °C"]
    )
    description: Annotated[str, Field(max_length=10_000)] = Field("", description="What it is for, in any words.")
    imaging: ImagingText | None = Field(
        None, description="How frames are taken; needed as soon as a step takes some. A step may change it for itself."
    )
    limits: LimitsText | None = Field(None, description="What this recipe must not pass, within the instrument's own.")
    steps: Annotated[tuple[Step, ...], AfterValidator(not_empty)] = Field(
        description="What happens, one after another."
    )

    def walk(self) -> Iterator[tuple[Address, Step]]:
        """Yield every step with its place in the document, those inside a repeat once."""
        yield from _walk(self.steps, ("steps",))


def _walk(steps: tuple[Step, ...], at: Address) -> Iterator[tuple[Address, Step]]:
    for index, step in enumerate(steps):
        address = (*at, index)
        yield address, step
        if step.steps is not None:
            yield from _walk(step.steps, (*address, "steps"))


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe with the text that it was read from.

    Attributes
    ----------
    recipe : Recipe
    document : Document
        Knows the line and column of everything.
    text : str
        As it stood in the file; goes to the log.
    """

    recipe: Recipe
    document: Document
    text: str


def load_recipe(path: Path) -> LoadedRecipe:
    """Read a recipe from a YAML file.

    Raises
    ------
    InputError
        For a file that cannot be read as text.
    DocumentError
        With all problems of the recipe, in the order of the text.
    """
    return _understood(document.read(path), path.read_text("utf-8-sig"))


def parse_recipe(text: str, name: str = "recipe.yaml") -> LoadedRecipe:
    """Read a recipe from text; ``name`` is what errors call it.

    Raises
    ------
    DocumentError
        With all problems of the recipe, in the order of the text.
    """
    return _understood(document.parse(text, name), text)


def _understood(source: Document, text: str) -> LoadedRecipe:
    recipe, problems = source.collect(Recipe)
    if recipe is None:
        raise in_order([*problems, *_misplaced_verbs(source)])
    problems = [source.problem(message, address) for address, message in recipe_problems(recipe)]
    if problems:
        raise in_order(problems)
    return LoadedRecipe(recipe, source, text)


def in_order(problems: list[Problem]) -> DocumentError:
    """Return one error with each problem once, in the order of the text."""
    return DocumentError(sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column)))


def written_steps(source: Document) -> Iterator[tuple[Address, dict[str, Any]]]:
    """Yield every step of a document, valid or not, with its place; what is not a mapping is left out."""
    if isinstance(source.data, dict):
        yield from _written_steps(source.data.get("steps"), ("steps",))


def _written_steps(steps: Any, at: Address) -> Iterator[tuple[Address, dict[str, Any]]]:
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        if isinstance(step, dict):
            yield (*at, index), step
            yield from _written_steps(step.get("steps"), (*at, index, "steps"))


@lru_cache(maxsize=1)
def _step_keys() -> frozenset[str]:
    return frozenset(field.alias or name for name, field in Step.model_fields.items())


def _misplaced_verbs(source: Document) -> Iterator[Problem]:
    """Yield what pydantic does not come to where a step has another error as well."""
    for address, step in written_steps(source):
        message = verb_problem(step) if step.keys() <= _step_keys() else None
        if message is not None:
            yield source.problem(message, address)


def recipe_problems(recipe: Recipe) -> Iterator[tuple[Address, str]]:
    """Yield what is wrong with a recipe whose parts are valid, each with its place."""
    base = recipe.imaging.imaging() if recipe.imaging is not None else None
    yield from _without_imaging(recipe.steps, ("steps",), base)
    total = sum(step.count_actions() for step in recipe.steps)
    if total > MAXIMUM_ACTIONS:
        index, most = max(enumerate(recipe.steps), key=lambda item: item[1].count_actions())
        message = f"the recipe unrolls to {total} actions, {most.count_actions()} of them here; "
        yield ("steps", index), f"{message}expected {MAXIMUM_ACTIONS} at most: repeat less often, or take fewer frames"


def _without_imaging(steps: tuple[Step, ...], at: Address, base: Imaging | None) -> Iterator[tuple[Address, str]]:
    for index, step in enumerate(steps):
        imaging = step.changed(base)
        if step.images and imaging is None:
            yield (*at, index), f"frames need imaging; write {', '.join(ImagingText.model_fields)} at the recipe's top"
        if step.steps is not None:
            yield from _without_imaging(step.steps, (*at, index, "steps"), imaging)


def compile_recipe(recipe: Recipe) -> tuple[Action, ...]:
    """Return what the engine does, with repeats and series unrolled. The same recipe gives the same actions.

    Raises
    ------
    InputError
        For a recipe that :func:`load_recipe` would refuse.
    """
    for address, message in recipe_problems(recipe):
        raise InputError(message, document.format_address(address))
    compiler = _Compiler()
    imaging = None
    if recipe.imaging is not None:
        imaging = recipe.imaging.imaging()
        compiler.configure(imaging, {"address": ""})
    for index, step in enumerate(recipe.steps):
        compiler.step(step, f"steps[{index}]", imaging, "continue", "")
    return tuple(compiler.actions)


class _Compiler:
    """Gathers actions, and remembers how the beam stands."""

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.standing: Imaging | None = None

    def configure(self, imaging: Imaging, common: dict[str, Any]) -> None:
        if imaging != self.standing:
            address = ".".join(part for part in (common["address"], "imaging") if part)
            self.actions.append(Configure(**{**common, "address": address}, imaging=imaging))
            self.standing = imaging

    def step(self, step: Step, at: str, base: Imaging | None, inherited: Interruption, name: str) -> None:
        imaging = step.changed(base)
        interruption = step.on_interruption or inherited
        name = step.name or name
        if step.repeat is not None:
            for turn in range(step.repeat):
                for index, inner in enumerate(step.steps or ()):
                    self.step(inner, f"{at}.repeat[{turn}].steps[{index}]", imaging, interruption, name)
            return
        common: dict[str, Any] = {"address": at, "name": name, "on_interruption": interruption}
        if step.images and imaging is not None:
            self.configure(imaging, common)
        self.actions.extend(_actions(step, at, {"name": name, "on_interruption": interruption}))


def _actions(step: Step, at: str, common: dict[str, Any]) -> Iterator[Action]:
    """Yield the actions of a step without repeats, in the order in which they happen: gas comes first."""
    if step.note is not None:
        yield Note(address=f"{at}.note", text=step.note, **common)
    for parameter, value in (step.settings or {}).items():
        yield Set(address=f"{at}.set.{parameter}", parameter=parameter, value=value, **common)
    if step.gas is not None:
        yield SetGas(address=f"{at}.gas", flows=step.gas, **common)
    if step.purge is not None:
        yield SetGas(address=f"{at}.purge.gas", flows=step.purge.flows, **common)
        yield Hold(address=f"{at}.purge.hold", duration=step.purge.duration, **common)
    if step.ramp is not None:
        optional = {"tolerance": step.ramp.tolerance, "at_most": step.ramp.at_most}
        given: dict[str, Any] = {key: value for key, value in optional.items() if value is not None}
        yield Ramp(address=f"{at}.ramp", target=step.ramp.heater, rate=step.ramp.rate, **given, **common)
    if step.hold is not None:
        yield Hold(address=f"{at}.hold", duration=step.hold, **common)
    if step.dark is not None:
        yield Dark(address=f"{at}.dark", frames=step.dark, **common)
    if step.frame is not None:
        yield Acquire(address=f"{at}.frame", **common)
    for number in range(step.frames or 0):
        yield Acquire(address=f"{at}.frames[{number}]", number=number, **common)
    if step.series is not None:
        yield from _series(step.series, f"{at}.series", common)


def _series(series: SeriesText, at: str, common: dict[str, Any]) -> Iterator[Action]:
    condition = series.stop_when.condition() if series.stop_when is not None else None
    yield BeginSeries(address=at, every=series.every, count=series.count, stop_when=condition, **common)
    every = si(series.every)
    for number in range(series.count):
        offset: Q = quantity(number * every, "s")
        yield Acquire(address=f"{at}[{number}]", group=at, number=number, offset=offset, **common)


def place_of(address: str) -> Address:
    """Return where in the document the action with this address was written.

    >>> place_of("steps[7].repeat[0].steps[1].series[17]")
    ('steps', 7, 'steps', 1, 'series')
    >>> place_of("steps[2].set.column.focus")
    ('steps', 2, 'set', 'column.focus')
    """
    place: list[str | int] = []
    rest = address
    while rest:
        if place and place[-1] == "set":
            place.append(rest)
            break
        part, _, rest = rest.partition(".")
        word, _, index = part.partition("[")
        if word == "steps":
            place += ["steps", int(index[:-1])]
        elif word != "repeat":
            place.append(word)
    if len(place) > 2 and place[-2] == "purge":
        place.pop()
    return tuple(place)


def ready_made() -> dict[str, Path]:
    """Return the recipes that come with the program, by name."""
    return {path.stem: path for path in sorted(READY_MADE.glob("*.yaml"))}

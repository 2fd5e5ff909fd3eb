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

from acquisition.actions import Action, Imaging
from acquisition.conditions import MEASURED
from acquisition.imaging import ImagingText, LimitsText
from acquisition.interlocks import problems_of_texts
from acquisition.steps import MAXIMUM_ACTIONS, VERBS, Step, not_empty, verb_problem
from acquisition.unrolling import unroll
from acquisition.written import Text, Written
from drivers import document
from drivers.document import Address, Document
from drivers.errors import DocumentError, InputError, Problem
from drivers.safety import InterlockFile

READY_MADE = Path(__file__).with_name("recipes")
"""Folder of the recipes that come with the program."""


class Recipe(Written):
    """A night, as its YAML file says it."""

    name: Annotated[Text, Field(max_length=200)] = Field(
        description="What the night is called.", examples=["copper redox at 800 °C"]
    )
    description: Annotated[str, Field(max_length=10_000)] = Field("", description="What it is for, in any words.")
    imaging: ImagingText | None = Field(
        None, description="How frames are taken; needed as soon as a step takes some. A step may change it for itself."
    )
    limits: LimitsText | None = Field(None, description="What this recipe must not pass, within the instrument's own.")
    interlocks: tuple[InterlockFile, ...] = Field(
        (),
        description="Rules on readbacks beside the instrument's own, which stay in force whatever stands here.",
        examples=[[{"when": "pressure above 50 Pa for 10 s", "then": "suspend"}]],
    )
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
        for key, inner in step.inner:
            yield from _walk(inner, (*address, key))


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
    return _understood(document.read(path, lenient=True))


def parse_recipe(text: str, name: str = "recipe.yaml") -> LoadedRecipe:
    """Read a recipe from text; ``name`` is what errors call it.

    Raises
    ------
    DocumentError
        With all problems of the recipe, in the order of the text.
    """
    return _understood(document.parse(text, name, lenient=True))


def _understood(source: Document) -> LoadedRecipe:
    recipe, problems = source.collect(Recipe)
    if recipe is None:
        raise in_order([*problems, *_misplaced_verbs(source), *_odd_interlocks(source)])
    problems = [source.problem(message, address) for address, message in recipe_problems(recipe)]
    if problems:
        raise in_order(problems)
    return LoadedRecipe(recipe, source, source.text)


def _odd_interlocks(source: Document) -> Iterator[Problem]:
    """Yield what is wrong with the texts of rules, where an error elsewhere keeps the recipe from being understood."""
    written = source.data.get("interlocks") if isinstance(source.data, dict) else None
    for index in range(len(written) if isinstance(written, list) else 0):
        entry = source.collect(InterlockFile, ("interlocks", index))[0]
        for (_, _, *rest), message in problems_of_texts([entry] if entry is not None else []):
            yield source.problem(message, ("interlocks", index, *rest))


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
            for key in ("steps", "then", "else"):
                yield from _written_steps(step.get(key), (*at, index, key))


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
    yield from problems_of_texts(recipe.interlocks)
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
        if step.beam_check is not None and step.beam_check.current is None and imaging is None:
            yield (*at, index, "beam_check"), "the probe current is not known here; write it, such as current: 1 nA"
        for key, inner in step.inner:
            yield from _without_imaging(inner, (*at, index, key), imaging)


def compile_recipe(recipe: Recipe) -> tuple[Action, ...]:
    """Return what the engine does, with repeats and series unrolled. The same recipe gives the same actions.

    Raises
    ------
    InputError
        For a recipe that :func:`load_recipe` would refuse.
    """
    return _unrolled(recipe, series=True)


def outline(recipe: Recipe) -> tuple[Action, ...]:
    """Return the same actions as :func:`compile_recipe`, the frames of series left out: enough to plan with.

    Raises
    ------
    InputError
        For a recipe that :func:`load_recipe` would refuse.
    """
    return _unrolled(recipe, series=False)


def _unrolled(recipe: Recipe, *, series: bool) -> tuple[Action, ...]:
    for address, message in recipe_problems(recipe):
        raise InputError(message, document.format_address(address))
    return unroll(recipe.steps, recipe.imaging.imaging() if recipe.imaging is not None else None, series=series)


def ready_made() -> dict[str, Path]:
    """Return the recipes that come with the program, by name."""
    return {path.stem: path for path in sorted(READY_MADE.glob("*.yaml"))}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, for editors: every key with what it means and how it is written."""
    schema = Recipe.model_json_schema(by_alias=True)
    step = schema["$defs"]["Step"]
    step["anyOf"] = [{"required": [verb]} if verb != "when" else {"required": ["when", "then"]} for verb in VERBS] + [
        {"required": ["when", "else"]}
    ]
    step["dependentRequired"] = {"repeat": ["steps"], "steps": ["repeat"], "then": ["when"], "else": ["when"]}
    schema["$defs"]["SeriesText"]["oneOf"] = [{"required": ["for"]}, {"required": ["count"]}]
    for name in ("StopText", "FasterText", "WhenText"):
        schema["$defs"][name]["oneOf"] = [{"required": [figure]} for figure in MEASURED]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rilievo recipe",
        **{key: value for key, value in _without_null(schema).items() if key != "title"},
    }


def _without_null(part: Any) -> Any:
    """Return a schema without the nulls that only stand for keys left out, and without pydantic's titles."""
    if isinstance(part, list):
        return [_without_null(item) for item in part]
    if not isinstance(part, dict):
        return part
    titled = isinstance(part.get("title"), str)
    part = {key: _without_null(value) for key, value in part.items() if not (key == "title" and titled)}
    if part.get("default", 0) is None:
        del part["default"]
    choices = part.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        rest = [choice for choice in choices if choice != {"type": "null"}]
        del part["anyOf"]
        part = {**rest[0], **part} if len(rest) == 1 else {**part, "anyOf": rest}
    return part

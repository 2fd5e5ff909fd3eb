"""YAML documents that remember where every value stood, so that an error can point at it.

YAML 1.1 turns ``NO`` into false, ``12:30:00`` into 45000 and ``010`` into 8. Such scalars are refused with the advice
to quote them, and so are keys that stand twice. All problems of a document are found at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from drivers.errors import DocumentError, InputError, Problem

Address = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

MAXIMUM_BYTES = 2_000_000
DEEPEST = 100
"""Levels of lists and mappings."""
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_SURPRISES = (
    (re.compile(r"yes|no|on|off|y|n", re.IGNORECASE), "some YAML readers take it for true or false"),
    (re.compile(r"[-+]?\d+(:[0-5]?\d)+(\.\d*)?"), "some YAML readers take it for a number in base 60"),
    (re.compile(r"[-+]?0\d+"), "some YAML readers take it for an octal number"),
    (re.compile(r"[-+]?\d[\d_]*_[\d_]*"), "some YAML readers drop the underscore"),
)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d*)")
_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, populate_by_name=True)


def format_address(address: Iterable[str | int]) -> str:
    """Return ``steps[3].ramp`` for ``("steps", 3, "ramp")``."""
    text = ""
    for part in address:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@dataclass
class Document:
    """The content of a YAML text and the place of each value.

    Attributes
    ----------
    name : str
        Of the file, as errors show it.
    data : object
        Mappings, sequences and scalars.
    text : str
        As it was read.
    values, keys : dict of address to (line, column)
        Where each value, and each key, begins; counted from 1.
    problems : list of Problem
        Keys that stand twice and scalars that YAML 1.1 would change.
    """

    name: str
    data: Any = None
    values: dict[Address, tuple[int, int]] = field(default_factory=dict)
    keys: dict[Address, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    text: str = ""

    def problem(self, message: str, address: Address = (), *, at_key: bool = False) -> Problem:
        """Return a problem that points at a value, or at its key."""
        places = self.keys if at_key and address in self.keys else self.values
        known = address
        while known not in places and known:
            known = known[:-1]
            places = self.values
        line, column = places.get(known, (0, 0))
        return Problem(message, format_address(address), self.name, line, column)

    def collect(self, model: type[Model], at: Address = ()) -> tuple[Model | None, list[Problem]]:
        """Validate the part of the document at ``at``; return the model, or None and the problems."""
        inside = format_address(at)
        problems = [problem for problem in self.problems if _within(problem.address, inside)]
        try:
            valid = model.model_validate(self.get(at))
        except ValidationError as error:
            found = [self._explain(details, at, model) for details in error.errors(include_url=False)]
            # What is ambiguous as it stands need not also be told to be wrong.
            known = {problem.address for problem in problems}
            return None, problems + [problem for problem in found if problem.address not in known]
        return (None, problems) if problems else (valid, [])

    def validate(self, model: type[Model], at: Address = ()) -> Model:
        """Return the part of the document at ``at`` as a model.

        Raises
        ------
        DocumentError
            With all problems, in the order of the text.
        """
        valid, problems = self.collect(model, at)
        if valid is None:
            raise DocumentError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
        return valid

    def get(self, address: Address) -> Any:
        """Return the value at an address."""
        value = self.data
        for part in address:
            value = value[part]
        return value

    def _explain(self, details: ErrorDetails, at: Address, model: type[BaseModel]) -> Problem:
        address, missing = self._resolve(at, details["loc"])
        kind, shown = details["type"], _shown(details["input"])
        if kind == "extra_forbidden":
            key = str(details["loc"][-1])
            return self.problem(
                f"{key!r} is not a key here{_suggest(key, model, details['loc'][:-1])}", address, at_key=True
            )
        if kind == "missing":
            return self.problem(f"the key {missing!r} is missing", address)
        if kind in ("quantity", "rilievo"):
            return self.problem(details["msg"], address)
        if kind.startswith(("model_type", "dict_type", "model_attributes")):
            return self.problem(f"expected keys with values{_example(model, details['loc'])}; got {shown}", address)
        if kind in ("list_type", "tuple_type"):
            return self.problem(f"expected a list; begin each entry with '- '; got {shown}", address)
        message = details["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        expected = message if message != details["msg"] and details["type"] != "value_error" else None
        return self.problem(f"expected {expected}; got {shown}" if expected else message, address)

    def _resolve(self, at: Address, location: tuple[int | str, ...]) -> tuple[Address, str]:
        """Return the address in the text that belongs to pydantic's location, and what is missing there.

        Pydantic's location also names the members of unions that it tried: what the data do not hold is passed over.
        """
        address, value, missing = at, self.get(at), ""
        for part in location:
            inside = (isinstance(value, Mapping) and part in value) or (
                isinstance(value, list) and isinstance(part, int) and part < len(value)
            )
            if inside:
                value = value[part]
                address = (*address, part)
            else:
                missing = str(part)
        return address, missing


def _within(address: str, outer: str) -> bool:
    """Return whether an address lies in another one, which is empty for the whole document."""
    return not outer or address == outer or address.startswith((f"{outer}.", f"{outer}["))


def parse(text: str, name: str = "document", *, lenient: bool = False) -> Document:
    """Read YAML text.

    Parameters
    ----------
    text, name : str
    lenient : bool
        Leave keys that stand twice and scalars that YAML 1.1 would change to :meth:`Document.validate`, which tells
        them with everything else; otherwise they are raised here.

    Raises
    ------
    DocumentError
        For text that is not YAML, refers to itself, or has such keys and scalars.
    """
    document = Document(name, text=text)
    _refuse_depths(text, name)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        reason = " ".join(part for part in (error.context, error.problem) if part)
        rows = text.splitlines()
        if mark and mark.line < len(rows) and "\t" in rows[mark.line][: mark.column + 1]:
            reason = "a tab; indent with spaces"
        raise DocumentError([Problem(f"not valid YAML: {reason}", "", name, line, column)]) from None
    except yaml.YAMLError as error:
        raise DocumentError([Problem(f"not valid YAML: {str(error).splitlines()[0]}", "", name)]) from None
    if node is None:
        raise DocumentError([Problem("the document is empty", "", name, 1, 1)])
    builder = _Builder(document)
    document.data = builder.build(node, ())
    if document.problems and (builder.endless or not lenient):
        raise DocumentError(document.problems)
    return document


def read(path: Path, *, lenient: bool = False) -> Document:
    """Read a YAML file; ``lenient`` as :func:`parse` has it.

    Raises
    ------
    DocumentError, InputError
        For a file that is not there, cannot be opened, or is not text.
    """
    name = str(path)
    try:
        size = path.stat().st_size
        if size > MAXIMUM_BYTES:
            raise InputError(
                f"the file has {size / 1e6:.1f} MB; a document has {MAXIMUM_BYTES / 1e6:g} MB at most", name
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such file; check the path", name) from None
    except IsADirectoryError:
        raise InputError("this is a folder; name a YAML file", name) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", name) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not text in UTF-8 (byte {error.start}); name a YAML file", name) from None
    if "\x00" in text:
        raise InputError("is a binary file; name a YAML file", name)
    return parse(text, name, lenient=lenient)


def _refuse_depths(text: str, name: str) -> None:
    """Refuse a text that nests without end, which would exhaust the stack of YAML's parser, and ours."""
    if max(text.count("[") + text.count("{"), text.count("- ") + text.count(":")) < DEEPEST:
        return
    depth = 0
    with suppress(yaml.YAMLError):  # what is not YAML is explained by the reader
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                message = f"lists and mappings go more than {DEEPEST} levels deep; unfold some"
                mark = event.start_mark
                line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
                raise DocumentError([Problem(message, "", name, line, column)])


class _Builder:
    """Turns composed nodes into data, and notes where they stood."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: set[int] = set()
        self.count = 0
        self.endless = False

    def build(self, node: yaml.Node, address: Address) -> Any:
        mark = node.start_mark
        self.document.values[address] = (mark.line + 1, mark.column + 1)
        self.count += 1
        if id(node) in self.open or self.count > 100_000:
            self.endless = True
            self._note("the document refers to itself, or is too large", address)
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, address)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(child, (*address, index)) for index, child in enumerate(node.value)]
            return dict(self._items(node, address))
        finally:
            self.open.discard(id(node))

    def _items(self, node: Any, address: Address) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                self._note("a key must be a word", address)
                continue
            key = str(key_node.value)
            place = (*address, key)
            if key in seen:
                first = self.document.keys[place][0]
                self.document.values[place] = (mark.line + 1, mark.column + 1)
                self._note(f"the key {key!r} stands twice, first in line {first}; remove one", place)
                continue
            seen.add(key)
            self.document.keys[place] = (mark.line + 1, mark.column + 1)
            if not key_node.style and key != "y":  # beside an x nobody takes it for true
                self._refuse_surprise(key, place, mark)
            yield key, self.build(value_node, place)

    def _scalar(self, node: yaml.ScalarNode, address: Address) -> Any:
        text = str(node.value)
        if node.tag.startswith("tag:yaml.org,2002:python") or node.tag.startswith("!"):
            self._note(f"the tag {node.tag!r} is not allowed", address)
            return None
        if node.style:  # quoted or block: text as it stands
            return text
        if self._refuse_surprise(text, address, node.start_mark):
            return text
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
            return text[0] in "tT"
        if _INTEGER.fullmatch(text) and len(text) < 300:
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return text

    def _refuse_surprise(self, text: str, address: Address, mark: Any) -> bool:
        for pattern, reason in _SURPRISES:
            if pattern.fullmatch(text):
                self.document.values[address] = (mark.line + 1, mark.column + 1)
                self._note(f"{text} without quotes is ambiguous ({reason}); write '{text}' in quotes", address)
                return True
        return False

    def _note(self, message: str, address: Address) -> None:
        self.document.problems.append(self.document.problem(message, address))


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return f"the key{'s' if len(value) != 1 else ''} {_listed(value)}" if value else "no keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _listed(names: Iterable[object]) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:4]) + (" …" if len(shown) > 4 else "")


def _suggest(key: str, model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    here = _model_at(model, location)
    own = [] if here is None else [info.alias or name for name, info in here.model_fields.items()]
    close = difflib.get_close_matches(key, own, n=1) or difflib.get_close_matches(key, sorted(_field_names(model)), n=1)
    return f"; did you mean {close[0]!r}?" if close else "; remove it, or see the schema for the keys"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model at pydantic's location; None where it is not one alone, as in a union."""
    for part in location:
        if isinstance(part, int):
            continue
        found = next((info for name, info in model.model_fields.items() if part in (name, info.alias)), None)
        inner = set() if found is None else _models_in(found.annotation)
        if len(inner) != 1:
            return None
        (model,) = inner
    return model


def _example(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return an example of a mapping as people write it, where its field gives one."""
    above = _model_at(model, location[:-1]) if location else None
    fields = () if above is None else above.model_fields.items()
    given = next((info.examples for name, info in fields if location[-1] in (name, info.alias)), None)
    if not given or not isinstance(given[0], Mapping):
        return ""
    return ", such as {" + ", ".join(f"{key}: {value}" for key, value in given[0].items()) + "}"


def _models_in(kind: Any) -> set[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {kind}
    return {model for part in get_args(kind) for model in _models_in(part)}


@lru_cache(maxsize=64)
def _field_names(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of the keys of a model and of the models inside it."""
    names: set[str] = set()
    seen: set[Any] = set()
    stack: list[Any] = [model]
    while stack:
        kind = stack.pop()
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, info in kind.model_fields.items():
                names.add(info.alias or name)
                stack.append(info.annotation)
        else:
            stack.extend(get_args(kind))
    return frozenset(names)

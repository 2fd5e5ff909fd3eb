"""What makes a method something that may be asked from elsewhere: its role, its control, its place in the audit log.

Arguments are checked against the method's annotations, strictly: what travels is text, numbers and truth values, and a
wrong one gets a sentence, not a traceback.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from pydantic import ConfigDict, StringConstraints, ValidationError, validate_call

from acquisition.access import Role
from drivers.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Asked")

Name = Annotated[str, StringConstraints(max_length=200)]
Sentence = Annotated[str, StringConstraints(max_length=500)]
_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)

RecipeText = Annotated[str, StringConstraints(max_length=2**20)]


@dataclass(frozen=True, slots=True)
class Command:
    """Something that may be asked.

    Attributes
    ----------
    name : str
    role : Role
        That is needed.
    control : bool
        Whether whoever asks has to hold control of the microscope.
    audited : bool
        Whether it stands in the audit log.
    urgent : bool
        Whether it is done before it is written down: what makes things safe waits for no database.
    """

    name: str
    role: Role = Role.OBSERVER
    control: bool = False
    audited: bool = False
    urgent: bool = False


class Asked(Protocol):
    """Whose methods are asked."""

    def perform(self, command: Command, arguments: dict[str, Any], do: Callable[[], T]) -> T:
        """Do it, where whoever asks may."""


def asks(
    role: Role = Role.OBSERVER, *, control: bool = False, audited: bool = False, urgent: bool = False
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """Return a decorator; see :class:`Command`."""

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        command = Command(method.__name__, role, control, audited, urgent)
        signature = inspect.signature(method)
        checked: Any = None

        @functools.wraps(method)
        def ask(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
            nonlocal checked
            if checked is None:
                checked = validate_call(config=_STRICT)(method)
            try:
                arguments = dict(list(signature.bind(self, *args, **kwargs).arguments.items())[1:])
            except TypeError as error:
                raise InputError(f"{error}; it takes {_taken(signature)}", command.name) from None

            def do() -> T:
                try:
                    result: T = checked(self, **arguments)
                except ValidationError as error:
                    if error.title != method.__qualname__:
                        raise  # one of somebody else's models
                    raise _wrong(command.name, error) from None
                return result

            return self.perform(command, arguments, do)

        ask.command = command  # type: ignore[attr-defined]
        return cast("Callable[Concatenate[S, P], T]", ask)

    return decorate


def _taken(signature: inspect.Signature) -> str:
    return ", ".join(list(signature.parameters)[1:]) or "no arguments"


def commands_of(kind: type) -> dict[str, Command]:
    """Return what may be asked of a class, by name: this table, and nothing else, is open to others."""
    found = (getattr(getattr(kind, name), "command", None) for name in dir(kind) if not name.startswith("_"))
    return {command.name: command for command in found if isinstance(command, Command)}


def _wrong(name: str, error: ValidationError) -> InputError:
    told = []
    for detail in error.errors(include_url=False, include_context=False)[:5]:
        place = ".".join(str(part) for part in detail["loc"])
        given = repr(detail["input"])
        shown = given if len(given) <= 60 else f"{given[:59]}…"
        told.append(f"{place}: {detail['msg'][:1].lower()}{detail['msg'][1:]} (got {shown})")
    return InputError("; ".join(told), name)

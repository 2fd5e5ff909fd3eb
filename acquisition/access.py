"""Who asks, and what they may: roles, people, and the errors of those who may not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from drivers.errors import InputError, RilievoError


class Role(StrEnum):
    """What somebody may do. An operator may all that an observer may, an administrator all that an operator may."""

    OBSERVER = "observer"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"

    def covers(self, needed: Role) -> bool:
        """Return whether this role is enough where ``needed`` is asked for."""
        order = list(Role)
        return order.index(self) >= order.index(needed)

    @classmethod
    def named(cls, name: str) -> Role:
        """Return the role of a name.

        Raises
        ------
        InputError
            With the names there are.
        """
        try:
            return cls(name)
        except ValueError:
            raise InputError(f"expected one of {', '.join(cls)}; got {name!r}", "role") from None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who asks, as it stands in the audit log.

    Attributes
    ----------
    name : str
    role : Role
    address : str
        Where from: ``127.0.0.1:40312``, or ``page``.
    by : str
        What vouches for the role: ``token``, ``certificate``, ``password``.
    session : str
        The same for everything that one program of this person asks, across connections; control is held by it.
    """

    name: str
    role: Role
    address: str
    by: str
    session: str

    def __str__(self) -> str:
        return f"{self.name} ({self.role}, {self.address})"


class AccessDenied(RilievoError):
    """Somebody asked for what their role does not allow, or did not prove who they are."""

    code = "denied"
    number = 600
    exit_code = 2


class ControlHeld(RilievoError):
    """A command that needs control of the microscope, which the one who asks does not hold."""

    code = "control"
    number = 601
    exit_code = 2


class Overload(RilievoError):
    """Too much was asked at once: of one client, or of all together."""

    code = "overload"
    number = 602

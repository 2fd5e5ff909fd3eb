"""Control of the microscope: one at a time holds it, by a lease that has to be kept.

A lease that nobody keeps lapses, so that a program that died, or a cut network, does not lock anybody out. It can be
handed over: for a while, only who was named may then take it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from acquisition.access import ControlHeld, Person
from drivers.clock import Clock
from drivers.errors import InputError

LEASE = 15.0
"""s that control lasts after it was taken or last kept."""
OFFER = 60.0
"""s for which only the one to whom control was handed over may take it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds control.

    Attributes
    ----------
    person : Person
    left : float, s
        Until it lapses, unless it is kept.
    """

    person: Person
    left: float


class Control:
    """The one lease on the microscope.

    Parameters
    ----------
    clock : Clock
        Real.
    lease, offer : float, s
    """

    def __init__(self, clock: Clock, lease: float = LEASE, offer: float = OFFER) -> None:
        self._clock = clock
        self.lease = lease
        self._offer = offer
        self._lock = threading.Lock()
        self._person: Person | None = None
        self._until = 0.0
        self._offered: str | None = None
        self._offered_until = 0.0

    @property
    def holder(self) -> Lease | None:
        """Who holds control now; None where nobody does."""
        with self._lock:
            return self._held()

    def _held(self) -> Lease | None:
        left = self._until - self._clock.monotonic()
        if self._person is None or left <= 0:
            self._person = None
            return None
        return Lease(self._person, left)

    def take(self, person: Person, *, force: bool = False) -> Lease:
        """Hold control from now on; whoever holds it already keeps it.

        Parameters
        ----------
        person : Person
        force : bool
            Although somebody else holds it, or it was handed to somebody else; whether the role allows that is not
            asked here.

        Raises
        ------
        ControlHeld
            That says who has it, and for how long.
        """
        with self._lock:
            held = self._held()
            if held is not None and held.person.session != person.session and not force:
                raise ControlHeld(_taken(held))
            now = self._clock.monotonic()
            if self._offered is not None and now < self._offered_until and not force and self._offered != person.name:
                raise ControlHeld(
                    f"control was handed to {self._offered}, who has {self._offered_until - now:.0f} s to take it; "
                    "wait, or ask them"
                )
            self._offered = None
            self._person, self._until = person, now + self.lease
            return Lease(person, self.lease)

    def keep(self, person: Person) -> Lease:
        """Hold control for another lease; errors as :meth:`require`."""
        with self._lock:
            self._require(person)
            self._until = self._clock.monotonic() + self.lease
            return Lease(person, self.lease)

    def require(self, person: Person) -> None:
        """Let pass only who holds control.

        Raises
        ------
        ControlHeld
            That says who has it, or that it is free to be taken.
        """
        with self._lock:
            self._require(person)

    def _require(self, person: Person) -> None:
        held = self._held()
        if held is None:
            raise ControlHeld("this needs control of the microscope, which nobody holds now; take it first")
        if held.person.session != person.session:
            raise ControlHeld(_taken(held))

    def release(self, person: Person) -> bool:
        """Let go; return whether the person held it."""
        with self._lock:
            held = self._held()
            if held is None or held.person.session != person.session:
                return False
            self._person = None
            return True

    def hand_over(self, person: Person, to: str) -> None:
        """Let go in favour of somebody, who alone may take control for a while; errors as :meth:`require`."""
        if not to.strip():
            raise InputError("expected the name of who is to have control; got none", "to")
        with self._lock:
            self._require(person)
            self._person = None
            self._offered, self._offered_until = to, self._clock.monotonic() + self._offer


def _taken(held: Lease) -> str:
    return (
        f"control is held by {held.person}; ask them to hand it over, or take it once it lapses "
        f"({held.left:.0f} s from now, unless they keep it)"
    )

"""What keeps an instrument and its sample from harm, as the instrument's file says it.

::

    safe_state:                                  # in this order, each with its deadline
      - {blank: beam, within: 15 s}
      - {heater: 25 degC, rate: 20 K/min, within: 1 min}
      - {close: reactive, within: 30 s}
      - {purge: {N2: 50 sccm}, for: 5 min, within: 30 s}
      - {close: all, within: 30 s}
    interlocks:
      - {when: heater above 850 degC for 2 s, then: safe}
      - {when: "pressure outside 10..30 Pa", then: suspend, settle: 30 s, longest: 10 min}
    interlock_period: 1 s
    watchdog: {factor: 3, margin: 2 min, grace: 5 min}
    guard: {patience: 60 s}
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from drivers.document import Strict
from drivers.units import Duration, Flow, Q, RampRate, Temperature, format_quantity, si

LONGEST = 7 * 86400.0
"""Of any time here, s: longer is a slip of the unit."""

VERBS = ("blank", "heater", "close", "purge")
Then: TypeAlias = Literal["warn", "suspend", "safe"]
"""What an interlock does: tell somebody, hold the run until it is clear, or bring the instrument to its safe state."""


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("rilievo", "{message}", {"message": message})


def _a_while(value: Q) -> Q:
    if not 0 < si(value) <= LONGEST:
        raise _refuse(f"expected a time above 0 s and up to 7 d; got {format_quantity(value)}")
    return value


def _a_rate(value: Q) -> Q:
    if not value.magnitude > 0:
        raise _refuse(f"expected a rate above zero; got {format_quantity(value)}")
    return value


def _flows(value: dict[str, Q]) -> dict[str, Q]:
    if not value or not all(flow.magnitude > 0 for flow in value.values()):
        raise _refuse("expected one gas or more, each with a flow above zero, such as purge: {N2: 50 sccm}")
    return value


While: TypeAlias = Annotated[Duration, AfterValidator(_a_while)]
Factor: TypeAlias = Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)]


class SafePartFile(Strict):
    """One part of the safe state: one of blank, heater, close and purge, with its deadline.

    Attributes
    ----------
    blank : "beam"
    heater : quantity, K
        Where the heater is sent; ``rate``: how fast, as it was last asked for unless given.
    close : str
        ``reactive``, ``all``, or one species.
    purge : mapping of species to quantity, mol/s
        Flows of inert gas; ``for``: how long until the next part begins.
    within : quantity, s
        Time for the part to be done and seen to be done; a part that hangs is given up then.
    """

    blank: Literal["beam"] | None = None
    heater: Temperature | None = None
    rate: Annotated[RampRate, AfterValidator(_a_rate)] | None = None
    close: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    purge: Annotated[dict[str, Flow], AfterValidator(_flows)] | None = None
    lasting: While | None = Field(default=None, alias="for")
    within: While

    @model_validator(mode="after")
    def _one_verb(self) -> SafePartFile:
        given = [verb for verb in VERBS if getattr(self, verb) is not None]
        if len(given) != 1:
            raise _refuse(f"expected one of {', '.join(VERBS)}; got {' and '.join(given) or 'none of them'}")
        if self.rate is not None and self.heater is None:
            raise _refuse("rate belongs to heater; remove it")
        if (self.lasting is not None) != (self.purge is not None):
            raise _refuse("a purge needs for, how long it lasts, and no other part has it")
        return self


class InterlockFile(Strict):
    """A rule on readbacks, and what follows where it is met."""

    when: str = Field(
        min_length=1,
        max_length=500,
        description="What must not be.",
        examples=["heater above 850 degC for 2 s", "pressure outside 10..30 Pa"],
    )
    then: Then = Field(
        description="warn tells somebody; suspend holds the run until it is clear; safe ends it in the safe state."
    )
    settle: While | None = Field(
        None, description="How long it must have been clear before it counts as over; 30 s unless given."
    )
    longest: While | None = Field(
        None, description="How long a suspension may last before the safe state is entered; 10 min unless given."
    )
    stale_after: While | None = Field(
        None,
        description="How long a channel of the rule may fail to answer before the rule counts as met; what the "
        "channel itself calls stale unless given.",
    )

    @model_validator(mode="after")
    def _belonging(self) -> InterlockFile:
        if self.longest is not None and self.then != "suspend":
            raise _refuse(f"longest belongs to then: suspend; this rule's is {self.then}")
        return self


class WatchdogFile(Strict):
    """When an action counts as stalled: after factor × its expected time + margin; after grace, the safe state."""

    factor: Factor = 3.0
    margin: While | None = None
    grace: While | None = None


class GuardFile(Strict):
    """How long, in seconds of real time, the guard waits for somebody to go on when the program is gone or hangs."""

    patience: While

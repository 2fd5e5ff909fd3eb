"""What gases may meet: no flammable mixture, and an inert purge between gases that burn with each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from acquisition.actions import Action, SetGas
from acquisition.chamber import Chamber
from acquisition.timing import Moment
from drivers.contract import GasLine, Instrument
from drivers.errors import InputError
from drivers.units import Q, format_quantity, parse_quantity, si

FUELS = frozenset({"H2", "D2", "CO", "CH4", "C2H2", "C2H4", "C2H6", "NH3"})
OXIDISERS = frozenset({"O2", "O3", "NO", "NO2", "N2O", "air", "Air"})
FLAMMABLE: Mapping[tuple[str, str], tuple[float, float]] = {("H2", "O2"): (0.04, 0.94), ("H2", "air"): (0.04, 0.75)}
"""Share of the fuel in fuel and oxidiser, inert gas left out, between which the two burn; a pair that does not
stand here counts as burning at every share."""


RESIDUAL = 0.04
"""Share of the old gas that a purge may leave."""


@dataclass(frozen=True, slots=True)
class GasRules:
    """When gases may not meet.

    Attributes
    ----------
    flammable_above : float, Pa
        Total pressure up to which a flammable mixture is allowed; all are refused where the pressure is not known.
    purge_at_least : float, s
        How long inert gas flows between gases that burn with each other; longer where the chamber needs longer to
        change its gas.
    """

    flammable_above: float = 10.0
    purge_at_least: float = 30.0

    @classmethod
    def of(cls, instrument: Instrument) -> GasRules:
        """Return the rules in the instrument's file: ``gas_rules: {flammable_above: 10 Pa, purge_at_least: 30 s}``.

        Raises
        ------
        InputError
            For a rule that is not known or cannot be read.
        """
        given = instrument.description.get("gas_rules") or {}
        units = {"flammable_above": "Pa", "purge_at_least": "s"}
        if not isinstance(given, Mapping) or not set(given) <= set(units):
            raise InputError(f"expected {' and '.join(units)} under gas_rules of the instrument; got {given!r}")
        return cls(**{name: si(parse_quantity(value, units[name])) for name, value in given.items()})


def burn(one: str, other: str) -> bool:
    """Return whether two reactive gases burn with each other; of a gas that is not known, anything is expected.

    >>> burn("H2", "O2"), burn("H2", "CO"), burn("H2", "SiH4")
    (True, False, True)
    """
    return one != other and not {one, other} <= FUELS and not {one, other} <= OXIDISERS


def is_reactive(species: str, gases: Mapping[str, GasLine]) -> bool:
    """Return whether a gas reacts, as its line says; a species without a line counts as inert here."""
    return species in gases and gases[species].reactive


@dataclass
class GasWatch:
    """Follows the gas through a run, and tells what breaks a rule.

    Attributes
    ----------
    gases : mapping of species to GasLine
    rules : GasRules
    chamber : Chamber or None
        Without one the pressure is not known.
    """

    gases: Mapping[str, GasLine]
    rules: GasRules
    chamber: Chamber | None
    left: set[str] = field(default_factory=set)
    """Reactive species that may still be in the chamber."""
    purging: bool = False
    purged: float = 0.0

    def follow(self, moments: Iterable[Moment]) -> Iterator[tuple[Action, str]]:
        """Yield each action that breaks a rule, and the sentence that says why."""
        for moment in moments:
            if isinstance(moment.action, SetGas):
                for message in self._let_in(moment.action.flows):
                    yield moment.action, message
            elif self.purging:  # the time in which flows settle purges too, but not for certain
                self.purged += moment.duration
                if self.purged >= self._least() - 1e-9:
                    self.left.clear()

    def _let_in(self, flows: Mapping[str, Q]) -> Iterator[str]:
        open_flows = {species: flow for species, flow in flows.items() if flow.magnitude > 0}
        reactive = [species for species in open_flows if is_reactive(species, self.gases)]
        yield from self._flammable(open_flows, reactive)
        remaining = sorted(self.left - set(reactive))
        for old in remaining:
            for new in reactive:
                if burn(old, new):
                    yield self._unpurged(old, new)
        if reactive:
            self.left |= set(reactive)
        if not self.purging or reactive or not open_flows:
            self.purged = 0.0
        self.purging = bool(open_flows) and not reactive

    def _least(self) -> float:
        """Return how long a purge must last, s: a well-mixed chamber is then below the lower flammable share."""
        exchange = self.chamber.exchange if self.chamber is not None else 0.0
        return max(self.rules.purge_at_least, exchange * math.log(1 / RESIDUAL))

    def _unpurged(self, old: str, new: str) -> str:
        inert = sorted((species for species, line in self.gases.items() if not line.reactive), key=_familiar)
        if not inert:
            return (
                f"{new} would meet the {old} that is left in the chamber, and this instrument has no inert gas to purge"
            )
        least = self._least()
        minutes = max(5, math.ceil(least / 60))
        before = f"; the purge before it lasts {self.purged:g} s" if self.purged else ""
        return (
            f"{new} would meet the {old} that is left in the chamber; write a step before this one that purges for "
            f"{math.ceil(least)} s at least, such as purge: {{{inert[0]}: 20 sccm, for: {minutes} min}}{before}"
        )

    def _flammable(self, flows: Mapping[str, Q], reactive: list[str]) -> Iterator[str]:
        pressure = self.chamber.pressure(flows) if self.chamber is not None else None
        if pressure is not None and pressure <= self.rules.flammable_above:
            return
        total = sum(si(flow) for flow in flows.values())
        for one, other in combinations(reactive, 2):
            if not burn(one, other):
                continue
            fuel, oxidiser = (other, one) if one in OXIDISERS or other in FUELS else (one, other)
            both = si(flows[fuel]) + si(flows[oxidiser])
            share = si(flows[fuel]) / both
            low, high = FLAMMABLE.get((fuel, oxidiser), (0.0, 1.0))
            if not low <= share <= high:
                continue
            inert = 1 - sum(si(flows[species]) for species in reactive) / total
            at = "the pressure is not known" if pressure is None else f"the pressure would be {pressure:.3g} Pa"
            yield (
                f"{_mixture(flows)} can burn: {fuel} is {share:.0%} of {fuel} and {oxidiser} (flammable from {low:.0%} "
                f"to {high:.0%}; inert gas, {inert:.0%} of the mixture, is left out), and {at}; such a mixture is "
                f"allowed up to {self.rules.flammable_above:g} Pa; let in one after the other, with a purge between"
            )


def _familiar(species: str) -> tuple[bool, str]:
    return species != "N2", species


def _mixture(flows: Mapping[str, Q]) -> str:
    return " with ".join(f"{species} at {format_quantity(flow)}" for species, flow in flows.items())

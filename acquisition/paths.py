"""The ways that a run with decisions may take: each a sequence of actions without branches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from acquisition.actions import Action, Branch, Decide
from acquisition.unrolling import place_of

EVERY_WAY = 6
"""Decisions up to which every combination is looked at."""
_BRANCHES: tuple[Branch, Branch] = ("then", "else")


def paths(actions: Sequence[Action]) -> Iterator[tuple[Action, ...]]:
    """Yield the ways through a run.

    All of them for few decisions. For many, those in which the decisions written at the same place, in a repeat, go the
    same way, and those that alternate: whatever can follow on one another in a repeat then does.
    """
    seen: set[tuple[str, ...]] = set()
    for choice in _choices([action for action in actions if isinstance(action, Decide)]):
        way = tuple(_along(actions, choice))
        key = tuple(action.address for action in way)
        if key not in seen:
            seen.add(key)
            yield way


def _choices(decisions: Sequence[Decide]) -> Iterator[Mapping[str, Branch]]:
    addresses = [decision.address for decision in decisions]
    if len(decisions) <= EVERY_WAY:
        for combination in product(_BRANCHES, repeat=len(decisions)):
            yield dict(zip(addresses, combination, strict=True))
        return
    places = [place_of(address) for address in addresses]
    distinct = list(dict.fromkeys(places))[:EVERY_WAY]
    for combination in product(_BRANCHES, repeat=len(distinct)):
        by_place = dict(zip(distinct, combination, strict=True))
        same = [by_place.get(place, combination[0]) for place in places]
        yield dict(zip(addresses, same, strict=True))
        turned = [branch if index % 2 else _other(branch) for index, branch in enumerate(same)]
        yield dict(zip(addresses, turned, strict=True))


def _other(branch: Branch) -> Branch:
    return "else" if branch == "then" else "then"


def _along(actions: Sequence[Action], choice: Mapping[str, Branch]) -> Iterator[Action]:
    """Yield what is played where the decisions fall so; what hangs on a decision that is not met is left out."""
    met: dict[str, Branch] = {}
    for action in actions:
        if action.needs is not None and met.get(action.needs[0]) != action.needs[1]:
            continue
        if isinstance(action, Decide):
            met[action.address] = choice[action.address]
        yield action

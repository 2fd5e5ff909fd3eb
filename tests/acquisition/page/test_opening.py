"""The page at the real desk: who may what is decided there, and written down."""

from __future__ import annotations

import pytest

from acquisition import app as wiring
from acquisition.bookings import Bookings
from acquisition.desk import Desk
from acquisition.instruments import Instruments
from acquisition.page.opening import open_dashboard
from acquisition.serve import Server
from drivers.errors import InputError, RilievoError, RunError

RECIPE = """\
name: nothing much
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 4 um, pixels: 64, dwell_time: 1 us}
steps:
  - frames: 1
"""


@pytest.fixture
def desk(tmp_path):
    def play(booking):
        raise AssertionError("nothing is played here")

    with wiring.open_laboratory(tmp_path) as laboratory:
        yield Desk(laboratory, Server(tmp_path, laboratory.log, play), Instruments(wiring.open_instrument))


@pytest.fixture
def ask(desk):
    page = open_dashboard(desk, port=0)
    folder = desk.laboratory.folder / "page"

    def asked(role, name, **arguments):
        token = (folder / f"{role}.token").read_text()
        who = {"token": token, "person": "Ada", "session": "s1"}
        return page._done({"verb": "command", "name": name, "arguments": arguments, **who})

    asked.page, asked.folder = page, folder
    return asked


def audited(desk) -> list[str]:
    return [event.message for event in desk.log.events(None) if event.kind == "audit"]


def test_an_operator_books_and_removes_and_lets_go_of_control(desk, ask):
    booked = ask("operator", "schedule", recipe=RECIPE, at="03:33", priority=2)
    assert (booked["state"], booked["priority"]) == ("waiting", 2)
    assert desk.control.holder is None
    assert ask("operator", "remove", booking=booked["id"])["state"] == "removed"
    assert Bookings(desk.log).get(booked["id"]).state == "removed"
    told = audited(desk)
    assert len(told) == 2
    assert all(line.startswith("Ada (operator, page): ") for line in told)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("pause", {}),
        ("resume", {}),
        ("stop", {}),
        ("abort", {}),
        ("safe", {}),
        ("start", {"recipe": RECIPE}),
        ("schedule", {"recipe": RECIPE, "at": "03:33"}),
        ("remove", {"booking": 1}),
    ],
)
def test_an_observer_is_refused_every_command_and_that_is_written_down(desk, ask, name, arguments):
    with pytest.raises(RilievoError, match=f"{name} needs the role operator; Ada is an observer"):
        ask("observer", name, **arguments)
    assert Bookings(desk.log).all() == []
    assert len(audited(desk)) == 1
    assert desk.control.holder is None


def test_whom_somebody_else_holds_control_is_told_who(desk, ask):
    from acquisition.access import Person, Role

    desk.control.take(Person("Bob", Role.OPERATOR, "127.0.0.1:1", "token", "s2"))
    with pytest.raises(RilievoError, match="control is held by Bob"):
        ask("operator", "pause")
    with pytest.raises(RunError, match="no run is being played, and no instrument is held"):
        ask("operator", "safe")  # whoever may operate may, without control


def test_a_wrong_recipe_gets_the_sentence_of_the_check(ask):
    with pytest.raises(InputError, match=r"recipe.yaml:2:\d+.*pixel.*did you mean 'pixels'"):
        ask("operator", "start", recipe=RECIPE.replace("pixels", "pixel"))


def test_who_comes_in_is_written_down_and_a_stranger_is_not_let_in(desk, ask):
    token = (ask.folder / "observer.token").read_text()
    assert ask.page._done({"verb": "login", "token": token, "name": "Grace"}) == {"name": "Grace", "role": "observer"}
    assert audited(desk) == ["Grace (observer, page): came in"]
    with pytest.raises(InputError, match="this token opens nothing"):
        ask.page._done({"verb": "login", "token": "guess", "name": "Grace"})

"""The taxonomy of errors: every class has a name and a number of its own, and says what a night does about it."""

import pytest

from acquisition.database import DatabaseFull
from drivers import errors
from drivers.errors import Response, RilievoError


def classes(kind=RilievoError):
    found = [kind]
    for below in kind.__subclasses__():
        found += classes(below)
    return found


def test_every_class_has_its_own_code_and_number():
    named = [kind for kind in dict.fromkeys(classes()) if kind.__module__ == "drivers.errors"]
    assert len(named) >= 14
    assert len({kind.code for kind in named}) == len(named)
    assert len({kind.number for kind in named}) == len(named)


@pytest.mark.parametrize(
    ("kind", "response"),
    [
        (errors.DeviceTimeout, Response.RETRY),
        (errors.DeviceUnavailable, Response.RETRY),
        (errors.DiskFull, Response.PAUSE),
        (DatabaseFull, Response.PAUSE),
        (errors.DatabaseError, Response.PAUSE),
        (errors.LimitError, Response.SAFE),
        (errors.RilievoError, Response.SAFE),
    ],
)
def test_what_a_night_does_about_it(kind, response):
    assert kind.response is response

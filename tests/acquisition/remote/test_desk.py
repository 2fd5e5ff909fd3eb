"""What may be asked, by whom, and what is written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from acquisition.access import AccessDenied, ControlHeld, Role
from acquisition.desk import REFUSALS
from acquisition.seat import COMMANDS
from drivers.errors import DocumentError, InputError, LimitError, RunError
from drivers.units import quantity
from tests.acquisition.remote.conftest import RECIPE, House

OPERATING = sorted(name for name, command in COMMANDS.items() if command.role is not Role.OBSERVER)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "start": {"recipe": RECIPE},
    "schedule": {"recipe": RECIPE, "at": "2099-01-01T00:00+00:00"},
    "remove": {"booking": 1},
    "set": {"parameter": "stage.x", "value": "1 mm"},
    "hand_over": {"to": "paul"},
}


def test_a_run_is_started_and_steered(house: House) -> None:
    seat = house.seat()
    seat.take_control()
    booking = seat.start(RECIPE, "evening.yaml")
    assert booking.recipe_name == "evening.yaml"
    house.until(lambda: house.server.playing)
    run = house.runs[0]
    assert seat.pause() == run.run_id
    assert seat.resume(run.run_id[:20]) == run.run_id
    assert seat.stop(reason="enough seen") == run.run_id
    assert run.asked == ["pause", "resume", "stop: stopped by maria: enough seen"]
    house.until(lambda: not house.server.playing)
    with pytest.raises(RunError, match="no run is being played"):
        seat.pause()


def test_every_command_is_in_the_audit_log_with_its_who(house: House) -> None:
    seat = house.seat()
    seat.take_control()
    with pytest.raises(RunError):
        seat.pause()
    asked = [(entry["who"], entry["role"], entry["command"], entry["refused"]) for entry in house.audited()]
    assert asked == [
        ("maria", "operator", "take_control", None),
        ("maria", "operator", "pause", None),
        ("maria", "operator", "pause", "no run is being played"),
    ]


def test_an_observer_is_refused_each_operator_verb(house: House) -> None:
    for name in OPERATING:
        with pytest.raises(AccessDenied, match=f"{name} needs the role operator; paul is an observer"):
            getattr(house.seat(Role.OBSERVER, "paul"), name)(**ARGUMENTS.get(name, {}))
    assert house.desk.control.holder is None
    assert house.seat(Role.OBSERVER).bookings() == []


def test_without_control_nothing_is_commanded(house: House) -> None:
    names = [name for name in OPERATING if COMMANDS[name].control]
    assert {"start", "schedule", "remove", "pause", "resume", "stop", "abort", "set"} <= set(names)
    for name in names:
        with pytest.raises(ControlHeld, match="nobody holds now; take it first"):
            getattr(house.seat(), name)(**ARGUMENTS.get(name, {}))


def test_refusals_do_not_flood_the_audit_log(house: House) -> None:
    for _ in range(3 * REFUSALS):
        with pytest.raises(AccessDenied):
            house.seat(Role.OBSERVER, "paul").abort()
    assert len(house.audited()) == REFUSALS


def test_safe_needs_no_control(house: House) -> None:
    run = house.playing()
    other = house.seat(name="paul")
    other.take_control()
    assert house.seat().safe("smoke") == ["paper microscope"]
    house.until(lambda: run.asked)
    assert run.asked == ["safe: brought to the safe state by maria: smoke"]


def test_wrong_arguments_get_a_sentence(house: House) -> None:
    seat: Any = house.seat()
    with pytest.raises(InputError, match=r"number: input should be a valid integer \(got 'x'\)"):
        seat.frame("last", "x")
    with pytest.raises(InputError, match="unexpected keyword argument 'nonsense'; it takes run"):
        seat.show("last", nonsense=1)
    with pytest.raises(InputError, match="most"):
        seat.runs(most=0)


def test_a_recipe_is_checked_as_the_command_does(house: House) -> None:
    plan = house.seat(Role.OBSERVER).check(RECIPE)
    assert plan["instrument"] == "paper microscope"
    assert plan["frames"] == 3
    wrong = RECIPE.replace("5 keV", "500 keV")
    with pytest.raises(DocumentError, match=r"evening.yaml:2:\d+: imaging.beam_energy: 500 keV is above"):
        house.seat(Role.OBSERVER).check(wrong, "evening.yaml")
    with pytest.raises(InputError, match="this server has no instrument 'other'; it has paper microscope"):
        house.seat(Role.OBSERVER).check(RECIPE, instrument="other")


def test_frames_and_previews(house: House) -> None:
    run = house.enter()
    house.add_frame(run, 0)
    seat = house.seat(Role.OBSERVER)
    assert [entry.number for entry in seat.frames(run)] == [0]
    assert seat.frame(run, 0).counts[1, 0, 0] == 1000 + 64 * 64
    small = seat.frame_preview(run, largest=16)
    assert small.pixels.shape == (4, 16, 16)
    assert small.pixel_size == pytest.approx(4e-8)
    assert (small.pixels[0, 0, 0], small.pixels[0, -1, -1]) == (0, 255)
    with pytest.raises(RunError, match="has no frame 7; its frames are 0 to 0"):
        seat.frame(run, 7)
    with pytest.raises(RunError, match="has no heights of frame 0"):
        seat.heights(run, 0)


def test_readbacks_of_a_run(house: House) -> None:
    with pytest.raises(RunError, match="rilievo serve --watch FILE holds it"):
        house.seat(Role.OBSERVER).readbacks()
    house.playing()
    assert house.seat(Role.OBSERVER).readbacks()["heater.temperature"].value == quantity(873.15, "K")
    channels = {entry["channel"]: entry for entry in house.seat(Role.OBSERVER).devices()["channels"]}
    assert channels["heater.temperature"]["readback"] == {"value": 873.15, "unit": "K"}
    assert channels["heater.temperature"]["limits"]["high"] == {"value": 1273.0, "unit": "K"}


def test_a_parameter_is_set_between_runs(make_house: Callable[..., House]) -> None:
    house = make_house(hold=True)
    seat = house.seat()
    seat.take_control()
    house.until(lambda: house.server.idle is not None and house.server.idle.held)
    assert seat.set("stage.x", "1 mm").value.to("mm").magnitude == pytest.approx(1.0)
    with pytest.raises(LimitError, match="80 mm is above the upper limit of 25 mm"):
        seat.set("stage.x", "80 mm")
    with pytest.raises(LimitError, match="O2 reacts; between runs it can only be closed"):
        seat.set("gas.O2.flow", "5 sccm")
    with pytest.raises(InputError, match=r"'stage\.w' cannot be set on this instrument"):
        seat.set("stage.w", "1 mm")
    assert seat.safe() == ["paper microscope"]
    house.until(lambda: [event for event in house.log.events(None) if event.kind == "safe"])
    assert seat.set("stage.x", "2 mm").value.to("mm").magnitude == pytest.approx(2.0)
    seat.release_control()
    house.playing()
    seat.take_control()
    with pytest.raises(RunError, match="its recipe alone sets parameters"):
        seat.set("stage.x", "0 mm")

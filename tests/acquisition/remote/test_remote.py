"""The client says what the desk says: the same answers, the same errors, without a gap."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from acquisition import asking
from acquisition.access import AccessDenied, ControlHeld, Role
from acquisition.gate import Gate
from acquisition.remote import Remote, RemoteError, connect
from acquisition.seat import COMMANDS, Seat
from drivers.errors import DocumentError, InputError, RunError
from drivers.units import quantity
from tests.acquisition.remote.conftest import RECIPE, House, a_frame


def test_a_run_is_started_and_steered_from_elsewhere(
    house: House, gate: Gate, make_remote: Callable[..., Remote], tmp_path: Path
) -> None:
    recipe = tmp_path / "evening.yaml"
    recipe.write_text(RECIPE)
    remote = make_remote()
    assert remote.check(recipe)["duration"].to("s").magnitude > 20
    with remote.control():
        booking = remote.start(recipe)
        assert booking.id == house.desk.seat(house.person()).bookings(every=True)[0].id  # it may be queued by now
        house.until(lambda: house.server.playing)
        assert remote.pause() == house.runs[0].run_id
        assert remote.resume() == house.runs[0].run_id
        assert remote.stop(reason="enough") == house.runs[0].run_id
    assert house.runs[0].asked == ["pause", "resume", "stop: stopped by maria: enough"]
    commands = [entry["command"] for entry in house.audited() if "command" in entry]
    assert commands == ["take_control", "start", "pause", "resume", "stop", "release_control"]
    assert {entry["who"] for entry in house.audited()} == {"maria"}


def test_every_answer_is_what_the_desk_says(house: House, gate: Gate, make_remote: Callable[..., Remote]) -> None:
    run = house.enter()
    house.add_frame(run, 0)
    house.log.event(run, house.clock.now(), "info", "note", "grüße", {"value": 1.0, "unit": "K"})
    local, remote = house.seat(Role.OBSERVER), make_remote(role="observer")
    for name in ("runs", "bookings", "queue", "alerts", "schema"):
        assert getattr(remote, name)() == getattr(local, name)()
    for name in ("run", "actions", "setpoints", "channels", "reconstructions", "frames", "show"):
        assert getattr(remote, name)(run) == getattr(local, name)(run), name
    assert remote.events(run=run) == local.events(run=run)
    here, there = local.frame(run, 0), remote.frame(run, 0)
    assert np.array_equal(here.counts, there.counts)
    assert (here.beam, here.geometry, here.time) == (there.beam, there.geometry, there.time)
    small = remote.frame_preview(run, largest=16)
    assert np.array_equal(small.pixels, local.frame_preview(run, largest=16).pixels)
    assert remote.report(run).startswith(b"<!doctype html>")
    assert remote.state()["you"] == {"name": "maria", "role": "observer"}


def test_quantities_keep_their_unit(house: House, gate: Gate, make_remote: Callable[..., Remote]) -> None:
    house.playing()
    remote = make_remote(role="observer")
    assert remote.readbacks()["heater.temperature"].value == quantity(873.15, "K")
    channels = {entry["channel"]: entry for entry in remote.devices()["channels"]}
    assert channels["column.beam_energy"]["limits"]["high"] == quantity(30.0, "keV")


def test_errors_are_those_of_the_desk(house: House, gate: Gate, make_remote: Callable[..., Remote]) -> None:
    local, remote = house.seat(Role.OBSERVER), make_remote(role=Role.OBSERVER)
    wrong = RECIPE.replace("5 keV", "500 keV").replace("10 s", "10 K")
    cases: list[Callable[[Seat], object]] = [
        lambda seat: seat.check(wrong),
        lambda seat: seat.run("nonsense"),
        lambda seat: seat.runs(most=0),
        lambda seat: seat.frame("nonsense", "x"),  # type: ignore[arg-type]
        lambda seat: seat.pause(),
        lambda seat: seat.check(RECIPE, instrument="other"),
    ]
    for case in cases:
        with pytest.raises(Exception) as here:  # noqa: PT011
            case(local)
        with pytest.raises(type(here.value)) as there:
            case(remote)
        assert str(there.value) == str(here.value)
        assert type(there.value) is type(here.value)
    with pytest.raises(DocumentError) as document:
        remote.check(wrong)
    assert [problem.line for problem in document.value.problems] == [4]


def test_control_is_one_persons_and_lapses(make_house: Callable[..., House]) -> None:
    house = make_house(lease=0.2)
    maria, paul = house.seat(), house.seat(name="paul")
    maria.take_control()
    with pytest.raises(ControlHeld, match=r"control is held by maria \(operator, here\)"):
        paul.take_control()
    with pytest.raises(AccessDenied, match="only an administrator"):
        paul.take_control(force=True)
    house.until(lambda: house.desk.control.holder is None)
    paul.take_control()
    with pytest.raises(ControlHeld, match="control is held by paul"):
        maria.pause()
    paul.hand_over("maria")
    with pytest.raises(ControlHeld, match="control was handed to maria"):
        paul.take_control()
    assert maria.take_control()["who"] == "maria"
    assert house.seat(Role.ADMINISTRATOR, "anna").take_control(force=True)["who"] == "anna"


def test_a_heartbeat_keeps_control(make_house: Callable[..., House]) -> None:
    house = make_house(lease=0.15)
    gate = Gate(house.desk, "127.0.0.1", 0)
    gate.start()
    try:
        with connect(data=house.folder, patience=1.0) as remote, remote.control():
            house.clock.sleep(0.5)
            held = house.desk.control.holder
            assert held is not None
            assert held.person.name == remote.name
        assert house.desk.control.holder is None
    finally:
        house.desk.close()
        gate.close()


def test_events_go_on_after_the_connection_broke(
    house: House, make_gate: Callable[..., Gate], make_remote: Callable[..., Remote]
) -> None:
    first = make_gate()
    remote = make_remote(role="observer", patience=30.0)
    seen: list[int] = []
    began = remote.state()["last_event"]

    def follow() -> None:
        for event in remote.follow(after=began):
            if event.kind == "tick":
                seen.append(int(event.message))
            if event.kind == "over":
                return

    reader = threading.Thread(target=follow)
    reader.start()
    for number in range(60):
        house.log.event(None, house.clock.now(), "info", "tick", str(number))
        if number in (20, 40):
            for peer in list(first._peers.values()):
                peer.cut()
        if number == 30:
            first.close()
            first = make_gate()
        house.clock.sleep(0.005)
    house.log.event(None, house.clock.now(), "info", "over", "")
    reader.join(20)
    assert not reader.is_alive()
    assert seen == list(range(60))


def test_a_command_is_never_sent_twice(house: House, gate: Gate, make_remote: Callable[..., Remote]) -> None:
    run = house.playing()
    remote = make_remote()
    remote.take_control()
    pause, calls = run.pause, []

    def slow() -> None:
        calls.append(1)
        pause()
        next(peer for peer in gate._peers.values() if peer.seat).cut()

    run.pause = slow  # type: ignore[method-assign]
    with pytest.raises(RunError, match="whether it was done is not known"):
        remote.pause()
    assert calls == [1]
    assert remote.state()["mine"] is True  # the session is the same, across connections


def test_a_thread_has_a_connection_of_its_own(house: House, gate: Gate, make_remote: Callable[..., Remote]) -> None:
    remote = make_remote(role="observer")
    failed: list[Exception] = []
    asked, counted = threading.Barrier(5), threading.Barrier(5)

    def ask() -> None:
        try:
            for _ in range(20):
                remote.runs()
        except Exception as error:  # noqa: BLE001
            failed.append(error)
        asked.wait(10)
        counted.wait(10)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    asked.wait(10)
    assert gate.connections == 5
    counted.wait(10)
    for thread in threads:
        thread.join()
    assert not failed


def test_wrong_ways_in_are_told(house: House, gate: Gate, make_remote: Callable[..., Remote], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no server listens here; start rilievo serve"):
        connect(data=tmp_path / "nowhere")
    with pytest.raises(RemoteError, match=r"nobody listens .*; is rilievo serve running there"):
        make_remote(address="127.0.0.1:1")
    token = tmp_path / "token.json"
    body = (house.folder / "remote" / "operator.json").read_text()
    token.write_text(body)
    token.chmod(0o644)
    with pytest.raises(InputError, match="others can read this token"):
        make_remote(token=token)
    token.write_text(body.replace('"token": "', '"token": "00'))
    token.chmod(0o600)
    with pytest.raises(AccessDenied, match="does not know this token"):
        make_remote(token=token)
    assert (house.folder / "remote" / "operator.json").stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match=r"expected an address such as 127.0.0.1:7487; got 'a:b'"):
        make_remote(address="a:b")


def test_a_port_in_use_and_an_open_address_are_refused(house: House, gate: Gate) -> None:
    with pytest.raises(RunError, match=rf"127.0.0.1:{gate.port}: another program has this port; .* --port"):
        Gate(house.desk, "127.0.0.1", gate.port)
    with pytest.raises(InputError, match=r"0.0.0.0 can be reached by others, .* --init-tls"):
        Gate(house.desk, "0.0.0.0", 0)


def test_frames_of_any_size_and_the_heights(house: House, gate: Gate, make_remote: Callable[..., Remote]) -> None:
    import tifffile

    from acquisition.store import StoredFrame

    run = house.enter()
    large = a_frame(512, 7)
    house.add_frame(run, 0, large)
    z = np.linspace(-40, 40, 64 * 64, dtype=np.float32).reshape(64, 64)
    path = house.store.folder(run) / "heights" / "000000.tif"
    path.parent.mkdir(parents=True)
    said = '{"unit": "nm", "pixel_size": {"value": 10.0, "unit": "nm"}}'
    tifffile.imwrite(path, np.stack([z, np.abs(z)]), description=said, metadata=None, photometric="minisblack")
    key = house.log.one_frame(run, 0).id
    assert isinstance(house.log.one_frame(run).stored, StoredFrame)
    house.log.reconstruction(key, "done", path=path.relative_to(house.store.root), figures={}, seconds=0.1)
    remote = make_remote(role="observer")
    assert np.array_equal(remote.frame(run).counts, large.counts)
    heights = remote.heights(run)
    assert heights.number == 0
    assert np.allclose(heights.surface.z, z * 1e-9, atol=1e-15)
    assert np.allclose(heights.sigma, np.abs(z) * 1e-9, atol=1e-15)
    assert heights.surface.pixel_size == pytest.approx(1e-8)
    assert remote.heights_preview(run, largest=32).pixels.shape == (1, 32, 32)


def test_what_may_be_asked_is_a_list(house: House, gate: Gate, make_remote: Callable[..., Remote]) -> None:
    remote = make_remote()
    names = {name for name, _ in inspect.getmembers(Seat, inspect.isfunction) if not name.startswith("_")}
    assert names - set(COMMANDS) == {"perform"}
    for name in ("perform", "desk", "desk.log", "__class__", "_run", "__init__", "person"):
        with pytest.raises(InputError, match="there is no"):
            remote._ask(asking.Command(name), {}, 5.0)
    with pytest.raises(InputError, match="expected text, numbers and truth values; got a list"):
        remote._ask(COMMANDS["run"], {"run": ["last"]}, 5.0)

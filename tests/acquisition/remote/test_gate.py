"""Nobody gets in who should not, nothing stops the server, and one peer's trouble is nobody else's."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acquisition.access import Role
from acquisition.credentials import pass_of, read_pass
from acquisition.gate import Bounds, Gate
from acquisition.remote import Remote
from acquisition.seat import COMMANDS
from tests.acquisition.remote.conftest import House
from tests.acquisition.remote.hostile import (
    CONNECT_FAIL,
    CONNECT_OK,
    HANDSHAKES,
    INVOKE,
    PING,
    QUESTIONS,
    RESULT,
    Attacker,
    answers,
    call,
    message,
    mutated,
    one_answer,
)

UNBOUND = Bounds(connects=1e6, connects_at_once=1e6, handshake=2.0, patience=2.0)


@pytest.fixture
def wide(make_gate: Callable[..., Gate]) -> Gate:
    """A gate that takes as many connections a second as come."""
    return make_gate(bounds=UNBOUND)


def got_in(said: list[tuple[int, object]]) -> bool:
    """Return whether somebody was welcomed, or got an answer to a question."""
    welcomed = [body for kind, body in said if kind == CONNECT_OK and "role" in body["handshake"]]  # type: ignore[index]
    return bool(welcomed) or any(kind in (RESULT, PING) for kind, _ in said)


def test_no_handshake_gets_in_but_the_right_one(house: House, wide: Gate, make_remote: Callable[..., Remote]) -> None:
    attacker, chance = Attacker(wide.port), random.Random(1)
    for handshake in HANDSHAKES:
        assert not got_in(attacker.send(handshake)), handshake[:80]
    for _ in range(300):
        assert not got_in(attacker.send(mutated(chance.choice(HANDSHAKES), chance)))
    assert make_remote(role="observer").runs() == []
    house.until(lambda: wide.connections == 1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_noise_gets_nowhere(wide: Gate, data: bytes) -> None:
    assert not got_in(Attacker(wide.port).send(message(1, data)))


def test_a_recorded_handshake_is_of_no_use(house: House, wide: Gate) -> None:
    attacker = Attacker(wide.port)
    sock, recorded = attacker.enter(read_pass(house.folder, Role.OPERATOR))
    sock.close()
    said = attacker.send(recorded)
    assert [kind for kind, _ in said] == [CONNECT_OK, CONNECT_FAIL]
    assert "the token does not fit" in said[1][1]["message"]


def pass_of_text(house: House) -> list[str]:
    return [path.name for path in (house.folder / "remote").glob("*.json")]


def test_a_role_needs_its_own_token(house: House, wide: Gate) -> None:
    attacker = Attacker(wide.port)
    observer = pass_of(house.folder / "remote" / "observer.json")
    with pytest.raises(PermissionError, match="the token does not fit"):
        attacker.enter(replace(observer, role=Role.ADMINISTRATOR))


def test_no_question_does_harm(house: House, wide: Gate, make_remote: Callable[..., Remote]) -> None:
    attacker, chance = Attacker(wide.port), random.Random(2)
    found = read_pass(house.folder, Role.OBSERVER)
    before = house.log.runs()
    for number in range(len(QUESTIONS) + 150):
        question = QUESTIONS[number] if number < len(QUESTIONS) else mutated(chance.choice(QUESTIONS), chance)
        sock, _ = attacker.enter(found)
        with sock:
            sock.sendall(question)
            sock.shutdown(socket.SHUT_WR)
            for kind, body in answers(sock):
                assert kind in (RESULT, PING)
                if kind == RESULT and number < len(QUESTIONS):
                    assert body["error"]["message"]
    assert house.log.runs() == before
    assert house.desk.control.holder is None
    assert make_remote(role="observer").runs() == before


def test_an_observer_issues_every_operator_verb_in_vain(house: House, wide: Gate) -> None:
    run = house.playing()
    sock, _ = Attacker(wide.port).enter(read_pass(house.folder, Role.OBSERVER))
    refused = 0
    with sock:
        for name, command in COMMANDS.items():
            if command.role is Role.OBSERVER:
                continue
            for arguments in ([], ["last"], ["last", "x"]):
                sock.sendall(message(INVOKE, call(name, arguments)))
                kind, body = one_answer(sock)
                assert kind == RESULT
                assert body["error"]["code"] in ("denied", "input")
                refused += body["error"]["code"] == "denied"
    assert refused >= 14
    assert run.asked == []
    assert house.desk.control.holder is None


def test_slow_strangers_make_room_for_others(
    house: House, make_gate: Callable[..., Gate], make_remote: Callable[..., Remote]
) -> None:
    gate = make_gate(bounds=Bounds(strangers=8, handshake=0.5, connects=1e6, connects_at_once=1e6))
    attacker = Attacker(gate.port)
    slow = [attacker.socket() for _ in range(30)]
    for sock in slow:
        sock.sendall(b"PYRO")
    assert make_remote(role="observer").runs() == []
    house.until(lambda: gate.connections <= 8 + 1)
    house.until(lambda: gate.connections == 1, 3.0)
    for sock in slow:
        assert list(answers(sock)) == []
        sock.close()


def test_a_message_that_trickles_in_is_given_up(house: House, make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(bounds=Bounds(patience=0.3))
    sock, _ = Attacker(gate.port).enter(read_pass(house.folder, Role.OBSERVER))
    question = message(INVOKE, call("runs"))
    began = time.monotonic()
    with sock:
        for number in range(len(question) - 1):
            try:
                sock.sendall(question[number : number + 1])
            except OSError:
                break
            house.clock.sleep(0.02)
        assert list(answers(sock)) == []
    assert time.monotonic() - began < 3.0
    house.until(lambda: gate.connections == 0)


def test_who_never_reads_is_given_up_and_disturbs_nobody(
    house: House, make_gate: Callable[..., Gate], make_remote: Callable[..., Remote]
) -> None:
    gate = make_gate(bounds=Bounds(patience=0.5))
    run = house.enter()
    house.add_frame(run, 0)
    found = read_pass(house.folder, Role.OBSERVER)
    silent = []
    for _ in range(5):
        sock, _ = Attacker(gate.port).enter(found)
        sock.settimeout(0.5)
        silent.append(sock)
        question = message(INVOKE, call("frame", [run, 0]))
        try:
            for _ in range(2000):
                sock.sendall(question)
        except OSError:
            pass
    remote = make_remote(role="observer")
    began = time.monotonic()
    for _ in range(20):
        remote.frame(run, 0)
    assert time.monotonic() - began < 5.0
    house.until(lambda: gate.connections == 1, 8.0)
    for sock in silent:
        sock.close()


def test_too_many_connections_are_refused_with_a_sentence(
    house: House, make_gate: Callable[..., Gate], make_remote: Callable[..., Remote]
) -> None:
    make_gate(bounds=Bounds(connections=3))
    kept = [make_remote(role="observer", patience=0.0) for _ in range(3)]
    with pytest.raises(Exception, match="3 connections are open, and no more are taken"):
        make_remote(role="observer", patience=0.0)
    kept[0].close()
    house.until(lambda: _enters(make_remote))


def _enters(make_remote: Callable[..., Remote]) -> bool:
    try:
        make_remote(role="observer", patience=0.0)
    except Exception:  # noqa: BLE001
        return False
    return True


def test_connections_of_one_address_have_a_rate(house: House, make_gate: Callable[..., Gate]) -> None:
    gate = make_gate(bounds=Bounds(connects=1.0, connects_at_once=5.0))
    attacker = Attacker(gate.port)
    socks = [attacker.socket() for _ in range(20)]
    house.until(lambda: gate.refused >= 14)
    assert gate.connections <= 7
    for sock in socks:
        sock.close()


def test_the_end_leaves_no_thread_and_no_file(
    house: House, make_gate: Callable[..., Gate], make_remote: Callable[..., Remote]
) -> None:
    gate = make_gate()
    waiting = threading.Thread(target=lambda: _swallow(make_remote(role="observer", patience=0.0)))
    waiting.start()
    house.until(lambda: gate.connections == 1)
    house.desk.close()
    gate.close()
    waiting.join(10)
    assert not waiting.is_alive()
    house.until(lambda: not [t for t in threading.enumerate() if t.name.startswith("remote")])
    assert pass_of_text(house) == []


def _swallow(remote: Remote) -> None:
    with contextlib.suppress(Exception):  # the server has gone
        remote.events(remote.state()["last_event"], wait=20.0)

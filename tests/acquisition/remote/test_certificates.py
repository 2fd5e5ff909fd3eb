"""Two-way TLS: who has a certificate of this authority comes in, in the role that it says, and nobody else."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from acquisition.access import AccessDenied, Role
from acquisition.authority import Authority
from acquisition.gate import Gate
from acquisition.remote import Remote, RemoteError, connect
from drivers.clock import RealClock
from drivers.errors import InputError, RilievoError, RunError
from tests.acquisition.remote.conftest import House


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority with certificates for maria (operator), paul (observer), and old (ended yesterday)."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    authority.create(["192.0.2.7"])
    authority.issue("maria", Role.OPERATOR)
    authority.issue("paul", Role.OBSERVER)
    authority.issue("old", Role.ADMINISTRATOR, days=-1)
    return authority


@pytest.fixture
def guarded(make_gate: Callable[..., Gate], made: Authority) -> Gate:
    return make_gate(authority=made)


def enter(gate: Gate, certificate: Path, host: str = "127.0.0.1") -> Remote:
    return connect(f"{host}:{gate.port}", certificate=certificate, timeout=10.0, patience=2.0)


def test_the_certificate_says_who_and_in_which_role(house: House, guarded: Gate, made: Authority) -> None:
    run = house.enter()
    house.add_frame(run, 0)
    with enter(guarded, made.folder / "maria.pem") as remote:
        assert (remote.name, remote.role) == ("maria", Role.OPERATOR)
        with remote.control(), pytest.raises(RunError, match="no run is being played"):
            remote.pause()
        assert np.array_equal(remote.frame(run).counts, house.seat().frame(run).counts)
    assert {(entry["who"], entry["by"]) for entry in house.audited()} == {("maria", "certificate")}
    with (
        enter(guarded, made.folder / "paul.pem", "localhost") as remote,
        pytest.raises(AccessDenied, match="take_control needs the role operator; paul is an observer"),
    ):
        remote.take_control()


def test_files_are_for_their_owner_alone(made: Authority) -> None:
    assert made.folder.stat().st_mode & 0o077 == 0
    assert [path.name for path in made.folder.iterdir() if path.stat().st_mode & 0o077] == []


def test_strangers_are_told_why(house: House, guarded: Gate, made: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    other.create()
    with pytest.raises(AccessDenied, match="was not made by the authority in"):
        enter(guarded, other.issue("eve", Role.ADMINISTRATOR))
    with pytest.raises(AccessDenied, match=r"the certificate has ended; .* --renew"):
        enter(guarded, made.folder / "old.pem")
    both = tmp_path / "both.pem"  # trusts this server, and shows another authority's certificate
    theirs = (other.folder / "eve.pem").read_bytes()
    both.write_bytes(
        theirs.rpartition(b"-----BEGIN CERTIFICATE-----")[0] + (made.folder / "authority.pem").read_bytes()
    )
    with pytest.raises(AccessDenied, match="was made by another authority"):
        enter(guarded, both)
    servers = tmp_path / "servers.pem"  # a server's certificate is not one for people
    servers.write_bytes((made.folder / "server.pem").read_bytes() + (made.folder / "authority.pem").read_bytes())
    with pytest.raises(RilievoError):
        enter(guarded, servers)
    with pytest.raises(InputError, match="expected a certificate as rilievo serve --issue makes it"):
        enter(guarded, Path(__file__))
    assert house.log.runs() == []
    assert [event for event in house.log.events(None) if event.level == "warning" and "refused: TLS" in event.message]


def test_without_a_certificate_nobody_is_heard(house: House, guarded: Gate, made: Authority) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(made.folder / "authority.pem")

    def silent() -> bytes:
        plain = socket.create_connection(("127.0.0.1", guarded.port), 5)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(b"PYRO")
            return sock.recv(1)

    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        silent()
    token_server = Gate(house.desk, "127.0.0.1", 0)
    token_server.start()
    with pytest.raises(RilievoError):
        connect(f"127.0.0.1:{guarded.port}", data=house.folder, timeout=5.0, patience=0.0)
    with pytest.raises((RemoteError, AccessDenied), match="does not speak TLS"):
        enter(token_server, made.folder / "maria.pem")
    token_server.close()


def test_a_certificate_for_another_host_is_refused(
    guarded: Gate, tmp_path: Path, make_gate: Callable[..., Gate]
) -> None:
    elsewhere = Authority(tmp_path)
    elsewhere.create()
    path = elsewhere.issue("maria", Role.OPERATOR)
    import acquisition.authority as module

    names = module._alternatives
    try:
        module._alternatives = lambda _: names(["elsewhere.example"])
        elsewhere.create()
    finally:
        module._alternatives = names
    with pytest.raises(AccessDenied, match=r"not for 127.0.0.1; make one that is with rilievo serve --init-tls"):
        enter(make_gate(authority=elsewhere), path)


def test_a_revoked_certificate_is_cut_off_and_stays_out(
    house: House, make_gate: Callable[..., Gate], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    authority.create()
    path = authority.issue("maria", Role.OPERATOR)
    gate = make_gate(authority=authority)
    remote = enter(gate, path)
    remote.state()
    assert authority.revoke("maria") == 1
    house.until(lambda: gate.connections == 0)
    with pytest.raises(AccessDenied, match="the certificate of maria was revoked; ask for a new one"):
        remote.state()
    again = authority.renew("maria")
    with enter(gate, again) as anew:
        assert anew.role is Role.OPERATOR
    assert [entry.revoked for entry in authority.issued()] == [True, False]
    remote.close()


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with pytest.raises(InputError, match="rilievo serve --init-tls makes them"):
        authority.server_context()
    with pytest.raises(InputError, match="no certificates yet"):
        authority.issue("maria", Role.OPERATOR)
    authority.create()
    for name in ("", "../maria", "a/b", "x" * 64, "a\nb"):
        with pytest.raises(InputError, match="expected a name of letters"):
            authority.issue(name, Role.OPERATOR)
    with pytest.raises(InputError, match="'maria' has no certificate; those who have: nobody"):
        authority.revoke("maria")


def test_a_server_whose_certificate_ended_says_so(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.create()

    class Later(RealClock):
        def now(self):  # type: ignore[no-untyped-def]
            from datetime import timedelta

            return super().now() + timedelta(days=500)

    with pytest.raises(RunError, match=r"the server's certificate ended on .*--init-tls makes a new one"):
        Authority(tmp_path, Later()).server_context()
    before = (authority.folder / "authority.pem").read_bytes()
    authority.create()
    assert (authority.folder / "authority.pem").read_bytes() == before

"""A private authority: certificates for a server and for people, and the list of those that no longer count.

Only what this authority signed is trusted, in both directions; the authorities that the computer knows are not asked.
A person's certificate carries their name (CN) and their role (OU). Everything lies in ``remote/tls`` of the data
folder, readable by its user alone; a person gets one file with their key, their certificate, and the authority's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acquisition.access import AccessDenied, Role
from acquisition.credentials import FOLDER, write_private
from drivers.clock import Clock, RealClock
from drivers.errors import InputError, RilievoError, RunError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

YEARS_OF_AUTHORITY = 10
DAYS_OF_SERVER = 397
DAYS_OF_PEOPLE = 397
_NAME = re.compile(r"[\w][\w .@+-]{0,62}")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made for somebody.

    Attributes
    ----------
    serial : int
    name : str
    role : str
    until : datetime
        UTC.
    revoked : bool
    """

    serial: int
    name: str
    role: str
    until: datetime
    revoked: bool


class Authority:
    """The authority of a data folder.

    Parameters
    ----------
    data : Path
        The data folder.
    clock : Clock, optional
    """

    def __init__(self, data: Path, clock: Clock | None = None) -> None:
        self.folder = data / FOLDER / "tls"
        self._clock = clock or RealClock()
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._revoked: frozenset[int] = frozenset()

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return (self.folder / "authority.pem").exists()

    # -- making

    def create(self, hosts: Sequence[str] = ()) -> None:
        """Make the authority where there is none yet, and a new certificate for the server.

        Parameters
        ----------
        hosts : sequence of str
            Names and addresses under which people reach the server, beside this computer's name and loopback.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.folder, self.folder.parent):
            folder.chmod(0o700)
        if not self.exists:
            self._create_authority()
        key = ec.generate_private_key(ec.SECP256R1())
        names = list(dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts]))
        subject = _subject("server", None)
        made = self._signed(
            subject,
            key,
            DAYS_OF_SERVER,
            ExtendedKeyUsageOID.SERVER_AUTH,
            x509.SubjectAlternativeName(_alternatives(names)),
        )
        write_private(self.folder / "server.pem", _pem(made) + _key_pem(key))

    def _create_authority(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = _subject(f"Rilievo authority of {socket.gethostname()}"[:64], None)
        now = self._clock.now()
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=365 * YEARS_OF_AUTHORITY))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(self.folder / "authority.key", _key_pem(key))
        write_private(self.folder / "authority.pem", _pem(made))

    def _signed(
        self, subject: Any, key: ec.EllipticCurvePrivateKey, days: float, usage: Any, alternatives: Any = None
    ) -> x509.Certificate:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        self._require()
        authority = x509.load_pem_x509_certificate((self.folder / "authority.pem").read_bytes())
        signer = serialization.load_pem_private_key((self.folder / "authority.key").read_bytes(), None)
        now = self._clock.now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + timedelta(days=days)) - timedelta(minutes=5))
            .not_valid_after(min(now + timedelta(days=days), authority.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(signer, hashes.SHA256())  # type: ignore[arg-type]

    def _require(self) -> None:
        if not self.exists:
            raise InputError("there are no certificates yet; rilievo serve --init-tls makes them", str(self.folder))

    def issue(self, name: str, role: Role, days: float = DAYS_OF_PEOPLE) -> Path:
        """Make a certificate for somebody; those that they had no longer count. Return the file to give them.

        Raises
        ------
        InputError
            For a name that cannot stand in a certificate and in a file's name, or without an authority.
        """
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        self._require()
        if not _NAME.fullmatch(name):
            raise InputError(
                f"expected a name of letters, digits, spaces and . @ + - (63 at most); got {name!r}", "--issue"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._signed(_subject(name, role), key, days, ExtendedKeyUsageOID.CLIENT_AUTH)
        if any(entry.name == name and not entry.revoked for entry in self.issued()):
            self.revoke(name)
        entries = self._read("issued.json")
        entries.append(
            {
                "serial": str(made.serial_number),
                "name": name,
                "role": str(role),
                "until": made.not_valid_after_utc.isoformat(),
            }
        )
        write_private(self.folder / "issued.json", json.dumps(entries, indent=1).encode())
        path = self.folder / f"{name}.pem"
        write_private(path, _key_pem(key) + _pem(made) + (self.folder / "authority.pem").read_bytes())
        return path

    def renew(self, name: str) -> Path:
        """Make a new certificate for somebody who has one, with the same role; errors as :meth:`issue`."""
        return self.issue(name, Role.named(self._last(name).role))

    def _last(self, name: str) -> Issued:
        found = [entry for entry in self.issued() if entry.name == name]
        if not found:
            known = ", ".join(dict.fromkeys(entry.name for entry in self.issued())) or "nobody"
            raise InputError(f"{name!r} has no certificate; those who have: {known}", str(self.folder))
        return found[-1]

    def revoke(self, name: str) -> int:
        """Let no certificate of somebody count any more; return how many that were. Running servers heed it at once."""
        self._last(name)
        serials = {str(entry.serial) for entry in self.issued() if entry.name == name and not entry.revoked}
        write_private(
            self.folder / "revoked.json", json.dumps([*self._read("revoked.json"), *sorted(serials)]).encode()
        )
        return len(serials)

    def issued(self) -> list[Issued]:
        """Return every certificate that was made for people, oldest first."""
        revoked = self.revoked()
        return [
            Issued(
                int(e["serial"]), e["name"], e["role"], datetime.fromisoformat(e["until"]), int(e["serial"]) in revoked
            )
            for e in self._read("issued.json")
        ]

    def revoked(self) -> frozenset[int]:
        """Return the serial numbers that no longer count; read again when the file has changed."""
        path = self.folder / "revoked.json"
        with self._lock:
            try:
                found = path.stat()
            except OSError:
                return self._revoked
            seen = (found.st_mtime_ns, found.st_ino)
            if seen != self._seen:
                self._revoked = frozenset(int(serial) for serial in self._read("revoked.json"))
                self._seen = seen
            return self._revoked

    def _read(self, name: str) -> list[Any]:
        path = self.folder / name
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise RunError(f"the list cannot be read ({error}); restore it from a copy", str(path)) from None
        return list(found)

    # -- using

    def server_context(self) -> ssl.SSLContext:
        """Return what the server speaks TLS with: only people with a certificate of this authority are heard.

        Raises
        ------
        InputError
            Without an authority.
        RunError
            For a certificate that has ended, or cannot be read; with the remedy.
        """
        self._require()
        path = self.folder / "server.pem"
        with _named(path):
            until = _ends(path)
            if until <= self._clock.now():
                raise RunError(
                    f"the server's certificate ended on {until:%Y-%m-%d}; rilievo serve --init-tls makes a new one",
                    str(path),
                )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(path)
            context.load_verify_locations(self.folder / "authority.pem")
            context.verify_mode = ssl.CERT_REQUIRED
            context.num_tickets = 0  # nobody comes in on what an earlier handshake left
        return context

    def person_of(self, certificate: Mapping[str, Any] | None, der: bytes | None) -> tuple[str, Role, int]:
        """Return name, role and serial number of a certificate that TLS has verified.

        Raises
        ------
        AccessDenied
            For one that was revoked, or says no role.
        """
        if not certificate or not der:
            raise AccessDenied("this server asks for a certificate; connect with certificate=FILE")
        said = {key: value for part in certificate.get("subject", ()) for key, value in part}
        name = str(said.get("commonName", ""))
        serial = int(str(certificate["serialNumber"]), 16)
        if serial in self.revoked():
            raise AccessDenied(f"the certificate of {name} was revoked; ask for a new one")
        with contextlib.suppress(RilievoError):
            return name, Role.named(str(said.get("organizationalUnitName", ""))), serial
        raise AccessDenied(f"the certificate of {name} names no role; ask for a new one")


def client_context(path: Path) -> ssl.SSLContext:
    """Return what somebody speaks TLS with, who was given a file by :meth:`Authority.issue`.

    Raises
    ------
    InputError
        For a file that is none.
    """
    with _named(path):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(path)
        context.load_verify_locations(path)
    return context


@contextlib.contextmanager
def _named(path: Path) -> Any:
    """Tell what is wrong with a file of certificates."""
    try:
        yield
    except FileNotFoundError:
        raise InputError("there is no such certificate", str(path)) from None
    except (OSError, ValueError) as error:
        raise InputError(f"expected a certificate as rilievo serve --issue makes it ({error})", str(path)) from None


def _ends(path: Path) -> datetime:
    from cryptography import x509

    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def _subject(name: str, role: Role | None) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Rilievo")]
    if role is not None:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, str(role)))
    return x509.Name(parts)


def _alternatives(names: Sequence[str]) -> list[Any]:
    from cryptography import x509

    found: list[Any] = []
    for name in names:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

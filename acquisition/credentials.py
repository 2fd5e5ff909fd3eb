"""Tokens: who may read a file on this computer may operate its microscope, and nobody else.

A server makes new tokens each time it starts, one for each role, and leaves each in a file that only its user can read.
They never travel: both sides prove that they have one by what they make of the other's fresh numbers, so that neither a
recorded conversation nor an impostor on the server's port is of any use.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acquisition.access import AccessDenied, Role
from drivers.errors import InputError, RilievoError, RunError

FOLDER = "remote"
"""In the data folder."""
_NONCE, _TOKEN = 32, 32


@dataclass(frozen=True, slots=True)
class Pass:
    """What a token's file holds.

    Attributes
    ----------
    host, port : str, int
        Where the server listens.
    role : Role
    token : bytes
        Empty where the server asks for certificates.
    """

    host: str
    port: int
    role: Role
    token: bytes


def nonce() -> str:
    """Return a number that nobody has seen before."""
    return secrets.token_hex(_NONCE)


def proof(token: bytes, side: str, words: Mapping[str, Any]) -> str:
    """Return what only who has the token can say about words that both sides know.

    Parameters
    ----------
    token : bytes
    side : str
        ``client`` or ``server``, so that neither can be answered with its own proof.
    words : mapping
        JSON data.
    """
    said = json.dumps([side, words], sort_keys=True).encode()
    return hmac.new(token, b"rilievo remote 1\0" + said, hashlib.sha256).hexdigest()


class Tokens:
    """The tokens of a server that starts.

    Parameters
    ----------
    folder : Path
        The data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._tokens = {role: secrets.token_bytes(_TOKEN) for role in Role}
        self._stranger = secrets.token_bytes(_TOKEN)

    def write(self, host: str, port: int) -> None:
        """Leave each token in its file; what an earlier server left is replaced."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        for role, token in self._tokens.items():
            body = {"host": host, "port": port, "role": str(role), "token": token.hex()}
            write_private(self._folder / f"{role}.json", json.dumps(body).encode())

    def remove(self) -> None:
        """Take the files away: a server that has ended is not looked for."""
        for role in Role:
            (self._folder / f"{role}.json").unlink(missing_ok=True)

    def of(self, role: str) -> bytes:
        """Return a role's token; one that nobody has for a role that there is not, so that both take as long."""
        known = {str(known): token for known, token in self._tokens.items()}
        return known.get(role, self._stranger)

    def require(self, role: str, words: Mapping[str, Any], given: str) -> Role:
        """Return the role that was proved.

        Raises
        ------
        AccessDenied
            Where the proof does not fit.
        """
        expected = proof(self.of(role), "client", words)
        if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
            raise AccessDenied("the token does not fit; it is another server's, or this one was started anew since")
        return Role.named(role)


def write_private(path: Path, body: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(body)
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(f"cannot be written: {error.strerror or error}", str(path)) from None


def read_pass(folder: Path, role: Role | None = None) -> Pass:
    """Return the pass that a server left in its data folder: of a role, or of the highest that can be read.

    Raises
    ------
    RunError
        Where no server runs there.
    InputError
        For a file that others can read, or that holds something else.
    """
    for wanted in [role] if role is not None else reversed(Role):
        path = folder / FOLDER / f"{wanted}.json"
        if path.exists() and (role is not None or os.access(path, os.R_OK)):
            return pass_of(path)
    raise RunError(
        "no server listens here; start rilievo serve, or name its data folder with --data",
        str(folder / FOLDER / f"{role or Role.OPERATOR}.json"),
    )


def pass_of(path: Path) -> Pass:
    """Return the pass of a file; errors as :func:`read_pass`."""
    try:
        mode = path.stat().st_mode
        body = json.loads(path.read_bytes())
        found = Pass(str(body["host"]), int(body["port"]), Role.named(body["role"]), bytes.fromhex(body["token"]))
    except OSError as error:
        raise RunError(f"the token cannot be read: {error.strerror or error}", str(path)) from None
    except (ValueError, KeyError, TypeError, RilievoError):
        raise InputError("expected the token that rilievo serve wrote", str(path)) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            "others can read this token; take their rights away (chmod 600), and start the server anew", str(path)
        )
    return found

"""Tokens of the page: one for each role, in files that only this user can read, for people to type or paste once.

They outlive the server, so that a phone's password manager can keep one; deleting a file, and starting the server
again, makes that role's token anew and shuts out who had the old one.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from drivers.errors import InputError, StoreError

FOLDER = "page"
"""In the data folder."""
ROLES = ("observer", "operator", "administrator")
_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # none that is taken for another
_GROUPS, _GROUP = 5, 5
_SHORTEST = 20


class PageTokens:
    """The tokens of a data folder; made where there are none yet.

    Parameters
    ----------
    folder : Path
        The data folder.

    Raises
    ------
    InputError
        For a file that others can read, or that holds no token.
    StoreError
        For one that cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._tokens = {role: self._read_or_make(role) for role in ROLES}
        except OSError as error:
            raise StoreError(
                f"the page's tokens cannot be kept: {error.strerror or error}", str(error.filename or self.folder)
            ) from None

    def path(self, role: str) -> Path:
        """Return the file of a role's token."""
        return self.folder / f"{role}.token"

    def role_of(self, token: str) -> str:
        """Return which role a token opens; every comparison takes the same time.

        Raises
        ------
        InputError
            For a token that nobody has.
        """
        given = token.strip().lower().encode("utf-8", "replace")
        fitting = [role for role, own in self._tokens.items() if hmac.compare_digest(own.encode(), given)]
        if not fitting:
            raise InputError(
                "this token opens nothing; expected the one of your role, which stands in a file that rilievo serve "
                "names when it starts",
                "token",
            )
        return fitting[0]

    def _read_or_make(self, role: str) -> str:
        path = self.path(role)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self._read(path)
        token = "-".join("".join(secrets.choice(_LETTERS) for _ in range(_GROUP)) for _ in range(_GROUPS))
        with os.fdopen(file, "w", encoding="ascii") as out:
            out.write(f"{token}\n")
            out.flush()
            os.fsync(out.fileno())
        return token

    @staticmethod
    def _read(path: Path) -> str:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(
                "others can read this token; delete the file and start the server again, which makes a new one",
                str(path),
            )
        token = path.read_text(encoding="utf-8").strip().lower()
        if len(token) < _SHORTEST:
            raise InputError(
                f"expected a token of {_SHORTEST} characters at least; got {len(token)}. Delete the file and start the "
                "server again, which makes one",
                str(path),
            )
        return token

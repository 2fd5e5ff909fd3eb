"""What ``rilievo serve`` does about certificates: ``--init-tls``, ``--issue``, ``--renew``, ``--revoke``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivers.errors import InputError


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for.

    Attributes
    ----------
    init : bool
    host : str
        Under which the server is reached.
    issue, renew, revoke : str or None
        Somebody's name.
    role : str
        Of who gets a new certificate.
    """

    init: bool
    host: str
    issue: str | None
    role: str
    renew: str | None
    revoke: str | None


def look_after_certificates(wanted: Wanted, data: Path | None, *, as_json: bool) -> bool:
    """Do what was asked about certificates; return whether anything was.

    Raises
    ------
    InputError
        For more than one thing at once, a name or a role that cannot be, or without an authority.
    """
    asked = [word for word in (wanted.issue, wanted.renew, wanted.revoke) if word is not None]
    if not asked and not wanted.init:
        return False
    if len(asked) + wanted.init > 1:
        raise InputError("expected one of --init-tls, --issue, --renew and --revoke", "serve")
    from acquisition import terminal
    from acquisition.app import data_folder

    told, body = _done(wanted, data_folder(data))
    if as_json:
        terminal.emit_json(body)
    else:
        terminal.console().print(told, soft_wrap=True)
    return True


def _done(wanted: Wanted, folder: Path) -> tuple[str, dict[str, Any]]:
    from acquisition.access import Role
    from acquisition.authority import Authority
    from acquisition.gate import is_loopback

    authority = Authority(folder)
    if wanted.init:
        hosts = [] if is_loopback(wanted.host) or wanted.host in ("0.0.0.0", "::") else [wanted.host]  # noqa: S104
        authority.create(hosts)
        where = authority.folder
        return (
            f"certificates lie in {where}; rilievo serve --issue NAME --role operator makes one for somebody",
            {"authority": str(where / "authority.pem"), "server": str(where / "server.pem"), "hosts": hosts},
        )
    if wanted.revoke is not None:
        count = authority.revoke(wanted.revoke)
        return f"{wanted.revoke} has no certificate any more ({count} revoked)", {"revoked": count}
    if wanted.renew is not None:
        path = authority.renew(wanted.renew)
    else:
        path = authority.issue(wanted.issue or "", Role.named(wanted.role))
    entry = authority.issued()[-1]
    told = f"{path}  is {entry.name}'s, {entry.role} until {entry.until:%Y-%m-%d}; give it to nobody else"
    return told, {"certificate": str(path), "name": entry.name, "role": entry.role, "until": entry.until.isoformat()}

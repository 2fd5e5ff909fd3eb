"""``alerts.yaml`` in the data folder: who is told what, on which way, and how often.

::

    heartbeat: {file: heartbeat, every: 60 s}
    limit: 6                      # messages an hour, of one kind on one way
    ways:
      night shift:
        mail:
          host: smtp.example.org
          from: microscope@example.org
          to: [night@example.org]
          user: microscope
          password_file: smtp.password
        tell: [failure, safe, suspension, stall, disk, missed]
      chat:
        webhook: {url: "https://chat.example.org/hooks/7"}
      siren:
        command: [/usr/local/bin/siren, --loud]
        level: error
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from drivers import document
from drivers.document import Address, Document, Strict
from drivers.errors import DocumentError, InputError, Problem
from drivers.units import Duration, parse_quantity, si

FILE = "alerts.yaml"

KINDS = {
    "failure": "a run failed",
    "safe": "a run ended in the safe state",
    "suspension": "a run waits for something to clear",
    "stall": "a run does not move",
    "disk": "the disk runs full",
    "missed": "a start was missed or put off",
    "resumed": "a run was interrupted, and is taken up again",
    "error": "anything else that went wrong",
    "finished": "a run finished",
    "stopped": "somebody stopped a run",
    "test": "a test of the way",
}
"""What alerts are about."""

Kind = Literal[
    "failure", "safe", "suspension", "stall", "disk", "missed", "resumed", "error", "finished", "stopped", "test"
]
Level = Literal["info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("info", "warning", "error")


def _positive(value: Any) -> Any:
    if not si(value) > 0:
        raise ValueError("expected a time above 0 s")
    return value


def _one_line(value: str) -> str:
    if not value.strip() or any(ord(character) < 32 for character in value):
        raise ValueError("expected text in one line")
    return value.strip()


def _address(value: str) -> str:
    if not re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", value):
        raise ValueError(f"expected an address such as night@example.org; got {value!r}")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected a URL that begins with https:// or http://; got {value!r}")
    return value


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Time = Annotated[Duration, AfterValidator(_positive)]
Line = Annotated[str, AfterValidator(_one_line)]
MailAddress = Annotated[str, AfterValidator(_address)]
Url = Annotated[str, AfterValidator(_url)]


class Secret(Strict):
    """Where a password or a token stands: in a variable of the environment, or in a file of its owner alone."""

    @model_validator(mode="before")
    @classmethod
    def _not_in_here(cls, given: Any) -> Any:
        for word in ("password", "token"):
            if isinstance(given, dict) and word in given:
                raise ValueError(f"a {word} does not belong into this file; write {word}_file or {word}_env")
        return given


class MailText(Secret):
    """An SMTP server, and who is written to."""

    host: Line
    port: int | None = Field(None, ge=1, le=65535)
    security: Literal["starttls", "ssl", "none"] = "starttls"
    sender: MailAddress = Field(alias="from")
    to: Annotated[tuple[MailAddress, ...], BeforeValidator(_several), Field(min_length=1)]
    user: Line | None = None
    password_env: Line | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _user_with_password(self) -> MailText:
        given = [one for one in (self.password_env, self.password_file) if one is not None]
        if (self.user is None) != (not given) or len(given) > 1:
            raise ValueError("user goes with one of password_file and password_env, and they with it")
        if self.user is not None and self.security == "none" and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("a password would travel in the clear; write security: starttls, or ssl")
        return self


class WebhookText(Secret):
    """A URL that takes JSON by POST; a token goes into the header Authorization."""

    url: Url
    headers: dict[Line, Line] = Field(default_factory=dict)
    token_env: Line | None = None
    token_file: Path | None = None

    @model_validator(mode="after")
    def _one_token(self) -> WebhookText:
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("write one of token_file and token_env")
        return self


class WayText(Strict):
    """One way to somebody, and what goes there."""

    mail: MailText | None = None
    webhook: WebhookText | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    tell: Annotated[tuple[Kind, ...], BeforeValidator(_several)] | None = Field(
        None, description="All kinds unless said."
    )
    level: Level = "info"
    limit: int | None = Field(None, ge=1, le=1000, description="Messages an hour of one kind; as above unless said.")

    @model_validator(mode="after")
    def _one_way(self) -> WayText:
        if sum(way is not None for way in (self.mail, self.webhook, self.command)) != 1:
            raise ValueError("a way is one of mail, webhook and command")
        return self

    def takes(self, kind: str, level: str) -> bool:
        """Return whether an alert goes this way; a test always does."""
        if kind == "test":
            return True
        grave = LEVELS.index(level) if level in LEVELS else len(LEVELS)
        return (self.tell is None or kind in self.tell) and grave >= LEVELS.index(self.level)


class RetryText(Strict):
    """How often what could not be delivered is tried again: pauses double from ``first`` to ``longest``."""

    first: Time = parse_quantity("30 s")
    longest: Time = parse_quantity("30 min")
    give_up: Time = parse_quantity("48 h")


class HeartbeatText(Strict):
    """A sign of life for an outside monitor, which raises the alarm when it stays away."""

    file: Path | None = None
    url: Url | None = None
    every: Time = parse_quantity("60 s")

    @model_validator(mode="after")
    def _somewhere(self) -> HeartbeatText:
        if self.file is None and self.url is None:
            raise ValueError("a heartbeat needs a file to touch, a url to ask, or both")
        return self


class AlertSettings(Strict):
    """Who is told what."""

    ways: dict[Annotated[Line, Field(max_length=64)], WayText] = Field(default_factory=dict)
    heartbeat: HeartbeatText | None = None
    limit: int = Field(6, ge=1, le=1000)
    retry: RetryText = RetryText()
    deadline: Time = Field(parse_quantity("20 s"), description="For one delivery, from its first byte to its last.")
    test_at_start: bool = False

    def limit_of(self, way: str) -> int:
        """Return how many messages of one kind a way takes in an hour."""
        return self.ways[way].limit or self.limit


def read_secret(env: str | None, file: Path | None, folder: Path) -> str | None:
    """Return a password or token; None where none was named.

    Raises
    ------
    InputError
        For a variable that is not set, or a file that cannot be read, is empty, or may be read by others.
    """
    if env is not None:
        if not os.environ.get(env):
            raise InputError(f"the environment has no variable {env}; set it where the program is started", env)
        return os.environ[env]
    if file is None:
        return None
    path = folder / file
    try:
        mode = path.stat().st_mode
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the file with the password cannot be read: {error}", str(path)) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            f"others may read this password (its mode is {stat.S_IMODE(mode):04o}); write: chmod 600 {path}", str(path)
        )
    if not secret:
        raise InputError("the file with the password is empty", str(path))
    return secret


def load_settings(folder: Path) -> AlertSettings | None:
    """Return the settings of a data folder; None where it has no ``alerts.yaml``.

    Raises
    ------
    DocumentError
        With every problem, passwords that cannot be read included.
    """
    path = folder / FILE
    if not path.exists():
        return None
    source = document.read(path, lenient=True)
    settings = source.validate(AlertSettings)
    problems = list(_secret_problems(source, settings, folder))
    if problems:
        raise DocumentError(problems)
    return settings


def _secret_problems(source: Document, settings: AlertSettings, folder: Path) -> Iterator[Problem]:
    for name, way in settings.ways.items():
        mail, webhook = way.mail, way.webhook
        secrets: list[tuple[Address, str | None, Path | None]] = []
        if mail is not None:
            secrets.append((("ways", name, "mail"), mail.password_env, mail.password_file))
        if webhook is not None:
            secrets.append((("ways", name, "webhook"), webhook.token_env, webhook.token_file))
        for address, env, file in secrets:
            try:
                read_secret(env, file, folder)
            except InputError as error:
                yield source.problem(error.message, address)

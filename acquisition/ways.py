"""The ways to somebody outside: mail, webhook, command. Each delivers one message, or raises and says why not.

Delivery is at least once: what was delivered while the connection broke, or the process died before it could note it,
is delivered again. The message's key is the same then (``Message-ID`` of a mail, ``Idempotency-Key`` and ``key`` of
a webhook, ``key`` in the JSON of a command), so that a receiver can tell a repetition.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError

from acquisition.alert_settings import AlertSettings, MailText, WayText, WebhookText, read_secret
from acquisition.message import Message
from drivers.errors import RilievoError

_MOST_READ = 10_000
"""Bytes of an answer, or of what a command complains of, that are looked at."""


class Undeliverable(RilievoError):
    """A message that could not be delivered on its way."""

    code = "undeliverable"
    number = 520


class Way(Protocol):
    """A way to somebody."""

    def deliver(self, message: Message, timeout: float) -> str | None:
        """Deliver a message; return what a person should know although it went well.

        Parameters
        ----------
        message : Message
        timeout : float, s
            For each answer of the other side.

        Raises
        ------
        RilievoError
            Where it was not, or may not have been, delivered.
        """


def way_of(text: WayText, folder: Path) -> Way:
    """Return the way that settings describe; files lie relative to the data folder."""
    if text.mail is not None:
        return Mail(text.mail, folder)
    if text.webhook is not None:
        return Webhook(text.webhook, folder)
    return Command(text.command or (), folder)


def ways_of(settings: AlertSettings, folder: Path) -> dict[str, Way]:
    """Return all ways by name."""
    return {name: way_of(text, folder) for name, text in settings.ways.items()}


class Mail:
    """Mail through an SMTP server."""

    def __init__(self, settings: MailText, folder: Path) -> None:
        self._settings = settings
        self._folder = folder

    def deliver(self, message: Message, timeout: float) -> str | None:
        """Send the mail; returns whom the server refused, where it took others."""
        password = read_secret(self._settings.password_env, self._settings.password_file, self._folder)
        host = self._settings.host
        try:
            server = self._connected(timeout)
            try:
                if self._settings.security == "starttls":
                    server.starttls(context=ssl.create_default_context())
                if self._settings.user is not None:
                    server.login(self._settings.user, password or "")
                refused = server.send_message(self.letter(message))
                with contextlib.suppress(smtplib.SMTPException, OSError):
                    server.quit()  # it was delivered: how the other side says good-bye changes nothing
            finally:
                server.close()
        except smtplib.SMTPRecipientsRefused as error:
            raise Undeliverable(f"the mail server refused everybody: {_replies(error.recipients)}", host) from None
        except smtplib.SMTPResponseException as error:
            raise Undeliverable(f"the mail server refused: {error.smtp_code} {_text(error.smtp_error)}", host) from None
        except (smtplib.SMTPException, OSError) as error:
            raise Undeliverable(f"the mail server cannot be used: {error or type(error).__name__}", host) from None
        return f"the mail server refused {_replies(refused)}" if refused else None

    def _connected(self, timeout: float) -> smtplib.SMTP:
        """Return a connection. This computer's name is given: looking it up could take longer than the delivery."""
        text, name = self._settings, socket.gethostname()
        if text.security == "ssl":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(text.host, text.port or 465, name, timeout=timeout, context=context)
        port = text.port or (587 if text.security == "starttls" else 25)
        return smtplib.SMTP(text.host, port, name, timeout=timeout)

    def letter(self, message: Message) -> EmailMessage:
        """Return the mail."""
        made = EmailMessage()
        made["From"] = self._settings.sender
        made["To"] = ", ".join(self._settings.to)
        made["Subject"] = " ".join(f"[rilievo] {message.title}".split())
        made["Date"] = format_datetime(message.time)
        made["Message-ID"] = f"<{message.key}.rilievo@{self._settings.sender.rpartition('@')[2]}>"
        made["Auto-Submitted"] = "auto-generated"
        made["X-Rilievo-Kind"] = message.kind
        if message.level == "error":
            made["Importance"] = "high"
        run = f"\n\nrun {message.run_id}" if message.run_id else ""
        made.set_content(f"{message.text or message.title}{run}\n")
        return made


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST arrives as a GET without its content: better to be told."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:  # noqa: ARG002
        return None


class Webhook:
    """A POST of JSON."""

    def __init__(self, settings: WebhookText, folder: Path) -> None:
        self._settings = settings
        self._folder = folder

    def deliver(self, message: Message, timeout: float) -> str | None:
        """Post the message; anything but a 2xx is a refusal, and so is a redirection."""
        token = read_secret(self._settings.token_env, self._settings.token_file, self._folder)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Idempotency-Key": message.key,
            "User-Agent": "rilievo",
            **self._settings.headers,
            **({"Authorization": f"Bearer {token}"} if token else {}),
        }
        fetch(self._settings.url, timeout, json.dumps(message.to_json(), ensure_ascii=False).encode(), headers)
        return None


def fetch(url: str, timeout: float, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> None:
    """Ask for a URL, by POST where there is a body.

    Raises
    ------
    Undeliverable
        Without an answer of 2xx; the URL's host is told, not the rest of it, which may be a secret.
    """
    request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310  http and https alone are let in
    host = request.host
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout) as answer:
            answer.read(_MOST_READ)
    except HTTPError as error:
        with error:
            said = _text(error.read(_MOST_READ)) if error.fp is not None else ""
        raise Undeliverable(f"the server answered {error.code} {error.reason}: {said}".rstrip(": "), host) from None
    except URLError as error:
        raise Undeliverable(f"the server cannot be reached: {error.reason}", host) from None
    except Exception as error:  # noqa: BLE001  http.client raises whatever a broken answer makes of it
        raise Undeliverable(f"the server did not answer properly: {error or type(error).__name__}", host) from None


class Command:
    """A program that gets the message as JSON on its standard input; no shell reads it."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self._arguments = tuple(arguments)
        self._folder = folder

    def deliver(self, message: Message, timeout: float) -> str | None:
        """Run the program; anything but exit code 0 within the time is a failure, and what still runs is killed."""
        name = self._arguments[0]
        with tempfile.TemporaryFile() as complaints:
            try:
                process = subprocess.Popen(  # noqa: S603  the settings' owner names the program
                    self._arguments,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    cwd=self._folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise Undeliverable(f"the program cannot be started: {error.strerror or error}", name) from None
            with process:
                try:
                    process.communicate(json.dumps(message.to_json()).encode(), timeout)
                except subprocess.TimeoutExpired:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)  # with what it may have started
                    raise Undeliverable(f"the program had not ended after {timeout:g} s and was killed", name) from None
            if process.returncode:
                complaints.seek(0)
                said = _text(complaints.read(_MOST_READ))
                raise Undeliverable(f"the program ended with code {process.returncode}: {said}".rstrip(": "), name)
        return None


def _text(given: bytes | str) -> str:
    """Return an answer in one short line."""
    text = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= 300 else f"{line[:299]}…"


def _replies(refused: Mapping[str, tuple[int, bytes]]) -> str:
    return "; ".join(f"{address} ({code} {_text(reply)})" for address, (code, reply) in refused.items())

"""HTML and SVG in which text from outside cannot become markup: everything is escaped unless it was made here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape

_VOID = {"meta", "img", "br", "hr", "link", "input"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Content = str | int | Iterable["Content"] | None


def render(content: Content) -> str:
    """Return content as markup; text is escaped, None is nothing, sequences are joined."""
    if content is None:
        return ""
    if isinstance(content, Markup):
        return content
    if isinstance(content, str | int):
        return escape(str(content))
    return "".join(render(part) for part in content)


def tag(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Attributes lose a trailing underscore and have hyphens for underscores (``class_``, ``aria_label``); one that is
    None or False is left out. ``viewBox`` and the like keep their capitals.

    >>> print(tag("p", "a < b", tag("b", "!"), class_="x"))
    <p class="x">a &lt; b<b>!</b></p>
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        written.append(f" {attribute}" if value is True else f' {attribute}="{escape(_plain(value))}"')
    opening = f"<{name}{''.join(written)}>"
    return Markup(opening if name in _VOID else f"{opening}{render(content)}</{name}>")


def _plain(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def join(*content: Content) -> Markup:
    """Return content as one piece of markup."""
    return Markup(render(content))


def data(identifier: str, value: object) -> Markup:
    """Return JSON that a script of the page reads, and that cannot end the element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')

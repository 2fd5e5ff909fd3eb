"""Where the command begins. Ctrl-C ends it quietly even while its modules are still being read."""

from __future__ import annotations

import os
import signal
import sys

NOTES_REQUESTS = {"run", "demo", "resume"}
"""Verbs that note requests to stop from their first moment on: an interrupt might be swallowed by an import before."""


def main() -> None:
    """Run the command."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from acquisition.cli import main as command

    if not NOTES_REQUESTS & set(sys.argv[1:2]):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    main()

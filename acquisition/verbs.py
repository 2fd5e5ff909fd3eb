"""What the verbs of the command share: options, arguments, exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130
"""The run failed or ended safe; the input was wrong; stopped by Ctrl-C after the cleanup."""

Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of runs and of the embedded database.", envvar="RILIEVO_DATA")
]
Database = Annotated[str | None, typer.Option("--db", help="URL of another database, such as PostgreSQL's.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
InstrumentPath = Annotated[
    Path | None, typer.Option("--instrument", help="YAML file of the instrument; the simulated one unless given.")
]
RunArgument = Annotated[str, typer.Argument(help="Id of the run, or enough of its beginning; 'last' is the newest.")]

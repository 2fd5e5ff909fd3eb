"""The command ``rilievo``: verbs that are what people do.

Exit codes: 0 done, 1 the run failed or ended safe, 2 the input was wrong, 130 stopped by Ctrl-C after the cleanup.
Heavy modules are imported inside the verbs, so that ``rilievo --help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from acquisition.alert_verbs import alerts_app
from acquisition.calendar_verbs import schedule_app, serve
from acquisition.play import demo, resume, run
from acquisition.reconstruct import reconstruct
from acquisition.remote_verbs import remote_app
from acquisition.simulate import simulate_app
from acquisition.train import train
from acquisition.verbs import (
    EXIT_FAILED,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    Data,
    Database,
    InstrumentPath,
    Json,
    RunArgument,
)
from drivers.errors import InputError, RilievoError, system_error

app = typer.Typer(
    name="rilievo",
    help="Run a scanning electron microscope through the night; turn every frame into heights with an uncertainty.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
database_app = typer.Typer(help="Look after the database.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(database_app, name="db")
app.add_typer(simulate_app, name="simulate")
app.command()(reconstruct)
app.command()(train)
app.command()(serve)
app.add_typer(schedule_app, name="schedule")
app.add_typer(alerts_app, name="alerts")
app.add_typer(remote_app, name="remote")

# What typer raises for wrong words: its own class in newer versions, click's in older ones.
_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> None:
    """Run the command; every error becomes one sentence and an exit code, never a traceback."""
    as_json = "--json" in sys.argv
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except _USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help itself
            sys.stdout.write(f"{error.format_message()}\n")
            sys.exit(EXIT_INPUT)
        code = _tell(InputError(f"{error.format_message()} (rilievo --help shows how)"), as_json)
    except RilievoError as error:
        code = _tell(error, as_json)
    except BrokenPipeError:  # whoever read our output has gone
        sys.stderr.close()
        code = EXIT_FAILED
    except OSError as error:
        code = _tell(system_error(error), as_json)
    except Exception as error:  # noqa: BLE001  an error of our own: kept whole for a report, told in one sentence
        code = _tell(_own_error(error), as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(error: RilievoError, as_json: bool) -> int:
    from acquisition.terminal import emit_error

    emit_error(error, as_json=as_json)
    return error.exit_code


def _own_error(error: Exception) -> RilievoError:
    """Return an error of our own in a sentence; its trace goes to a file, for a report."""
    import tempfile
    import traceback

    told = f"an error in Rilievo itself ({type(error).__name__}: {error})"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="rilievo-", suffix=".log", delete=False, encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return RilievoError(f"{told}; please send this to the developers")
    return RilievoError(f"{told}; its trace is in {file.name}, please send it to the developers")


# -- runs

app.command()(demo)
app.command()(run)
app.command()(resume)


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="YAML file of the recipe.")],
    instrument: InstrumentPath = None,
    as_json: Json = False,
) -> None:
    """Validate a recipe; tell its duration, dose, disk space, and what breaks a limit or a gas rule."""
    from acquisition import app as wiring
    from acquisition import terminal
    from acquisition.plan import check_file

    with wiring.open_instrument(instrument) as found:
        plan = check_file(recipe, found)[1]
    if as_json:
        terminal.emit_json({"instrument": found.name, **plan.to_json()})
        return
    terminal.show_plan(found.name, plan)


@app.command()
def schema(as_json: Json = False) -> None:  # noqa: ARG001  it is JSON in any case
    """Print the JSON schema of recipes, for editors."""
    from acquisition.recipe import json_schema
    from acquisition.terminal import emit_json

    emit_json(json_schema())


@app.command()
def runs(data: Data = None, db: Database = None, as_json: Json = False) -> None:
    """List the runs, newest first."""
    from acquisition import terminal
    from acquisition.app import open_laboratory
    from acquisition.overview import run_json

    with open_laboratory(data, db, create=False) as laboratory:
        found = laboratory.log.runs()
        if as_json:
            terminal.emit_json([run_json(run) for run in found])
        elif not found:
            terminal.console().print("no runs yet; rilievo demo makes one")
        else:
            terminal.show_runs(found)


@app.command()
def show(run: RunArgument, data: Data = None, db: Database = None, as_json: Json = False) -> None:
    """Show what a run did: state, frames, figures, events."""
    from acquisition import terminal
    from acquisition.app import open_laboratory
    from acquisition.overview import find_run, summary_json

    with open_laboratory(data, db, create=False) as laboratory:
        found = find_run(laboratory.log, run)
        if as_json:
            terminal.emit_json(summary_json(laboratory.log, found.id))
        else:
            terminal.show_summary(summary_json(laboratory.log, found.id))


@app.command()
def report(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the report goes.")] = None,
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Write a run's report: one HTML file that needs no network."""
    from acquisition import app as wiring
    from acquisition import terminal
    from acquisition.overview import find_run

    with wiring.open_laboratory(data, db, create=False) as laboratory:
        found = find_run(laboratory.log, run)
        path = wiring.report(laboratory, found.id, output)
    if as_json:
        terminal.emit_json({"id": found.id, "report": str(path)})
    else:
        terminal.console().print(f"report  {path}", soft_wrap=True)


# -- instruments and the database


@app.command()
def devices(instrument: InstrumentPath = None, as_json: Json = False) -> None:
    """Show what an instrument's devices read, their limits, and the drivers there are."""
    from acquisition import terminal
    from acquisition.app import open_instrument
    from acquisition.overview import devices_json
    from drivers.registry import Registry

    with open_instrument(instrument) as found:
        body = devices_json(found, Registry.discover())
    if as_json:
        terminal.emit_json(body)
    else:
        terminal.show_devices(body)


@database_app.command("upgrade")
def upgrade(data: Data = None, db: Database = None, as_json: Json = False) -> None:
    """Bring the database to this version's schema."""
    from acquisition import terminal
    from acquisition.app import open_laboratory
    from acquisition.database import schema as db_schema
    from acquisition.database import shown

    with open_laboratory(data, db) as laboratory:
        body = {
            "database": shown(laboratory.log.engine.url),
            "schema": db_schema(laboratory.log.engine).current,
            "note": laboratory.log.note,
        }
    if as_json:
        terminal.emit_json(body)
    else:
        told = body["note"] or f"the database has this version's schema, {body['schema']}"
        terminal.console().print(f"{told}  ({body['database']})", soft_wrap=True)


@database_app.command("backup")
def backup(
    target: Annotated[Path, typer.Argument(help="File to write; it must not be there yet.")],
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Copy the embedded database to a file while it may be in use."""
    from acquisition import terminal
    from acquisition.app import open_laboratory

    if target.exists():
        raise InputError("this file is there already; name another", str(target))
    with open_laboratory(data, db, create=False) as laboratory:
        laboratory.log.backup(target)
    if as_json:
        terminal.emit_json({"backup": str(target)})
    else:
        terminal.console().print(f"backup  {target}", soft_wrap=True)

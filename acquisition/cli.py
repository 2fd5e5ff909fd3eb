"""The command ``rilievo``: verbs that are what people do.

Exit codes: 0 done, 1 the run failed or ended safe, 2 the input was wrong, 130 stopped by Ctrl-C after the cleanup.
Heavy modules are imported inside the verbs, so that ``rilievo --help`` answers at once.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acquisition.alert_verbs import alerts_app
from acquisition.calendar_verbs import schedule_app, serve
from acquisition.reconstruct import reconstruct
from acquisition.simulate import simulate_app
from acquisition.stopping import stop_requests
from acquisition.train import train
from drivers.errors import DiskFull, InputError, RilievoError, StoreError

if TYPE_CHECKING:
    from acquisition.app import Laboratory
    from acquisition.engine import Outcome
    from acquisition.feed import Live
    from acquisition.plan import Plan
    from drivers.contract import Instrument
    from reconstruction.live import LiveQuality

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

Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of runs and of the embedded database.", envvar="RILIEVO_DATA")
]
Database = Annotated[str | None, typer.Option("--db", help="URL of another database, such as PostgreSQL's.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
InstrumentPath = Annotated[
    Path | None, typer.Option("--instrument", help="YAML file of the instrument; the simulated one unless given.")
]
Speed = Annotated[
    float | None,
    typer.Option("--speed", help="Virtual seconds per second of a simulated instrument; 1 is real time."),
]
LiveQualityName = Annotated[
    str | None,
    typer.Option(
        "--live-quality",
        help="Of the heights made while it runs: preview unless given, so that simulated nights repeat to the bit; "
        "fast; or auto, the best of both that keeps up with the frames.",
    ),
]
RunArgument = Annotated[str, typer.Argument(help="Id of the run, or enough of its beginning; 'last' is the newest.")]

EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130


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
        code = _tell(_system_error(error), as_json)
    except Exception as error:  # noqa: BLE001  an error of our own: kept whole for a report, told in one sentence
        code = _tell(_own_error(error), as_json)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(error: RilievoError, as_json: bool) -> int:
    from acquisition.terminal import emit_error

    emit_error(error, as_json=as_json)
    return error.exit_code


def _system_error(error: OSError) -> RilievoError:
    import errno

    where = str(error.filename) if error.filename else None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("there is no room left on the disk; make room or choose another folder with --data", where)
    return StoreError(f"the operating system refused: {error.strerror or error}", where)


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


@app.command()
def demo(
    data: Data = None,
    db: Database = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the report goes.")] = None,
    live_quality: LiveQualityName = None,
    as_json: Json = False,
) -> None:
    """Play the bundled copper redox night on the simulated microscope and write its report."""
    from acquisition.recipe import ready_made

    recipe = ready_made()["copper-redox"]
    _play(recipe, None, None, data, db, live_quality=live_quality, report_to=output, as_json=as_json)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML file of the recipe.")],
    instrument: InstrumentPath = None,
    speed: Speed = None,
    data: Data = None,
    db: Database = None,
    heights: Annotated[bool, typer.Option("--heights/--no-heights", help="Make heights while it runs.")] = True,
    live_quality: LiveQualityName = None,
    as_json: Json = False,
) -> None:
    """Play a recipe, on the simulated microscope unless an instrument is named."""
    if live_quality is not None and not heights:
        raise InputError("--live-quality cannot be given with --no-heights", "--live-quality")
    _play(recipe, instrument, speed, data, db, heights=heights, live_quality=live_quality, as_json=as_json)


def _play(
    recipe: Path,
    instrument_path: Path | None,
    speed: float | None,
    data: Path | None,
    db: str | None,
    *,
    heights: bool = True,
    live_quality: str | None = None,
    report_to: Path | None = None,
    as_json: bool = False,
) -> None:
    """Check, play and report a recipe, and leave with the right exit code."""
    from acquisition import app as wiring
    from acquisition.plan import check_file

    level = _live_level(live_quality)
    with wiring.open_instrument(instrument_path, speed) as instrument:
        loaded, plan = check_file(recipe, instrument)
        with wiring.open_laboratory(data, db) as laboratory:
            live = wiring.start_live(quality=level) if heights else None
            try:
                run_id, outcome = _play_night(laboratory, loaded, plan, instrument, live, as_json)
                _tell_end(laboratory, run_id, outcome, live, report_to, as_json)
            finally:
                if live is not None:
                    live.close()
    if outcome.state == "stopped":
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.state != "finished":
        raise typer.Exit(EXIT_FAILED)


def _live_level(name: str | None) -> LiveQuality:
    """Return the quality of live heights that an option names."""
    known: tuple[LiveQuality, ...] = ("preview", "fast", "auto")
    for each in known:
        if (name or "preview") == each:
            return each
    raise InputError(
        f"expected auto, preview or fast; got {name!r}. The full quality comes after the run: "
        "rilievo reconstruct --run RUN --quality full",
        "--live-quality",
    )


def _play_night(
    laboratory: Laboratory, loaded: Any, plan: Plan, instrument: Instrument, live: Live | None, quiet: bool
) -> tuple[str, Outcome]:
    """Play a run to its end; nothing that befalls the display or this thread leaves the instrument to itself."""
    from acquisition import app as wiring
    from acquisition import terminal

    with stop_requests() as stop_asked:
        night = wiring.begin(laboratory, loaded, plan, instrument, live)
        night.start()
        try:
            with suppress(*terminal.BROKEN_PIPE):  # nobody reads it; the run goes on
                if not quiet:
                    _announce(night.run_id, loaded.recipe.name, instrument.name, plan)
            terminal.follow(night, plan, stop_asked)
        except BaseException as error:
            night.engine.abort(f"the display failed: {type(error).__name__}: {error}")
            night.finish()
            raise
        return night.run_id, night.finish()


def _announce(run_id: str, name: str, instrument: str, plan: Plan) -> None:
    from rich.text import Text

    from acquisition import terminal
    from acquisition.wording import bytes_text, duration_text

    out = terminal.console(sys.stderr)
    out.print(Text.assemble((name, "bold"), f"  on {instrument}  ", (run_id, "dim")))
    out.print(
        f"{plan.frames} frames planned over {duration_text(plan.duration)} of the instrument's time, "
        f"about {bytes_text(plan.disk_bytes)}"
    )


def _tell_end(
    laboratory: Laboratory, run_id: str, outcome: Outcome, live: Live | None, report_to: Path | None, as_json: bool
) -> None:
    """Tell how a run ended, make up for missing heights, and write the report; trouble here changes no outcome."""
    from acquisition import terminal

    if not as_json:
        terminal.show_outcome(outcome.state.value, outcome.reason)
    body: dict[str, Any] = {"id": run_id, "state": outcome.state.value, "reason": outcome.reason}
    try:
        body |= _settle(laboratory, run_id, live, report_to)
    except (RilievoError, OSError) as error:
        trouble = error if isinstance(error, RilievoError) else _system_error(error)
        body["warning"] = str(trouble)
    if as_json:
        terminal.emit_json(body)
    else:
        terminal.show_end(body)


def _settle(laboratory: Laboratory, run_id: str, live: Live | None, report_to: Path | None) -> dict[str, Any]:
    from acquisition import app as wiring
    from acquisition import terminal
    from acquisition.overview import frames_without_heights, summary_json

    missing = frames_without_heights(laboratory.log, run_id)
    if live is not None and missing:
        heights = wiring.make_heights(laboratory, run_id, missing, live)
        terminal.track("catching up with the heights", len(missing), heights)
    report = wiring.report(laboratory, run_id, report_to)
    return {**summary_json(laboratory.log, run_id), "report": str(report)}


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

"""The verbs that play a run: ``rilievo demo``, ``run`` and ``resume``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acquisition.stopping import stop_requests
from acquisition.verbs import EXIT_FAILED, EXIT_INTERRUPTED, Data, Database, InstrumentPath, Json, RunArgument
from drivers.errors import InputError, RilievoError, system_error

if TYPE_CHECKING:
    from acquisition.app import Laboratory
    from acquisition.feed import Live
    from acquisition.night import Night
    from acquisition.plan import Plan
    from acquisition.progress import Outcome
    from reconstruction.live import LiveQuality

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


def resume(
    run: RunArgument,
    outage: Annotated[
        str | None,
        typer.Option("--outage", help="How long a simulated instrument was left to itself; measured unless given."),
    ] = None,
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Go on with a run that was interrupted: its process was killed, or the power was cut."""
    with stop_requests(second_breaks=True) as asked:
        from acquisition import app as wiring
        from acquisition.overview import find_run
        from acquisition.plan import check
        from acquisition.recipe import parse_recipe
        from drivers.units import parse_quantity, si

        seconds = None if outage is None else si(parse_quantity(outage, "s"))
        with wiring.open_laboratory(data, db, create=False) as laboratory:
            found = find_run(laboratory.log, run)
            with (
                wiring.open_interrupted(laboratory, found.id, seconds) as instrument,
                wiring.reconstructing((found.options or {}).get("live_quality")) as live,
            ):
                plan = check(parse_recipe(found.recipe_text, found.recipe_name), instrument)
                outcome = _conduct(
                    laboratory,
                    lambda: wiring.go_on(laboratory, found.id, instrument, live),
                    plan,
                    live,
                    resumed=True,
                    asked=asked,
                    as_json=as_json,
                )
    _leave(outcome)


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
    with stop_requests(second_breaks=True) as asked:  # noted from here on: an import swallows an interrupt
        from acquisition import app as wiring
        from acquisition.plan import check_file

        level = _live_level(live_quality)
        with wiring.open_instrument(instrument_path, speed) as found:
            loaded, plan = check_file(recipe, found)
            with (
                wiring.open_laboratory(data, db) as laboratory,
                wiring.remembering(laboratory, found, instrument_path, speed) as (instrument, memory),
                wiring.reconstructing(level if heights else None) as live,
            ):
                outcome = _conduct(
                    laboratory,
                    lambda: wiring.begin(laboratory, loaded, plan, instrument, live, quality=level, memory=memory),
                    plan,
                    live,
                    report_to,
                    asked=asked,
                    as_json=as_json,
                )
    _leave(outcome)


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


def _conduct(
    laboratory: Laboratory,
    ready: Callable[[], Night],
    plan: Plan,
    live: Live | None,
    report_to: Path | None = None,
    *,
    resumed: bool = False,
    asked: Callable[[], str | None],
    as_json: bool,
) -> Outcome:
    """Play a run to its end, tell how it went and write its report; whoever is to be told elsewhere is told, too."""
    from acquisition.alerts import telling

    with telling(laboratory.folder, laboratory.log, forgiving=resumed):
        run_id, outcome = _play_night(ready, plan, asked, quiet=as_json)
        _tell_end(laboratory, run_id, outcome, live, report_to, as_json)
    return outcome


def _leave(outcome: Outcome) -> None:
    if outcome.state == "stopped":
        raise typer.Exit(EXIT_INTERRUPTED)
    if outcome.state != "finished":
        raise typer.Exit(EXIT_FAILED)


def _play_night(
    ready: Callable[[], Night], plan: Plan, asked: Callable[[], str | None], *, quiet: bool
) -> tuple[str, Outcome]:
    """Play a run to its end; nothing that befalls the display or this thread leaves the instrument to itself."""
    from acquisition import terminal

    with stop_requests() as asked_since:  # from here on nothing breaks off: the cleanup keeps the sample safe
        if asked() is not None:
            raise KeyboardInterrupt
        night = ready()
        night.start()
        try:
            with suppress(*terminal.BROKEN_PIPE):  # nobody reads it; the run goes on
                if not quiet:
                    _announce(night, plan)
            terminal.follow(night, plan, asked_since)
        except BaseException as error:
            night.engine.abort(f"the display failed: {type(error).__name__}: {error}")
            night.finish()
            raise
        return night.run_id, night.finish()


def _announce(night: Night, plan: Plan) -> None:
    from rich.text import Text

    from acquisition import terminal
    from acquisition.wording import bytes_text, duration_text

    out = terminal.console(sys.stderr)
    out.print(Text.assemble((plan.name, "bold"), f"  on {night.instrument}  ", (night.run_id, "dim")))
    if night.decision:
        out.print(night.decision, soft_wrap=True)
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
        # How the run ended is told as it is known here: a database that is away may not know it yet.
        body = {**_settle(laboratory, run_id, live, report_to), **body}
    except (RilievoError, OSError) as error:
        body["warning"] = str(error if isinstance(error, RilievoError) else system_error(error))
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

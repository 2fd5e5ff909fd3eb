"""The verb ``rilievo reconstruct``: heights from image files of any microscope, or from a whole run again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from drivers.errors import InputError, StoreError

if TYPE_CHECKING:
    from drivers.units import Q
    from reconstruction.photometric import Quality
    from reconstruction.solve import Progress

PATIENCE = {"preview": 120.0, "fast": 600.0, "full": 3600.0}
"""Real seconds without a result after which the frames of a run that are left are given up; of the largest fields."""


def reconstruct(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="One image per segment, in the detector file's order, or one frame of a run."),
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Make the heights of a whole run again.")] = None,
    detector: Annotated[Path | None, typer.Option("--detector", help="YAML file of the detector's geometry.")] = None,
    pixel_size: Annotated[str | None, typer.Option("--pixel-size", help="Such as '20 nm'.")] = None,
    beam_energy: Annotated[str | None, typer.Option("--beam-energy", help="Such as '5 keV'.")] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            help="preview (local law), fast (linear inverse) or full (what explains the image). Unless given: full "
            "where material and detector are told and the transformer knows them, else preview; fast for --run.",
        ),
    ] = None,
    material: Annotated[
        str | None, typer.Option("--material", help="Chemical symbol, such as Cu; 'Cu2O on Cu' seeks the oxide, too.")
    ] = None,
    probe_current: Annotated[str | None, typer.Option("--probe-current", help="Such as '1 nA'.")] = None,
    dwell_time: Annotated[str | None, typer.Option("--dwell-time", help="Such as '10 us'.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="TIFF of heights and σ in nm; heights.tif unless given.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of runs.", envvar="RILIEVO_DATA")] = None,
    db: Annotated[str | None, typer.Option("--db", help="URL of another database.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Turn segment images into heights in nm with their σ: a TIFF, a figure and JSON beside it."""
    options = {
        "--detector": detector,
        "--pixel-size": pixel_size,
        "--beam-energy": beam_energy,
        "--probe-current": probe_current,
        "--dwell-time": dwell_time,
    }
    wanted = _quality(quality)
    if run is not None:
        if files:
            raise InputError("give either files or --run, not both")
        _refuse({**options, "--output": output}, "a run's frames carry their own settings")
        _again(run, wanted or "fast", material, data, db, as_json)
        return
    if not files:
        raise InputError("give one image per segment, or --run with a run's id")
    given = {
        "pixel_size": _si("--pixel-size", pixel_size, "m"),
        "beam_energy": _si("--beam-energy", beam_energy, "J"),
        "probe_current": _si("--probe-current", probe_current, "A"),
        "dwell_time": _si("--dwell-time", dwell_time, "s"),
    }
    from reconstruction.files import refuse_target

    target = output or Path("heights.tif")
    refuse_target(target, files)
    # Threads of torch that wait by spinning make the work many times slower where other programs use the cores, too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _bar(as_json) as progress:
        if len(files) == 1:
            _refuse(options, "a frame of a run carries its own settings; otherwise give one image per segment")
            result = _one_frame(files[0], material, wanted, progress)
        else:
            result = _segments(files, detector, material, given, wanted, progress)
    _write(result, target, as_json)


def _quality(name: str | None) -> Quality | None:
    """Return the quality that an option names."""
    from reconstruction.photometric import Quality

    known: tuple[Quality, ...] = get_args(Quality)
    for each in known:
        if name == each:
            return each
    if name is not None:
        raise InputError(f"expected preview, fast or full; got {name!r}", "--quality")
    return None


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    """Show a bar on standard error where there is a terminal; yields what moves it."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from acquisition.terminal import console

    columns = (SpinnerColumn(), TextColumn("heights: {task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    hidden = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=console(sys.stderr), transient=True, disable=hidden) as bar:
        task = bar.add_task("reading", total=1.0)

        def show(share: float, words: str) -> None:
            bar.update(task, completed=min(share, 1.0), description=words)

        yield show


def _refuse(options: dict[str, Any], because: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{', '.join(given)} cannot be given here: {because}")


def _si(option: str, text: str | None, unit: str) -> float | None:
    """Return an option's quantity in SI; an error names the option."""
    from drivers.errors import QuantityError
    from drivers.units import noun, parse_quantity, si

    if text is None:
        return None
    try:
        value: Q = parse_quantity(text, unit)
    except QuantityError as error:
        raise InputError(error.message, option) from None
    if not si(value) > 0:
        raise InputError(f"expected {noun(unit)[0]} above 0; got {text}", option)
    return si(value)


def _segments(
    files: list[Path],
    detector: Path | None,
    material: str | None,
    given: dict[str, float | None],
    quality: Quality | None,
    progress: Progress,
) -> Any:
    from drivers.registry import load_detector
    from reconstruction.files import reconstruct_files

    geometry = None if detector is None else load_detector(detector)
    return reconstruct_files(files, detector=geometry, material=material, quality=quality, progress=progress, **given)


def _one_frame(path: Path, material: str | None, quality: Quality | None, progress: Progress) -> Any:
    """Reconstruct a frame that this program stored: it carries its geometry and settings itself."""
    from acquisition.store import read_frame
    from reconstruction.quality import reconstruct_frame

    try:
        frame = read_frame(path)
    except StoreError as error:
        raise InputError(f"{error.message}; a single file must be a frame of a run, otherwise give one image per "
                         "segment", str(path)) from None  # fmt: skip
    if frame.dark:
        raise InputError("this is a dark frame: the beam was blanked, there is nothing to reconstruct", str(path))
    return reconstruct_frame(frame, quality=quality, material=material, progress=progress)


def _write(result: Any, output: Path, as_json: bool) -> None:
    from acquisition import terminal
    from reconstruction.files import summary, write_results

    written = write_results(output, result)
    body = summary(result)
    if as_json:
        terminal.emit_json({**body, "files": [str(path) for path in written]})
        return
    out = terminal.console()
    out.print(f"{'quality':<24}{body['quality']}")
    for name, figure in body["figures"].items():
        sigma = f" ± {figure['sigma']:.2g}" if figure["sigma"] is not None else ""
        out.print(f"{name.replace('_', ' '):<24}{figure['value']:.4g}{sigma} {figure['unit']}".rstrip())
    for sentence in body["assumptions"]:
        out.print(f"assumed: {sentence}", style="yellow", soft_wrap=not out.is_terminal)
    for path in written:
        out.print(f"written  {path}", soft_wrap=True)


def _again(run: str, quality: Quality, material: str | None, data: Path | None, db: str | None, as_json: bool) -> None:
    """Make all heights of a run again."""
    from acquisition import app as wiring
    from acquisition import terminal
    from acquisition.overview import find_run, summary_json
    from reconstruction.quality import check_quality, known_material

    sample = known_material(material or "Cu")
    check_quality(quality, sample)
    with wiring.open_laboratory(data, db, create=False) as laboratory:
        found = find_run(laboratory.log, run)
        frames = [frame for frame in laboratory.log.frames(found.id) if not frame.dark]
        live = wiring.start_live(quality=quality, material=sample)
        try:
            results = wiring.make_heights(laboratory, found.id, frames, live, patience=PATIENCE[quality])
            terminal.track(f"heights, {quality}", len(frames), results)
        finally:
            live.close()
        body = {**summary_json(laboratory.log, found.id), "quality": quality}
    if as_json:
        terminal.emit_json(body)
    else:
        counts = body["frames"]
        terminal.console().print(f"{counts['heights']} heights made in {quality} quality, {counts['failed']} failed")
    if body["frames"]["failed"]:
        raise typer.Exit(1)

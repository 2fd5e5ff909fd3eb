"""The verb ``rilievo train``: fits the Vision Field Transformer to a data set of Monte Carlo electrons.

Beside the weights stand a learning curve and the model card as JSON. While a fit is under way its checkpoint is kept in
``FILE.checkpoint``: after Ctrl-C, a power cut or a full disk ``--resume`` goes on from there; after the end, too, where
more minutes are given.
"""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acquisition.stopping import stop_requests
from drivers.errors import DiskFull, InputError, RilievoError, StoreError

if TYPE_CHECKING:
    from reconstruction.card import DataSet
    from reconstruction.checkpoint import Checkpoint
    from reconstruction.training import Training, TrainingPlan

EXIT_INTERRUPTED = 130
SUFFIX = ".safetensors"
LARGEST_SEED = 2**63 - 1
Show = Callable[[float, str], None]


class Stopped(Exception):
    """Somebody asked the fit to stop; all that it had reached is in the checkpoint."""


def train(
    folder: Annotated[Path, typer.Argument(help="Data set of rilievo simulate dataset, made with --tilts.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Weights; a learning curve and the model card stand beside them.")
    ] = Path("transformer.safetensors"),
    further: Annotated[
        list[Path] | None,
        typer.Option("--with", help="Further data set, of another plan; more than once for more. Needs no tilts."),
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Of training; 45 unless given.")] = None,
    time: Annotated[str | None, typer.Option("--time", help="The same as a quantity, such as '45 min'.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside the weights.")] = False,
    start: Annotated[
        Path | None, typer.Option("--start", help="Weights to begin with, at half the learning rate.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the first weights and of the draws.")] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option("--hold-out", help="Family that only validates; more than once for more, or none."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False,
) -> None:
    """Fit the Vision Field Transformer to a data set; Ctrl-C keeps a checkpoint to go on from."""
    files = Files.beside(output)
    budget = _budget(minutes, time)
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"expected a seed from 0 to {LARGEST_SEED}; got {seed}", "--seed")
    from reconstruction.basis import emission_basis
    from reconstruction.card import choose_held_out, read_data_sets
    from reconstruction.checkpoint import load_checkpoint
    from reconstruction.training import TrainingPlan, start_training
    from reconstruction.vft import Architecture

    data, basis = read_data_sets(folder, further or ()), emission_basis()
    if resume:
        begun = load_checkpoint(files.checkpoint, Architecture(), basis)
        plan = _resumed_plan(begun, data, budget, seed, hold_out)
        training, notes = begun.training, _changes(begun, data)
    else:
        files.refuse_to_overwrite()
        usual = TrainingPlan()
        plan = TrainingPlan(
            minutes=budget or usual.minutes,
            rate=usual.rate / 2 if start else usual.rate,
            held_out=choose_held_out(data[0], hold_out),
            seed=seed or usual.seed,
        )
        training, notes = start_training(Architecture(), plan, basis), []
        if start is not None:
            from reconstruction.training import start_from
            from reconstruction.weights import load_model

            start_from(training, load_model(start))
    fit = Fit(files, data, plan, training, quiet=as_json)
    fit.keep()  # an unwritable folder or a full disk is told before anything is read
    for note in notes:
        fit.say(note)
    fit.run()
    fit.finish(_commands(data, files, plan, resume, start), notes, as_json)


class Files:
    """Where things go: the weights, the checkpoint, the learning curve, the card."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.checkpoint = weights.with_name(weights.name + ".checkpoint")
        self.curve = weights.with_suffix(".png")
        self.card = weights.with_suffix(".json")

    @classmethod
    def beside(cls, weights: Path) -> Files:
        """Return the files around the weights, whose folder is made if need be.

        Raises
        ------
        InputError
        """
        if weights.suffix != SUFFIX:
            raise InputError(f"expected a file that ends in {SUFFIX}; got {weights}", "--output")
        if weights.is_dir():
            raise InputError(f"{weights} is a folder; name a file", "--output")
        try:
            weights.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {weights.parent} cannot be made: {error.strerror}", "--output") from None
        return cls(weights)

    def refuse_to_overwrite(self) -> None:
        """Refuse to begin anew over a fit that was not finished.

        Raises
        ------
        InputError
        """
        from reconstruction.checkpoint import is_finished

        if self.checkpoint.exists() and not is_finished(self.checkpoint):
            raise InputError(
                f"a fit that was not finished stands in {self.checkpoint}; go on with --resume, or delete it"
            )


def _budget(minutes: float | None, time: str | None) -> float | None:
    """Return the minutes that were asked for."""
    if time is not None:
        from drivers.units import parse_quantity, si

        if minutes is not None:
            raise InputError("give either --minutes or --time, not both")
        minutes = si(parse_quantity(time, "second")) / 60
    if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
        raise InputError(f"expected a training time above 0 minutes; got {minutes:g}")
    return minutes


def _resumed_plan(
    begun: Checkpoint, data: Sequence[DataSet], minutes: float | None, seed: int | None, hold_out: list[str] | None
) -> TrainingPlan:
    """Return the plan of a checkpoint, longer or shorter if asked; everything else must be what it was."""
    from reconstruction.card import choose_held_out

    plan = begun.plan
    if seed is not None and seed != plan.seed:
        raise InputError(f"the fit was begun with the seed {plan.seed}; leave --seed out to go on with it", "--seed")
    asked = choose_held_out(data[0], hold_out if hold_out is not None else list(plan.held_out) or ["none"])
    if set(asked) != set(plan.held_out):
        held = ", ".join(plan.held_out) or "nothing"
        raise InputError(f"the fit was begun with {held} held out; leave --hold-out out to go on with it", "--hold-out")
    return plan if minutes is None else replace(plan, minutes=minutes)


def _words_of(data: Sequence[DataSet]) -> dict[str, Any]:
    """Return what a checkpoint keeps of data sets."""
    first, *others = data
    return {**first.words(), "further": [each.words() for each in others]}


def _changes(begun: Checkpoint, data: Sequence[DataSet]) -> list[str]:
    """Return in words what is not as it was when the fit was begun."""
    now, before = json.loads(json.dumps(_words_of(data))), begun.data
    notes = []
    if now["plan"] != before.get("plan"):
        notes.append(f"the data set {now['name']} was drawn by another plan than {before.get('name')}, with which the "
                     "fit was begun")  # fmt: skip
    elif now["further"] != before.get("further", []):
        notes.append("the further data sets are not those with which the fit was begun")
    elif now["samples"] != before.get("samples"):
        notes.append(f"the data set holds {now['samples']} samples; there were {before.get('samples')} before")
    return notes


class Fit:
    """A fit from its first step, or from a checkpoint, to its files.

    Parameters
    ----------
    files : Files
    data : sequence of DataSet
        The first has the tilted planes.
    plan : TrainingPlan
    training : Training
    quiet : bool
        Whether to show nothing but errors.
    """

    def __init__(
        self, files: Files, data: Sequence[DataSet], plan: TrainingPlan, training: Training, *, quiet: bool
    ) -> None:
        from reconstruction.basis import emission_basis

        self._files, self._data, self._plan, self._training, self._quiet = files, data, plan, training, quiet
        self._basis = emission_basis()
        self._law: Any = None
        self._samples: Any = None
        self._told = len(training.curve)

    def say(self, sentence: str) -> None:
        """Tell a sentence on standard error."""
        if not self._quiet:
            from acquisition.terminal import console

            console(sys.stderr).print(sentence, soft_wrap=True)

    def keep(self) -> None:
        """Write the checkpoint.

        Raises
        ------
        StoreError
            When the disk is full or cannot be written.
        """
        from reconstruction.checkpoint import save_checkpoint

        with _written(self._files.checkpoint):
            save_checkpoint(self._files.checkpoint, self._training, self._plan, self._basis, _words_of(self._data))

    def run(self) -> None:
        """Read the data and fit; Ctrl-C leaves with exit code 130 once the checkpoint is written."""
        from reconstruction.checkpoint import before_each_step
        from reconstruction.training import fit, fit_local_law, load_samples

        fresh = self._training.step == 0
        with _bar("reading", self._quiet) as show:
            try:
                self._law = fit_local_law(self._data[0].folder, self._basis)
                self._samples = [
                    sample for data in self._data for sample in load_samples(data.folder, self._law, self._basis, show)
                ]
            except BaseException:
                if fresh:  # nothing to go on from
                    self._files.checkpoint.unlink(missing_ok=True)
                raise
        with _bar("training", self._quiet) as show, stop_requests(second_breaks=True) as asked:

            def step() -> None:
                if asked():
                    raise Stopped
                show(self._training.seconds / 60 / self._plan.minutes, self._words())

            try:
                with before_each_step(self._training, step):
                    fit(self._training, self._samples, self._law, self._basis, self._plan, self._tell, self._kept)
            except Stopped:
                self.keep()
        if asked():
            self._leave(asked() or "")

    def _kept(self, _: Training) -> None:
        self.keep()

    def _tell(self, _share: float, _words: str) -> None:
        """Print the newest figures where no bar shows them."""
        if not sys.stderr.isatty():
            minutes = self._training.seconds / 60
            self.say(f"{minutes:.1f} of {self._plan.minutes:g} min  {self._words()}")

    def _words(self) -> str:
        words = [f"step {self._training.step}"]
        if self._training.curve:
            newest = self._training.curve[-1]
            words.append(f"loss {newest['loss']:.4g}")
            if "held_out_loss" in newest:
                words.append(f"held out {newest['held_out_loss']:.4g}, error {newest['model_error']:.1%} of the signal")
        return ", ".join(words)

    def _leave(self, reason: str) -> None:
        minutes = self._training.seconds / 60
        told = f"{reason} after {minutes:.2g} of {self._plan.minutes:g} min; go on with --resume"
        if self._quiet:
            from acquisition.terminal import emit_json

            emit_json({"state": "stopped", "reason": reason, "checkpoint": str(self._files.checkpoint),
                       "step": self._training.step, "trained": _quantity(self._training.seconds, "s")})  # fmt: skip
        else:
            self.say(f"{told}  ({self._files.checkpoint})")
        raise typer.Exit(EXIT_INTERRUPTED)

    def finish(self, commands: dict[str, str], notes: list[str], as_json: bool) -> None:
        """Write the weights with their card and the picture, and tell the figures."""
        from reconstruction.card import build_card, draw_curve, held_out_figures
        from reconstruction.vft import VisionFieldTransformer
        from reconstruction.weights import save_model

        with _bar("figures", self._quiet) as show:
            figures = held_out_figures(self._training, self._samples, self._law, self._basis, self._plan, show)
        created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        card = build_card(self._data, self._samples, self._training, self._plan, figures, commands, created)
        if notes:
            card["notes"] = notes
        model = VisionFieldTransformer(self._training.result, self._law, self._basis, card)
        files = self._files
        with _written(files.weights):
            save_model(files.weights, model)
        with _written(files.card):
            files.card.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with _written(files.curve):
            draw_curve(card, files.curve)
        _report(card, files, as_json)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Say in a sentence why a file could not be written."""
    try:
        yield
    except RilievoError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(path) from None
        raise StoreError(f"the file cannot be written: {error.strerror or error}", str(path)) from None


def _no_room(path: Path) -> DiskFull:
    return DiskFull(
        "there is no room left on the disk; make room and go on with --resume where a checkpoint was kept", str(path)
    )


@contextmanager
def _bar(words: str, quiet: bool) -> Iterator[Show]:
    """Show a bar on standard error where there is a terminal; yields what moves it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from acquisition.terminal import console

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.percentage:3.0f} %"))
    hidden = quiet or not sys.stderr.isatty()
    with Progress(*columns, TimeRemainingColumn(), console=console(sys.stderr), transient=True, disable=hidden) as bar:
        task = bar.add_task(words, total=1.0)
        yield lambda share, now: bar.update(task, completed=min(share, 1.0), description=now or words)


# -- what is told at the end


def _commands(
    data: Sequence[DataSet], files: Files, plan: TrainingPlan, resume: bool, start: Path | None = None
) -> dict[str, str]:
    """Return the command lines that make the data and the weights; folders go by their names alone."""
    from shlex import join

    first, *others = (each.folder.resolve().name for each in data)
    fitted = ["rilievo", "train", first, "-o", files.weights.name, "--minutes", f"{plan.minutes:g}",
              "--seed", str(plan.seed)]  # fmt: skip
    fitted += [word for name in others for word in ("--with", name)]
    fitted += [word for family in plan.held_out or ("none",) for word in ("--hold-out", family)]
    fitted += ["--start", start.name] if start else []
    fitted += ["--resume"] if resume else []
    drawn = [join(_drawing(each, tilts=index == 0)) for index, each in enumerate(data)]
    return {"data": " && ".join(drawn), "weights": join(fitted)}


def _drawing(data: DataSet, *, tilts: bool) -> list[str]:
    """Return the words of the command that draws a data set."""
    drawn = data.plan
    words = ["rilievo", "simulate", "dataset", data.folder.resolve().name, *(["--tilts"] if tilts else []),
             "--samples", str(len(data.families))]  # fmt: skip
    single = (("--seed", "seed"), ("--pixels", "pixels"), ("--electrons-per-pixel", "electrons"),
              ("--finest", "finest"), ("--coarsest", "coarsest"), ("--layered", "layered"))  # fmt: skip
    for option, key in single:
        if key in drawn:
            words += [option, f"{drawn[key]:g}" if isinstance(drawn[key], float) else str(drawn[key])]
    words += [word for energy in drawn["energies"] for word in ("--energy", f"{energy:g} keV")]
    for option, key in (("--material", "materials"), ("--family", "families")):
        words += [word for each in drawn[key] for word in (option, str(each))]
    return words


def _quantity(value: float | None, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit}


def _report(card: dict[str, Any], files: Files, as_json: bool) -> None:
    from acquisition import terminal

    written = [str(path) for path in (files.weights, files.curve, files.card)]
    figures = card["figures"]
    if as_json:
        names = ("held_out_loss", "model_error", "local_error")
        told = {} if figures is None else {name: _quantity(figures[name], "") for name in names}
        trained = _quantity(card["training"]["seconds"], "s")
        terminal.emit_json({"state": "finished", "files": written, "step": card["training"]["steps"],
                            "trained": trained, "figures": told, "card": card})  # fmt: skip
        return
    out = terminal.console()
    out.print(f"{card['training']['steps']} steps in {card['training']['seconds'] / 60:.3g} min on "
              f"{card['data']['trained_on']} surfaces, {card['data']['electrons']:.3g} electrons")  # fmt: skip
    if figures is None:
        out.print("no family was held out: nothing tells how well other surfaces are met", style="yellow")
    else:
        out.print(_figure_table(figures))
    for path in written:
        out.print(f"written  {path}", soft_wrap=True)
    out.print(f"to train longer: --resume --minutes N  ({files.checkpoint})", style="dim", soft_wrap=True)


def _figure_table(figures: dict[str, Any]) -> Any:
    """Return the figures on held-out surfaces as a table; errors in units of the topographic signal."""
    from acquisition.terminal import table

    rows = [("all held out", figures)]
    rows += [(f"{part['energy']:g} keV", part) for part in figures["by_energy"]]
    for part in figures["by_pixel_size"]:
        low, high = part["pixel_size"]
        rows.append((f"pixels {low:g}–{high:g} R" if high is not None else f"pixels above {low:g} R", part))
    cells = [
        (name, part["samples"], *(_cell(part[key], form) for key, form in
                                  (("held_out_loss", ".4f"), ("model_error", ".1%"), ("local_error", ".1%"))))
        for name, part in rows
    ]  # fmt: skip
    columns = (", ".join(figures["families"]), "samples", "loss", "model error", "local law")
    return table(columns, cells, right=columns[1:])


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)

"""The verbs ``rilievo simulate backscatter``, ``frame`` and ``dataset``: Monte Carlo from the command line.

Errors are raised as :class:`drivers.errors.RilievoError`; the command turns them into a sentence and an exit code.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drivers.errors import InputError

if TYPE_CHECKING:
    from drivers.geometry import DetectorGeometry
    from drivers.sample import HeightMap
    from simulators.materials import Material
    from simulators.scanning import SegmentTally
    from simulators.scene import Beam, Stage, Surface

simulate_app = typer.Typer(
    help="Follow electrons by Monte Carlo: coefficients, images, training data.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Law = Annotated[str, typer.Option("--law", help="Elastic law: browning or rutherford (screened).")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same electrons.")]
Density = Annotated[
    str | None, typer.Option("--density", help="Of a compound that is not known, such as '5.24 g/cm**3'.")
]


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit}


def _si(text: str, unit: str) -> float:
    from drivers.units import parse_quantity, si

    return si(parse_quantity(text, unit))


def _energy(text: str) -> float:
    return _si(text, "joule")


def _angle(text: str) -> float:
    return _si(text, "radian")


def _length(text: str) -> float:
    return _si(text, "meter")


def _law(name: str) -> Any:
    if name not in ("browning", "rutherford"):
        raise InputError(f"expected the elastic law browning or rutherford; got {name!r}")
    return name


def _material(name: str, density: str | None, option: str = "--density") -> Material:
    """Return a material; what is refused comes with what to write instead. Without an option there is no density."""
    from simulators.materials import material

    given = _si(density, "kg/m**3") if density else None
    try:
        return material(name, given)
    except InputError as error:
        spelt = [name.capitalize(), name[:1].upper() + name[1:]]
        meant = next((other for other in spelt if other != name and _known(other)), None)
        if meant is not None:
            raise InputError(f"{error.message}; did you mean {meant}?") from None
        if given is None and option and _known(name):
            told = error.message.split("; give")[0]
            raise InputError(f"{told}; give one, such as {option} '5.2 g/cm**3'") from None
        raise


def _known(formula: str) -> bool:
    """Return whether a formula can be read, whatever its density."""
    from simulators.materials import material

    try:
        material(formula, 1000.0)
    except InputError:
        return False
    return True


def _count(electrons: float, most: float = math.inf) -> int:
    """Return a number of electrons, which on the command line may be 1e9."""
    if not (math.isfinite(electrons) and electrons >= 1):
        raise InputError(f"expected one electron at least, as a finite number; got {electrons:g}", "--electrons")
    if electrons > most:
        raise InputError(f"expected {most:g} electrons to each pixel at most; got {electrons:g}", "--electrons")
    return int(electrons)


def coefficient_error(backscattered: int, electrons: int) -> float:
    """Return the standard error of a backscatter coefficient.

    The standard deviation of η after k of N came back, when nothing was known of it before: that of the beta
    distribution of k + 1 and N − k + 1. It is the binomial one for large counts, and not 0 where none or all came back.
    """
    share = (backscattered + 1) / (electrons + 2)
    return math.sqrt(share * (1 - share) / (electrons + 3))


@contextmanager
def _progress(words: str) -> Iterator[Callable[[float, str], None]]:
    """Show a bar on standard error; yields what moves it: the share that is done, and words (empty: as before)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    quiet = not sys.stderr.isatty()
    out = Console(file=sys.stderr)
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True, disable=quiet) as bar:
        task = bar.add_task(words, total=1.0)
        yield lambda share, now: bar.update(task, completed=share, description=now or words)


def _emit(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@simulate_app.command()
def backscatter(
    element: Annotated[str, typer.Option("--element", "--material", help="Cu, Au, …, or a compound: Cu2O.")] = "Cu",
    energy: Annotated[str, typer.Option("--energy", "--beam-energy", help="Of the beam, 0.5 to 30 keV.")] = "20 keV",
    tilt: Annotated[str, typer.Option("--tilt", help="Of the surface normal from the beam.")] = "0 deg",
    electrons: Annotated[int, typer.Option("--electrons", help="How many to follow.")] = 100_000,
    seed: Seed = 0,
    law: Law = "browning",
    density: Density = None,
    as_json: Json = False,
) -> None:
    """Tell the backscatter coefficient of a plane sample, with the energies and directions of what leaves."""
    from drivers.units import KEV
    from simulators import scattering

    substance, beam_energy, angle = _material(element, density), _energy(energy), _angle(tilt)
    with _progress(f"{element} {energy}") as show:
        result = scattering.backscatter(
            substance, beam_energy, angle, electrons, seed, _law(law), progress=lambda share: show(share, "")
        )
    if as_json:
        _emit(_backscatter_json(result, element, beam_energy / KEV, math.degrees(angle), seed, law))
        return
    error = coefficient_error(result.backscattered, result.electrons)
    words = f"η = {result.coefficient:.4f} ± {error:.4f}, mean energy {result.mean_energy / KEV:.2f} keV"
    sys.stdout.write(f"{element}, {energy}, tilt {math.degrees(angle):g}°, {electrons} electrons: {words}\n")
    for low, count in zip(range(0, 90, 5), result.polar, strict=True):
        share = count / max(result.backscattered, 1)
        sys.stdout.write(f"  {low:2d}–{low + 5:2d}°  {share:6.1%}  {'█' * round(share * 200)}\n")


def _backscatter_json(result: Any, name: str, energy: float, tilt: float, seed: int, law: str) -> dict[str, Any]:
    from drivers.units import KEV
    from simulators.scattering import AZIMUTH_EDGES, PHYSICS_VERSION, POLAR_EDGES

    def histogram(edges: Any, counts: Any) -> dict[str, Any]:
        return {
            "edges": {"value": [round(math.degrees(edge), 6) for edge in edges], "unit": "deg"},
            "counts": [int(count) for count in counts],
        }

    return {
        "material": name,
        "beam_energy": _quantity(energy, "keV"),
        "tilt": _quantity(tilt, "deg"),
        "electrons": result.electrons,
        "seed": seed,
        "law": law,
        "physics_version": PHYSICS_VERSION,
        "backscatter_coefficient": _quantity(result.coefficient, ""),
        "standard_error": _quantity(coefficient_error(result.backscattered, result.electrons), ""),
        "mean_energy": _quantity(result.mean_energy / KEV, "keV"),
        "backscattered": result.backscattered,
        "absorbed": result.absorbed,
        "exit_angles": {
            "from_normal": histogram(POLAR_EDGES, result.polar),
            "azimuth": histogram(AZIMUTH_EDGES, result.azimuth),
        },
        "energies": {
            "edges": {"value": [round(energy * step / 50, 9) for step in range(51)], "unit": "keV"},
            "counts": [int(count) for count in result.energies],
        },
    }


@simulate_app.command()
def frame(
    height: Annotated[Path, typer.Argument(help="Height map: TIFF in nm, or an AFM or profiler format.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="TIFF, one page per segment.")] = None,
    energy: Annotated[str, typer.Option("--energy", "--beam-energy", help="Of the beam, 0.5 to 30 keV.")] = "5 keV",
    material: Annotated[str, typer.Option("--material", "--element", help="Cu, Cu2O, ….")] = "Cu",
    electrons: Annotated[int, typer.Option("--electrons", help="To each pixel.")] = 1000,
    detector: Annotated[Path | None, typer.Option("--detector", help="YAML file; four segments unless given.")] = None,
    pixel_size: Annotated[str | None, typer.Option("--pixel-size", help="Goes before what the file says.")] = None,
    height_scale: Annotated[float, typer.Option("--height-scale", help="Heights are multiplied by it.")] = 1.0,
    height_unit: Annotated[str, typer.Option("--height-unit", help="What 1 means in a TIFF.")] = "1 nm",
    most: Annotated[int | None, typer.Option("--pixels", help="Take so many from the map's middle.")] = None,
    border: Annotated[str, typer.Option("--border", help="reflecting or periodic.")] = "reflecting",
    probe_diameter: Annotated[str, typer.Option("--probe-diameter", help="Full width at half maximum.")] = "0 nm",
    convergence: Annotated[str, typer.Option("--convergence", help="Half-angle of the beam.")] = "0 mrad",
    tilt: Annotated[str, typer.Option("--tilt", help="Of the stage.")] = "0 deg",
    tilt_azimuth: Annotated[str, typer.Option("--tilt-azimuth", help="Towards which the sample leans.")] = "0 deg",
    split: Annotated[bool, typer.Option("--split", help="Also counts of each segment, for reconstruct.")] = False,
    exits: Annotated[Path | None, typer.Option("--exits", help="Also keep every exit in this file.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, or cuda for the images on an NVIDIA GPU.")] = "cpu",
    layer: Annotated[str | None, typer.Option("--layer", help="What lies on the material, such as Cu2O.")] = None,
    thickness: Annotated[Path | None, typer.Option("--thickness", help="Of the layer: TIFF in nm, 0 for none.")] = None,
    layer_density: Annotated[str | None, typer.Option("--layer-density", help="As --density.")] = None,
    seed: Seed = 0,
    law: Law = "browning",
    density: Density = None,
    as_json: Json = False,
) -> None:
    """Render what each segment sees of a height map, electron by electron, in keV per beam electron.

    With --split the images of counts and the detector file beside them go straight into rilievo reconstruct.
    """
    from acquisition.simulated_frame import FrameFiles, write_images, write_text
    from simulators.exits import write_exits
    from simulators.scanning import FrameRun
    from simulators.scene import Beam, Stage

    beam = Beam(_energy(energy), _length(probe_diameter), _angle(convergence))
    stage, elastic = Stage(_angle(tilt), _angle(tilt_azimuth)), _law(law)
    _count(electrons, 1e9 if exits is None else 1e7)  # exits of one pixel are held in memory
    geometry = _detector(detector)
    target = output or height.with_name(f"{height.stem}_monte_carlo.tif")
    files = FrameFiles.plan(target, geometry.names if split else (), exits)
    files.check(path for path in (height, thickness, detector) if path is not None)
    relief = _relief(height, pixel_size, height_scale, height_unit, most)
    surface = _surface(relief, _material(material, density), border, layer, layer_density, thickness, height, most)
    with _progress(f"{relief.shape[0]} × {relief.shape[1]} pixels") as show:
        run = FrameRun(surface, beam, geometry, seed, stage, elastic, device)  # type: ignore[arg-type]
        run.advance(electrons, lambda share: show(share, ""))
        tally = run.result()
        if exits is not None:
            write_exits(exits, surface, beam, electrons, seed, stage, elastic, lambda share: show(share, "exits"))
    said = _simulated(surface, beam, electrons, seed, stage, elastic, geometry) | {
        "height_file": str(height),
        "height_scale": _quantity(height_scale, ""),
        "height_unit": height_unit,
        "thickness_file": None if thickness is None else str(thickness),
        "device": device,
    }
    gain = write_images(files, tally.signal, geometry, relief.pixel_size, said)
    figures = _frame_json(tally, geometry, relief.pixel_size) | _counts_json(gain)
    figures = {"files": [str(path) for path in files.images], **figures, "device": device, "simulated": said}
    write_text(files.description, json.dumps(figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if as_json:
        _emit(figures)
        return
    signals = ", ".join(f"{name} {part['value']:.4g}" for name, part in figures["segments"].items())
    sys.stdout.write(f"{target}: {signals} keV per electron\n")


def _relief(height: Path, pixel_size: str | None, scale: float, unit: str, most: int | None) -> HeightMap:
    from simulators.heightfile import read_height

    if most is not None and most < 2:
        raise InputError(f"expected 2 pixels or more from the map's middle; got {most}")
    if not (math.isfinite(scale) and scale != 0):
        raise InputError(f"expected a factor other than 0, negative for heights upside down; got {scale:g}",
                         "--height-scale")  # fmt: skip
    return read_height(height, _length(pixel_size) if pixel_size else None, scale, _length(unit), most)


def _surface(
    relief: HeightMap,
    substrate: Material,
    border: str,
    layer: str | None,
    density: str | None,
    thickness: Path | None,
    height: Path,
    most: int | None,
) -> Surface:
    """Return the relief with what it is made of, a layer where there is a map of its thickness."""
    from simulators.heightfile import read_thickness
    from simulators.scene import Surface

    if layer is None and thickness is None:
        return Surface(relief, substrate, border=border)  # type: ignore[arg-type]
    if layer is None or thickness is None:
        raise InputError("a layer needs both --layer, such as Cu2O, and --thickness, a TIFF in nm")
    depth = read_thickness(thickness, height, most)
    return Surface(
        relief,
        substrate,
        (_material(layer, density, "--layer-density"),),
        (depth > 0).astype("uint8"),
        depth,
        border,  # type: ignore[arg-type]
    )


def _simulated(
    surface: Surface, beam: Beam, electrons: int, seed: int, stage: Stage, law: Any, geometry: DetectorGeometry
) -> dict[str, Any]:
    """Return what was simulated, as an exit file tells it, with the detector."""
    from acquisition.simulated_frame import detector_json
    from simulators.exits import header

    told = header(surface, beam, electrons, seed, stage, law)
    densities = [_quantity(kind.density, "kg/m**3") for kind in (surface.substrate, *surface.layers)]
    own = {name: value for name, value in told.items() if name not in ("format", "version")}
    return {**own, "densities": densities, "detector": detector_json(geometry)}


def _frame_json(tally: SegmentTally, geometry: DetectorGeometry, pixel_size: float) -> dict[str, Any]:
    return {
        "shape": list(tally.backscattered.shape),
        "pixel_size": _quantity(pixel_size * 1e9, "nm"),
        "electrons_per_pixel": tally.electrons,
        "backscatter_coefficient": _quantity(float(tally.backscattered.mean()) / tally.electrons, ""),
        "segments": {
            name: _quantity(float(tally.signal[index].mean()), "keV") for index, name in enumerate(geometry.names)
        },
        "standard_error_per_pixel": _quantity(float(tally.error.mean()), "keV"),
    }


def _counts_json(gain: float | None) -> dict[str, Any]:
    from acquisition.simulated_frame import counts_json

    return {} if gain is None else {"counts": counts_json(gain)}


def _detector(path: Path | None) -> DetectorGeometry:
    if path is not None:
        from drivers.registry import load_detector

        return load_detector(path)
    from drivers.geometry import annular
    from drivers.units import KEV

    return annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)


@simulate_app.command()
def dataset(
    folder: Annotated[Path, typer.Argument(help="New, or one to go on with under the same options.")],
    samples: Annotated[int | None, typer.Option("--samples", help="Budget: how many in all.")] = None,
    time: Annotated[str | None, typer.Option("--time", help="Budget of this call, such as '30 min'.")] = None,
    electrons: Annotated[float | None, typer.Option("--electrons", help="Budget: electrons in all, e.g. 1e9.")] = None,
    per_pixel: Annotated[int, typer.Option("--electrons-per-pixel", help="To each pixel of a sample.")] = 100,
    pixels: Annotated[int, typer.Option("--pixels", help="Rows and columns of a sample.")] = 64,
    energy: Annotated[list[str] | None, typer.Option("--energy", help="May be given more than once.")] = None,
    material: Annotated[list[str] | None, typer.Option("--material", help="May be given more than once.")] = None,
    family: Annotated[list[str] | None, typer.Option("--family", help="May be given more than once.")] = None,
    finest: Annotated[float, typer.Option("--finest", help="Smallest pixel, in electron ranges.")] = 0.02,
    coarsest: Annotated[float, typer.Option("--coarsest", help="Largest pixel, in electron ranges.")] = 0.5,
    layered: Annotated[float, typer.Option("--layered", help="Share of samples that carry Cu2O.")] = 0.3,
    tilts: Annotated[
        bool, typer.Option("--tilts/--no-tilts", help="Begin with flat surfaces, tilted, for the local law.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Draw random surfaces and keep every electron that leaves them, for training."""
    from drivers.units import KEV
    from simulators.dataset import DatasetPlan, build_dataset, build_tilts
    from simulators.surfaces import FAMILIES

    default = DatasetPlan()
    for name in material or ():
        _material(name, None, "")
    plan = DatasetPlan(
        seed=seed,
        pixels=pixels,
        electrons=per_pixel,
        energies=tuple(round(_energy(text) / KEV, 9) for text in energy) if energy else default.energies,
        finest=finest,
        coarsest=coarsest,
        families=tuple(family) if family else tuple(FAMILIES),
        materials=tuple(material) if material else default.materials,
        layered=layered,
    )
    budget = None if electrons is None else _count(electrons)
    minutes = _si(time, "second") / 60 if time else None
    with _progress("samples") as show:
        if tilts:
            build_tilts(folder, plan, show)
        done = build_dataset(folder, plan, samples, minutes, budget, show)
    if as_json:
        size = _quantity(done["bytes"], "byte")
        _emit({"folder": str(folder), **done, "bytes": size})
        return
    sys.stdout.write(
        f"{folder}: {done['samples']} samples, {done['new']} of them new, {done['electrons']:.3g} electrons, "
        f"{done['bytes'] / 1e6:.1f} MB\n"
    )

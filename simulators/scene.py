"""What a Monte Carlo run starts from: relief, beam, stage and detector, and how the kernel sees them.

Lengths in m, energies in J, angles in rad. The sample's axes are those of the image; a tilted stage leans the sample's
normal, and pixels lie equidistant on the sample, not in the projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.materials import ElasticLaw, Material, SlowingTable, slowing_table

Floats = NDArray[np.float64]
Border = Literal["reflecting", "periodic"]
ENERGY_LIMITS = (0.5 * KEV, 30.0 * KEV)
REACH = 1.0
"""An electron is given up when this share of the path left is shorter than the way to the nearest surface: with 1
none is given up that could leave, so that the rule changes no coefficient at all."""
FINEST = 1e4
"""Pixels that a free path may cross at most."""


@dataclass(frozen=True, slots=True)
class Beam:
    """What the column sends.

    Attributes
    ----------
    energy : float, J
    probe_diameter : float, m
        Full width at half maximum of a Gaussian current density; 0 is a point.
    convergence : float, rad
        Half-angle of the cone, focused on the plane z = 0.
    """

    energy: float
    probe_diameter: float = 0.0
    convergence: float = 0.0

    def __post_init__(self) -> None:
        low, high = ENERGY_LIMITS
        if not low * (1 - 1e-9) <= self.energy <= high * (1 + 1e-9):
            raise InputError(
                f"expected a beam energy from {low / KEV:g} to {high / KEV:g} keV; got {self.energy / KEV:g} keV"
            )
        if not (math.isfinite(self.probe_diameter) and self.probe_diameter >= 0):
            raise InputError(f"expected a probe diameter of 0 nm or more; got {self.probe_diameter * 1e9:g} nm")
        if not 0 <= self.convergence < 0.5:
            raise InputError(f"expected a convergence from 0 to 500 mrad; got {self.convergence * 1e3:g} mrad")


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """A relief and what it is made of.

    Attributes
    ----------
    height : HeightMap
        Without NaN.
    substrate : Material
    layers : tuple of Material
        What ``layer`` counts from 1.
    layer : (rows, columns) uint8 array or None
        0 where the substrate is bare, n where ``layers[n − 1]`` lies on it.
    thickness : (rows, columns) array, m, or None
        Of the layer, downwards from the surface; 0 where there is none.
    border : {"reflecting", "periodic"}
        How the relief goes on beyond the image.
    """

    height: HeightMap
    substrate: Material
    layers: tuple[Material, ...] = ()
    layer: NDArray[np.uint8] | None = None
    thickness: NDArray[np.floating] | None = None
    border: Border = "reflecting"

    def __post_init__(self) -> None:
        if not np.isfinite(self.height.z).all():
            missing = int((~np.isfinite(self.height.z)).sum())
            raise InputError(f"expected heights everywhere; {missing} of {self.height.z.size} nodes are not numbers")
        if self.border not in ("reflecting", "periodic"):
            raise InputError(f"expected a border reflecting or periodic; got {self.border!r}")
        if not self.layers:
            return
        if self.layer is None or self.thickness is None:
            raise InputError("layers need a map of which lies where (layer) and how thick it is (thickness)")
        if self.layer.shape != self.height.shape or self.thickness.shape != self.height.shape:
            raise InputError(
                f"expected layer and thickness maps of {self.height.shape} as the heights; "
                f"got {self.layer.shape} and {self.thickness.shape}"
            )
        if int(self.layer.max()) > len(self.layers):
            raise InputError(
                f"the layer map counts to {int(self.layer.max())}, but {len(self.layers)} layers are given"
            )
        if not (np.isfinite(self.thickness).all() and float(self.thickness.min()) >= 0):
            raise InputError("expected layer thicknesses of 0 nm or more everywhere")


@dataclass(frozen=True, slots=True)
class Stage:
    """The sample's tilt: by how much (rad) its normal leans from the axis, and towards which azimuth as displayed."""

    tilt: float = 0.0
    azimuth: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.tilt <= math.radians(85):
            raise InputError(f"expected a tilt from 0 to 85 deg; got {math.degrees(self.tilt):g} deg")

    def to_microscope(self) -> Floats:
        """Return the rotation from the sample's axes to the microscope's. Shape (3, 3).

        About the horizontal axis across the azimuth, so that the sample's normal leans towards the azimuth.
        """
        c, s = math.cos(self.tilt), math.sin(self.tilt)
        x, y = -math.sin(self.azimuth), math.cos(self.azimuth)
        k = np.array([[0.0, 0.0, y], [0.0, 0.0, -x], [-y, x, 0.0]])
        return np.asarray(np.eye(3) + s * k + (1 - c) * (k @ k))


def lowest_within(field: Floats, radii: NDArray[np.float32], border: Border) -> NDArray[np.float32]:
    """Return the lowest value within each radius (pixels) of each cell. Shape (radii, rows, columns)."""
    from scipy.ndimage import minimum_filter

    mode: Literal["wrap", "reflect"] = "wrap" if border == "periodic" else "reflect"
    rows, columns = field.shape
    result = np.empty((len(radii), rows, columns), dtype=np.float32)
    for level, radius in enumerate(radii):
        half = math.ceil(float(radius)) + 1
        if 2 * half + 1 >= 2 * max(rows, columns):
            result[level] = field.min()
        else:
            size = (min(2 * half + 1, 2 * rows - 1), min(2 * half + 1, 2 * columns - 1))
            result[level] = minimum_filter(field, size=size, mode=mode)
    return result


def least_cosines(heights: Floats, radius: float, border: Border) -> NDArray[np.float32]:
    """Return the least cosine of the slope within a radius (pixels) of each cell. Shape (rows, columns).

    A bilinear cell is nowhere steeper than its steepest edges in x and in y together.
    """
    from scipy.ndimage import maximum_filter

    edge: Literal["wrap", "symmetric"] = "wrap" if border == "periodic" else "symmetric"
    around = np.pad(heights, ((0, 1), (0, 1)), mode=edge)
    along, down = np.abs(np.diff(around, axis=1)), np.abs(np.diff(around, axis=0))
    squared = np.maximum(along[:-1], along[1:]) ** 2 + np.maximum(down[:, :-1], down[:, 1:]) ** 2
    size = tuple(min(2 * math.ceil(radius) + 3, 2 * length - 1) for length in heights.shape)
    steepest = maximum_filter(squared, size=size, mode="wrap" if border == "periodic" else "reflect")
    return np.asarray(1 / np.sqrt(1 + steepest), dtype=np.float32)


def layer_ceiling(layer: NDArray[np.uint8], underside: Floats, radius: float, border: Border) -> NDArray[np.float32]:
    """Return above which height all within a radius (pixels) of each cell is one layer; infinite where none is so.

    Shape (rows, columns), in the unit of ``underside``.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    mode: Literal["wrap", "reflect"] = "wrap" if border == "periodic" else "reflect"
    size = tuple(min(2 * math.ceil(radius) + 3, 2 * length - 1) for length in layer.shape)
    least = minimum_filter(layer, size=size, mode=mode)
    alone = (least > 0) & (least == maximum_filter(layer, size=size, mode=mode))
    highest = maximum_filter(underside, size=size, mode=mode)
    return np.where(alone, highest, np.inf).astype(np.float32)


def _rows(tables: list[SlowingTable], pixel_size: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Stack the materials' tables as the kernel reads them, lengths in pixels."""
    most = max(table.share.shape[1] for table in tables)
    points = len(tables[0].energy)
    rows = np.zeros((len(tables), points, 1 + 3 * most), dtype=np.float32)
    energies = np.zeros((len(tables), points), dtype=np.float32)
    for kind, table in enumerate(tables):
        elements = table.share.shape[1]
        rows[kind, :, 0] = table.mean_free_path / pixel_size
        rows[kind, :, 1 : 1 + 3 * elements : 3] = table.cumulative
        rows[kind, :, 2 : 2 + 3 * elements : 3] = table.share
        rows[kind, :, 3 : 3 + 3 * elements : 3] = table.alpha
        energies[kind] = table.energy
    return rows, energies


def _path_ratios(tables: list[SlowingTable]) -> Floats:
    """Return how many times longer than in each material a path can be in another, at worst. Shape (materials,)."""
    steps = [np.linspace(0, table.path, len(table.energy)) for table in tables]
    grid = tables[0].energy[1:]
    paths = np.stack([np.interp(grid, table.energy, left) for table, left in zip(tables, steps, strict=True)])
    return np.asarray((paths.max(axis=0) / paths).max(axis=1))


def _tolerance(heights: Floats, pixel_size: float, free_path: float) -> float:
    """Return how far (pixels) beyond the surface an electron must be to have crossed it: above float32's rounding.

    ``free_path`` (pixels) of a beam electron.
    """
    rounding = 1e-6 * max(float(np.abs(heights).max()), *heights.shape)
    if rounding > free_path:
        raise InputError(
            f"pixels of {pixel_size * 1e6:g} µm are too coarse for electrons whose free path is "
            f"{free_path * pixel_size * 1e9:.2g} nm: expected up to {pixel_size * 1e6 * free_path / rounding:.2g} µm"
        )
    if free_path > FINEST:
        raise InputError(
            f"pixels of {pixel_size * 1e9:.2g} nm are too fine for electrons whose free path is "
            f"{free_path * pixel_size * 1e9:.2g} nm: expected {pixel_size * 1e9 * free_path / FINEST:.2g} nm or more"
        )
    return float(rounding + min(1e-4, 0.05 * free_path))


def build_scene(surface: Surface, beam: Beam, law: ElasticLaw = "browning", reach: float = REACH) -> Any:
    """Return the :class:`simulators.transport.Scene` for a surface and a beam."""
    from simulators.relief import Scene

    pixel = surface.height.pixel_size
    heights = np.ascontiguousarray(surface.height.z, dtype=np.float64) / pixel
    kinds = (surface.substrate, *surface.layers)
    tables = [slowing_table(kind, beam.energy, law) for kind in kinds]
    rows, energies = _rows(tables, pixel)
    paths = np.array([table.path for table in tables]) / pixel
    flat = float(np.ptp(heights)) == 0.0
    tolerance = _tolerance(heights, pixel, float(rows[:, -1, 0].min()))
    far = float(paths.max()) * 1.01
    near = max(1.0, 3.0 * float(rows[:, :, 0].max()))
    count = 1 if flat or near >= far else 1 + math.ceil(math.log2(far / near))
    radii = np.array([far * 2.0**-level for level in range(count)][::-1], dtype=np.float32)
    layered = bool(surface.layers)
    lowest = lowest_within(heights, radii, surface.border)
    layer = np.zeros((1, 1), np.uint8)
    thickness = np.zeros((1, 1), np.float32)
    floor, ceiling = lowest[:, :1, :1], np.full((1, 1), np.inf, np.float32)
    if layered and surface.layer is not None and surface.thickness is not None:
        layer = np.ascontiguousarray(surface.layer, dtype=np.uint8)
        depth = np.asarray(surface.thickness, dtype=np.float64) / pixel
        thickness = depth.astype(np.float32)
        floor = lowest_within(heights - depth, radii, surface.border)
        ceiling = layer_ceiling(layer, heights - depth, float(radii[0]), surface.border)
    return Scene(
        heights=heights.astype(np.float32),
        radii=radii,
        lowest=lowest,
        leaning=least_cosines(heights, float(radii[0]), surface.border),
        roof=np.float32(heights.max()),
        bottom=np.float32(heights.min()),
        periodic=surface.border == "periodic",
        tolerance=np.float32(tolerance),
        layered=layered,
        layer=layer,
        thickness=thickness,
        floor=np.ascontiguousarray(floor),
        ceiling=ceiling,
        substrate=0,
        rows=rows,
        energies=energies,
        per_path=((rows.shape[1] - 1) / paths).astype(np.float32),
        elements=np.array([table.share.shape[1] for table in tables], dtype=np.int64),
        reach=(reach * _path_ratios(tables)).astype(np.float32),
    )


def build_gun(beam: Beam, stage: Stage, pixel_size: float) -> Any:
    """Return the :class:`simulators.transport.Gun` for a beam and a tilt."""
    from simulators.transport import Gun

    return Gun(
        energy=np.float32(beam.energy / KEV),
        spread=np.float32(beam.probe_diameter / math.sqrt(8 * math.log(2)) / pixel_size),
        convergence=np.float32(beam.convergence),
        to_sample=np.ascontiguousarray(stage.to_microscope().T, dtype=np.float32),
    )


def build_diode(detector: DetectorGeometry, stage: Stage, height: HeightMap) -> Any:
    """Return the :class:`simulators.kernels.Diode` for a detector over a sample."""
    from simulators.kernels import Diode

    return Diode(
        segments=detector.table(),
        working_distance=float(detector.working_distance),
        offset_x=float(detector.centre_offset[0]),
        offset_y=float(detector.centre_offset[1]),
        threshold=float(detector.threshold / KEV),
        to_microscope=stage.to_microscope(),
        left=float(height.origin[0]),
        top=float(height.origin[1]),
        pixel_size=float(height.pixel_size),
    )

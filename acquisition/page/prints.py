"""Frames and heights as pictures for the page, made once for everybody who looks, and not kept for long."""

from __future__ import annotations

import base64
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from acquisition import pictures, tables
from acquisition.gallery import heights_of, spread_of
from acquisition.log import Log
from acquisition.store import Store
from drivers.errors import RunError

_SEGMENT, _HEIGHTS, _NODES = 288, 448, 96
"""Edges of the pictures (pixels), and of the surface that turns (nodes), at most."""
_KEPT = 24
"""Frames whose pictures are kept."""


@dataclass(frozen=True, slots=True)
class Print:
    """A file that the browser asks for."""

    body: bytes
    kind: str


class Prints:
    """Makes pictures of the frames of all runs.

    Parameters
    ----------
    log : Log
    store : Store
    """

    def __init__(self, log: Log, store: Store) -> None:
        self._log, self._store = log, store
        self._kept: OrderedDict[tuple[str, str, int], dict[str, Print]] = OrderedDict()
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {"frame": threading.Lock(), "heights": threading.Lock()}
        self._colours = pictures.colours("cividis")

    def segment(self, run_id: str, number: int, name: str) -> Print:
        """Return the image of one segment of a frame, offsets removed, all segments on one grey scale."""
        return self._one("frame", run_id, number, name, self._frame)

    def heights(self, run_id: str, number: int) -> Print:
        """Return a frame's heights, lit from the upper left."""
        return self._one("heights", run_id, number, "heights", self._relief)

    def surface(self, run_id: str, number: int) -> Print:
        """Return a frame's heights as JSON for the surface that turns."""
        return self._one("heights", run_id, number, "surface", self._relief)

    def _one(
        self, kind: str, run_id: str, number: int, name: str, make: Callable[[str, int], dict[str, Print]]
    ) -> Print:
        key = (kind, run_id, number)
        with self._turns[kind]:  # one reads the file, the others find what it made
            with self._lock:
                found = self._kept.get(key)
            if found is None:
                found = make(run_id, number)
                with self._lock:
                    self._kept[key] = found
                    while len(self._kept) > _KEPT:
                        self._kept.popitem(last=False)
        if name not in found:
            raise RunError(f"frame {number} has no {name!r}; it has: {', '.join(found)}")
        return found[name]

    def _frame(self, run_id: str, number: int) -> dict[str, Print]:
        row = tables.FrameRow
        with self._log.query() as session:
            path = session.scalar(select(row.path).where(row.run_id == run_id, row.number == number))
        if path is None:
            raise RunError(f"run {run_id} has no frame {number}")
        frame = self._store.read(path)
        offsets = [channel.offset or 0.0 for channel in frame.channels]
        images = [
            pictures.reduced(counts, _SEGMENT) - offset for counts, offset in zip(frame.counts, offsets, strict=True)
        ]
        low, high = spread_of(images, 0.5, 99.5)
        names = frame.geometry.names
        return {
            name: Print(pictures.png(pictures.grey(image, low, high), quick=True), "image/png")
            for name, image in zip(names, images, strict=True)
        }

    def _relief(self, run_id: str, number: int) -> dict[str, Print]:
        made, frame = tables.Reconstruction, tables.FrameRow
        with self._log.query() as session:
            row = session.execute(
                select(made.path, frame.pixel_size_m)
                .join(frame, frame.id == made.frame_id)
                .where(frame.run_id == run_id, frame.number == number, made.state == "done")
            ).first()
        if row is None or row[0] is None:
            raise RunError(f"frame {number} of run {run_id} has no heights")
        pixel_size = row[1] * 1e9
        heights, _ = heights_of(self._store.absolute(row[0]))
        low, high = spread_of([heights], 0.5, 99.5)
        small = pictures.reduced(heights, _HEIGHTS)
        step = pixel_size * heights.shape[1] / small.shape[1]
        picture = pictures.shaded(small, step, low, high, self._colours)
        field = pixel_size * heights.shape[1]
        surface = pictures.surface(heights, field, _NODES)
        scene = {
            "low": low,
            "high": high,
            "colours": base64.b64encode(self._colours.tobytes()).decode("ascii"),
            "surfaces": [{**surface, "label": f"frame {number}"}],
            "field": field,
            "sides": [float(np.round(length * pixel_size)) for length in heights.shape[::-1]],
        }
        return {
            "heights": Print(pictures.png(picture, quick=True), "image/png"),
            "surface": Print(json.dumps(scene, allow_nan=False, separators=(",", ":")).encode(), "application/json"),
        }

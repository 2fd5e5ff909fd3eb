"""Heights while the night runs: one process of its own behind a bounded queue.

The acquisition offers frames and never waits: a frame that finds the queue full is left out, counted, and can be
offered again later. A frame that cannot be reconstructed gives a result with an error and the process goes on; a
process that dies is noticed, the frame it died of is given up, and it is started once more.

The heights are previews unless another quality is asked for: they take milliseconds, do without torch, and hang on
nothing but the frame, so that a simulated night repeats to the bit. With ``auto`` the process goes over to the fast
quality while that keeps up (:mod:`reconstruction.pace`), which hangs on the computer's speed.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from drivers.errors import InputError, RilievoError
from drivers.frame import Frame
from reconstruction.metrology import Figure
from reconstruction.pace import Pace

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from reconstruction.photometric import Quality, Reconstruction

LiveQuality = Literal["auto", "preview", "fast", "full"]

_POLL = 0.2
"""Seconds between two looks at whether the other process is still there."""


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What became of one frame.

    Attributes
    ----------
    frame_id : int
        As it was offered.
    path : Path or None
        Where the heights are.
    figures : dict of str to Figure
        ``coverage``, ``roughness`` (nm), ``height_range`` (nm), ``mean_sigma`` (nm), ``scale``, ``flagged``.
    error : str or None
        Why there are no heights.
    seconds : float, s
        Of the process's time.
    quality : str
        Of the heights.
    """

    frame_id: int
    path: Path | None
    figures: dict[str, Figure] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    quality: Quality = "preview"


class LiveReconstruction:
    """A process that turns offered frames into heights.

    Parameters
    ----------
    capacity : int
        Frames that may wait or be worked on at once.
    material : str
        Of the sample, for the emission law.
    reference_level : float, optional, ADU
        Sum signal of clean copper; the first frame is taken for clean unless given.
    quality : {"preview", "fast", "full", "auto"}
        ``auto`` begins with previews and is fast while that keeps up with the frames.

    Attributes
    ----------
    left_out : int
        Frames that found the queue full.
    restarts : int
        How often the process had to be started again: once at most.
    broken : str or None
        Why no frame is taken any more.
    """

    def __init__(
        self,
        capacity: int = 8,
        *,
        material: str = "Cu",
        reference_level: float | None = None,
        quality: LiveQuality = "preview",
    ) -> None:
        if quality not in get_args(LiveQuality):
            raise InputError(f"expected the quality auto, preview, fast or full; got {quality!r}")
        self._context = multiprocessing.get_context("spawn")
        self._capacity = capacity
        self._options = (material, reference_level, quality)
        self._pending: OrderedDict[int, tuple[Frame, Path]] = OrderedDict()
        self.left_out = 0
        self.restarts = 0
        self.broken: str | None = None
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._inbox: Any = self._context.Queue()
        self._outbox: Any = self._context.Queue()
        self._stop = self._context.Event()
        self._process: BaseProcess = self._context.Process(
            target=_work, args=(self._inbox, self._outbox, self._stop, *self._options), name="rilievo-reconstruction"
        )
        self._process.daemon = False
        # Ctrl-C reaches the whole terminal: the child inherits the mask, and so is deaf to it from its first moment.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # Without this an owner that forgot to close would wait for ever at its exit.
        self._at_exit = Finalize(None, self._stop.set, exitpriority=100)

    def offer(self, frame_id: int, frame: Frame, output: Path) -> bool:
        """Hand a frame over and return True, or return False at once where the queue is full or the process broken.

        Parameters
        ----------
        frame_id : int
            Comes back with the result; different for frames that are on their way together.
        frame : Frame
        output : Path
            Of the TIFF file of the heights.
        """
        if self._closed or self.broken is not None or len(self._pending) >= self._capacity:
            self.left_out += 1
            return False
        # What the sensors said does not matter to heights, and its quantities are slow to send.
        slim = replace(frame, readbacks={})
        self._pending[frame_id] = (slim, output)
        self._inbox.put((frame_id, slim, output, time.monotonic()))
        return True

    def collect(self, wait: float = 0.0) -> list[LiveResult]:
        """Return the results that are there, after waiting up to ``wait`` seconds for the first.

        Returns at once when nothing is on its way.
        """
        deadline = time.monotonic() + wait
        results = self._take()
        while not results and self._pending:
            if not self._process.is_alive():
                # What it sent before it died may have come in between.
                results = self._take() or self._mourn()
                break
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            results = self._take(min(remaining, _POLL))
        return results

    def _take(self, wait: float = 0.0) -> list[LiveResult]:
        results: list[LiveResult] = []
        while True:
            try:
                result = self._outbox.get(timeout=wait) if wait and not results else self._outbox.get_nowait()
            except (queue.Empty, EOFError, OSError):
                return results
            if self._pending.pop(result.frame_id, None) is not None:
                results.append(result)

    def _mourn(self) -> list[LiveResult]:
        """Give up the frame that the process died of, and start it again with the others, once."""
        reason = f"the reconstruction's process ended unexpectedly (exit code {self._process.exitcode})"
        self._release()
        if self.restarts:
            self.broken = f"{reason}, for the second time; frames wait for `rilievo reconstruct --run`"
            lost = [LiveResult(frame_id, None, error=self.broken) for frame_id in self._pending]
            self._pending.clear()
            return lost
        self.restarts += 1
        culprit, _ = self._pending.popitem(last=False)
        self._start()
        for frame_id, (frame, output) in self._pending.items():
            self._inbox.put((frame_id, frame, output, time.monotonic()))
        return [LiveResult(culprit, None, error=f"{reason}; it was started again")]

    def close(self, deadline: float = 10.0) -> None:
        """End the process: after the frame at hand, or by force ``deadline`` seconds later. Twice does no harm."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._process.join(deadline)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._release()
        self._process.close()

    def _release(self) -> None:
        self._at_exit.cancel()
        for each in (self._inbox, self._outbox):
            each.cancel_join_thread()
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(
    inbox: Any, outbox: Any, stop: Any, material: str, reference_level: float | None, quality: LiveQuality
) -> None:
    """Reconstruct frames until told to stop or left alone."""
    # Threads that wait for each other by spinning take the cores from the acquisition, and from each other where the
    # cores are busy: there the same work took forty times as long. Read when torch is loaded, in this process alone.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ctrl-C reaches the whole terminal; the owner decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(material, reference_level, quality)
    parent = multiprocessing.parent_process()
    while not stop.is_set() and (parent is None or parent.is_alive()):
        try:
            frame_id, frame, output, handed = inbox.get(timeout=_POLL)
        except queue.Empty:
            continue
        outbox.put(worker.reconstruct(frame_id, frame, output, handed))
    if parent is None or parent.is_alive():
        outbox.close()
        outbox.join_thread()


class Worker:
    """Reconstructs frame after frame, and remembers the level of clean copper.

    Parameters
    ----------
    material : str
    reference_level : float or None, ADU
        For the exposure and gains of the first frame.
    quality : {"preview", "fast", "full", "auto"}
    """

    def __init__(
        self, material: str = "Cu", reference_level: float | None = None, quality: LiveQuality = "preview"
    ) -> None:
        self._material = material
        self._given = reference_level
        self._quality = quality
        self._pace = Pace()
        self._references: dict[Quality, tuple[float, tuple[float, float]]] = {}

    def reconstruct(self, frame_id: int, frame: Frame, output: Path, handed: float | None = None) -> LiveResult:
        """Write the heights of a frame and return its figures; whatever goes wrong is in the result.

        Parameters
        ----------
        frame_id : int
        frame : Frame
        output : Path
        handed : float, optional, s
            When it was handed over (:func:`time.monotonic`); just now unless given.
        """
        begin = time.perf_counter()
        level: Quality = "preview"
        try:
            level, result = self._heights(frame, handed)
            figures = self._written(result, output)
        except RilievoError as error:
            return LiveResult(frame_id, None, error=str(error), seconds=time.perf_counter() - begin, quality=level)
        except Exception as error:  # noqa: BLE001 - one bad frame must not end the night's reconstruction
            message = f"{type(error).__name__}: {error}"
            return LiveResult(frame_id, None, error=message, seconds=time.perf_counter() - begin, quality=level)
        seconds = time.perf_counter() - begin
        self._pace.took(level, seconds, frame.counts[0].size)
        return LiveResult(frame_id, output, figures, seconds=seconds, quality=level)

    def _heights(self, frame: Frame, handed: float | None) -> tuple[Quality, Reconstruction]:
        if self._quality != "auto":
            return self._quality, self._inverse(frame, self._quality)
        now = time.monotonic()
        level = self._pace.choose(now if handed is None else handed, now, frame.counts[0].size)
        if level == "preview":
            return level, self._inverse(frame, level)
        try:
            return level, self._inverse(frame, level)
        except Exception as error:  # noqa: BLE001 - the preview may know what to do
            self._pace.give_up()
            words = error.message if isinstance(error, RilievoError) else f"{type(error).__name__}: {error}"
            result = self._inverse(frame, "preview")
            note = f"from here on heights are previews, because the fast quality failed: {words}"
            return "preview", replace(result, assumptions=(*result.assumptions, note))

    def _inverse(self, frame: Frame, level: Quality) -> Reconstruction:
        from reconstruction.inverse import reconstruct

        return reconstruct(frame, quality=level, material=self._material)

    def _written(self, result: Reconstruction, output: Path) -> dict[str, Figure]:
        from reconstruction.heights_file import write_heights

        coverage = result.coverage(self._level(result))
        output.parent.mkdir(parents=True, exist_ok=True)
        details: dict[str, Any] = {"quality": result.quality}
        if result.quality != "preview":
            from reconstruction.files import summary

            details = summary(result)
        details["assumptions"] = [*result.assumptions, *coverage.assumptions]
        write_heights(output, result.heights, result.sigma, details, oxide=result.oxide)
        return {"coverage": coverage.figure, **result.figures}

    def _level(self, result: Reconstruction) -> float:
        """Return the level of clean copper in a frame's exposure and gains; the first frame of each quality sets it."""
        exposure = self._exposure(result)
        kept = self._references.get(result.quality)
        if kept is None or kept[1][0] != exposure[0]:
            kept = self._references[result.quality] = (self._first_level(result, exposure), exposure)
        return float(kept[0] * exposure[1] / kept[1][1])

    def _first_level(self, result: Reconstruction, exposure: tuple[float, float]) -> float:
        if self._given is not None and not self._references:
            return self._given
        own = float(result.flattened().mean())
        previews = self._references.get("preview")
        if result.quality == "preview" or previews is None or previews[1][0] != exposure[0]:
            return own
        # The night went on: this frame need not be clean. But both qualities see it, and the preview knows the level.
        preview = self._inverse(result.frame, "preview")
        return own * self._level(preview) / float(preview.flattened().mean())

    def _exposure(self, result: Reconstruction) -> tuple[float, float]:
        """Return what the sum signal of clean copper depends on: the beam energy, and what it is proportional to."""
        beam, channels = result.frame.beam, result.frame.channels
        live = [index for index, segment in enumerate(result.segments) if segment.state == "live"]
        known = [gain for index in live if (gain := channels[index].gain) is not None]
        gain = sum(known) / len(known) if len(known) == len(live) else 1.0
        # A segment that dies, or another working distance, changes what the sum of the live ones catches.
        return beam.beam_energy, (beam.electrons_per_pixel or 1.0) * gain * self._collected(result, live)

    def _collected(self, result: Reconstruction, live: list[int]) -> float:
        """Return the share of a flat surface's emission that the live segments catch."""
        if result.law is not None:
            return result.law.collected
        import numpy as np

        from reconstruction.detector import segment_signals
        from reconstruction.emission import EmissionLaw, material
        from reconstruction.statements import LAYERED

        law = EmissionLaw.of(material("Cu" if self._material == LAYERED else self._material))
        flat = segment_signals(result.frame.geometry, law, np.zeros(1), np.zeros(1))
        return float(flat[live].sum())

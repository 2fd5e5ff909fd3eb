"""What a run, and an instrument, look like from outside: plain JSON for people and programs."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from acquisition.log import Log
from acquisition.outbox import Outbox
from acquisition.records import FrameEntry, Run
from drivers.contract import Instrument, Parameter
from drivers.errors import RunError
from drivers.registry import Registry
from drivers.units import quantity_json

Json = dict[str, Any]


def find_run(log: Log, name: str) -> Run:
    """Return a run by its id, by enough of its beginning, or the newest for ``last``."""
    if name != "last":
        return log.run(name)
    newest = log.newest()
    if newest is None:
        raise RunError("there are no runs yet; rilievo demo makes one")
    return newest


def frames_without_heights(log: Log, run_id: str) -> list[FrameEntry]:
    """Return the frames of a run, dark ones aside, for which nobody made heights yet or had to leave them out."""
    settled = {entry.frame_id for entry in log.reconstructions(run_id) if entry.state != "left out"}
    return [frame for frame in log.frames(run_id) if not frame.dark and frame.id not in settled]


def run_json(run: Run) -> Json:
    """Return a run in a line."""
    return {
        "id": run.id,
        "name": run.name,
        "state": run.state,
        "reason": run.reason,
        "started": run.started.isoformat(),
        "ended": None if run.ended is None else run.ended.isoformat(),
        "recipe": run.recipe_name,
        "version": run.version,
    }


def summary_json(log: Log, run_id: str) -> Json:
    """Return what a run did: frames, heights, latest figures, actions by outcome, events."""
    run = log.run(run_id)
    frames, heights = log.frames(run.id), log.reconstructions(run.id)
    states = Counter(entry.state for entry in heights)
    latest = next((entry for entry in reversed(heights) if entry.state == "done"), None)
    figures = {} if latest is None else latest.figures
    return {
        **run_json(run),
        "instrument": log.instrument(run.id).name,
        "frames": {
            "acquired": len(frames),
            "dark": sum(frame.dark for frame in frames),
            "heights": states["done"],
            "failed": states["failed"],
            "left_out": states["left out"],
            "bytes": sum(frame.stored.bytes for frame in frames),
        },
        "figures": {
            name: {
                "value": _finite(entry.value),
                "unit": entry.unit,
                "sigma": _finite(entry.sigma),
                "frame": entry.frame_number,
            }
            for name, entry in figures.items()
        },
        "actions": dict(Counter(action.state for action in log.actions(run.id))),
        "events": [
            {
                "number": event.number,
                "time": event.time.isoformat(),
                "level": event.level,
                "kind": event.kind,
                "message": event.message,
            }
            for event in log.events(run.id)
        ],
        "alerts": [
            {"way": alert.way, "state": alert.state, "title": alert.title, "error": alert.error}
            for alert in Outbox(log).alerts(run_id=run.id)
        ],
    }


def _finite(value: float | None) -> float | None:
    """Return a number that JSON knows, or None."""
    return value if value is not None and math.isfinite(value) else None


def devices_json(instrument: Instrument, registry: Registry) -> Json:
    """Return every channel's readback, setpoint and limits, and the drivers that did and did not load."""
    readings, failures = instrument.read_all()
    limits = instrument.limits_json()
    channels = []
    for name, channel in instrument.channels().items():
        reading = readings.get(name)
        setpoint = channel.setpoint if isinstance(channel, Parameter) else None
        channels.append(
            {
                "channel": name,
                "readback": None if reading is None else quantity_json(reading.value),
                "fresh": None if reading is None else reading.fresh,
                "error": failures[name].message if name in failures else None,
                "setpoint": None if setpoint is None else quantity_json(setpoint),
                "limits": limits.get(name),
            }
        )
    return {
        "instrument": instrument.name,
        "channels": channels,
        "drivers": sorted(registry.drivers),
        "failures": [{"driver": f.name, "target": f.target, "reason": f.reason} for f in registry.failures],
    }

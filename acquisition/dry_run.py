"""The sums of a run that was played against the model of its timing, and what in its course must not be played."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from acquisition.actions import (
    Acquire,
    Action,
    Autofocus,
    Balance,
    BeginSeries,
    Dark,
    Imaging,
    Ramp,
    Set,
    SetGas,
    Stigmation,
)
from acquisition.chamber import Chamber
from acquisition.effort import lit_frames
from acquisition.gas_rules import GasRules, GasWatch
from acquisition.imaging import LimitsText
from acquisition.timing import Moment
from drivers.contract import Instrument
from drivers.units import format_quantity, quantity, si

HEADER_BYTES = 16_384
"""What a frame's file holds beside its counts."""

_AXES = ("stage.x", "stage.y", "column.beam_shift_x", "column.beam_shift_y")
"""Parameters that choose what the field of view shows."""


@dataclass(frozen=True)
class DryRun:
    """A run's moments on an instrument.

    Attributes
    ----------
    moments : tuple of Moment
    instrument : Instrument
    chamber : Chamber or None
        None where the pressure cannot be foretold.
    limits : LimitsText
        The recipe's own.
    """

    moments: tuple[Moment, ...]
    instrument: Instrument
    chamber: Chamber | None
    limits: LimitsText

    @property
    def duration(self) -> float:
        """How long the run takes, s."""
        return self.moments[-1].end if self.moments else 0.0

    @property
    def actions(self) -> int:
        """How many actions the run has, the frames of series included."""
        in_series = sum(moment.action.count for moment in self.moments if isinstance(moment.action, BeginSeries))
        return len(self.moments) + in_series

    @cached_property
    def taken(self) -> tuple[tuple[Imaging, int, int], ...]:
        """How many frames and dark frames each setting of the imaging is used for, in order."""
        counts: list[tuple[Imaging, int, int]] = []
        for moment in self.moments:
            action, imaging = moment.action, moment.imaging
            if imaging is None or not isinstance(action, Acquire | BeginSeries | Dark):
                continue
            if not counts or counts[-1][0] is not imaging:
                counts.append((imaging, 0, 0))
            _, frames, darks = counts[-1]
            if isinstance(action, Dark):
                darks += action.frames
            else:
                frames += action.count if isinstance(action, BeginSeries) else 1
            counts[-1] = (imaging, frames, darks)
        return tuple(counts)

    @property
    def frames(self) -> int:
        """Frames with the beam on."""
        return sum(frames for _, frames, _ in self.taken)

    @property
    def darks(self) -> int:
        """Frames with the beam blanked."""
        return sum(darks for _, _, darks in self.taken)

    @cached_property
    def dose(self) -> float:
        """Charge per area where it is highest, C/m².

        Frames between which a ``set`` moved the stage or the beam by a field of view or more show different places. An
        axis that was not set yet may stand anywhere. Frames of adjustments count, where they are taken.
        """
        place: dict[str, float] = {}
        brought: dict[tuple[tuple[str, float], ...], float] = {}
        widest = 0.0
        for moment in self.moments:
            action, imaging = moment.action, moment.imaging
            if isinstance(action, Set) and action.parameter in _AXES:
                place[action.parameter] = si(action.value)
                continue
            away, frames = (0.0, 0.0), 0
            if isinstance(action, Autofocus | Stigmation | Balance):
                imaging, frames = action.imaging, lit_frames(action)
                if not isinstance(action, Balance) and action.at is not None:
                    away = (si(action.at.x), si(action.at.y))
            elif isinstance(action, Acquire | BeginSeries):
                frames = action.count if isinstance(action, BeginSeries) else 1
            if imaging is not None and frames:
                key = tuple(sorted({**place, "away.x": away[0], "away.y": away[1]}.items()))
                brought[key] = brought.get(key, 0.0) + frames * imaging.dose_per_frame()
                widest = max(widest, si(imaging.field_of_view))
        places = [(dict(key), dose) for key, dose in brought.items()]
        return max(
            (sum(dose for other, dose in places if _overlap(one, other, widest)) for one, _ in places), default=0.0
        )

    @property
    def disk_bytes(self) -> int:
        """Room that the frames take, two bytes for each pixel of each segment."""
        segments = len(self.instrument.detector.geometry.segments)
        return sum(
            (frames + darks) * (2 * segments * imaging.rows * imaging.columns + HEADER_BYTES)
            for imaging, frames, darks in self.taken
        )

    @property
    def maximum_temperature(self) -> float:
        """Highest temperature of the heater, K."""
        return max([self.instrument.heater.idle, *(moment.temperature for moment in self.moments)])

    @property
    def maximum_pressure(self) -> float | None:
        """Highest pressure (Pa) that a mixture settles at; None where it cannot be foretold."""
        if self.chamber is None:
            return None
        mixtures = (moment.action.flows for moment in self.moments if isinstance(moment.action, SetGas))
        return max((self.chamber.pressure(flows) for flows in mixtures), default=self.chamber.base_pressure)

    def findings(self, rules: GasRules) -> Iterator[tuple[Action, str]]:
        """Yield each action that must not be played, with the reason; one in a repeat may come more than once."""
        yield from GasWatch(self.instrument.gases, rules, self.chamber).follow(self.moments)
        for moment in self.moments:
            message: str | None = None
            match moment.action:
                case SetGas():
                    message = self._over_pressure(moment.action)
                case Ramp():
                    message = _too_long(moment.action, moment.duration)
                case BeginSeries():
                    message = self._too_often(moment.action, moment.imaging)
                case _:
                    pass
            if message is not None:
                yield moment.action, message

    def _over_pressure(self, action: SetGas) -> str | None:
        limit = self.limits.pressure
        if limit is None or self.chamber is None:
            return None
        pressure = self.chamber.pressure(action.flows)
        if pressure <= si(limit) * (1 + 1e-9):
            return None
        return (
            f"the pressure would be {pressure:.3g} Pa, above the recipe's own limit of {format_quantity(limit)} "
            "(limits.pressure); let in less gas, or raise the limit"
        )

    def _too_often(self, action: BeginSeries, imaging: Imaging | None) -> str | None:
        if imaging is None or action.count < 2:
            return None
        frame = self.instrument.detector.timing.seconds(imaging.scan())
        every = action.every if action.pace is None else action.pace.at_least
        if si(every) >= frame * (1 - 1e-9):
            return None
        return (
            f"a frame takes {frame:.3g} s, so every {format_quantity(every)} is too often; write a longer time, "
            "or take fewer pixels or a shorter dwell time"
        )

    def over_dose(self) -> Iterator[str]:
        """Yield what is wrong where the frames bring more than the recipe's own limit."""
        limit = self.limits.dose
        if limit is not None and self.dose > si(limit) * (1 + 1e-9):
            brought = format_quantity(quantity(self.dose, "C/m**2").to(limit.units), 4)
            yield (
                f"{self.frames} frames bring up to {brought}, above the recipe's own limit of "
                f"{format_quantity(limit)}; take fewer frames, a larger field of view, a smaller current or a shorter "
                "dwell time, or raise the limit"
            )


def _overlap(one: Mapping[str, float], other: Mapping[str, float], width: float) -> bool:
    """Return whether fields of a width (m) overlap, or may, at two places; each axis by itself, m."""
    return all(abs(value - other.get(axis, value)) < width * (1 - 1e-9) for axis, value in one.items())


def _too_long(ramp: Ramp, duration: float) -> str | None:
    if ramp.at_most is None or duration <= si(ramp.at_most):
        return None
    return (
        f"the ramp takes about {duration / 60:.3g} min, longer than at_most {format_quantity(ramp.at_most)}; "
        "write a faster rate, or more time"
    )

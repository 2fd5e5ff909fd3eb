"""The steps of a recipe, as a person writes them.

What a step does stands in its verb. ``gas`` may stand with one other verb and then comes first, so that
``gas`` and ``series`` in one step mean: let the mixture in, then take the series. Every other pair is two steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from acquisition.actions import Imaging, Interruption
from acquisition.adjustments import AutofocusText, BalanceText, BeamCheckText, DriftText, StigmationText
from acquisition.conditional import PaceText, StopText, WhenText
from acquisition.imaging import ImagingChange
from acquisition.written import Count, Interval, Rate, Share, Text, While, Written, above_zero, refuse
from drivers.units import AnyQuantity, Q, Temperature, TemperatureDifference, format_quantity, si

MAXIMUM_REPEATS = 10_000
MAXIMUM_ACTIONS = 1_000_000

VERBS = (
    "note", "set", "gas", "ramp", "hold", "purge", "dark", "frame", "frames", "series", "repeat",
    "autofocus", "stigmation", "balance", "beam_check", "when",
)  # fmt: skip
LOOKING = ("autofocus", "stigmation", "balance")
"""Verbs that take frames which are not kept."""
AFTER_GAS = ("ramp", "hold", "dark", "frame", "frames", "series")


class RampText(Written):
    """Bring the heater to a temperature."""

    heater: Temperature = Field(description="Where the heater goes.", examples=["800 degC"])
    rate: Rate = Field(description="How fast, without a sign.", examples=["20 K/min"])
    tolerance: Annotated[TemperatureDifference, AfterValidator(above_zero)] | None = Field(
        None, description="The ramp has ended this close to the target; 2 K unless given.", examples=["2 K"]
    )
    at_most: While | None = Field(None, description="Longest time that the ramp may take.", examples=["90 min"])


class PurgeText(Written):
    """A flow of inert gas for a while, such as {N2: 20 sccm, for: 5 min}. Every other species is closed."""

    model_config = Written.model_config | {"extra": "allow"}
    __pydantic_extra__: dict[str, Share]

    duration: While = Field(alias="for", description="How long the purge lasts.", examples=["5 min"])

    @property
    def flows(self) -> dict[str, Q]:
        """The mixture."""
        return dict(self.__pydantic_extra__)

    @model_validator(mode="after")
    def _flows(self) -> PurgeText:
        if not any(flow.magnitude > 0 for flow in self.flows.values()):
            raise refuse("the purge names no gas; write one, such as purge: {N2: 20 sccm, for: 5 min}")
        return self


class SeriesText(Written):
    """Frames at equal times: the first at once, the next ones after every interval, the last at the end."""

    every: Annotated[Q | PaceText, Interval(PaceText)] = Field(
        description="From the start of a frame to the start of the next; or how it shortens while the surface changes "
        "fast.",
        examples=["30 s", {"at_most": "60 s", "at_least": "10 s", "faster_when": {"coverage_rate": "above 0.02 /min"}}],
    )
    duration: While | None = Field(
        None,
        alias="for",
        description="How long, in place of count; a frame at the start and at the end.",
        examples=["2 h"],
    )
    number: Annotated[int, Count(1, MAXIMUM_ACTIONS)] | None = Field(
        None, alias="count", description="How many frames, in place of for; at most, where every varies.", examples=[60]
    )
    stop_when: StopText | None = Field(
        None, description="What ends the series early.", examples=[{"coverage": "above 0.95"}]
    )
    correct_drift: DriftText | None = Field(
        None, description="Keeps the field where it was.", examples=[{"every": 10, "limit": "2 um"}]
    )

    @field_validator("duration")
    @classmethod
    def _room(cls, value: Q, info: ValidationInfo) -> Q:
        every = info.data.get("every")
        longest = every.at_most if isinstance(every, PaceText) else every
        if longest is not None and si(longest) > si(value) * (1 + 1e-9):
            raise refuse(
                f"{format_quantity(value)} is shorter than every {format_quantity(longest)}: that is a single frame; "
                "write frame: true, or a longer time"
            )
        return value

    @model_validator(mode="after")
    def _length(self) -> SeriesText:
        if (self.duration is None) == (self.number is None):
            raise refuse(
                "expected either for or count: how long the series lasts, or how many frames it has"
                f"; got {'neither' if self.duration is None else 'both'}"
            )
        return self

    @property
    def pace(self) -> PaceText | None:
        """How the time between frames varies; None where it does not."""
        return self.every if isinstance(self.every, PaceText) else None

    @property
    def longest(self) -> Q:
        """Longest time between frames."""
        return self.every.at_most if isinstance(self.every, PaceText) else self.every

    @property
    def shortest(self) -> Q:
        """Shortest time between frames."""
        return self.every.at_least if isinstance(self.every, PaceText) else self.every

    @property
    def count(self) -> int:
        """Frames when nothing stops the series, at most; those at the start and at the end of ``for`` both count."""
        if self.duration is None:
            return self.number or 0
        return int(si(self.duration) / si(self.shortest) + 1e-9) + 1

    @property
    def actions(self) -> int:
        """How many actions the series becomes."""
        corrections = 0 if self.correct_drift is None else (self.count - 1) // self.correct_drift.every + 1
        return 1 + self.count + corrections


def verbs_of(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the verbs among the keys of a step."""
    given = set(keys)
    return tuple(verb for verb in VERBS if verb in given)


def verb_problem(keys: Iterable[str]) -> str | None:
    """Return what is wrong with the keys of a step taken together, or None.

    >>> verb_problem(["gas", "series"]) is None
    True
    >>> verb_problem(["ramp", "series"])
    'ramp and series cannot stand in one step; write two steps (only gas may stand with another verb, and comes first)'
    """
    given = set(keys)
    verbs = verbs_of(given)
    for branch in ("then", "else"):
        if branch in given and "when" not in given:
            return f"{branch} needs when: write what it hangs on, such as when: {{coverage: above 0.5, …}}"
    if "when" in given and not given & {"then", "else"}:
        return "when needs then or else: write what is done"
    if "steps" in given and "repeat" not in given:
        return "steps inside a step need repeat: write how often, such as repeat: 3"
    if "repeat" in given and "steps" not in given:
        return "repeat needs steps: write what is repeated"
    if not verbs:
        return f"the step does nothing; write one of {', '.join(VERBS)}"
    others = [verb for verb in verbs if verb != "gas"]
    if len(others) < len(verbs) and (not others or (len(others) == 1 and others[0] in AFTER_GAS)):
        return None
    if len(verbs) > 1:
        named = f"{', '.join(verbs[:-1])} and {verbs[-1]}"
        remedy = "write two steps" if len(verbs) == 2 else "write one step for each"
        return f"{named} cannot stand in one step; {remedy} (only gas may stand with another verb, and comes first)"
    return None


def not_empty(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps, of which there must be some."""
    if not steps:
        raise refuse("there are no steps; write one at least, such as - hold: 5 min")
    return steps


def _some_parameters(settings: dict[str, Q]) -> dict[str, Q]:
    if not settings:
        raise refuse("set names no parameter; write one, such as set: {column.focus: 8.01 mm}")
    return settings


class Step(Written):
    """One step: a verb, and how it is meant."""

    name: Annotated[str, Field(max_length=200)] = Field(
        "", description="What logs and reports call the step.", examples=["oxidation"]
    )
    on_interruption: Interruption | None = Field(
        None,
        description="After an interruption: continue with what is left, repeat the step, or end safe. "
        "Steps inside a repeat take it from the repeat; otherwise continue.",
    )
    imaging: ImagingChange | None = Field(
        None, description="What this step changes of the recipe's imaging.", examples=[{"field_of_view": "5 um"}]
    )
    note: Annotated[Text, Field(max_length=2000)] | None = Field(
        None, description="A sentence for the log.", examples=["the valve was changed"]
    )
    settings: Annotated[dict[str, AnyQuantity], AfterValidator(_some_parameters)] | None = Field(
        None,
        alias="set",
        json_schema_extra={"minProperties": 1},
        description="Parameters of the instrument, by name.",
        examples=[{"column.focus": "8.01 mm"}],
    )
    gas: dict[str, Share] | None = Field(
        None,
        description="The whole mixture: a species that is not named is closed. {} closes all.",
        examples=[{"H2": "10 sccm"}],
    )
    ramp: RampText | None = Field(
        None, description="Bring the heater to a temperature.", examples=[{"heater": "800 degC", "rate": "20 K/min"}]
    )
    hold: While | None = Field(None, description="Wait.", examples=["20 min"])
    purge: PurgeText | None = Field(
        None, description="Flow inert gas for a while.", examples=[{"N2": "20 sccm", "for": "5 min"}]
    )
    dark: Annotated[int, Count(1, 1000)] | None = Field(
        None, description="Frames with the beam blanked, which tell the offsets.", examples=[4]
    )
    frame: Literal[True] | None = Field(None, description="One frame: true.")
    frames: Annotated[int, Count(1, MAXIMUM_ACTIONS)] | None = Field(
        None, description="Frames, one after another.", examples=[3]
    )
    series: SeriesText | None = Field(
        None, description="Frames at equal times.", examples=[{"every": "30 s", "for": "2 h"}]
    )
    repeat: Annotated[int, Count(1, MAXIMUM_REPEATS)] | None = Field(
        None, description="How often the steps below it are done.", examples=[3]
    )
    steps: Annotated[tuple[Step, ...], AfterValidator(not_empty)] | None = Field(
        None, description="What repeat repeats."
    )
    autofocus: AutofocusText | None = Field(
        None, description="Search for the focus.", examples=[{"range": "40 um", "frames": 9, "at": {"x": "12 um"}}]
    )
    stigmation: StigmationText | None = Field(
        None, description="Search for the stigmators.", examples=[{"range": "80 %", "frames": 9}]
    )
    balance: BalanceText | None = Field(
        None, description="Set brightness and contrast of each segment.", examples=[{"dark": "2 %", "bright": "60 %"}]
    )
    beam_check: BeamCheckText | None = Field(
        None, description="Check the probe current.", examples=[{"within": "5 %", "otherwise": "suspend"}]
    )
    when: WhenText | None = Field(
        None,
        description="Choose between then and else by a figure of the live reconstruction.",
        examples=[{"coverage": "above 0.5", "within": "60 s", "otherwise": "else"}],
    )
    then: Annotated[tuple[Step, ...], AfterValidator(not_empty)] | None = Field(
        None, description="What is done when it is met."
    )
    other: Annotated[tuple[Step, ...], AfterValidator(not_empty)] | None = Field(
        None, alias="else", description="What is done when it is not met."
    )

    @model_validator(mode="after")
    def _verbs(self) -> Step:
        fields = type(self).model_fields
        problem = verb_problem(fields[name].alias or name for name in self.model_fields_set)
        if problem is not None:
            raise refuse(problem)
        return self

    @property
    def images(self) -> bool:
        """Whether the step itself takes frames, dark ones and those that are not kept included."""
        return self.keeps_frames or any(getattr(self, verb) is not None for verb in LOOKING)

    @property
    def keeps_frames(self) -> bool:
        """Whether the step itself takes frames that are kept, dark ones included."""
        return any(verb is not None for verb in (self.dark, self.frame, self.frames, self.series))

    @property
    def inner(self) -> Iterator[tuple[str, tuple[Step, ...]]]:
        """The lists of steps inside this one, each with its key."""
        for key, steps in (("steps", self.steps), ("then", self.then), ("else", self.other)):
            if steps is not None:
                yield key, steps

    def changed(self, base: Imaging | None) -> Imaging | None:
        """Return the imaging that holds within the step."""
        return base if self.imaging is None else self.imaging.over(base)

    def count_actions(self) -> int:
        """Return how many actions the step becomes, changes of the imaging left out."""
        if self.repeat is not None and self.steps is not None:
            return self.repeat * sum(step.count_actions() for step in self.steps)
        if self.when is not None:
            return 1 + sum(step.count_actions() for _, steps in self.inner for step in steps)
        own = (self.gas is not None) + (self.ramp is not None) + (self.hold is not None) + (self.dark is not None)
        own += (self.frame is not None) + (self.note is not None) + 2 * (self.purge is not None) + (self.frames or 0)
        adjusting = sum(getattr(self, verb) is not None for verb in (*LOOKING, "beam_check"))
        return own + len(self.settings or ()) + (self.series.actions if self.series is not None else 0) + adjusting

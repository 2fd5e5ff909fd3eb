"""How a recipe hangs something on a figure: the end of a series, its pace, a branch."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from acquisition.conditions import FIGURES, MEASURED, RATE, Comparison, Condition, Pace
from acquisition.written import Beyond, While, Written, refuse
from drivers.units import Q, format_quantity, si

Limit: TypeAlias = tuple[Comparison, Q]
_SHARE = Beyond("")
_LENGTH = Beyond("nm")
_PER_TIME = Beyond("1/s")
_SPEED = Beyond("nm/s")
_CHANGE = "Change of it per time, over the last frames."


class FigureText(Written):
    """One figure of the live reconstruction, and a threshold for it."""

    coverage: Annotated[Limit, _SHARE] | None = Field(
        None, description="Share of the surface that the oxide covers, 0 to 1.", examples=["above 0.95"]
    )
    roughness: Annotated[Limit, _LENGTH] | None = Field(
        None, description="Root mean square height Sq.", examples=["above 20 nm"]
    )
    height_range: Annotated[Limit, _LENGTH] | None = Field(
        None, description="Highest minus lowest height.", examples=["above 200 nm"]
    )
    mean_sigma: Annotated[Limit, _LENGTH] | None = Field(
        None, description="Root mean square uncertainty of the heights.", examples=["below 5 nm"]
    )
    flagged: Annotated[Limit, _SHARE] | None = Field(
        None, description="Share of the pixels whose heights are not to be trusted.", examples=["below 0.1"]
    )
    coverage_rate: Annotated[Limit, _PER_TIME] | None = Field(None, description=_CHANGE, examples=["above 0.02 /min"])
    roughness_rate: Annotated[Limit, _SPEED] | None = Field(None, description=_CHANGE, examples=["below 1 nm/min"])
    height_range_rate: Annotated[Limit, _SPEED] | None = Field(None, description=_CHANGE, examples=["above 10 nm/min"])
    mean_sigma_rate: Annotated[Limit, _SPEED] | None = Field(None, description=_CHANGE, examples=["above 1 nm/min"])
    flagged_rate: Annotated[Limit, _PER_TIME] | None = Field(None, description=_CHANGE, examples=["above 0.01 /min"])
    within: While | None = Field(None, description="Age of a frame up to which its figure counts.", examples=["60 s"])

    @field_validator("coverage", "flagged")
    @classmethod
    def _share(cls, value: Limit) -> Limit:
        if not 0 < si(value[1]) < 1:
            raise refuse(
                f"a coverage lies between 0 and 1; {value[0]} {format_quantity(value[1])} is never or always met"
            )
        return value

    @model_validator(mode="after")
    def _one(self) -> FigureText:
        given = [name for name in MEASURED if name in self.model_fields_set]
        if len(given) != 1:
            raise refuse(f"expected one condition, such as {{coverage: above 0.95}}; got {len(given)}")
        return self

    def condition(self) -> Condition:
        """Return it as the engine takes it."""
        figure = next(name for name in MEASURED if name in self.model_fields_set)
        comparison, threshold = getattr(self, figure)
        return Condition(figure=figure, comparison=comparison, threshold=threshold, within=self.within)


class StopText(FigureText):
    """What ends a series early: one figure of the live reconstruction, and where it has seen enough."""


class FasterText(FigureText):
    """While this is met, the frames of a series come faster; within counts 5 min unless given."""

    @model_validator(mode="after")
    def _positive(self) -> FasterText:
        figure = next(name for name in MEASURED if name in self.model_fields_set)
        comparison, threshold = getattr(self, figure)
        if figure.endswith(RATE) and (si(threshold) > 0) != (comparison == "above"):
            raise refuse(
                f"expected a rate away from zero, such as above 0.02 /min, or below -0.02 /min for what shrinks; got "
                f"{comparison} {format_quantity(threshold)}"
            )
        return self


class PaceText(Written):
    """The time between frames, where it shortens while the surface changes fast."""

    at_most: While = Field(description="While nothing happens.", examples=["60 s"])
    at_least: While = Field(description="However much happens.", examples=["10 s"])
    faster_when: FasterText = Field(
        description="What makes frames come faster: by a rate, as often as it passes the threshold; by another "
        "figure, as fast as allowed.",
        examples=[{"coverage_rate": "above 0.02 /min"}],
    )
    otherwise: Literal["at_most", "at_least"] = Field(
        "at_most", description="The time between frames while no figure is young enough to tell."
    )

    @model_validator(mode="after")
    def _order(self) -> PaceText:
        if si(self.at_least) >= si(self.at_most):
            raise refuse(
                f"at_least must be shorter than at_most; got {format_quantity(self.at_least)} and "
                f"{format_quantity(self.at_most)}"
            )
        return self

    def pace(self) -> Pace:
        """Return it as the engine takes it."""
        condition = self.faster_when.condition()
        if condition.within is None:
            condition = Condition(**{**dict(condition), "within": "5 min"})
        return Pace(at_least=self.at_least, faster_when=condition, otherwise=self.otherwise)


class WhenText(FigureText):
    """What chooses between then and else."""

    within: While = Field(description="Age of a frame up to which its figure counts.", examples=["60 s"])
    otherwise: Literal["then", "else", "wait", "fail"] = Field(
        description="What follows while no figure is young enough: a branch, waiting for one, or the end of the run."
    )
    at_most: While | None = Field(
        None, description="Longest time that wait waits, before the run fails.", examples=["5 min"]
    )

    @model_validator(mode="after")
    def _bounded(self) -> WhenText:
        if (self.otherwise == "wait") != (self.at_most is not None):
            raise refuse(
                "otherwise: wait needs at_most, such as at_most: 5 min, so that it ends"
                if self.at_most is None
                else f"at_most belongs to otherwise: wait; remove it, or write wait in place of {self.otherwise}"
            )
        return self


_missing = set(MEASURED) - set(FigureText.model_fields)
assert not _missing and set(FIGURES) <= set(MEASURED), _missing  # noqa: S101, PT018  a figure without its key

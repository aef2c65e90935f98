"""What recommendations earn beyond what would have been earned without them, and what they cost.

    contribution = incremental revenue a year * accuracy * margin * years
    cost         = infrastructure a year * years + people who built it, once
    ROI          = (contribution - cost) / cost
    payback      = people / (contribution - infrastructure) per month

Without inputs it reckons with the case study's own figures. Intervals are propagated to first order, as of independent errors:
a product moves by each factor's error times the other factors, and those are added in squares, each side by itself. With one uncertain factor,
an experiment's, that is exact. Costs are taken as known.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from recsys.errors import UserError

DAYS_PER_YEAR: Final = 365.0
MIN_DAYS: Final = 7.0
"""Of an experiment that a year is reckoned from: weekdays and weekends differ."""
ACCURACIES: Final = (1.0, 0.9, 0.8, 0.7, 0.5)
"""What if the model is only so good? The revenue that it adds is taken to shrink in proportion."""


class ROIError(UserError):
    """Figures that no return can be reckoned from; the message names each that does not fit."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its interval; `low == value == high` where it is known."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, given: object) -> Figure:
        """Of one number, or of `[value, low, high]`.

        Raises:
            ValueError: anything else, or not in that order.
        """
        if isinstance(given, Figure):
            return given
        parts: list[Any] = list(given) if isinstance(given, list | tuple) else [given] * 3
        if len(parts) != 3 or any(isinstance(part, bool) or not isinstance(part, int | float) for part in parts):
            raise ValueError("give one number, or [value, low, high]")
        value, low, high = map(float, parts)
        if not (isfinite(low) and isfinite(high) and low <= value <= high):
            raise ValueError("give [value, low, high], with low <= value <= high")
        return cls(value, low, high)

    def scaled(self, factor: float, shift: float = 0.0) -> Figure:
        """Times a factor that is not negative, plus a shift."""
        return Figure(*(bound * factor + shift for bound in (self.value, self.low, self.high)))


def product(*factors: Figure) -> Figure:
    """Their product, with the interval that this module's first lines describe."""
    values = [factor.value for factor in factors]
    below = above = 0.0
    for n, factor in enumerate(factors):
        slope = prod(values[:n] + values[n + 1 :])
        down, up = slope * (factor.low - factor.value), slope * (factor.high - factor.value)
        below += min(down, up) ** 2
        above += max(down, up) ** 2
    value = prod(values)
    return Figure(value, value - sqrt(below), value + sqrt(above))


FigureInput = Annotated[Figure, BeforeValidator(Figure.of)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class People(_Strict):
    """Who built it."""

    role: str
    count: float = Field(gt=0)
    months: float = Field(gt=0)
    per_month: float = Field(ge=0)
    """What one of them costs a month, all included."""

    @property
    def cost(self) -> float:
        """All of them, once."""
        return self.count * self.months * self.per_month


class Inputs(_Strict):
    """What a return is reckoned from; money in units of `currency`. docs/roi.md describes the file."""

    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    attributed_per_year: float | None = Field(default=None, ge=0)
    """Revenue of orders that followed a click on a recommendation."""
    incremental_share: FigureInput = Figure(1.0, 1.0, 1.0)
    """Of the attributed revenue, what would not have been earned without them."""
    incremental_per_year: FigureInput | None = None
    """Measured by an experiment; takes the place of the two above."""
    margin: FigureInput = Figure(1.0, 1.0, 1.0)
    """What is left of revenue after the goods are paid."""
    accuracy: float = Field(default=1.0, gt=0)
    """How good the model is, as a share of what was measured or hoped."""
    infrastructure_per_year: float = Field(default=0.0, ge=0)
    """All that runs, and who keeps it running."""
    people: tuple[People, ...] = ()
    years: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _can_be_reckoned(self) -> Inputs:
        if self.attributed_per_year is None and self.incremental_per_year is None:
            raise ValueError("give incremental_per_year, or attributed_per_year with its incremental_share")
        if self.incremental_share.value > 1:
            raise ValueError(
                f"incremental_share is a share of the attributed revenue, not {self.incremental_share.value:g}"
            )
        if not 0 < self.margin.low <= self.margin.high <= 1:
            raise ValueError("margin is a share of revenue, above 0 and at most 1")
        if self.cost == 0:
            raise ValueError("there is no cost: give infrastructure_per_year or people, a return needs a denominator")
        return self

    @property
    def people_cost(self) -> float:
        """Once."""
        return sum(one.cost for one in self.people)

    @property
    def cost(self) -> float:
        """Over all years."""
        return self.infrastructure_per_year * self.years + self.people_cost

    @property
    def incremental(self) -> Figure:
        """Incremental revenue a year, of the model as good as it is."""
        if self.incremental_per_year is not None:
            return self.incremental_per_year.scaled(self.accuracy)
        return self.incremental_share.scaled((self.attributed_per_year or 0.0) * self.accuracy)


CASE_STUDY: Final = Inputs(
    attributed_per_year=3_200_000,
    # +47% clicks against random: of 147, random recommendations would have had 100.
    incremental_share=Figure.of(0.47 / 1.47),
    margin=Figure.of(0.3),
    infrastructure_per_year=18_000,
    people=(
        People(role="ML engineers", count=2, months=6, per_month=12_500),
        People(role="backend engineers", count=3, months=6, per_month=12_500),
    ),
)
"""The case study's revenue, infrastructure and team. Share, margin and monthly rate are assumptions of ours: it states none."""
MISSING: Final = (
    "Attributed is not incremental. Its own +47% of clicks over random leaves 47 / 147 = 32% of the revenue to the model, if revenue follows "
    "clicks; against showing nothing it was not measured. Another share: --incremental-share.",
    "People: 2 ML and 3 backend engineers for 6 months stand in none of its figures. Our assumption is 12,500 a month each; another: --rate.",
    "Margin: revenue still has to pay for the goods. Our assumption is 30%; another: --margin.",
    "None of its figures has an interval.",
)
"""What the case study leaves out of its 17,700%, and what is put in its place."""


@dataclass(frozen=True, slots=True)
class Return:
    """What comes of inputs."""

    incremental_per_year: Figure
    contribution: Figure
    """Over all years, after the goods are paid."""
    cost: float
    roi: Figure
    """1.0 is 100%."""
    payback_months: float | None
    """Until the people are paid back; None: never."""
    payback_best: float | None
    payback_worst: float | None
    """With the upper and the lower end of the contribution."""


def reckon(inputs: Inputs) -> Return:
    """The return; see this module's first lines."""
    a_year = product(inputs.incremental, inputs.margin)
    contribution = a_year.scaled(inputs.years)
    payback = (_payback(inputs, bound) for bound in (a_year.value, a_year.high, a_year.low))
    roi = contribution.scaled(1.0 / inputs.cost, -1.0)
    return Return(inputs.incremental, contribution, inputs.cost, roi, *payback)


def _payback(inputs: Inputs, contribution_per_year: float) -> float | None:
    net = (contribution_per_year - inputs.infrastructure_per_year) / 12
    return inputs.people_cost / net if net > 0 else None


def steps(inputs: Inputs) -> Iterator[tuple[str, Return]]:
    """From the reckoning that flatters most to the whole one, each step with what it adds; steps without any cost are left out."""
    revenue = inputs.model_copy(update={"margin": Figure.of(1.0)})
    running = revenue.model_copy(update={"people": ()})
    attributed = running.model_copy(update={"incremental_share": Figure.of(1.0), "incremental_per_year": None})
    stages = (
        *((("all attributed revenue, infrastructure only", attributed),) if inputs.attributed_per_year else ()),
        ("only what is incremental", running),
        ("and the people who built it", revenue),
        ("and margin instead of revenue", inputs),
    )
    for name, stage in stages:
        if stage.cost:
            yield name, reckon(stage)


def sensitivity(inputs: Inputs) -> Iterator[tuple[float, Return]]:
    """The whole reckoning with the model only so good as each of `ACCURACIES`."""
    for share in ACCURACIES:
        yield share, reckon(inputs.model_copy(update={"accuracy": inputs.accuracy * share}))


def break_even(inputs: Inputs) -> float | None:
    """The share of its accuracy at which the model just earns its cost; None where it earns nothing at all."""
    contribution = reckon(inputs).contribution.value
    return inputs.cost / contribution if contribution > 0 else None


def is_case_study(path: Path | None, given: Mapping[str, Any]) -> bool:
    """Whether nothing says what the shop earns, so that the case study's figures stand in."""
    return path is None and not {"attributed_per_year", "incremental_per_year"} & given.keys()


def read_inputs(path: Path | None, given: Mapping[str, Any], *, rate: float | None = None) -> Inputs:
    """The inputs of a TOML file or of the case study; `given` takes the place of what stands there, `rate` of what people cost a month.

    Raises:
        ROIError: the file is missing or no TOML, or figures do not fit; the message names each.
    """
    content = dict(CASE_STUDY) if is_case_study(path, given) else _read_toml(path) if path else {}
    try:
        inputs = Inputs.model_validate({**content, **given})
    except ValidationError as error:
        problems = "\n".join(
            f"  {'.'.join(map(str, problem['loc'])) or 'inputs'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
        raise ROIError(f"{path or 'the figures given'} do not fit (docs/roi.md describes each):\n{problems}") from error
    if rate is None:
        return inputs
    if not inputs.people:
        raise ROIError("a rate needs people: how many, and for how many months")
    return inputs.model_copy(
        update={"people": tuple(one.model_copy(update={"per_month": rate}) for one in inputs.people)}
    )


def read_costs(path: Path) -> dict[str, Any]:
    """What a TOML file says of cost and margin, for an experiment that brings the revenue.

    Raises:
        ROIError: the file is missing or no TOML, or its figures do not fit.
    """
    content = {name: value for name, value in _read_toml(path).items() if name not in _REVENUE}
    read_inputs(None, {**content, "incremental_per_year": 0.0})
    return content


_REVENUE: Final = ("attributed_per_year", "incremental_share", "incremental_per_year")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ROIError(f"{path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ROIError(f"{path} is not TOML: {error}") from error


class Experiment(BaseModel):
    """What an experiment's result says of money; whatever else the file holds is left alone."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    incremental_revenue: FigureInput
    """Of all units in the period, against the control arm."""
    period_days: float = Field(gt=0)
    currency: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")

    @property
    def per_year(self) -> Figure:
        """Incremental revenue a year, if the year is as the experiment's period was."""
        return self.incremental_revenue.scaled(DAYS_PER_YEAR / self.period_days)


def read_experiment(path: Path) -> Experiment:
    """What an experiment's result says of money, such as the JSON of `recsys report`.

    Raises:
        ROIError: the file is missing, no JSON, or lacks a figure.
    """
    try:
        found = Experiment.model_validate(orjson.loads(path.read_bytes()))
    except OSError as error:
        raise ROIError(f"{path} cannot be read ({error.strerror})") from error
    except orjson.JSONDecodeError as error:
        raise ROIError(f"{path} is not JSON: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise ROIError(f"{path} is no experiment's result (docs/roi.md): {problems}") from error
    if found.period_days < MIN_DAYS:
        raise ROIError(
            f"{path} holds {found.period_days:.1f} days: a year is reckoned from a week or more, as weekdays and weekends differ"
        )
    return found


def parse_figure(text: str) -> list[float] | float:
    """`0.3` or `0.3,0.2,0.4`, as options give a figure.

    Raises:
        ROIError: it is neither.
    """
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ROIError(f"{text!r} is no figure: give one number, or value,low,high") from error
    return parts[0] if len(parts) == 1 else parts

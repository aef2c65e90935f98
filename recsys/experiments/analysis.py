"""What came of an experiment: one row per unit in, one row per arm and metric out, with intervals, or the reason why there are none.

Means, ratios of means (delta method on the unit: Deng, Knoblich, Lu, KDD 2018), CUPED (Deng, Xu, Kohavi, Walker, WSDM 2013), intervals
and Holm's correction are tea-tasting's; the sequential intervals are `recsys.experiments.sequential`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import polars as pl
import polars.selectors as cs
import tea_tasting as tt
from scipy.stats import chisquare, norm
from tea_tasting.aggr import Aggregates, read_aggregates
from tea_tasting.experiment import ExperimentResult

from recsys.errors import UserError
from recsys.experiments.metrics import METRICS, Metric
from recsys.experiments.plan import Experiment, Guardrail
from recsys.experiments.sequential import factor, tuned_rho

ALPHA: Final = 0.05
MISMATCH_P: Final = 0.001
"""Below it the arms' sizes are not those of the plan (sample-ratio mismatch), and nothing is read out."""
MANY_ARMS_SHARE: Final = 0.01
"""From this share of units that were in several arms on, the readout warns."""
ROUNDING: Final = 1e-9
"""A variance of so little, as a share of what it is the difference of, is none."""
_TWO_SIDED: Final = float(norm.ppf(1 - ALPHA / 2))
_ONE_SIDED: Final = float(norm.ppf(1 - ALPHA))

LIFTS: Final[dict[str, Any]] = {
    "experiment": pl.String,
    "arm": pl.String,
    "metric": pl.String,
    "role": pl.String,
    "status": pl.String,
    "n_units": pl.Int64,
    "n_control": pl.Int64,
    "control_value": pl.Float64,
    "value": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "relative": pl.Float64,
    "relative_low": pl.Float64,
    "relative_high": pl.Float64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "sequential_low": pl.Float64,
    "sequential_high": pl.Float64,
    "sequential_relative_low": pl.Float64,
    "sequential_relative_high": pl.Float64,
    "adjusted_by": pl.String,
    "margin": pl.Float64,
    "bound": pl.Float64,
    "verdict": pl.String,
    "sequential_bound": pl.Float64,
    "sequential_verdict": pl.String,
}
"""Columns of a readout's frame, docs/experiments.md."""

Role = Literal["primary", "secondary", "guardrail"]


@dataclass(frozen=True)
class Readout:
    """What an experiment says, or why it says nothing."""

    experiment: str
    reason: str
    """Why there is no readout; empty where there is one."""
    units: Mapping[str, int]
    """Units of each arm, those in several arms left out."""
    expected_units: Mapping[str, float]
    mismatch_p: float
    """Of the arms' sizes under the plan's shares, chi-squared."""
    many_arms_share: float
    """Share of units that were exposed in more than one arm; their rows are left out."""
    warnings: tuple[str, ...]
    lifts: pl.DataFrame
    """One row per arm (the control excepted) and metric, the columns of `LIFTS`; empty where there is a reason."""


def read_out(experiment: Experiment, units: pl.DataFrame) -> Readout:
    """Every arm against the control, on every metric that the experiment names; `units` are its rows of
    `recsys.tables.EXPERIMENT_UNITS`.

    Raises:
        UserError: the frame lacks a column that every frame has, names an arm that the experiment has not, or a unit twice.
    """
    _check(experiment, units)
    several, alone = units.filter(pl.len().over("unit") > 1), units.filter(pl.len().over("unit") == 1)
    n = units["unit"].n_unique()
    sizes = dict(alone.group_by("arm").len().iter_rows())
    counts = {arm.name: int(sizes.get(arm.name, 0)) for arm in experiment.arms}
    total = sum(counts.values())
    expected = {arm.name: experiment.split.share(arm.name) * total for arm in experiment.arms}
    p = float(chisquare(list(counts.values()), list(expected.values())).pvalue) if total else math.nan
    many = several["unit"].n_unique() / n if n else 0.0
    reason = _unreadable(counts, p)
    warnings = (
        (f"{many:.1%} of units were in several arms: is the assignment sticky?",) if many > MANY_ARMS_SHARE else ()
    )
    lifts = pl.DataFrame(schema=LIFTS) if reason else _lifts(experiment, alone)
    return Readout(experiment.name, reason, counts, expected, p, many, warnings, lifts)


def _check(experiment: Experiment, units: pl.DataFrame) -> None:
    missing = [name for name in ("unit", "arm") if name not in units]
    if missing:
        raise UserError(f"experiment {experiment.name!r}: the units have no column {missing[0]!r}")
    unknown = sorted(set(units["arm"].unique()) - {arm.name for arm in experiment.arms}, key=str)
    if unknown:
        raise UserError(
            f"experiment {experiment.name!r}: units are in arm {unknown[0]!r}, which the plan does not have: "
            "read it out with the plan that it ran under"
        )
    for column in units.select(cs.float()).columns:
        if not units[column].drop_nulls().is_finite().all():
            raise UserError(f"experiment {experiment.name!r}: {column} is not a number in some row: count it anew")
    if units.select("unit", "arm").is_duplicated().any():
        raise UserError(f"experiment {experiment.name!r}: a unit stands twice in one arm: sum its rows first")


def _unreadable(counts: Mapping[str, int], p: float) -> str:
    if not sum(counts.values()):
        return "no data: no unit was exposed; run `recsys tables` to read what has come since"
    if p < MISMATCH_P:
        return (
            f"sample-ratio mismatch: the arms' sizes {dict(counts)} have p = {p:.2g} under the planned shares: "
            "units are lost or counted in one arm more than in another, so no difference can be trusted; find out why first"
        )
    return ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A difference of two arms, and how sure it is."""

    control: float
    value: float
    standard_error: float
    """Of the difference."""
    log_standard_error: float | None
    """Of the logarithm of value / control; None where either is not positive."""
    p: float

    @property
    def difference(self) -> float:
        """Absolute."""
        return self.value - self.control

    @property
    def relative(self) -> float | None:
        """As a share of the control's value."""
        return None if self.log_standard_error is None else self.value / self.control - 1

    def within(self, errors: float) -> tuple[float, float]:
        """The difference, so many standard errors to each side."""
        half = errors * self.standard_error
        return self.difference - half, self.difference + half

    def relative_within(self, errors: float) -> tuple[float, float] | tuple[None, None]:
        """The relative difference, so many standard errors of the logarithm to each side."""
        if self.log_standard_error is None:
            return None, None
        stretch = math.exp(errors * self.log_standard_error)
        ratio = self.value / self.control
        return ratio / stretch - 1, ratio * stretch - 1


def estimate(tested: tt.RatioOfMeans, control: Aggregates, treatment: Aggregates) -> Estimate:
    """What tea-tasting says of two arms, in standard errors: its intervals are normal ones, so nothing is lost."""
    found = tested.analyze_aggregates(control, treatment)
    half = (found.effect_size_ci_upper - found.effect_size_ci_lower) / 2
    log_error = None
    if found.control > 0 and found.treatment > 0:
        log_error = math.log((1 + found.rel_effect_size_ci_upper) / (1 + found.rel_effect_size)) / _TWO_SIDED
    return Estimate(found.control, found.treatment, half / _TWO_SIDED, log_error, found.pvalue)


def ratio_of_means(metric: Metric, units: pl.DataFrame) -> tt.RatioOfMeans:
    """The metric for tea-tasting, adjusted where the units have a pre-period to adjust by.

    Normal quantiles: the delta method holds for many units only, where Student's are the same.
    """
    adjustable = metric.covariate is not None and all(
        column in units and units[column].sum() > 0 for column in metric.covariates
    )
    covariates = (metric.covariate, metric.covariate_denominator) if adjustable else (None, None)
    return tt.RatioOfMeans(metric.numerator, metric.denominator, *covariates, use_t=False, confidence_level=1 - ALPHA)


def _lifts(experiment: Experiment, units: pl.DataFrame) -> pl.DataFrame:
    """One row per arm and metric."""
    # A null in a row is 0, but a column of nothing else was not measured: no latency is not a latency of 0.
    unmeasured = frozenset(column.name for column in units if column.null_count() == len(column))
    units = units.with_columns(
        cs.numeric().cast(pl.Float64).fill_null(0), cs.by_dtype(pl.Null).cast(pl.Float64).fill_null(0)
    )
    margins = {guardrail.metric: guardrail for guardrail in experiment.guardrails}
    roles: dict[str, Role] = {**dict.fromkeys(experiment.metrics, "secondary"), **dict.fromkeys(margins, "guardrail")}
    roles = {experiment.primary: "primary", **roles, experiment.primary: "primary"}
    rows = []
    for name, role in roles.items():
        key = {"experiment": experiment.name, "metric": name, "role": role}
        found = _against_control(experiment, METRICS[name], units, margins.get(name), unmeasured)
        rows += [{**key, **row, "p_adjusted": adjusted} for row, adjusted in zip(found, _holm(found), strict=True)]
    return pl.DataFrame(rows, schema=LIFTS)


def _against_control(
    experiment: Experiment, metric: Metric, units: pl.DataFrame, guardrail: Guardrail | None, unmeasured: frozenset[str]
) -> list[dict[str, Any]]:
    """The rows of one metric, an arm each: columns of `LIFTS`."""
    arms = [arm.name for arm in experiment.arms if arm.name != experiment.control]
    absent = [column for column in metric.columns if column not in units or column in unmeasured]
    if absent:
        return [{"arm": arm, "status": f"no data: {absent[0]} was not recorded"} for arm in arms]
    tested = ratio_of_means(metric, units)
    # Any arm may stop the experiment, so their sequential intervals share the error.
    alpha = ALPHA / len(arms)
    split = experiment.split
    sums = read_aggregates(units, "arm", **tested.aggr_cols._asdict())
    rows = []
    for arm in arms:
        status = _no_data(metric, {name: sums.get(name) for name in (experiment.control, arm)})
        row: dict[str, Any] = {"arm": arm, "status": status or "ok"}
        if experiment.control in sums and arm in sums:
            control, treatment = sums[experiment.control], sums[arm]
            row |= {"n_control": control.count(), "n_units": treatment.count()}
            if not status:
                found = estimate(tested, control, treatment)
                expected = experiment.expected_units * (split.share(experiment.control) + split.share(arm))
                rho = tuned_rho(expected, alpha)
                sequential = float(factor(control.count() + treatment.count(), rho, alpha))
                row |= _figures(found, sequential)
                row["adjusted_by"] = tested.numer_covariate
                if guardrail is not None:
                    row |= _held(metric, guardrail, found)
                    row |= _held(metric, guardrail, found, sequential, "sequential_")
            elif guardrail is not None:
                row |= _none_seen(metric, guardrail, control, treatment)
        rows.append(row)
    return rows


def _no_data(metric: Metric, sums: Mapping[str, Aggregates | None]) -> str:
    """Why two arms cannot be compared; empty where they can."""
    for arm, one in sums.items():
        if one is None or one.count() < 2:
            return f"no data: arm {arm!r} has fewer than two units"
        if metric.denominator is not None and one.mean(metric.denominator) <= 0:
            return f"no data: arm {arm!r} has no {metric.denominator}"
    if not any(_varies(metric, one) for one in sums.values() if one is not None):
        return f"no data: {metric.numerator} does not vary between units"
    return ""


def _varies(metric: Metric, one: Aggregates) -> bool:
    """Whether units differ by more than rounding: where every order is worth the same, revenue per order has a variance of next to nothing."""
    ratio = one.mean(metric.numerator) / one.mean(metric.denominator)
    scale = (one.var(metric.numerator) + ratio**2 * one.var(metric.denominator)) / one.mean(metric.denominator) ** 2
    return bool(one.ratio_var(metric.numerator, metric.denominator) > ROUNDING * scale)


def _figures(found: Estimate, sequential: float) -> dict[str, float | None]:
    """Columns of `LIFTS`; `sequential` is the standard errors of the sequential intervals."""
    columns: dict[str, float | None] = {
        "control_value": found.control,
        "value": found.value,
        "difference": found.difference,
        "relative": found.relative,
        "p": found.p,
    }
    for prefix, errors in (("", _TWO_SIDED), ("sequential_", sequential)):
        columns[f"{prefix}low"], columns[f"{prefix}high"] = found.within(errors)
        columns[f"{prefix}relative_low"], columns[f"{prefix}relative_high"] = found.relative_within(errors)
    return columns


def _held(
    metric: Metric, guardrail: Guardrail, found: Estimate, errors: float = _ONE_SIDED, prefix: str = ""
) -> dict[str, float | str | None]:
    """How much worse the arm may be, so many standard errors off, and whether that is within the margin (non-inferiority)."""
    absolute = guardrail.absolute is not None
    low, high = found.within(errors) if absolute else found.relative_within(errors)
    margin = guardrail.absolute if absolute else guardrail.relative
    if low is None or high is None or margin is None:
        return {"margin": margin, f"{prefix}verdict": "open"}
    least, most = (low, high) if metric.better == "lower" else (-high, -low)
    verdict = "held" if most < margin else "broken" if least > margin else "open"
    return {"margin": margin, f"{prefix}bound": most, f"{prefix}verdict": verdict}


def _none_seen(
    metric: Metric, guardrail: Guardrail, control: Aggregates, treatment: Aggregates
) -> dict[str, float | str | None]:
    """Where neither arm has a single event: below 3 / n with 95% confidence (rule of three), against an absolute margin.

    Only where the metric is a share of what it counts, and the less the better. It holds at any number of looks: n tries without an
    event stay without one.
    """
    margin = guardrail.relative if guardrail.absolute is None else guardrail.absolute
    seen = any(one.mean(metric.numerator) != 0 for one in (control, treatment))
    tries = treatment.count() * treatment.mean(metric.denominator)
    if guardrail.absolute is None or not metric.is_share or seen or tries <= 0:
        return {"margin": margin, "verdict": "open", "sequential_verdict": "open"}
    bound = 3 / tries
    verdict = "held" if bound < guardrail.absolute else "open"
    return {
        "margin": margin,
        "bound": bound,
        "verdict": verdict,
        "sequential_bound": bound,
        "sequential_verdict": verdict,
    }


def _holm(rows: list[dict[str, Any]]) -> list[float | None]:
    """P-values adjusted over the arms; None where there is none.

    Holm's step-down holds under any dependence, and arms that share a control depend on each other. It bounds the chance of shipping
    even one arm that does nothing; a bound on the share of false finds (Benjamini-Hochberg) answers a question of many arms.
    """
    tested = {row["arm"]: ExperimentResult({"p": {"pvalue": row["p"]}}) for row in rows if row.get("p") is not None}
    if not tested:
        return [None] * len(rows)
    adjusted = tt.adjust_fwer(tested, alpha=ALPHA, arbitrary_dependence=True, method="bonferroni")
    return [adjusted[row["arm"]]["p"]["pvalue_adj"] if row["arm"] in adjusted else None for row in rows]

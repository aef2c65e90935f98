"""How large and how long an experiment has to be, before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tea_tasting as tt
from tea_tasting.aggr import Aggregates

from recsys.experiments.analysis import ALPHA
from recsys.experiments.plan import Experiment, Plan

WEEK_DAYS = 7


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is known of the primary metric today, and of the traffic."""

    mean: float
    """The metric's value, above 0."""
    standard_deviation: float
    """Of the metric between units."""
    units_per_day: float
    """Units that are seen for the first time on a day, all arms together: one that comes back adds no unit."""

    @classmethod
    def of_a_rate(cls, rate: float, units_per_day: float) -> Baseline:
        """Of a metric that is 0 or 1 for every unit."""
        return cls(rate, math.sqrt(rate * (1 - rate)), units_per_day)


@dataclass(frozen=True, slots=True)
class Size:
    """What it takes to tell one arm from the control."""

    experiment: str
    arm: str
    units: int
    """In both arms together, for the lift and power asked for."""
    days: int
    """Until so many units have come; no less than a week, in whole weeks, since shoppers of weekdays and weekends differ."""
    planned_days: float | None
    """From start to stop; None without a stop."""
    power: float | None
    """Of finding the lift asked for by the stop."""
    detectable: float | None
    """The relative lift that would be found by the stop with the power asked for."""


def sizes(plan: Plan, experiment: Experiment, baseline: Baseline, lift: float, power: float = 0.8) -> list[Size]:
    """The size for every arm but the control; with several arms, at the level of the first step of Holm's correction.

    `lift` is relative to the control. A fixed-horizon test, two-sided at 5%, unadjusted: CUPED needs fewer units, sequential intervals more.
    """
    share = {arm: share for name, arm, _, share in plan.shares() if name == experiment.name}
    arms = [arm.name for arm in experiment.arms if arm.name != experiment.control]
    planned = None if experiment.stop is None else (experiment.stop - experiment.start).total_seconds() / 86_400
    found = []
    for arm in arms:
        ratio = share[arm] / share[experiment.control]
        per_day = baseline.units_per_day * (share[arm] + share[experiment.control])
        units = int(_solve(baseline, "n_obs", ALPHA / len(arms), ratio, rel_effect_size=lift, power=power))
        days = WEEK_DAYS * math.ceil(units / per_day / WEEK_DAYS)
        by_then = None if planned is None else int(planned * per_day)
        reached = detectable = None
        if by_then is not None and by_then > 1:  # fewer cannot be compared
            reached = _solve(baseline, "power", ALPHA / len(arms), ratio, rel_effect_size=lift, n_obs=by_then)
            detectable = _solve(baseline, "rel_effect_size", ALPHA / len(arms), ratio, power=power, n_obs=by_then)
        found.append(Size(experiment.name, arm, units, days, planned, reached, detectable))
    return found


def _solve(baseline: Baseline, parameter: str, alpha: float, ratio: float, **given: float) -> float:
    """One of tea-tasting's power parameters from the others."""
    metric = tt.Mean("metric", alpha=alpha, ratio=ratio, use_t=False, **given)
    sample = Aggregates(
        count_=1, mean_={"metric": baseline.mean}, var_={"metric": baseline.standard_deviation**2}, cov_={}
    )
    return float(getattr(metric.solve_power_from_aggregates(sample, parameter)[0], parameter))

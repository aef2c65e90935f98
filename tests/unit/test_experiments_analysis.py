"""Readouts by hand arithmetic, and every way in which there is none."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
import tea_tasting as tt
from tea_tasting.aggr import read_aggregates

from recsys.errors import UserError
from recsys.experiments.analysis import ALPHA, LIFTS, Readout, estimate, ratio_of_means, read_out
from recsys.experiments.metrics import METRICS
from recsys.experiments.plan import Arm, Experiment, Guardrail
from recsys.experiments.sequential import factor, tuned_rho
from recsys.tables import EXPERIMENT_UNITS


def experiment(arms: tuple[str, ...] = ("a", "b"), **given: Any) -> Experiment:
    shares = [Arm(name=name, share=1 / len(arms)) for name in arms]
    start = datetime(2026, 12, 1, tzinfo=UTC)
    return Experiment(name="x", layer="l", arms=tuple(shares), control=arms[0], start=start, **given)


def drawn(seed: int = 0, arms: tuple[str, ...] = ("a", "b"), per_arm: int = 1_000, lift: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    n = per_arm * len(arms)
    chance, seen, before = rng.beta(2, 20, n), 1 + rng.poisson(20, n), 1 + rng.poisson(20, n)
    arm = np.repeat(arms, per_arm)
    return pl.DataFrame(
        {
            "unit": [f"user:{number}" for number in range(n)],
            "arm": arm,
            "exposures": seen,
            "clicks": rng.binomial(seen, np.where(arm == arms[0], chance, chance * (1 + lift))),
            "orders": rng.binomial(1, 0.2, n),
            "pre_exposures": before,
            "pre_clicks": rng.binomial(before, chance),
        }
    )


def row(readout: Readout, metric: str, arm: str = "b") -> dict[str, Any]:
    assert readout.reason == ""
    return readout.lifts.row(by_predicate=(pl.col("metric") == metric) & (pl.col("arm") == arm), named=True)


def nearly(found: dict[str, Any]) -> dict[str, Any]:
    """The same but for the order in which threads add up."""
    return {name: pytest.approx(value) if isinstance(value, float) else value for name, value in found.items()}


def test_a_rate_by_hand() -> None:
    # a: clicks 1, 2 of exposures 4, 4; b: 2, 4 of 4, 8. Rates 3/8 and 6/12.
    units = pl.DataFrame(
        {"unit": ["1", "2", "3", "4"], "arm": ["a", "a", "b", "b"], "clicks": [1, 2, 2, 4], "exposures": [4, 4, 4, 8]}
    )
    found = row(read_out(experiment(), units), "ctr")
    assert (found["control_value"], found["value"]) == (3 / 8, 1 / 2)
    # Delta method: variance of (clicks - rate * exposures) / mean exposures. a: residuals -0.5, 0.5, so 0.5 / 16; b: 0, 0.
    error = math.sqrt(0.5 / 16 / 2)
    assert found["difference"] == pytest.approx(1 / 8)
    assert found["high"] - found["difference"] == pytest.approx(1.959964 * error, rel=1e-6)
    assert found["relative"] == pytest.approx(1 / 3)
    # Of the logarithm: the error divided by the control's rate.
    assert math.log1p(found["relative_high"]) - math.log(4 / 3) == pytest.approx(1.959964 * error / (3 / 8), rel=1e-6)
    assert found["p"] == pytest.approx(math.erfc(1 / 8 / error / math.sqrt(2)))
    assert found["adjusted_by"] is None


def test_the_intervals_are_tea_tastings() -> None:
    units = drawn()
    found = row(read_out(experiment(), units), "ctr")
    metric = tt.RatioOfMeans("clicks", "exposures", "pre_clicks", "pre_exposures", use_t=False)
    theirs = metric.analyze(units, "a", "b", variant="arm")
    for ours, name in (
        ("control_value", "control"),
        ("value", "treatment"),
        ("difference", "effect_size"),
        ("low", "effect_size_ci_lower"),
        ("high", "effect_size_ci_upper"),
        ("relative", "rel_effect_size"),
        ("relative_low", "rel_effect_size_ci_lower"),
        ("relative_high", "rel_effect_size_ci_upper"),
        ("p", "pvalue"),
    ):
        assert found[ours] == pytest.approx(getattr(theirs, name), rel=1e-9), ours


def test_a_pre_period_narrows() -> None:
    units = drawn()
    with_, without = (row(read_out(experiment(), one), "ctr") for one in (units, units.drop("pre_clicks")))
    assert (with_["adjusted_by"], without["adjusted_by"]) == ("pre_clicks", None)
    assert with_["high"] - with_["low"] < 0.95 * (without["high"] - without["low"])


def test_a_pre_period_in_which_nothing_was_seen_adjusts_nothing() -> None:
    assert row(read_out(experiment(), drawn().with_columns(pre_exposures=0)), "ctr")["adjusted_by"] is None


def test_a_null_is_a_unit_that_did_nothing() -> None:
    units = drawn()
    nulls = units.with_columns(pl.when(pl.col("clicks") > 0).then("clicks").alias("clicks"))
    assert nulls["clicks"].null_count() > 0
    with_nulls, with_zeros = (row(read_out(experiment(), frame), "ctr") for frame in (nulls, units))
    assert with_nulls == nearly(with_zeros)


def test_sequential_intervals_widen_the_standard_error() -> None:
    readout = read_out(experiment(expected_units=4_000), drawn())
    found = row(readout, "ctr")
    widen = float(factor(2_000, tuned_rho(4_000, ALPHA), ALPHA)) / 1.959964
    assert found["sequential_high"] - found["difference"] == pytest.approx(
        widen * (found["high"] - found["difference"]), rel=1e-6
    )
    ratio = 1 + found["relative"]
    assert math.log1p(found["sequential_relative_low"]) - math.log(ratio) == pytest.approx(
        widen * (math.log1p(found["relative_low"]) - math.log(ratio)), rel=1e-6
    )


def test_sequential_intervals_of_several_arms_share_the_error() -> None:
    arms = ("a", "b", "c")
    found = row(read_out(experiment(arms, expected_units=9_000), drawn(0, arms)), "ctr")
    widen = float(factor(2_000, tuned_rho(6_000, ALPHA / 2), ALPHA / 2)) / 1.959964
    assert found["sequential_high"] - found["difference"] == pytest.approx(
        widen * (found["high"] - found["difference"]), rel=1e-4
    )


def test_arms_of_wrong_sizes_stop_the_readout() -> None:
    units = drawn().filter((pl.col("arm") == "a") | (pl.int_range(pl.len()) % 5 > 0))
    readout = read_out(experiment(), units)
    assert readout.mismatch_p < 0.001
    assert "sample-ratio mismatch" in readout.reason and "1000" in readout.reason and "800" in readout.reason
    assert readout.lifts.is_empty() and readout.lifts.columns == list(LIFTS)


def test_planned_shares_are_no_mismatch() -> None:
    arms = (Arm(name="a", share=0.8), Arm(name="b", share=0.2))
    units = pl.concat([drawn(per_arm=800).filter(arm="a"), drawn(per_arm=200).filter(arm="b")])
    unequal = experiment().model_copy(update={"arms": arms})
    units = units.with_columns(unit=pl.int_range(pl.len()).cast(pl.String))
    assert read_out(unequal, units).mismatch_p == pytest.approx(1)
    assert read_out(experiment(), units).mismatch_p < 1e-50


def test_units_in_several_arms_are_counted_and_left_out() -> None:
    units = drawn()
    both = units.head(40).with_columns(pl.lit("b").alias("arm"), clicks=pl.lit(1_000))
    readout = read_out(experiment(), pl.concat([units, both], how="vertical_relaxed"))
    assert readout.many_arms_share == 40 / 2_000
    assert readout.units == {"a": 960, "b": 1_000}
    assert readout.warnings == ("2.0% of units were in several arms: is the assignment sticky?",)
    assert row(readout, "ctr") == nearly(row(read_out(experiment(), units.tail(-40)), "ctr"))


@pytest.mark.parametrize("seed", range(5))
def test_several_arms_are_corrected_by_holm(seed: int) -> None:
    arms = ("a", "b", "c", "d")
    readout = read_out(experiment(arms), drawn(seed, arms))
    p = {arm: row(readout, "ctr", arm)["p"] for arm in arms[1:]}
    adjusted = {arm: row(readout, "ctr", arm)["p_adjusted"] for arm in arms[1:]}
    first, second, third = sorted(p, key=lambda arm: p[arm])
    assert adjusted[first] == pytest.approx(min(1, 3 * p[first]))
    assert adjusted[second] == pytest.approx(min(1, max(3 * p[first], 2 * p[second])))
    assert adjusted[third] == pytest.approx(min(1, max(3 * p[first], 2 * p[second], p[third])))


def test_every_metric_has_its_role_once() -> None:
    asked = experiment(
        primary="ctr", metrics=("orders_per_unit", "ctr"), guardrails=(Guardrail(metric="ctr", relative=0.1),)
    )
    lifts = read_out(asked, drawn()).lifts
    assert lifts.select("metric", "role").rows() == [("ctr", "primary"), ("orders_per_unit", "secondary")]
    assert lifts["verdict"].to_list() == ["held", None]


@pytest.mark.parametrize(
    ("units", "metric", "status"),
    [
        (drawn(), "latency", "no data: latency_ms was not recorded"),
        (drawn().with_columns(clicks=0), "ctr", "no data: clicks does not vary between units"),
        (drawn().with_columns(exposures=0), "ctr", "no data: arm 'a' has no exposures"),
        (drawn(per_arm=1), "ctr", "no data: arm 'a' has fewer than two units"),
    ],
)
def test_a_metric_without_data_says_so(units: pl.DataFrame, metric: str, status: str) -> None:
    found = row(read_out(experiment(primary=metric), units), metric)
    assert found["status"] == status
    assert all(found[name] is None for name in ("value", "difference", "low", "p", "p_adjusted"))


def test_an_arm_that_has_no_unit_yet() -> None:
    readout = read_out(experiment(("a", "b", "c")), drawn(arms=("a", "b"), per_arm=4))
    assert row(readout, "ctr", "c")["status"] == "no data: arm 'c' has fewer than two units"
    assert row(readout, "ctr", "b")["status"] == "ok"


def test_an_experiment_without_units() -> None:
    assert read_out(experiment(), drawn().clear()).reason.startswith("no data: no unit was exposed")


def test_a_control_of_zero_has_no_relative_difference() -> None:
    units = drawn().with_columns(clicks=pl.when(pl.col("arm") == "a").then(0).otherwise("clicks")).drop("pre_clicks")
    found = row(read_out(experiment(), units), "ctr")
    assert found["difference"] > 0 and found["low"] > 0
    assert found["relative"] is None and found["relative_low"] is None and found["sequential_relative_high"] is None


def slower(by: float) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    milliseconds = rng.gamma(100, 0.2, 2_000) * np.where(drawn()["arm"] == "b", 1 + by, 1.0)
    return drawn().with_columns(latency_ms=milliseconds, answers=pl.lit(1.0))


@pytest.mark.parametrize(("by", "verdict"), [(0.0, "held"), (0.05, "open"), (0.2, "broken")])
def test_a_guardrail_holds_when_worse_is_ruled_out(by: float, verdict: str) -> None:
    asked = experiment(guardrails=(Guardrail(metric="latency", relative=0.05),))
    found = row(read_out(asked, slower(by)), "latency")
    assert found["verdict"] == verdict
    assert found["margin"] == 0.05
    # One-sided 95%: 1.645 standard errors of the logarithm.
    error = (math.log1p(found["relative_high"]) - math.log1p(found["relative"])) / 1.959964
    assert found["bound"] == pytest.approx(math.exp(math.log1p(found["relative"]) + 1.644854 * error) - 1, rel=1e-6)


def test_a_guardrail_of_what_should_be_high_looks_down() -> None:
    asked = experiment(primary="orders_per_unit", guardrails=(Guardrail(metric="ctr", absolute=0.03),))
    found = row(read_out(asked, drawn(lift=-0.5)), "ctr")
    assert found["verdict"] == "broken"
    assert found["bound"] > -found["difference"] > 0.03


def test_no_error_at_all_is_below_three_in_n() -> None:
    units = drawn().with_columns(errors=pl.lit(0.0), answers=pl.lit(2.0))
    asked = experiment(guardrails=(Guardrail(metric="errors", absolute=0.01),))
    found = row(read_out(asked, units), "errors")
    assert (found["bound"], found["verdict"]) == (3 / 2_000, "held")
    tight = experiment(guardrails=(Guardrail(metric="errors", absolute=0.001),))
    assert row(read_out(tight, units), "errors")["verdict"] == "open"
    relative = experiment(guardrails=(Guardrail(metric="errors", relative=0.1),))
    assert row(read_out(relative, units), "errors")["verdict"] == "open"


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (drawn().drop("arm"), "have no column 'arm'"),
        (drawn(arms=("a", "z")), "units are in arm 'z', which the plan does not have"),
        (pl.concat([drawn(), drawn().head(1)]), "a unit stands twice in one arm"),
        (drawn().with_columns(clicks=math.nan), "clicks is not a number in some row"),
    ],
)
def test_units_that_cannot_be_read_out(units: pl.DataFrame, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_out(experiment(), units)


def test_the_declared_columns_are_those_that_metrics_need() -> None:
    names = {column.name for column in EXPERIMENT_UNITS.columns}
    for metric in METRICS.values():
        assert {*metric.columns, *metric.covariates} <= names


def test_an_estimate_keeps_nothing_back() -> None:
    units = drawn()
    metric = ratio_of_means(METRICS["ctr"], units)
    sums = read_aggregates(units, "arm", **metric.aggr_cols._asdict())
    found = estimate(metric, sums["a"], sums["b"])
    assert found.within(1.959964) == pytest.approx(metric.analyze_aggregates(sums["a"], sums["b"])[3:5], rel=1e-6)


def test_a_metric_that_is_the_same_for_all_but_rounding_has_no_data() -> None:
    # Every order is worth 9.99: revenue per order varies by rounding only, of which no interval can be made.
    units = drawn().with_columns(
        orders=pl.col("clicks"), revenue_cents=pl.col("clicks") * 9.99, answers=1.0, latency_ms=0.1
    )
    found = row(read_out(experiment(metrics=("order_value", "latency")), units), "order_value")
    assert found["status"].startswith("no data: revenue_cents does not vary")


def test_no_event_at_all_bounds_shares_only() -> None:
    # Three in as many tries bounds a share of errors, not a mean of milliseconds or cents.
    units = drawn().with_columns(errors=0.0, answers=10.0, latency_ms=0.0, revenue_cents=0.0)
    margins = {"errors": 0.001, "latency": 20.0, "revenue_per_unit": 5.0}
    guarded = experiment(guardrails=tuple(Guardrail(metric=name, absolute=value) for name, value in margins.items()))
    verdicts = {name: row(read_out(guarded, units), name)["verdict"] for name in margins}
    assert verdicts == {"errors": "held", "latency": "open", "revenue_per_unit": "open"}


def test_a_column_of_nulls_was_not_measured() -> None:
    units = drawn().with_columns(answers=10.0, latency_ms=pl.lit(None, dtype=pl.Float64))
    guarded = experiment(guardrails=(Guardrail(metric="latency", absolute=20.0),))
    found = row(read_out(guarded, units), "latency")
    assert (found["status"], found["verdict"]) == ("no data: latency_ms was not recorded", None)

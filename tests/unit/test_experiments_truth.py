"""The statistics against known truth, in short; `make bench-experiments` is the long version."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from tea_tasting.aggr import read_aggregates

from benchmarks import experiments as truth
from recsys.experiments.analysis import ALPHA, estimate, ratio_of_means
from recsys.experiments.metrics import METRICS
from recsys.experiments.sequential import factor, tuned_rho

needs_hillstrom = pytest.mark.skipif(not truth.HILLSTROM.exists(), reason=f"{truth.HILLSTROM} is not there")
needs_households = pytest.mark.skipif(not truth.BASKETS.exists(), reason="the default data's tables are not built")
RUNS = 400


def outside(share: float, nominal: float, runs: int = RUNS) -> float:
    """By how many standard errors a share of runs is off."""
    return abs(share - nominal) / float(np.sqrt(nominal * (1 - nominal) / runs))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize("name", ["ctr", "clicks_per_unit"])
def test_the_vectorised_path_is_tea_tasting(name: str, adjusted: bool, rng: np.random.Generator) -> None:
    metric = METRICS[name]
    arms = [truth.clicks(rng, units, lift) for units, lift in ((700, 0.0), (500, 0.3))]
    frames = [pl.DataFrame({**columns, "arm": name}) for columns, name in zip(arms, "ab", strict=True)]
    units = pl.concat(frames) if adjusted else pl.concat(frames).drop("pre_clicks")
    tested = ratio_of_means(metric, units)
    assert (tested.numer_covariate is not None) == adjusted
    sums = read_aggregates(units, "arm", **tested.aggr_cols._asdict())
    theirs = estimate(tested, sums["a"], sums["b"])
    control, treatment = (truth.Moments.of_sums(truth.summed(columns, metric)) for columns in arms)
    ours = truth.compare(control, treatment, adjusted)
    assert float(ours.control) == pytest.approx(theirs.control, rel=1e-9)
    assert float(ours.value) == pytest.approx(theirs.value, rel=1e-9)
    assert float(ours.error) == pytest.approx(theirs.standard_error, rel=1e-9)
    assert theirs.log_standard_error is not None
    assert float(ours.log_error) == pytest.approx(theirs.log_standard_error, rel=1e-9)


@needs_hillstrom
def test_hillstroms_published_differences() -> None:
    lifts = truth.email_lifts(truth.hillstrom(adjust=False))
    for name, email in (("womens", "Womens E-Mail"), ("mens", "Mens E-Mail")):
        for metric, digits in (("ctr", 3), ("revenue_per_unit", 0)):
            found = lifts.row(by_predicate=(pl.col("arm") == name) & (pl.col("metric") == metric), named=True)
            assert round(found["control_value"], digits) == truth.PUBLISHED[metric, truth.NO_EMAIL]
            assert round(found["value"], digits) == truth.PUBLISHED[metric, email]
            assert found["low"] > 0


@needs_hillstrom
def test_hillstroms_intervals_are_a_bootstraps(rng: np.random.Generator) -> None:
    units = truth.hillstrom(adjust=False)
    lifts = truth.email_lifts(units)
    found = lifts.row(by_predicate=(pl.col("arm") == "mens") & (pl.col("metric") == "ctr"), named=True)
    samples = [units.filter(arm=arm)["clicks"].to_numpy() for arm in (truth.NO_EMAIL, "Mens E-Mail")]
    low, high = truth.bootstrap_interval(samples[0], samples[1], rng)
    width = found["high"] - found["low"]
    assert abs(found["low"] - low) < 0.1 * width and abs(found["high"] - high) < 0.1 * width


@needs_hillstrom
def test_a_pre_period_does_not_widen_hillstroms_intervals() -> None:
    plain, adjusted = (truth.email_lifts(truth.hillstrom(adjust)) for adjust in (False, True))
    assert adjusted["adjusted_by"].null_count() == 0
    assert ((adjusted["high"] - adjusted["low"]) < (plain["high"] - plain["low"])).all()


@needs_hillstrom
@pytest.mark.parametrize("name", ["ctr", "conversion", "revenue_per_unit"])
def test_no_difference_is_found_in_one_of_twenty_experiments_with_none(name: str, rng: np.random.Generator) -> None:
    parts = truth.products(truth.as_columns(truth.hillstrom()), METRICS[name])
    control, treatment = truth.resampled(parts, RUNS, 5_000, rng)
    for adjusted in (False, True):
        found = truth.compare(control, treatment, adjusted)
        assert outside(float(found.excludes_zero(truth.TWO_SIDED).mean()), ALPHA) < 4


@needs_households
def test_the_past_of_households_narrows(rng: np.random.Generator) -> None:
    parts = truth.products(truth.as_columns(truth.households()), METRICS["order_value"])
    control, treatment = truth.resampled(parts, RUNS, 2_000, rng)
    plain, adjusted = (truth.compare(control, treatment, way) for way in (False, True))
    for found in (plain, adjusted):
        assert outside(float(found.excludes_zero(truth.TWO_SIDED).mean()), ALPHA) < 4
    assert (adjusted.error < 0.8 * plain.error).all()


def test_an_injected_lift_is_recovered(rng: np.random.Generator) -> None:
    drawn = [[truth.clicks(rng, 2_000, lift) for _ in range(RUNS)] for lift in (0.0, truth.LIFT)]
    control, treatment = (
        truth.Moments.of_sums(np.stack([truth.summed(one, METRICS["ctr"]) for one in arm])) for arm in drawn
    )
    for adjusted in (False, True):
        found = truth.compare(control, treatment, adjusted)
        assert outside(float(found.covers(truth.LIFT).mean()), 1 - ALPHA) < 4


@pytest.mark.parametrize("arrival", ["new", "returning"])
def test_looking_every_day_is_safe_with_sequential_intervals_only(arrival: str, rng: np.random.Generator) -> None:
    ctr = METRICS["ctr"]
    parts = truth.products(truth.clicks(rng, 50_000, 0.0), ctr)
    draw = (lambda: truth.arriving(rng, parts, 50)) if arrival == "new" else (lambda: truth.returning(rng, ctr, 300))
    found, seen = truth.peeked(draw, RUNS, arrival)
    fixed = found.excludes_zero(truth.TWO_SIDED).any(axis=1).mean()
    widths = factor(seen, tuned_rho(float(seen[:, -1].mean()), ALPHA), ALPHA)
    assert found.excludes_zero(widths).any(axis=1).mean() < ALPHA < 0.15 < fixed

"""The statistics of experiments against known truth: a published experiment, experiments without a difference, and with one that is known.

`python -m benchmarks.experiments`. Hillstrom's e-mail experiment (`../shared/data/hillstrom`: 64,000 customers in three arms) and the
households of the default data are real units; clicks with a known lift are drawn. Thousands of repeated experiments need a vectorised
path, `compare`; a test holds it to tea-tasting's figures, which are what `recsys.experiments.analysis` reads out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy.stats import norm

from recsys.errors import UserError
from recsys.experiments.analysis import ALPHA, read_out
from recsys.experiments.metrics import METRICS, Metric
from recsys.experiments.plan import Arm, Experiment
from recsys.experiments.sequential import factor, tuned_rho
from recsys.reports import Cell, Table, interval, show, write_report

HILLSTROM: Final = Path("../shared/data/hillstrom/customers.parquet")
BASKETS: Final = Path("data/tables/baskets.parquet")
NO_EMAIL: Final = "No E-Mail"
PUBLISHED: Final = {
    ("ctr", NO_EMAIL): 0.106,
    ("ctr", "Womens E-Mail"): 0.151,
    ("ctr", "Mens E-Mail"): 0.183,
    ("revenue_per_unit", NO_EMAIL): 65.0,
    ("revenue_per_unit", "Womens E-Mail"): 108.0,
    ("revenue_per_unit", "Mens E-Mail"): 142.0,
}
"""Visits per customer, and spend in cents, as published."""
CALLED: Final = {"ctr": "visits", "conversion": "conversions", "revenue_per_unit": "spend, cents"}
PERIOD: Final = (datetime(2017, 9, 6), datetime(2017, 10, 4), datetime(2017, 11, 1))
"""Start of the households' pre-period, of their period, and its end."""
DAYS: Final = 28
LIFT: Final = 0.05
AA_SHARES: Final = 12
LIFT_SHARES: Final = 4
"""Shares that each table judges: the band of sampling error is for all of them together."""
TWO_SIDED: Final = float(norm.ppf(1 - ALPHA / 2))
Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of one arm in many experiments at once."""

    count: NDArray[np.float64]
    """`(...)` units."""
    mean: NDArray[np.float64]
    """`(..., 4)`: numerator, denominator, covariate's numerator, covariate's denominator."""
    covariance: NDArray[np.float64]
    """`(..., 4, 4)`, of the sample."""

    @classmethod
    def of_sums(cls, sums: NDArray[np.float64]) -> Moments:
        """From `(..., 1 + 4 + 16)` sums over units of `products`."""
        count, mean = sums[..., 0], sums[..., 1:5] / sums[..., :1]
        second = sums[..., 5:].reshape(*sums.shape[:-1], 4, 4) / count[..., None, None]
        central = second - mean[..., :, None] * mean[..., None, :]
        return cls(count, mean, central * (count / (count - 1))[..., None, None])

    def joined(self, other: Moments) -> Moments:
        """Of the units of both."""
        count = self.count + other.count
        part, rest = (self.count / count)[..., None], (other.count / count)[..., None]
        mean = part * self.mean + rest * other.mean
        apart = self.mean - other.mean
        squares = (self.count - 1)[..., None, None] * self.covariance
        squares = squares + (other.count - 1)[..., None, None] * other.covariance
        squares = squares + (part * rest * count[..., None])[..., None] * apart[..., :, None] * apart[..., None, :]
        return Moments(count, mean, squares / (count - 1)[..., None, None])

    def gradients(self) -> NDArray[np.float64]:
        """`(..., 2, 4)`: by how much the metric and its covariate, ratios of means, move with each mean (delta method)."""
        gradient = np.zeros((*self.mean.shape[:-1], 2, 4))
        for row, (top, bottom) in enumerate(((0, 1), (2, 3))):
            gradient[..., row, top] = 1 / self.mean[..., bottom]
            gradient[..., row, bottom] = -self.mean[..., top] / self.mean[..., bottom] ** 2
        return gradient

    def ratios(self) -> NDArray[np.float64]:
        """`(..., 2)`: metric and covariate."""
        return self.mean[..., 0::2] / self.mean[..., 1::2]

    def ratio_covariance(self) -> NDArray[np.float64]:
        """`(..., 2, 2)`: covariance between units of the linearised metric and covariate."""
        gradient = self.gradients()
        return np.asarray(gradient @ self.covariance @ np.swapaxes(gradient, -1, -2))


@dataclass(frozen=True)
class Differences:
    """Treatment less control in many experiments, each `(...)`."""

    control: NDArray[np.float64]
    value: NDArray[np.float64]
    error: NDArray[np.float64]
    """Standard error of the difference."""
    log_error: NDArray[np.float64]
    """Standard error of the logarithm of the ratio; NaN where a value is not positive."""

    def excludes_zero(self, errors: float | NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether an interval so many standard errors wide to each side leaves no difference out."""
        return np.asarray(np.abs(self.value - self.control) > errors * self.error)

    def covers(self, relative: float) -> NDArray[np.bool_]:
        """Whether the relative interval holds this difference."""
        off = np.log(self.value / self.control) - np.log1p(relative)
        return np.asarray(np.abs(off) <= TWO_SIDED * self.log_error)


def four(columns: Columns, metric: Metric) -> NDArray[np.float64]:
    """`(n, 4)`: the metric's columns of each unit, as in `Moments.mean`; what is missing is 1."""
    names = (metric.numerator, metric.denominator, metric.covariate, metric.covariate_denominator)
    ones = np.ones(len(columns[metric.numerator]))
    return np.stack([ones if name is None else columns.get(name, ones) for name in names], axis=1)


def products(columns: Columns, metric: Metric) -> NDArray[np.float64]:
    """`(n, 21)`: for each unit 1, its four columns, and the products of any two of them."""
    of = four(columns, metric)
    return np.concatenate([np.ones((len(of), 1)), of, (of[:, :, None] * of[:, None, :]).reshape(len(of), 16)], axis=1)


def summed(columns: Columns, metric: Metric) -> NDArray[np.float64]:
    """`(21,)`: the sum of `products` over units."""
    of = four(columns, metric)
    return np.concatenate([[len(of)], of.sum(axis=0), (of.T @ of).ravel()])


def compare(control: Moments, treatment: Moments, adjusted: bool) -> Differences:
    """Delta method, and CUPED where `adjusted`; the same figures as `recsys.experiments.analysis.estimate`."""
    both = control.joined(treatment)
    spread = both.ratio_covariance()
    slope = spread[..., 0, 1] / spread[..., 1, 1] if adjusted else np.zeros(spread.shape[:-2])
    centre = both.ratios()[..., 1]
    values, variances = [], []
    for arm in (control, treatment):
        ratios, own = arm.ratios(), arm.ratio_covariance()
        values.append(ratios[..., 0] - slope * (ratios[..., 1] - centre))
        variance = own[..., 0, 0] + slope**2 * own[..., 1, 1] - 2 * slope * own[..., 0, 1]
        variances.append(variance / arm.count)
    error = np.sqrt(variances[0] + variances[1])
    relative = [
        variance / np.where(value > 0, value, np.nan) ** 2 for variance, value in zip(variances, values, strict=True)
    ]
    log_error = np.sqrt(relative[0] + relative[1])
    return Differences(values[0], values[1], error, log_error)


def hillstrom(adjust: bool = True) -> pl.DataFrame:
    """The e-mail experiment as `recsys.tables.EXPERIMENT_UNITS`: a visit is a click on the one exposure.

    `pre_` columns are what all covariates of before the e-mail say of each outcome, by least squares over all arms together: any
    function of the pre-period will do as a covariate. With `adjust` false there are none.

    Raises:
        UserError: the data is not there.
    """
    if not HILLSTROM.exists():
        raise UserError(f"{HILLSTROM} is missing: this benchmark needs the Hillstrom data")
    customers = pl.read_parquet(HILLSTROM)
    one = pl.lit(1.0)
    units = customers.select(
        pl.int_range(pl.len()).cast(pl.String).alias("unit"),
        arm="segment",
        exposures=one,
        clicks=pl.col("visit").cast(pl.Float64),
        orders=pl.col("conversion").cast(pl.Float64),
        revenue_cents=pl.col("spend") * 100,
    )
    if not adjust:
        return units
    known = customers.select(
        one, "recency", "history", pl.col("history").log().alias("log_history"), "mens", "womens", "newbie"
    )
    places = customers.select("zip_code", "channel").to_dummies(drop_first=True)
    design = pl.concat([known, places], how="horizontal").to_numpy().astype(np.float64)
    outcomes = ("clicks", "orders", "revenue_cents")
    weights, *_ = np.linalg.lstsq(design, units.select(outcomes).to_numpy(), rcond=None)
    # Least squares may say a little less than nothing; a covariate may be shifted at will.
    index = design @ weights + 1.0
    return units.with_columns(
        pl.lit(1.0).alias("pre_exposures"),
        *(pl.Series(f"pre_{name}", index[:, column]) for column, name in enumerate(outcomes)),
    )


def households() -> pl.DataFrame:
    """Households of the default data with their orders and revenue of four weeks, and of the four weeks before.

    Raises:
        UserError: the tables are not built.
    """
    if not BASKETS.exists():
        raise UserError(f"{BASKETS} is missing: run `make ingest tables` first")
    before, start, end = PERIOD
    bought = pl.col("purchased_at")
    lines = pl.scan_parquet(BASKETS).filter((bought >= before) & (bought < end) & pl.col("user_id").is_not_null())
    sums = []
    for prefix, inside in (("", bought >= start), ("pre_", bought < start)):
        sums += [
            pl.col("order_id").filter(inside).n_unique().cast(pl.Float64).alias(f"{prefix}orders"),
            pl.col("revenue_cents").filter(inside).sum().cast(pl.Float64).alias(f"{prefix}revenue_cents"),
        ]
    return lines.group_by(pl.col("user_id").alias("unit")).agg(sums).sort("unit").collect()


def as_columns(units: pl.DataFrame) -> Columns:
    """The numbers of a frame of units."""
    return {name: units[name].to_numpy().astype(np.float64) for name in units.columns if units[name].dtype.is_numeric()}


def resampled(parts: NDArray[np.float64], runs: int, per_arm: int, rng: np.random.Generator) -> tuple[Moments, Moments]:
    """Two arms of `per_arm` units each, drawn alike from the rows of `products`, for every run."""
    sums = np.empty((2, runs, parts.shape[1]))
    for run in range(runs):
        for arm in range(2):
            drawn = np.bincount(rng.integers(0, len(parts), per_arm), minlength=len(parts))
            sums[arm, run] = drawn @ parts
    return Moments.of_sums(sums[0]), Moments.of_sums(sums[1])


def clicks(rng: np.random.Generator, units: int, lift: float) -> Columns:
    """Units with a period and a pre-period: the active see more and click more of it, and every click is likelier by `lift` in the period."""
    activity = rng.gamma(2.0, 0.5, units)
    chance = np.minimum(rng.beta(2.0, 48.0, units) * (0.5 + 0.5 * activity), 0.9)
    found: dict[str, NDArray[np.float64]] = {}
    for prefix, ratio in (("pre_", 1.0), ("", 1.0 + lift)):
        seen = 1 + rng.poisson(8 * activity)
        found[f"{prefix}exposures"] = seen.astype(np.float64)
        found[f"{prefix}clicks"] = rng.binomial(seen, chance * ratio).astype(np.float64)
    return found


def arriving(rng: np.random.Generator, parts: NDArray[np.float64], per_day: int) -> NDArray[np.float64]:
    """`(days, 21)` sums so far of one arm to which new units come every day, drawn from the rows of `products`."""
    drawn = parts[rng.integers(0, len(parts), DAYS * per_day)]
    return np.cumsum(drawn.reshape(DAYS, per_day, -1).sum(axis=1), axis=0)


def returning(rng: np.random.Generator, metric: Metric, units: int) -> NDArray[np.float64]:
    """`(days, 21)` sums so far of one arm whose units come back: a unit counts from its first visit on, with all that it did so far."""
    comes = rng.beta(1.0, 6.0, units)
    chance = np.minimum(rng.beta(2.0, 48.0, units), 0.9)
    visits = rng.random((DAYS, units)) < comes
    seen = np.where(visits, 1 + rng.poisson(4.0, (DAYS, units)), 0)
    clicked = rng.binomial(seen, chance)
    sums = np.empty((DAYS, 21))
    for day, (shown, hits) in enumerate(zip(np.cumsum(seen, axis=0), np.cumsum(clicked, axis=0), strict=True)):
        here = shown > 0
        columns = {"exposures": shown[here].astype(np.float64), "clicks": hits[here].astype(np.float64)}
        sums[day] = summed(columns, metric)
    return sums


def peeked(draw: Callable[[], NDArray[np.float64]], runs: int, label: str) -> tuple[Differences, NDArray[np.float64]]:
    """Experiments without a difference, `(runs, days)`, and the units that both arms have by each day."""
    arms = [np.stack([draw() for _ in track(range(runs), f"{label}, {arm}")]) for arm in ("control", "treatment")]
    control, treatment = (Moments.of_sums(sums) for sums in arms)
    return compare(control, treatment, adjusted=False), control.count + treatment.count


def share_within(share: float, nominal: float, runs: int, shares: int) -> tuple[str, bool]:
    """A share of runs in words, and whether it is in the band that holds all of so many shares with a chance of 95%."""
    errors = float(norm.ppf(1 - ALPHA / shares / 2))
    band = errors * float(np.sqrt(nominal * (1 - nominal) / runs))
    return f"{share:.4f} (nominal {nominal:.2f} ± {band:.4f})", abs(share - nominal) <= band


def email_experiment() -> Experiment:
    """Hillstrom's, as a plan would say it."""
    arms = (
        Arm(name="no", share=21_306 / 64_000),
        Arm(name="womens", share=21_387 / 64_000),
        Arm(name="mens", share=21_307 / 64_000),
    )
    return Experiment(
        name="hillstrom",
        layer="email",
        arms=arms,
        control="no",
        start=datetime(2008, 3, 20, tzinfo=UTC),
        primary="ctr",
        metrics=("conversion", "revenue_per_unit"),
        expected_units=64_000,
    )


def email_lifts(units: pl.DataFrame) -> pl.DataFrame:
    """The readout of Hillstrom's experiment."""
    names = {NO_EMAIL: "no", "Womens E-Mail": "womens", "Mens E-Mail": "mens"}
    return read_out(email_experiment(), units.with_columns(pl.col("arm").replace_strict(names))).lifts


def bootstrap_interval(
    control: NDArray[np.float64], treatment: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float]:
    """The difference of means by 2,000 resamples, percentiles: it knows nothing of normal distributions."""
    means = [
        np.array([one[rng.integers(0, len(one), len(one))].mean() for _ in range(2_000)])
        for one in (control, treatment)
    ]
    low, high = np.percentile(means[1] - means[0], [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)


def email_table(rng: np.random.Generator) -> Table:
    """Hillstrom's differences, by tea-tasting without and with CUPED, beside the published and a bootstrap."""
    units = hillstrom()
    plain = email_lifts(hillstrom(adjust=False))
    adjusted = email_lifts(units)
    rows: list[list[Cell]] = []
    for without, with_ in zip(plain.to_dicts(), adjusted.to_dicts(), strict=True):
        email = {"womens": "Womens E-Mail", "mens": "Mens E-Mail"}[without["arm"]]
        metric = METRICS[without["metric"]]
        digits = 1 if metric.name == "revenue_per_unit" else 4
        published = [PUBLISHED.get((metric.name, arm)) for arm in (NO_EMAIL, email)]
        samples = [units.filter(pl.col("arm") == arm)[metric.numerator].to_numpy() for arm in (NO_EMAIL, email)]
        low, high = bootstrap_interval(samples[0], samples[1], rng)
        rows.append(
            [
                email,
                CALLED[metric.name],
                f"{without['control_value']:.{digits}f} → {without['value']:.{digits}f}",
                "–" if None in published else f"{published[0]:g} → {published[1]:g}",
                interval(without["difference"], without["low"], without["high"], digits),
                f"[{low:.{digits}f}, {high:.{digits}f}]",
                interval(with_["difference"], with_["low"], with_["high"], digits),
                f"{(with_['high'] - with_['low']) / (without['high'] - without['low']):.4f}",
                f"[{without['sequential_low']:.{digits}f}, {without['sequential_high']:.{digits}f}]",
                f"{with_['p_adjusted']:.2g}",
            ]
        )
    return Table(
        "Hillstrom's e-mail experiment: a real one, 64,000 customers, against no e-mail",
        [
            "e-mail",
            "per customer",
            "control → arm",
            "published",
            "difference [95% interval]",
            "bootstrap",
            "with CUPED",
            "width, ratio",
            "sequential",
            "p, Holm",
        ],
        rows,
        note="CUPED by what all covariates of before the e-mail say of the outcome. The ratio is that of the interval's width with CUPED to that without.",
    )


def aa_rows(
    name: str, columns: Columns, metrics: Sequence[str], runs: int, per_arm: int, rng: np.random.Generator
) -> Iterator[list[Cell]]:
    """Experiments without a difference on resampled units: how often a 95% interval excludes 0, without and with CUPED."""
    for metric in track(metrics, f"A/A, {name}"):
        control, treatment = resampled(products(columns, METRICS[metric]), runs, per_arm, rng)
        found = [compare(control, treatment, adjusted) for adjusted in (False, True)]
        cells: list[Cell] = []
        for one in found:
            words, within = share_within(float(one.excludes_zero(TWO_SIDED).mean()), ALPHA, runs, AA_SHARES)
            cells += [words, within]
        width = float((found[1].error / found[0].error).mean())
        yield [name, metric, f"{per_arm:,}", *cells, f"{width:.4f}"]


def lift_rows(runs: int, per_arm: int, rng: np.random.Generator) -> list[list[Cell]]:
    """A lift of 5% on drawn clicks: how often the relative interval holds it."""
    names = ("ctr", "clicks_per_unit")
    sums = {name: np.empty((2, runs, 21)) for name in names}
    for run in track(range(runs), "injected lift"):
        for arm, lift in enumerate((0.0, LIFT)):
            drawn = clicks(rng, per_arm, lift)
            for name in names:
                sums[name][arm, run] = summed(drawn, METRICS[name])
    rows: list[list[Cell]] = []
    for name in names:
        control, treatment = Moments.of_sums(sums[name][0]), Moments.of_sums(sums[name][1])
        for adjusted in (False, True):
            found = compare(control, treatment, adjusted)
            words, within = share_within(float(found.covers(LIFT).mean()), 1 - ALPHA, runs, LIFT_SHARES)
            lifts = found.value / found.control - 1
            detected = float(found.excludes_zero(TWO_SIDED).mean())
            rows.append(
                [
                    name,
                    "yes" if adjusted else "no",
                    f"{lifts.mean():.4f}",
                    f"{lifts.std():.4f}",
                    words,
                    within,
                    f"{detected:.3f}",
                ]
            )
    return rows


def peeking_rows(runs: int, rng: np.random.Generator) -> list[list[Cell]]:
    """Looking every day for 28 days at experiments without a difference: how often an interval excluded 0 on any day."""
    emails, drawn = as_columns(hillstrom()), clicks(rng, 200_000, 0.0)
    ctr, per_day, units = METRICS["ctr"], 200, 2_000
    visits, spend, clicked = (
        products(columns, metric)
        for columns, metric in ((emails, ctr), (emails, METRICS["revenue_per_unit"]), (drawn, ctr))
    )
    cases: list[tuple[str, str, Callable[[], NDArray[np.float64]]]] = [
        ("Hillstrom: visits", "new every day", lambda: arriving(rng, visits, per_day)),
        ("Hillstrom: spend", "new every day", lambda: arriving(rng, spend, per_day)),
        ("drawn clicks: ctr", "new every day", lambda: arriving(rng, clicked, per_day)),
        ("drawn clicks: ctr", "come back", lambda: returning(rng, ctr, units)),
    ]
    rows: list[list[Cell]] = []
    for metric, arrival, draw in cases:
        found, seen = peeked(draw, runs, f"{metric}, {arrival}")
        rho = tuned_rho(float(seen[:, -1].mean()), ALPHA)
        widths = factor(seen, rho, ALPHA)
        ever = [float(found.excludes_zero(errors).any(axis=1).mean()) for errors in (TWO_SIDED, widths)]
        last = float(found.excludes_zero(TWO_SIDED)[:, -1].mean())
        rows.append(
            [
                metric,
                arrival,
                f"{seen[:, -1].mean():,.0f}",
                f"{last:.3f}",
                f"{ever[0]:.3f}",
                f"{ever[1]:.3f}",
                ever[1] < ALPHA,
                f"{float((widths[:, -1] / TWO_SIDED).mean()):.2f}",
            ]
        )
    return rows


def measure(aa_runs: int, lift_runs: int, peeking_runs: int, seed: int) -> list[Table]:
    """Every table of the report."""
    rng = np.random.default_rng(seed)
    aa = [
        *aa_rows("Hillstrom", as_columns(hillstrom()), list(CALLED), aa_runs, 10_000, rng),
        *aa_rows(
            "households",
            as_columns(households()),
            ["orders_per_unit", "revenue_per_unit", "order_value"],
            aa_runs,
            2_000,
            rng,
        ),
    ]
    return [
        email_table(rng),
        Table(
            f"No difference: {aa_runs:,} experiments on resampled units, share of 95% intervals that exclude 0",
            ["units", "metric", "per arm", "plain", "as it should", "with CUPED", "as it should ", "width, ratio"],
            aa,
            note="Units are drawn with replacement, so both arms are the same population. Households: orders of the default data in October 2017, "
            "the four weeks before as pre-period. In brackets: where all of the table's shares fall with a chance of 95%.",
        ),
        Table(
            f"A lift of {LIFT:.0%}: {lift_runs:,} experiments on drawn clicks, 20,000 units per arm, share of 95% intervals that hold it",
            ["metric", "CUPED", "mean estimate", "its spread", "share that hold it", "as it should", "power"],
            lift_rows(lift_runs, 20_000, rng),
        ),
        Table(
            f"Looking every day for {DAYS} days, {peeking_runs:,} experiments without a difference: share that ever excluded 0",
            [
                "metric",
                "units",
                "units by the end",
                "fixed, last day only",
                "fixed, any day",
                "sequential, any day",
                "below 0.05",
                "width at the end, ratio",
            ],
            peeking_rows(peeking_runs, rng),
        ),
    ]


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aa-runs", type=int, default=2_000)
    parser.add_argument("--lift-runs", type=int, default=4_000)
    parser.add_argument("--peeking-runs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    console = Console()
    started = time.perf_counter()
    tables = measure(given.aa_runs, given.lift_runs, given.peeking_runs, given.seed)
    for table in tables:
        show(table, console)
    console.print(f"{time.perf_counter() - started:.0f} s")
    console.print(f"written: {write_report('experiments', 'make bench-experiments', tables)}")


if __name__ == "__main__":
    main()

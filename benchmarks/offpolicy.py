"""Off-policy estimates beside the truth: the Open Bandit logs of two policies, and Coat's ratings with and without selection.

`python -m benchmarks.offpolicy`. Read: `../shared/data/open_bandit_small` (three campaigns of a real fashion shop; a log of 10,000 impressions of a random
policy and one of Bernoulli Thompson sampling, each with true propensities) and `../shared/data/coat` (ratings that shoppers chose to give, and ratings of
coats drawn at random). Nothing of either is learnt from but what is printed.

The policy of Thompson sampling cannot be read from its log: it learnt all week, and a row has the propensity of the item shown only. (The mean of
those propensities is no stand-in: it weights chances by themselves, and sums to more than 1.) So there are two targets. *Prior*: obp's replay from the priors
of production with which the week began. *Frequency*: how often each item stood at each position, the mean policy of that week, which counts items and looks at no click.

Slots of one page share nothing in the log that tells so; each row is its own unit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.strict_cold import BENCH_PYTHON
from recsys.errors import UserError
from recsys.experiments.offpolicy import (
    ESTIMATORS,
    Estimate,
    Evaluation,
    Log,
    Target,
    cross_fit,
    estimate,
    evaluate,
    ips,
    snips,
)
from recsys.reports import Cell, Table, interval, show, write_report

SHARED: Final = Path("../shared/data")
WITNESS: Final = Path("benchmarks/obp.py")
CAMPAIGNS: Final = ("all", "men", "women")
DRAWS: Final = {"random": "random", "bts": "Bernoulli TS"}
Floats = NDArray[np.float64]


def read_log(campaign: str, policy: str) -> Log:
    """One of the six Open Bandit logs, oldest first."""
    frame = pl.read_parquet(
        SHARED / "open_bandit_small" / campaign / f"{policy}.parquet",
        columns=["timestamp", "item_id", "position", "click", "propensity_score"],
    ).sort("timestamp")
    columns = {name: frame[name].to_numpy() for name in frame.columns if name != "timestamp"}
    return Log(
        columns["item_id"],
        columns["position"] - 1,
        columns["click"],
        columns["propensity_score"],
        np.arange(len(frame)),
    )


def frequencies(log: Log, n_items: int) -> Floats:
    """`(n_positions, n_items)`: the share of a position's rows that each item has."""
    counts = np.zeros((int(log.position.max()) + 1, n_items))
    np.add.at(counts, (log.position, log.item), 1.0)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def witness(*arguments: str | Path) -> None:
    """Run obp's side.

    Raises:
        UserError: its interpreter is missing.
    """
    if not BENCH_PYTHON.exists():
        raise UserError(f"{BENCH_PYTHON} with obp is missing: `make .venv-bench/installed-obp` makes it")
    subprocess.run([BENCH_PYTHON, "-P", "-W", "ignore", WITNESS, *arguments], check=True)


@dataclass(frozen=True)
class Case:
    """One question: what would `policy` have earned, by the log of the other?"""

    campaign: str
    policy: str
    how: str
    log: Log
    table: Floats
    """`(n_positions, n_items)`: the target."""
    truth: Log
    """The log of the target policy itself."""

    @property
    def name(self) -> list[Cell]:
        """The first cells of its rows."""
        return [self.campaign, DRAWS[self.policy], self.how]


def cases(folder: Path) -> Iterator[Case]:
    """Both directions in all campaigns."""
    n_items = {
        campaign: len(pl.read_parquet(SHARED / "open_bandit_small" / campaign / "items.parquet"))
        for campaign in CAMPAIGNS
    }
    witness("policy", folder / "policy.npz", *(f"{name}={n}" for name, n in n_items.items()))
    with np.load(folder / "policy.npz", allow_pickle=False) as replayed:
        for campaign, n in n_items.items():
            logs = {policy: read_log(campaign, policy) for policy in DRAWS}
            uniform = np.full((3, n), 1.0 / n)
            yield Case(campaign, "bts", "prior", logs["random"], replayed[campaign], logs["bts"])
            yield Case(campaign, "bts", "frequency", logs["random"], frequencies(logs["bts"], n), logs["bts"])
            yield Case(campaign, "random", "known", logs["bts"], uniform, logs["random"])


def obp_estimates(case: Case, folder: Path) -> Mapping[str, tuple[float, float, float]]:
    """What obp says, given the very same reward models: `(value, low, high)` by estimator."""
    source, target, log = folder / "in.npz", folder / "out.json", case.log
    models = cross_fit(log, n_items=case.table.shape[1])
    np.savez(
        source,
        item=log.item,
        position=log.position,
        reward=log.reward,
        propensity=log.propensity,
        table=case.table,
        tables=models.tables,
        fold=models.fold,
    )
    witness("estimate", source, target)
    return {name: tuple(figures) for name, figures in json.loads(target.read_text()).items()}


def percent(found: Estimate) -> str:
    """A click-through rate in percent with its interval."""
    return interval(*(100 * bound for bound in (found.value, found.low, found.high)), digits=3)


def on_policy(log: Log) -> Estimate:
    """The mean reward of a log."""
    target = Target(log.propensity)
    return estimate("on-policy", ips(log, target), log, target)


def open_bandit(folder: Path, console: Console) -> list[Table]:
    """Estimates beside the truth, per position, the overlap, and the same by obp."""
    rows: list[list[Cell]] = []
    overlaps: list[list[Cell]] = []
    positions: list[list[Cell]] = []
    same: list[list[Cell]] = []
    inside, agrees = dict.fromkeys(ESTIMATORS, 0), dict.fromkeys(ESTIMATORS, 0)
    for case in cases(folder):
        console.print(f"{case.campaign}: {DRAWS[case.policy]} ({case.how})")
        target = Target.from_table(case.log, case.table)
        found, truth = evaluate(case.log, target), on_policy(case.truth)
        for name, one in found.estimates.items():
            inside[name] += one.low <= truth.value <= one.high
            agrees[name] += abs(one.value - truth.value) <= np.hypot(one.high - one.value, truth.high - truth.value)
        rows.append([*case.name, percent(truth), *(percent(found.estimates[name]) for name in ESTIMATORS)])
        overlaps.append([*case.name, *_overlap_cells(found)])
        for position, one in found.by_position.items():
            truth_there = on_policy(case.truth.take(case.truth.position == position))
            positions.append([*case.name, position + 1, percent(truth_there), percent(one), round(one.ess)])
        for name, (value, low, high) in obp_estimates(case, folder).items():
            ours = found.estimates[name]
            theirs = interval(100 * value, 100 * low, 100 * high, digits=3)
            same.append([*case.name, name, percent(ours), theirs, f"{abs(ours.value - value):.1e}"])
    head = ["campaign", "target", "target policy from"]
    covered, agreed = (
        ", ".join(f"{name} {count} of {len(rows)}" for name, count in counts.items()) for counts in (inside, agrees)
    )
    return [
        Table(
            "Open Bandit (small): CTR of one policy from the log of the other, in %, 95% intervals",
            [*head, "on-policy truth", *ESTIMATORS],
            rows,
            "10,000 rows a log, 38 to 69 clicks: the truth is itself an estimate. Its value lies in the interval of the estimate: "
            f"{covered}; the interval of their difference holds 0: {agreed}. Prior: obp's replay of the priors with which the week began; frequency: the mean policy of the week's log.",
        ),
        Table(
            "Overlap, and what to make of it",
            [
                *head,
                "mean weight",
                "target mass never in the log",
                "largest weight",
                "weight of the top 1%",
                "ess",
                "effective rows with a click",
                "verdict",
                "why",
            ],
            overlaps,
        ),
        Table(
            "By position, self-normalised, CTR in %", [*head, "position", "on-policy truth", "snips", "ess"], positions
        ),
        Table(
            "The same by obp 0.5.7, CTR in %",
            [*head, "estimator", "ours (delta method)", "obp (bootstrap)", "difference of values"],
            same,
            "Values are compared as shares of 1. obp bootstraps the rewards weighted by weights over their mean, so its interval of snips leaves out "
            "that the mean of weights varies too.",
        ),
    ]


def _overlap_cells(found: Evaluation) -> list[Cell]:
    o = found.overlap
    return [
        interval(o.mean_weight, o.mean_weight_low, o.mean_weight_high, digits=3),
        f"{o.unseen or 0:.1%}",
        round(o.largest_weight, 1),
        f"{o.top_share:.0%}",
        round(o.ess),
        round(o.rewards, 1),
        str(o.trust),
        "; ".join(o.reasons),
    ]


FOLDS: Final = 5
FACTORS: Final = 8
REGULARIZATION: Final = 8.0
ROUNDS: Final = 15


@dataclass(frozen=True)
class Ratings:
    """Ratings of one kind, parallel arrays."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    rating: Floats

    def take(self, rows: NDArray[np.bool_]) -> Ratings:
        """Those rows only."""
        return Ratings(self.user[rows], self.item[rows], self.rating[rows])


def read_ratings(name: str) -> Ratings:
    """`self_selected` or `random`."""
    frame = pl.read_parquet(SHARED / "coat" / f"{name}.parquet")
    return Ratings(
        *(frame[column].to_numpy().astype(np.int64) for column in ("user", "item")),
        frame["rating"].cast(pl.Float64).to_numpy(),
    )


def popular(train: Ratings, shape: tuple[int, int]) -> Floats:
    """`(n_users, n_items)`: the item's mean, shrunk to the mean of all by five ratings."""
    mean = train.rating.mean()
    sums = np.bincount(train.item, weights=train.rating - mean, minlength=shape[1])
    return np.broadcast_to(mean + sums / (np.bincount(train.item, minlength=shape[1]) + 5.0), shape)


def factorised(train: Ratings, shape: tuple[int, int]) -> Floats:
    """`(n_users, n_items)`: item means and a matrix factorisation of what they leave (alternating ridge regressions)."""
    base = popular(train, shape)
    rest = np.zeros(shape)
    seen = np.zeros(shape)
    rest[train.user, train.item] = train.rating - base[train.user, train.item]
    seen[train.user, train.item] = 1.0
    items = np.random.default_rng(0).normal(scale=0.1, size=(shape[1], FACTORS))
    for _ in range(ROUNDS):
        users = _ridge(rest, seen, items)
        items = _ridge(rest.T, seen.T, users)
    return np.asarray(base + users @ items.T)


def _ridge(rest: Floats, seen: Floats, vectors: Floats) -> Floats:
    penalty = REGULARIZATION * np.eye(vectors.shape[1])
    gram = np.einsum("rc,cf,cg->rfg", seen, vectors, vectors, optimize=True) + penalty
    return np.asarray(np.linalg.solve(gram, (rest @ vectors)[:, :, None])[:, :, 0])


PREDICTORS: Final = {"item mean": popular, "matrix factorisation": factorised}


def coat() -> Table:
    """Errors on ratings that were not learnt from: among the chosen, chosen but weighted, and at random.

    Each of five models learns from four fifths of the chosen ratings; it is judged on the fifth that it has not seen, and on all random ratings.
    """
    chosen, drawn = read_ratings("self_selected"), read_ratings("random")
    propensity = pl.read_parquet(SHARED / "coat" / "propensities.parquet")
    shape = (int(propensity["user"].max()) + 1, int(propensity["item"].max()) + 1)  # type: ignore[arg-type]
    chance = np.zeros(shape)
    chance[propensity["user"].to_numpy(), propensity["item"].to_numpy()] = propensity["propensity"].to_numpy()
    fold = np.random.default_rng(0).permutation(np.arange(len(chosen.rating)) % FOLDS)
    figures = {"mean rating": (chosen.rating, drawn.rating)}
    for name, fit in PREDICTORS.items():
        models = [fit(chosen.take(fold != number), shape) for number in range(FOLDS)]
        stacked = np.stack(models)
        held_out = chosen.rating - stacked[fold, chosen.user, chosen.item]
        at_random = drawn.rating - stacked[:, drawn.user, drawn.item]
        figures[f"{name}: squared error"] = held_out**2, (at_random**2).mean(axis=0)
        figures[f"{name}: absolute error"] = np.abs(held_out), np.abs(at_random).mean(axis=0)
    rows = [
        _coat_row(name, of_chosen, of_drawn, chosen, drawn, chance) for name, (of_chosen, of_drawn) in figures.items()
    ]
    return Table(
        "Coat: what the ratings that shoppers chose to give say of all coats",
        ["figure", "truth (random ratings)", "naive", "ips", "snips", "nearest to the truth"],
        rows,
        f"{len(chosen.rating):,} chosen and {len(drawn.rating):,} random ratings of {shape[0]} shoppers, who are the units; 95% intervals. "
        "Errors are of ratings that the model has not seen; it always learns from chosen ones.",
    )


def _coat_row(
    name: str, of_chosen: Floats, of_drawn: Floats, chosen: Ratings, drawn: Ratings, chance: Floats
) -> list[Cell]:
    # A chosen rating is a draw of one pair out of all, in proportion to its chance; the target draws every pair alike.
    log = Log(
        chosen.item, np.zeros(len(of_chosen)), of_chosen, (chance / chance.sum())[chosen.user, chosen.item], chosen.user
    )
    uniform = Target(np.full(len(log), 1.0 / chance.size))
    random = Log(drawn.item, np.zeros(len(of_drawn)), of_drawn, np.full(len(of_drawn), 1.0 / chance.size), drawn.user)
    truth, naive = on_policy(random), on_policy(log)
    found = {
        "naive": naive,
        "ips": estimate("ips", ips(log, uniform), log, uniform),
        "snips": estimate("snips", snips(log, uniform), log, uniform),
    }
    nearest = min(found, key=lambda key: abs(found[key].value - truth.value))
    cells = [interval(one.value, one.low, one.high, digits=3) for one in (truth, *found.values())]
    return [name, *cells, nearest]


def main() -> None:
    """Measure, print, write the report."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    console = Console()
    for name in ("open_bandit_small", "coat"):
        if not (SHARED / name).is_dir():
            raise UserError(f"{SHARED / name} is missing: this benchmark needs it")
    with tempfile.TemporaryDirectory() as folder:
        tables = [*open_bandit(Path(folder), console), coat()]
    for table in tables:
        show(table, console)
    console.print(f"written: {write_report('offpolicy', 'make bench-offpolicy', tables)}")


if __name__ == "__main__":
    main()

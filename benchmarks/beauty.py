"""Strict cold items, and what they cost warm ones, on Amazon Beauty (5-core, the split of S3-Rec).

`python -m benchmarks.beauty`. Read: the items that each shopper bought, in order, and the items' words and attributes, from
`../shared/data/amazon_beauty` (a research copy, of which nothing is part of the project). The validation truth is a shopper's last
item but one, the past what came before; with --test it is the last item, and the past holds the validation item.

A tenth of the items loses its past. Two tables: the held-out items ranked among themselves (`benchmarks.strict_cold`); and one ranking
of everything that the shopper has not bought, cold or warm, by phase 2's blend, with more and more weight on kin.

The data has no times, so events get some: a shopper's j-th last event that may be learnt from lies in the j-th month before the cut, so
that each snapshot of the content model sees one next event of every shopper.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import orjson
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.strict_cold import (
    COLD_SHARE,
    RECALL,
    ColdTask,
    LightFMSettings,
    Scorer,
    cold_table,
    figure,
    lightfm,
    make_task,
    need_lightfm,
    neighbours,
    ours,
    popularity,
    random_items,
    recall,
    text_matrix,
)
from recsys import phase1, phase2
from recsys.dataset import SECONDS_PER_DAY, Catalogue, Dataset, Events, Histories
from recsys.errors import UserError
from recsys.evaluation.evaluate import DEPTH
from recsys.evaluation.metrics import PRIMARY, Metric, relevant_ranks
from recsys.evaluation.split import Window
from recsys.models.fit.content import ContentRecommender
from recsys.models.fit.features import fit_features
from recsys.models.fit.popularity import PopularityRecommender
from recsys.phase1 import Workshop
from recsys.phase2 import Phase2Config
from recsys.ranking import PURCHASE, History, Mask, Model, Query
from recsys.reports import Cell, Table, show, write_report

DATA: Final = Path("../shared/data/amazon_beauty")
PLOT: Final = Path("docs/img/cold_tradeoff.png")
CUT: Final = 1_400_000_000
"""Any moment, Unix second: the truth happens then, what was before lies in the months before."""
MONTH: Final = 30 * SECONDS_PER_DAY
TARGET_RECALL: Final = 0.25
TARGET_WHOLE: Final = 0.10
"""Of cold items in one ranking with the warm ones,"""
REFERENCE: Final = "phase 1"
MAX_LOSS: Final = 0.02
"""while these lose less than such a share of the primary metric."""
PUBLISHED: Final = (Metric("hit", 10), Metric("ndcg", 10))
WARM_CASES: Final = 2_000
"""A fixed random sample of the cases whose truth is warm."""
HALF_LIFE_DAYS: Final = 30.0
"""Of a history's events, for the neighbours: one event. Best of 30, 90, 300, 1,000 and 3,000 days on validation for all features."""
LIGHTFM: Final = LightFMSettings(components=32, epochs=30, learning_rate=0.05)
"""Chosen on one draw of the validation item, one run each: 32 components, learning rate .05, 10 epochs .171, 30 epochs .194."""
KIN_WEIGHTS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.2)
NETWORK: Final = ContentRecommender(epochs=1, dimensions=64)
"""Words are many and tell little alone, so the towers help here; more epochs learnt them by heart."""
COLLABORATIVE: Final = Phase2Config(
    ridge_regularization=50.0,
    ridge_half_life_days=60.0,
    ridge_weight=1.0,
    popularity_half_life_days=20.0,
    popularity_weight=0.05,
    content_weight=0.0,
    prior_items=0.0,
)
"""Nobody buys anything again, so what is left of phase 1 are the ridge and popularity; chosen on validation."""
HYBRID: Final = replace(COLLABORATIVE, ridge_content_weight=3.0)
"""Phase 2: features stand among the ridge's shoppers, and items that few have met inherit from their kin."""


@dataclass(frozen=True, slots=True)
class WholeCase:
    """A shopper, and the one item they bought next."""

    history: History
    truth: int


def load(folder: Path, *, test: bool) -> tuple[Dataset, Window]:
    """The data with the truth in the window, and nothing after it.

    Raises:
        UserError: the data is not there.
    """
    if not (folder / "sequences.parquet").exists():
        raise UserError(
            f"{folder} is missing: this benchmark needs Amazon Beauty (items.parquet and sequences.parquet)"
        )
    items = pl.read_parquet(folder / "items.parquet").sort("item")
    sequences = pl.read_parquet(folder / "sequences.parquet").sort("user", "position")
    if not test:
        sequences = sequences.filter(pl.col("position") < pl.col("position").max().over("user"))
    users = sequences["user"].unique().sort()
    shopper = np.searchsorted(users.to_numpy(), sequences["user"].to_numpy()).astype(np.int32)
    n, unknown = len(items), np.iinfo(np.int64).max
    item = np.searchsorted(items["item"].to_numpy(), sequences["item"].to_numpy()).astype(np.int32)
    ones = np.ones(len(item), dtype=np.int32)
    events = Events(shopper, shopper, item, ones.astype(np.uint8) * PURCHASE, ones.astype(np.int64), ones, ones * -1)
    catalogue = Catalogue(
        item_ids=tuple(items["item"].cast(pl.String)),
        titles=tuple(items["text"]),
        brands=(None,) * n,
        category=np.full(n, -1, dtype=np.int32),
        categories=(),
        price_cents=np.full(n, -1, dtype=np.int64),
        listed_price_cents=np.full(n, -1, dtype=np.int64),
        descriptions=(None,) * n,
        attributes=tuple(orjson.dumps({"attribute": ids}).decode() for ids in items["attribute_ids"].to_list()),
        image_urls=(None,) * n,
        available=np.ones(n, dtype=np.bool_),
        listed_second=np.full(n, unknown, dtype=np.int64),
    )
    names = tuple(users.cast(pl.String))
    # Ordered by shopper until here; the last event of each is the truth, at the cut.
    dated = _place(events, CUT + MONTH)
    return Dataset(dated, catalogue, names, len(names), len(names)), Window(CUT, CUT + MONTH)


def _place(events: Events, end: int) -> Events:
    """Each shopper's j-th last event at `end` minus j months, Unix seconds; `events` are in order for each shopper."""
    by_shopper = events.take(np.argsort(events.shopper, kind="stable"))
    stops = np.cumsum(np.bincount(by_shopper.shopper))
    months = stops[by_shopper.shopper] - np.arange(len(by_shopper))
    dated = replace(by_shopper, second=(end - months * MONTH).astype(np.int64))
    return dated.take(np.argsort(dated.second, kind="stable"))


def clock(events: Events) -> Events:
    """Times of what may be learnt from, see the module: once items are taken out, what is left moves up."""
    return _place(events, CUT)


def whole_cases(dataset: Dataset, past: Dataset, window: Window) -> tuple[WholeCase, ...]:
    """What every shopper bought next."""
    future = dataset.events.between(window.start, window.stop)
    histories = Histories(past, window.start)
    pairs = zip(future.shopper.tolist(), future.item.tolist(), strict=True)
    return tuple(WholeCase(histories[shopper], item) for shopper, item in pairs)


def score(
    model: Model, cases: Sequence[WholeCase], metrics: Sequence[Metric], n_items: int, label: str, console: Console
) -> NDArray[np.float64]:
    """`(n_cases, n_metrics)`: one ranking of all items that are not in the history."""
    rows = []
    for case in track(cases, label, console=console, transient=True):
        eligible: Mask = np.ones(n_items, dtype=np.bool_)
        eligible[case.history.items] = False
        query = Query(history=case.history, session_items=case.history.items[-1:])
        ranks = relevant_ranks(model.recommend(query, DEPTH, eligible), np.array([case.truth], dtype=np.int32))
        rows.append([metric(ranks, 1) for metric in metrics])
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(metrics))


@dataclass(frozen=True, slots=True)
class Point:
    """One model on the curve; values by case, all draws together."""

    name: str
    cold: NDArray[np.float64]
    """`(n,)` recall of cases whose truth is cold."""
    warm: NDArray[np.float64]
    """`(m,)` primary metric of cases whose truth is warm."""


def curve(
    dataset: Dataset, window: Window, tasks: Sequence[ColdTask], workshops: Sequence[Workshop], console: Console
) -> list[Point]:
    """Phase 1's blend, then phase 2's with the weights of `KIN_WEIGHTS`, on every draw."""
    plans = {REFERENCE: COLLABORATIVE, **{f"{weight:g}": replace(HYBRID, kin_weight=weight) for weight in KIN_WEIGHTS}}
    found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for draw, (task, workshop) in enumerate(zip(tasks, workshops, strict=True)):
        cases = whole_cases(dataset, task.past, window)
        is_cold = task.held_out[[case.truth for case in cases]]
        warm_rows = np.random.default_rng(0).permutation(np.flatnonzero(~is_cold))[:WARM_CASES]
        cold = [cases[row] for row in np.flatnonzero(is_cold)]
        warm = [cases[row] for row in np.sort(warm_rows)]
        for name, plan in plans.items():
            model, metrics = phase2.known(workshop, plan), (RECALL, PRIMARY)
            label = f"draw {draw}, {name}"
            found.setdefault(name, []).append(
                (
                    score(model, cold, metrics, dataset.n_items, f"{label}, cold", console)[:, 0],
                    score(model, warm, metrics, dataset.n_items, f"{label}, warm", console)[:, 1],
                )
            )
            last = found[name][-1]
            console.print(f"  {label}: cold {last[0].mean():.4f}, warm {last[1].mean():.4f}", highlight=False)
    return [
        Point(name, *(np.concatenate(parts) for parts in zip(*by_draw, strict=True))) for name, by_draw in found.items()
    ]


def chosen(points: Sequence[Point], reference: Point) -> Point:
    """The best for cold items among those where warm ones lose less than `MAX_LOSS` against `reference`."""
    floor = (1.0 - MAX_LOSS) * float(reference.warm.mean())
    return max((point for point in points if point.warm.mean() > floor), key=lambda point: float(point.cold.mean()))


def against(point: Point, reference: Point) -> str:
    """Change of the warm metric, in percent."""
    return f"{float(point.warm.mean()) / float(reference.warm.mean()) - 1:+.1%}"


def tradeoff_table(title: str, points: Sequence[Point], note: str) -> Table:
    """A row for each weight, and what was reached in the note: against phase 1, and against phase 2 without kin."""
    phase_1, without_kin = points[:2]
    rows: list[list[Cell]] = [
        [point.name, figure(point.cold), figure(point.warm), against(point, phase_1), against(point, without_kin)]
        for point in points
    ]
    verdicts = []
    for name, reference in (("phase 1", phase_1), ("phase 2 without kin, weight 0", without_kin)):
        best = chosen(points, reference)
        reached = float(best.cold.mean())
        verdict = "met" if reached >= TARGET_WHOLE else f"missed by {TARGET_WHOLE - reached:.3f}"
        verdicts.append(
            f"against {name} {verdict}: {reached:.4f} with a weight of {best.name} ({against(best, reference)})"
        )
    text = (
        f"Target: {RECALL} of cold items at least {TARGET_WHOLE:.2f} while {PRIMARY} of warm ones falls by less than {MAX_LOSS:.0%}; "
        f"{'; '.join(verdicts)}."
    )
    columns = [
        "weight of kin",
        f"cold: {RECALL} [95% interval]",
        f"warm: {PRIMARY} [95% interval]",
        "warm against phase 1",
        "warm against weight 0",
    ]
    sizes = f"{len(phase_1.cold):,} cold and {len(phase_1.warm):,} warm cases"
    return Table(f"{title} ({sizes})", columns, rows, f"{text} {note}".strip())


def plot(points: Sequence[Point], target: Path) -> None:
    """Cold against warm, with the target's corner."""
    drawing = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = drawing.subplots()
    loss = [100.0 * (float(point.warm.mean()) / float(points[0].warm.mean()) - 1.0) for point in points]
    cold = [float(point.cold.mean()) for point in points]
    axes.plot(loss, cold, marker="o")
    for x, y, point in zip(loss, cold, points, strict=True):
        axes.annotate(point.name, (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.axvline(-100.0 * MAX_LOSS, color="grey", linestyle=":")
    axes.axhline(TARGET_WHOLE, color="grey", linestyle=":")
    axes.set_xlabel(f"warm items: {PRIMARY}, % against phase 1")
    axes.set_ylabel(f"cold items: {RECALL}")
    axes.set_title("Amazon Beauty, one ranking of the whole catalogue, by weight of kin")
    target.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(target, dpi=120)


def reference_table(dataset: Dataset, window: Window, note: str, console: Console) -> Table:
    """How good what is called warm is, on the whole data with nothing held out, in the figures that are published."""
    past = dataset.before(window.start)
    past = replace(past, events=clock(past.events))
    workshop = Workshop(past, window.start, 0)
    cases = whole_cases(dataset, past, window)
    models = {
        "popularity": workshop.fit(PopularityRecommender(COLLABORATIVE.popularity_half_life_days)),
        "phase 1": phase1.home(workshop, COLLABORATIVE),
    }
    rows: list[list[Cell]] = []
    for name, model in models.items():
        values = score(model, cases, PUBLISHED, dataset.n_items, name, console)
        rows.append([name, *(figure(column) for column in values.T)])
    columns = ["model", *(f"{metric} [95% interval]" for metric in PUBLISHED)]
    return Table(f"Nothing held out: what the warm items are ranked by ({len(cases):,} shoppers)", columns, rows, note)


def run(folder: Path, draws: int, *, test: bool, console: Console) -> None:
    """Measure everything over several draws of held-out items; write reports/beauty.json and the plot."""
    need_lightfm()
    dataset, window = load(folder, test=test)
    found = fit_features(dataset.catalogue)
    everything, text = found.matrix, text_matrix(found)
    scores: dict[str, list[NDArray[np.float64]]] = {}
    tasks, workshops = [], []
    for seed in range(draws):
        task = make_task(dataset, window, seed, clock)
        console.print(f"draw {seed}: {len(task.pool):,} items held out, {len(task.cases):,} shoppers")
        workshop = Workshop(task.past, task.at, seed)
        with console.status("fitting the content model"):
            network = workshop.fit(NETWORK)
            inherited = phase2.kin(workshop, HYBRID)
        rows: dict[str, Scorer] = {
            "random": random_items(task, seed),
            "popularity": popularity(task),
            "TF-IDF neighbours, words": neighbours(task, text, HALF_LIFE_DAYS),
            "TF-IDF neighbours, all features": neighbours(task, everything, HALF_LIFE_DAYS),
            "LightFM": lightfm(task, everything, LIGHTFM, seed),
            "content, network": ours(task, network),
            "content, kin": ours(task, inherited),
        }
        for name, scorer in rows.items():
            scores.setdefault(name, []).append(recall(scorer, task, name, console))
            console.print(f"  {name}: {scores[name][-1].mean(axis=0).round(4).tolist()}", highlight=False)
        tasks.append(task)
        workshops.append(workshop)
    truth = (
        "Truth: each shopper's last item; the past, and so the final fit, includes the validation item."
        if test
        else "Truth: each shopper's last item but one, learnt from what came before; the test items are not read."
    )
    points = curve(dataset, window, tasks, workshops, console)
    which = "test" if test else "validation"
    title = f"Strict cold items of the {which} item, {RECALL} among {COLD_SHARE:.0%} of the sold items"
    tables = [
        cold_table(title, scores, "content, kin", TARGET_RECALL, truth),
        tradeoff_table(f"One ranking of all items, {which} item", points, truth),
        reference_table(dataset, window, truth, console),
    ]
    write_report("beauty", "make bench-beauty" + (" TEST=--test" if test else ""), tables)
    plot(points, PLOT)
    for table in tables:
        show(table, console)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=DATA)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--test", action="store_true", help="The truth is each shopper's last item.")
    arguments = parser.parse_args()
    console = Console()
    try:
        run(arguments.data_dir, arguments.draws, test=arguments.test, console=console)
    except UserError as error:
        raise SystemExit(str(error)) from error

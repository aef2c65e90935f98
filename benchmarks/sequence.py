"""Does a sequence model pay? Attention over visits alone, as one more part of phase 2's blend, and as a source of candidates.

`python -m benchmarks.sequence`. Only the validation window is read: the events after it are dropped on loading. Designs differ in
what training asks (all purchases of the next 30 days, or only those new to the shopper), in the item vectors' start (iALS, or at
random), and in layers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from recsys import phase2
from recsys.compose import Blend, Fallback, Shrinkage
from recsys.dataset import load_dataset
from recsys.evaluation.evaluate import (
    ALL,
    NEW,
    Case,
    ModelScores,
    Task,
    bootstrap_means,
    evaluate,
    make_task,
    paired_differences,
)
from recsys.evaluation.metrics import PRIMARY
from recsys.evaluation.split import windows_of
from recsys.events import Surface
from recsys.models.fit.als import ALSRecommender
from recsys.models.fit.sequence import SequenceRecommender
from recsys.models.regional import RegionalModel
from recsys.phase1 import Workshop
from recsys.ranking import Model, Query
from recsys.reports import Cell, Table, interval, write_report

OURS: Final = "sequence"
DESIGNS: Final[Mapping[str, SequenceRecommender]] = {
    OURS: SequenceRecommender(),
    "sequence, two layers": SequenceRecommender(layers=2),
    "sequence, random start": SequenceRecommender(start_from_als=False, epochs=10, learning_rate=3e-3),
    "sequence, new items only": SequenceRecommender(repeats=False, start_from_als=False, epochs=6, learning_rate=3e-3),
}
WEIGHTS: Final = (0.02, 0.03, 0.05, 0.1, 0.3)
"""In the blend, that of `buy_again` being 1."""
WEIGHT: Final = 0.05
"""Of the other designs, and of iALS, which tells what is owed to attention and time."""
CANDIDATES: Final = 200
TIMED: Final = 500
"""Queries that the latency is measured on."""


def blended(workshop: Workshop, model: Model, weight: float) -> Model:
    """Phase 2's home with one more part in its blend."""
    home = phase2.home(workshop, phase2.DEFAULT)
    assert isinstance(home, Fallback)
    shrunk, *rest = home.models
    assert isinstance(shrunk, Shrinkage)
    nearby = shrunk.model
    assert isinstance(nearby, RegionalModel)
    blend = nearby.model
    assert isinstance(blend, Blend)
    # The content model stays last, see `Blend`.
    models, weights = (model, *blend.models), (weight, *blend.weights)
    known = replace(blend, models=models, weights=weights)
    return replace(home, models=(replace(shrunk, model=replace(nearby, model=known)), *rest))


def fit_designs(workshop: Workshop, console: Console) -> tuple[dict[str, Model], dict[str, float]]:
    """Every design, and how many seconds of a core its fit took."""
    fitted, seconds = {}, {}
    for name, recommender in DESIGNS.items():
        with console.status(f"fitting {name}"):
            started, wall = time.process_time(), time.perf_counter()
            fitted[name] = workshop.fit(recommender)
            seconds[name] = time.process_time() - started
        wall = time.perf_counter() - wall
        console.print(f"  fitted {name}: {seconds[name]:.0f} s of a core, {wall:.0f} s by the clock", highlight=False)
    return fitted, seconds


def alone_table(frame: pl.DataFrame, seconds: Mapping[str, float], micros: Mapping[str, float]) -> Table:
    """The primary metric of single models."""
    rows: list[list[Cell]] = []
    for name in frame["model"].unique(maintain_order=True):
        figures = [frame.filter(model=name, slice=one, metric=str(PRIMARY)).rows(named=True)[0] for one in (ALL, NEW)]
        shown = [interval(one["value"], one["low"], one["high"]) for one in figures]
        rows.append([name, *shown, round(seconds[name]) if name in seconds else None, round(micros[name])])
    columns = ["model", ALL, NEW, "core seconds to fit", "core microseconds per query"]
    return Table(f"Single models, {PRIMARY} on the validation window", columns, rows)


def blend_table(scores: Mapping[str, ModelScores], names: Sequence[str]) -> Table:
    """Phase 2 with a sequence model in its blend, minus phase 2; `names` of the blends in `scores`."""
    rows: list[list[Cell]] = []
    for key in names:
        row: list[Cell] = [key]
        for found in paired_differences(scores, key, [phase2.NAME]).iter_rows(named=True):
            reached = scores[key].by_slice[found["slice"]][0][:, 0].mean()
            row += [f"{reached:.4f}", interval(found["difference"], found["low"], found["high"])]
        rows.append(row)
    base = [f"{scores[phase2.NAME].by_slice[one][0][:, 0].mean():.4f}" for one in (ALL, NEW)]
    columns = ["part and weight", ALL, "minus phase 2 [95% interval]", NEW, "minus phase 2 [95%]"]
    return Table(
        f"One more part in phase 2's blend, {PRIMARY} on the validation window, same shoppers",
        columns,
        [["none (phase 2)", base[0], None, base[1], None], *rows],
        "Weights are tried on the window that is shown, so the best of them flatters the blend.",
    )


def query(case: Case) -> Query:
    """What is asked for a case, as evaluation does."""
    return Query(surface=Surface.HOME, history=case.history, session_items=case.history.items[-1:], region=case.region)


def candidate_recall(task: Task, sources: Mapping[str, tuple[tuple[Model, int], ...]]) -> Table:
    """Share of each shopper's new items that the union of several models' first items holds; mean and size by source."""
    shares: dict[str, list[float]] = {name: [] for name in sources}
    sizes: dict[str, list[int]] = {name: [] for name in sources}
    for case in task.cases:
        wanted = np.setdiff1d(case.truths, case.bought_before, assume_unique=True)
        if len(wanted) == 0:
            continue
        mask = task.available.copy()
        mask[case.bought_before] = False
        for name, models in sources.items():
            tops = [model.recommend(query(case), depth, mask).items for model, depth in models]
            union = np.unique(np.concatenate(tops))
            shares[name].append(float(np.isin(wanted, union, assume_unique=True).mean()))
            sizes[name].append(len(union))
    rows: list[list[Cell]] = [
        [name, float(np.mean(sizes[name])), _mean(np.array(found))] for name, found in shares.items()
    ]
    columns = ["source", "mean size", "recall of new items [95% interval]"]
    return Table(f"Candidates: new items of the validation window that a source holds, {NEW}", columns, rows)


def _mean(values: NDArray[np.float64]) -> str:
    low, high = np.percentile(bootstrap_means(values[:, None], 0), [2.5, 97.5])
    return interval(float(values.mean()), float(low), float(high))


def microseconds(model: Model, task: Task) -> float:
    """Median over some cases of a query for 100 items, after a few to warm up."""
    taken = []
    for case in task.cases[:TIMED]:
        asked, started = query(case), time.thread_time()
        model.recommend(asked, phase2.DEFAULT.depth, task.available)
        taken.append(time.thread_time() - started)
    return float(np.median(taken[10:]) * 1e6)


def show(table: Table, console: Console) -> None:
    """Print a table's rows."""
    console.print(f"\n{table.title}\n" + " | ".join(table.columns), highlight=False)
    for row in table.rows:
        console.print(" | ".join("–" if cell is None else str(cell) for cell in row), highlight=False)


def run(data_dir: Path, console: Console) -> None:
    """Measure everything and write reports/sequence.json."""
    dataset = load_dataset(data_dir / "tables")
    window = windows_of(dataset).validation
    dataset = dataset.before(window.stop)
    task, workshop = make_task(dataset, window), Workshop(dataset.before(window.start), window.start, 0)
    fitted, seconds = fit_designs(workshop, console)
    with console.status("fitting phase 2"):
        (buy_again, _), (ridge, _), (popularity, _) = workshop.parts(phase2.DEFAULT)
        als, base = workshop.fit(ALSRecommender()), phase2.home(workshop, phase2.DEFAULT)
    singles = {"popularity": popularity, "buy_again": buy_again, "local_ridge": ridge, "als": als, **fitted}
    with console.status("asking single models"):
        frame, _ = evaluate(singles, task)
        micros = {name: microseconds(model, task) for name, model in singles.items()}
    tables = [alone_table(frame, seconds, micros)]
    show(tables[0], console)
    with console.status("asking blends"):
        blends = {f"{OURS}, {weight}": blended(workshop, fitted[OURS], weight) for weight in WEIGHTS}
        others = {name: model for name, model in {**fitted, "als": als}.items() if name != OURS}
        blends |= {f"{name}, {WEIGHT}": blended(workshop, model, WEIGHT) for name, model in others.items()}
        _, scores = evaluate({phase2.NAME: base, **blends}, task)
    tables.append(blend_table(scores, list(blends)))
    show(tables[1], console)
    ours = fitted[OURS]
    sources = {
        f"local_ridge, {CANDIDATES}": ((ridge, CANDIDATES),),
        f"{OURS}, {CANDIDATES}": ((ours, CANDIDATES),),
        f"local_ridge and {OURS}, {CANDIDATES} each": ((ridge, CANDIDATES), (ours, CANDIDATES)),
        f"local_ridge and popularity, {CANDIDATES} each": ((ridge, CANDIDATES), (popularity, CANDIDATES)),
        f"local_ridge, {2 * CANDIDATES}": ((ridge, 2 * CANDIDATES),),
    }
    with console.status("looking for candidates"):
        tables.append(candidate_recall(task, sources))
    show(tables[2], console)
    write_report("sequence", "make bench-sequence", tables)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    run(parser.parse_args().data_dir, Console())

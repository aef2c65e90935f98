"""What stands beside an item and a cart: how much of it comes true, and how much is of the item's kind, by phase, on the validation window.

`python -m benchmarks.beside`. The questions are those that chances are fitted on (`recsys.evaluation.questions`): an item was
looked at or lies in a basket, its shopper is known or, one in ten, not. The test window is never read.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from recsys import phase1, phase2, phase3
from recsys.dataset import Catalogue, load_dataset
from recsys.evaluation.evaluate import bootstrap_means
from recsys.evaluation.questions import Question, mask_of, questions
from recsys.evaluation.split import windows_of
from recsys.events import Surface
from recsys.models.fit.popularity import CategoryPopularityRecommender, RandomRecommender
from recsys.phase1 import Workshop
from recsys.ranking import EMPTY_HISTORY, NO_ITEM, Model
from recsys.reports import Cell, Table, interval, show, write_report

SHOWN: Final = 10
"""Items of an answer that are looked at, as many as a page has room for."""


def fitted(workshop: Workshop) -> Mapping[str, Mapping[Surface, Model]]:
    """Every row of the tables, by surface."""
    first, popularity = phase1.build_surfaces(workshop, phase1.DEFAULT)
    second, _ = phase2.build_surfaces(workshop, phase2.DEFAULT)
    singles = {
        "random": workshop.fit(RandomRecommender()),
        "popularity": popularity,
        "category_popularity": workshop.fit(CategoryPopularityRecommender()),
    }
    third = {surface: phase3.for_shopper(workshop, second[surface], phase3.DEFAULT) for surface in phase3.BESIDE}
    return {
        **{name: dict.fromkeys(phase3.BESIDE, model) for name, model in singles.items()},
        phase1.NAME: first,
        phase2.NAME: second,
        phase3.NAME: third,
    }


@dataclass(frozen=True, slots=True)
class Judged:
    """One model's answers to n questions."""

    came_true: NDArray[np.float64]
    """`(n,)`: the share of the first `SHOWN` places whose item was right; an empty place was not."""
    alike: float | None
    """Share of what is shown beside an item that is of its category; None where there is no such item."""


def judge(model: Model, asked: Sequence[Question], catalogue: Catalogue) -> Judged:
    """Ask it."""
    shares, alike = [], []
    for one in track(asked, description=model.name):
        items = model.recommend(one.query, SHOWN, mask_of(one.query, catalogue.available)).items
        shares.append(float(np.isin(items, one.truths).sum()) / SHOWN)
        if (page := one.query.context_item) != NO_ITEM and catalogue.category[page] >= 0:
            alike.extend((catalogue.category[items] == catalogue.category[page]).tolist())
    return Judged(np.array(shares), float(np.mean(alike)) if alike else None)


def table(title: str, judged: Mapping[str, Judged]) -> Table:
    """A row for each model, beside it the difference to the phase before."""
    names, shares = list(judged), {name: one.came_true for name, one in judged.items()}
    means = bootstrap_means(np.column_stack(list(shares.values())), seed=0)
    rows: list[list[Cell]] = []
    for place, name in enumerate(names):
        row: list[Cell] = [name, interval(shares[name].mean(), *np.percentile(means[:, place], [2.5, 97.5]))]
        if name in (phase2.NAME, phase3.NAME):
            gain = means[:, place] - means[:, place - 1]
            row.append(interval((shares[name] - shares[names[place - 1]]).mean(), *np.percentile(gain, [2.5, 97.5])))
        else:
            row.append(None)
        alike = judged[name].alike
        rows.append([*row, None if alike is None else round(alike, 3)])
    columns = ["model", f"came true, of the first {SHOWN}", "minus the phase before [95%]", "of the item's category"]
    return Table(title, columns, rows)


def main() -> None:
    """Fit on what lies before the validation window, ask its questions, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    console = Console()
    dataset = load_dataset(arguments.data_dir / "tables")
    window = windows_of(dataset).validation
    past = dataset.before(window.start)
    with console.status("fitting"):
        models = fitted(Workshop(past, window.start, 0))
    asked = questions(dataset.before(window.stop), window, seed=0)
    tables = []
    for surface in phase3.BESIDE:
        strangers = [replace(one, query=replace(one.query, history=EMPTY_HISTORY)) for one in asked[surface]]
        for who, those in (("", asked[surface]), (", asked by strangers", strangers)):
            judged = {name: judge(model[surface], those, past.catalogue) for name, model in models.items()}
            tables.append(table(f"{surface}{who} ({len(those):,} questions)", judged))
    for one in tables:
        show(one, console)
    written = write_report("beside", "make bench-beside", tables)
    console.print(f"written: {written}")


if __name__ == "__main__":
    main()

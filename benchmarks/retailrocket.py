"""The three phases on a real shop's views, carts and purchases, by the public ingest and training, no code changed.

`python -m benchmarks.retailrocket`. Retailrocket's buyers (`../shared/data/retailrocket_buyers`): one held-out purchase for each of
2,174 buyers, whose earlier events with that item were taken out of the log; all items that the buyer has not bought are ranked.
A tenth of the held-out items stands nowhere in the log: nobody can find those, and they count as missed. Each phase's configuration is
what the search of `recsys train` finds on the validation window of the log; all is then fitted on the whole log and asked once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from pipelines.ingest import ingest
from pipelines.run import build_tables
from recsys.dataset import Dataset, Histories, load_dataset
from recsys.evaluation.evaluate import ALL, DEPTH, NEW, bootstrap_means
from recsys.evaluation.metrics import PRIMARY, K, relevant_ranks
from recsys.evaluation.split import windows_of
from recsys.phase1 import Phase1Config, Workshop
from recsys.phases import PHASES
from recsys.ranking import PURCHASE, Model, Query
from recsys.reports import Cell, Table, interval, show, write_report
from recsys.train import choose

DATA: Final = Path("../shared/data/retailrocket_buyers")
PUBLISHED: Final = (("popularity, quick probe", 0.045, 0.022), ("item-kNN over all events, quick probe", 0.141, 0.085))
"""Recall@20 and NDCG@20 of probes outside this project."""
SEARCH_SECONDS: Final = 60.0
"""For each phase, as `recsys train` does unless told otherwise."""
MAPPING: Final = """
[shop]
name = "Retailrocket buyers"

[[events]]
source = "log"
files = "{files}"
format = "parquet"
missing_users = []
event_types = {{ view = "view", cart = "cart", buy = "purchase" }}

[events.columns]
user_id = "user_id"
item_id = "item_id"
event_type = "event"
timestamp = "timestamp"
"""


def read_shop(folder: Path, console: Console) -> Dataset:
    """The log through `recsys ingest` and `recsys tables`."""
    mapping = folder / "shop.toml"
    mapping.write_text(MAPPING.format(files=(DATA / "events.parquet").resolve()))
    ingest(mapping, folder / "data", console)
    build_tables(folder / "data", console)
    return load_dataset(folder / "data" / "tables")


def score(model: Model, dataset: Dataset, held_out: Mapping[int, int], label: str) -> NDArray[np.float64]:
    """`(n_buyers, 2)` float64: recall@20 and NDCG@20 of the one held-out item (its rank decides both)."""
    histories, found = Histories(dataset, dataset.until), []
    for shopper, item in track(held_out.items(), label):
        history = histories[shopper]
        mask = dataset.catalogue.available.copy()
        mask[history.items[history.event_types == PURCHASE]] = False
        query = Query(history=history, session_items=history.items[-1:], seed=shopper)
        ranks = relevant_ranks(model.recommend(query, DEPTH, mask), np.array([item], dtype=np.int32))
        rank = int(ranks[0]) if len(ranks) else DEPTH
        found.append((float(rank <= K), 1.0 / np.log2(rank + 1.0) if rank <= K else 0.0))
    return np.array(found)


def chosen(dataset: Dataset, console: Console) -> tuple[dict[int, Phase1Config], pl.DataFrame]:
    """The configuration of each phase, as `recsys train` finds it, and how the last one's rows compare on the validation window."""
    windows = windows_of(dataset)
    configs, frame = {}, pl.DataFrame()
    for phase in PHASES:
        choice, results = choose(phase, dataset, windows, SEARCH_SECONDS, 0, console, {})
        configs[phase], frame = choice.config, results.frame
        console.print(f"phase {phase}: {choice.config}")
    return configs, frame


def models(dataset: Dataset, configs: Mapping[int, Phase1Config]) -> dict[str, Model]:
    """Every row of phase 3's table, the earlier phases as their own searches configured them."""
    workshop = Workshop(dataset, dataset.until, 0)
    found: dict[str, Model] = PHASES[3].rows(workshop, configs[3])
    return {**found, **{plan.NAME: plan.home(workshop, configs[phase]) for phase, plan in PHASES.items()}}


def measure(dataset: Dataset, held_out: Mapping[int, int], console: Console) -> list[Table]:
    """Recall and NDCG of every model on the held-out items, and beside it what the phases were chosen by."""
    configs, validation = chosen(dataset, console)
    rows: list[list[Cell]] = [[name, recall, ndcg] for name, recall, ndcg in PUBLISHED]
    for name, model in models(dataset, configs).items():
        values = score(model, dataset, held_out, name)
        low, high = np.percentile(bootstrap_means(values, 0), [2.5, 97.5], axis=0)
        mean = values.mean(axis=0)
        rows.append([name, *(interval(float(mean[m]), float(low[m]), float(high[m])) for m in range(2))])
    title = f"Retailrocket, {len(held_out):,} buyers, {dataset.n_items:,} items"
    return [Table(title, ["model", f"recall@{K}", f"ndcg@{K}"], rows), validation_table(validation)]


def validation_table(frame: pl.DataFrame) -> Table:
    """NDCG of the purchases that a shop sees, after views of the same item as well as without."""
    rows: list[list[Cell]] = []
    found = frame.filter(metric=str(PRIMARY))
    for name in found["model"].unique(maintain_order=True):
        row: list[Cell] = [name]
        for slice_name in (ALL, NEW):
            one = found.filter(model=name, slice=slice_name)
            value, low, high = (float(one[column][0]) for column in ("value", "low", "high"))
            row.append(interval(value, low, high))
        rows.append(row)
    note = (
        "What shoppers bought in the window, whatever they had looked at before. The held-out items above are another question: "
        "all earlier views and carts of them were taken out of the log."
    )
    return Table(f"The validation window of the same log, {PRIMARY}", ["model", ALL, NEW], rows, note)


def main() -> None:
    """Measure, print, write the report."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    console = Console()
    test = pl.read_parquet(DATA / "test.parquet")
    with tempfile.TemporaryDirectory() as folder:
        dataset = read_shop(Path(folder), console)
        users = {user: row for row, user in enumerate(dataset.user_ids)}
        items = {item: row for row, item in enumerate(dataset.catalogue.item_ids)}
        # An item that the log does not have gets a row that no answer holds.
        held_out = {users[str(user)]: items.get(str(item), dataset.n_items) for user, item in test.iter_rows()}
        tables = measure(dataset, held_out, console)
    for table in tables:
        show(table, console)
    console.print(f"written: {write_report('retailrocket', 'make bench-retailrocket', tables)}")


if __name__ == "__main__":
    main()

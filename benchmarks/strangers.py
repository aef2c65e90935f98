"""Shoppers of whom nothing is known yet: how good answers are before their first event, and after 1, 2 and 5.

`python -m benchmarks.strangers`. A fifth of the shoppers has never been met: all their events are kept from training. In the
window each of them comes, at a known place, and after so many events the rest of what they buy is to be ranked; what is to be
ranked is the same for every number of events. The validation window is read; with --test the test window is.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from recsys import phase1, phase2
from recsys.dataset import SECONDS_PER_DAY, Dataset, load_dataset, target_event
from recsys.evaluation.evaluate import DEPTH, bootstrap_means
from recsys.evaluation.metrics import METRICS, PRIMARY, relevant_ranks
from recsys.evaluation.split import Window, windows_of
from recsys.models.fit.popularity import PopularityRecommender
from recsys.phase1 import Workshop
from recsys.ranking import History, ItemArray, Mask, Model, Query
from recsys.reports import Cell, Table, interval, write_report

STRANGER_SHARE: Final = 0.2
KNOWN_EVENTS: Final = (0, 1, 2, 5)
TARGET_RATIO: Final = 1.1


@dataclass(frozen=True, slots=True)
class Visit:
    """A stranger's events in the window, in order."""

    history: History
    """The first of them, `max(KNOWN_EVENTS)`."""
    region: int
    segments: ItemArray
    truths: ItemArray
    """What they bought after those, sorted, unique."""

    def query(self, events: int) -> Query:
        """The question after so many events."""
        known = History(self.history.items[:events], self.history.event_types[:events], self.history.age_days[:events])
        return Query(history=known, session_items=known.items, region=self.region, segments=self.segments)


def visits(dataset: Dataset, strangers: NDArray[np.bool_], window: Window) -> list[Visit]:
    """One for every stranger who bought something after their first five events."""
    events, most = dataset.events.between(window.start, window.stop), max(KNOWN_EVENTS)
    events = events.take(strangers[events.shopper])
    target = target_event(dataset)
    found = []
    for shopper in np.unique(events.shopper):
        own = events.take(events.shopper == shopper)
        later = own.take(slice(most, None))
        truths = np.unique(later.item[later.event_type == target])
        if len(truths):
            first = own.take(slice(0, most))
            ages = ((first.second[-1] - first.second) / SECONDS_PER_DAY).astype(np.float32)
            segments = dataset.segments.of(int(shopper))
            found.append(Visit(History(first.item, first.event_type, ages), int(own.region[0]), segments, truths))
    return found


def score(
    model: Model, met: list[Visit], events: int, available: Mask, label: str, console: Console
) -> NDArray[np.float64]:
    """`(n_visits,)`: the primary metric."""
    primary = METRICS.index(PRIMARY)
    values = []
    for visit in track(met, label, console=console, transient=True):
        ranking = model.recommend(visit.query(events), DEPTH, available)
        ranks = relevant_ranks(ranking, visit.truths)
        values.append(METRICS[primary](ranks, len(visit.truths)))
    return np.array(values)


def run(data_dir: Path, *, test: bool, console: Console) -> None:
    """Measure popularity and both phases and write reports/strangers.json."""
    dataset = load_dataset(data_dir / "tables")
    windows = windows_of(dataset)
    window = windows.test if test else windows.validation
    strangers = np.random.default_rng(0).random(dataset.n_shoppers) < STRANGER_SHARE
    past = dataset.before(window.start)
    past = replace(past, events=past.events.take(~strangers[past.events.shopper]))
    workshop = Workshop(past, window.start, 0)
    models = {
        "popularity": workshop.fit(PopularityRecommender()),
        phase1.NAME: phase1.home(workshop, phase1.DEFAULT),
        phase2.NAME: phase2.home(workshop, phase2.DEFAULT),
    }
    met = visits(dataset, strangers, window)
    rows: list[list[Cell]] = []
    means: dict[str, list[float]] = {}
    for name, model in models.items():
        values = [score(model, met, events, dataset.catalogue.available, name, console) for events in KNOWN_EVENTS]
        means[name] = [float(one.mean()) for one in values]
        rows.append([name, *(_figure(one) for one in values)])
        console.print(*rows[-1])
    columns = ["model", *(f"{events} events" for events in KNOWN_EVENTS)]
    title = f"{PRIMARY} for shoppers met for the first time, {'test' if test else 'validation'} window ({len(met):,} shoppers)"
    reached = means[phase2.NAME][0] / means["popularity"][0]
    rises = all(np.diff(means[phase2.NAME]) > 0)
    note = (
        f"Targets: phase 2 at least {TARGET_RATIO} times popularity at 0 events ({reached:.3f} times: "
        f"{'met' if reached >= TARGET_RATIO else 'missed'}), and rising with each number of events ({'met' if rises else 'missed'})."
    )
    write_report(
        "strangers", "make bench-strangers" + (" TEST=--test" if test else ""), [Table(title, columns, rows, note)]
    )


def _figure(values: NDArray[np.float64]) -> str:
    low, high = np.percentile(bootstrap_means(values[:, None], 0), [2.5, 97.5])
    return interval(float(values.mean()), float(low), float(high))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--test", action="store_true", help="Read the test window.")
    arguments = parser.parse_args()
    run(arguments.data_dir, test=arguments.test, console=Console())

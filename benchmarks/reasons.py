"""Do reasons tell the truth? Every event that a reason cites is taken out of the history, and the same question is asked again.

`python -m benchmarks.reasons VERSION ...` answers a sample of shoppers from their own histories in each bundle, as the service does,
on the surfaces whose reasons cite the history, and writes `reports/reasons.json`. No window is read: nothing is predicted.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track

from recsys.events import Surface
from recsys.phases import PHASES
from recsys.ranking import NO_ITEM, History, Ranking
from recsys.reports import Table, write_report
from service.answering import Answering
from service.answers import Shopper
from service.bundles import LiveBundle
from service.reasons import cited
from service.replay import open_live
from service.schemas import Filters, RecommendRequest

SHOPPERS: Final = 300
K: Final = 20
QUESTIONS: Final = {
    "home": RecommendRequest(surface=Surface.HOME, k=K),
    "home, only new items": RecommendRequest(surface=Surface.HOME, k=K, filters=Filters(only_new=True)),
    "buy_again": RecommendRequest(surface=Surface.BUY_AGAIN, k=K),
    "new_arrivals": RecommendRequest(surface=Surface.NEW_ARRIVALS, k=K),
}


@dataclass(slots=True)
class Count:
    """Of one phase and question."""

    items: int = 0
    cited: int = 0
    true: int = 0
    by_source: dict[str, Counter[bool]] = field(default_factory=dict)
    """For each source how often its reason was true, and was not."""

    def add(self, source: str, *, is_true: bool) -> None:
        """A reason that cites an event."""
        self.cited += 1
        self.true += is_true
        self.by_source.setdefault(source, Counter())[is_true] += 1


def try_out(live: LiveBundle, request: RecommendRequest, history: History, count: Count) -> None:
    """One answer, and one more for each item that its reasons cite."""
    answer = Answering.rank(live, request, Shopper(history)).ranking
    count.items += len(answer)
    others: dict[int, Ranking] = {}
    for place, item in enumerate(cited(answer)):
        if item == NO_ITEM:
            continue
        if item not in others:
            others[item] = Answering.rank(live, request, Shopper(history.without(item))).ranking
        count.add(answer.sources[place], is_true=falls(answer, place, others[item]))


def falls(answer: Ranking, place: int, other: Ranking) -> bool:
    """Whether the item at a place has a lower score in the other answer, or is not in it."""
    found = np.flatnonzero(other.items == answer.items[place])
    return len(found) == 0 or bool(other.scores[found[0]] < answer.scores[place])


def main() -> None:
    """Measure and print; write `reports/reasons.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", help="bundles; the newest of each phase, by default")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--shoppers", type=int, default=SHOPPERS)
    given = parser.parse_args()
    console = Console()
    newest = [sorted((given.data_dir / "bundles").glob(f"*-phase{phase}-*"))[-1:] for phase in PHASES]
    versions = given.versions or [path.name for (path,) in filter(None, newest)]
    rows: list[list[str | int | float | None]] = []
    sources: list[list[str | int | float | None]] = []
    for version in versions:
        live = open_live(given.data_dir, version)
        histories, rng = live.bundle.histories, np.random.default_rng(0)
        shoppers = rng.choice(len(histories), min(given.shoppers, len(histories)), replace=False).tolist()
        for name, request in QUESTIONS.items():
            count = Count()
            for shopper in track(shoppers, f"phase {live.bundle.phase} {name}", console=console, transient=True):
                try_out(live, request, histories.of_row(shopper), count)
            share = count.true / count.cited if count.cited else None
            rows.append([live.bundle.phase, name, count.items, count.cited, count.cited - count.true, share])
            sources += [
                [live.bundle.phase, name, source, found.total(), found[True] / found.total()]
                for source, found in sorted(count.by_source.items())
            ]
            console.print(*rows[-1])
    tables = [
        Table(
            f"Reasons of {given.shoppers} shoppers, {K} items each: what happens without the event that they cite",
            ["phase", "question", "items", "cite an event", "of these the score does not fall", "share that falls"],
            rows,
            note="All events of the cited item are taken out of the history, and the question is asked again: the item's score falls, or the "
            "item is no longer among the answer. Reasons that cite no event (such as: popular right now) are not counted.",
        ),
        Table(
            "By the source of the item", ["phase", "question", "source", "cite an event", "share that falls"], sources
        ),
    ]
    write_report("reasons", "make bench-reasons", tables)


if __name__ == "__main__":
    main()

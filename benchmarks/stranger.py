"""A stranger's export of 500,000 order lines, as messy as they come, through its proposed mapping, unedited, to a live bundle.

`python -m benchmarks.stranger`. A quarter of the customer ids are missing; there are cancellations, repeated lines and junk; the
file is in Windows-1252, with semicolons, decimal commas and days before months.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console

from pipelines.ingest import ingest
from pipelines.propose import propose_mapping
from pipelines.run import Summary, build_tables
from recsys.publish import publish
from recsys.reports import Table, write_report
from recsys.train import train

T = TypeVar("T")
WORDS = ("Käsebrett", "Teelicht", "Vase", "Schürze", "Löffel", "Tasse", "Krug", "Kerze", "Schale", "Teller")


def write_export(path: Path, n: int, seed: int = 0) -> None:
    """Orders of 1 to 40 lines over a year; items and customers with a long tail."""
    rng = np.random.default_rng(seed)
    start = datetime(2023, 1, 2)
    lines = ["Rechnungsnr;Artikelnr;Bezeichnung;Menge;Datum;Einzelpreis;Kundennr;Land"]
    order = 100_000
    while len(lines) <= n:
        order += 1
        moment = (start + timedelta(minutes=int(rng.integers(0, 525_000)))).strftime("%d.%m.%Y %H:%M")
        customer = "" if rng.random() < 0.25 else str(10_000 + int(5_000 * rng.random() ** 2))
        cancelled = rng.random() < 0.03
        for _ in range(int(rng.integers(1, 41))):
            item = int(4_000 * rng.random() ** 3)
            title = f"{WORDS[item % len(WORDS)]} Nr. {item}"
            quantity = int(rng.integers(1, 13))
            price = f"{1 + item % 97},{item % 100:02}"
            number = f"C{order}" if cancelled else str(order)
            lines.append(
                f"{number};{20_000 + item};{title};{-quantity if cancelled else quantity};{moment};{price};{customer};Österreich"
            )
            if rng.random() < 0.02:
                lines.append(lines[-1])
            if rng.random() < 0.002:
                lines.append(rng.choice([f"{order};;;;;;;", f"{order};1;x;1;gestern;1,00;;", "Zwischensumme"]))
    path.write_text("\n".join(lines[: n + 1]) + "\n", encoding="cp1252")


def main() -> None:
    """Measure and print; write `reports/stranger.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=500_000)
    n = parser.parse_args().lines
    steps: list[list[str | float]] = []
    console = Console()

    def timed(name: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        steps.append([name, round(time.perf_counter() - started, 1)])
        return result

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export, mapping, data = folder / "umsatz.csv", folder / "shop.toml", folder / "data"
        write_export(export, n)
        mapping.write_text(timed("propose", lambda: propose_mapping([export])))
        timed("ingest", lambda: ingest(mapping, data, console))
        summary: Summary = timed("tables", lambda: build_tables(data, console))
        result = timed("train", lambda: train(1, data, search_seconds=20, console=console))
        timed("publish", lambda: publish(data / "bundles", result.version))
    counts = Table(
        "What became of the lines",
        ["lines", "interactions", "duplicates dropped", "returns", "purchases returned whole", "quarantined"],
        [
            [
                *(summary.rows, summary.accepted, summary.duplicates, summary.returns, summary.returned),
                sum(summary.quarantined.values()),
            ]
        ],
    )
    table = Table(f"{n:,} lines, mapping as proposed", ["step", "seconds"], steps)
    write_report("stranger", "make bench-stranger", [table, counts])
    for row in [*table.rows, *counts.rows]:
        console.print(*row)


if __name__ == "__main__":
    main()

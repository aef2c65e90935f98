"""Out of core: 1, 5 and 25 million synthetic events through ingest and tables; events per second and peak memory.

`python -m benchmarks.pipeline --sizes 1,5,25` (millions). Each size runs in a process of its own, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
from rich.console import Console

from pipelines.ingest import ingest
from pipelines.run import build_tables
from recsys.reports import Table, write_report

MAPPING = """
[shop]
name = "Synthetic"

[[events]]
source = "clicks"
files = "events.parquet"
format = "parquet"
event_types = { view = "view", click = "click", cart = "cart", purchase = "purchase" }

[events.columns]
event_type = "event_type"
user_id = "user_id"
item_id = "item_id"
order_id = "order_id"
quantity = "quantity"
unit_price = "price"
timestamp = "at"
"""


def write_events(path: Path, n: int) -> None:
    """`n` events over a year: a user for every fifty, 50,000 items with a long tail, a fifth anonymous, 2% sent twice."""
    connection = duckdb.connect()
    connection.execute("SET threads = 2; SET memory_limit = '1GB'")
    users, items = max(10, n // 50), 50_000
    connection.execute(
        f"""
        COPY (
            SELECT
                CASE WHEN h % 100 < 70 THEN 'view' WHEN h % 100 < 85 THEN 'click' WHEN h % 100 < 93 THEN 'cart' ELSE 'purchase' END
                    AS event_type,
                CASE WHEN h % 5 > 0 THEN 'u' || CAST(hash(k, 1) % {users} AS VARCHAR) END AS user_id,
                'i' || CAST(CAST(floor({items} * power(CAST(hash(k, 2) % 1000003 AS DOUBLE) / 1000003, 3)) AS BIGINT) AS VARCHAR)
                    AS item_id,
                'o' || CAST(hash(k, 3) % {max(1, n // 4)} AS VARCHAR) AS order_id,
                1 + h % 3 AS quantity,
                CAST(hash(k, 4) % 10000 AS DOUBLE) / 100 AS price,
                TIMESTAMP '2023-01-01' + to_seconds(CAST(hash(k, 5) % 31536000 AS BIGINT)) AS at
            FROM (SELECT CASE WHEN i % 50 = 0 THEN i - 1 ELSE i END AS k, hash(k, 0) AS h FROM range(1, {n} + 1) AS r(i))
        ) TO '{path}' (FORMAT parquet)
        """
    )


def measure(folder: Path) -> dict[str, float]:
    """Ingest and build in this process."""
    (folder / "shop.toml").write_text(MAPPING)
    console = Console(stderr=True)
    started = time.perf_counter()
    ingest(folder / "shop.toml", folder / "data", console)
    ingested = time.perf_counter()
    summary = build_tables(folder / "data", console)
    built = time.perf_counter()
    return {
        "ingest": ingested - started,
        "tables": built - ingested,
        "accepted": summary.accepted,
        "duplicates": summary.duplicates,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(sizes: list[float]) -> Table:
    """Each size in a child process."""
    rows = []
    for millions in sizes:
        n = int(millions * 1e6)
        with tempfile.TemporaryDirectory() as folder:
            write_events(Path(folder) / "events.parquet", n)
            command = [sys.executable, "-m", "benchmarks.pipeline", "--measure", folder]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        seconds = found["ingest"] + found["tables"]
        rows.append(
            [
                *(n, round(found["ingest"], 1), round(found["tables"], 1), round(n / seconds)),
                *(round(found["peak_mib"]), int(found["duplicates"])),
            ]
        )
    return Table(
        "Synthetic events through ingest and all tables, two threads",
        ["events", "ingest (s)", "tables (s)", "events/s", "peak memory (MiB)", "duplicates dropped"],
        rows,
        note="Target: time grows linearly with events, memory stays under 4,096 MiB.",
    )


def main() -> None:
    """Measure and print; write `reports/pipeline.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,5,25", help="millions of events")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure))))
        return
    table = run([float(size) for size in arguments.sizes.split(",")])
    for row in table.rows:
        print(dict(zip(table.columns, row, strict=True)))
    write_report("pipeline", "make bench-pipeline", [table])


if __name__ == "__main__":
    main()

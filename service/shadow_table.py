"""What a shadow's comparisons say, summed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from recsys.errors import UserError

COLUMNS = (
    "surface",
    "requests",
    "failed",
    "empty",
    "overlap",
    "rank correlation",
    "live, ms: p50",
    "p99",
    "shadow, ms: p50",
    "p99",
)


def read_comparisons(path: Path) -> list[dict[str, Any]]:
    """Every comparison of a file; one that was cut off is passed over.

    Raises:
        UserError: there is no such file.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: nothing was compared yet") from error
    found = []
    for line in lines:
        try:
            found.append(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue
    return found


def summed_up(comparisons: Iterable[dict[str, Any]]) -> list[list[str]]:
    """A row of `COLUMNS` for each surface, and one for all."""
    by_surface: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in comparisons:
        by_surface[one["surface"]].append(one)
    every = [one for some in by_surface.values() for one in some]
    return [_row(surface, some) for surface, some in sorted(by_surface.items())] + [_row("all", every)]


def _row(surface: str, some: Sequence[dict[str, Any]]) -> list[str]:
    def values(name: str) -> list[float]:
        return [one[name] for one in some if one.get(name) is not None]

    def mean(name: str) -> str:
        found = values(name)
        return f"{np.mean(found):.3f}" if found else ""

    def milliseconds(name: str, percentile: int) -> str:
        found = values(name)
        return f"{np.percentile(found, percentile) * 1_000:.2f}" if found else ""

    counts = [str(sum(one["outcome"] == outcome for one in some)) for outcome in ("failed", "empty")]
    times = [milliseconds(name, percentile) for name in ("live_seconds", "seconds") for percentile in (50, 99)]
    return [surface, str(len(some)), *counts, mean("overlap"), mean("correlation"), *times]


def print_shadow(path: Path, console: Console) -> None:
    """The table.

    Raises:
        UserError: nothing was compared yet.
    """
    table = Table(*COLUMNS)
    for row in summed_up(read_comparisons(path)):
        table.add_row(*row)
    console.print(table)

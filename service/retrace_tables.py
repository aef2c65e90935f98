"""An answer made again, for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.retrace import Candidate, Retraced


def as_json(found: Retraced, number: int, asked_for: Sequence[str]) -> dict[str, Any]:
    """All of it; the first `number` candidates, and why each of `asked_for` was not shown."""
    row, ranking = found.row, found.answer.ranking
    return {
        "request_id": row["request_id"],
        "occurred_at": f"{row['occurred_at'].isoformat()}Z",
        "model_version": row["model_version"],
        "surface": row["surface"],
        "request": row["request"],
        "arms": row["arms"],
        "equal": found.is_equal,
        "doubts": list(found.doubts),
        "logged": list(found.logged),
        "items": [
            {"item_id": item, "score": score, "source": source, "rules": list(found.moved_by.get(item, ()))}
            for item, score, source in zip(found.items, ranking.scores.tolist(), ranking.sources, strict=True)
        ],
        "rules": {name: str(outcome) for name, outcome in found.answer.outcomes.items()},
        "removed_by_rule": {name: int(gone.sum()) for name, gone in found.removed.items()},
        "candidates": [
            {
                "item_id": one.item_id,
                "place": one.place,
                "rank": one.rank,
                "score": one.score,
                "sources": {name: {"rank": rank, "score": score} for name, (rank, score) in one.sources.items()},
            }
            for one in found.candidates[:number]
        ],
        "why": {item: found.why(item) for item in asked_for},
    }


def print_retraced(found: Retraced, number: int, asked_for: Sequence[str], console: Console) -> None:
    """The same as tables."""
    row = found.row
    console.print(
        f"{row['request_id']}: {row['surface']} at {row['occurred_at']} UTC, [bold]{row['model_version']}[/bold]"
    )
    verdict = "equal to what was logged" if found.is_equal else "NOT equal to what was logged"
    console.print(f"made again: {verdict}")
    for doubt in found.doubts:
        console.print(Text(f"  in doubt: {doubt}"), soft_wrap=True)
    if not found.is_equal:
        console.print(Text(f"  logged: {', '.join(found.logged) or 'nothing'}"), soft_wrap=True)
        console.print(Text(f"  now:    {', '.join(found.items) or 'nothing'}"), soft_wrap=True)
    for name, outcome in found.answer.outcomes.items():
        gone = found.removed.get(name)
        console.print(
            Text(f"rule {name!r}: {outcome}" + ("" if gone is None else f", took out {int(gone.sum()):,} items"))
        )
    table = Table("place", "item", "rank", "score", "sources: rank, score", "moved by rules", title="Candidates")
    for one in found.candidates[:number]:
        table.add_row(*_cells(one), ", ".join(found.moved_by.get(one.item_id, ())))
    console.print(table)
    for item in asked_for:
        console.print(Text(f"{item}: {found.why(item)}"), soft_wrap=True)


def _cells(one: Candidate) -> tuple[str, str, str, str, str]:
    sources = "; ".join(f"{name} {rank}, {score:.4g}" for name, (rank, score) in one.sources.items())
    score = "" if one.score is None else f"{one.score:.4g}"
    return str(one.place or ""), one.item_id, str(one.rank or ""), score, sources

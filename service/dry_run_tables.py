"""A dry run of rules as tables for a terminal, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.rules.worth import Worth
from service.dry_run import DryRun, Example

_SHOWN: Final = 8
"""Items of an example's answer that are printed."""


def as_json(run: DryRun, requests_from: str) -> dict[str, Any]:
    """Everything, fit for `orjson.dumps`."""
    return {"requests_from": requests_from, **asdict(run), "never_in_force": run.idle}


def print_dry_run(run: DryRun, requests_from: str, currency: str, console: Console) -> None:
    """Print what a rule file would have done."""
    console.print(f"rules [bold]{run.version}[/bold]: {len(run.effects)} in use, tried on {requests_from}")
    for title, lines in (("not in the catalogue", run.warnings), ("contradictions", run.contradictions)):
        if lines:
            console.print(f"[yellow]{title}[/yellow]")
            for line in lines:
                console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    if not run.requests:
        return
    share = run.changed / run.requests
    console.print(
        f"{run.changed:,} of {run.requests:,} answers change ({share:.1%}); "
        f"items missing: {run.short_before:,} without rules, {run.short_after:,} with them"
    )
    for example in run.examples:
        console.print(_example(example), soft_wrap=True, highlight=False)
    console.print(_prices(run, currency))
    if run.idle:
        console.print(f"[yellow]never in force[/yellow]: {escape(', '.join(run.idle))}", soft_wrap=True)
    console.print(f"[dim]purchases are in {escape(run.unit)}[/dim]", soft_wrap=True)


def _example(example: Example) -> str:
    moved = [
        f"{item} ({', '.join(by)})" if by else item for item, by in zip(example.after, example.moved_by, strict=True)
    ]
    who = example.user_id or "a shopper"
    return escape(
        f"  {example.surface}, {who}\n    without  {'  '.join(example.before[:_SHOWN])}\n    with     {'  '.join(moved[:_SHOWN])}"
    )


def _prices(run: DryRun, currency: str) -> Table:
    """Each rule's price, and what all of them cost together."""
    title = "The price of each rule: predicted with all rules, less with all but this one"
    table = Table(title=title, title_justify="left")
    table.add_column("rule", no_wrap=True)
    for name in ("in force", "failed", "unmet", "changes", "purchases", "of all", currency):
        table.add_column(name, justify="right", no_wrap=True)
    base = run.without_rules.purchases
    for effect in run.effects.values():
        counts = (effect.in_force, effect.failed, effect.unmet, effect.changed)
        table.add_row(escape(effect.rule), *(f"{n:,}" for n in counts), *_amounts(effect.price, base))
    table.add_section()
    table.add_row("all rules", "", "", "", f"{run.changed:,}", *_amounts(run.with_rules - run.without_rules, base))
    return table


def _amounts(price: Worth, base: float) -> tuple[str, str, str]:
    """Purchases, their share of all without rules, and revenue."""
    return f"{price.purchases:+,.2f}", _share(price.purchases, base), f"{price.revenue_cents / 100:+,.2f}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:+.2%}" if whole else "–"

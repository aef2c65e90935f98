"""A return as people and programs read it: tables on the terminal, and JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.experiments.roi import (
    MISSING,
    Figure,
    Inputs,
    Return,
    break_even,
    reckon,
    sensitivity,
    steps,
)

COLUMNS = ("incremental revenue a year", "contribution", "cost", "ROI", "payback, months")


def print_roi(inputs: Inputs, console: Console, *, is_case_study: bool) -> None:
    """The steps to the whole reckoning, the sensitivity, and what was assumed."""
    years = f"{inputs.years:g} year{'s' if inputs.years != 1 else ''}"
    table = Table("reckoned with", *COLUMNS, title=f"Return over {years}, {inputs.currency}, 95% intervals")
    for name, found in steps(inputs):
        table.add_row(name, *_cells(found))
    console.print(table)
    table = Table("model as good as", *COLUMNS, title="What if the model is only so good?")
    for share, found in sensitivity(inputs):
        table.add_row(f"{share:.0%}", *_cells(found))
    console.print(table)
    console.print(Text(_in_words(inputs)), soft_wrap=True)
    if is_case_study:
        console.print(
            "The case study reckons (3,200,000 - 18,000) / 18,000 = 17,678%, and says 17,700%. What is missing there:",
            soft_wrap=True,
            highlight=False,
        )
        for line in MISSING:
            console.print(Text(f"- {line}"), soft_wrap=True)


def _in_words(inputs: Inputs) -> str:
    share, found = break_even(inputs), reckon(inputs)
    if share is None:
        return "It earns nothing, however good the model is."
    if share > 1:
        return f"It does not earn its cost in this time: the model would have to be {share:.2f} times as good."
    sure = "" if found.contribution.low >= found.cost else " The lower end of the interval does not earn it."
    return f"It earns its cost as long as the model is {share:.1%} as good or better.{sure}"


def _cells(found: Return) -> tuple[str, ...]:
    months = _months(found.payback_months)
    if found.payback_best != found.payback_worst:
        months += f" [{_months(found.payback_best)}, {_months(found.payback_worst)}]"
    return (
        _money(found.incremental_per_year),
        _money(found.contribution),
        f"{found.cost:,.0f}",
        _percent(found.roi),
        months,
    )


def _months(months: float | None) -> str:
    return "never" if months is None else f"{months:.1f}"


def _money(figure: Figure) -> str:
    return _with_interval(figure, "{:,.0f}")


def _percent(figure: Figure) -> str:
    return _with_interval(figure, "{:,.0%}")


def _with_interval(figure: Figure, form: str) -> str:
    value = form.format(figure.value)
    return value if figure.low == figure.high else f"{value} [{form.format(figure.low)}, {form.format(figure.high)}]"


def as_json(inputs: Inputs, *, is_case_study: bool) -> dict[str, Any]:
    """All that `print_roi` prints; shares as numbers, 1.0 is 100%."""
    return {
        "inputs": inputs.model_dump(mode="json"),
        "return": asdict(reckon(inputs)),
        "steps": [{"reckoned_with": name, **asdict(found)} for name, found in steps(inputs)],
        "sensitivity": [{"accuracy": share, **asdict(found)} for share, found in sensitivity(inputs)],
        "break_even_accuracy": break_even(inputs),
        "missing_in_the_case_study": list(MISSING) if is_case_study else [],
    }

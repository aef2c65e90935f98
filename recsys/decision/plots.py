"""The report's pictures, as SVG that stands inside the page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import polars as pl
from matplotlib.figure import Figure

from recsys.decision.evidence import Trial

BLUE, RED, GREY = "#2b6cb0", "#c53030", "#718096"


def lifts(trial: Trial) -> str:
    """Every metric's relative change, with the interval of one look and the one that holds at any number of looks."""
    rows = [
        row
        for row in trial.readout.lifts.filter(arm=trial.arm.name, status="ok").iter_rows(named=True)
        if row["relative"] is not None
    ]
    figure, axis = _axis(height=1.2 + 0.42 * len(rows))
    for place, row in enumerate(reversed(rows)):
        for prefix, width, color in (("sequential_", 1.5, GREY), ("", 4.0, BLUE)):
            ends = [row[f"{prefix}relative_low"], row[f"{prefix}relative_high"]]
            axis.plot(ends, [place, place], color=color, linewidth=width, solid_capstyle="butt")
        axis.plot(row["relative"], place, "o", color=BLUE, markersize=6)
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row["metric"] for row in reversed(rows)])
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:+.0%}")
    axis.set_xlabel(
        f"{trial.arm.name} against {trial.experiment.control}; thick: 95% at one look, thin: at any number of looks"
    )
    return as_svg(figure)


def daily_ctr(trial: Trial) -> str:
    """Clicks per exposure of the arm and the control, day by day over all surfaces."""
    figure, axis = _axis(height=2.8)
    for arm, color in ((trial.experiment.control, GREY), (trial.arm.name, BLUE)):
        days = (
            trial.days.filter(arm=arm)
            .group_by("day")
            .agg(pl.col("clicks").sum(), pl.col("exposures").sum())
            .filter(pl.col("exposures") > 0)
            .sort("day")
        )
        axis.plot(days["day"], days["clicks"] / days["exposures"], marker="o", markersize=3, color=color, label=arm)
    axis.yaxis.set_major_formatter(lambda share, _: f"{share:.2%}")
    axis.set_ylim(bottom=0)
    axis.set_ylabel("clicks per exposure")
    axis.legend(frameon=False)
    figure.autofmt_xdate()
    return as_svg(figure)


def slices(frame: pl.DataFrame, window: str) -> str:
    """The offline figure of every slice: the candidate's change against the champion."""
    rows = frame.filter(window=window).drop_nulls("relative")
    figure, axis = _axis(height=1.0 + 0.36 * len(rows))
    changes: Sequence[float] = rows["relative"].to_list()[::-1]
    axis.barh(range(len(changes)), changes, color=[BLUE if change >= 0 else RED for change in changes])
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(changes)), rows["slice"].to_list()[::-1])
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:+.1%}")
    axis.set_xlabel("candidate against champion, NDCG@20")
    return as_svg(figure)


def _axis(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.6, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def as_svg(figure: Figure) -> str:
    """A picture that stands inside a page; its words are text."""
    target = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "recsys"}):
        figure.savefig(
            target, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), transparent=True
        )
    text = target.getvalue()
    return text[text.index("<svg") :]

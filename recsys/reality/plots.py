"""The reality check's pictures, as SVG that stands inside the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure as Picture

from recsys.decision.plots import BLUE, GREY, RED, as_svg
from recsys.experiments.roi import Figure
from recsys.reality.arms import ENSEMBLE, POPULARITY, RANDOM, SIMPLE
from recsys.reality.check import Check

GREEN = "#2f855a"


def accuracy_curve(check: Check) -> str:
    """CTR, revenue and return by how accurate the model is, beside what needs no learning."""
    trial, best = check.trial, check.best_simple
    picture = Picture(figsize=(11, 3.6), layout="constrained")
    panels: Sequence[tuple[str, Callable[[str], Figure], str]] = (
        ("CTR over random items", trial.lift, "{:+.0%}"),
        ("incremental revenue a year, USD", lambda arm: check.returns(arm, RANDOM).incremental_per_year, "{:,.0f}"),
        ("return on cost of a year", lambda arm: check.returns(arm, RANDOM).roi, "{:,.0%}"),
    )
    for axis, (title, of, form) in zip(picture.subplots(1, len(panels)), panels, strict=True):
        accuracies = [accuracy.value for accuracy, _ in check.curve]
        figures = [of(arm) for _, arm in check.curve]
        axis.errorbar(
            accuracies, [one.value for one in figures], yerr=_reach(figures), color=BLUE, marker="o", capsize=3
        )
        for arm, color in ((POPULARITY, GREY), (best, GREEN)):
            axis.axhline(of(arm).value, color=color, linestyle="--", linewidth=1, label=arm.replace("_", " "))
        axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axis.yaxis.set_major_formatter(lambda value, _, form=form: form.format(value))
        axis.set(title=title, xlabel="accuracy left, measured")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=min(0.0, *(one.low for one in figures)))
    axis.legend(frameon=False, fontsize="small")
    return as_svg(picture)


def simple_arms(check: Check) -> str:
    """CTR over random of what needs no learning and of the ensemble: the truth, and what the report reads from the log of those that were in the experiment."""
    arms = (*SIMPLE, ENSEMBLE)
    picture = Picture(figsize=(8.6, 3.2), layout="constrained")
    axis: Any = picture.subplots()
    for place, arm in enumerate(reversed(arms)):
        read, true = check.trial.read_lift(arm), check.trial.lift(arm)
        if read is not None:
            axis.plot([read.low, read.high], [place, place], color=GREY, linewidth=5, alpha=0.5, solid_capstyle="butt")
        axis.plot(true.value, place, "o", color=GREEN if arm == ENSEMBLE else BLUE, markersize=8)
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in reversed(arms)])
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:+.0%}")
    axis.set_xlabel(
        "CTR over random items; dots: the truth; bars: 95% as the report reads the log of the experiment, for its arms"
    )
    axis.spines[["top", "right"]].set_visible(False)
    return as_svg(picture)


def rollback_timeline(check: Check) -> str:
    """Answers by the bundle that gave them, while another one goes live."""
    changes = check.rollback.changes
    picture = Picture(figsize=(11, 2.9), layout="constrained")
    for axis, change in zip(picture.subplots(1, len(changes), sharey=True), changes, strict=True):
        moments, old, new, failed = zip(*change.timeline, strict=True)
        for counts, bottom, color, label in (
            (old, [0] * len(old), GREY, "the bundle before"),
            (new, old, BLUE, "the other bundle"),
            (failed, [a + b for a, b in zip(old, new, strict=True)], RED, "no answer"),
        ):
            axis.bar(moments, counts, bottom=bottom, width=0.25, align="edge", color=color, label=label)
        for moment, style in ((change.pointer_seconds, ":"), (change.switched_seconds, "-")):
            axis.axvline(moment, color="black", linestyle=style, linewidth=1)
        axis.set(title=change.command, xlabel="seconds since the command")
        axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
    return as_svg(picture)


def _reach(figures: Sequence[Figure]) -> list[list[float]]:
    return [[one.value - one.low for one in figures], [one.high - one.value for one in figures]]

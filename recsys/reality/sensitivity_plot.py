"""The lifts over the range of each assumption, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl
from matplotlib.figure import Figure

from recsys.simulation.constants import Constants

COLOURS: Final = {"popularity": "#8c8c8c", "phase1": "#4c72b0", "phase2": "#dd8452", "phase3": "#55a868"}


def plot_sensitivity(moved: pl.DataFrame, constants: Constants, path: Path) -> None:
    """Write a picture of `recsys.reality.outcome.Outcome.moved`: a panel for each assumption, a line for each arm, and where the simulator stands."""
    names = moved["constant"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    panels = figure.subplots(2, -(-len(names) // 2), sharey=True).flat
    for axis, name in zip(panels, names, strict=False):
        for arm, colour in COLOURS.items():
            line = moved.filter(constant=name, arm=arm)
            axis.plot(line["value"], 100 * line["lift"], color=colour, marker=".", label=arm)
        axis.axvline(getattr(constants.clicks, name), color="#222222", linestyle=":", linewidth=1)
        axis.axhline(0, color="#222222", linewidth=0.5)
        axis.set(xlabel=name.replace("_", " "))
        axis.spines[["top", "right"]].set_visible(False)
    figure.supylabel("true CTR lift over random in %")
    axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)

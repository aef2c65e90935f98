"""A return as a picture: contribution against cost by how good the model is, and when the money is back."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recsys.experiments.roi import Inputs, ROIError, product, reckon, sensitivity

MONTHS: Final = 36


def plot_roi(inputs: Inputs, path: Path) -> None:
    """Write a picture; its format is the file's ending.

    Raises:
        ROIError: no such format, or the file cannot be written.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_accuracy, over_time = figure.subplots(1, 2)
    _by_accuracy(by_accuracy, inputs)
    _over_time(over_time, inputs)
    for axis in (by_accuracy, over_time):
        axis.yaxis.set_major_formatter(lambda money, _: f"{money:,.0f}")
        axis.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ROIError(f"{path} cannot be written: {error}") from error


def _by_accuracy(axis: Axes, inputs: Inputs) -> None:
    """Bars of contribution with their intervals and ROI, under the line of cost."""
    found = list(sensitivity(inputs))[::-1]
    places = np.arange(len(found))
    values = [one.contribution.value for _, one in found]
    errors = [
        [one.contribution.value - one.contribution.low for _, one in found],
        [one.contribution.high - one.contribution.value for _, one in found],
    ]
    bars = axis.bar(
        places,
        values,
        yerr=errors if np.any(errors) else None,
        color="#4c72b0",
        ecolor="#222222",
        capsize=3,
        label="contribution, 95% interval" if np.any(errors) else "contribution",
    )
    axis.bar_label(bars, [f"ROI {one.roi.value:,.0%}" for _, one in found], padding=3, fontsize="small")
    axis.axhline(inputs.cost, color="#c44e52", linestyle="--", label="cost")
    axis.set_xticks(places, [f"{share:.0%}" for share, _ in found])
    axis.margins(y=0.25)
    axis.set(
        title="If the model is only so good", xlabel="accuracy", ylabel=f"{inputs.currency}, years: {inputs.years:g}"
    )
    axis.legend(fontsize="small", loc="upper left")


def _over_time(axis: Axes, inputs: Inputs) -> None:
    """Money earned less money spent, by month."""
    months = np.arange(MONTHS + 1)
    a_year = product(inputs.incremental, inputs.margin)
    lines = [
        (bound - inputs.infrastructure_per_year) / 12 * months - inputs.people_cost
        for bound in (a_year.value, a_year.low, a_year.high)
    ]
    axis.plot(months, lines[0], color="#4c72b0", label="earned less spent")
    if a_year.low < a_year.high:
        axis.fill_between(months, lines[1], lines[2], color="#4c72b0", alpha=0.2, label="95% interval")
    axis.axhline(0, color="#999999", linewidth=1)
    payback = reckon(inputs).payback_months
    if payback is not None and 0 < payback <= MONTHS:
        axis.axvline(payback, color="#c44e52", linestyle="--", label=f"paid back after {payback:.1f} months")
    axis.set(title="Until the money is back", xlabel="months since launch", ylabel=inputs.currency)
    axis.legend(fontsize="small", loc="lower right")

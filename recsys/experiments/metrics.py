"""What experiments measure: every metric is a sum over units divided by another, or by the number of units. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from recsys.tables import Column, Table


@dataclass(frozen=True, slots=True)
class Metric:
    """`sum(numerator) / sum(denominator)` of an arm's units; without a denominator, the mean of the numerator over units."""

    name: str
    meaning: str
    numerator: str
    denominator: str | None = None
    better: Literal["higher", "lower"] = "higher"
    covariate: str | None = None
    """Column of the pre-period that CUPED adjusts by; None for no adjustment."""
    covariate_denominator: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What it needs of the period itself."""
        return tuple(name for name in (self.numerator, self.denominator) if name is not None)

    @property
    def covariates(self) -> tuple[str, ...]:
        """What its adjustment needs of the pre-period."""
        return tuple(name for name in (self.covariate, self.covariate_denominator) if name is not None)


def _adjusted(name: str, meaning: str, numerator: str, denominator: str | None = None) -> Metric:
    """A metric whose covariate is itself in the pre-period."""
    before = None if denominator is None else f"pre_{denominator}"
    return Metric(name, meaning, numerator, denominator, "higher", f"pre_{numerator}", before)


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        _adjusted("ctr", "clicks per exposure", "clicks", "exposures"),
        _adjusted("cart_rate", "items put in the cart per exposure", "carts", "exposures"),
        _adjusted("conversion", "orders per exposure", "orders", "exposures"),
        _adjusted("clicks_per_unit", "clicks of a unit", "clicks"),
        _adjusted("orders_per_unit", "orders of a unit", "orders"),
        _adjusted("revenue_per_unit", "revenue of a unit, in cents", "revenue_cents"),
        _adjusted("order_value", "revenue of an order, in cents", "revenue_cents", "orders"),
        Metric("returns", "returned orders per order", "returns", "orders", "lower"),
        Metric("latency", "milliseconds per answer", "latency_ms", "answers", "lower"),
        Metric("errors", "failed or degraded answers per answer", "errors", "answers", "lower"),
    )
}

_SUMS: Final = {
    "exposures": "items shown and seen",
    "clicks": "on exposures",
    "carts": "items put in the cart from exposures",
    "orders": "that follow from exposures",
    "revenue_cents": "of those orders",
    "returns": "of those orders, returned",
    "answers": "to the unit's requests",
    "errors": "answers that failed or were degraded",
    "latency_ms": "sum over answers",
}

EXPERIMENT_UNITS: Final = Table(
    "experiment_units",
    grain="one randomisation unit in one arm of one experiment: sums from its first exposure on",
    key=("unit", "arm"),
    order_by=("arm", "unit"),
    columns=(
        Column("unit", "VARCHAR", "recsys.experiments.assignment.unit_of"),
        Column("arm", "VARCHAR", "where it was exposed; a unit in several arms has a row for each"),
        *(Column(name, "DOUBLE", meaning, nullable=True) for name, meaning in _SUMS.items()),
        *(
            Column(f"pre_{name}", "DOUBLE", f"{meaning}, before its first exposure", nullable=True)
            for name, meaning in _SUMS.items()
        ),
    ),
)
"""What `recsys.experiments.analysis.read_out` takes. A nullable column may be missing, which is no data; a null in one is 0: the unit did nothing."""

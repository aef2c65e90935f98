"""What experiments measure: every metric is a sum over units divided by another, or by the number of units. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


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
    is_share: bool = False
    """Whether the numerator counts some of what the denominator counts, so that it lies between 0 and 1."""

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
        _adjusted("orders_per_unit", "attributed orders of a unit", "orders"),
        _adjusted("revenue_per_unit", "attributed revenue of a unit, in cents", "revenue_cents"),
        _adjusted("total_orders_per_unit", "all orders of a unit, attributed or not", "total_orders"),
        _adjusted(
            "total_revenue_per_unit",
            "all revenue of a unit, in cents: its difference is incremental",
            "total_revenue_cents",
        ),
        _adjusted("order_value", "revenue of an order, in cents", "revenue_cents", "orders"),
        Metric("returns", "returned orders per order", "returns", "orders", "lower", is_share=True),
        Metric("latency", "milliseconds per answer", "latency_ms", "answers", "lower"),
        Metric("errors", "failed or degraded answers per answer", "errors", "answers", "lower", is_share=True),
    )
}

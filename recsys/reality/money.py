"""What an experiment's gain is worth in a shop of a stated size, and what serving it costs at stated rates.

Every figure that is not measured is a field with a default here, and an option of the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from recsys.experiments.roi import CASE_STUDY, Figure, Inputs

SECONDS_PER_YEAR: Final = 365 * 24 * 3_600
HOURS_PER_YEAR: Final = 365 * 24
MIB_PER_GIB: Final = 1_024
LEAST_CORES: Final = 2
"""So that one may fail."""


@dataclass(frozen=True, slots=True)
class Shop:
    """The shop that the figures are scaled to: an assumption."""

    visits_per_year: float = 10_000_000
    peak: float = 10.0
    """Paid for is so many times the mean traffic, all year."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine costs, in USD: list prices of containers by the second (AWS Fargate, Linux on x86, us-east-1, 2026)."""

    core_hour: float = 0.04048
    gib_hour: float = 0.004445


@dataclass(frozen=True, slots=True)
class Serving:
    """What answering takes, as the drill measured it."""

    pages_per_core_second: float
    """Answers, each with the event that confirms it."""
    worker_mib: float
    """Proportional memory of one worker."""
    other_mib: float
    """Of Redis and of the process that looks after the workers."""


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """What has to be paid for."""

    pages_per_second: float
    """At the peak."""
    cores: int
    gib: float
    per_year: float
    per_million_pages: float


def infrastructure(shop: Shop, rates: Rates, serving: Serving, pages_per_visit: float) -> Infrastructure:
    """Cores and memory for the peak, with a worker on each core, all year."""
    a_year = shop.visits_per_year * pages_per_visit
    peak = shop.peak * a_year / SECONDS_PER_YEAR
    cores = max(LEAST_CORES, ceil(peak / serving.pages_per_core_second))
    gib = (cores * serving.worker_mib + serving.other_mib) / MIB_PER_GIB
    per_year = HOURS_PER_YEAR * (cores * rates.core_hour + gib * rates.gib_hour)
    return Infrastructure(peak, cores, gib, per_year, per_year / a_year * 1e6)


def roi_inputs(cents_per_visit: Figure, shop: Shop, cost: Infrastructure) -> Inputs:
    """A year's reckoning. Margin and people are those that `recsys roi` assumes for the case study."""
    return Inputs(
        incremental_per_year=cents_per_visit.scaled(shop.visits_per_year / 100),
        margin=CASE_STUDY.margin,
        infrastructure_per_year=cost.per_year,
        people=CASE_STUDY.people,
    )

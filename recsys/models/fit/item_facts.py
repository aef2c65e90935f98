"""Facts about items for a ranker, as they stood at one moment: how wanted, how often bought again, how recently sold."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.dataset import SECONDS_PER_DAY, Catalogue, Dataset
from recsys.models.candidate_features import NEVER, ItemFacts
from recsys.models.fit.popularity import item_scores

DEMAND_HALF_LIVES: Final = (3.0, 10.0, 30.0, 90.0)
GAP_PRIOR: Final = 5.0
"""Smoothing of an item's usual gap between purchases, in gaps of the average item."""
SHARE_PRIOR: Final = 1.0
"""Demand that no item of a group has: one sale is no share of everything."""


def fit_facts(dataset: Dataset, at: int) -> ItemFacts:
    """`dataset` lies before `at`, Unix second."""
    demand = {half_life: item_scores(dataset, at, half_life) for half_life in DEMAND_HALF_LIVES}
    price = dataset.prices_at(at).astype(np.float64)
    log_price = np.log(np.where(price > 0, price, np.nan)).astype(np.float32)
    columns = {f"demand_{half_life:g}": np.log1p(scores) for half_life, scores in demand.items()}
    columns["trend"] = _trend(demand[3.0], demand[90.0])
    columns |= _sales(dataset, at) | _repeats(dataset)
    columns["log_price"] = log_price
    groups = item_groups(dataset.catalogue)
    for name, codes in groups.items():
        columns |= _group_demand(name, codes, demand[10.0], demand[30.0])
    values = np.stack(list(columns.values()), axis=1).astype(np.float32)
    shares = np.stack([_shares(codes, demand[30.0]) for codes in groups.values()])
    return ItemFacts(tuple(columns), values, tuple(groups), np.stack(list(groups.values())), shares, log_price)


def _trend(recent: NDArray[np.float64], lasting: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log((recent + 0.1) / (lasting + 0.1)))


def _sales(dataset: Dataset, at: int) -> dict[str, NDArray[np.float64]]:
    """How many have met each item, how often, and when first and last."""
    events, n = dataset.events, dataset.n_items
    pairs = np.unique(events.shopper.astype(np.int64) * n + events.item)
    shoppers = np.bincount(pairs % n, minlength=n)
    counts = np.bincount(events.item, minlength=n)
    age = (at - events.second) / SECONDS_PER_DAY
    first, last = np.full(n, NEVER), np.full(n, NEVER)
    # Events stand in order of time; of several assignments to one place the last stays.
    last[events.item] = age
    first[events.item[::-1]] = age[::-1]
    return {
        "shoppers": np.log1p(shoppers),
        "per_shopper": counts / np.maximum(shoppers, 1),
        "first_sold": first,
        "last_sold": last,
    }


def _repeats(dataset: Dataset) -> dict[str, NDArray[np.float64]]:
    """How many of an item's events were followed by another of the same shopper, and after how many days on average."""
    events, n = dataset.events, dataset.n_items
    order = np.lexsort((events.second, events.item, events.shopper))
    shopper, item, second = events.shopper[order], events.item[order], events.second[order]
    again = (shopper[1:] == shopper[:-1]) & (item[1:] == item[:-1])
    gaps, of_item = np.diff(second)[again] / SECONDS_PER_DAY, item[1:][again]
    average = float(gaps.mean()) if len(gaps) else NEVER
    repeats = np.bincount(of_item, minlength=n)
    usual = (np.bincount(of_item, gaps, minlength=n) + GAP_PRIOR * average) / (repeats + GAP_PRIOR)
    return {"repeats": repeats / np.maximum(np.bincount(item, minlength=n), 1), "gap": usual}


def item_groups(catalogue: Catalogue) -> dict[str, NDArray[np.int32]]:
    """Codes `(n_items,)` of each item's category, of the category above it (itself on the first level), and of its brand; -1 where unknown."""
    above = [path.rsplit(" > ", 1)[0] for path in catalogue.categories]
    codes = np.unique(np.array(above, dtype=object).astype(str), return_inverse=True)[1].astype(np.int32)
    parent = np.append(codes, -1)[catalogue.category].astype(np.int32)
    brands = sorted({brand for brand in catalogue.brands if brand})
    number = {brand: code for code, brand in enumerate(brands)}
    brand = np.array([number.get(name or "", -1) for name in catalogue.brands], dtype=np.int32)
    return {"category": catalogue.category.astype(np.int32), "above": parent, "brand": brand}


def _group_demand(
    name: str, codes: NDArray[np.int32], recent: NDArray[np.float64], lasting: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """How wanted an item's group is, and whether it becomes more so."""
    n = int(codes.max(initial=-1)) + 2
    now, usual = (np.bincount(codes % n, scores, minlength=n).astype(np.float64) for scores in (recent, lasting))
    return {f"{name}_demand": np.log1p(usual)[codes], f"{name}_trend": _trend(now, usual)[codes]}


def _shares(codes: NDArray[np.int32], demand: NDArray[np.float64]) -> NDArray[np.float32]:
    """`(n_items,)` float32: each item's share of its group's demand, smoothed by `SHARE_PRIOR` of the group's."""
    n = int(codes.max(initial=-1)) + 2
    total = np.bincount(codes % n, demand, minlength=n)
    return np.asarray(demand / (total[codes] + SHARE_PRIOR), dtype=np.float32)

"""Fitting of the feature encoder: which features a catalogue has, and what is odd about it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from scipy import sparse

from recsys.content import (
    MAX_TEXT_SLOTS,
    MAX_VALUE_SLOTS,
    Block,
    ContentPlan,
    FeatureEncoder,
    ItemContent,
    attribute_values,
    hash_feature,
)
from recsys.dataset import Catalogue
from recsys.ids import HashIndex

MAX_ATTRIBUTES: Final = 8
"""Attributes with features of their own: those that most items have."""
MAX_FEATURES: Final = 200_000
MIN_ITEMS: Final = 2
"""A feature that a single item has says nothing of another."""
PRICE_CLASSES: Final = 16
MANY_VALUES: Final = 1_000
ABSURD_PRICE: Final = 1_000
"""A price is absurd from so many times the 99th percentile on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """Every item's features, as `FeatureEncoder.encode` gives them."""

    encoder: FeatureEncoder
    features: NDArray[np.int32]
    """`(n_items, width)` int32, `NO_FEATURE` in empty slots."""
    weights: NDArray[np.float32]
    """`(n_items, width)` float32."""
    warnings: tuple[str, ...]
    """What is odd about the catalogue, in words."""

    def matrix(self) -> sparse.csr_matrix:
        """`(n_items, n_features)` float32: the weights of each item's features."""
        rows, places = np.nonzero(self.features >= 0)
        shape = (len(self.features), max(1, self.encoder.n_features))
        return sparse.csr_matrix((self.weights[rows, places], (rows, self.features[rows, places])), shape=shape)


def item_contents(catalogue: Catalogue) -> list[ItemContent]:
    """Every row's content; attributes that are no JSON object count as none."""
    return [
        ItemContent(
            title=catalogue.titles[row] if catalogue.titles[row] != catalogue.item_ids[row] else None,
            description=catalogue.descriptions[row],
            category=catalogue.categories[catalogue.category[row]] if catalogue.category[row] >= 0 else None,
            brand=catalogue.brands[row],
            price_cents=int(catalogue.listed_price_cents[row]) if catalogue.listed_price_cents[row] >= 0 else None,
            attributes=_attributes(catalogue.attributes[row]),
        )
        for row in range(len(catalogue))
    ]


def _attributes(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def fit_features(catalogue: Catalogue) -> ItemFeatures:
    """Learn the vocabulary from the catalogue and encode all of it."""
    contents = item_contents(catalogue)[: catalogue.n_listed]
    plan = _plan(contents)
    counts: Counter[tuple[str, str]] = Counter()
    widest: Counter[str] = Counter()
    for content in contents:
        for block, values in plan.values(content):
            counts.update((block, value) for value in dict.fromkeys(values))
            widest[block] = max(widest[block], len(values))
    kept = [(key, n) for key, n in counts.items() if n >= MIN_ITEMS]
    kept.sort(key=lambda pair: (-pair[1], pair[0]))
    kept = kept[:MAX_FEATURES]
    used = {block for (block, _), _ in kept} | {"text"}
    encoder = FeatureEncoder(
        plan=plan,
        blocks=tuple(Block(name, _slots(name, widest[name])) for name in sorted(used)),
        vocabulary=_vocabulary([key for key, _ in kept]),
        idf=np.log(max(1, len(contents)) / np.array([n for _, n in kept] or [1])).astype(np.float32)[: len(kept)]
        + np.float32(1e-3),
    )
    features = np.full((len(catalogue), encoder.width), -1, dtype=np.int32)
    weights = np.zeros((len(catalogue), encoder.width), dtype=np.float32)
    for row, content in enumerate(contents):
        features[row], weights[row] = encoder.encode(content)
    found = tuple(_odd(contents, features, counts))
    for warning in found:
        logger.warning(warning)
    return ItemFeatures(encoder, features, weights, found)


def _slots(block: str, widest: int) -> int:
    return min(max(1, widest), MAX_TEXT_SLOTS if block == "text" else MAX_VALUE_SLOTS)


def _vocabulary(keys: Sequence[tuple[str, str]]) -> HashIndex:
    hashes = np.array([hash_feature(*key) for key in keys], dtype=np.uint64)
    rows = np.argsort(hashes, kind="stable")
    return HashIndex(hashes[rows], rows.astype(np.int32))


def _plan(contents: Sequence[ItemContent]) -> ContentPlan:
    present: Counter[str] = Counter()
    several: set[str] = set()
    for content in contents:
        for name, value in content.attributes.items():
            values = attribute_values(value)
            present[name] += bool(values)
            if len(values) > 1:
                several.add(name)
    attributes = [name for name, n in sorted(present.items(), key=lambda pair: (-pair[1], pair[0])) if n >= MIN_ITEMS]
    own = tuple(attributes[:MAX_ATTRIBUTES])
    prices = [
        content.price_cents for content in contents if content.price_cents is not None and content.price_cents > 0
    ]
    edges: tuple[int, ...] = ()
    if len(prices) >= PRICE_CLASSES:
        edges = tuple(int(edge) for edge in np.unique(np.quantile(prices, np.linspace(0, 1, PRICE_CLASSES + 1)[1:-1])))
    crossed = ("category", "category above", "brand", *[name for name in own if name not in several][:3])
    return ContentPlan(own, crossed, edges)


def _odd(
    contents: Sequence[ItemContent], features: NDArray[np.int32], counts: Counter[tuple[str, str]]
) -> Iterable[str]:
    """What in the catalogue will not help, each named."""
    n = len(contents)
    for name, missing in (
        ("a title", sum(not content.title for content in contents)),
        ("a category", sum(not content.category for content in contents)),
    ):
        if missing:
            yield f"{missing:,} of {n:,} items have no {name.removeprefix('a ')}"
    empty = int((features[:n] < 0).all(axis=1).sum())
    if empty:
        yield f"{empty:,} of {n:,} items have no feature that another item shares: content cannot place them"
    prices = np.array([content.price_cents for content in contents if content.price_cents], dtype=np.float64)
    if len(prices):
        limit = ABSURD_PRICE * float(np.percentile(prices, 99))
        absurd = int((prices > limit).sum())
        if absurd:
            yield f"{absurd:,} items cost more than {limit / 100:,.0f}, {ABSURD_PRICE:,} times the 99th percentile: check their prices"
    values = Counter(block for block, _ in counts)
    single = Counter(block for (block, _), times in counts.items() if times < MIN_ITEMS)
    for block, distinct in sorted(values.items()):
        if distinct > MANY_VALUES and " x " not in block and block != "text" and single[block] > 0.9 * distinct:
            yield (
                f"{block!r} has {distinct:,} different values, {single[block]:,} of them on one item only: "
                "those are left out (is it an identifier?)"
            )

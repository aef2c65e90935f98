"""Fitting of the feature encoder: which features a catalogue has, and what is odd about it."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from scipy import sparse

from recsys.content import (
    CROSS,
    MAX_TEXT_SLOTS,
    MAX_VALUE_SLOTS,
    NO_FEATURE,
    PRICE,
    Block,
    ContentPlan,
    FeatureEncoder,
    ItemContent,
    attribute_block,
    attribute_number,
    attribute_values,
    hash_feature,
)
from recsys.dataset import Catalogue
from recsys.ids import HashIndex
from recsys.ranking import Mask

MAX_ATTRIBUTES: Final = 8
"""Attributes with features of their own: those that most items have."""
MAX_NAMED: Final = 20
"""Attributes that one warning names."""
MAX_FEATURES: Final = 200_000
MIN_ITEMS: Final = 2
"""A feature that a single item has says nothing of another."""
MAX_FEATURE_ITEMS: Final = 2_000
"""Features that more items share are left out where items are compared."""
NEIGHBOUR_ROWS: Final = 2_000
"""Items whose neighbours are sought at once."""
PRICE_CLASSES: Final = 16
NUMBER_CLASSES: Final = 32
NUMBER_SHARE: Final = 0.95
"""An attribute is a number where so many of its values are, ..."""
DISTINCT_SHARE: Final = 0.5
"""... and measures or counts where so many of them are different."""
MANY_VALUES: Final = 1_000
ABSURD_PRICE: Final = 1_000
"""A price is absurd from so many times the 99th percentile on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemFeatures:
    """Every item's features, as `FeatureEncoder.encode` gives them."""

    encoder: FeatureEncoder
    features: NDArray[np.int32]
    """`(n_items, width)` int32, `NO_FEATURE` in empty slots."""
    weights: NDArray[np.float32]
    """`(n_items, width)` float32."""
    warnings: tuple[str, ...]
    """What is odd about the catalogue, in words."""

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """`(n_items, n_features)` float32: the weights of each item's features."""
        rows, places = np.nonzero(self.features >= 0)
        shape = (len(self.features), max(1, self.encoder.n_features))
        return sparse.csr_matrix((self.weights[rows, places], (rows, self.features[rows, places])), shape=shape)

    @cached_property
    def members(self) -> sparse.csr_matrix:
        """`(n_features, n_items)` float32: 1 where an item has a feature."""
        members = sparse.csr_matrix(self.matrix.T)
        members.data = np.ones_like(members.data)
        return members

    def rows(self) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
        """`(m, n_items)` float32 of ones, a row for each feature that tells items apart, and how much each row weighs, `(m,)`.

        Features weigh the square of their inverse document frequency; those of the average item weigh 1 together.
        """
        # The matrix has a column also where there is no feature.
        telling = np.flatnonzero(self._tells()[: self.encoder.n_features])
        rows, weight = self.members[telling], self.encoder.idf[telling].astype(np.float64) ** 2
        return rows, weight / max(float(np.mean(rows.T @ weight)), 1e-12)

    def nearest(self, asked: Mask, offered: Mask, k: int) -> sparse.csr_matrix:
        """`(n_items, n_items)` float32: the k largest cosines of each `asked` item with others, those that are `offered`."""
        telling = sparse.csr_matrix(self.matrix @ sparse.diags_array(self._tells().astype(np.float32)))
        others = sparse.csr_matrix(sparse.diags_array(offered.astype(np.float32)) @ telling).T
        items = np.flatnonzero(asked)
        found = []
        for start in range(0, len(items), NEIGHBOUR_ROWS):
            own = items[start : start + NEIGHBOUR_ROWS]
            part = sparse.csr_matrix(telling[own] @ others).tocoo()
            keep = part.col != own[part.row]
            order = np.lexsort((part.col[keep], -part.data[keep], part.row[keep]))
            row, column, value = (array[keep][order] for array in (part.row, part.col, part.data))
            best = _rank_in_runs(row) < k
            found.append((own[row[best]], column[best], value[best]))
        row, column, value = (np.concatenate(parts) for parts in zip(*found, strict=True)) if found else ([], [], [])
        return sparse.csr_matrix((value, (row, column)), shape=(len(self.features),) * 2, dtype=np.float32)

    def _tells(self) -> Mask:
        """`(n_features,)`: a feature that many items share tells nothing apart, and costs a product with each of them."""
        return np.asarray(np.diff(self.members.indptr) <= MAX_FEATURE_ITEMS)


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


@lru_cache(maxsize=1)
def fit_features(catalogue: Catalogue) -> ItemFeatures:
    """Learn the vocabulary from the catalogue and encode all of it; several recommenders ask for the same one."""
    contents = item_contents(catalogue)[: catalogue.n_listed]
    attributes = _attribute_names(contents)
    plan = _plan(contents, attributes)
    told = _Told.of(contents, plan)
    counts = told.counts()
    shared = sorted(np.flatnonzero(counts >= MIN_ITEMS).tolist(), key=lambda code: (-counts[code], told.keys[code]))
    kept = np.array(shared[:MAX_FEATURES], dtype=np.intp)
    used = {told.keys[code][0] for code in kept.tolist()} | {"text"}
    encoder = FeatureEncoder(
        plan=plan,
        blocks=tuple(Block(name, _slots(name, told.widest[name])) for name in sorted(used)),
        vocabulary=_vocabulary([told.keys[code] for code in kept.tolist()]),
        idf=(np.log(max(1, len(contents)) / counts[kept]) + 1e-3).astype(np.float32),
    )
    features, weights = _encode(encoder, told, kept, len(catalogue))
    found = (*_left_out(attributes), *_odd(contents, features, told))
    for warning in found:
        logger.warning(warning)
    return ItemFeatures(encoder, features, weights, found)


@dataclass(frozen=True)
class _Told:
    """What all items' contents say, as codes of blocks and values."""

    keys: tuple[tuple[str, str], ...]
    """Block and value by code."""
    items: NDArray[np.int32]
    """`(n,)` row of each mention, ascending; no item mentions a code twice."""
    codes: NDArray[np.int32]
    """`(n,)` what is mentioned, in the order of `ContentPlan.values`."""
    widest: Counter[str]
    """The most values that an item has of a block."""

    @classmethod
    def of(cls, contents: Sequence[ItemContent], plan: ContentPlan) -> _Told:
        code_of: dict[tuple[str, str], int] = {}
        widest: Counter[str] = Counter()
        items, codes = array("i"), array("i")
        for row, content in enumerate(contents):
            for block, values in plan.values(content):
                widest[block] = max(widest[block], len(values))
                for value in dict.fromkeys(values):
                    items.append(row)
                    codes.append(code_of.setdefault((block, value), len(code_of)))
        return cls(tuple(code_of), np.array(items, dtype=np.int32), np.array(codes, dtype=np.int32), widest)

    def counts(self) -> NDArray[np.intp]:
        """`(n_codes,)`: how many items mention each."""
        return np.bincount(self.codes, minlength=len(self.keys))


def _encode(
    encoder: FeatureEncoder, told: _Told, kept: NDArray[np.intp], n_items: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """`FeatureEncoder.encode` of all items at once; feature f is the code `kept[f]`."""
    features = np.full((n_items, encoder.width), NO_FEATURE, dtype=np.int32)
    feature_of = np.full(len(told.keys), NO_FEATURE, dtype=np.int32)
    feature_of[kept] = np.arange(len(kept), dtype=np.int32)
    known = feature_of[told.codes] >= 0
    items, found = told.items[known], feature_of[told.codes[known]]
    number = {block.name: place for place, block in enumerate(encoder.blocks)}
    block = np.array([number.get(name, 0) for name, _ in told.keys], dtype=np.intp)[told.codes[known]]
    # Of an item's features in one block those that the fewest items share come first where there are too many.
    place = np.arange(len(items))
    group = items.astype(np.int64) * len(number) + block
    by_rarity = np.lexsort((place, -encoder.idf[found], group))
    rank = _rank_in_runs(group[by_rarity])
    slots = np.array([one.slots for one in encoder.blocks], dtype=np.intp)
    crowded = np.bincount(group, minlength=n_items * len(number)) > np.tile(slots, n_items)
    in_order = np.lexsort((place, group))
    slot = np.empty(len(items), dtype=np.intp)
    slot[in_order] = _rank_in_runs(group[in_order])
    is_crowded = crowded[group[by_rarity]]
    slot[by_rarity[is_crowded]] = rank[is_crowded]
    fits = slot < slots[block]
    features[items[fits], encoder.starts[block[fits]] + slot[fits]] = found[fits]
    weights = np.where(features >= 0, np.append(encoder.idf, np.float32(0.0))[features], np.float32(0.0))
    length = np.sqrt((weights * weights).sum(axis=1, keepdims=True))
    return features, np.asarray(weights / np.where(length > 0, length, 1.0), dtype=np.float32)


def _rank_in_runs(groups: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Positions, from 0, within runs of equal values of ascending `groups`."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


def _slots(block: str, widest: int) -> int:
    return min(max(1, widest), MAX_TEXT_SLOTS if block == "text" else MAX_VALUE_SLOTS)


def _vocabulary(keys: Sequence[tuple[str, str]]) -> HashIndex:
    hashes = np.array([hash_feature(*key) for key in keys], dtype=np.uint64)
    rows = np.argsort(hashes, kind="stable")
    return HashIndex(hashes[rows], rows.astype(np.int32))


def _attribute_names(contents: Sequence[ItemContent]) -> tuple[str, ...]:
    """Attributes of at least two items, those that most have first."""
    present: Counter[str] = Counter()
    for content in contents:
        present.update(name for name, value in content.attributes.items() if attribute_values(value))
    return tuple(name for name, n in sorted(present.items(), key=lambda pair: (-pair[1], pair[0])) if n >= MIN_ITEMS)


def _plan(contents: Sequence[ItemContent], attributes: Sequence[str]) -> ContentPlan:
    several = {
        name for content in contents for name, value in content.attributes.items() if len(attribute_values(value)) > 1
    }
    own = tuple(attributes[:MAX_ATTRIBUTES])
    prices = [float(content.price_cents) for content in contents if content.price_cents]
    edges = {PRICE: _quantiles(prices, PRICE_CLASSES)} if len(prices) >= PRICE_CLASSES else {}
    for name in own:
        numbers = _numbers([content.attributes.get(name) for content in contents])
        if name not in several and numbers is not None:
            edges[attribute_block(name)] = _quantiles(numbers, NUMBER_CLASSES)
    crossed = (
        "category",
        "category above",
        "brand",
        *[attribute_block(name) for name in own if name not in several][:3],
    )
    return ContentPlan(own, crossed, edges)


def _numbers(values: Sequence[Any]) -> list[float] | None:
    """The values of an attribute that counts or measures: numbers, hardly any of which two items share; else None.

    Numbers that many items share, such as a maker's, are names.
    """
    given = [value for value in values if attribute_values(value)]
    numbers = [number for number in map(attribute_number, given) if number is not None]
    is_measure = len(numbers) >= NUMBER_SHARE * len(given) and len(set(numbers)) >= DISTINCT_SHARE * len(numbers)
    return numbers if is_measure and len(numbers) >= NUMBER_CLASSES * MIN_ITEMS else None


def _quantiles(numbers: Sequence[float], classes: int) -> tuple[float, ...]:
    """Ascending edges of classes with equally many of `numbers`."""
    return tuple(float(edge) for edge in np.unique(np.quantile(numbers, np.linspace(0, 1, classes + 1)[1:-1])))


def _left_out(attributes: Sequence[str]) -> Iterable[str]:
    """Attributes for which there is no room, named."""
    rest = attributes[MAX_ATTRIBUTES:]
    if rest:
        names = ", ".join(map(repr, rest[:MAX_NAMED])) + (
            f" and {len(rest) - MAX_NAMED:,} more" * (len(rest) > MAX_NAMED)
        )
        yield f"only the {MAX_ATTRIBUTES} attributes that most items have are learnt from; these are not: {names}"


def _odd(contents: Sequence[ItemContent], features: NDArray[np.int32], told: _Told) -> Iterable[str]:
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
        # Without interpolation: in a shop of fewer than a hundred items the absurd price itself would set the limit.
        limit = ABSURD_PRICE * float(np.percentile(prices, 99, method="lower"))
        absurd = int((prices > limit).sum())
        if absurd:
            yield f"{absurd:,} items cost more than {limit / 100:,.0f}, {ABSURD_PRICE:,} times the 99th percentile: check their prices"
    values = Counter(block for block, _ in told.keys)
    single = Counter(told.keys[code][0] for code in np.flatnonzero(told.counts() < MIN_ITEMS).tolist())
    for block, distinct in sorted(values.items()):
        if distinct > MANY_VALUES and CROSS not in block and block != "text" and single[block] > 0.9 * distinct:
            yield (
                f"{block!r} has {distinct:,} different values, {single[block]:,} of them on one item only: "
                "those are left out (is it an identifier?)"
            )

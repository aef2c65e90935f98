"""What a catalogue says of an item, before anybody has met it, and the features that models make of it.

The encoder is fitted in training (`recsys.models.fit.content`) and stored in the bundle; the service encodes items that
join with this very code.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys.ids import HashIndex, hash_id

NO_FEATURE: Final = -1
MAX_TEXT_SLOTS: Final = 24
"""Of an item's words, those that the fewest items share."""
MAX_VALUE_SLOTS: Final = 16
"""Of an attribute with several values, likewise."""
CATEGORY_LEVELS: Final = 4
PRICE: Final = "price"
CROSS: Final = " x "
"""Between the names of two kinds whose pairs are a kind of their own."""
ATTRIBUTE_MARK: Final = "@"
MAX_NUMBER: Final = 1e100
_SEPARATOR: Final = "\x1f"


@dataclass(frozen=True, slots=True)
class ItemContent:
    """One item as its catalogue describes it; everything may be missing."""

    title: str | None = None
    description: str | None = None
    category: str | None = None
    """Path from the broadest level down, joined by ` > `."""
    brand: str | None = None
    price_cents: int | None = None
    """The catalogue's own price."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Values are strings, numbers, booleans, or lists of them."""


_WORD: Final = re.compile(r"\d+(?:[.,]\d+)?|[^\W\d_]+")
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]+")


def words(text: str) -> list[str]:
    """The different words and numbers of a text, lower case, in order; scripts without spaces as pairs of characters."""
    found: dict[str, None] = {}
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        if _UNSPACED.fullmatch(word) and len(word) > 2:
            found.update(dict.fromkeys(word[place : place + 2] for place in range(len(word) - 1)))
        else:
            found[word[:40]] = None
    return list(found)


def category_levels(path: str | None) -> list[str]:
    """The path and everything above it, broadest first: `A > B` is `["A", "A > B"]`."""
    if not path:
        return []
    parts = path.split(" > ")
    return [" > ".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def attribute_values(value: Any) -> list[str]:
    """An attribute's values as text; none where it is empty or no scalar.

    A list may also be written as JSON, as an export has it, and true and false as text: however an item came, it says the same.
    """
    members = _list(value)
    texts = [str(member).strip()[:120] for member in members if isinstance(member, (str, int, float))]
    return [text.lower() if text in ("True", "False") else text for text in texts if text]


def _list(value: Any) -> Sequence[Any]:
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [value]
    return value if isinstance(value, (list, tuple)) else [value]


def attribute_block(name: str) -> str:
    """The kind of feature that an attribute makes: its name, marked where it could be taken for one of the catalogue's own."""
    is_own = name in ("text", "brand", PRICE) or name.startswith(("category", ATTRIBUTE_MARK)) or CROSS in name
    return ATTRIBUTE_MARK + name.replace(CROSS, "_x_") if is_own else name


def attribute_number(value: Any) -> float | None:
    """An attribute's value as a finite number, also where it is written as text; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < MAX_NUMBER else None


@dataclass(frozen=True, slots=True)
class Block:
    """Features of one kind, such as the words of a text or the brand."""

    name: str
    slots: int
    """How many features of this kind one item keeps."""


@dataclass(frozen=True, slots=True)
class ContentPlan:
    """Which kinds of features a catalogue has."""

    attributes: tuple[str, ...]
    """Attributes with a block of their own."""
    crossed: tuple[str, ...]
    """Blocks with one value whose pairs are features too: the size of one type of product says more than either."""
    edges: Mapping[str, tuple[float, ...]]
    """Ascending numbers that part the classes of the price, in cents, and of attributes that are measures or running numbers."""

    def values(self, content: ItemContent) -> Iterator[tuple[str, list[str]]]:
        """Block names and the item's values in them."""
        levels = category_levels(content.category)
        single: dict[str, str] = {}
        for depth in range(1, CATEGORY_LEVELS):
            if len(levels) > depth:
                single[f"category {depth}"] = levels[depth - 1]
        if levels:
            single["category"] = levels[-1]
        if content.brand and content.brand.strip():
            single["brand"] = content.brand.strip()[:120]
        if content.price_cents is not None and content.price_cents >= 0 and PRICE in self.edges:
            single[PRICE] = self._number_class(PRICE, content.price_cents)
        several: dict[str, list[str]] = {
            "text": words(" ".join(filter(None, (content.title, levels[-1] if levels else None, content.description))))
        }
        for name in self.attributes:
            value = content.attributes.get(name)
            values = attribute_values(value)
            block = attribute_block(name)
            if block in self.edges:
                number = attribute_number(value)
                if number is not None:
                    single[block] = self._number_class(block, number)
            elif len(values) == 1:
                single[block] = values[0]
            elif values:
                several[block] = values
        if levels:  # crossed with the level above the last one as well
            single["category above"] = levels[-2] if len(levels) > 1 else levels[-1]
        for first, second in combinations((name for name in self.crossed if name in single), 2):
            if not (first.startswith("category") and second.startswith("category")):
                yield f"{first}{CROSS}{second}", [single[first] + _SEPARATOR + single[second]]
        single.pop("category above", None)
        for name, value in single.items():
            yield name, [value]
        yield from several.items()

    def _number_class(self, name: str, number: float) -> str:
        return str(int(np.searchsorted(self.edges[name], number, side="right")))


@dataclass(frozen=True)
class FeatureEncoder:
    """From an item's content to weighted features: inverse document frequencies, of length 1 for each item."""

    plan: ContentPlan
    blocks: tuple[Block, ...]
    vocabulary: HashIndex
    """From block and value to feature; features of one block need not be neighbours."""
    idf: NDArray[np.float32]
    """`(n_features,)` float32."""

    @property
    def n_features(self) -> int:
        return len(self.idf)

    @cached_property
    def width(self) -> int:
        """Slots of one item."""
        return sum(block.slots for block in self.blocks)

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """`(n_blocks,)` first slot of each block."""
        return np.cumsum([0, *(block.slots for block in self.blocks[:-1])]).astype(np.intp)

    def encode(self, content: ItemContent) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Features `(width,)` int32, `NO_FEATURE` in empty slots, and their weights `(width,)` float32.

        What the vocabulary does not know is left out; an item of which nothing is known has no feature.
        """
        features = np.full(self.width, NO_FEATURE, dtype=np.int32)
        found = dict(self.plan.values(content))
        start = 0
        for block in self.blocks:
            if values := found.get(block.name):
                known = self._features(block.name, values)
                if len(known) > block.slots:
                    known = known[np.argsort(-self.idf[known], kind="stable")[: block.slots]]
                features[start : start + len(known)] = known
            start += block.slots
        weights = np.zeros(self.width, dtype=np.float32)
        filled = features >= 0
        weights[filled] = self.idf[features[filled]]
        length = float(np.sqrt((weights * weights).sum()))
        return features, (weights / length if length > 0 else weights).astype(np.float32)

    def unknown(self, content: ItemContent) -> list[str]:
        """Kinds (text, category, brand, price, an attribute's name) that the item has, with nothing that the vocabulary knows.

        Of the text only the item's own, not the name of its category.
        """
        levels = {f"category {depth}" for depth in range(1, CATEGORY_LEVELS)}
        found = dict(self.plan.values(content))
        found["text"] = words(" ".join(filter(None, (content.title, content.description))))
        known = {attribute_block(name) for name in self.plan.attributes}
        found.update(
            (name, attribute_values(value))
            for name, value in content.attributes.items()
            if attribute_block(name) not in known
        )
        return [
            name.removeprefix(ATTRIBUTE_MARK)
            for name, values in found.items()
            if values and name not in levels and CROSS not in name and not len(self._features(name, values))
        ]

    def _features(self, block: str, values: list[str]) -> NDArray[np.int32]:
        hashes = np.array([hash_feature(block, value) for value in dict.fromkeys(values)], dtype=np.uint64)
        known = self.vocabulary.lookup(hashes)
        return known[known >= 0]

    def params(self) -> dict[str, Any]:
        """What of the encoder is JSON; the arrays are `vocabulary` and `idf`."""
        return {
            "attributes": list(self.plan.attributes),
            "crossed": list(self.plan.crossed),
            "edges": {name: list(edges) for name, edges in self.plan.edges.items()},
            "blocks": [[block.name, block.slots] for block in self.blocks],
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any], vocabulary: HashIndex, idf: NDArray[np.float32]) -> FeatureEncoder:
        """The encoder that `params` and its arrays describe."""
        edges = {name: tuple(values) for name, values in params["edges"].items()}
        plan = ContentPlan(tuple(params["attributes"]), tuple(params["crossed"]), edges)
        return cls(plan, tuple(Block(name, slots) for name, slots in params["blocks"]), vocabulary, idf)


def hash_feature(block: str, value: str) -> int:
    """The 64-bit hash that the vocabulary knows a feature by."""
    return hash_id(block + _SEPARATOR + value)

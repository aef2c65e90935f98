"""What a catalogue says of an item, before anybody has met it, and the features that models make of it.

The encoder is fitted in training and stored in the bundle; the service encodes items that join with this very code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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

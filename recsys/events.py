"""The vocabulary of behaviour: what a shopper can do with an item, and how much it tells us.

Every other module speaks of events in these terms; this one imports nothing of ours.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray


class EventType(StrEnum):
    """What a shopper did with an item, from the weakest signal to the strongest."""

    VIEW = "view"
    CLICK = "click"
    CART = "cart"
    PURCHASE = "purchase"


EVENT_TYPES: Final = tuple(EventType)
"""Position in this tuple is the `uint8` code of an event type in every array."""

EVENT_CODE: Final[dict[str, int]] = {str(event_type): code for code, event_type in enumerate(EVENT_TYPES)}

EVENT_WEIGHT: Final[dict[EventType, float]] = {
    EventType.VIEW: 1.0,
    EventType.CLICK: 2.0,
    EventType.CART: 3.0,
    EventType.PURCHASE: 5.0,
}
"""Evidence of interest, relative to a view. A convention to start from (view < click < cart < purchase)."""

WEIGHT_OF_CODE: Final[NDArray[np.float32]] = np.array([EVENT_WEIGHT[t] for t in EVENT_TYPES], dtype=np.float32)
"""`(4,)` float32: `EVENT_WEIGHT` indexed by event code."""


HIDE: Final = "hide"
"""A shopper does not want to see an item."""
RETURN: Final = "return"
"""A purchase came back."""
RENDER: Final = "render"
"""An answer was really shown."""
NO_INTEREST: Final = (HIDE, RETURN)
"""What shoppers do with items that is no evidence of interest: kept in the log, in no history and no weight."""


class Surface(StrEnum):
    """A place on a page where recommendations are shown."""

    HOME = "home"
    SIMILAR = "similar"
    BOUGHT_TOGETHER = "bought_together"
    CART = "cart"
    BUY_AGAIN = "buy_again"
    TRENDING = "trending"
    NEW_ARRIVALS = "new_arrivals"


IDLE_DAYS: Final = 31
"""From so many days without any event on, the shop stood still, and its time with it: see `recsys.dataset.close_gaps`."""

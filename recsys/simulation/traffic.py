"""Who comes when: the real visits of the window, visits that buy nothing, and bots, in order of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.simulation.constants import Mess, Traffic
from recsys.simulation.world import Ints, World

NO_BASKET: Final = -1


@dataclass(frozen=True, slots=True, eq=False)
class Visits:
    """Parallel arrays of length n, ordered by `second`."""

    seed: int
    """Everything random in a visit follows from it and the visit's number."""
    shopper: Ints
    """Whose taste the visit has; of a bot, anybody's."""
    second: Ints
    basket: Ints
    """What is bought whatever is recommended, or `NO_BASKET`."""
    anonymous: NDArray[np.bool_]
    bot: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.shopper)

    def of_some(self, share: float) -> Visits:
        """All visits of a random share of the shoppers, so that each sees as much as ever."""
        if share >= 1:
            return self
        shoppers = np.unique(self.shopper)
        n = max(1, round(share * len(shoppers)))
        chosen = np.random.default_rng((self.seed, 3)).choice(shoppers, n, replace=False)
        return self.where(np.isin(self.shopper, chosen))

    def where(self, rows: NDArray[np.bool_]) -> Visits:
        """Those visits only."""
        return Visits(
            self.seed, self.shopper[rows], self.second[rows], self.basket[rows], self.anonymous[rows], self.bot[rows]
        )


def plan_visits(world: World, traffic: Traffic, mess: Mess, seed: int) -> Visits:
    """The visits of a world's window; the same for the same seed."""
    rng = np.random.default_rng(seed)
    baskets = world.baskets
    real = len(baskets)
    browsing, bots = round(traffic.browsing_visits * real), round(mess.bots * (1 + traffic.browsing_visits) * real)
    # Who buys more often looks more often.
    others = baskets.shopper[rng.integers(real, size=browsing + bots)]
    shopper = np.concatenate([baskets.shopper, others])
    second = np.concatenate([baskets.second, rng.integers(world.cut, world.until, size=browsing + bots)])
    basket = np.concatenate([np.arange(real), np.full(browsing + bots, NO_BASKET)])
    bot = np.arange(len(shopper)) >= real + browsing
    unknown = np.array([user_id is None for user_id in world.shopper_ids])
    anonymous = (rng.random(len(shopper)) < traffic.anonymous_share) | unknown[shopper] | bot
    order = np.argsort(second, kind="stable")
    return Visits(seed, shopper[order], second[order], basket[order], anonymous[order], bot[order])

"""Who comes when: the real visits of the window, visits that buy nothing, and bots, in order of time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.simulation.constants import Constants, Mess, Traffic
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


def visits_of(world: World, constants: Constants, n: int, seed: int) -> Visits:
    """`n` visits in all: of those planned a random choice where there are more, with more browsing where there are fewer."""
    traffic, real = constants.traffic, len(world.baskets) * (1 + constants.mess.bots)
    if n > real * (1 + traffic.browsing_visits):
        traffic = replace(traffic, browsing_visits=n / real)
    planned = plan_visits(world, traffic, constants.mess, seed)
    chosen = np.sort(np.random.default_rng((seed, 3)).choice(len(planned), min(n, len(planned)), replace=False))
    return Visits(
        seed,
        planned.shopper[chosen],
        planned.second[chosen],
        planned.basket[chosen],
        planned.anonymous[chosen],
        planned.bot[chosen],
    )

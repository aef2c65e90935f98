"""How likely a shopper clicks what is shown, and buys what was clicked: pure functions, to be sampled from or added up.

The chance of a click is that the place is examined times that the item attracts (the position-based model: Craswell et al.,
"An experimental comparison of click position-bias models", WSDM 2008), plus clicks out of curiosity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np

from recsys.simulation.constants import Clicks, Constants, Purchases
from recsys.simulation.world import SECONDS_PER_DAY, Floats, Ints, World


@dataclass(frozen=True, slots=True, eq=False)
class ClickModel:
    """The truth about a world's shoppers under some constants."""

    world: World
    clicks: Clicks
    purchases: Purchases
    trait_weights: Floats
    """`(4,)`: what each kind of trait (`recsys.simulation.world.TRAITS`) counts."""
    appeal: Floats
    """`(n_items,)`: what its price does for an item; mean 1 over available items."""
    mean_taste: float
    """Of a random visit for a random available item, weighted by appeal: it scales taste so that random items attract 1 in the mean."""

    @classmethod
    def of(cls, world: World, constants: Constants) -> Self:
        """The model of a world."""
        clicks, items = constants.clicks, world.items
        weights = np.array([1.0, clicks.taste_of_type, clicks.taste_of_brand, clicks.taste_of_price])
        appeal = items.relative_price**-clicks.price_effect
        appeal /= appeal[items.available].mean()
        popularity = _popularity(world, weights)[items.available]
        mean = float(np.average(popularity, weights=appeal[items.available]))
        return cls(world, clicks, constants.purchases, weights, appeal, mean)

    def taste(self, shopper: int, items: Ints) -> Floats:
        """`(n,)`: a shopper's taste for items. 1/2 and more for what they buy, 0 where nothing speaks for it."""
        return self.world.tastes.of(shopper, self.world.items.traits[items]) @ self.trait_weights

    def popularity(self) -> Floats:
        """`(n_items,)`: the mean of all visits' tastes for each item."""
        return _popularity(self.world, self.trait_weights)

    def attraction(self, items: Ints, taste: Floats, second: float | Floats, renders: Ints) -> Floats:
        """`(n,)`: how much items attract at a time (one, or one for each), 1 for a random one; `renders`: how often the shopper was shown each before."""
        c = self.clicks
        wanted = (1 - c.taste_share) + c.taste_share * taste / self.mean_taste
        # A first purchase is all that tells of a listing: an item may stand in the shop for a while before.
        is_new = np.abs(second - self.world.items.listed_second[items]) < c.novel_days * SECONDS_PER_DAY
        novelty = 1.0 + (c.novelty - 1.0) * is_new
        fatigue = c.fatigue ** np.minimum(renders, c.max_fatigue)
        return np.asarray(self.appeal[items] * wanted * novelty * fatigue, dtype=np.float64)

    def chances(self, items: Ints, taste: Floats, second: float, renders: Ints, places: int) -> Floats:
        """`(n,)`: the chance that each item of an answer is clicked, shown in order in a widget of so many places."""
        looked = examination(places, self.clicks.position_effect)[: len(items)]
        return self.chances_where(items, taste, second, renders, looked)

    def chances_where(
        self, items: Ints, taste: Floats, second: float | Floats, renders: Ints, looked: Floats
    ) -> Floats:
        """`(n,)`: the same of items of any answers; `looked`, `(n,)`: how much the place of each is examined."""
        c = self.clicks
        pull = c.curiosity + (1 - c.curiosity) * self.attraction(items, taste, second, renders)
        return np.minimum(1.0, c.random_ctr * looked * pull)

    def conversion(self, taste: Floats) -> Floats:
        """`(n,)`: the chance that a click leads to a purchase that would not have been made."""
        p = self.purchases
        return p.conversion_floor + (p.conversion_top - p.conversion_floor) * np.minimum(1.0, taste)


def expected_clicks(model: ClickModel, shopper: int, items: Ints, second: float, renders: Ints, places: int) -> float:
    """How many clicks an answer gets from a shopper in the mean; arguments as in `ClickModel.chances`."""
    return float(model.chances(items, model.taste(shopper, items), second, renders, places).sum())


@cache
def examination(places: int, effect: float) -> Floats:
    """`(places,)`: how much each place of a widget is looked at; mean 1, so that random items get the random CTR in any widget."""
    looked = np.arange(1, places + 1, dtype=np.float64) ** -effect
    looked /= looked.mean()
    looked.flags.writeable = False
    return looked


def _popularity(world: World, weights: Floats) -> Floats:
    # A last entry of 0 is what items without a trait (-1) get.
    summed = np.append(world.tastes.summed(world.visit_shares, world.items.n_traits), 0.0)
    return np.asarray(summed[world.items.traits] @ weights, dtype=np.float64)

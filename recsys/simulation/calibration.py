"""Fits the click model to real randomised data: the Open Bandit logs, before any recommender of ours meets the simulator.

Position effect and random CTR come from the small logs; the share of taste from what a learner that knows no shopper gained over
random in the full one (Saito et al., "Open Bandit Dataset and Pipeline", NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import binomtest

from recsys.simulation.clicks import ClickModel, examination
from recsys.simulation.world import Floats, Ints

LOGS: Final = ("random", "bts")
SLOTS: Final = 3
POSITION_GRID: Final[Floats] = np.linspace(0.0, 2.0, 2_001)


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign of the full log: its published CTRs, and the size of its logs."""

    name: str
    items: int
    random_ctr: float
    learner_ctr: float
    learner_impressions: int
    """In seven days; as many as the published interval of its CTR implies (of 26 million in all)."""

    @property
    def gain(self) -> float:
        """Of the learner over random."""
        return self.learner_ctr / self.random_ctr - 1


CAMPAIGNS: Final = (
    Campaign("all", 80, 0.0035, 0.0050, 12_000_000),
    Campaign("men", 34, 0.0051, 0.0067, 4_000_000),
    Campaign("women", 46, 0.0048, 0.0064, 8_000_000),
)
"""Women's interval is published ten times as wide as any size of a log would have it; its size is what the total leaves."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


def read_logs(folder: Path, policies: Sequence[str] = LOGS) -> pl.DataFrame:
    """The small logs, pooled: one row per campaign, policy, item and position with `impressions` and `clicks`."""
    frames = [
        pl.scan_parquet(folder / campaign.name / f"{policy}.parquet")
        .group_by("item_id", "position")
        .agg(pl.len().alias("impressions"), pl.col("click").sum().alias("clicks"))
        .with_columns(pl.lit(campaign.name).alias("campaign"), pl.lit(policy).alias("policy"))
        .collect()
        for campaign in CAMPAIGNS
        for policy in policies
    ]
    return pl.concat(frames).sort("campaign", "policy", "item_id", "position")


def random_ctr(counts: pl.DataFrame) -> Estimate:
    """Clicks per impression of the random logs, with Wilson's interval."""
    log = counts.filter(pl.col("policy") == "random")
    clicks, n = int(log["clicks"].sum()), int(log["impressions"].sum())
    interval = binomtest(clicks, n).proportion_ci(0.95, "wilson")
    return Estimate(clicks / n, float(interval.low), float(interval.high))


def position_effect(counts: pl.DataFrame) -> Estimate:
    """The exponent with which examination falls with the place, its posterior mean and 95% interval under a flat prior on [0, 2].

    The likelihood is conditional on each item's clicks in each log: given the item, only the place tells where it is clicked,
    so logs of a policy that puts better items first count too.
    """
    logs = np.zeros_like(POSITION_GRID)
    for _, item in counts.group_by("campaign", "policy", "item_id", maintain_order=True):
        place = item["position"].to_numpy().astype(np.float64)
        clicks, shown = item["clicks"].to_numpy(), item["impressions"].to_numpy()
        looked = place[:, None] ** -POSITION_GRID
        logs += clicks @ np.log(looked) - clicks.sum() * np.log(shown @ looked)
    posterior = np.exp(logs - logs.max())
    posterior /= posterior.sum()
    low, high = np.searchsorted(np.cumsum(posterior), [0.025, 0.975])
    return Estimate(float(posterior @ POSITION_GRID), float(POSITION_GRID[low]), float(POSITION_GRID[high]))


@dataclass(frozen=True, slots=True)
class Learner:
    """Bernoulli Thompson sampling that knows no shopper: Beta posteriors per item, the best three of a draw are shown."""

    days_before: int = 28
    """Learns for so long before it is measured, as the one of the log did ("over a month")."""
    days: int = 7
    updates_per_day: int = 2
    """Posteriors are brought up to date in batches."""
    draws: int = 128
    """Pages of a batch share so many draws of the posteriors."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a learner did in its measured days."""

    gain: float
    """Of its expected CTR over that of random slates."""
    effective_items: float
    """One over the sum of squares of the items' shares of impressions: how many it still shows."""


def thompson(chances: Floats, impressions: int, effect: float, learner: Learner, rng: np.random.Generator) -> Outcome:
    """Run a learner on items of given click chances, `(n,)` in the mean over places, with so many impressions in its measured days."""
    n = len(chances)
    looked = examination(SLOTS, effect)
    pages = impressions / SLOTS / learner.days / learner.updates_per_day
    clicked, missed = np.ones(n), np.ones(n)
    shown_measured = np.zeros((n, SLOTS))
    batches = (learner.days_before + learner.days) * learner.updates_per_day
    for batch in range(batches):
        drawn = rng.beta(clicked, missed, size=(learner.draws, n))
        slates = np.argsort(-drawn, axis=1)[:, :SLOTS]
        shown = np.stack([np.bincount(slates[:, slot], minlength=n) for slot in range(SLOTS)], axis=1)
        shown = np.rint(shown * (pages / learner.draws)).astype(np.int64)
        clicks = rng.binomial(shown, np.minimum(1.0, chances[:, None] * looked)).sum(axis=1)
        clicked += clicks
        missed += shown.sum(axis=1) - clicks
        if batch >= learner.days_before * learner.updates_per_day:
            shown_measured += shown
    shares = shown_measured.sum(axis=1) / shown_measured.sum()
    ctr = float((shown_measured * chances[:, None] * looked).sum() / shown_measured.sum())
    return Outcome(ctr / float(chances.mean()) - 1, float(1 / (shares**2).sum()))


DRAWS: Final = ("assortment", "by sales", "catalogue")
"""How a campaign's items may be drawn: evenly from what was lately sold, in proportion to lines sold, evenly from all items."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """The same campaigns drawn from a world, to be run under different shares of taste."""

    model: ClickModel
    items: tuple[tuple[Ints, ...], ...]
    """For each of `CAMPAIGNS` several draws of its items."""
    learner: Learner
    seed: int

    @classmethod
    def draw(cls, model: ClickModel, draw: str, repeats: int, learner: Learner, seed: int) -> Trial:
        """Draw the items of each campaign `repeats` times."""
        items = model.world.items
        weights = {"catalogue": items.available * 1.0, "by sales": items.sold_before * 1.0}
        chosen = weights.get(draw, (items.sold_before > 0) * 1.0) * items.available
        pool = np.flatnonzero(chosen)
        shares = chosen[pool] / chosen.sum()
        rng = np.random.default_rng((seed, DRAWS.index(draw)))
        drawn = tuple(
            tuple(rng.choice(pool, campaign.items, replace=False, p=shares) for _ in range(repeats))
            for campaign in CAMPAIGNS
        )
        return cls(model, drawn, learner, seed)

    def chances(self, items: Ints, campaign: Campaign, taste_share: float) -> Floats:
        """`(n,)`: click chances of a campaign's items for shoppers of whom nothing is known, with its published CTR in the mean."""
        model = self.model
        wanted = (1 - taste_share) + taste_share * model.popularity()[items] / model.mean_taste
        curiosity = model.clicks.curiosity
        pull = model.appeal[items] * wanted
        pull = curiosity + (1 - curiosity) * pull
        return np.asarray(campaign.random_ctr * pull / pull.mean(), dtype=np.float64)

    def outcomes(self, taste_share: float) -> list[list[Outcome]]:
        """The outcomes of each campaign's draws."""
        return [
            [
                thompson(
                    self.chances(items, campaign, taste_share),
                    campaign.learner_impressions,
                    self.model.clicks.position_effect,
                    self.learner,
                    np.random.default_rng((self.seed, number, repeat)),
                )
                for repeat, items in enumerate(draws)
            ]
            for number, (campaign, draws) in enumerate(zip(CAMPAIGNS, self.items, strict=True))
        ]

    def gains(self, taste_share: float) -> Floats:
        """`(campaigns, repeats)`."""
        return np.array([[one.gain for one in outcomes] for outcomes in self.outcomes(taste_share)])


TARGET_GAIN: Final = float(np.mean([campaign.gain for campaign in CAMPAIGNS]))


def fit_taste_share(trial: Trial, target: float = TARGET_GAIN, steps: int = 3) -> float:
    """The share of taste at which the learner's gain, in the mean over campaigns and draws, is `target`; by false position.

    Raises:
        ValueError: no share gives so much.
    """
    (low, gain_low), (high, gain_high) = ((share, float(trial.gains(share).mean())) for share in (0.0, 1.0))
    if gain_high < target:
        raise ValueError(
            f"even where a click is nothing but taste the learner gains only {gain_high:.1%} of {target:.1%}"
        )
    share = high
    for _ in range(steps):
        share = low + (high - low) * (target - gain_low) / (gain_high - gain_low)
        gain = float(trial.gains(share).mean())
        if gain < target:
            low, gain_low = share, gain
        else:
            high, gain_high = share, gain
    return share


def real_effective_items(folder: Path) -> dict[str, float]:
    """Of each campaign's learner in the small log, as `Outcome.effective_items`."""
    shares = read_logs(folder, ("bts",)).group_by("campaign", "item_id").agg(pl.col("impressions").sum())
    return {
        name: float(1 / ((own["impressions"] / own["impressions"].sum()) ** 2).sum())
        for (name,), own in shares.group_by("campaign")
    }


def bootstrap_mean(values: NDArray[np.float64], seed: int = 0) -> Estimate:
    """The mean of values with its percentile interval."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(1_000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))

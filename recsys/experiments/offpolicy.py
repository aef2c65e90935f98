"""What a policy would have earned, estimated from the log of another one whose chances are known.

The policies are item-position policies: each says with what probability an item stands at a position. A row of the log is one
item shown at one position; its reward is taken to depend on that item and that position, not on what else was shown (the item-position
model of Li et al., KDD 2018). So a weight is a ratio of two probabilities of one slot, never of a whole list.

Every estimator is a ratio of two sums over the log's rows (`Terms`), which gives all of them one interval: the delta method on the
totals of units (Taylor linearisation). Units, not rows, are independent: a shopper's rows are alike. The bootstrap over units agrees to first
order, but costs a pass for each draw, is random, and does not give the interval of a paired difference for free.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEVEL: Final = 0.95
FOLDS: Final = 5
PRIOR_ROWS: Final = 100.0
"""The reward model moves an item's rate halfway to the mean after so many rows."""
ESTIMATORS: Final = ("ips", "snips", "dr")

MIN_ESS: Final = 50.0
"""Below so many effective rows nothing is estimated."""
WEAK_ESS: Final = 500.0
MIN_REWARDS: Final = 10.0
"""Effective rows with a reward that a normal interval needs, as a share of a sample needs ten successes."""
MAX_TOP_SHARE: Final = 0.5
"""Of all weight, on the heaviest hundredth of rows."""
MAX_ONE_SHARE: Final = 0.05
"""Of all weight, on one row."""
MAX_UNSEEN: Final = 0.05
MIN_SUPPORT: Final = 0.8
"""Where less of the target's mass than this is surely all that the log can tell of, nothing is estimated."""


ALARM_LEVEL: Final = 0.999
"""The mean weight is surely not 1 where this interval of it leaves 1 out, as a sample ratio is mismatched at p < 0.001."""


class OffPolicyError(UserError):
    """A log or a target that nothing can be estimated from; the message says which rows, and why."""


def _frozen(name: str, values: ArrayLike, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    """A read-only copy of that type.

    Raises:
        OffPolicyError: another shape, or values that are missing (NaN, None) or infinite.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OffPolicyError(f"{name}: {error}") from error
    if numbers.shape != shape:
        raise OffPolicyError(f"{name} has shape {numbers.shape}, not {shape}: all arrays of a log have its length")
    missing = np.flatnonzero(~np.isfinite(numbers))
    if len(missing):
        raise OffPolicyError(f"{name} is missing or infinite in {len(missing):,} rows, the first is row {missing[0]}")
    array = np.array(values, dtype=dtype)
    array.flags.writeable = False
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """What was shown and what came of it; n rows, one item at one position each.

    Raises:
        OffPolicyError: no rows, arrays of different lengths, missing values, a propensity outside (0, 1], or a negative number
            of an item or a position.
    """

    item: Ints
    """`(n,)` int64: row numbers of a catalogue."""
    position: Ints
    """`(n,)` int64, from 0."""
    reward: Floats
    """`(n,)` float64: a click (0 or 1), money, or whatever is to be summed."""
    propensity: Floats
    """`(n,)` float64: with what probability the logging policy put this item at this position."""
    unit: Ints
    """`(n,)` int64: what is independent of each other, as a rule the shopper; `np.arange(n)` where nothing is known."""

    def __post_init__(self) -> None:
        n = np.size(self.item)
        if n == 0:
            raise OffPolicyError("the log has no rows")
        for name, dtype in (
            ("item", np.int64),
            ("position", np.int64),
            ("reward", np.float64),
            ("propensity", np.float64),
            ("unit", np.int64),
        ):
            object.__setattr__(self, name, _frozen(name, getattr(self, name), dtype, (n,)))
        _chances("propensity", self.propensity)
        impossible = np.flatnonzero(self.propensity == 0)
        if len(impossible):
            raise OffPolicyError(
                f"propensity is 0 in {len(impossible):,} rows, the first is row {impossible[0]}: what was shown had a chance"
            )
        if self.item.min() < 0 or self.position.min() < 0:
            raise OffPolicyError("items and positions are numbers from 0")

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: NDArray[Any]) -> Log:
        """Those rows only."""
        return Log(self.item[rows], self.position[rows], self.reward[rows], self.propensity[rows], self.unit[rows])


def _chances(name: str, values: Floats) -> None:
    if values.size and (values.min() < 0 or values.max() > 1 + 1e-9):
        raise OffPolicyError(f"{name} lies between 0 and 1; found {values.min():g} to {values.max():g}")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The policy that is asked about, at the rows of a log.

    Raises:
        OffPolicyError: a probability outside [0, 1], a row whose probabilities sum to more than 1, or other lengths.
    """

    probability: Floats
    """`(n,)` float64: with what probability it would put the item that was shown at that position."""
    items: Ints | None = None
    """`(n, m)` int64: every item that it might put there, filled up with any item of probability 0; the doubly robust estimate needs it."""
    probabilities: Floats | None = None
    """`(n, m)` float64, parallel to `items`."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "probability",
            _frozen("target probability", self.probability, np.float64, (np.size(self.probability),)),
        )
        _chances("target probability", self.probability)
        if (self.items is None) != (self.probabilities is None):
            raise OffPolicyError("give a target's items and their probabilities, or neither")
        if self.items is not None and self.probabilities is not None:
            shape = np.shape(self.items)
            if len(shape) != 2 or shape[0] != len(self.probability) or np.shape(self.probabilities) != shape:
                raise OffPolicyError(
                    f"a target's items and probabilities have one row for each row of the log: {shape}"
                )
            _chances("target probabilities", self.probabilities)
            if self.probabilities.sum(axis=1).max(initial=0.0) > 1 + 1e-6:
                raise OffPolicyError("a target's probabilities at one position sum to more than 1")

    @classmethod
    def from_items(cls, log: Log, items: Ints, probabilities: Floats) -> Target:
        """A policy that depends on who asks: `(n, m)` items that it might show at each row's position, and how likely.

        A ranking without chance is `m = 1` with probability 1.
        """
        if np.shape(items)[:1] != (len(log),):
            raise OffPolicyError(f"the target has {len(items):,} rows, the log {len(log):,}")
        shown = np.where(items == log.item[:, None], probabilities, 0.0).sum(axis=1)
        return cls(shown, items, probabilities)

    @classmethod
    def from_table(cls, log: Log, table: Floats) -> Target:
        """A policy that is the same for everybody: `(n_positions, n_items)`, each row sums to 1 at most."""
        n_positions, n_items = table.shape
        if log.position.max() >= n_positions or log.item.max() >= n_items:
            raise OffPolicyError(f"the log has items or positions beyond the table of {n_positions} x {n_items}")
        items = np.broadcast_to(np.arange(n_items), (len(log), n_items))
        return cls(table[log.position, log.item], items, table[log.position])

    def take(self, rows: NDArray[Any]) -> Target:
        """Those rows only."""
        if self.items is None or self.probabilities is None:
            return Target(self.probability[rows])
        return Target(self.probability[rows], self.items[rows], self.probabilities[rows])


def weights(log: Log, target: Target) -> Floats:
    """`(n,)` float64: the target's probability over the propensity.

    Raises:
        OffPolicyError: the target is of another length.
    """
    if len(target.probability) != len(log):
        raise OffPolicyError(f"the target has {len(target.probability):,} rows, the log {len(log):,}")
    return np.asarray(target.probability / log.propensity)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a reward model expects at the rows of a log."""

    shown: Floats
    """`(n,)` float64: of the item that was shown."""
    target: Floats
    """`(n,)` float64: of what the target policy would show there, the mean over its probabilities."""


def fit_rewards(item: Ints, position: Ints, reward: Floats, n_items: int, n_positions: int) -> Floats:
    """A simple reward model `(n_positions, n_items)`: the position's mean, and what the item gains over it, shrunk.

    The gain of an item is the sum of its rewards less those positions' means, over its rows plus `PRIOR_ROWS`. An item or a position
    without rows gets the mean.
    """
    rows = np.bincount(position, minlength=n_positions)
    sums = np.bincount(position, weights=reward, minlength=n_positions)
    level = np.where(rows > 0, sums / np.maximum(rows, 1), reward.mean())
    excess = np.bincount(item, weights=reward - level[position], minlength=n_items)
    gain = excess / (np.bincount(item, minlength=n_items) + PRIOR_ROWS)
    return np.asarray(level[:, None] + gain)


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """Reward models, each fitted on all folds of units but one."""

    tables: Floats
    """`(folds, n_positions, n_items)` float64: what the model that knows nothing of that fold expects."""
    fold: Ints
    """`(n,)` int64: the fold of each row."""

    def predict(self, log: Log, target: Target) -> Predictions:
        """Each row by the model that has not seen its unit, so that no reward predicts itself.

        Raises:
            OffPolicyError: the target does not say what it might show.
        """
        if target.items is None or target.probabilities is None:
            raise OffPolicyError("the doubly robust estimate needs every item that the target might show")
        fold, position = self.fold[:, None], log.position[:, None]
        expected = (self.tables[fold, position, target.items] * target.probabilities).sum(axis=1)
        return Predictions(self.tables[self.fold, log.position, log.item], expected)


def cross_fit(log: Log, *, n_items: int = 0, folds: int = FOLDS, seed: int = 0) -> CrossFit:
    """`fit_rewards` on each fold's complement (Chernozhukov et al., 2018); `n_items` where the target has more than the log.

    Raises:
        OffPolicyError: fewer units than folds.
    """
    units, unit = np.unique(log.unit, return_inverse=True)
    if len(units) < folds:
        raise OffPolicyError(f"{len(units)} units are too few for {folds} folds")
    fold = np.random.default_rng(seed).permutation(np.arange(len(units)) % folds)[unit]
    n_items, n_positions = max(n_items, int(log.item.max()) + 1), int(log.position.max()) + 1
    rest = [fold != number for number in range(folds)]
    tables = [fit_rewards(log.item[r], log.position[r], log.reward[r], n_items, n_positions) for r in rest]
    return CrossFit(np.stack(tables), fold)


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """An estimator as the ratio of two sums over the rows of a log, both `(n,)` float64."""

    numerator: Floats
    denominator: Floats

    @property
    def value(self) -> float:
        """The estimate; NaN where the denominator is 0: the target shows nothing that the log has."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total else float("nan")

    def influence(self, unit: Ints) -> Floats:
        """`(units,)` float64: what each unit moves the estimate by, to first order; they sum to 0."""
        _, number = np.unique(unit, return_inverse=True)
        total = float(self.denominator.sum()) or float("nan")
        return np.asarray(np.bincount(number, weights=self.numerator - self.value * self.denominator) / total)


def ips(log: Log, target: Target) -> Terms:
    """Inverse propensity scores (Horvitz and Thompson, 1952): the mean of weighted rewards; unbiased, and of great variance."""
    return Terms(weights(log, target) * log.reward, np.ones(len(log)))


def snips(log: Log, target: Target) -> Terms:
    """Self-normalised (Swaminathan and Joachims, 2015): over the sum of weights; biased by O(1/n), steadier, inside the rewards' range."""
    weight = weights(log, target)
    return Terms(weight * log.reward, weight)


def doubly_robust(log: Log, target: Target, predictions: Predictions) -> Terms:
    """Doubly robust (Dudík et al., 2011): what a reward model expects, corrected by the weighted errors of its predictions."""
    corrected = predictions.target + weights(log, target) * (log.reward - predictions.shown)
    return Terms(corrected, np.ones(len(log)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure per row shown (CTR, where rewards are clicks), with its interval."""

    name: str
    value: float
    low: float
    high: float
    ess: float
    """Effective sample size in rows (Kish, 1965): the squared sum of weights over the sum of their squares."""
    n: int
    """Rows."""
    units: int


def effective_sample_size(weight: Floats) -> float:
    """Kish's, 0 where there is no weight."""
    squares = float(np.square(weight).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def estimate(name: str, terms: Terms, log: Log, target: Target, *, level: float = LEVEL) -> Estimate:
    """The value of `terms` with its interval over units.

    Raises:
        OffPolicyError: fewer than two units.
    """
    low, high = _bounds(terms.value, terms.influence(log.unit), level)
    units = len(np.unique(log.unit))
    return Estimate(name, terms.value, low, high, effective_sample_size(weights(log, target)), len(log), units)


def _bounds(value: float, influence: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Normal interval from the influence of independent units."""
    units = len(influence)
    if units < 2:
        raise OffPolicyError("an interval needs two units or more")
    half = NormalDist().inv_cdf(0.5 + level / 2) * float(np.sqrt(units / (units - 1) * np.square(influence).sum()))
    return value - half, value + half


class Trust(StrEnum):
    """What an estimate is good for."""

    TRUSTWORTHY = "trustworthy"
    WEAK = "weak"
    NOT_ESTIMABLE = "not estimable"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Whether the log can tell of the target at all."""

    mean_weight: float
    """1 in expectation: less where the target shows what the logging policy never does, anything else where propensities are wrong."""
    mean_weight_low: float
    mean_weight_high: float
    unseen: float | None
    """Share of the target's mass on items that the log never has at that position; None where the target does not say what it might show."""
    largest_weight: float
    top_share: float
    """Share of all weight on the heaviest hundredth of rows."""
    ess: float
    rewards: float
    """Effective rows with a reward: Kish's size of the weighted rewards."""
    trust: Trust
    reasons: tuple[str, ...]
    """Why it is not trustworthy, in plain words."""

    @property
    def unsupported(self) -> float:
        """Share of the target's mass without support in the logging policy, estimated: what the mean weight lacks to 1."""
        return max(0.0, 1.0 - self.mean_weight)


def overlap(log: Log, target: Target) -> Overlap:
    """Diagnose the weights; the thresholds are this module's constants."""
    weight = weights(log, target)
    total, ess = float(weight.sum()), effective_sample_size(weight)
    top = np.sort(weight)[-max(1, len(log) // 100) :]
    mean, influence = total / len(log), Terms(weight, np.ones(len(log))).influence(log.unit)
    low, high = _bounds(mean, influence)
    surely_low, surely_high = _bounds(mean, influence, ALARM_LEVEL)
    largest, top_share = float(weight.max()), float(top.sum()) / total if total else 0.0
    rewards = effective_sample_size(weight * np.abs(log.reward))
    unseen = _unseen(log, target)
    hopeless = [
        *([f"{ess:.0f} effective rows, {MIN_ESS:.0f} are needed"] if ess < MIN_ESS else []),
        *(
            [
                f"at most {surely_high:.0%} of what the target would show had a chance in the log ({MIN_SUPPORT:.0%} are needed)"
            ]
            if surely_high < MIN_SUPPORT
            else []
        ),
    ]
    doubts = [
        *(
            [f"{ess:.0f} effective rows of {len(log):,} (from {WEAK_ESS:.0f} on it is steady)"]
            if ess < WEAK_ESS
            else []
        ),
        *([f"{rewards:.0f} effective rows have a reward (from {MIN_REWARDS:.0f} on)"] if rewards < MIN_REWARDS else []),
        *([f"the heaviest hundredth of rows has {top_share:.0%} of all weight"] if top_share > MAX_TOP_SHARE else []),
        *([f"one row has {largest / total:.0%} of all weight"] if total and largest > MAX_ONE_SHARE * total else []),
        *([f"{unseen:.0%} of what the target would show is never in the log"] if (unseen or 0) > MAX_UNSEEN else []),
        *(
            [f"the mean weight is {mean:.3f} [{low:.3f}, {high:.3f}], not 1: propensities or support are wrong"]
            if not surely_low <= 1 <= surely_high
            else []
        ),
    ]
    trust = Trust.NOT_ESTIMABLE if hopeless else Trust.WEAK if doubts else Trust.TRUSTWORTHY
    return Overlap(
        mean_weight=mean,
        mean_weight_low=low,
        mean_weight_high=high,
        unseen=unseen,
        largest_weight=largest,
        top_share=top_share,
        ess=ess,
        rewards=rewards,
        trust=trust,
        reasons=(*hopeless, *doubts),
    )


def _unseen(log: Log, target: Target) -> float | None:
    if target.items is None or target.probabilities is None:
        return None
    n_items = int(max(log.item.max(), target.items.max())) + 1
    seen = np.zeros((int(log.position.max()) + 1, n_items), dtype=np.bool_)
    seen[log.position, log.item] = True
    mass = np.where(seen[log.position[:, None], target.items], 0.0, target.probabilities).sum()
    return float(mass / max(float(target.probabilities.sum()), 1e-300))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that a log says of one target."""

    estimates: Mapping[str, Estimate]
    """By estimator; `dr` only where the target says what it might show."""
    by_position: Mapping[int, Estimate]
    """Self-normalised, of the rows of one position; a position of fewer than two units is left out."""
    overlap: Overlap


def evaluate(log: Log, target: Target, *, seed: int = 0) -> Evaluation:
    """Every estimate of the target's mean reward, per position too, and whether to believe them."""
    positions = {int(p): log.position == p for p in np.unique(log.position)}
    parts = {p: (log.take(rows), target.take(rows)) for p, rows in positions.items()}
    return Evaluation(
        estimates={
            name: estimate(name, terms, log, target) for name, terms in estimators(log, target, seed=seed).items()
        },
        by_position={
            p: estimate("snips", snips(*part), *part) for p, part in parts.items() if len(np.unique(part[0].unit)) > 1
        },
        overlap=overlap(log, target),
    )


def estimators(log: Log, target: Target, *, names: Collection[str] = ESTIMATORS, seed: int = 0) -> dict[str, Terms]:
    """The terms of those of `names` that the target allows."""
    simple = {"ips": ips, "snips": snips}
    found = {name: terms(log, target) for name, terms in simple.items() if name in names}
    if "dr" in names and target.items is not None:
        models = cross_fit(log, n_items=int(target.items.max()) + 1, seed=seed)
        found["dr"] = doubly_robust(log, target, models.predict(log, target))
    return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two targets on the same log; what the gate before publication reads."""

    candidate: Estimate
    champion: Estimate
    difference: Estimate
    """Candidate minus champion, paired: what moves both estimates alike takes no part in its interval."""
    trust: Trust
    """The worse of the two."""
    reasons: tuple[str, ...]


def compare(log: Log, candidate: Target, champion: Target, *, estimator: str = "snips", seed: int = 0) -> Comparison:
    """The paired difference of two targets by one of `ESTIMATORS`.

    Raises:
        OffPolicyError: no such estimator, or a target does not allow it.
    """
    both = {"candidate": candidate, "champion": champion}
    found = {name: estimators(log, target, names=(estimator,), seed=seed) for name, target in both.items()}
    if any(estimator not in terms for terms in found.values()):
        raise OffPolicyError(f"{estimator!r} is not an estimator of both targets; there are: {', '.join(ESTIMATORS)}")
    ours, theirs = found["candidate"][estimator], found["champion"][estimator]
    value = ours.value - theirs.value
    low, high = _bounds(value, ours.influence(log.unit) - theirs.influence(log.unit))
    estimates = {name: estimate(estimator, terms[estimator], log, both[name]) for name, terms in found.items()}
    overlaps = {name: overlap(log, target) for name, target in both.items()}
    return Comparison(
        candidate=estimates["candidate"],
        champion=estimates["champion"],
        difference=Estimate(
            estimator, value, low, high, min(o.ess for o in overlaps.values()), len(log), estimates["champion"].units
        ),
        trust=max((o.trust for o in overlaps.values()), key=list(Trust).index),
        reasons=tuple(f"{name}: {reason}" for name, o in overlaps.items() for reason in o.reasons),
    )

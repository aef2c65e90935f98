"""Which arm a unit is in: a salted hash and ranges of its 10,000 buckets. Nothing is stored, so every worker and every replay agrees.

The same unit is in the same arm for as long as the salt and the ranges stay. An edit of shares moves only the units in the buckets
between an arm's old and new bounds. Needs the standard library only.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

BUCKETS: Final = 10_000


def bucket(salt: str, unit: str) -> int:
    """The bucket of a unit, 0 to 9,999: uniform over units, independent between salts, the same on every machine."""
    # surrogatepass: an id that came in as a lone surrogate must hash, not raise.
    digest = hashlib.sha256(f"{salt}\0{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


@dataclass(frozen=True, slots=True)
class Split:
    """One salt's buckets cut into consecutive ranges, an arm each, in the order in which the arms are given.

    An arm that is added at the end takes its buckets from the arm before it, or from what no arm has: no other unit moves.
    """

    salt: str
    arms: tuple[str, ...]
    ends: tuple[int, ...]
    """The bucket at which each arm's range ends, parallel to `arms`; buckets from the last one on are in no arm."""

    @classmethod
    def of(cls, salt: str, shares: Mapping[str, float]) -> Split:
        """Bounds are the summed shares, rounded to a bucket."""
        return cls(salt, tuple(shares), tuple(round(total * BUCKETS) for total in accumulate(shares.values())))

    def arm(self, unit: str) -> str | None:
        """The arm of a unit, None where it is in none."""
        place = bisect_right(self.ends, bucket(self.salt, unit))
        return self.arms[place] if place < len(self.arms) else None

    def buckets(self, arm: str) -> range:
        """The buckets of an arm."""
        place = self.arms.index(arm)
        return range(self.ends[place - 1] if place else 0, self.ends[place])

    def share(self, arm: str) -> float:
        """The share of buckets that an arm has, which is the chance that a unit is in it."""
        return len(self.buckets(arm)) / BUCKETS


@dataclass(frozen=True, slots=True)
class Slot:
    """An experiment's place in a layer."""

    experiment: str
    buckets: range
    """Of the layer. Where two slots share buckets, no two of them may run at the same time."""
    split: Split
    """Under a salt of the experiment's own, so that who was in one arm of the last experiment is spread over all arms of the next."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A unit's arm in one experiment."""

    experiment: str
    arm: str
    unit: str
    share: float
    """The chance that any unit is placed so, holdout and exploration taken off: the arm's propensity."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Experiments that never overlap: each has buckets of its own in one salt. Different layers are independent."""

    salt: str
    slots: tuple[Slot, ...]

    def place(self, unit: str, running: Container[str], of: float = 1.0) -> Placement | None:
        """The unit's arm in that experiment of `running` whose buckets it falls into; `of` is the share of units that layers get."""
        number = bucket(self.salt, unit)
        for slot in self.slots:
            if number in slot.buckets and slot.experiment in running:
                arm = slot.split.arm(unit)
                if arm is not None:
                    share = of * len(slot.buckets) / BUCKETS * slot.split.share(arm)
                    return Placement(slot.experiment, arm, unit, share)
        return None


def unit_of(user_id: str | None, session_id: str | None, by: str = "user") -> str | None:
    """What is randomised: the user, or, where none is known or `by` says so, the session; None where neither is known.

    A user and a session that are called the same are two units.
    """
    if by == "user" and user_id is not None:
        return f"user:{user_id}"
    return None if session_id is None else f"session:{session_id}"

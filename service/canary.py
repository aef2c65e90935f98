"""A canary: a share of the shoppers, told by a salted hash, gets another bundle, and its guardrails compare the two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from recsys.experiments.assignment import Placement, Split, unit_of
from service.bundles import CanaryBundle, LiveBundle
from service.guardrail import CANARY, CONTROL, Watch, Watched

PREFIX: Final = "canary-"
"""Of the name that the arms of a canary have in place of an experiment's; its version follows."""


@dataclass(frozen=True)
class Canary:
    """One that is running. A larger share keeps the shoppers that it has."""

    bundle: CanaryBundle
    watched: Watched

    @classmethod
    def begun(cls, bundle: CanaryBundle, before: Canary | None) -> Canary:
        """With what was counted of it `before`, where it is the same with another share."""
        if before is not None and before.bundle is bundle:
            return before
        pointer = bundle.pointer
        found = cls(bundle, Watched(pointer.version, f"{PREFIX}{pointer.version}", pointer.since, Watch(), Watch()))
        return found if before is None or before.run != found.run else cls(bundle, before.watched)

    @property
    def run(self) -> tuple[str, float]:
        """Which canary it is: its version, and since when it runs."""
        return self.watched.version, self.watched.since

    @cached_property
    def split(self) -> Split:
        """The canary's buckets first."""
        share = self.bundle.pointer.share
        return Split.of(self.watched.experiment, {CANARY: share, CONTROL: 1.0 - share})

    @property
    def live(self) -> LiveBundle:
        """What the canary's shoppers get."""
        return self.bundle.live

    def placed(self, user_id: str | None, session_id: str | None) -> tuple[Placement, Watch] | None:
        """The arm of who asks, and who counts what it gets; None for somebody of whom nothing is known."""
        unit = unit_of(user_id, session_id)
        arm = None if unit is None else self.split.arm(unit)
        if unit is None or arm is None:
            return None
        watch = self.watched.canary if arm == CANARY else self.watched.control
        return Placement(self.watched.experiment, arm, unit, self.split.share(arm)), watch

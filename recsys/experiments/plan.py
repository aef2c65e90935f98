"""What a file of experiments may say, and who gets what of it at a moment. Documented in docs/experiments.md."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from recsys.events import Surface
from recsys.experiments.assignment import BUCKETS, Layer, Placement, Slot, Split, unit_of
from recsys.experiments.metrics import METRICS
from recsys.rules.schema import Moment, Surfaces

HOLDOUT: Final = "holdout"
EXPLORATION: Final = "exploration"
MODEL: Final = r"phase[123]|\d{8}T\d{6}-phase[123]-[0-9a-f]{8}"
PHASE: Final = rf"^(random|popularity|{MODEL})$"
EVERYWHERE: Final = tuple(Surface)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]


def _known(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"{metric!r} is no metric: give one of {', '.join(METRICS)}")
    return metric


MetricName = Annotated[str, AfterValidator(_known)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Configuration(_Strict):
    """What an arm answers with; what is not given is as the shop has it."""

    phase: Annotated[str, StringConstraints(pattern=PHASE)] | None = Field(
        default=None, description="random, popularity, phase1, phase2, phase3, or a bundle's version."
    )
    against: Annotated[str, StringConstraints(pattern=rf"^({MODEL})$")] | None = Field(
        default=None, description="Another phase or version, interleaved with `phase` by team draft."
    )
    rules: Path | None = Field(default=None, description="A rule file, relative to the file of experiments.")
    diversity: float | None = Field(default=None, ge=0, le=1, description="Strength, of 1.")
    value_weight: float | None = Field(default=None, ge=0, le=1, description="0 ranks by purchases, 1 by revenue.")
    degrade: float | None = Field(default=None, ge=0, le=1, description="Share of places that random items take.")

    def merged(self, other: Configuration) -> Configuration:
        """This one, with what `other` gives besides."""
        return Configuration(**{**self.model_dump(exclude_none=True), **other.model_dump(exclude_none=True)})


THE_SHOPS: Final = Configuration()
"""The shop's own configuration: of the holdout, and of whoever is in no experiment."""


class Arm(Configuration):
    """One of the things that an experiment compares."""

    name: Name
    share: float = Field(gt=0, le=1, description="Of the experiment's units.")

    @model_validator(mode="after")
    def _interleaves_two_models(self) -> Arm:
        if self.against is not None and (self.phase is None or not re.fullmatch(MODEL, self.phase)):
            raise ValueError("against: needs a phase or version to be interleaved with: give it as phase")
        return self

    @property
    def configuration(self) -> Configuration:
        """What it answers with."""
        return Configuration(**self.model_dump(exclude={"name", "share"}))


class Guardrail(_Strict):
    """A metric that an arm must not make worse by more than a margin."""

    metric: MetricName
    relative: float | None = Field(default=None, gt=0, description="Margin as a share of the control's value.")
    absolute: float | None = Field(default=None, gt=0, description="Margin in the metric's own unit.")

    @model_validator(mode="after")
    def _one_margin(self) -> Guardrail:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError("give a margin, relative or absolute, and only one of them")
        return self


class Experiment(_Strict):
    """Arms on some of a layer's buckets, from `start` until before `stop`."""

    name: Name
    layer: Name
    arms: tuple[Arm, ...]
    control: Name = Field(description="The arm that the others are compared with.")
    start: Moment
    stop: Moment | None = Field(default=None, description="The planned end. Not given: until the file says so.")
    ended: Moment | None = Field(
        default=None,
        description="Stopped before the planned end: from then on nobody is in it; it stays judged as one that runs.",
    )
    buckets: tuple[int, int] = Field(default=(0, BUCKETS), description="Of the layer, from and until before.")
    salt: Name | None = Field(default=None, description="Not given: the experiment's name.")
    surfaces: Surfaces = EVERYWHERE
    primary: MetricName = "ctr"
    metrics: tuple[MetricName, ...] = Field(default=(), description="Read out besides.")
    guardrails: tuple[Guardrail, ...] = ()
    expected_units: int = Field(
        default=10_000, ge=100, description="In all arms by the end: the sequential intervals are narrowest there."
    )

    @model_validator(mode="after")
    def _possible(self) -> Experiment:
        names = [arm.name for arm in self.arms]
        if len(names) < 2:
            raise ValueError("arms: give at least two, the control among them")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"arms: two are called {twice[0]!r}")
        if self.control not in names:
            raise ValueError(f"control: {self.control!r} is none of its arms: give one of {', '.join(names)}")
        total = sum(arm.share for arm in self.arms)
        if abs(total - 1) > 1e-9:
            raise ValueError(
                f"arms: their shares sum to {total:.6g}: make them sum to 1; thirds are 0.3333, 0.3333 and 0.3334"
            )
        empty = [arm.name for arm in self.arms if not self.split.buckets(arm.name)]
        if empty:
            raise ValueError(
                f"arms: the share of {empty[0]!r} is less than a bucket of {BUCKETS:,}: give at least 0.0001"
            )
        if self.stop is not None and self.stop <= self.start:
            raise ValueError("stop: is not after start: no moment is left to run")
        if self.ended is not None and self.ended < self.start:
            raise ValueError("ended: is before start: leave it out, and give a start that is still to come")
        first, end = self.buckets
        if not 0 <= first < end <= BUCKETS:
            raise ValueError(f"buckets: give [from, until] with 0 <= from < until <= {BUCKETS}")
        return self

    @property
    def split(self) -> Split:
        """Its own buckets, cut into arms."""
        return Split.of(f"experiment/{self.salt or self.name}", {arm.name: arm.share for arm in self.arms})

    @property
    def slot(self) -> Slot:
        """Its place in its layer."""
        return Slot(self.name, range(*self.buckets), self.split)

    @property
    def sets(self) -> frozenset[str]:
        """What of a configuration its arms give."""
        return frozenset(name for arm in self.arms for name in arm.configuration.model_dump(exclude_none=True))

    def runs(self, at: datetime) -> bool:
        """Whether it has started and not stopped."""
        return self.start <= at and (self.end is None or at < self.end)

    @property
    def end(self) -> datetime | None:
        """From when on nobody is in it, as far as that is known."""
        known = [moment for moment in (self.stop, self.ended) if moment is not None]
        return min(known, default=None)

    def meets(self, other: Experiment) -> bool:
        """Whether there is a moment at which both run."""
        return (other.end is None or self.start < other.end) and (self.end is None or other.start < self.end)


class LayerSpec(_Strict):
    """A salt that experiments share, and what it is that is randomised."""

    salt: Name | None = Field(default=None, description="Not given: the layer's name.")
    unit: Literal["user", "session"] = Field(default="user", description="user: where none is known, the session.")


class Holdout(_Strict):
    """Units that are in no experiment of any layer, and get the shop's own configuration."""

    share: Share = 0.0
    salt: Name = HOLDOUT


class Exploration(_Strict):
    """The permanent arms: units that get random items, or the popular ones, whatever experiments run, and are in none of them."""

    random: Share = 0.0
    popularity: Share = 0.0
    salt: Name = Field(default=EXPLORATION, description="Another salt makes it other units.")
    surfaces: Surfaces = EVERYWHERE

    @model_validator(mode="after")
    def _possible(self) -> Exploration:
        if self.random + self.popularity > 1:
            raise ValueError("random and popularity sum to more than 1")
        return self


NO_HOLDOUT: Final = Holdout()
NO_EXPLORATION: Final = Exploration()


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one unit gets on one surface at one moment."""

    placements: tuple[Placement, ...] = ()
    """Its arm in every experiment that runs there; the holdout and the exploration count as experiments of that name."""
    configuration: Configuration = THE_SHOPS


NOWHERE: Final = Assignment()
"""Of a request that names neither user nor session."""


@dataclass(frozen=True)
class Plan:
    """The experiments of one file; `recsys.experiments.reading` makes it."""

    experiments: tuple[Experiment, ...] = ()
    layers: Mapping[str, LayerSpec] = field(default_factory=dict)
    holdout: Holdout = NO_HOLDOUT
    exploration: Exploration = NO_EXPLORATION

    @cached_property
    def version(self) -> str:
        """12 hexadecimal digits of the file's meaning, whatever its layout and comments: what every answer's log says."""
        content = {
            "experiments": [one.model_dump(mode="json", exclude_defaults=True) for one in self.experiments],
            "layers": {name: one.model_dump(mode="json", exclude_defaults=True) for name, one in self.layers.items()},
            "holdout": self.holdout.model_dump(mode="json", exclude_defaults=True),
            "exploration": self.exploration.model_dump(mode="json", exclude_defaults=True),
        }
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]

    def assign(self, user_id: str | None, session_id: str | None, surface: Surface, at: datetime) -> Assignment:
        """What a request gets: the holdout first, then the exploration, then every layer. `at` has a time zone."""
        unit = unit_of(user_id, session_id)
        if unit is None:
            return NOWHERE
        arm = self._holdout.arm(unit)
        if arm is not None:
            return Assignment((Placement(HOLDOUT, arm, unit, self._holdout.share(arm)),))
        arm = self._exploration.arm(unit)
        if arm is not None:
            if surface not in self.exploration.surfaces:
                return NOWHERE
            share = self._outside_holdout * self._exploration.share(arm)
            return Assignment((Placement(EXPLORATION, arm, unit, share),), EXPLORING[arm])
        return self._experiments(user_id, session_id, surface, at)

    def _experiments(self, user_id: str | None, session_id: str | None, surface: Surface, at: datetime) -> Assignment:
        running = {one.name for one in self.experiments if surface in one.surfaces and one.runs(at)}
        placements, configuration = [], THE_SHOPS
        for unit_kind, layer in self._layers if running else ():
            unit = unit_of(user_id, session_id, unit_kind)
            placement = None if unit is None else layer.place(unit, running, self._left_to_layers)
            if placement is not None:
                placements.append(placement)
                theirs = self._configurations[placement.experiment, placement.arm]
                configuration = theirs if configuration is THE_SHOPS else configuration.merged(theirs)
        return Assignment(tuple(placements), configuration)

    def shares(self) -> Iterator[tuple[str, str, range, float]]:
        """For every arm there is: experiment, arm, its buckets, and its share of all units."""
        for name, split, of in (
            (HOLDOUT, self._holdout, 1.0),
            (EXPLORATION, self._exploration, self._outside_holdout),
        ):
            for arm in split.arms:
                if split.buckets(arm):
                    yield name, arm, split.buckets(arm), of * split.share(arm)
        for experiment in self.experiments:
            slot = experiment.slot
            of = self._left_to_layers * len(slot.buckets) / BUCKETS
            for arm in slot.split.arms:
                yield experiment.name, arm, slot.split.buckets(arm), of * slot.split.share(arm)

    @cached_property
    def _holdout(self) -> Split:
        return Split.of(f"holdout/{self.holdout.salt}", {HOLDOUT: self.holdout.share})

    @cached_property
    def _exploration(self) -> Split:
        shares = {"random": self.exploration.random, "popularity": self.exploration.popularity}
        return Split.of(f"exploration/{self.exploration.salt}", shares)

    @cached_property
    def _outside_holdout(self) -> float:
        return 1 - self._holdout.share(HOLDOUT)

    @cached_property
    def _left_to_layers(self) -> float:
        return self._outside_holdout * (1 - sum(map(self._exploration.share, self._exploration.arms)))

    @cached_property
    def _layers(self) -> tuple[tuple[str, Layer], ...]:
        """What is randomised, and the layer; in the file's order."""
        return tuple(
            (
                spec.unit,
                Layer(f"layer/{spec.salt or name}", tuple(one.slot for one in self.experiments if one.layer == name)),
            )
            for name, spec in self.layers.items()
        )

    @cached_property
    def _configurations(self) -> dict[tuple[str, str], Configuration]:
        return {(one.name, arm.name): arm.configuration for one in self.experiments for arm in one.arms}


EXPLORING: Final = {name: Configuration(phase=name) for name in ("random", "popularity")}

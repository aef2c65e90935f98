"""What each arm of the running experiments answers with: the live bundle or another one, changed as the arm says.

Every arm is a `LiveBundle` of its own that shares the arrays and the catalogue of the bundle that it comes from, so that the hot path
knows nothing of experiments but whom to ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from recsys.compose import rebuilt
from recsys.errors import UserError
from recsys.experiments.assignment import Placement
from recsys.experiments.plan import THE_SHOPS, Configuration, Plan
from recsys.experiments.reading import read_plan
from recsys.models.degraded import Degraded
from recsys.models.diverse import Diverse
from recsys.models.random import RandomModel
from recsys.models.ranker import RankerModel
from recsys.publish import served_phases
from recsys.ranking import Model
from service.bundles import BundleHolder, LiveBundle
from service.canary import Canary
from service.catalogue import LiveCatalogue
from service.guardrail import CANARY, Watch, Watched
from service.metrics import Metrics
from service.rules import RulesHolder
from service.schemas import RecommendRequest
from service.shadow import Shadow
from service.watched import WatchedFile

logger = logging.getLogger(__name__)

RANDOM: Final = "random"
POPULARITY: Final = "popularity"
NO_PLAN: Final = Plan()


class ArmError(UserError):
    """An arm cannot be served."""


@dataclass(frozen=True, slots=True)
class Line:
    """Who answers a request, and by which experiments."""

    live: LiveBundle
    rules: RulesHolder
    placements: tuple[Placement, ...] = ()
    plan: str | None = None
    """Version of the plan that placed it."""
    watch: Watch | None = None
    """What counts the answers of a canary or its control."""
    shadow: Shadow | None = None
    """What compares the answer with that of a bundle which nobody sees."""


class Arms:
    """The arms of this process. It watches the file of experiments; one that cannot be used keeps the old plan in force."""

    def __init__(self, path: Path | None, holder: BundleHolder, rules: RulesHolder, metrics: Metrics) -> None:
        """Load the plan, and what its arms name; without a path there are no experiments.

        Raises:
            UserError: the plan, or a bundle or a rule file that an arm names, cannot be used; or an arm cannot be served.
        """
        self._holder = holder
        self._rules = rules
        self._metrics = metrics
        self._file = WatchedFile(path)
        self._refused = ""
        """Why the file as it is now is not in force."""
        self._failed: dict[tuple[object, ...], str] = {}
        """Plans that could not be served with certain bundles, and why."""
        self._lineup = Lineup(NO_PLAN, holder.live, {}, {})
        self._canary: Canary | None = None
        self._stopped: tuple[str, float] | None = None
        """The canary, and since when it ran, that was ended in this worker, whatever its pointer says yet."""
        self.shadow: Shadow | None = None
        if path is not None:
            self._lineup = self._made(read_plan(path))

    @property
    def version(self) -> str | None:
        """Of the plan in force."""
        return None if self._file.path is None else self._lineup.plan.version

    def line(self, request: RecommendRequest, at: float) -> Line:
        """Who answers a request at a moment, Unix time."""
        if self._file.path is None:
            return self._the_shops(request)
        plan = self._lineup.plan
        assigned = plan.assign(request.user_id, request.session_id, request.where, datetime.fromtimestamp(at, UTC))
        configuration = assigned.configuration
        if configuration is THE_SHOPS and not assigned.placements:
            return self._the_shops(request, plan.version)
        is_live = configuration is THE_SHOPS
        live = self._holder.live if is_live else self._holder.followed(self._lineup.bundle(configuration))
        path = configuration.rules
        rules = self._rules if path is None else self._lineup.rules[path]
        return Line(live, rules, assigned.placements, plan.version)

    def _the_shops(self, request: RecommendRequest, plan: str | None = None) -> Line:
        """Who answers somebody who is in no experiment: the live bundle, or the canary."""
        shadow = self.shadow if self.shadow is not None and self.shadow.wants() else None
        found = None if self._canary is None else self._canary.placed(request.user_id, request.session_id)
        if found is None or self._canary is None:
            return Line(self._holder.live, self._rules, plan=plan, shadow=shadow)
        placement, watch = found
        if placement.arm == CANARY:
            return Line(self._holder.followed(self._canary.live), self._rules, (placement,), plan, watch)
        return Line(self._holder.live, self._rules, (placement,), plan, watch, shadow)

    @property
    def watched(self) -> Watched | None:
        """The canary of this worker, as its guardrails see it."""
        return None if self._canary is None else self._canary.watched

    @property
    def canary_share(self) -> float:
        """Of the shoppers; 0 without a canary."""
        return 0.0 if self._canary is None else self._canary.bundle.pointer.share

    def stop_canary(self) -> None:
        """End it in this worker, before its pointer is gone."""
        if self._canary is not None:
            self._stopped, self._canary = self._canary.run, None

    def _follow_canary(self) -> None:
        bundle = self._holder.canary
        found = None if bundle is None else Canary.begun(bundle, self._canary)
        self._canary = None if found is None or found.run == self._stopped else found

    async def reload(self) -> None:
        """Follow the file of experiments, and the bundles that serve its phases.

        A file that was refused is tried again: what it lacked, a bundle or a rule file, may have come.
        """
        self._follow_canary()
        path, old = self._file.path, self._lineup
        if path is None:
            self._lineup = Lineup(NO_PLAN, self._holder.live, {}, {})
            return
        try:
            changed = self._file.changed()
            plan = await asyncio.to_thread(read_plan, path) if changed or self._refused else old.plan
            await self._follow(plan)
            if self._refused:
                logger.info("experiments %s are no longer refused", plan.version)
            self._refused = ""
            self._metrics.plan_refused(stale=False)
        except UserError as error:
            self._refuse(error)
            await self._follow_old()
        for rules in self._lineup.rules.values():
            await rules.reload()
            rules.forget([self._holder.live.catalogue, *self.catalogues])

    async def _follow(self, plan: Plan) -> None:
        """Serve a plan with what is published now.

        Raises:
            UserError: it cannot be served.
        """
        old, versions = self._lineup, self._versions(plan)
        moved = old.live is not self._holder.live or versions != {
            phase: live.bundle.version for phase, live in old.bundles.items()
        }
        if not moved and plan.version == old.plan.version:
            return
        wanted = (plan.version, self._holder.live.bundle.version, *map(self._stamp, versions.values()))
        if wanted in self._failed:  # checking a damaged bundle again and again would cost the answers their time
            raise ArmError(self._failed[wanted])
        try:
            self._lineup = await asyncio.to_thread(self._made, plan)
        except UserError as error:
            self._failed[wanted] = str(error)
            raise
        self._failed = {}
        logger.info("experiments %s are in force", plan.version)

    async def _follow_old(self) -> None:
        """The plan in force goes on with what is published, while the file cannot be used."""
        try:
            await self._follow(self._lineup.plan)
        except UserError as error:
            logger.debug("the plan in force stays with the bundles that it has: %s", error)

    def _refuse(self, error: UserError) -> None:
        if str(error) != self._refused:
            self._metrics.plan_refused(stale=True)
            logger.error("the experiments are refused, %s stay in force: %s", self.version, error)
        self._refused = str(error)

    def _stamp(self, version: str) -> tuple[str, int]:
        """A bundle, and when it came to lie there; 0 where it does not."""
        manifest = self._holder.folder / version / "manifest.json"
        return version, manifest.stat().st_mtime_ns if manifest.exists() else 0

    @property
    def catalogues(self) -> list[LiveCatalogue]:
        """Those that an arm answers from, beside the live bundle's, or that answer after a rollback."""
        held = self._holder.loaded.values()
        return [live.catalogue for live in (self._lineup.live, *self._lineup.bundles.values(), *held)]

    def _made(self, plan: Plan) -> Lineup:
        """Everything that the plan's arms need.

        Raises:
            UserError: see `__init__`.
        """
        versions = self._versions(plan)
        bundles = self._holder.beside(set(versions.values()))
        folder = self._file.path.parent if self._file.path is not None else Path()
        paths = {one.rules for one in _configurations(plan) if one.rules is not None}
        rules = {path: self._lineup.rules.get(path) or RulesHolder(folder / path, self._metrics) for path in paths}
        lineup = Lineup(
            plan, self._holder.live, {phase: bundles[version] for phase, version in versions.items()}, rules
        )
        for configuration in _configurations(plan):
            lineup.bundle(configuration)  # what cannot be served is refused now, not in an answer
        return lineup

    def _versions(self, plan: Plan) -> dict[str, str]:
        """The bundle of each phase or version that an arm names.

        Raises:
            ArmError: nothing of a phase is published.
        """
        served = {f"phase{phase}": version for phase, version in served_phases(self._holder.folder).items()}
        named = {name for one in _configurations(plan) for name in (one.phase, one.against) if name is not None}
        wanted = sorted(named - {RANDOM, POPULARITY})
        for phase in wanted:
            if phase.startswith("phase") and phase not in served:
                raise ArmError(
                    f"an arm answers with {phase}, and no bundle of it is published: `recsys publish VERSION --beside`"
                )
        return {phase: served.get(phase, phase) for phase in wanted}


@dataclass(frozen=True, slots=True)
class Lineup:
    """A plan with all that its arms need, loaded."""

    plan: Plan
    live: LiveBundle
    """What was live when it was made."""
    bundles: Mapping[str, LiveBundle]
    """By phase or version, as the arms name them."""
    rules: Mapping[Path, RulesHolder]
    """By path, as the arms name them."""
    _made: dict[Configuration, LiveBundle] = field(default_factory=dict)

    def bundle(self, configuration: Configuration) -> LiveBundle:
        """What answers for a configuration.

        Raises:
            ArmError: it changes what its bundle does not have.
        """
        if configuration not in self._made:
            base = self.live if configuration.phase in (None, RANDOM, POPULARITY) else self.bundles[configuration.phase]
            made = changed(base, configuration)
            if configuration.against is not None:
                made = interleaved(made, self.bundles[configuration.against])
            self._made[configuration] = made
        return self._made[configuration]


def interleaved(live: LiveBundle, other: LiveBundle) -> LiveBundle:
    """A live bundle whose answers another one's are drafted into.

    Raises:
        ArmError: the two do not list the same items in the same rows.
    """
    ours, theirs = live.bundle.catalogue, other.bundle.catalogue
    if len(ours) != len(theirs) or not np.array_equal(ours.index.hashes, theirs.index.hashes):
        raise ArmError(
            f"bundles {live.bundle.version} and {other.bundle.version} cannot be interleaved, as they list other items: "
            "train both on the same tables"
        )
    return replace(live, against=other.bundle)


def changed(live: LiveBundle, configuration: Configuration) -> LiveBundle:
    """A live bundle that answers as an arm says. It shares arrays and catalogue with the one that it is made from.

    Raises:
        ArmError: the arm changes what no model of the bundle has.
    """
    bundle = live.bundle
    if configuration.phase in (RANDOM, POPULARITY):
        model: Model = RandomModel() if configuration.phase == RANDOM else bundle.popularity
        return replace(live, bundle=replace(bundle, surfaces=dict.fromkeys(bundle.surfaces, model)), plain=True)
    surfaces = dict(bundle.surfaces)
    for name, kind, attribute in CHANGES:
        value = getattr(configuration, name)
        if value is None:
            continue
        before = surfaces
        surfaces = {where: _with(model, kind, attribute, value) for where, model in before.items()}
        if all(surfaces[where] is before[where] for where in before):
            raise ArmError(f"an arm sets {name}, and no model of bundle {bundle.version} has it: phase 3 has")
    if configuration.degrade:
        surfaces = {where: Degraded(model, configuration.degrade) for where, model in surfaces.items()}
    if all(surfaces[where] is bundle.surfaces[where] for where in surfaces):
        return live
    return replace(live, bundle=replace(bundle, surfaces=surfaces))


CHANGES: Final = (("diversity", Diverse, "strength"), ("value_weight", RankerModel, "value_weight"))
"""What an arm may change: its name there, and the model's attribute that it sets."""


def _with(model: Model, kind: type, attribute: str, value: float) -> Model:
    """The model with an attribute of all its parts of one kind set."""
    return rebuilt(model, lambda part: replace(part, **{attribute: value}) if isinstance(part, kind) else part)  # type: ignore[type-var]


def _configurations(plan: Plan) -> Iterator[Configuration]:
    """Of every arm of the plan."""
    return (arm.configuration for experiment in plan.experiments for arm in experiment.arms)

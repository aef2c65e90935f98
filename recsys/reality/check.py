"""`recsys reality-check`: the five questions that a shop should ask of its recommendations, each answered by something that was done."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from recsys.bundle import load_bundle
from recsys.dataset import Dataset, load_dataset
from recsys.decision.evidence import gather
from recsys.decision.page import write_report
from recsys.decision.verdict import decide
from recsys.errors import UserError
from recsys.evaluation.evaluate import make_task, sample
from recsys.evaluation.split import Window
from recsys.events import Surface
from recsys.experiments.reading import read_plan
from recsys.experiments.roi import Figure, Inputs, Return, break_even, reckon
from recsys.phases import PHASES
from recsys.publish import served_phases
from recsys.reality.accuracy import TARGETS, Degradation, degradations
from recsys.reality.arms import (
    ENSEMBLE,
    POPULARITY,
    RANDOM,
    SIMPLE,
    Trial,
    configurations,
    degraded_arm,
    equally,
    read_log,
    shopper_sums,
    surface_ctrs,
    write_simple_bundles,
)
from recsys.reality.engineer import Burden, burden
from recsys.reality.money import Infrastructure, Rates, Shop, infrastructure, roi_inputs
from recsys.reality.rollback import RollbackDrill, rollback_drill
from recsys.reality.runbook import RUNBOOK, Carried, runbook_drill
from recsys.reality.serving import publish_links
from recsys.reality.study import EXPERIMENT, fit_bundles, read_world
from recsys.reality.traffic import page_requests
from recsys.reality.worlds import Order, alone, simulate_worlds
from recsys.simulation.constants import Constants
from recsys.simulation.traffic import plan_visits
from recsys.simulation.world import World

VISITS: Final = 40_000
EXPERIMENT_WORLDS: Final = 4
"""The experiment has as many visits as so many arms alone: its shoppers are shared between three."""
MIN_SHOPPERS: Final = 10
"""Of an arm alone."""
ACCURACY_CASES: Final = 1_000
"""Shoppers whose answers tell how accurate a degraded model is."""
DRILL_REQUESTS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen."""

    visits: int = VISITS
    seed: int = 0
    targets: tuple[float, ...] = TARGETS
    """See `recsys.reality.accuracy`."""
    runbook: Path = RUNBOOK
    shop: Shop = field(default_factory=Shop)
    rates: Rates = field(default_factory=Rates)
    steady_seconds: float = 10.0
    """Of traffic that the cost of an answer is measured in."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What `recsys report` says of the ensemble against random items."""

    verdict: str
    reasons: tuple[str, ...]
    page: str
    """Relative to the page of the reality check."""


@dataclass(frozen=True)
class Check:
    """Everything that was found."""

    options: Options
    bundle: str
    """The ensemble's version."""
    bundle_before: str
    ndcg: float
    """Of the ensemble's home page: NDCG@20 over what shoppers bought in the window."""
    degradations: tuple[Degradation, ...]
    trial: Trial
    burden: Burden
    steps: tuple[Carried, ...]
    rollback: RollbackDrill
    cost: Infrastructure
    decision: Decision

    @property
    def curve(self) -> tuple[tuple[Figure, str], ...]:
        """Measured accuracy and arm, the worst first; the ensemble is the last."""
        worse = sorted(((one.accuracy, degraded_arm(one)) for one in self.degradations), key=lambda pair: pair[0].value)
        return (*worse, (Figure.of(1.0), ENSEMBLE))

    @property
    def best_simple(self) -> str:
        """The arm without learning that is clicked most."""
        return max(SIMPLE, key=lambda arm: self.trial.sums[arm].ctr)

    @property
    def seventy(self) -> str:
        """The arm of the first question: the degradation nearest to 70%."""
        return degraded_arm(min(self.degradations, key=lambda one: abs(one.target - 0.7)))

    def inputs(self, arm: str, over: str) -> Inputs:
        """A year's reckoning of an arm in the stated shop."""
        return roi_inputs(self.trial.incremental(arm, over), self.options.shop, self.cost)

    def returns(self, arm: str, over: str) -> Return:
        """What comes of it."""
        return reckon(self.inputs(arm, over))

    @property
    def paying_visits(self) -> float | None:
        """Visits a year from which the ensemble earns its cost over random items in the first year; None where it never does."""
        share = break_even(self.inputs(ENSEMBLE, "random"))
        return None if share is None else share * self.options.shop.visits_per_year

    @property
    def failed_steps(self) -> tuple[Carried, ...]:
        """Of the runbook."""
        return tuple(step for step in self.steps if not step.passed)


def reality_check(data: Path, folder: Path, out: Path, options: Options, console: Console) -> Check:
    """All of it below `folder`, from the tables below `data`; the decision report is written beside the page `out`.

    Bundles of an earlier run, or of `recsys case-study`, that lie in `folder` are used again.

    Raises:
        UserError: there are no tables, or not of that month, or a drill could not be held.
    """
    world = read_world(data)
    dataset = load_dataset(data / "tables")
    fit_bundles(folder, data / "tables", console)
    versions = served_phases(folder / "bundles")
    live, before = (folder / "bundles" / versions[phase] for phase in (max(PHASES), max(PHASES) - 1))
    return held(data, folder, out, (before, live), dataset, world, Constants.read(), options, console)


def held(
    data: Path,
    folder: Path,
    out: Path,
    bundles: tuple[Path, Path],
    dataset: Dataset,
    world: World,
    constants: Constants,
    options: Options,
    console: Console,
) -> Check:
    """The drills and the experiment on two bundles that were fitted before `world.cut`: the one before, and the ensemble.

    Raises:
        UserError: so few visits that an arm has too few shoppers, a drill could not be held, or the experiment has no readout.
    """
    share, (before, live) = _share(world, constants, options), bundles
    with console.status("a rollback under traffic"):
        requests = page_requests(world, DRILL_REQUESTS, options.seed)
        rollback = rollback_drill(live, before, requests, seconds=options.steady_seconds)
    with console.status("the runbook, step by step"):
        steps = runbook_drill(live, before, options.runbook)
    with console.status("how accurate degraded answers are"):
        task = sample(make_task(dataset, Window(world.cut, world.until)), ACCURACY_CASES, options.seed)
        ndcg, worse = degradations(load_bundle(live).surfaces[Surface.HOME], task, options.seed, options.targets)
    trial_folder = folder / "trial"
    trial = _experiment(data, trial_folder, bundles, dataset, world, constants, options, share, worse, console)
    return Check(
        options=options,
        bundle=live.name,
        bundle_before=before.name,
        ndcg=ndcg,
        degradations=worse,
        trial=trial,
        burden=burden(),
        steps=steps,
        rollback=rollback,
        cost=infrastructure(options.shop, options.rates, rollback.serving, trial.pages_per_visit),
        decision=_decision(trial_folder / "experiment", live.name, out),
    )


def _share(world: World, constants: Constants, options: Options) -> float:
    """Of the month's shoppers, those that each arm meets alone.

    Raises:
        UserError: they are too few.
    """
    planned = plan_visits(world, constants.traffic, constants.mess, options.seed)
    arms = len((RANDOM, *SIMPLE, ENSEMBLE)) + len(options.targets)
    share = options.visits / (arms + EXPERIMENT_WORLDS) / len(planned)
    shoppers = len(np.unique(planned.of_some(share).shopper))
    if shoppers < MIN_SHOPPERS:
        raise UserError(
            f"{options.visits:,} visits are those of {shoppers} shoppers for each arm, of {MIN_SHOPPERS} that an interval needs: ask for more"
        )
    return share


def _experiment(
    data: Path,
    folder: Path,
    bundles: tuple[Path, Path],
    dataset: Dataset,
    world: World,
    constants: Constants,
    options: Options,
    share: float,
    worse: tuple[Degradation, ...],
    console: Console,
) -> Trial:
    """Every arm in the real service, alone in a world of its own, and an experiment of three of them, whose database and tables stay in `folder`.

    Raises:
        UserError: it has no readout; the message says why.
    """
    if folder.exists():
        shutil.rmtree(folder)
    before, ensemble = bundles
    publish_links(folder / "bundles", (ensemble, before))  # the ensemble is what the report is asked about
    with console.status("fitting what needs no learning"):
        simple = write_simple_bundles(folder / "bundles", dataset.before(world.cut), world.cut)
    arms = configurations(ensemble.name, worse, simple)
    experiment = Order(
        folder=folder / "experiment",
        bundles=folder / "bundles",
        data=data,
        world=world,
        arms=equally({name: arms[name] for name in (RANDOM, POPULARITY, ENSEMBLE)}),
        unit="user",
        constants=constants,
        seed=options.seed,
        visits_share=EXPERIMENT_WORLDS * share,
    )
    worlds = [
        # Not by name: a socket's path may not be long.
        replace(experiment, folder=folder / f"arm-{number}", arms=alone(name, given), visits_share=share)
        for number, (name, given) in enumerate(arms.items())
    ]
    _, *pages = simulate_worlds([experiment, *worlds], console)
    readout = read_log(experiment.folder, console)
    if readout.reason:
        raise UserError(f"the experiment has no readout: {readout.reason}")
    of_arm = dict(zip(arms, pages, strict=True))
    return Trial(shopper_sums(of_arm), surface_ctrs(of_arm), readout)


def _decision(folder: Path, candidate: str, out: Path) -> Decision:
    """Write what `recsys report` says of the ensemble beside the page."""
    found = gather(
        folder, candidate=candidate, plan=read_plan(folder / "experiments.toml"), experiment=EXPERIMENT, arm=ENSEMBLE
    )
    verdict = decide(found)
    page, _ = write_report(out.parent / f"{out.stem}_decision", found, verdict)
    return Decision(str(verdict.call), tuple(verdict.reasons), str(page.relative_to(out.parent)))


def answers(check: Check) -> Mapping[str, str]:
    """Each of the five questions, and what was found."""
    trial, shop, worst = check.trial, check.options.shop, check.rollback
    whole, seventy, simple = ENSEMBLE, check.seventy, check.best_simple
    kept = {arm: check.returns(arm, "random").incremental_per_year.value for arm in (whole, seventy)}
    accuracy = next(one.accuracy for one in check.degradations if degraded_arm(one) == seventy)
    remains = f"{kept[seventy] / kept[whole]:.0%}" if kept[whole] > 0 else "none"
    slowest = max(worst.changes, key=lambda change: change.switched_seconds)
    return {
        "What happens to the business if the model is only 70% as accurate as hoped?": (
            f"At {accuracy.value:.0%} of its accuracy CTR is {_percent(trial.lift(seventy))} over random items instead of "
            f"{_percent(trial.lift(whole))}, and it brings {remains} of the revenue: a return of "
            f"{_percent(check.returns(seventy, 'random').roi)} instead of {_percent(check.returns(whole, 'random').roi)} in a shop of "
            f"{shop.visits_per_year:,.0f} visits a year."
        ),
        "Could rules or simple statistics do the job instead?": (
            f"The best of them, {_words(simple)}, has {_percent(trial.lift(simple))}; the ensemble's CTR is {_percent(trial.lift(whole, simple))} against it, and "
            f"{_percent(trial.lift(whole, 'popularity'))} against bestsellers."
        ),
        "Who maintains it when the ML people have moved on?": (
            f"Backend engineers: {check.burden.served_lines:,} of {sum(check.burden.lines.values()):,} lines run in the service, on "
            f"{len(check.burden.installed)} packages; it is ready {worst.ready_seconds:.1f} seconds after the command. "
            f"{len(check.steps) - len(check.failed_steps)} of {len(check.steps)} steps of the runbook worked as they stand."
        ),
        "What is the rollback plan when, not if, the model fails?": (
            f"recsys rollback: at the slowest of {len(worst.changes)} changes every one of {worst.workers} workers answered with the other bundle "
            f"{slowest.switched_seconds:.1f} seconds after the command was typed; {worst.failed} of "
            f"{sum(change.answers for change in worst.changes):,} answers failed."
        ),
        "How is business impact measured, beyond model metrics?": (
            f"By an experiment on all that was bought: the report says {check.decision.verdict} ({check.decision.page})."
        ),
    }


def _words(arm: str) -> str:
    return arm.replace("_", " ")


def _percent(figure: Figure) -> str:
    return f"{figure.value:+.0%} [{figure.low:+.0%}, {figure.high:+.0%}]"

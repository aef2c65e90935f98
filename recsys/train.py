"""Training: tables in; a searched, evaluated and registered phase out, and the bundle that serves it.

The order keeps the measurement honest: choices are made on the validation window only, the test window is read
once, for every row of the table at the same time, and only then is the chosen configuration refitted on everything.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
import orjson
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from recsys import tracking
from recsys.bundle import BundleError, load_bundle, read_manifest
from recsys.calibration import Curves, calibrated, curves_of
from recsys.dataset import Dataset, load_dataset
from recsys.errors import UserError
from recsys.evaluation.evaluate import ModelScores, Task, evaluate, make_task, paired_differences, sample
from recsys.evaluation.metrics import PRIMARY
from recsys.evaluation.questions import observe, questions
from recsys.evaluation.reliability import RELIABILITY_SCHEMA, measure
from recsys.evaluation.report import decision_tables, print_results, write_phase_report
from recsys.evaluation.split import Split, windows_of
from recsys.events import EVENT_TYPES, Surface
from recsys.models.fit.calibration import fit_curves
from recsys.pack import write_bundle
from recsys.phase1 import Phase1Config, Workshop
from recsys.phase3 import Phase3Config
from recsys.phases import PHASES, event_of_chances, wanted
from recsys.privacy.deletions import Deletions
from recsys.publish import bundle_versions
from recsys.ranking import Model
from recsys.tradeoffs import settle

MAX_TRIALS: Final = 200
MIN_SPARE: Final = 1_000
SPARE_SHARE: Final = 0.05
"""A bundle has room for so many items, relative to those it lists, that join while it serves; at least for `MIN_SPARE`."""
SEARCH_CASES: Final = 1_000
"""A trial of the search is judged on this many shoppers; the comparison that follows sees all."""
TAG_LENGTH: Final = 5_000
"""Characters of a tag in MLflow; the manifest has all."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training left behind."""

    version: str
    trained: bool
    """False where nothing had changed since `version` was trained."""


@dataclass(frozen=True, slots=True)
class Results:
    """A window's frame of results, and the per-shopper scores that paired differences need."""

    frame: pl.DataFrame
    scores: Mapping[str, ModelScores]
    reliability: pl.DataFrame
    """Of the chances on every surface, see `recsys.evaluation.reliability.measure`; empty where they were fitted on this window."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided on the validation window."""

    config: Phase1Config
    curves: Mapping[Surface, Curves]
    """What scores mean, by surface."""
    tradeoffs: Mapping[str, pl.DataFrame]
    """Curves that a decision was read off, or that a shop decides by; see `recsys.tradeoffs`."""


def train(
    phase: int,
    data_dir: Path,
    *,
    until: str | None = None,
    search_seconds: float = 60.0,
    seed: int = 0,
    objective: str | None = None,
    force: bool = False,
    deletions: Deletions | None = None,
    console: Console,
) -> TrainResult:
    """Search, choose, evaluate, refit and pack a phase; see `recsys train --help`.

    The manifest names the receipts of those who are no longer in the tables, and their receipts name the first such bundle.

    Raises:
        UserError: the tables are missing, empty, or all later than `until`; or the phase or the data knows no such `objective`.
    """
    given = wanted(phase, objective)
    summary = read_summary(data_dir)
    key = _training_key(summary["fingerprint"], phase, until, search_seconds, seed, objective)
    known = None if force else _trained_before(data_dir / "bundles", key)
    if known is not None:
        console.print(f"phase {phase} is up to date: [bold]{known}[/bold] (train again: --force)")
        return TrainResult(known, trained=False)

    started = time.monotonic()
    with _heard(console) as warnings:
        honoured = [] if deletions is None else deletions.honoured()  # before the tables are read, not after
        dataset = load_dataset(data_dir / "tables")
        console.print(
            f"{len(dataset.events):,} interactions of {dataset.n_users:,} users "
            f"({dataset.n_shoppers - dataset.n_users:,} anonymous sessions) with {dataset.n_items:,} items"
        )
        windows = _windows(dataset, until, console)
        choice, results = Choice(replace(PHASES[phase].DEFAULT, **given), {}, {}), dict[str, Results]()
        if windows is not None:
            choice, results["validation"] = choose(phase, dataset, windows, search_seconds, seed, console, given)
            results["test"] = test(phase, choice, dataset, windows, seed, console)
        at = windows.test.start if until is not None and windows is not None else dataset.until
        learnt = dataset.before(at).with_spare(max(MIN_SPARE, int(SPARE_SHARE * dataset.n_items)))
        if not len(learnt.events):
            raise UserError("there are no interactions to learn from: look at the summary that `recsys tables` prints")
        with console.status("fitting on everything for publishing" if until is None else f"fitting before {until}"):
            surfaces, popularity = PHASES[phase].build_surfaces(Workshop(learnt, at, seed), choice.config)
    bundle = write_bundle(
        data_dir / "bundles",
        phase=phase,
        surfaces=calibrated(surfaces, choice.curves),
        popularity=popularity,
        dataset=learnt,
        at=at,
        metadata=_metadata(phase, summary, key, until, choice, results, learnt, warnings) | {"deletions": honoured},
    )
    if deletions is not None:
        deletions.note_model(bundle.name, honoured)
    _record(data_dir, phase, bundle, summary, seed, choice, results)
    if "test" in results:
        print_results(results["test"].frame, results["test"].reliability, console)
    console.print(f"bundle [bold]{bundle.name}[/bold] in {time.monotonic() - started:.0f} s")
    return TrainResult(bundle.name, trained=True)


class _Listener(logging.Handler):
    """Prints what the package warns of, and keeps it: each thing once, though every fit on the way says it again."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        message = record.getMessage()
        if message not in self.heard:
            self.heard.append(message)
            self._console.print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)


@contextmanager
def _heard(console: Console) -> Iterator[list[str]]:
    """What this package's loggers warn of while the block runs, in the order of its first mention."""
    listener, package = _Listener(console), logging.getLogger("recsys")
    package.addHandler(listener)
    try:
        yield listener.heard
    finally:
        package.removeHandler(listener)


def read_summary(data_dir: Path) -> dict[str, Any]:
    """What `recsys tables` says of its output.

    Raises:
        UserError: the tables have not been built.
    """
    path = data_dir / "tables" / "summary.json"
    if not path.exists():
        raise UserError(f"{path} is missing: run `recsys ingest` and `recsys tables` first")
    summary: dict[str, Any] = orjson.loads(path.read_bytes())
    return summary


def _training_key(fingerprint: str, *settings: object) -> str:
    """A hash of all that decides what training produces: the data, the settings and the code of this package."""
    digest = hashlib.sha256(orjson.dumps([fingerprint, *map(repr, settings)]))
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _trained_before(bundles: Path, key: str) -> str | None:
    return next((manifest["version"] for manifest in _manifests(bundles) if manifest.get("training_key") == key), None)


def _manifests(bundles: Path) -> Iterator[dict[str, Any]]:
    """Of all bundles, the newest first."""
    for version in reversed(bundle_versions(bundles)):
        try:
            yield read_manifest(bundles / version)
        except BundleError:
            continue  # an old or damaged bundle is no reason not to train


def _windows(dataset: Dataset, until: str | None, console: Console) -> Split | None:
    """The split, or None where the data is too little to measure anything and no cut was asked for."""
    if not len(dataset.events):
        return None
    try:
        return windows_of(dataset, until)
    except UserError as error:
        if until is not None:
            raise
        console.print(f"[yellow]nothing is evaluated, defaults are used:[/yellow] {error}")
        return None


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _evaluate(models: Mapping[str, Model], task: Task, label: str, seed: int, console: Console) -> Results:
    with _progress(console) as progress:
        bar = progress.add_task(label, total=len(models) * len(task.cases))
        frame, scores = evaluate(models, task, seed=seed, tick=lambda: progress.advance(bar))
    return Results(frame, scores, pl.DataFrame(schema=RELIABILITY_SCHEMA))


def choose(
    phase: int,
    dataset: Dataset,
    windows: Split,
    search_seconds: float,
    seed: int,
    console: Console,
    given: Mapping[str, Any],
) -> tuple[Choice, Results]:
    """Decide on the validation window: the best configuration of the phase, and what its scores mean; beside baselines and single models.

    `given`: what the shop has decided itself.
    """
    at = windows.validation.start
    task = make_task(dataset, windows.validation)
    console.print(f"validation {windows.validation}: {len(task.cases):,} shoppers")
    workshop = Workshop(dataset.before(at), at, seed)
    config = search(phase, workshop, sample(task, SEARCH_CASES, seed), search_seconds, seed, console)
    config = replace(config, **given)
    asked = questions(dataset, windows.validation, seed, event_of_chances(dataset, config))
    tradeoffs: Mapping[str, pl.DataFrame] = {}
    with console.status("reading off what a score means"):
        if isinstance(config, Phase3Config):
            config, tradeoffs = settle(workshop, config, asked[Surface.HOME], dataset.catalogue)
        surfaces, _ = PHASES[phase].build_surfaces(workshop, config)
        available = dataset.catalogue.available
        curves = {surface: fit_curves(observe(model, asked[surface], available)) for surface, model in surfaces.items()}
    rows = fit_rows(phase, workshop, config, console)
    return Choice(config, curves, tradeoffs), _evaluate(rows, task, "comparing on validation", seed, console)


def search(phase: int, workshop: Workshop, task: Task, seconds: float, seed: int, console: Console) -> Phase1Config:
    """Hyper-parameters by Optuna's TPE, the default first, until the time is up or `MAX_TRIALS` are done.

    What a trial is judged by is the phase's `objective`.
    """
    plan = PHASES[phase]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(plan.default_params())
    best: Phase1Config = plan.DEFAULT
    best_value = -np.inf
    with console.status(f"fitting {plan.NAME} for the search"):
        plan.searched(workshop, best)
    deadline = time.monotonic() + seconds
    with _progress(console) as progress:
        bar = progress.add_task("searching", total=MAX_TRIALS)
        for _ in range(MAX_TRIALS):
            trial = study.ask()
            config = plan.suggest(trial)
            frame, _ = evaluate({"trial": plan.searched(workshop, config)}, task, seed=seed)
            value = plan.objective(frame)
            study.tell(trial, value)
            if value > best_value:
                best, best_value = config, value
            progress.update(bar, advance=1, description=f"searching, best {best_value:.4f}")
            if time.monotonic() > deadline:
                break
    return best


def fit_rows(phase: int, workshop: Workshop, config: Phase1Config, console: Console) -> dict[str, Model]:
    """Every row of the tables, fitted on the same past."""
    with console.status(f"fitting {PHASES[phase].NAME} and what it is compared with"):
        rows: dict[str, Model] = PHASES[phase].rows(workshop, config)
    return rows


def test(phase: int, choice: Choice, dataset: Dataset, windows: Split, seed: int, console: Console) -> Results:
    """Read the test window once, with every row of the table and the chances on every surface."""
    task = make_task(dataset, windows.test)
    console.print(f"test {windows.test}: {len(task.cases):,} shoppers")
    workshop = Workshop(dataset.before(windows.test.start), windows.test.start, seed)
    found = _evaluate(fit_rows(phase, workshop, choice.config, console), task, "reading the test window", seed, console)
    with console.status("reading whether chances come true"):
        surfaces, _ = PHASES[phase].build_surfaces(workshop, choice.config)
        asked = questions(dataset, windows.test, seed, event_of_chances(dataset, choice.config))
        claims = measure(calibrated(surfaces, choice.curves), asked, dataset.catalogue.available)
    return replace(found, reliability=claims)


def _metadata(
    phase: int,
    summary: Mapping[str, Any],
    key: str,
    until: str | None,
    choice: Choice,
    results: Mapping[str, Results],
    learnt: Dataset,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The training's part of the bundle's manifest."""
    return {
        "training_key": key,
        "data": {
            "since": int(learnt.events.second[0]),
            "until": learnt.until,
            "fingerprint": summary["fingerprint"],
            # With a cut, part of the log may lie after it: what was received is then not known to be learnt.
            "log_until": summary["log_until"] if until is None else 0,
            "catalogue_bytes": summary["catalogue_bytes"],
        },
        "currency": summary["currency"],
        "until": until,
        "params": asdict(choice.config),
        "chances_of": EVENT_TYPES[event_of_chances(learnt, choice.config)],
        "tradeoffs": {name: curve.to_dicts() for name, curve in choice.tradeoffs.items()},
        "warnings": list(warnings),
        "metrics": {
            window: {row["slice"]: row["value"] for row in _primary_rows(result.frame, phase).iter_rows(named=True)}
            for window, result in results.items()
        },
        "intervals": {
            window: {
                row["slice"]: (row["low"], row["high"])
                for row in _primary_rows(result.frame, phase).iter_rows(named=True)
            }
            for window, result in results.items()
        },
    }


def _primary_rows(frame: pl.DataFrame, phase: int) -> pl.DataFrame:
    return frame.filter(model=PHASES[phase].NAME, metric=str(PRIMARY))


def _record(
    data_dir: Path,
    phase: int,
    bundle: Path,
    summary: Mapping[str, Any],
    seed: int,
    choice: Choice,
    results: Mapping[str, Results],
) -> None:
    """Into MLflow."""
    manifest = read_manifest(bundle)
    tracking.log_training(
        data_dir,
        phase=phase,
        bundle=bundle,
        params={**asdict(choice.config), "seed": seed, "until": manifest["until"]},
        tags={
            "fingerprint": summary["fingerprint"],
            "code_version": manifest["code_version"],
            "data_since": str(manifest["data"]["since"]),
            "data_until": str(manifest["data"]["until"]),
            "warnings": "\n".join(manifest["warnings"])[:TAG_LENGTH],
        },
        results={window: result.frame for window, result in results.items()},
        reliability={window: result.reliability for window, result in results.items() if len(result.reliability)},
        tradeoffs=choice.tradeoffs,
    )


def evaluate_phase(phase: int, data_dir: Path, *, console: Console) -> None:
    """Fit the newest bundle's configuration before the test cut and print the table of the test window.

    A published bundle has learnt from the test window and cannot be judged on it; its configuration can, and so can its
    curves of chances, which were fitted on the validation window.

    Raises:
        UserError: no bundle of that phase has been trained, or none by this version of it, or the data is too little to measure anything.
    """
    bundles = data_dir / "bundles"
    trained = next((manifest for manifest in _manifests(bundles) if manifest["phase"] == phase), None)
    if trained is None:
        raise UserError(f"no bundle of phase {phase}: run `recsys train --phase {phase}` first")
    plan, config = PHASES[phase], configuration(phase, trained)
    summary = read_summary(data_dir)
    dataset = load_dataset(data_dir / "tables")
    windows = _windows(dataset, trained["until"], console)
    if windows is None:
        raise UserError("the data is too little to measure anything")
    curves = curves_of(load_bundle(bundles / trained["version"]).surfaces)
    choice = Choice(config, curves, {})
    with _heard(console):
        results = test(phase, choice, dataset, windows, 0, console)
    print_results(results.frame, results.reliability, console)
    others = [name for name in results.scores if name != plan.NAME]
    differences = paired_differences(results.scores, plan.NAME, others)
    command = f"recsys evaluate --phase {phase}"
    decisions = decision_tables(trained["tradeoffs"], trained["params"])
    write_phase_report(
        plan.NAME, command, results.frame, differences, results.reliability, decisions, shop=summary["shop"]
    )


def configuration(phase: int, trained: Mapping[str, Any]) -> Phase1Config:
    """What a bundle was trained with, by its manifest.

    Raises:
        UserError: that says more or less than this version of the phase decides, so defaults would be measured in its name.
    """
    default: Phase1Config = PHASES[phase].DEFAULT
    params = trained.get("params", {})
    differing = sorted(params.keys() ^ asdict(default).keys())
    if differing:
        raise UserError(
            f"bundle {trained['version']} was trained by another version of phase {phase}, which decided otherwise on "
            f"{', '.join(differing)}: run `recsys train --phase {phase}` first"
        )
    return replace(default, **params)

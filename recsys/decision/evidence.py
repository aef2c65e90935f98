"""What is known of a change: two bundles, the experiment between them, what it earns. Gathered from files, nothing is computed twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import polars as pl
from pydantic import ValidationError

from recsys.bundle import read_manifest
from recsys.errors import UserError
from recsys.experiments.analysis import Readout, read_out
from recsys.experiments.gate import Decision, decide
from recsys.experiments.gate import Evidence as Comparison
from recsys.experiments.plan import Arm, Experiment, Guardrail, Plan
from recsys.experiments.roi import DAYS_PER_YEAR, MIN_DAYS, Figure, Inputs, Return, reckon
from recsys.publish import bundle_versions, live_version
from recsys.tables import EXPERIMENT_UNITS, SURFACE_DAYS

ATTRIBUTED: Final = "revenue_per_unit"
INCREMENTAL: Final = "total_revenue_per_unit"
DEFAULT_GUARDRAILS: Final = (
    Guardrail(metric="latency", absolute=20.0),
    Guardrail(metric="errors", absolute=0.001),
    Guardrail(metric="returns", absolute=0.02),
)
"""Of an experiment that declares none for a metric: 20 ms an answer, one answer in a thousand, two returns of a hundred orders."""
ALWAYS_READ: Final = ("ctr", "conversion", ATTRIBUTED, INCREMENTAL, "order_value")


A_MOMENT: Final = timedelta(microseconds=1)


class ReportError(UserError):
    """Nothing can be reported; the message says what is missing."""


@dataclass(frozen=True)
class Trial:
    """The experiment that the change is part of."""

    experiment: Experiment
    arm: Arm
    """The one that is asked about."""
    readout: Readout
    is_over: bool
    """Its stop has passed and the marts hold its last day, so that fixed intervals are read once; before that only sequential ones hold."""
    days: pl.DataFrame
    """Columns of `recsys.tables.SURFACE_DAYS`, this experiment's rows."""
    period_days: float
    """From the first exposure to the last day with any."""

    def lift(self, metric: str) -> dict[str, Any] | None:
        """The arm's row of `recsys.experiments.analysis.LIFTS`, None where there is none or no data."""
        found = self.readout.lifts.filter(arm=self.arm.name, metric=metric, status="ok")
        return found.row(0, named=True) if len(found) else None


@dataclass(frozen=True)
class Money:
    """What the change earns in the whole shop, in units of currency."""

    attributed: Figure
    """Of the period, if every unit were in the arm: what followed clicks and views of its items, less the control's."""
    incremental: Figure
    """Likewise: all that was bought, less what the control bought."""
    period_days: float
    inputs: Inputs | None
    returns: Return | None
    """None where nothing says what it costs."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a decision rests on."""

    at: datetime
    currency: str
    candidate: Mapping[str, Any]
    """Manifest."""
    champion: Mapping[str, Any] | None
    slices: pl.DataFrame
    """window, slice, candidate, champion, relative: offline figures of both."""
    gate: Decision
    policy: Comparison | None
    """What the log of random answers says."""
    trial: Trial | None
    money: Money | None


def gather(
    data_dir: Path,
    *,
    candidate: str | None = None,
    champion: str | None = None,
    plan: Plan | None = None,
    experiment: str | None = None,
    arm: str | None = None,
    policy: Comparison | None = None,
    costs: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Evidence:
    """Read bundles and marts below `data_dir`.

    The candidate is the newest bundle and the champion the live one, unless named; `costs` are `recsys.experiments.roi.Inputs` without
    revenue.

    Raises:
        ReportError: there is no such bundle, experiment or arm, or no marts.
    """
    at = datetime.now(UTC) if now is None else now
    ours, theirs = _bundles(data_dir / "bundles", candidate, champion)
    trial = None
    if plan is not None:
        trial = _trial(data_dir / "tables", _experiment(plan, experiment), arm, at)
    return Evidence(
        at=at,
        currency=str(ours["currency"]),
        candidate=ours,
        champion=theirs,
        slices=_slices(ours, theirs),
        gate=decide(ours, theirs, policy),
        policy=policy,
        trial=trial,
        money=None if trial is None else _money(trial, str(ours["currency"]), costs),
    )


def _bundles(folder: Path, candidate: str | None, champion: str | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    versions = bundle_versions(folder)
    candidate = candidate or (versions[-1] if versions else None)
    champion = champion or live_version(folder)
    if candidate is None:
        raise ReportError(f"{folder} holds no bundle: run `recsys train --phase 1` first")
    for version in (candidate, champion):
        if version is not None and version not in versions:
            raise ReportError(f"no bundle {version!r}; there are: {', '.join(versions) or 'none'}")
    return read_manifest(folder / candidate), None if champion is None else read_manifest(folder / champion)


def _slices(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None) -> pl.DataFrame:
    ours, theirs = candidate.get("metrics", {}), {} if champion is None else champion.get("metrics", {})
    rows = []
    for window in dict.fromkeys((*ours, *theirs)):
        for name in dict.fromkeys((*ours.get(window, {}), *theirs.get(window, {}))):
            value = ours.get(window, {}).get(name)
            other = theirs.get(window, {}).get(name)
            relative = value / other - 1 if other and value is not None else None
            rows.append((window, name, value, other, relative))
    schema = {"window": pl.String, "slice": pl.String, "candidate": pl.Float64, "champion": pl.Float64}
    return pl.DataFrame(rows, schema={**schema, "relative": pl.Float64}, orient="row")


def _experiment(plan: Plan, name: str | None) -> Experiment:
    found = {one.name: one for one in plan.experiments}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise ReportError(f"name one of the plan's experiments: {', '.join(found) or 'it has none'}")
    return found[name]


def _trial(tables: Path, experiment: Experiment, arm: str | None, now: datetime) -> Trial:
    others = {one.name: one for one in experiment.arms if one.name != experiment.control}
    if arm is None and len(others) == 1:
        arm = next(iter(others))
    if arm not in others:
        raise ReportError(f"name the arm to decide about: {', '.join(others)}")
    units, every_day = _mart(tables, EXPERIMENT_UNITS.name), _mart(tables, SURFACE_DAYS.name)
    units, days = (frame.filter(experiment=experiment.name) for frame in (units, every_day))
    read = experiment.model_copy(
        update={
            "metrics": tuple(dict.fromkeys((*experiment.metrics, *ALWAYS_READ))),
            "guardrails": _guardrails(experiment),
        }
    )
    readout = read_out(read, units)
    is_over = (
        experiment.stop is not None
        and experiment.ended is None
        and experiment.stop <= now
        and _holds_until(every_day, experiment.stop)
    )
    return Trial(experiment, others[arm], readout, is_over, days, _period_days(units, days))


def _holds_until(days: pl.DataFrame, stop: datetime) -> bool:
    """Whether the marts hold all of the last day before `stop`, which a row of a later day tells; built earlier, they are a look like
    any other."""
    return len(days.filter(pl.col("day") > (stop - A_MOMENT).date())) > 0


def _guardrails(experiment: Experiment) -> tuple[Guardrail, ...]:
    named = {one.metric for one in experiment.guardrails}
    return (*experiment.guardrails, *(one for one in DEFAULT_GUARDRAILS if one.metric not in named))


def _mart(tables: Path, name: str) -> pl.DataFrame:
    path = tables / f"{name}.parquet"
    if not path.exists():
        raise ReportError(f"{path} is missing: run `recsys tables` first")
    return pl.read_parquet(path)


def _period_days(units: pl.DataFrame, days: pl.DataFrame) -> float:
    if not len(units) or not len(days):
        return 0.0
    first, last = units["first_at"].min(), days["day"].max()
    assert isinstance(first, datetime)
    end = datetime.combine(last, datetime.min.time()) + timedelta(days=1)  # type: ignore[arg-type]
    return (end - first) / timedelta(days=1)


def _money(trial: Trial, currency: str, costs: Mapping[str, Any] | None) -> Money | None:
    attributed, incremental = (_of_the_shop(trial, metric) for metric in (ATTRIBUTED, INCREMENTAL))
    if attributed is None or incremental is None or trial.period_days <= 0:
        return None
    inputs = None
    if costs is not None and trial.period_days >= MIN_DAYS:
        if costs.get("currency", currency) != currency:
            raise ReportError(f"costs are in {costs['currency']}, the shop's revenue in {currency}: convert them first")
        a_year = incremental.scaled(DAYS_PER_YEAR / trial.period_days)
        try:
            inputs = Inputs.model_validate({**costs, "currency": currency, "incremental_per_year": a_year})
        except ValidationError as error:
            raise ReportError(f"the costs do not fit: {'; '.join(one['msg'] for one in error.errors())}") from error
    return Money(attributed, incremental, trial.period_days, inputs, None if inputs is None else reckon(inputs))


def _of_the_shop(trial: Trial, metric: str) -> Figure | None:
    """A difference per unit, in cents, times all units of the experiment, in the main unit of the currency."""
    lift = trial.lift(metric)
    if lift is None:
        return None
    low, high = ("low", "high") if trial.is_over else ("sequential_low", "sequential_high")
    units = sum(trial.readout.units.values())
    return Figure(lift["difference"], lift[low], lift[high]).scaled(units / 100)

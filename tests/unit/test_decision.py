"""What a report says to do: on experiments whose truth is known, and with everything that may be missing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from recsys.bundle import FORMAT
from recsys.decision.evidence import Evidence, ReportError, gather
from recsys.decision.page import as_html, as_json, write_report
from recsys.decision.verdict import Call, decide
from recsys.experiments.plan import Arm, Experiment, Guardrail, LayerSpec, Plan
from recsys.experiments.roi import read_experiment
from recsys.tables import EXPERIMENT_UNITS, SURFACE_DAYS

START = datetime(2026, 11, 1, tzinfo=UTC)
OLD, NEW = "20261101T000000-phase1-00000000", "20261102T000000-phase2-11111111"


def plan(stop: datetime | None = START + timedelta(days=14), guardrail: float = 0.001) -> Plan:
    arms = (Arm(name="one", share=0.5, phase="phase1"), Arm(name="two", share=0.5, phase="phase2"))
    one = Experiment(
        name="phases",
        layer="l",
        arms=arms,
        control="one",
        start=START,
        stop=stop,
        guardrails=(Guardrail(metric="errors", absolute=guardrail),),
    )
    return Plan((one,), {"l": LayerSpec()})


def units(
    lift: float, *, per_arm: tuple[int, int] = (4_000, 4_000), slower_ms: float = 0.0, seed: int = 0
) -> pl.DataFrame:
    """Shoppers who see twenty items and click 5% of them, in arm two more so; a click in five buys for 10.00."""
    rng = np.random.default_rng(seed)
    n, arm = sum(per_arm), np.repeat(["one", "two"], per_arm)
    in_two = arm == "two"
    clicks = rng.binomial(20, np.where(in_two, 0.05 * (1 + lift), 0.05))
    orders = rng.binomial(clicks, 0.2)
    return pl.DataFrame(
        {
            "experiment": "phases",
            "unit": [f"user:{number}" for number in range(n)],
            "arm": arm,
            "first_at": (START + timedelta(hours=1)).replace(tzinfo=None),
            "exposures": np.full(n, 20.0),
            "clicks": clicks.astype(float),
            "carts": orders.astype(float),
            "orders": orders.astype(float),
            "revenue_cents": 1_000.0 * orders,
            "returns": np.zeros(n),
            "total_orders": orders + rng.poisson(0.2, n).astype(float),
            "total_revenue_cents": 1_000.0 * orders + rng.poisson(200, n),
            "answers": np.full(n, 2.0),
            "errors": np.zeros(n),
            "latency_ms": 2.0 * (1.0 + rng.random(n) + slower_ms * in_two),
        }
    )


def days(frame: pl.DataFrame) -> pl.DataFrame:
    """The last day of the experiment on one surface, and one answer of the day after."""
    sums = frame.group_by("arm").agg(pl.col("exposures", "clicks").sum())
    columns = {column.name: None for column in SURFACE_DAYS.columns}
    last = sums.select("arm", "exposures", "clicks").with_columns(
        experiment=pl.lit("phases"),
        day=START.date() + timedelta(days=13),
        **dict.fromkeys(columns.keys() - {"arm", "exposures", "clicks", "experiment", "day"}),
    )
    after = {"arm": "", "experiment": "", "day": START.date() + timedelta(days=14), "exposures": 1.0, "clicks": 0.0}
    return pl.concat([last, pl.DataFrame([after])], how="diagonal_relaxed")


def shop(folder: Path, frame: pl.DataFrame, *, candidate: float = 0.42) -> Path:
    """A shop's data directory: two evaluated bundles, the older live, and the marts of an experiment."""
    for version, value in ((OLD, 0.40), (NEW, candidate)):
        manifest = {
            "format": FORMAT,
            "version": version,
            "currency": "EUR",
            "data": {"fingerprint": "f"},
            "until": None,
            "metrics": {"test": {"all purchases": value, "<new>": 0.05}},
        }
        (folder / "bundles" / version).mkdir(parents=True)
        (folder / "bundles" / version / "manifest.json").write_bytes(orjson.dumps(manifest))
    (folder / "bundles" / "live").write_text(f"{OLD}\n")
    (folder / "tables").mkdir()
    frame.write_parquet(folder / "tables" / f"{EXPERIMENT_UNITS.name}.parquet")
    days(frame).write_parquet(folder / "tables" / f"{SURFACE_DAYS.name}.parquet")
    return folder


COSTS = {"infrastructure_per_year": 1_000.0, "margin": 0.3}


def evidence(folder: Path, frame: pl.DataFrame, *, candidate: float = 0.42, **given: Any) -> Evidence:
    options = {"plan": plan(), "costs": COSTS, "now": START + timedelta(days=15), **given}
    return gather(shop(folder, frame, candidate=candidate), **options)


def test_what_is_surely_better_and_breaks_nothing_is_shipped(tmp_path: Path) -> None:
    verdict = decide(evidence(tmp_path, units(0.2)))
    assert verdict.call is Call.SHIP, verdict.reasons
    assert any("ctr" in reason and "surely better" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("frame", "given", "call", "words"),
    [
        (units(0.0), {}, Call.HOLD, "run it longer"),
        (units(-0.2), {}, Call.STOP, "surely worse"),
        (units(0.2, slower_ms=50.0), {}, Call.STOP, "guardrail latency broken"),
        (units(0.2, per_arm=(4_000, 3_000)), {}, Call.HOLD, "sample-ratio mismatch"),
        (units(0.2), {"candidate": 0.3}, Call.STOP, "all purchases: 0.3000 for 0.4000"),
        (units(0.2), {"plan": None}, Call.HOLD, "no experiment was read"),
        (units(0.2).with_columns(clicks=0.0), {}, Call.HOLD, "ctr: no data"),
        (units(0.2).clear(), {}, Call.HOLD, "no unit was exposed"),
    ],
    ids=["nothing", "worse", "slower", "mismatch", "offline", "none", "no clicks", "empty"],
)
def test_what_is_not_sure_is_held_and_what_harms_is_stopped(
    tmp_path: Path, frame: pl.DataFrame, given: dict[str, Any], call: Call, words: str
) -> None:
    verdict = decide(evidence(tmp_path, frame, **given))
    assert verdict.call is call
    assert any(words in reason for reason in verdict.reasons), verdict.reasons


def test_an_experiment_that_still_runs_is_judged_by_intervals_for_any_number_of_looks(tmp_path: Path) -> None:
    frame = units(0.055, seed=3)
    over = evidence(tmp_path / "over", frame)
    running = evidence(tmp_path / "running", frame, plan=plan(stop=None))
    assert over.trial and running.trial
    lift = running.trial.lift("ctr")
    assert lift is not None and lift["low"] > 0 > lift["sequential_low"]
    assert (decide(over).call, decide(running).call) == (Call.SHIP, Call.HOLD)


def test_tables_that_end_before_the_stop_are_a_look_like_any_other(tmp_path: Path) -> None:
    folder = shop(tmp_path, units(0.055, seed=3))
    path = folder / "tables" / f"{SURFACE_DAYS.name}.parquet"
    pl.read_parquet(path).with_columns(pl.col("day").dt.offset_by("-1d")).write_parquet(path)
    found = gather(folder, plan=plan(), now=START + timedelta(days=15))
    assert found.trial is not None and not found.trial.is_over
    assert decide(found).call is Call.HOLD


def test_more_clicks_do_not_pay_for_less_revenue(tmp_path: Path) -> None:
    lost = (
        pl.when(pl.col("arm") == "two")
        .then(pl.col("total_revenue_cents") * 0.5)
        .otherwise(pl.col("total_revenue_cents"))
    )
    verdict = decide(evidence(tmp_path, units(0.2).with_columns(total_revenue_cents=lost)))
    assert verdict.call is Call.STOP
    assert "total_revenue_per_unit" in verdict.reasons[0], verdict.reasons


def test_a_guardrail_too_is_judged_for_any_number_of_looks_while_the_experiment_runs(tmp_path: Path) -> None:
    frame = units(0.4, slower_ms=0.0)
    # Errors in two answers of a thousand in both arms: within the margin at one look, not at any number of looks.
    errors = np.random.default_rng(3).binomial(2, 0.002, len(frame)).astype(float)
    frame = frame.with_columns(errors=errors)
    over = evidence(tmp_path / "over", frame, plan=plan(guardrail=0.0018))
    running = evidence(tmp_path / "running", frame, plan=plan(stop=None, guardrail=0.0018))
    assert (decide(over).call, decide(running).call) == (Call.SHIP, Call.HOLD), decide(running).reasons
    assert any(reason.startswith("guardrail errors open") for reason in decide(running).reasons)


@pytest.mark.parametrize("column", ["latency_ms", "errors", "returns"])
def test_a_guardrail_that_was_not_measured_ships_nothing(tmp_path: Path, column: str) -> None:
    frame = units(0.2).with_columns(pl.lit(None, dtype=pl.Float64).alias(column))
    verdict = decide(evidence(tmp_path, frame))
    assert verdict.call is Call.HOLD
    assert any(f"{column} was not recorded" in reason for reason in verdict.reasons), verdict.reasons


@pytest.mark.parametrize(("phase", "candidate"), [(3, None), (None, OLD)], ids=["the log", "the plan"])
def test_an_experiment_ships_only_the_bundle_that_ran_in_it(
    tmp_path: Path, phase: int | None, candidate: str | None
) -> None:
    folder = shop(tmp_path, units(0.2))
    if phase is not None:
        path = folder / "tables" / f"{SURFACE_DAYS.name}.parquet"
        pl.read_parquet(path).with_columns(phase=pl.lit(phase)).write_parquet(path)
    verdict = decide(gather(folder, plan=plan(), candidate=candidate, now=START + timedelta(days=15)))
    assert verdict.call is Call.HOLD
    assert any("name the bundle that ran" in reason for reason in verdict.reasons), verdict.reasons


def test_bundles_without_an_evaluation_are_reported_too(tmp_path: Path) -> None:
    folder = shop(tmp_path, units(0.2))
    for version in (OLD, NEW):
        path = folder / "bundles" / version / "manifest.json"
        manifest = orjson.loads(path.read_bytes())
        del manifest["metrics"]
        path.write_bytes(orjson.dumps(manifest))
    found = gather(folder, plan=plan(), now=START + timedelta(days=15))
    assert len(found.slices) == 0 and as_html(found, decide(found))


def test_a_slice_that_only_the_champion_has_is_on_the_page(tmp_path: Path) -> None:
    folder = shop(tmp_path, units(0.2))
    path = folder / "bundles" / NEW / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"all purchases":0.42,', b""))
    assert gather(folder).slices["slice"].to_list() == ["<new>", "all purchases"]
    assert any("all purchases was not measured" in note for note in gather(folder).gate.notes)


def test_costs_in_another_currency_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="costs are in USD, the shop's revenue in EUR"):
        evidence(tmp_path, units(0.2), costs={**COSTS, "currency": "USD"})


def test_an_experiment_that_was_ended_early_is_judged_as_one_that_runs(tmp_path: Path) -> None:
    ended = plan()
    (one,) = ended.experiments
    early = Plan((one.model_copy(update={"ended": START + timedelta(days=10)}),), ended.layers)
    found = evidence(tmp_path, units(0.055, seed=3), plan=early)
    assert found.trial is not None and not found.trial.is_over
    assert decide(found).call is Call.HOLD


def test_a_ratio_that_may_be_none_is_not_surely_better(tmp_path: Path) -> None:
    found = evidence(
        tmp_path, units(3.0, per_arm=(60, 60), seed=1).with_columns(clicks=pl.col("clicks") * (pl.col("clicks") > 2))
    )
    assert found.trial is not None
    trial = replace(found.trial, is_over=False)
    lift = trial.lift("ctr")
    assert lift is not None and lift["sequential_low"] > 0 > lift["sequential_relative_low"]
    assert not any("surely better" in reason for reason in decide(replace(found, trial=trial)).reasons)


def test_money_is_the_difference_of_all_revenue_times_all_units(tmp_path: Path) -> None:
    frame = units(0.2)
    found = evidence(tmp_path, frame)
    means = dict(frame.group_by("arm").agg(pl.col("total_revenue_cents").mean()).iter_rows())
    assert found.money is not None and found.money.returns is not None
    assert found.money.incremental.value == pytest.approx((means["two"] - means["one"]) * 8_000 / 100)
    assert found.money.period_days == pytest.approx(14 - 1 / 24)
    a_year = found.money.incremental.value * 365 / found.money.period_days
    assert found.money.returns.roi.value == pytest.approx((a_year * 0.3 - 1_000) / 1_000)


def test_the_json_is_what_roi_reads_and_the_page_escapes(tmp_path: Path) -> None:
    found = evidence(tmp_path, units(0.2))
    verdict = decide(found)
    page, data = write_report(tmp_path / "out", found, verdict)
    assert found.money is not None
    assert read_experiment(data).per_year.value == pytest.approx(
        found.money.incremental.value * 365 / found.money.period_days
    )
    assert orjson.loads(data.read_bytes())["verdict"] == "ship"
    text = page.read_text()
    assert "&lt;new&gt;" in text and "<new>" not in text
    assert text.count("<svg") == 3 and "src=" not in text and "<link" not in text


def test_without_an_experiment_or_a_champion_there_is_a_page_too(tmp_path: Path) -> None:
    folder = shop(tmp_path, units(0.2))
    (folder / "bundles" / "live").unlink()
    found = gather(folder)
    verdict = decide(found)
    assert found.champion is None and verdict.call is Call.HOLD
    assert "no bundle is live" in as_html(found, verdict)
    assert as_json(found, verdict)["experiment"] is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"candidate": "nothing"}, "no bundle 'nothing'"),
        ({"plan": plan(), "experiment": "other"}, "name one of the plan's experiments: phases"),
        ({"plan": plan(), "arm": "one"}, "name the arm to decide about: two"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ReportError, match=words):
        gather(shop(tmp_path, units(0.1)), **given)


def test_without_marts_the_command_is_named(tmp_path: Path) -> None:
    folder = shop(tmp_path, units(0.1))
    (folder / "tables" / "surface_days.parquet").unlink()
    with pytest.raises(ReportError, match="run `recsys tables` first"):
        gather(folder, plan=plan())

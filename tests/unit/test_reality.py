"""The parts of the reality check that need no service: what is counted, priced, parsed and estimated."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl
import pytest
from packaging.requirements import Requirement

from recsys.dataset import SECONDS_PER_DAY, parse_day
from recsys.errors import UserError
from recsys.experiments.roi import Figure
from recsys.reality.accuracy import Degradation
from recsys.reality.arms import (
    POPULARITY,
    RANDOM,
    Sums,
    Trial,
    configurations,
    equally,
    shopper_sums,
    surface_ctrs,
)
from recsys.reality.engineer import ROOT, closure, declared_requirements, lines_by_package
from recsys.reality.money import Rates, Serving, Shop, infrastructure, roi_inputs
from recsys.reality.months import Order, with_units
from recsys.reality.page import failing
from recsys.reality.rollback import all_switched
from recsys.reality.runbook import RUNBOOK, read_runbook
from recsys.reality.serving import DrillError
from recsys.reality.study import SHARES, Unit, phase_arms, read_world, write_plan
from recsys.reality.traffic import Seen
from recsys.reality.worlds import alone
from recsys.simulation.constants import Constants
from recsys.simulation.world import World
from tests.unit.test_simulation import frame, items_frame


def test_a_shop_without_the_month_of_the_study_is_told_so_before_anything_is_fitted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raw is missing"):
        read_world(tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "tables").mkdir()
    with pytest.raises(UserError, match=r"interactions\.parquet is missing"):
        read_world(tmp_path)
    items_frame().write_parquet(tmp_path / "tables" / "items.parquet")
    for day, lacking in (("2024-03-01", "from 2017-12-01"), ("2017-12-05", "before 2017-12-01")):
        bought = frame([(parse_day(day) // SECONDS_PER_DAY, "ann", "s0", 1)]).with_columns(
            pl.from_epoch("second").cast(pl.Datetime("us")).alias("occurred_at"), event_type=pl.lit("purchase")
        )
        bought.drop("second").write_parquet(tmp_path / "tables" / "interactions.parquet")
        with pytest.raises(UserError, match=f"no purchases.*{lacking}"):
            read_world(tmp_path)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("user", ["user:ann", "session:sim-3-1", "session:sim-3-2"]),
        ("session", [f"session:sim-3-{n}" for n in range(3)]),
    ],
)
def test_a_page_belongs_to_what_the_service_assigned(tmp_path: Path, unit: Unit, expected: list[str]) -> None:
    order = Order(
        tmp_path, tmp_path, tmp_path, ("2017-12-01", "2018-01-01"), SHARES, Constants.read(), seed=3, unit=unit
    )
    world = cast("World", SimpleNamespace(shopper_ids=("ann", None)))
    pages = pl.DataFrame({"visit": [0, 1, 2], "shopper": [0, 0, 1], "anonymous": [False, True, True]})
    assert with_units(order, world, pages)["unit"].to_list() == expected


def test_another_salt_assigns_shoppers_anew(tmp_path: Path) -> None:
    days, arms = (date(2017, 12, 1), date(2018, 1, 1)), phase_arms(SHARES)
    plans = [write_plan(tmp_path / "plan.toml", arms, *days, salt=f"month-{number}") for number in (1, 1, 2)]
    first, again, other = ([plan.split.arm(f"user:{n}") for n in range(200)] for plan in plans)
    assert first == again
    assert sum(one == two for one, two in zip(first, other, strict=True)) < 100


def test_no_failure_in_a_few_hundred_answers_is_no_proof_of_three_nines() -> None:
    assert failing(0, 618) == "0.00% to 0.60% fail"  # 1 - 0.025 ** (1 / 618)
    assert failing(0, 0) == "–"


def test_lines_are_counted_by_package_without_blank_ones(tmp_path: Path) -> None:
    for name, text in {
        "service/app.py": "import a\n\n\nb = 1\n",
        "pipelines/marts/items.sql": "SELECT 1\n",
        "recsys/models/fit/als.py": "x = 1\ny = 2\nz = 3\n",
        "recsys/errors.py": '"""One."""\n',
        "recsys/data.txt": "not code\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert lines_by_package(tmp_path) == {"recsys.models": 3, "service": 2, "pipelines": 1, "recsys": 1}


def test_requirements_are_those_of_the_install_and_what_they_need() -> None:
    declared = declared_requirements(ROOT / "pyproject.toml", "serve")
    names = {requirement.name for requirement in declared}
    assert {"numpy", "fastapi", "redis"} <= names and "torch" not in names
    assert {"fastapi", "starlette", "anyio"} <= closure([Requirement("fastapi")])


def test_cores_are_paid_for_the_peak_and_never_fewer_than_two() -> None:
    serving = Serving(pages_per_core_second=100.0, worker_mib=512.0, other_mib=0.0)
    # 31,536,000 visits of 3 pages a year are 3 pages a second in the mean; 100 times that takes 3 cores of 0.5 GiB.
    shop = Shop(visits_per_year=365 * 86_400.0, peak=100.0)
    cost = infrastructure(shop, Rates(core_hour=1.0, gib_hour=2.0), serving, pages_per_visit=3.0)
    assert (cost.pages_per_second, cost.cores, cost.gib) == (pytest.approx(300.0), 3, 1.5)
    assert cost.per_year == pytest.approx(8_760 * (3 * 1.0 + 1.5 * 2.0))
    assert cost.per_million_pages == pytest.approx(cost.per_year / (3 * 31.536))
    assert infrastructure(Shop(1.0), Rates(), serving, 3.0).cores == 2
    found = roi_inputs(Figure(2.0, 1.0, 3.0), Shop(visits_per_year=1_000.0), cost)
    assert found.incremental == Figure(20.0, 10.0, 30.0)  # of cents a visit, dollars a year


def test_lifts_and_their_intervals() -> None:
    rng = np.random.default_rng(0)
    n = 10_000
    ones = np.ones(n)

    def arm(clicks: float, cents: float) -> Sums:
        return Sums(ones, 3 * ones, 10 * ones, rng.gamma(4.0, clicks / 4.0, n), rng.gamma(1.0, cents, n))

    trial = Trial({RANDOM: arm(1.0, 5.0), POPULARITY: arm(1.5, 8.0)}, {}, None)  # type: ignore[arg-type]
    lift, more = trial.lift(POPULARITY), trial.incremental(POPULARITY)
    # A CTR's logarithm has a standard error of 1 / sqrt(4 * 10,000) = 0.005, the difference of two 0.0071: 1.96 of them are 1.4%.
    assert lift.low < 0.5 < lift.high and lift.high - lift.low == pytest.approx(1.5 * 2 * 0.01386, rel=0.05)
    # Exponential cents: standard errors of 0.05 and 0.08, together 0.094.
    assert more.low < 3.0 < more.high and more.high - more.low == pytest.approx(2 * 1.96 * 0.0943, rel=0.05)
    assert trial.lift(RANDOM) == trial.incremental(RANDOM) == Figure(0.0, 0.0, 0.0)
    assert trial.pages_per_visit == 3.0


def test_shoppers_who_click_half_as_often_again_in_another_world_leave_no_doubt() -> None:
    often = np.random.default_rng(0).gamma(1.0, 1.0, 50)
    same = (np.ones(50), np.full(50, 3.0), np.full(50, 10.0))
    trial = Trial({RANDOM: Sums(*same, often, often), POPULARITY: Sums(*same, 1.5 * often, often + 2)}, {}, None)  # type: ignore[arg-type]
    lift, more, ctr = trial.lift(POPULARITY), trial.incremental(POPULARITY), trial.ctr(POPULARITY)
    assert (lift.value, lift.low, lift.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (more.value, more.low, more.high) == pytest.approx((2.0, 2.0, 2.0))
    assert ctr.high - ctr.low > 0.2 * ctr.value, "though how often they click is known badly"


def test_shoppers_stand_in_one_order_in_every_world_also_where_they_saw_nothing() -> None:
    def pages(*rows: tuple[int, int, str, int, float, float]) -> pl.DataFrame:
        columns = ["visit", "shopper", "surface", "shown", "expected_clicks", "expected_revenue_cents"]
        return pl.DataFrame(rows, columns, orient="row")

    worlds = {
        RANDOM: pages((1, 7, "home", 10, 0.5, 2.0), (1, 7, "cart", 4, 0.2, 0.0), (2, 7, "home", 10, 0.3, 1.0)),
        POPULARITY: pages((3, 9, "home", 10, 1.0, 8.0), (1, 7, "home", 10, 0.7, 3.0)),
    }
    found = shopper_sums(worlds)
    assert found[RANDOM].visits.tolist() == [2, 0] and found[RANDOM].pages.tolist() == [3, 0]
    assert found[POPULARITY].cents.tolist() == [3, 8] and found[POPULARITY].n_visits == 2
    assert found[RANDOM].cents_per_visit == 1.5 and found[RANDOM].ctr == pytest.approx(1.0 / 24)
    assert surface_ctrs(worlds) == {
        "cart": {RANDOM: pytest.approx(0.05)},
        "home": {RANDOM: pytest.approx(0.04), POPULARITY: pytest.approx(0.085)},
    }


def test_an_arm_alone_is_all_that_anybody_meets(tmp_path: Path) -> None:
    arms = alone("rules", {"phase": "popularity"})
    plan = write_plan(
        tmp_path / "experiments.toml", arms, date(2026, 11, 1), date(2026, 12, 1), unit="session", control="rules"
    )
    assert {arm.configuration.phase for arm in plan.arms} == {"popularity"}
    assert sum(arm.share for arm in plan.arms) == 1.0


def test_a_plan_has_every_arm_with_what_it_answers_with(tmp_path: Path) -> None:
    version = "20261126T000000-phase3-00000000"
    worse = [Degradation(target, 1 - target, Figure.of(target)) for target in (0.9, 0.5)]
    arms = configurations(version, worse, {"rules": "20261126T000000-phase1-00000000"})
    experiment = write_plan(tmp_path / "experiments.toml", equally(arms), date(2026, 11, 1), date(2026, 12, 1))
    found = {arm.name: (arm.phase, arm.degrade) for arm in experiment.arms}
    assert found == {
        "random": ("random", None),
        "popularity": ("popularity", None),
        "rules": ("20261126T000000-phase1-00000000", None),
        "ensemble_50": (version, 0.5),
        "ensemble_90": (version, pytest.approx(0.1)),
        "ensemble": (version, None),
    }


def test_a_runbook_is_sections_of_shell(tmp_path: Path) -> None:
    path = tmp_path / "runbook.md"
    path.write_text(
        "# Title\n\n```sh\nno step\n```\n\n## One\n\nWords.\n\n```sh drill\na\n```\n\n```sh\nb\nc\n```\n\n## Two\n\n```sh\nd\n```\n"
    )
    assert [(step.title, step.script) for step in read_runbook(path)] == [("One", "a\nb\nc\n"), ("Two", "d\n")]
    path.write_text("## One\n\nOnly words.\n\n```\nnot sh\n```\n")
    with pytest.raises(DrillError, match="nothing to do in 'One'"):
        read_runbook(path)
    with pytest.raises(DrillError, match="cannot be read"):
        read_runbook(tmp_path / "absent.md")
    assert len(read_runbook(RUNBOOK)) >= 10


def test_all_have_followed_when_the_last_worker_has() -> None:
    def seen(at: float, connection: int, version: str) -> Seen:
        return Seen(at - 0.1, at, connection, 200, version, degraded=False)

    worker_of = {0: 100, 1: 100, 2: 200}
    answers = [seen(1.0, 0, "new"), seen(1.5, 2, "old"), seen(2.0, 1, "new"), seen(2.5, 3, "new")]
    assert all_switched(answers, worker_of, "new") is None
    assert all_switched([*answers, seen(3.0, 2, "new"), seen(4.0, 0, "new")], worker_of, "new") == 3.0

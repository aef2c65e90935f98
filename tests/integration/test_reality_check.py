"""The reality check in small: a tiny shop, every drill, and a page in which each question has an answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from rich.console import Console

from pipelines.ingest import ingest
from recsys.errors import UserError
from recsys.reality.arms import ENSEMBLE, POPULARITY, RANDOM, degraded_arm
from recsys.reality.check import Check, Options, answers, held
from recsys.reality.page import as_html, write_page
from recsys.reports import read_tables
from recsys.simulation.constants import Constants
from tests.integration.test_simulator import CUT, world_of
from tests.shop import TILLS_MAPPING, tiny_dataset, write_tiny_bundle

pytestmark = pytest.mark.slow
QUIET = Console(quiet=True)
VISITS = 3_300


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "reality_check.html"


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory, out: Path) -> Check:
    folder = tmp_path_factory.mktemp("reality")
    dataset = tiny_dataset(np.random.default_rng(0))
    before, live = (write_tiny_bundle(folder, dataset.before(CUT), phase=phase) for phase in (1, 2))
    (folder / "tills.csv").write_text("user,item,at\nhousehold-00,item-01,2017-09-01\n")
    (folder / "shop.toml").write_text(TILLS_MAPPING)
    ingest(folder / "shop.toml", folder, QUIET)
    constants = Constants.read()
    # So small a catalogue would soon have been seen too often.
    constants = replace(
        constants,
        clicks=replace(constants.clicks, random_ctr=0.03, fatigue=1.0),
        traffic=replace(constants.traffic, browsing_visits=10.0),
    )
    options = Options(visits=VISITS, targets=(0.7, 0.4), steady_seconds=1.0)
    return held(folder, folder, out, (before, live), dataset, world_of(dataset), constants, options, QUIET)


def test_too_few_visits_are_refused_before_anything_is_tried(tmp_path: Path) -> None:
    world = world_of(tiny_dataset(np.random.default_rng(0)))
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UserError, match="shoppers for each arm, of 10 that an interval needs"):
        held(nowhere, nowhere, nowhere, (nowhere, nowhere), None, world, Constants.read(), Options(visits=50), QUIET)  # type: ignore[arg-type]


def test_accuracy_is_what_was_asked_for_and_the_less_of_it_the_fewer_clicks(check: Check) -> None:
    for one in check.degradations:
        assert one.accuracy.low <= one.target <= one.accuracy.high or one.accuracy.value == pytest.approx(
            one.target, abs=0.03
        )
    order = [*(arm for _, arm in check.curve)]
    assert order[-1] == ENSEMBLE and [arm.removeprefix("ensemble_") for arm in order[:-1]] == ["40", "70"]
    true = [check.trial.sums[arm].ctr for arm in (RANDOM, *order)]
    assert true == sorted(true), "of true expectations"
    money = [check.trial.incremental(arm).value for arm in order]
    assert money[0] < money[-1]


def test_the_learning_adds_to_what_needs_none(check: Check) -> None:
    assert check.trial.lift(ENSEMBLE, POPULARITY).low > 0
    assert check.trial.lift(check.best_simple).value >= check.trial.lift(POPULARITY).value


def test_a_year_is_reckoned_from_the_experiment_and_the_drill(check: Check) -> None:
    inputs = check.inputs(ENSEMBLE, RANDOM)
    assert inputs.incremental.value == pytest.approx(
        check.trial.incremental(ENSEMBLE).value / 100 * check.options.shop.visits_per_year
    )
    assert inputs.infrastructure_per_year == check.cost.per_year > 0
    assert check.cost.cores >= 2
    worst = check.returns(degraded_arm(check.degradations[-1]), RANDOM)
    assert worst.roi.value < check.returns(ENSEMBLE, RANDOM).roi.value


def test_every_step_of_the_runbook_works_as_it_stands(check: Check) -> None:
    assert len(check.steps) >= 10
    assert [(step.title, step.said) for step in check.failed_steps] == []


def test_bundles_change_under_traffic_and_no_answer_fails(check: Check) -> None:
    drill = check.rollback
    assert [change.command for change in drill.changes] == [
        "recsys rollback",
        "recsys rollback --undo",
        "recsys rollback",
    ]
    assert drill.workers == 2 and drill.failed == 0
    for change in drill.changes:
        assert 0 < change.pointer_seconds < change.switched_seconds
        assert change.answers > 0
        assert sum(old for _, old, _, _ in change.timeline) > 0 and sum(new for _, _, new, _ in change.timeline) > 0
    assert [change.version for change in drill.changes] == [check.bundle_before, check.bundle, check.bundle_before]


def test_every_question_has_an_answer_on_the_page_and_in_the_json(check: Check, out: Path) -> None:
    page, data = write_page(out, check)
    found = answers(check)
    assert len(found) == 5
    html, json = page.read_text(), orjson.loads(data.read_bytes())
    for question, answer in found.items():
        assert question in html and "nan" not in answer.lower()
        assert json["details"]["answers"][question] == answer
    assert html == as_html(check) and html.count("<svg") == 3
    assert (page.parent / check.decision.page).exists() and f'href="{check.decision.page}"' in html
    assert next(table.title for table in read_tables(data)) == "Claims against measurements"
    assert json["details"]["burden"]["served_lines"] < sum(json["details"]["burden"]["lines"].values())
    assert {"numpy", "fastapi"} <= set(json["details"]["burden"]["declared"])
    assert "torch" not in json["details"]["burden"]["installed"]

"""The benchmarks that prove the service under load and fault, in their short modes: on the tiny shop, for seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks import chaos, load_test, soak
from benchmarks.crowd import Answered
from benchmarks.faults import FAULTS
from benchmarks.load_test import FIRST_RATE, Found, Offered, Offering, find_rated
from benchmarks.peers.__main__ import question
from benchmarks.peers.model import Recommender
from benchmarks.serve import command
from benchmarks.stage import Stage, staged
from recsys.errors import UserError
from recsys.reports import Cell, Table
from tests.shop import write_tiny_bundle

SHORT = chaos.Plan(questions=20, events=10, before=0.5, during=1.5, after=2.5)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    # Patient, since tests share the machine: only a fault makes an answer cheaper, or has it refused.
    with staged(None, environment=chaos.PATIENT) as stage:
        yield stage


def cells(table: Table, row: int = 0) -> dict[str, Cell]:
    return dict(zip(table.columns, table.rows[row], strict=True))


@pytest.mark.parametrize("name", ["Redis killed", "Redis replaced", "disk full", "poisoned events"])
def test_a_fault_costs_no_valid_answer_and_no_acknowledged_event(stage: Stage, name: str) -> None:
    fault = next(fault for fault in FAULTS if fault.name == name)
    outcome = chaos.suffer(stage, fault, SHORT)
    chaos.count(stage, [outcome])
    row = cells(chaos.table([outcome], [fault], SHORT))
    assert row["answers asked for"] == len(outcome.crowded.answers) > 0
    assert (row["valid, %"], row["acknowledged and lost"], row["stored and not in the histories"]) == (
        "100.000",
        0,
        0,
    ), row
    assert not outcome.complaints
    assert outcome.acknowledged()
    if name.startswith("Redis"):
        assert row["degraded during the fault, %"]


def test_where_nothing_may_be_mounted_no_file_of_the_workers_may_grow(stage: Stage, tmp_path: Path) -> None:
    fault = replace(next(fault for fault in FAULTS if fault.name == "disk full"), name="no room")
    outcome = chaos.suffer(replace(stage, disk=tmp_path), fault, SHORT)
    chaos.count(stage, [outcome])
    assert all(answer.valid for answer in outcome.crowded.answers), outcome.problems()
    assert len(outcome.acknowledged()) < len(outcome.crowded.told)
    assert outcome.lost == 0


def test_an_event_that_is_not_stored_is_counted_as_lost(stage: Stage) -> None:
    fault = replace(FAULTS[0], name="made up")
    outcome = chaos.suffer(stage, fault, SHORT)
    reply = next(reply for reply in outcome.crowded.told if chaos.is_acknowledged(reply))
    reply.asked = replace(reply.asked, event_id="never stored")
    chaos.count(stage, [outcome])
    assert outcome.lost == 1


def test_a_soak_looks_at_every_process(stage: Stage) -> None:
    found = soak.soak(stage, SHORT, 3.0)
    memory, answers = soak.tables(found, SHORT, 0.1)
    assert [row[0] for row in memory.rows] == ["worker 1", "worker 2", "parent", "Redis"]
    assert cells(answers)["valid, %"] == "100.000"
    assert cells(answers)["acknowledged and lost"] == 0


def test_a_leak_has_a_slope() -> None:
    samples = [soak.Sample(at, 100.0 + at / 36, 10) for at in range(0, 100, 2)]
    assert soak.slope(samples) == pytest.approx(100.0)  # 1/36 MiB a second


def test_more_than_the_rated_load_is_offered() -> None:
    (core, *_) = sorted(os.sched_getaffinity(0))
    plan = load_test.Plan(trial=0.5, overload=1.0, recovery=3.0)
    with load_test.started(None, core, {}) as (server, crowd):
        offering = Offering(server, crowd)
        tried = offering.offer(20.0, plan.trial)
        over = offering.offer(400.0, plan.overload)
        after = offering.offer(20.0, plan.recovery)
    assert not over.total().problems  # refused perhaps, but nothing else
    assert over.total().server_errors == 0
    rated, more = load_test.tables(Found(20.0, [tried], [(20, over, load_test.recovery(after))]), plan)
    assert cells(rated)["offered, requests/s"] == 20
    assert cells(more)["load"] == "20 x"


class Bearing:
    """Bears so much, and is late beyond that."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def offer(self, rate: float, seconds: float) -> Offered:
        taken = 0.010 if rate <= self._rate else 0.060
        answers = [Answered(due, taken, 200, None, False, False) for due in np.arange(0, seconds, 1 / rate).tolist()]
        return Offered(rate, seconds, answers)


def test_the_rated_load_is_found_by_doubling_and_bisection() -> None:
    # 50, 100, 200 are borne, 400 is not; then 300 is, 350 is not, 325 is. What is not borne is tried once more.
    rated, tried = find_rated(Bearing(330), load_test.Plan(trial=1.0))  # type: ignore[arg-type]
    assert rated == 325.0
    assert [offered.rate for offered in tried] == [50, 100, 200, 400, 400, 300, 350, 350, 325]
    assert FIRST_RATE == 50


def test_a_moment_of_others_is_no_limit_of_the_service() -> None:
    bearing, asked = Bearing(330), list[float]()
    offer = bearing.offer

    def late_once(rate: float, seconds: float) -> Offered:
        asked.append(rate)
        return Bearing(0).offer(rate, seconds) if len(asked) == 2 else offer(rate, seconds)

    bearing.offer = late_once  # type: ignore[method-assign]
    assert find_rated(bearing, load_test.Plan(trial=1.0))[0] == 325.0  # type: ignore[arg-type]
    assert asked[:4] == [50, 100, 100, 200]


def test_where_the_first_rate_is_too_much_less_is_tried() -> None:
    # 50 and 25 are too much, 12.5 is borne; then 18.75 is, 21.875 is not, 20.3125 is not.
    rated, tried = find_rated(Bearing(20), load_test.Plan(trial=1.0))  # type: ignore[arg-type]
    assert rated == 18.75
    assert [offered.rate for offered in tried] == [50, 50, 25, 25, 12.5, 18.75, 21.875, 21.875, 20.3125, 20.3125]
    with pytest.raises(UserError, match="too many"):
        find_rated(Bearing(4), load_test.Plan(trial=1.0))  # type: ignore[arg-type]


def test_a_report_names_its_call_without_the_paths_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["chaos.py", "--busy", "--logs", "/some/where", "--seconds", "3"])
    assert command("benchmarks.chaos") == "python -m benchmarks.chaos --busy --seconds 3"


def test_peers_are_asked_for_the_same_as_we_are(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    recommender = Recommender(bundle)
    asked = question("/recommend?k=4&surface=cart&user_id=household-01&cart=item-01&cart=item-02")
    assert asked == {"k": 4, "surface": "cart", "user_id": "household-01", "cart": ["item-01", "item-02"]}
    answer = orjson.loads(orjson.dumps(recommender.answer(asked)))
    shown = {item["item_id"] for item in answer["items"]}
    assert len(shown) == 4
    assert not shown & {"item-01", "item-02"}
    home = recommender.answer(question("/recommend?k=4&surface=home&user_id=household-01"))
    assert len(home["items"]) == 4
    assert all(item["title"] for item in home["items"])

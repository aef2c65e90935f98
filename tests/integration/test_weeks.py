"""Weeks that learn from the service's own log, in a tiny shop."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipelines.ingest import ingest
from pipelines.run import build_tables
from recsys.bundle import load_bundle
from recsys.publish import bundle_versions, live_version, read_ledger
from recsys.reality import weeks
from recsys.reality.weeks import Order, Variant, simulate_weeks, weeks_table
from recsys.simulation.constants import Constants
from tests.integration.test_simulator import CUT
from tests.redis_server import running_redis
from tests.shop import TILLS_MAPPING, tiny_dataset

QUIET = Console(quiet=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The tiny shop's purchases as an export, ingested."""
    dataset, folder = tiny_dataset(np.random.default_rng(0)), tmp_path / "shop"
    folder.mkdir()
    events = dataset.events
    with (folder / "tills.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["user", "item", "at"])
        for shopper, item, second in zip(events.shopper, events.item, events.second, strict=True):
            at = datetime.fromtimestamp(int(second), UTC).strftime("%Y-%m-%d %H:%M:%S")
            lines.writerow([dataset.user_ids[shopper], dataset.catalogue.item_ids[item], at])
    (folder / "shop.toml").write_text(TILLS_MAPPING)
    ingest(folder / "shop.toml", folder, QUIET)
    build_tables(folder, QUIET)
    return folder


def test_each_week_is_served_by_what_was_learnt_from_the_one_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that is waited for: the service's own leaves a process to be reaped, which is an error in tests.
    monkeypatch.setattr(weeks, "embedded_redis", lambda folder: _made(folder))
    cut, until = (datetime.fromtimestamp(second, UTC).date().isoformat() for second in (CUT, CUT + 14 * 86_400))
    variant = Variant("exploring", retrain=True, exploring=0.3)
    order = Order(variant, tmp_path / "w", data, (cut, until), 2, Constants.read(), seed=1, visits_share=1.0)
    found = simulate_weeks(order, iter)
    versions = bundle_versions(order.folder / "bundles")
    assert len(versions) == 2 and live_version(order.folder / "bundles") == versions[-1]
    assert [entry.action for entry in read_ledger(order.folder / "bundles")] == ["publish", "publish"]
    first, second = (load_bundle(order.folder / "bundles" / version) for version in versions)
    # The second knows what the service was told in the first week, the first nothing of it.
    assert first.log_until < CUT <= second.log_until < CUT + 7 * 86_400 + 86_400
    assert len(second.histories.of("household-00").items) > len(first.histories.of("household-00").items)
    assert [week.number for week in found] == [1, 2]
    for week in found:
        # 40 households with three visits a week, three in ten of them exploring.
        assert 40 < week.visits < 120 and 0 < week.items <= 49 and 0 < week.head < 0.2
        assert week.random_ctr > 0 and week.lift == pytest.approx(week.ctr / week.random_ctr - 1)
    table = weeks_table({"exploring": found}, 49)
    assert [row[:4] for row in table.rows] == [["exploring", week.number, week.visits, week.items] for week in found]


def _made(folder: Path) -> object:
    folder.mkdir()
    return running_redis(folder)

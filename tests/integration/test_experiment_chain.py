"""An experiment from the first request to the decision: the real service, its log, the tables, the report, on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import orjson
import polars as pl
import pytest

from recsys import cli
from recsys.publish import publish, publish_beside
from tests.shop import TILLS_MAPPING, running_service, tiny_catalogue, write_tiny_bundle

PLAN = """
[layers.ranking]
unit = "session"

[[experiments]]
name = "home"
layer = "ranking"
control = "random"
start = 2026-01-01T00:00:00Z
arms = [
    { name = "random", share = 0.5, phase = "random" },
    { name = "popular", share = 0.5, phase = "popularity" },
]
"""
VISITS = 60


def run(*arguments: str | Path) -> None:
    """The command line, which must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recsys", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code in (0, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop whose visitors click the first item of what is popular, and nothing of what is random."""
    folder = tmp_path_factory.mktemp("chain")
    data = folder / "data"
    publish(data / "bundles", write_tiny_bundle(data).name)
    (folder / "experiments.toml").write_text(PLAN)
    (folder / "shop.toml").write_text(TILLS_MAPPING)
    lines = [f"household-{n:02},{item},2017-09-{1 + n % 28:02}" for n, item in enumerate(tiny_catalogue().item_ids)]
    (folder / "tills.csv").write_text("\n".join(["user,item,at", *lines]) + "\n")
    environment = {"RECSYS_EXPERIMENTS": str(folder / "experiments.toml")}
    with running_service(data, 1, environment) as url, httpx.Client(base_url=url, timeout=10) as client:
        for number in range(VISITS):
            visit = {"session_id": f"visit-{number}"}
            answer = client.post("/recommend", json={**visit, "k": 6}).json()
            through = {**visit, "request_id": answer["request_id"]}
            events = [{"type": "render", **through}]
            if answer["arms"]["home"] == "popular":
                first = {"item_id": answer["items"][0]["item_id"], **through}
                events += [
                    {"type": "click", "event_id": f"c{number}", **first},
                    {
                        "type": "purchase",
                        "event_id": f"p{number}",
                        "price_cents": 100 + number,
                        "order_id": f"o{number}",
                        **first,
                    },
                ]
            assert client.post("/events", json=events).json()["accepted"] == len(events)
    run("ingest", "--mapping", folder / "shop.toml", "--data-dir", data)
    run("tables", "--data-dir", data)
    return folder


def test_the_units_are_what_was_done(folder: Path) -> None:
    units = pl.read_parquet(folder / "data" / "tables" / "experiment_units.parquet")
    sums = units.group_by("arm").agg(pl.len(), pl.col("exposures", "clicks", "orders", "errors").sum()).sort("arm")
    popular, random = sums.rows()
    n = popular[1]
    assert popular == ("popular", n, 6.0 * n, 1.0 * n, 1.0 * n, 0.0)
    assert random == ("random", VISITS - n, 6.0 * (VISITS - n), 0.0, 0.0, 0.0)
    assert 15 < n < 45


def test_the_log_has_the_chance_of_every_item(folder: Path) -> None:
    exposures = pl.read_parquet(folder / "data" / "tables" / "exposures.parquet")
    chances = exposures.group_by("served_by").agg(pl.col("propensity").unique()).sort("served_by").rows()
    assert chances == [("popularity", [1.0]), ("random", [1 / len(tiny_catalogue())])]


def test_the_report_says_what_to_do(folder: Path) -> None:
    out = folder / "report"
    given = ("--plan", folder / "experiments.toml", "--data-dir", folder / "data", "--out", out)
    run("report", "home", *given)
    found = orjson.loads((out / "report.json").read_bytes())
    assert (found["experiment"]["arm"], found["experiment"]["control"]) == ("popular", "random")
    assert sum(found["experiment"]["units"].values()) == VISITS
    assert found["verdict"] == "hold"  # it runs, and sixty visits say little of latency
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert found["incremental_revenue"][0] > 0


def test_two_bundles_are_compared_on_the_log_of_random_answers(folder: Path) -> None:
    other = write_tiny_bundle(folder / "data", spare=2).name
    publish_beside(folder / "data" / "bundles", other)
    out = folder / "evidence.json"
    run("experiments", "counterfactual", "--candidate", other, "--out", out, "--data-dir", folder / "data")
    evidence = orjson.loads(out.read_bytes())
    assert evidence["candidate"] == other and evidence["metric"] == "ctr"
    assert evidence["trust"] == "not estimable"  # thirty answers

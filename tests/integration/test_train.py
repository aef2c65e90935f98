"""The chain from tables to a live bundle on a small shop, with real MLflow; and the command line's manners."""

from __future__ import annotations

import io
import os
import random
import socket
import sys
from datetime import date, timedelta
from pathlib import Path

import nbformat
import orjson
import polars as pl
import pytest
from mlflow import MlflowClient
from nbclient import NotebookClient
from rich.console import Console

from pipelines.ingest import ingest
from pipelines.run import build_tables
from recsys import cli
from recsys.bundle import load_bundle
from recsys.calibration import curves_of
from recsys.dataset import TablesMissingError, load_dataset, parse_day
from recsys.errors import UserError
from recsys.evaluation.report import decision_tables
from recsys.events import Surface
from recsys.publish import live_version
from recsys.tracking import CANDIDATE, CHAMPION, REGISTERED_MODEL, open_ui
from recsys.tradeoffs import NEVER, best_threshold
from recsys.train import evaluate_phase, train

QUIET = Console(quiet=True)
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "compare_phases.ipynb"
MAPPING = """
[shop]
name = "Corner shop"

[[events]]
source = "orders"
files = "orders.csv"
event_type = "purchase"

[events.columns]
user_id = "user"
order_id = "order"
item_id = "item"
timestamp = "at"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty weeks of sixty shoppers who each have ten favourites; tables built."""
    folder = tmp_path_factory.mktemp("shop")
    rng = random.Random(0)
    lines = ["user,order,item,at"]
    for week in range(40):
        for user in range(60):
            day = parse_day("2023-01-02") // 86_400 + week * 7 + user % 7
            for n in range(4):
                item = (user % 6) * 10 + rng.randrange(10) if rng.random() < 0.8 else rng.randrange(60)
                lines.append(f"u{user},o{week}-{user},i{item},{_iso(day)}T{10 + n}:00:00")
    (folder / "orders.csv").write_text("\n".join(lines))
    (folder / "shop.toml").write_text(MAPPING)
    ingest(folder / "shop.toml", folder / "data", QUIET)
    build_tables(folder / "data", QUIET)
    return folder / "data"


def _iso(day: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


@pytest.fixture(scope="module")
def version(shop: Path) -> str:
    return train(1, shop, search_seconds=0, console=QUIET).version


def test_the_bundle_says_what_it_learnt_from_and_how_good_it_is(shop: Path, version: str) -> None:
    bundle = load_bundle(shop / "bundles" / version)
    summary = orjson.loads((shop / "tables" / "summary.json").read_bytes())
    assert bundle.manifest["data"]["fingerprint"] == summary["fingerprint"]
    assert bundle.manifest["data"]["until"] == summary["until"]
    assert bundle.manifest["metrics"]["test"]["all purchases"] > 0.2
    assert len(bundle.histories) == 60
    assert bundle.manifest["chances_of"] == "purchase" and bundle.manifest["tradeoffs"] == {}


def test_every_surface_claims_chances_that_come_true(shop: Path, version: str) -> None:
    bundle = load_bundle(shop / "bundles" / version)
    # What is bought together comes an hour apart here, in visits of one item: there is no basket to ask about.
    claiming = set(Surface) - {Surface.BOUGHT_TOGETHER, Surface.CART}
    assert set(curves_of(bundle.surfaces)) == claiming
    console = Console(record=True, width=400, quiet=False, file=io.StringIO())
    evaluate_phase(1, shop, console=console)
    (line,) = (line for line in console.export_text().splitlines() if line.startswith("expected calibration error"))
    errors = dict(part.split(" ") for part in line.split(": ")[1].split(", "))
    assert set(errors) == claiming
    # Shoppers have ten favourites each and buy at random among them, so that a month is like another.
    assert float(errors["home"]) < 0.1 and float(errors["buy_again"]) < 0.1


@pytest.mark.usefixtures("version")
def test_mlflow_holds_the_run_and_the_registered_model(shop: Path) -> None:
    client = MlflowClient(f"sqlite:///{(shop / 'mlflow' / 'mlflow.db').resolve()}")
    candidate = client.get_model_version_by_alias(REGISTERED_MODEL, CANDIDATE)
    assert candidate.tags["phase"] == "1"
    run = client.get_run(str(candidate.run_id))
    metrics = run.data.metrics
    for model in ("random", "popularity", "buy_again", "local_ridge", "phase1"):
        value = metrics[f"test/{model}/all_purchases/ndcg_at_20"]
        assert metrics[f"test/{model}/all_purchases/ndcg_at_20/low"] <= value
        assert value <= metrics[f"test/{model}/all_purchases/ndcg_at_20/high"]
    assert metrics["test/random/all_purchases/ndcg_at_20"] < metrics["test/phase1/all_purchases/ndcg_at_20"]
    assert run.data.params["frequency_half_life_days"]
    files = {file.path for file in client.list_artifacts(str(candidate.run_id))}
    assert {"bundle", "plots", "test.csv", "validation.csv", "test_reliability.csv"} <= files
    assert all(0 <= metrics[f"test/ece/{surface}"] <= 1 for surface in ("home", "similar", "buy_again", "trending"))


def test_nothing_is_trained_twice(shop: Path, version: str) -> None:
    again = train(1, shop, search_seconds=0, console=QUIET)
    assert (again.version, again.trained) == (version, False)


def test_until_learns_from_before_that_day_only(shop: Path) -> None:
    result = train(1, shop, until="2023-08-01", search_seconds=0, console=QUIET)
    bundle = load_bundle(shop / "bundles" / result.version)
    cut = parse_day("2023-08-01")
    assert bundle.manifest["data"]["until"] <= cut
    past = load_dataset(shop / "tables").before(cut)
    assert len(bundle.histories.items) == len(past.events)
    with pytest.raises(UserError, match="is not a day"):
        train(1, shop, until="August", console=QUIET)


def test_training_without_tables_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recsys ingest"):
        train(1, tmp_path, console=QUIET)


def test_tables_of_another_shape_are_refused(tmp_path: Path, shop: Path) -> None:
    for name in ("items", "interactions"):
        frame = pl.read_parquet(shop / "tables" / f"{name}.parquet")
        frame.drop("title", strict=False).write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(TablesMissingError, match="run `recsys tables` again"):
        load_dataset(tmp_path)


def test_a_shop_of_one_order_trains_unevaluated(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text("user,order,item,at\nu1,o1,i1,2024-01-01\nu1,o1,i2,2024-01-01\n")
    (tmp_path / "shop.toml").write_text(MAPPING)
    ingest(tmp_path / "shop.toml", tmp_path / "data", QUIET)
    build_tables(tmp_path / "data", QUIET)
    result = train(1, tmp_path / "data", search_seconds=0, console=QUIET)
    assert load_bundle(tmp_path / "data" / "bundles" / result.version).manifest["metrics"] == {}


def run(*arguments: str) -> int:
    """Exit status of the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recsys", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)


def test_the_command_line_publishes_rolls_back_and_moves_the_champion(shop: Path, version: str) -> None:
    data = str(shop)
    other = train(1, shop, search_seconds=0, seed=1, console=QUIET).version
    assert run("publish", version, "--data-dir", data) == 0
    assert run("publish", other, "--data-dir", data, "--reason", "newer") == 0
    assert live_version(shop / "bundles") == other
    assert run("rollback", "--data-dir", data) == 0
    assert live_version(shop / "bundles") == version
    client = MlflowClient(f"sqlite:///{(shop / 'mlflow' / 'mlflow.db').resolve()}")
    assert client.get_model_version_by_alias(REGISTERED_MODEL, CHAMPION).tags["bundle"] == version
    # What an alias names is published; this one was withdrawn just now.
    assert run("publish", "--alias", CANDIDATE, "--data-dir", data) == 1
    assert run("publish", "--alias", CANDIDATE, "--data-dir", data, "--force", "it was not at fault") == 0
    assert live_version(shop / "bundles") == other
    assert run("publish", "--alias", "nobody", "--data-dir", data) == 1
    assert run("rollback", "--data-dir", data) == 0


def test_a_bundle_goes_live_whether_or_not_the_registry_answers(
    shop: Path, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / version).symlink_to(shop / "bundles" / version)
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert run("publish", version, "--data-dir", str(tmp_path)) == 0
    assert live_version(tmp_path / "bundles") == version
    assert "MLflow's alias 'champion' not moved" in capsys.readouterr().out


def test_a_mistake_prints_one_line_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("publish", "--data-dir", str(tmp_path)) == 1
    error = capsys.readouterr().err
    assert "error:" in error and "recsys train" in error and "Traceback" not in error


@pytest.fixture(scope="module")
def second(shop: Path, version: str) -> str:  # noqa: ARG001 - trained after phase 1
    return train(2, shop, search_seconds=0, console=QUIET).version


def test_phase_2_trains_without_a_catalogue_and_without_places(shop: Path, second: str) -> None:
    bundle = load_bundle(shop / "bundles" / second)
    assert bundle.phase == 2
    assert bundle.manifest["metrics"]["test"]["all purchases"] > 0.2


@pytest.mark.usefixtures("second")
def test_phase_3_reads_its_threshold_off_a_curve_and_takes_the_objective_that_it_is_given(shop: Path) -> None:
    version = train(3, shop, search_seconds=0, objective="revenue", console=QUIET).version
    manifest = load_bundle(shop / "bundles" / version).manifest
    params, thresholds = manifest["params"], manifest["tradeoffs"]["thresholds"]
    assert params["value_weight"] == 1.0
    assert params["threshold"] == best_threshold(pl.DataFrame(thresholds))
    assert [row["enhanced"] for row in thresholds] == sorted((row["enhanced"] for row in thresholds), reverse=True)
    objectives = manifest["tradeoffs"]["objectives"]
    assert [row["value_weight"] for row in objectives] == [0, 0.25, 0.5, 0.75, 1]
    client = MlflowClient(f"sqlite:///{(shop / 'mlflow' / 'mlflow.db').resolve()}")
    run_id = str(client.get_model_version_by_alias(REGISTERED_MODEL, CANDIDATE).run_id)
    assert {"thresholds.csv", "objectives.csv"} <= {file.path for file in client.list_artifacts(run_id)}
    plots = {file.path for file in client.list_artifacts(run_id, "plots")}
    assert {"plots/thresholds.png", "plots/objectives.png", "plots/test_reliability.png"} <= plots
    tables = decision_tables(manifest["tradeoffs"], params)
    assert [sum(row[-1] is True for row in table.rows) for table in tables] == [params["threshold"] != NEVER, 1]
    assert ("None is chosen" in tables[0].note) == (params["threshold"] == NEVER)


def test_an_objective_that_the_data_cannot_serve_is_named(shop: Path) -> None:
    with pytest.raises(UserError, match="neither clicks nor views"):
        train(3, shop, search_seconds=0, objective="clicks", console=QUIET)
    with pytest.raises(UserError, match="is for phase 3"):
        train(1, shop, objective="clicks", console=QUIET)


@pytest.mark.usefixtures("second")
def test_the_notebook_compares_the_phases(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_DATA_DIR", str(shop))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("phase2" in str(data.get("text/plain", "")) for data in shown)
    assert sum("image/png" in data for data in shown) >= 2


class ReplacedError(Exception):
    """Stands for this process being another one from here on."""


def test_the_command_becomes_mlflow_so_that_a_signal_ends_it(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, list[str]]] = []

    def execv(path: str, command: list[str]) -> None:
        commands.append((path, command))
        raise ReplacedError

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(ReplacedError):
        open_ui(shop, 5_123)
    ((path, command),) = commands
    assert path == command[0] == sys.executable and command[1:4] == ["-m", "mlflow", "ui"]
    assert command[-4:] == ["--host", "127.0.0.1", "--port", "5123"]

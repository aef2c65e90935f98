"""What is live, from the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from recsys.cli import app
from recsys.cli.options import parse_share
from recsys.errors import UserError
from recsys.publish import bundle_versions, live_version, traffic_share
from tests.shop import write_tiny_bundle


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles."""
    folder = tmp_path_factory.mktemp("written")
    for spare in (1, 2):
        write_tiny_bundle(folder, spare=spare)
    return folder / "bundles"


@pytest.fixture
def data_dir(tmp_path: Path, written: Path) -> Path:
    """A shop of its own, where nothing is published."""
    shutil.copytree(written, tmp_path / "bundles")
    return tmp_path


def run(data_dir: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data-dir", str(data_dir)])


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("100%", 1.0), ("12.5%", 0.125)])
def test_a_share_is_read_as_it_is_written(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "five", "5 percent"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no share"):
        parse_share(text)


def test_a_canary_and_a_shadow_from_their_beginning_to_their_end(data_dir: Path) -> None:
    first, second = bundle_versions(data_dir / "bundles")
    assert run(data_dir, "publish", first).exit_code == 0
    assert f"canary, 0.05 of the shoppers: {second}" in run(data_dir, "publish", "--canary", "5%").stdout
    assert run(data_dir, "publish", second, "--shadow", "10%").exit_code == 0
    shadow = traffic_share(data_dir / "bundles", "shadow")
    assert shadow is not None and (shadow.version, shadow.share) == (second, 0.1)
    assert f"shadow ended: {second}" in run(data_dir, "withdraw", "shadow").stdout
    assert isinstance(run(data_dir, "withdraw", "shadow").exception, UserError)
    ended = run(data_dir, "rollback", "--reason", "slow").stdout
    assert f"canary ended: {second}; live, as before: {first}" in " ".join(ended.split())
    assert live_version(data_dir / "bundles") == first
    lines = [orjson.loads(line) for line in run(data_dir, "ledger", "--json").stdout.splitlines()]
    assert [line["action"] for line in lines] == ["publish", "canary", "shadow", "shadow ended", "canary ended"]
    assert [
        line["action"] for line in map(orjson.loads, run(data_dir, "ledger", "--json", "-n", "1").stdout.splitlines())
    ] == ["canary ended"]
    assert "slow" in run(data_dir, "ledger").stdout


def test_a_canary_is_promoted(data_dir: Path) -> None:
    first, second = bundle_versions(data_dir / "bundles")
    run(data_dir, "publish", first)
    run(data_dir, "publish", second, "--canary", "0.5")
    assert f"live: {second}" in run(data_dir, "promote", "--reason", "better").stdout
    assert live_version(data_dir / "bundles") == second
    assert isinstance(run(data_dir, "promote").exception, UserError)
    assert f"live: {first}" in run(data_dir, "rollback").stdout
    assert f"live: {second}" in run(data_dir, "rollback", "--undo").stdout


def test_without_a_log_nothing_is_replayed(data_dir: Path) -> None:
    failed = run(data_dir, "replay", "5f0c6b1d9a2e1").exception
    assert isinstance(failed, UserError) and "there is no log yet" in str(failed)


def test_one_place_at_a_time(data_dir: Path) -> None:
    for options in (("--beside", "--canary", "5%"), ("--canary", "5%", "--shadow", "5%")):
        failed = run(data_dir, "publish", *options).exception
        assert isinstance(failed, UserError) and "give one of the three" in str(failed)
    assert isinstance(run(data_dir, "publish", "--shadow", "5%").exception, UserError)  # of which bundle?
    assert isinstance(run(data_dir, "shadow").exception, UserError)

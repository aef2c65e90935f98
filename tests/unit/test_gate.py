"""The gate before publication: what it refuses, what it lets pass and says so, and what the ledger keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from recsys import cli, phase1
from recsys.evaluation.evaluate import ALL, NEW
from recsys.experiments.gate import (
    MAIN_SLICES,
    Decision,
    Evidence,
    GateError,
    Tolerances,
    decide,
    read_evidence,
    write_evidence,
)
from recsys.experiments.offpolicy import Log, Target, Trust, compare
from recsys.ledger import read_ledger
from recsys.pack import write_bundle
from recsys.publish import live_version, publish, rollback
from tests.factories import checkerboard, without_availability


def manifest(
    version: str,
    figure: float | None = None,
    low: float | None = None,
    fingerprint: str = "f",
    until: str | None = None,
) -> dict[str, Any]:
    """Of a bundle with one slice, or with none."""
    made: dict[str, Any] = {"version": version, "data": {"fingerprint": fingerprint}, "until": until, "metrics": {}}
    if figure is not None:
        made["metrics"] = {"test": {"all purchases": figure}}
    if low is not None:
        made["intervals"] = {"test": {"all purchases": (low, 1.0)}}
    return made


def test_what_is_worse_beyond_the_tolerance_is_refused() -> None:
    # 0.37 / 0.40 - 1 = -7.5%: beyond 5%, and below the champion's interval
    decision = decide(manifest("new", 0.37), manifest("old", 0.40, low=0.39))
    assert not decision.allowed
    assert decision.refusals == ("test, all purchases: 0.3700 for 0.4000 (-7.5%)",)


@pytest.mark.parametrize(
    ("candidate", "champion", "tolerance", "allowed"),
    [
        (manifest("new", 0.385), manifest("old", 0.40, low=0.39), 0.05, True),  # -3.75%
        (manifest("new", 0.385), manifest("old", 0.40, low=0.39), 0.03, False),
        (manifest("new", 0.37), manifest("old", 0.40, low=0.36), 0.05, True),  # the champion's interval has room for it
        (manifest("new", 0.37), manifest("old", 0.40), 0.05, False),  # an older bundle, that does not say its interval
        (manifest("new", 0.50), manifest("old", 0.40, low=0.39), 0.0, True),
        (manifest("new", 0.0), manifest("old", 0.0, low=0.0), 0.0, True),
    ],
)
def test_tolerance_and_chance(
    candidate: dict[str, Any], champion: dict[str, Any], tolerance: float, allowed: bool
) -> None:
    assert decide(candidate, champion, tolerances=Tolerances(slices=tolerance)).allowed is allowed


def test_what_chance_explains_is_said() -> None:
    decision = decide(manifest("new", 0.37), manifest("old", 0.40, low=0.36))
    assert decision.notes[1] == "test, all purchases: 0.3700 for 0.4000 (-7.5%): inside the champion's interval"


def test_a_small_slice_of_a_bundle_without_intervals_refuses_nothing() -> None:
    candidate, champion = manifest("new", 0.40), manifest("old", 0.40)
    candidate["metrics"]["test"]["history 0"], champion["metrics"]["test"]["history 0"] = 0.01, 0.02
    decision = decide(candidate, champion)
    assert decision.allowed
    assert "history 0: 0.0100 for 0.0200 (-50.0%): the live bundle does not say how sure" in decision.notes[1]
    champion["intervals"] = {"test": {"history 0": (0.015, 0.025)}}
    assert decide(candidate, champion).refusals == ("test, history 0: 0.0100 for 0.0200 (-50.0%)",)


def test_the_main_slices_are_those_of_the_evaluation() -> None:
    assert (ALL, NEW) == MAIN_SLICES


@pytest.mark.parametrize(
    ("candidate", "champion", "note"),
    [
        (manifest("new", 0.1), None, "no bundle is live"),
        (manifest("old", 0.1), manifest("old", 0.4), "it is live already"),
        (manifest("new"), manifest("old", 0.4), "not evaluated"),
        (manifest("new", 0.1), manifest("old"), "not evaluated"),
        (manifest("new", 0.1), manifest("old", 0.4, fingerprint="other"), "measured on other data"),
        (manifest("new", 0.1, until="2017-11-01"), manifest("old", 0.4), "measured on other data"),
    ],
)
def test_what_cannot_be_compared_passes_and_is_said(
    candidate: dict[str, Any], champion: dict[str, Any] | None, note: str
) -> None:
    decision = decide(candidate, champion)
    assert decision.allowed and note in decision.notes[0]


def evidence(value: float, low: float, high: float, trust: Trust = Trust.TRUSTWORTHY, **changed: str) -> Evidence:
    found = {"candidate": "new", "champion": "old", "metric": "ctr"} | changed
    return Evidence(**found, champion_value=0.10, difference=(value, low, high), trust=trust, reasons=("few rows",))


@pytest.mark.parametrize(
    ("found", "allowed", "words"),
    [
        (evidence(-0.02, -0.03, -0.01), False, "off-policy ctr: -0.02 [-0.03, -0.01] against 0.1"),  # -20%, surely
        (evidence(-0.02, -0.05, 0.01), True, "not surely worse"),
        (evidence(-0.004, -0.005, -0.003), True, "not surely worse by more than 5%"),  # -4%, surely
        (evidence(0.02, 0.01, 0.03), True, "not surely worse"),
        (evidence(-0.02, -0.03, -0.01, Trust.WEAK), False, "-0.02"),
        (evidence(-0.01, -0.03, 0.01, Trust.WEAK), True, "weak evidence: few rows"),
        (evidence(-0.09, -0.1, -0.08, Trust.NOT_ESTIMABLE), True, "the log cannot tell: few rows"),
    ],
)
def test_off_policy_evidence(found: Evidence, allowed: bool, words: str) -> None:
    decision = decide(manifest("new"), manifest("old"), found)
    assert decision.allowed is allowed
    assert words in (decision.notes[-1] if allowed else decision.refusals[0])


def test_evidence_about_others_is_an_error() -> None:
    with pytest.raises(GateError, match="has the champion other, but it is old"):
        decide(manifest("new"), manifest("old"), evidence(0.0, 0.0, 0.0, champion="other"))
    with pytest.raises(GateError, match="has the candidate other"):
        decide(manifest("new"), manifest("old"), evidence(0.0, 0.0, 0.0, candidate="other"))
    with pytest.raises(GateError, match="no bundle is live"):
        decide(manifest("new"), None, evidence(0.0, 0.0, 0.0))


def test_evidence_survives_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shown, n = rng.integers(0, 2, 2_000), 2_000
    # item 0 is clicked by 10%, item 1 by 50%; the candidate shows the first more often
    log = Log(shown, np.zeros(n), rng.random(n) < np.where(shown, 0.5, 0.1), np.full(n, 0.5), np.arange(n))
    candidate, champion = (Target.from_table(log, np.array([[p, 1 - p]])) for p in (0.8, 0.2))
    path = tmp_path / "evidence.json"
    write_evidence(path, "new", "old", "ctr", compare(log, candidate, champion))
    found = read_evidence(path)
    # 0.8 * 0.1 + 0.2 * 0.5 = 0.18 against 0.42
    assert found.champion_value == pytest.approx(0.42, abs=0.04) and found.difference[0] == pytest.approx(
        -0.24, abs=0.05
    )
    assert not decide(manifest("new"), manifest("old"), found).allowed
    alien = Target.from_table(log, np.array([[0.0, 0.0, 1.0]]))
    with pytest.raises(GateError, match="the log says nothing"):
        write_evidence(path, "new", "old", "ctr", compare(log, alien, champion))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"{}", "candidate: Field required"),
        (orjson.dumps({**evidence(0, 0, 0).model_dump(mode="json"), "difference": [0, 1, 2]}), "low <= value <= high"),
        (orjson.dumps({**evidence(0, 0, 0).model_dump(mode="json"), "trust": "blind"}), "trust"),
        (orjson.dumps({**evidence(0, 0, 0).model_dump(mode="json"), "ctr": 1}), "ctr: Extra inputs"),
    ],
)
def test_evidence_that_does_not_fit_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "evidence.json"
    with pytest.raises(GateError, match="cannot be read"):
        read_evidence(path)
    path.write_bytes(content)
    with pytest.raises(GateError, match=message):
        read_evidence(path)


def write(bundles: Path, figure: float, out: list[int], fingerprint: str = "f") -> str:
    """A bundle that reached `figure`; `out` makes it another one."""
    dataset = without_availability(checkerboard(), out)
    surfaces, popularity = phase1.build_surfaces(phase1.Workshop(dataset, dataset.until, 0), phase1.DEFAULT)
    metadata = {
        "data": {"since": 0, "until": 1, "fingerprint": fingerprint, "log_until": 0},
        "currency": "EUR",
        "until": None,
        "metrics": {"test": {"all purchases": figure}},
        "intervals": {"test": {"all purchases": (figure - 0.01, figure + 0.01)}},
    }
    return write_bundle(
        bundles, phase=1, surfaces=surfaces, popularity=popularity, dataset=dataset, at=dataset.until, metadata=metadata
    ).name


def test_a_worse_bundle_goes_live_only_by_force_and_the_ledger_says_why(tmp_path: Path) -> None:
    good, bad = write(tmp_path, 0.40, []), write(tmp_path, 0.30, [0])
    publish(tmp_path, good)
    with pytest.raises(GateError, match=rf"(?s)take the place of the live {good}.*-25.0%.*--force 'REASON'"):
        publish(tmp_path, bad)
    with pytest.raises(GateError, match="needs a reason"):
        publish(tmp_path, bad, force=" ")
    assert live_version(tmp_path) == good
    publish(tmp_path, bad, force="the good one shows a recalled item")
    assert live_version(tmp_path) == bad
    first, forced = read_ledger(tmp_path)
    assert first.forced is None and first.gate == ("no bundle is live: there is nothing to compare with",)
    assert forced.forced == "the good one shows a recalled item"
    assert forced.gate[0] == "test, all purchases: 0.3000 for 0.4000 (-25.0%)"


def test_force_is_not_recorded_where_nothing_was_forced(tmp_path: Path) -> None:
    good, better = write(tmp_path, 0.40, []), write(tmp_path, 0.45, [0])
    publish(tmp_path, good)
    publish(tmp_path, better, force="to be sure")
    assert read_ledger(tmp_path)[-1].forced is None


def test_a_rollback_to_something_worse_always_works(tmp_path: Path) -> None:
    bad, good = write(tmp_path, 0.30, []), write(tmp_path, 0.40, [0])
    publish(tmp_path, bad)
    publish(tmp_path, good)
    assert rollback(tmp_path) == bad
    assert read_ledger(tmp_path)[-1].gate == ()


def test_a_damaged_champion_can_be_replaced(tmp_path: Path) -> None:
    good, other = write(tmp_path, 0.40, []), write(tmp_path, 0.30, [0])
    publish(tmp_path, good)
    (tmp_path / good / "manifest.json").write_bytes(b"{")
    publish(tmp_path, other)
    assert live_version(tmp_path) == other
    assert "cannot be read" in read_ledger(tmp_path)[-1].gate[0]


def test_a_ledger_of_before_the_gate_is_read(tmp_path: Path) -> None:
    old = {"at": "", "action": "publish", "version": "v", "previous": None, "by": "", "reason": ""}
    (tmp_path / "ledger.jsonl").write_bytes(orjson.dumps(old) + b"\n")
    assert read_ledger(tmp_path)[0].forced is None


def test_no_refusal_is_a_pass() -> None:
    assert Decision().allowed and not Decision(refusals=("worse",)).allowed


def run(*arguments: str) -> int:
    """Exit status of the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recsys", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)


@pytest.mark.slow  # MLflow makes its database
def test_the_command_refuses_takes_evidence_and_can_be_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles, data = tmp_path / "bundles", ("--data-dir", str(tmp_path))
    good, better, bad = write(bundles, 0.40, []), write(bundles, 0.41, [0]), write(bundles, 0.39, [1])
    assert run("publish", good, *data) == 0
    assert "gate: no bundle is live" in capsys.readouterr().out
    found = tmp_path / "evidence.json"
    found.write_bytes(
        orjson.dumps(evidence(-0.02, -0.03, -0.01, candidate=better, champion=good).model_dump(mode="json"))
    )
    assert run("publish", better, "--evidence", str(found), *data) == 1
    assert "off-policy ctr: -0.02" in capsys.readouterr().err
    assert run("publish", better, "--evidence", str(found), "--tolerance", "0.5", *data) == 0
    assert run("publish", bad, "--tolerance", "0", *data) == 1
    assert live_version(bundles) == better
    assert run("publish", bad, "--tolerance", "0", "--force", "a recall", *data) == 0
    assert "(forced)" in capsys.readouterr().out and read_ledger(bundles)[-1].forced == "a recall"

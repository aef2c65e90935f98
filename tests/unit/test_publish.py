"""Which bundle is live, and which serves beside it, by the pointers and the ledger."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from recsys.bundle import BundleError
from recsys.dataset import Dataset
from recsys.errors import UserError
from recsys.experiments.gate import GateError
from recsys.ledger import read_ledger, standing
from recsys.publish import (
    Role,
    bundle_versions,
    end,
    live_version,
    may_answer,
    promote,
    publish,
    publish_beside,
    publish_shadow,
    rollback,
    rollback_target,
    served_phases,
    traffic_share,
)
from tests.factories import make_catalogue
from tests.shop import tiny_dataset, write_tiny_bundle

ONE, TWO, OLD, NEW = "a-phase1-x", "b-phase2-x", "c-phase3-old", "d-phase3-new"


def moves(folder: Path, *moves: tuple[str, str]) -> Path:
    """A ledger of `(action, version)`."""
    lines, previous = [], None
    for action, version in moves:
        entry = {"at": "", "action": action, "version": version, "previous": previous, "by": "", "reason": ""}
        lines.append(orjson.dumps(entry))
        previous = previous if action == "beside" else version
    (folder / "ledger.jsonl").write_bytes(b"\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("ledger", "expected"),
    [
        ([], {}),
        ([("publish", ONE), ("publish", OLD)], {1: ONE, 3: OLD}),
        ([("publish", OLD), ("publish", NEW)], {3: NEW}),
        ([("publish", OLD), ("publish", NEW), ("publish", OLD)], {3: OLD}),
        ([("publish", OLD), ("publish", NEW), ("rollback", OLD)], {3: OLD}),
        ([("publish", TWO), ("publish", NEW), ("rollback", TWO)], {2: TWO}),
        ([("publish", NEW), ("beside", TWO)], {2: TWO, 3: NEW}),
        ([("publish", OLD), ("publish", NEW), ("beside", TWO), ("rollback", OLD)], {2: TWO, 3: OLD}),
        ([("publish", TWO), ("publish", NEW), ("rollback", TWO), ("rollback", NEW)], {2: TWO, 3: NEW}),
    ],
)
def test_a_phase_is_served_by_what_was_published_last_and_not_withdrawn(
    tmp_path: Path, ledger: list[tuple[str, str]], expected: dict[int, str]
) -> None:
    assert served_phases(moves(tmp_path, *ledger)) == expected


def test_what_serves_beside_is_no_move_of_the_pointer(tmp_path: Path) -> None:
    first = publish(tmp_path / "bundles", write_tiny_bundle(tmp_path).name)
    beside = write_tiny_bundle(tmp_path, spare=3).name
    assert publish_beside(tmp_path / "bundles", beside) == beside
    assert live_version(tmp_path / "bundles") == first
    assert served_phases(tmp_path / "bundles") == {1: beside}
    with pytest.raises(BundleError, match="no other bundle has been live"):
        rollback(tmp_path / "bundles")
    with pytest.raises(BundleError, match="no bundle 'nothing'"):
        publish_beside(tmp_path / "bundles", "nothing")


def test_a_ledger_with_a_line_that_was_cut_off_still_publishes_and_rolls_back(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    first = publish(bundles, write_tiny_bundle(tmp_path).name)
    second = publish(bundles, write_tiny_bundle(tmp_path, spare=3).name)
    ledger = bundles / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b'{"at":"20')
    assert rollback(bundles) == first
    assert [entry.version for entry in read_ledger(bundles)] == [first, second, first]
    assert served_phases(bundles) == {1: first}


@pytest.mark.parametrize("lacks", ["version", "data", None])
def test_a_live_bundle_whose_manifest_is_damaged_can_be_replaced(tmp_path: Path, lacks: str | None) -> None:
    bundles = tmp_path / "bundles"
    live = publish(bundles, write_tiny_bundle(tmp_path).name)
    path = bundles / live / "manifest.json"
    manifest = orjson.loads(path.read_bytes())
    path.write_bytes(
        b"[]" if lacks is None else orjson.dumps({name: manifest[name] for name in manifest if name != lacks})
    )
    other = publish(bundles, write_tiny_bundle(tmp_path, spare=3).name)
    assert live_version(bundles) == other
    assert any("the live bundle cannot be read" in note for note in read_ledger(bundles)[-1].gate)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four bundles, oldest first."""
    folder = tmp_path_factory.mktemp("written")
    return sorted(write_tiny_bundle(folder, spare=n) for n in (1, 2, 3, 4))


@pytest.fixture
def bundles(tmp_path: Path, written: list[Path]) -> Path:
    """A copy of them, none published."""
    for bundle in written:
        shutil.copytree(bundle, tmp_path / "bundles" / bundle.name)
    return tmp_path / "bundles"


@pytest.fixture
def versions(bundles: Path) -> list[str]:
    """Theirs; the first three are published, one after the other."""
    found = bundle_versions(bundles)
    for version in found[:3]:
        publish(bundles, version)
    return found


def test_a_rollback_goes_further_back_and_never_to_what_was_withdrawn(bundles: Path, versions: list[str]) -> None:
    first, second, third, _ = versions
    assert rollback(bundles, reason="third is bad") == second
    assert rollback(bundles) == first  # second was bad too: third must not come back
    with pytest.raises(BundleError, match=f"nothing to roll back to; `recsys rollback --undo` brings {second} back"):
        rollback(bundles)
    assert live_version(bundles) == first
    assert set(standing(read_ledger(bundles)).withdrawn) == {second, third}
    (bundles / second / "manifest.json").unlink()
    with pytest.raises(BundleError, match="nothing to roll back to; publish another by name"):
        rollback(bundles)


def test_a_rollback_is_undone_once(bundles: Path, versions: list[str]) -> None:
    _, second, third, _ = versions
    rollback(bundles)
    assert rollback(bundles, undo=True) == third
    assert [entry.action for entry in read_ledger(bundles)[-2:]] == ["rollback", "undo"]
    with pytest.raises(BundleError, match="there is none to take back"):
        rollback(bundles, undo=True)
    assert rollback(bundles) == second


def test_what_was_published_after_a_rollback_rolls_back_to_what_was_live_then(
    bundles: Path, versions: list[str]
) -> None:
    _, second, third, fourth = versions
    rollback(bundles)
    publish(bundles, fourth)
    assert standing(read_ledger(bundles)).stack[-2:] == (second, fourth)
    with pytest.raises(BundleError, match="there is none to take back"):
        rollback(bundles, undo=True)  # the rollback is not the last thing that was done
    assert rollback(bundles) == second
    assert third in standing(read_ledger(bundles)).withdrawn


def test_what_was_withdrawn_is_published_again_only_with_a_reason(bundles: Path, versions: list[str]) -> None:
    third, fourth = versions[2:]
    shutil.rmtree(bundles / fourth)
    rollback(bundles, reason="it recommends batteries only")
    with pytest.raises(GateError, match=r"it was withdrawn .*: it recommends batteries only"):
        publish(bundles)  # the newest, as a nightly job would
    publish(bundles, force="the catalogue was wrong, not the model")
    assert live_version(bundles) == third
    assert third not in standing(read_ledger(bundles)).withdrawn


def test_a_canary_runs_beside_and_is_promoted(bundles: Path) -> None:
    live, new, other, _ = bundle_versions(bundles)
    publish(bundles, live)
    publish(bundles, new, canary=0.05, reason="to be seen")
    assert (live_version(bundles), rollback_target(bundles)) == (live, None)
    first = traffic_share(bundles, "canary")
    assert first is not None and (first.version, first.share) == (new, 0.05)
    with pytest.raises(UserError, match=f"{new} is running as a canary"):
        publish(bundles, other)
    publish(bundles, new, canary=0.5)  # more of it: the clock goes on
    assert traffic_share(bundles, "canary") == replace(first, share=0.5)
    assert promote(bundles, reason="good") == new
    assert (live_version(bundles), traffic_share(bundles, "canary")) == (new, None)
    said = [(entry.action, entry.version, entry.previous, entry.share) for entry in read_ledger(bundles)[1:]]
    assert said == [("canary", new, live, 0.05), ("canary", new, live, 0.5), ("promote", new, live, None)]
    assert rollback(bundles) == live


def test_a_rollback_withdraws_the_canary_alone(bundles: Path, versions: list[str]) -> None:
    _, second, third, new = versions
    publish(bundles, new, canary=0.1)
    assert rollback(bundles, reason="slow") == third
    assert traffic_share(bundles, "canary") is None
    last = read_ledger(bundles)[-1]
    assert (last.action, last.version, last.reason) == ("canary ended", new, "slow")
    with pytest.raises(GateError, match="it was withdrawn"):
        publish(bundles, new)
    assert rollback(bundles) == second


def test_only_the_canary_that_is_meant_is_ended_and_only_once(bundles: Path, versions: list[str]) -> None:
    new = publish(bundles, versions[3], canary=0.1)
    assert end(bundles, "canary", version="another") is None
    assert end(bundles, "canary", version=new, by="guardrail", reason="errors") == new
    assert end(bundles, "canary", version=new, by="guardrail", reason="errors") is None
    assert [entry.by for entry in read_ledger(bundles)].count("guardrail") == 1
    with pytest.raises(UserError, match="no canary is running"):
        promote(bundles)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(bundles: Path, versions: list[str], share: float) -> None:
    live, new = versions[2:]
    with pytest.raises(UserError, match="share above 0"):
        publish(bundles, new, canary=share)
    with pytest.raises(UserError, match="another bundle than the live one"):
        publish_shadow(bundles, live, 0.1)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": "../x", "share": 0.1, "since": 0}', b'{"version": "x", "share": 2, "since": 0}'],
)
def test_a_pointer_of_a_canary_that_cannot_be_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "canary").write_bytes(content)
    with pytest.raises(BundleError):
        traffic_share(tmp_path, "canary")


@pytest.mark.parametrize("role", ["canary", "shadow"])
@pytest.mark.parametrize("content", [b"", b"{", b'{"version": "../x", "share": 0.1, "since": 0}'])
def test_a_damaged_pointer_beside_the_live_one_keeps_nobody_from_going_back(
    bundles: Path, versions: list[str], role: Role, content: bytes
) -> None:
    (bundles / role).write_bytes(content)
    assert rollback(bundles) == versions[1]
    (bundles / role).write_bytes(content)
    assert publish(bundles, versions[3]) == versions[3]
    (bundles / role).write_bytes(content)
    assert end(bundles, role) is None
    assert not (bundles / role).exists()


def test_a_canary_ends_also_while_the_live_pointer_is_damaged(bundles: Path, versions: list[str]) -> None:
    new = publish(bundles, versions[3], canary=0.1)
    (bundles / "live").write_text("")
    assert end(bundles, "canary", by="guardrail", reason="errors") == new
    assert traffic_share(bundles, "canary") is None


def test_a_canary_that_the_undoing_of_a_rollback_makes_live_is_none_any_more(
    bundles: Path, versions: list[str]
) -> None:
    _, second, third, new = versions
    rollback(bundles)
    publish(bundles, third, canary=0.1, force="once more")
    assert rollback(bundles, undo=True) == third
    assert traffic_share(bundles, "canary") is None
    assert rollback(bundles) == second
    assert publish(bundles, new) == new


def test_a_promotion_that_was_killed_half_way_keeps_nobody_from_going_back(bundles: Path, versions: list[str]) -> None:
    *_, third, new = versions
    publish(bundles, new, canary=0.1)
    pointer = (bundles / "canary").read_bytes()
    promote(bundles)
    (bundles / "canary").write_bytes(pointer)
    assert rollback(bundles) == third
    assert traffic_share(bundles, "canary") is None  # or a share of the shoppers would still get it


def test_a_bundle_that_lists_nothing_takes_no_place_by_itself(
    tmp_path: Path, bundles: Path, versions: list[str]
) -> None:
    assert live_version(bundles) == versions[2]
    full = tiny_dataset(np.random.default_rng(0))
    empty = write_tiny_bundle(tmp_path, Dataset(full.events.take(slice(0, 0)), make_catalogue(0), (), 0, 0)).name
    with pytest.raises(GateError, match="it lists no item"):
        publish(bundles, empty)


@pytest.mark.parametrize("pointer", ["", "../elsewhere", "never-there"])
def test_a_pointer_that_leads_nowhere_is_mended_by_a_rollback_or_a_publication(
    bundles: Path, versions: list[str], pointer: str
) -> None:
    (bundles / "live").write_text(pointer)
    assert may_answer(bundles)[-3:] == versions[2::-1]
    assert rollback(bundles) == versions[2]
    assert live_version(bundles) == versions[2]
    (bundles / "live").write_text(pointer)
    assert publish(bundles, versions[3]) == versions[3]
    assert live_version(bundles) == versions[3]

"""Which bundle serves each phase, by the ledger of publications."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from recsys.bundle import BundleError
from recsys.publish import live_version, publish, publish_beside, read_ledger, rollback, served_phases
from tests.shop import write_tiny_bundle

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

"""Which bundle serves each phase, by the ledger of publications."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from recsys.publish import served_phases

ONE, TWO, OLD, NEW = "a-phase1-x", "b-phase2-x", "c-phase3-old", "d-phase3-new"


def moves(folder: Path, *moves: tuple[str, str]) -> Path:
    """A ledger of `(action, version)`."""
    lines, previous = [], None
    for action, version in moves:
        entry = {"at": "", "action": action, "version": version, "previous": previous, "by": "", "reason": ""}
        lines.append(orjson.dumps(entry))
        previous = version
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
        ([("publish", TWO), ("publish", NEW), ("rollback", TWO), ("rollback", NEW)], {2: TWO, 3: NEW}),
    ],
)
def test_a_phase_is_served_by_what_was_published_last_and_not_withdrawn(
    tmp_path: Path, ledger: list[tuple[str, str]], expected: dict[int, str]
) -> None:
    assert served_phases(moves(tmp_path, *ledger)) == expected

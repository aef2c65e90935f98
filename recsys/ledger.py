"""The ledger: an append-only file of which bundle was live when, by whom and why, and what stands by it now."""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import orjson

logger = logging.getLogger(__name__)


class Action(StrEnum):
    """What was done with a bundle."""

    PUBLISH = "publish"
    PROMOTE = "promote"
    """The canary became the live bundle."""
    ROLLBACK = "rollback"
    """The live bundle was withdrawn, and the one before it is live again."""
    UNDO = "undo"
    """A rollback was taken back: what it withdrew is live again."""
    BESIDE = "beside"
    """It serves arms of experiments."""
    CANARY = "canary"
    """A share of the shoppers gets it."""
    CANARY_ENDED = "canary ended"
    """It was withdrawn from them."""
    SHADOW = "shadow"
    """It answers a share of the requests, and nobody sees it."""
    SHADOW_ENDED = "shadow ended"


_MADE_LIVE: Final = (Action.PUBLISH, Action.PROMOTE, Action.UNDO)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One thing that was done."""

    at: str
    action: str
    """See `Action`."""
    version: str
    """Of the bundle that it was done with; of a rollback the one that is live again."""
    previous: str | None
    """The version that was live before."""
    by: str
    """The user who ran the command; `guardrail` where the service did it."""
    reason: str
    forced: str | None = None
    """Why it was published although the gate refused it."""
    gate: tuple[str, ...] = ()
    """What the gate said, refusals first; nothing of a rollback, which has no gate."""
    share: float | None = None
    """Of a canary's shoppers, or a shadow's requests."""


_MEMBERS: Final = {one.name for one in fields(LedgerEntry)}


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands by the ledger."""

    stack: tuple[str, ...]
    """Versions that were live and were not withdrawn, each once, the one that is live last."""
    withdrawn: Mapping[str, LedgerEntry]
    """By version what withdrew it: a rollback, or the end of its canary. Publishing it again clears it."""
    phases: Mapping[int, tuple[str, ...]]
    """For each phase the versions that were live or beside, likewise."""


def standing(entries: Sequence[LedgerEntry]) -> Standing:
    """What stands after these entries, oldest first."""
    stack: list[str] = []
    withdrawn: dict[str, LedgerEntry] = {}
    phases: dict[int, list[str]] = {}
    for entry in entries:
        version = entry.version
        if entry.action == Action.ROLLBACK and version in stack:
            while stack[-1] != version:
                withdrawn[stack.pop()] = entry
            for versions in phases.values():
                versions[:] = [one for one in versions if one not in withdrawn]
        # Until November 2026 a rollback of a rollback was a rollback too, to what the first had withdrawn.
        elif entry.action in (*_MADE_LIVE, Action.ROLLBACK):
            stack = [*(one for one in stack if one != version), version]
            withdrawn.pop(version, None)
        elif entry.action == Action.CANARY:
            withdrawn.pop(version, None)
        elif entry.action == Action.CANARY_ENDED and version not in stack:
            withdrawn[version] = entry
        if entry.action in (*_MADE_LIVE, Action.ROLLBACK, Action.BESIDE):
            served = phases.setdefault(phase_of(version), [])
            served[:] = [*(one for one in served if one != version), version]
    return Standing(tuple(stack), withdrawn, {phase: tuple(versions) for phase, versions in phases.items() if versions})


def phase_of(version: str) -> int:
    """Of a bundle, by its name; 0 where that does not tell."""
    found = re.search(r"-phase(\d+)-", version)
    return int(found[1]) if found else 0


def read_ledger(bundles: Path) -> list[LedgerEntry]:
    """Everything that was done, oldest first.

    A line that was cut off, as by a full disk, is passed over: a rollback must work all the same.
    """
    ledger = bundles / "ledger.jsonl"
    if not ledger.exists():
        return []
    found = []
    for number, line in enumerate(ledger.read_bytes().splitlines(), start=1):
        try:
            entry = orjson.loads(line)
            known = {name: value for name, value in entry.items() if name in _MEMBERS}
            found.append(LedgerEntry(**{**known, "gate": tuple(known.get("gate", ()))}))
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            logger.warning("%s: line %d is no entry and is passed over", ledger, number)
    return found


def record(
    bundles: Path,
    action: Action,
    version: str,
    *,
    previous: str | None,
    reason: str,
    by: str | None = None,
    forced: str | None = None,
    gate: tuple[str, ...] = (),
    share: float | None = None,
) -> None:
    """Append an entry, by whoever runs this process unless `by` says who; it is on disk when this returns."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = LedgerEntry(at, action, version, previous, by or _who(), reason, forced, gate, share)
    with (bundles / "ledger.jsonl").open("ab+") as ledger:
        # Behind a line that was cut off this entry begins one of its own.
        size = ledger.seek(0, os.SEEK_END)
        ledger.seek(max(0, size - 1))
        begin = b"" if ledger.read() in (b"", b"\n") else b"\n"
        ledger.write(begin + orjson.dumps(asdict(entry)) + b"\n")
        ledger.flush()
        os.fsync(ledger.fileno())


@contextmanager
def locked(bundles: Path) -> Iterator[None]:
    """One at a time, of all processes, reads what stands and changes it."""
    bundles.mkdir(parents=True, exist_ok=True)
    with (bundles / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not stand in its password file
        return f"uid {os.getuid()}"

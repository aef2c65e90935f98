"""Which bundle is live: one small pointer file, and an append-only ledger of every time it moved."""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from recsys.bundle import BundleError, load_bundle, smoke_test


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One move of the pointer."""

    at: str
    action: str
    """publish or rollback"""
    version: str
    previous: str | None
    by: str
    reason: str


def live_version(bundles: Path) -> str | None:
    """The version that the pointer names, or None before the first publication."""
    pointer = bundles / "live"
    return pointer.read_text().strip() if pointer.exists() else None


def bundle_versions(bundles: Path) -> list[str]:
    """Every bundle on disk, oldest first."""
    return sorted(path.parent.name for path in bundles.glob("[!.]*/manifest.json"))


def read_ledger(bundles: Path) -> list[LedgerEntry]:
    """Every move of the pointer, oldest first."""
    ledger = bundles / "ledger.jsonl"
    if not ledger.exists():
        return []
    return [LedgerEntry(**orjson.loads(line)) for line in ledger.read_bytes().splitlines()]


def served_phases(bundles: Path) -> dict[int, str]:
    """For each phase the bundle that serves it: the last one published, without those that were rolled back from.

    The live bundle is one of them; experiments serve the others beside it.
    """
    stacks: dict[int, list[str]] = {}
    before = ""
    for entry in read_ledger(bundles):
        # A rollback of a rollback finds nothing wrong with what it leaves.
        withdrawn = entry.previous if (before, entry.action) == ("publish", "rollback") else None
        stacks = {
            phase: [version for version in stack if version not in (withdrawn, entry.version)]
            for phase, stack in stacks.items()
        }
        stacks.setdefault(_phase(entry.version), []).append(entry.version)
        before = entry.action
    return {phase: stack[-1] for phase, stack in stacks.items() if stack}


def _phase(version: str) -> int:
    """Of a bundle, by its name; 0 where that does not tell."""
    found = re.search(r"-phase(\d+)-", version)
    return int(found[1]) if found else 0


def publish(bundles: Path, version: str | None = None, *, reason: str = "") -> str:
    """Verify and smoke-test a bundle (the newest, unless named), then make it the live one.

    Raises:
        BundleError: there is no such bundle, it is damaged, or it fails the smoke test; the pointer has not moved.
    """
    versions = bundle_versions(bundles)
    if version is None:
        if not versions:
            raise BundleError(f"{bundles} holds no bundle: run `recsys train --phase 1` first")
        version = versions[-1]
    if version not in versions:
        raise BundleError(f"no bundle {version!r}; there are: {', '.join(versions) or 'none'}")
    _move(bundles, version, "publish", reason)
    return version


def rollback(bundles: Path, *, reason: str = "") -> str:
    """Make the bundle live that was so before the present one; a second rollback undoes the first.

    Raises:
        BundleError: none was live before, or it is gone or damaged; the pointer has not moved.
    """
    current = live_version(bundles)
    earlier = [entry.version for entry in read_ledger(bundles) if entry.version != current]
    if current is None or not earlier:
        raise BundleError("no other bundle has been live: there is nothing to roll back to")
    _move(bundles, earlier[-1], "rollback", reason)
    return earlier[-1]


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not stand in its password file
        return f"uid {os.getuid()}"


def _move(bundles: Path, version: str, action: str, reason: str) -> None:
    smoke_test(load_bundle(bundles / version))
    entry = LedgerEntry(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        action=action,
        version=version,
        previous=live_version(bundles),
        by=_who(),
        reason=reason,
    )
    draft = bundles / f".live-{os.getpid()}"
    draft.write_text(version + "\n")
    # The ledger first: a pointer without its entry would be a change that nobody can explain.
    with (bundles / "ledger.jsonl").open("ab") as ledger:
        ledger.write(orjson.dumps(asdict(entry)) + b"\n")
        ledger.flush()
        os.fsync(ledger.fileno())
    draft.replace(bundles / "live")

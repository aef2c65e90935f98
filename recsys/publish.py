"""Which bundle is live: one small pointer file, a gate before it moves, and an append-only ledger of every time it did."""

from __future__ import annotations

import getpass
import logging
import os
import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from recsys.bundle import BundleError, load_bundle, read_manifest, smoke_test
from recsys.experiments import gate
from recsys.experiments.gate import Decision, Evidence, GateError, Tolerances

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One move of the pointer."""

    at: str
    action: str
    """publish, rollback, or beside: it serves arms of experiments, and the pointer has not moved."""
    version: str
    previous: str | None
    by: str
    reason: str
    forced: str | None = None
    """Why it was published although the gate refused it."""
    gate: tuple[str, ...] = ()
    """What the gate said, refusals first; nothing of a rollback, which has no gate."""


_MEMBERS: Final = {one.name for one in fields(LedgerEntry)}


def live_version(bundles: Path) -> str | None:
    """The version that the pointer names, or None before the first publication."""
    pointer = bundles / "live"
    return pointer.read_text().strip() if pointer.exists() else None


def bundle_versions(bundles: Path) -> list[str]:
    """Every bundle on disk, oldest first."""
    return sorted(path.parent.name for path in bundles.glob("[!.]*/manifest.json"))


def read_ledger(bundles: Path) -> list[LedgerEntry]:
    """Every move of the pointer, oldest first.

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
        stacks.setdefault(phase_of(entry.version), []).append(entry.version)
        before = before if entry.action == "beside" else entry.action
    return {phase: stack[-1] for phase, stack in stacks.items() if stack}


def phase_of(version: str) -> int:
    """Of a bundle, by its name; 0 where that does not tell."""
    found = re.search(r"-phase(\d+)-", version)
    return int(found[1]) if found else 0


def review(
    bundles: Path, version: str, *, evidence: Evidence | None = None, tolerances: Tolerances = gate.DEFAULT
) -> Decision:
    """What the gate says of a bundle that would take the place of the live one.

    Raises:
        GateError: see `recsys.experiments.gate.decide`.
    """
    live = live_version(bundles)
    champion, notes = None, tuple[str, ...]()
    if live is not None:
        try:
            champion = read_manifest(bundles / live)
        except BundleError as error:  # what is damaged must be replaceable
            notes = (f"the live bundle cannot be read: {error}",)
    decision = gate.decide(read_manifest(bundles / version), champion, evidence, tolerances=tolerances)
    return Decision(decision.refusals, notes or decision.notes)


def publish(
    bundles: Path,
    version: str | None = None,
    *,
    reason: str = "",
    force: str | None = None,
    evidence: Evidence | None = None,
    tolerances: Tolerances = gate.DEFAULT,
) -> str:
    """Verify and smoke-test a bundle (the newest, unless named), then make it the live one, if the gate lets it pass.

    `force` is why it should go live although the gate refuses it; the ledger keeps it.

    Raises:
        BundleError: there is no such bundle, it is damaged, or it fails the smoke test; the pointer has not moved.
        GateError: it is worse than the live one, and `force` does not say why it should be published all the same.
    """
    versions = bundle_versions(bundles)
    if version is None:
        if not versions:
            raise BundleError(f"{bundles} holds no bundle: run `recsys train --phase 1` first")
        version = versions[-1]
    _require(bundles, version)
    if force is not None and not force.strip():
        raise GateError("what is forced needs a reason, which the ledger keeps")
    decision = review(bundles, version, evidence=evidence, tolerances=tolerances)
    if not decision.allowed and force is None:
        raise GateError(
            f"{version} is worse than the live {live_version(bundles)}:\n"
            + "\n".join(f"  {refusal}" for refusal in decision.refusals)
            + "\nto publish it all the same, add to the same command: --force 'REASON'"
        )
    _move(bundles, version, "publish", reason, None if decision.allowed else force, decision.refusals + decision.notes)
    return version


def _require(bundles: Path, version: str) -> None:
    versions = bundle_versions(bundles)
    if version not in versions:
        raise BundleError(f"no bundle {version!r}; there are: {', '.join(versions) or 'none'}")


def publish_beside(bundles: Path, version: str, *, reason: str = "") -> str:
    """Let a bundle serve the arms of experiments that name its phase, and leave live what is. No gate: nobody else meets it.

    Raises:
        BundleError: there is no such bundle, it is damaged, or it fails the smoke test.
    """
    _require(bundles, version)
    smoke_test(load_bundle(bundles / version))
    _record(bundles, "beside", version, reason)
    return version


def rollback(bundles: Path, *, reason: str = "") -> str:
    """Make the bundle live that was so before the present one; a second rollback undoes the first. No gate: it must always work.

    Raises:
        BundleError: none was live before, or it is gone or damaged; the pointer has not moved.
    """
    current = live_version(bundles)
    moves = (entry for entry in read_ledger(bundles) if entry.action != "beside")
    earlier = [entry.version for entry in moves if entry.version != current]
    if current is None or not earlier:
        raise BundleError("no other bundle has been live: there is nothing to roll back to")
    _move(bundles, earlier[-1], "rollback", reason)
    return earlier[-1]


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not stand in its password file
        return f"uid {os.getuid()}"


def _move(
    bundles: Path, version: str, action: str, reason: str, forced: str | None = None, said: tuple[str, ...] = ()
) -> None:
    smoke_test(load_bundle(bundles / version))
    draft = bundles / f".live-{os.getpid()}"
    draft.write_text(version + "\n")
    # The ledger first: a pointer without its entry would be a change that nobody can explain.
    _record(bundles, action, version, reason, forced, said)
    draft.replace(bundles / "live")


def _record(
    bundles: Path, action: str, version: str, reason: str, forced: str | None = None, said: tuple[str, ...] = ()
) -> None:
    entry = LedgerEntry(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        action=action,
        version=version,
        previous=live_version(bundles),
        by=_who(),
        reason=reason,
        forced=forced,
        gate=said,
    )
    with (bundles / "ledger.jsonl").open("ab+") as ledger:
        # Behind a line that was cut off this entry begins one of its own.
        size = ledger.seek(0, os.SEEK_END)
        ledger.seek(max(0, size - 1))
        begin = b"" if ledger.read() in (b"", b"\n") else b"\n"
        ledger.write(begin + orjson.dumps(asdict(entry)) + b"\n")
        ledger.flush()
        os.fsync(ledger.fileno())

"""Which bundle is live: one small pointer file, a gate before it moves, and a ledger of every time it did.

Beside the pointer `live` stand two more, each with a share: `canary`, whose bundle that share of the shoppers gets, and `shadow`,
whose bundle answers that share of the requests for comparison only.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import orjson

from recsys.bundle import BundleError, Flaw, load_bundle, read_manifest, require_name, smoke_test
from recsys.errors import UserError
from recsys.experiments import gate
from recsys.experiments.gate import Decision, Evidence, GateError, Tolerances
from recsys.ledger import Action, locked, read_ledger, record, standing

Role = Literal["canary", "shadow"]
GUARDRAIL: Final = "guardrail"
"""Who withdraws a canary by itself."""
_BEGUN: Final[dict[Role, Action]] = {"canary": Action.CANARY, "shadow": Action.SHADOW}
_ENDED: Final[dict[Role, Action]] = {"canary": Action.CANARY_ENDED, "shadow": Action.SHADOW_ENDED}


@dataclass(frozen=True, slots=True)
class TrafficShare:
    """What the pointer of a canary or a shadow says."""

    version: str
    share: float
    """More than 0, at most 1."""
    since: float
    """Unix time."""


def live_version(bundles: Path) -> str | None:
    """The version that the pointer names, or None before the first publication.

    Raises:
        BundleError: what it says is no name of a bundle.
    """
    pointer = bundles / "live"
    return require_name(pointer.read_text(errors="replace").strip()) if pointer.exists() else None


def traffic_share(bundles: Path, role: Role) -> TrafficShare | None:
    """The canary or the shadow; None where there is none.

    Raises:
        BundleError: its pointer cannot be read.
    """
    pointer = bundles / role
    try:
        content = orjson.loads(pointer.read_bytes())
        found = TrafficShare(str(content["version"]), float(content["share"]), float(content["since"]))
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{pointer} is no pointer to a {role}: {error!r}", Flaw.UNREADABLE) from error
    if not 0.0 < found.share <= 1.0:
        raise BundleError(f"{pointer} has the share {found.share}", Flaw.UNREADABLE)
    require_name(found.version)
    return found


def may_answer(bundles: Path) -> list[str]:
    """Versions in the order in which a process that starts should try them: the live one, then those that were live before it.

    Raises:
        BundleError: nothing was ever published.
    """
    live = _named(bundles)
    versions = [*([] if live is None else [live]), *reversed(standing(read_ledger(bundles)).stack)]
    if not versions:
        raise BundleError(f"no bundle is live in {bundles}: run `recsys train --phase 1 --publish` first")
    return list(dict.fromkeys(versions))


def _named(bundles: Path) -> str | None:
    """The version that the pointer names; None also where it leads nowhere, which must be mendable."""
    try:
        return live_version(bundles)
    except BundleError:
        return None


def _running(bundles: Path, role: Role) -> TrafficShare | None:
    """The canary or the shadow; None also where its pointer cannot be read: no worker follows that, and it must be mendable."""
    try:
        return traffic_share(bundles, role)
    except BundleError:
        return None


def _canary(bundles: Path) -> TrafficShare | None:
    """The canary; None also where its bundle is live for everybody, as after a promotion that was killed half way."""
    running = _running(bundles, "canary")
    return None if running is None or running.version == _named(bundles) else running


def bundle_versions(bundles: Path) -> list[str]:
    """Every bundle on disk, oldest first."""
    return sorted(path.parent.name for path in bundles.glob("[!.]*/manifest.json"))


def served_phases(bundles: Path) -> dict[int, str]:
    """For each phase the bundle that serves it: the last one published, without those that were rolled back from.

    The live bundle is one of them; experiments serve the others beside it.
    """
    return {phase: versions[-1] for phase, versions in standing(read_ledger(bundles)).phases.items()}


def rollback_target(bundles: Path) -> str | None:
    """The version that a rollback would make live: the last one before the live one that was not withdrawn; None where none is left."""
    current = _named(bundles)
    earlier = [version for version in standing(read_ledger(bundles)).stack if version != current]
    return earlier[-1] if earlier else None


def review(
    bundles: Path, version: str, *, evidence: Evidence | None = None, tolerances: Tolerances = gate.DEFAULT
) -> Decision:
    """What the gate says of a bundle that would take the place of the live one.

    Raises:
        GateError: see `recsys.experiments.gate.decide`.
    """
    candidate, live = read_manifest(bundles / version), _named(bundles)
    champion, notes = None, tuple[str, ...]()
    if live is not None:
        try:
            champion = read_manifest(bundles / live)
        except BundleError as error:  # what is damaged must be replaceable
            notes = (f"the live bundle cannot be read: {error}",)
    decision = gate.decide(candidate, champion, evidence, tolerances=tolerances)
    refusals = (*_withdrawn(bundles, version), *_emptied(candidate, champion), *decision.refusals)
    return Decision(refusals, notes or decision.notes)


def _withdrawn(bundles: Path, version: str) -> tuple[str, ...]:
    """That a version was withdrawn: nobody who does not know it should bring it back."""
    entry = standing(read_ledger(bundles)).withdrawn.get(version)
    if entry is None:
        return ()
    why = f": {entry.reason}" if entry.reason else ""
    return (f"it was withdrawn ({entry.action}) on {entry.at} by {entry.by}{why}",)


def _emptied(candidate: dict[str, object], champion: dict[str, object] | None) -> tuple[str, ...]:
    if champion is not None and champion.get("n_items") and not candidate.get("n_items"):
        return ("it lists no item",)
    return ()


def publish(
    bundles: Path,
    version: str | None = None,
    *,
    reason: str = "",
    force: str | None = None,
    evidence: Evidence | None = None,
    tolerances: Tolerances = gate.DEFAULT,
    canary: float | None = None,
) -> str:
    """Verify and smoke-test a bundle (the newest, unless named), then make it the live one, or the canary for a share of the
    shoppers, if the gate lets it pass.

    `force` is why it should be so although the gate refuses it; the ledger keeps it. Publishing the canary promotes it; a canary that
    is running gets another share.

    Raises:
        BundleError: there is no such bundle, it is damaged, or it fails the smoke test; the pointer has not moved.
        GateError: it is worse than the live one, or was withdrawn, and `force` does not say why it should be published all the same.
        UserError: another canary is running.
    """
    version = version or _newest(bundles)
    _require(bundles, version)
    if force is not None and not force.strip():
        raise GateError("what is forced needs a reason, which the ledger keeps")
    with locked(bundles):
        running = _canary(bundles)
        if running is not None and running.version != version:
            raise UserError(
                f"{running.version} is running as a canary: end that first, with `recsys promote` or `recsys rollback`"
            )
        decision = review(bundles, version, evidence=evidence, tolerances=tolerances)
        if not decision.allowed and force is None:
            raise GateError(
                f"{version} may not take the place of the live {_named(bundles)}:\n"
                + "\n".join(f"  {refusal}" for refusal in decision.refusals)
                + "\nto publish it all the same, add to the same command: --force 'REASON'"
            )
        forced, said = (None if decision.allowed else force), decision.refusals + decision.notes
        if canary is not None:
            _share(bundles, "canary", version, canary, reason, forced=forced, said=said)
        else:
            action = Action.PUBLISH if running is None else Action.PROMOTE
            _move(bundles, version, action, reason, forced=forced, said=said)
            (bundles / "canary").unlink(missing_ok=True)
    return version


def _newest(bundles: Path) -> str:
    versions = bundle_versions(bundles)
    if not versions:
        raise BundleError(f"{bundles} holds no bundle: run `recsys train --phase 1` first")
    return versions[-1]


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
    with locked(bundles):
        record(bundles, Action.BESIDE, version, previous=_named(bundles), reason=reason)
    return version


def publish_shadow(bundles: Path, version: str, share: float, *, reason: str = "") -> str:
    """Let a bundle answer a share of the requests beside the live one, without being shown. No gate: nobody meets it.

    Raises:
        BundleError: there is no such bundle, it is damaged, or it fails the smoke test.
    """
    _require(bundles, version)
    with locked(bundles):
        _share(bundles, "shadow", version, share, reason)
    return version


def promote(bundles: Path, *, reason: str = "") -> str:
    """Make the canary live for everybody.

    Raises:
        UserError: none is running.
        BundleError: it is damaged.
    """
    with locked(bundles):
        running = _canary(bundles)
        if running is None:
            raise UserError("no canary is running: start one with `recsys publish --canary 5%`")
        _move(bundles, running.version, Action.PROMOTE, reason)
        (bundles / "canary").unlink()
    return running.version


def end(
    bundles: Path, role: Role, *, reason: str = "", by: str | None = None, version: str | None = None
) -> str | None:
    """End the canary or the shadow; its version, None where none is running, or not the one of `version`.

    A pointer that cannot be read goes too.
    """
    with locked(bundles):
        running = _running(bundles, role)
        if running is None:
            (bundles / role).unlink(missing_ok=True)
            return None
        if version not in (None, running.version):
            return None
        _end(bundles, role, running, reason, by)
    return running.version


def _end(bundles: Path, role: Role, running: TrafficShare, reason: str, by: str | None = None) -> None:
    live = _named(bundles)
    record(bundles, _ENDED[role], running.version, previous=live, reason=reason, by=by, share=running.share)
    (bundles / role).unlink()


def rollback(bundles: Path, *, reason: str = "", undo: bool = False) -> str:
    """Withdraw the live bundle and make that one live that was so before it; the version that is live then. No gate: it must always work.

    A canary that is running came last, so it alone is withdrawn. What was withdrawn does not come back by another rollback, which goes
    further back. `undo` takes the last rollback back.

    Raises:
        BundleError: there is none to go to, or it is gone or damaged; the pointer has not moved.
    """
    with locked(bundles):
        current, running = _named(bundles), _canary(bundles)
        if running is not None and current is not None and not undo:
            _end(bundles, "canary", running, reason)
            return current
        target = _undone(bundles) if undo else rollback_target(bundles)
        if target is None and undo:
            raise BundleError("a rollback is not what was done last: there is none to take back")
        if target is None:
            undone = _undone(bundles)
            can_undo = undone is not None and (bundles / undone / "manifest.json").exists()
            raise BundleError(
                "no other bundle has been live that was not withdrawn: there is nothing to roll back to; "
                + (f"`recsys rollback --undo` brings {undone} back" if can_undo else "publish another by name")
            )
        _move(bundles, target, Action.UNDO if undo else Action.ROLLBACK, reason)
        if running is None or running.version == target:  # left over, or everybody's now
            (bundles / "canary").unlink(missing_ok=True)
    return target


def _undone(bundles: Path) -> str | None:
    """What the last rollback withdrew, where nothing else was made live since."""
    moves = [
        e for e in read_ledger(bundles) if e.action in (Action.PUBLISH, Action.PROMOTE, Action.ROLLBACK, Action.UNDO)
    ]
    return moves[-1].previous if moves and moves[-1].action == Action.ROLLBACK else None


def _move(
    bundles: Path, version: str, action: Action, reason: str, *, forced: str | None = None, said: tuple[str, ...] = ()
) -> None:
    smoke_test(load_bundle(bundles / version))
    # The ledger first: a pointer without its entry would be a change that nobody can explain.
    record(bundles, action, version, previous=_named(bundles), reason=reason, forced=forced, gate=said)
    _point(bundles / "live", version.encode() + b"\n")


def _share(
    bundles: Path,
    role: Role,
    version: str,
    share: float,
    reason: str,
    *,
    forced: str | None = None,
    said: tuple[str, ...] = (),
) -> None:
    live, running = live_version(bundles), _running(bundles, role)
    if not 0.0 < share <= 1.0:
        raise UserError(f"a {role} needs a share above 0 and of at most 100%")
    if live is None or live == version:
        raise UserError(f"a {role} is another bundle than the live one, which is {live or 'none yet'}")
    smoke_test(load_bundle(bundles / version))
    record(bundles, _BEGUN[role], version, previous=live, reason=reason, forced=forced, gate=said, share=share)
    goes_on = running is not None and running.version == version
    since = running.since if running is not None and goes_on else datetime.now(UTC).timestamp()
    _point(bundles / role, orjson.dumps(asdict(TrafficShare(version, share, since))) + b"\n")


def _point(pointer: Path, content: bytes) -> None:
    """Replace a pointer at once and durably: a reader sees the old one or the new one."""
    draft = pointer.parent / f".{pointer.name}-{os.getpid()}"
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(pointer)

"""The gate before publication: may a candidate take the place of the champion, which is the bundle that is live?

It refuses what is known to be worse, beyond a tolerance: a slice of the offline evaluation, where both were measured on the same data, or the
off-policy estimate of a log that can tell. What cannot be compared does not hold a bundle back, and the decision says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from recsys.errors import UserError
from recsys.experiments.offpolicy import Comparison, Trust

MAIN_SLICES: Final = ("all purchases", "new to the shopper")
"""Slices of `recsys.evaluation`, which the service may not import, that are large enough to be judged by the tolerance alone."""


class GateError(UserError):
    """A bundle is worse than the live one, or the evidence about it cannot be used."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How much worse than the champion a candidate may be, as a share of the champion's figure."""

    slices: float = 0.05
    """Of the order of the intervals of the main slices on the default data, docs/measured.md."""
    off_policy: float = 0.05


DEFAULT: Final = Tolerances()


class Evidence(BaseModel):
    """An off-policy comparison of two bundles on one log, as `write_evidence` leaves it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    candidate: str
    champion: str
    """Versions."""
    metric: str
    """What was estimated: `ctr`, `revenue per exposure`."""
    champion_value: float
    difference: tuple[float, float, float]
    """Candidate minus champion: value, low, high; paired."""
    trust: Trust
    reasons: tuple[str, ...] = ()
    """Why the log tells little, where it does."""

    @model_validator(mode="after")
    def _in_order(self) -> Evidence:
        value, low, high = self.difference
        if not low <= value <= high:
            raise ValueError("difference is [value, low, high], with low <= value <= high")
        return self


def write_evidence(path: Path, candidate: str, champion: str, metric: str, comparison: Comparison) -> None:
    """Write what `recsys publish --evidence` reads.

    Raises:
        GateError: nothing was estimated: a target shows nothing that the log has.
    """
    difference = comparison.difference
    try:
        evidence = Evidence(
            candidate=candidate,
            champion=champion,
            metric=metric,
            champion_value=comparison.champion.value,
            difference=(difference.value, difference.low, difference.high),
            trust=comparison.trust,
            reasons=comparison.reasons,
        )
    except ValidationError as error:
        raise GateError(f"the log says nothing of one of them: {'; '.join(comparison.reasons)}") from error
    path.write_bytes(orjson.dumps(evidence.model_dump(mode="json"), option=orjson.OPT_INDENT_2) + b"\n")


def read_evidence(path: Path) -> Evidence:
    """Read an off-policy comparison.

    Raises:
        GateError: it is missing, no JSON, or not such a comparison; the message names every field that does not fit.
    """
    try:
        return Evidence.model_validate(orjson.loads(path.read_bytes()))
    except OSError as error:
        raise GateError(f"{path} cannot be read ({error.strerror})") from error
    except orjson.JSONDecodeError as error:
        raise GateError(f"{path} is not JSON: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}" for problem in error.errors()
        )
        raise GateError(f"{path} is not an off-policy comparison (docs/offpolicy.md): {problems}") from error


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says, in plain words."""

    refusals: tuple[str, ...] = ()
    """What is worse; empty where the candidate may go live."""
    notes: tuple[str, ...] = ()
    """What was compared and found in order, and what could not be compared."""

    @property
    def allowed(self) -> bool:
        """Whether nothing was found that is worse."""
        return not self.refusals


def decide(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    evidence: Evidence | None = None,
    *,
    tolerances: Tolerances = DEFAULT,
) -> Decision:
    """Compare two manifests (see `recsys.bundle`), of whatever phases, and what a log says of them.

    `champion` is None where nothing is live.

    Raises:
        GateError: the evidence is about other bundles.
    """
    if champion is None:
        if evidence is not None:
            raise GateError("there is evidence against a champion, but no bundle is live that can be read")
        return Decision(notes=("no bundle is live: there is nothing to compare with",))
    if candidate["version"] == champion["version"]:
        return Decision(notes=("it is live already",))
    slices = _decide_slices(candidate, champion, tolerances.slices)
    policy = _decide_evidence(evidence, candidate, champion, tolerances.off_policy) if evidence else Decision()
    return Decision(slices.refusals + policy.refusals, slices.notes + policy.notes)


def _decide_slices(candidate: Mapping[str, Any], champion: Mapping[str, Any], tolerance: float) -> Decision:
    if _measured_on(candidate) != _measured_on(champion):
        return Decision(notes=("measured on other data than the live bundle: slices do not compare",))
    slices = list(_shared_slices(candidate, champion))
    if not slices:
        return Decision(notes=("one of the two was not evaluated: there are no slices to compare",))
    missing = tuple(
        f"{window}, {name} was not measured of the candidate" for window, name in _missing_slices(candidate, champion)
    )
    worse = [one for one in slices if one.candidate < one.champion * (1.0 - tolerance)]
    return Decision(
        refusals=tuple(one.in_words() for one in worse if not one.doubt),
        notes=(
            f"{len(slices)} slices compared with {champion['version']}, tolerance {tolerance:.0%}",
            *(f"{one.in_words()}: {one.doubt}" for one in worse if one.doubt),
            *missing,
        ),
    )


def _measured_on(manifest: Mapping[str, Any]) -> tuple[object, ...]:
    """What must be the same for two evaluations to compare: the tables, and where they were cut."""
    return manifest["data"]["fingerprint"], manifest.get("until")


@dataclass(frozen=True, slots=True)
class _Slice:
    """One figure of both, the larger the better."""

    window: str
    name: str
    candidate: float
    champion: float
    champion_low: float | None
    """The lower end of the champion's interval; None in bundles that do not say it."""

    @property
    def doubt(self) -> str:
        """Why being worse need mean nothing; empty where it does."""
        if self.champion_low is None:
            return "" if self.name in MAIN_SLICES else "the live bundle does not say how sure its figure is"
        return "inside the champion's interval" if self.candidate >= self.champion_low else ""

    def in_words(self) -> str:
        change = self.candidate / self.champion - 1.0
        return f"{self.window}, {self.name}: {self.candidate:.4f} for {self.champion:.4f} ({change:+.1%})"


def _shared_slices(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> Iterator[_Slice]:
    ours, theirs = candidate.get("metrics", {}), champion.get("metrics", {})
    intervals = champion.get("intervals", {})
    for window, figures in theirs.items():
        for name, value in figures.items():
            if value is not None and ours.get(window, {}).get(name) is not None:
                low, _ = intervals.get(window, {}).get(name, (None, None))
                yield _Slice(window, name, ours[window][name], value, low)


def _missing_slices(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Windows and slices of which only the champion has a figure."""
    ours = candidate.get("metrics", {})
    for window, figures in champion.get("metrics", {}).items():
        for name, value in figures.items():
            if value is not None and ours.get(window, {}).get(name) is None:
                yield window, name


def _decide_evidence(
    evidence: Evidence, candidate: Mapping[str, Any], champion: Mapping[str, Any], tolerance: float
) -> Decision:
    for role, version in (("candidate", candidate["version"]), ("champion", champion["version"])):
        if getattr(evidence, role) != version:
            raise GateError(f"the evidence has the {role} {getattr(evidence, role)}, but it is {version}")
    value, low, high = evidence.difference
    words = (
        f"off-policy {evidence.metric}: {value:+.4g} [{low:+.4g}, {high:+.4g}] against {evidence.champion_value:.4g}"
    )
    if evidence.trust is Trust.NOT_ESTIMABLE:
        return Decision(notes=(f"{words}; the log cannot tell: {_joined(evidence.reasons)}",))
    # Beyond the tolerance, and not by chance: what is only uncertain does not hold a bundle back.
    if high < 0 and value < -tolerance * abs(evidence.champion_value):
        return Decision(refusals=(words,))
    doubt = f"; weak evidence: {_joined(evidence.reasons)}" if evidence.trust is Trust.WEAK else ""
    return Decision(notes=(f"{words}: not surely worse by more than {tolerance:.0%}{doubt}",))


def _joined(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) or "no reason given"

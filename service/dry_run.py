"""Rules tried on requests before they are live: the very code that serves answers each with them, without them, and without each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from recsys.bundle import Bundle
from recsys.calibration import curves_of
from recsys.ranking import Ranking
from recsys.rules.contradictions import contradictions
from recsys.rules.engine import Engine
from recsys.rules.entry import Outcome
from recsys.rules.reading import RuleSet
from recsys.rules.worth import CHANCES, NOTHING, STAND_IN, Predictor, Worth, worth
from service.answering import Answering
from service.answers import Answer, Ruling
from service.bundles import LiveBundle
from service.replay import Replayed
from service.rules import engine_for

EXAMPLES: Final = 5
REFERENCE_K: Final = 500
"""So deep the model is asked without rules, for scores that compare."""


@dataclass(slots=True)
class Effect:
    """What one rule did in all answers."""

    rule: str
    kind: str
    in_force: int = 0
    failed: int = 0
    """Answers in which it could not be evaluated."""
    unmet: int = 0
    changed: int = 0
    """Answers that would be others without it."""
    price: Worth = NOTHING
    """Predicted with all rules, less predicted with all but this one."""


@dataclass(frozen=True, slots=True)
class Example:
    """An answer that rules changed."""

    surface: str
    user_id: str | None
    before: list[str]
    after: list[str]
    moved_by: list[list[str]]
    """Parallel to `after`."""


@dataclass(slots=True)
class DryRun:
    """What a rule file would have done."""

    version: str
    unit: str
    """Of predicted purchases."""
    effects: dict[str, Effect]
    requests: int = 0
    changed: int = 0
    short_before: int = 0
    """Items asked for and not answered without rules."""
    short_after: int = 0
    without_rules: Worth = NOTHING
    with_rules: Worth = NOTHING
    examples: list[Example] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def idle(self) -> list[str]:
        """Rules that were in force in no answer."""
        return [effect.rule for effect in self.effects.values() if effect.in_force == 0]


def predictor_of(bundle: Bundle) -> Predictor:
    """The chances of the answers where every surface of the bundle claims them, else the stand-in, which says in its unit what it is."""
    is_calibrated = set(curves_of(bundle.surfaces)) == set(bundle.surfaces)
    return CHANCES if is_calibrated else STAND_IN


def dry_run(live: LiveBundle, rules: RuleSet, requests: Sequence[Replayed], predictor: Predictor) -> DryRun:
    """Answer every request with the rules, without them, and without each that was in force."""
    return _Trial(live, rules, predictor).run(requests)


class _Trial:
    def __init__(self, live: LiveBundle, rules: RuleSet, predictor: Predictor) -> None:
        self._live = live
        self._predictor = predictor
        self._engine = engine_for(rules, live)
        enabled = [rule for rule in rules.rules if rule.enabled]
        self._without = {rule.name: engine_for(rules.without(rule.name), live) for rule in enabled}
        self._result = DryRun(
            rules.version, predictor.unit, {rule.name: Effect(rule.name, rule.kind) for rule in enabled}
        )

    def run(self, requests: Sequence[Replayed]) -> DryRun:
        """Try all requests."""
        self._result.contradictions = contradictions(self._engine, self._live.catalogue.available)
        self._result.warnings = self._engine.warnings
        for replayed in requests:
            self._try(replayed)
        return self._result

    def _try(self, replayed: Replayed) -> None:
        result, k = self._result, replayed.request.k
        plain, ruled = self._answer(replayed, None), self._answer(replayed, self._engine)
        deep = replayed.request.model_copy(update={"k": max(k, REFERENCE_K)})
        reference = Answering.rank(self._live, deep, replayed.shopper).ranking
        value = self._worth(replayed, ruled.ranking, reference)
        result.requests += 1
        result.short_before += k - len(plain.ranking)
        result.short_after += k - len(ruled.ranking)
        result.without_rules += self._worth(replayed, plain.ranking, reference)
        result.with_rules += value
        if _rows(plain) != _rows(ruled):
            result.changed += 1
            if len(result.examples) < EXAMPLES:
                result.examples.append(self._example(replayed, plain, ruled))
        for name, outcome in ruled.outcomes.items():
            self._effect(name, outcome, replayed, ruled, value, reference)

    def _effect(
        self, name: str, outcome: Outcome, replayed: Replayed, ruled: Answer, value: Worth, reference: Ranking
    ) -> None:
        effect = self._result.effects[name]
        effect.failed += outcome in (Outcome.SKIPPED, Outcome.CLOSED)
        if outcome is Outcome.SKIPPED:
            return
        effect.in_force += 1
        effect.unmet += outcome is Outcome.UNMET
        other = self._answer(replayed, self._without[name])
        if _rows(other) != _rows(ruled):
            effect.changed += 1
            effect.price += value - self._worth(replayed, other.ranking, reference)

    def _answer(self, replayed: Replayed, engine: Engine | None) -> Answer:
        ruling = None if engine is None else Ruling(engine, replayed.at, replayed.shopper.history)
        return Answering.rank(self._live, replayed.request, replayed.shopper, ruling=ruling)

    def _worth(self, replayed: Replayed, answer: Ranking, reference: Ranking) -> Worth:
        prices = self._live.catalogue.price_cents
        return worth(self._predictor, replayed.request.where, answer, reference, prices)

    def _example(self, replayed: Replayed, plain: Answer, ruled: Answer) -> Example:
        before, after = (
            [self._live.catalogue.item_id(row) for row in answer.ranking.items.tolist()] for answer in (plain, ruled)
        )
        names = [list(one) for one in ruled.moved_by] or [[] for _ in after]
        return Example(str(replayed.request.where), replayed.request.user_id, before, after, names)


def _rows(answer: Answer) -> list[int]:
    rows: list[int] = answer.ranking.items.tolist()
    return rows

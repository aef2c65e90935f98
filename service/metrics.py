"""What an operator sees at `/metrics`: counters that cost next to nothing, in Prometheus' text format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SHARE_BUCKETS: Final = tuple(tenth / 10 for tenth in range(11))
CORRELATION_BUCKETS: Final = tuple(fifth / 5 for fifth in range(-5, 6))
LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

Mode = Literal["max", "livemax"]
"""Which of the workers' values counts: the largest, or the largest of those that are alive."""


class Metrics:
    """Every metric of the service. `shop` labels each, so that one Prometheus can watch several."""

    def __init__(self, shop: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._shop = shop
        self._registry = registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ["shop", *labels], registry=registry)

        def gauge(name: str, text: str, *labels: str, mode: Mode = "max") -> Gauge:
            return Gauge(name, text, ["shop", *labels], registry=registry, multiprocess_mode=mode)

        def histogram(name: str, text: str, *labels: str, buckets: Sequence[float] = LATENCY_BUCKETS) -> Histogram:
            return Histogram(name, text, ["shop", *labels], registry=registry, buckets=buckets)

        self._answers = counter("recsys_answers", "Answers of /recommend", "surface", "served_by", "degraded")
        self._rungs = counter("recsys_answers_by_rung", "Answers by rung of the ladder", "rung")
        self._failed = counter(
            "recsys_models_failed", "Questions that a model could not answer, so popularity did", "surface"
        )
        self._level = gauge(
            "recsys_load_level",
            "From 0: every answer as it should be, 1: without costly parts, to 2: all from popularity",
            mode="livemax",
        )
        self._latency = histogram("recsys_answer_seconds", "Time to answer /recommend, without the network", "surface")
        self._shortfall = counter("recsys_shortfall_items", "Items asked for and not answered", "surface")
        self._events = counter("recsys_events", "Events by verdict", "verdict")
        self._lost = counter("recsys_exposures_lost", "Exposures that could not be written")
        self._refused = counter("recsys_bundles_refused", "Published bundles not loaded, by reason", "reason")
        self._stale = gauge("recsys_bundle_stale", "1 while the live bundle is older than it should be")
        self._canary_share = gauge(
            "recsys_canary_share", "Share of the shoppers who get the canary; 0 where none is running", mode="livemax"
        )
        self._guardrails = counter("recsys_guardrail_rollbacks", "Canaries that were withdrawn", "guardrail")
        self._shadowed = counter("recsys_shadow_requests", "Requests that a shadow was to answer", "outcome")
        self._shadow_overlap = histogram(
            "recsys_shadow_overlap", "Share of the items shown that the shadow answers too", buckets=SHARE_BUCKETS
        )
        self._shadow_correlation = histogram(
            "recsys_shadow_rank_correlation", "Spearman's, of the items that both answer", buckets=CORRELATION_BUCKETS
        )
        self._shadow_seconds = histogram("recsys_shadow_seconds", "Time for the shadow's answer")
        self._age = gauge("recsys_bundle_age_seconds", "Time since the live bundle was written")
        self._behind = gauge(
            "recsys_histories_behind", "1 while events of the database are missing in Redis", mode="livemax"
        )
        self._unmatched = counter("recsys_renders_unmatched", "Renders that name no exposure")
        self._changes = counter("recsys_items_changed", "Items by verdict", "verdict")
        self._waiting = gauge(
            "recsys_items_waiting", "Items for which the live bundle has no room until the next training"
        )
        self._rules = counter("recsys_rules", "Rules by what became of them in an answer", "rule", "outcome")
        self._rules_refused = counter("recsys_rules_refused", "Rule files not loaded")
        self._rules_stale = gauge(
            "recsys_rules_stale", "1 while the rule file cannot be used and older rules are in force"
        )
        self._rule_unknown = gauge(
            "recsys_rule_unknown_items",
            "Items that a rule cannot judge, since what it asks for is not known of them",
            "rule",
        )
        self._arm_answers = counter(
            "recsys_arm_answers", "Answers by arm of an experiment", "experiment", "arm", "degraded"
        )
        self._plan_refused = counter("recsys_experiments_refused", "Files of experiments not loaded")
        self._plan_stale = gauge(
            "recsys_experiments_stale", "1 while the file of experiments cannot be used and an older one is in force"
        )
        self._turned_away = counter("recsys_requests_refused", "Requests that were not let in, by reason", "reason")
        self._keys_stale = gauge(
            "recsys_keys_stale", "1 while the file of keys cannot be used and older keys are in force"
        )
        self._stale_rules: set[Path] = set()
        self._arm_children: dict[tuple[str, str, bool], Counter] = {}
        self._rule_children: dict[tuple[str, str], Counter] = {}
        self._rung_children: dict[str, Counter] = {}
        self._answer_children: dict[tuple[str, str, bool], Counter] = {}
        self._latency_children: dict[str, Histogram] = {}

    def answered(self, surface: str, served_by: str, *, degraded: bool, seconds: float, shortfall: int) -> None:
        """Count an answer."""
        key = (surface, served_by, degraded)
        child = self._answer_children.get(key)
        if child is None:
            child = self._answers.labels(self._shop, surface, served_by, str(degraded).lower())
            self._answer_children[key] = child
        child.inc()
        timer = self._latency_children.get(surface)
        if timer is None:
            timer = self._latency_children[surface] = self._latency.labels(self._shop, surface)
        timer.observe(seconds)
        if shortfall:
            self._shortfall.labels(self._shop, surface).inc(shortfall)

    def stood_on(self, rung: str) -> None:
        """Count an answer of a rung."""
        child = self._rung_children.get(rung)
        if child is None:
            child = self._rung_children[rung] = self._rungs.labels(self._shop, rung)
        child.inc()

    def failed(self, surface: str) -> None:
        """Count a question that its model could not answer."""
        self._failed.labels(self._shop, surface).inc()

    def judged(self, verdict: str, n: int) -> None:
        """Count events."""
        if n:
            self._events.labels(self._shop, verdict).inc(n)

    def lost(self, n: int) -> None:
        """Count exposures that could not be written."""
        self._lost.labels(self._shop).inc(n)

    def unmatched(self, n: int) -> None:
        """Count renders of which there is no exposure."""
        self._unmatched.labels(self._shop).inc(n)

    def refused(self, reason: str) -> None:
        """Count a bundle that was not loaded."""
        self._refused.labels(self._shop, reason).inc()

    def withdrawn(self, guardrail: str) -> None:
        """Count a canary that broke a guardrail."""
        self._guardrails.labels(self._shop, guardrail).inc()

    def shadowed(self, outcome: str) -> None:
        """Count a request that a shadow was to answer."""
        self._shadowed.labels(self._shop, outcome).inc()

    def compared(self, *, overlap: float | None, correlation: float | None, seconds: float) -> None:
        """What a shadow's answer was, beside the one that was shown."""
        self._shadow_seconds.labels(self._shop).observe(seconds)
        if overlap is not None:
            self._shadow_overlap.labels(self._shop).observe(overlap)
        if correlation is not None:
            self._shadow_correlation.labels(self._shop).observe(correlation)

    def ruled(self, rule: str, outcome: str) -> None:
        """Count what became of a rule in an answer."""
        child = self._rule_children.get((rule, outcome))
        if child is None:
            child = self._rule_children[rule, outcome] = self._rules.labels(self._shop, rule, outcome)
        child.inc()

    def placed(self, experiment: str, arm: str, *, degraded: bool) -> None:
        """Count an answer for an arm."""
        child = self._arm_children.get((experiment, arm, degraded))
        if child is None:
            child = self._arm_answers.labels(self._shop, experiment, arm, str(degraded).lower())
            self._arm_children[experiment, arm, degraded] = child
        child.inc()

    def plan_refused(self, *, stale: bool) -> None:
        """Whether the file of experiments as it is now cannot be used; counted where so."""
        self._plan_refused.labels(self._shop).inc(stale)
        self._plan_stale.labels(self._shop).set(stale)

    def rules_refused(self, file: Path, *, stale: bool) -> None:
        """Whether a rule file as it is now cannot be used; counted where so. The gauge is 1 while any cannot."""
        self._rules_refused.labels(self._shop).inc(stale)
        (self._stale_rules.add if stale else self._stale_rules.discard)(file)
        self._rules_stale.labels(self._shop).set(bool(self._stale_rules))

    def turned_away(self, reason: str) -> None:
        """Count a request that was not let in."""
        self._turned_away.labels(self._shop, reason).inc()

    def keys_refused(self, *, stale: bool) -> None:
        """Whether the file of keys as it is now cannot be used."""
        self._keys_stale.labels(self._shop).set(stale)

    def rule_unknown(self, rule: str, n: int) -> None:
        """How many items a rule cannot judge."""
        self._rule_unknown.labels(self._shop, rule).set(n)

    def changed(self, verdict: str, n: int) -> None:
        """Count items that the catalogue API was told of."""
        if n:
            self._changes.labels(self._shop, verdict).inc(n)

    def lifecycle(self, *, stale: bool, canary_share: float) -> None:
        """What is true now of the bundles."""
        self._stale.labels(self._shop).set(stale)
        self._canary_share.labels(self._shop).set(canary_share)

    def state(self, *, bundle_age_seconds: float, behind: bool, waiting: int, load_level: float) -> None:
        """What is true now."""
        self._level.labels(self._shop).set(load_level)
        self._waiting.labels(self._shop).set(waiting)
        self._age.labels(self._shop).set(bundle_age_seconds)
        self._behind.labels(self._shop).set(behind)

    def text(self) -> bytes:
        """Everything, of all workers where there are several."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self._registry)

"""The live rules: loaded once, made ready again when the catalogue changes, replaced when their file does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

from recsys.rules.engine import Engine, Outcomes
from recsys.rules.entry import Outcome
from recsys.rules.reading import RulesError, RuleSet, read_rules
from recsys.rules.situation import Codes
from service.bundles import LiveBundle
from service.catalogue import LiveCatalogue
from service.metrics import Metrics
from service.watched import WatchedFile

logger = logging.getLogger(__name__)


class RulesHolder:
    """The rules of this process. It watches their file; one that cannot be used keeps the old rules in force."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        """Load the rules; none where there is no path.

        Raises:
            RulesError: the file cannot be used.
        """
        self._file = WatchedFile(path)
        self._metrics = metrics
        self._rules: RuleSet | None = None if path is None else read_rules(path)
        self._engines: dict[LiveCatalogue, tuple[int, Engine]] = {}
        """For each catalogue that answers: its revision, and the rules made ready for it."""
        self._said: set[str] = set()

    @property
    def version(self) -> str | None:
        """Of the rules in force."""
        return None if self._rules is None else self._rules.version

    def on(self, live: LiveBundle) -> Engine | None:
        """The rules made ready for the catalogue as it is now; None where there are none."""
        if self._rules is None:
            return None
        catalogue = live.catalogue
        revision, engine = self._engines.get(catalogue, (-1, None))
        if engine is None or revision != catalogue.revision:
            engine = engine_for(self._rules, live)
            self._engines[catalogue] = (catalogue.revision, engine)
            self._look_at(engine)
        return engine

    def forget(self, kept: Collection[LiveCatalogue]) -> None:
        """Keep no rules ready for other catalogues than these."""
        self._engines = {catalogue: ready for catalogue, ready in self._engines.items() if catalogue in kept}

    async def reload(self) -> None:
        """Read the file again where it has changed."""
        if self._file.path is None or not self._file.changed():
            return
        try:
            rules = await asyncio.to_thread(read_rules, self._file.path)
        except RulesError as error:
            self._metrics.rules_refused(self._file.path, stale=True)
            logger.error("the rules are refused, %s stay in force: %s", self.version, error)  # noqa: TRY400
            return
        self._metrics.rules_refused(self._file.path, stale=False)
        if rules.version != self.version:
            logger.info("rules %s are in force", rules.version)
        self._rules, self._engines = rules, {}
        self._said.clear()

    def note(self, outcomes: Outcomes) -> None:
        """Count what became of the rules of an answer; what went wrong is logged the first time."""
        for name, outcome in outcomes.items():
            self._metrics.ruled(name, outcome)
            if outcome is not Outcome.APPLIED:
                self._say(f"rule {name!r} was {outcome} in an answer; recsys_rules_total counts how often")

    def _look_at(self, engine: Engine) -> None:
        for words in engine.warnings:
            self._say(words)
        for entry in engine.entries:
            self._metrics.rule_unknown(entry.rule.name, entry.n_unknown)
            if entry.n_unknown:
                fate = "hides them" if entry.rule.closed else "leaves them alone"
                self._say(f"rule {entry.rule.name!r} cannot judge {entry.n_unknown:,} items and {fate}")

    def _say(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            logger.warning(words)


def engine_for(rules: RuleSet, live: LiveBundle) -> Engine:
    """Rules made ready for a live bundle."""
    histories = live.bundle.histories
    return Engine(rules, live.catalogue, Codes(histories.region_index.row, histories.segment_index.row))

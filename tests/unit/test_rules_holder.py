"""The live rules: a new file takes over once it is whole, a bad one never does, and a changed catalogue is judged anew."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from recsys.rules.reading import RulesError, read_rules
from service.bundles import LiveBundle
from service.metrics import Metrics
from service.replay import open_live
from service.rules import RulesHolder
from tests.shop import publish_tiny_shop

RULE = '[[rules]]\nname = "a"\nkind = "exclude"\nitems = {{ ids = ["{}"] }}\n'


def look_at(holder: RulesHolder) -> None:
    """Reload, in a thread of its own: the browser tests leave a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(holder.reload())).result()


class Written:
    """A rule file whose every change has a time of its own, and its holder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rules.toml"
        self._second = 1_700_000_000
        self.write(RULE.format("item-01"))
        self.metrics = Metrics("shop", CollectorRegistry())
        self.holder = RulesHolder(self.path, self.metrics)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self._second += 1
        os.utime(self.path, (self._second, self._second))

    def look(self, times: int = 2) -> str | None:
        for _ in range(times):
            look_at(self.holder)
        return self.holder.version

    def stale(self) -> bool:
        return b'recsys_rules_stale{shop="shop"} 1.0' in self.metrics.text()


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_a_file_that_is_being_written_is_not_yet_read(written: Written) -> None:
    first = written.holder.version
    written.write("")
    assert written.look(1) == first
    written.write(RULE.format("item-02"))
    assert written.look(1) == first
    assert written.look(1) == read_rules(written.path).version != first


def test_a_bad_or_missing_file_keeps_the_old_rules(written: Written) -> None:
    first = written.holder.version
    written.write("[[rules]]\n")
    assert (written.look(), written.stale()) == (first, True)
    written.path.unlink()
    assert (written.look(), written.stale()) == (first, True)
    written.write(RULE.format("item-02"))
    assert (written.look() == first, written.stale()) == (False, False)


def test_a_file_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="cannot be read"):
        RulesHolder(tmp_path / "nothing.toml", Metrics("shop", CollectorRegistry()))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    folder = tmp_path_factory.mktemp("held")
    publish_tiny_shop(folder)
    return open_live(folder, None)


def test_rules_are_made_ready_once_for_each_state_of_the_catalogue(written: Written, live: LiveBundle) -> None:
    engine = written.holder.on(live)
    assert written.holder.on(live) is engine
    live.catalogue.revision += 1
    assert written.holder.on(live) is not engine


def test_without_a_file_there_are_no_rules(live: LiveBundle) -> None:
    holder = RulesHolder(None, Metrics("shop", CollectorRegistry()))
    look_at(holder)
    assert (holder.version, holder.on(live)) == (None, None)

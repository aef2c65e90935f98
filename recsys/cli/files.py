"""Who changes the shop's files is alone with them, and first takes out of them whoever was deleted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.privacy.deletions import Deletions
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.privacy.tombstones import Tombstones


@contextmanager
def the_files(data_dir: Path) -> Iterator[tuple[Deletions, Tombstones]]:
    """Alone with the log, what was ingested, and the tables, of all processes, with the deletions that concern them done.

    Raises:
        UserError: somebody was deleted under another key.
    """
    from pipelines.forgetting import forget_files

    # Not the service's settings: who prepares data need not have the service installed.
    pseudonyms = Pseudonyms(data_dir, os.environ.get("RECSYS_PRIVACY_KEY"))
    deletions, tombstones = Deletions(data_dir, pseudonyms), Tombstones(data_dir, pseudonyms)
    tombstones.check()
    with deletions.locked("files"):
        forget_files(deletions, time.time())
        yield deletions, tombstones

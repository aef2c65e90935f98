"""What a bundle would have answered to requests of the log, each with the history of then: the target of an off-policy estimate."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Engine

from service.answering import Answering
from service.bundles import LiveBundle
from service.replay import from_log


def would_answer(engine: Engine, live: LiveBundle, request_ids: Collection[str]) -> dict[str, list[str]]:
    """For each of the answers that can be asked again the ids of the items that the bundle would show, best first.

    What was wanted in the last hours of then is not known any more, and business rules are those of nobody: models alone answer.
    """
    wanted = frozenset(request_ids)
    replayed = from_log(engine, live, len(wanted), lambda row: row["request_id"] in wanted)
    return {
        one.request_id: [
            live.catalogue.item_id(row) for row in Answering.rank(live, one.request, one.shopper).ranking.items.tolist()
        ]
        for one in replayed
    }

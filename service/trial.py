"""A new bundle answers what was really asked lately, before anybody gets its answers."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from recsys.bundle import BundleError, Flaw
from recsys.ranking import EMPTY_HISTORY
from recsys.store.reading import latest_exposures
from service.answering import Answering
from service.answers import Shopper
from service.bundles import LiveBundle, Trial
from service.replay import request_of
from service.schemas import RecommendRequest

logger = logging.getLogger(__name__)

EMPTIED: Final = 0.1
"""From this share of the requests on, answered by the live bundle and not by the new one, the new one is refused."""
SHORT: Final = 0.5
"""Likewise with fewer than this share of the live bundle's items over all requests."""


def trial_on_log(engine: Engine, limit: int) -> Trial:
    """Tries a bundle on the latest `limit` requests of the log, whose shoppers it knows from its own histories."""

    async def run(candidate: LiveBundle, live: LiveBundle) -> None:
        await try_out(candidate, live, await asyncio.to_thread(recent_requests, engine, limit))

    return run


def recent_requests(engine: Engine, limit: int) -> list[RecommendRequest]:
    """The latest requests of the log; none where it cannot be read: a bundle must not wait for the database."""
    try:
        asked = map(request_of, latest_exposures(engine, limit))
        return list(itertools.islice(filter(None, asked), limit))
    except SQLAlchemyError:
        logger.exception("a new bundle is not tried on recorded requests: the log cannot be read")
        return []


async def try_out(candidate: LiveBundle, live: LiveBundle, requests: Iterable[RecommendRequest]) -> None:
    """Let both answer, one request at a time and others between them: a catalogue is changed by the loop that answers, so is read by it.

    Raises:
        BundleError: the candidate fails, answers what may not be answered, answers nothing to a tenth of what the live one answers, or
            has less than half of its items.
    """
    counts = []
    for request in requests:
        counts.append((_answered(candidate, request), _answered(live, request)))
        await asyncio.sleep(0)
    answered, emptied = sum(old > 0 for _, old in counts), sum(old > 0 and new == 0 for new, old in counts)
    if emptied and emptied >= EMPTIED * answered:
        message = f"{emptied} of {answered} recorded requests that the live bundle answers come out empty"
        raise BundleError(message, Flaw.EMPTY)
    items, expected = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    if items < SHORT * expected:
        message = (
            f"recorded requests get {items} items, and {expected} from the live bundle: they come out nearly empty"
        )
        raise BundleError(message, Flaw.EMPTY)


def _answered(live: LiveBundle, request: RecommendRequest) -> int:
    """How many items the answer has.

    Raises:
        BundleError: it fails, or they may not be answered.
    """
    known = EMPTY_HISTORY if request.user_id is None else live.bundle.histories.of(request.user_id)
    try:
        answer = Answering.rank(live, request, Shopper(known))
    except Exception as error:
        raise BundleError(f"{live.bundle.version} fails on a recorded request: {error!r}", Flaw.WRONG) from error
    items = answer.ranking.items.tolist()
    allowed = live.catalogue.available
    if len(set(items)) != len(items) or len(items) > request.k or not all(allowed[row] for row in items):
        raise BundleError(f"{live.bundle.version} answers a recorded request wrongly: {items}", Flaw.WRONG)
    return len(items)

"""Shadow scoring: another bundle answers a share of the requests in a process of its own, and what differs is recorded.

No answer waits for it: a request is handed over after its answer is composed, at most `WAITING` are kept, and what comes beyond that is
dropped. The process (`service.shadow_process`) has the lowest priority; the two speak JSON lines over pipes, and it ends with this one.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson

from recsys.publish import TrafficShare
from service.metrics import Metrics
from service.schemas import RecommendRequest
from service.settings import Settings

if TYPE_CHECKING:
    from service.answers import Answer, Recorded
    from service.arms import Line

logger = logging.getLogger(__name__)

WAITING: Final = 64
"""Requests that are kept while the shadow answers others."""
OLDEST_SECONDS: Final = 5.0
"""One that has waited longer is dropped: what its shopper knows has changed."""
ANSWER_SECONDS: Final = 30.0
"""A process that does not answer for so long is started anew; it loads its bundle first."""
REST_SECONDS: Final = 30.0
"""After which one that failed is started again: where its bundle is gone it would fail each time."""
LINE_BYTES: Final = 8 * 1024 * 1024


class Shadow:
    """The shadow of this worker; idle while no pointer names one."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._pointer: TrafficShare | None = None
        self._waiting: deque[dict[str, Any]] = deque()
        self._came = asyncio.Event()
        self._rests = ("", 0.0)
        """Which bundle failed, and until when it is left alone."""

    def follow(self, pointer: TrafficShare | None) -> None:
        """Answer with this bundle, or no more."""
        self._pointer = pointer
        if pointer is None:
            self._waiting.clear()

    def wants(self) -> bool:
        """Whether the next request is in the sample."""
        return self._pointer is not None and random.random() < self._pointer.share

    def offer(
        self,
        line: Line,
        request: RecommendRequest,
        recorded: Recorded | None,
        at: float,
        answer: Answer,
        trend: Sequence[str],
        shown: Sequence[str] = (),
    ) -> None:
        """Compare an answer soon, or never. Never blocks, never raises.

        One that was degraded is not what the live bundle says, so nothing is to be learnt from it.
        """
        if recorded is None or answer.degraded:
            return
        if len(self._waiting) >= WAITING:
            self._metrics.shadowed("dropped")
            return
        self._waiting.append(
            {
                "request": request,
                "recorded": recorded,
                "at": at,
                "seconds": self._clock() - at,
                "seed": answer.seed,
                "items": [line.live.catalogue.item_id(row) for row in answer.ranking.items.tolist()],
                "live": line.live.bundle.version,
                "trend": trend,
                "shown": shown,
            }
        )
        self._came.set()

    async def run(self) -> None:
        """Answer with one process for as long as its bundle is the shadow."""
        pointer = self._pointer
        if pointer is None or (pointer.version == self._rests[0] and self._clock() < self._rests[1]):
            return
        process = await self._started(pointer.version)
        logger.info("bundle %s is the shadow of %.4g of the requests", pointer.version, pointer.share)
        try:
            while self._pointer is not None and self._pointer.version == pointer.version:
                self._came.clear()
                while self._waiting:
                    await self._ask(process, self._waiting.popleft())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._came.wait(), self._settings.reload_seconds)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self._rests = pointer.version, self._clock() + REST_SECONDS
            self._metrics.shadowed("failed")
            logger.error("the shadow %s does not answer: %r", pointer.version, error)  # noqa: TRY400
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _started(self, version: str) -> Process:
        # Its metrics are this worker's: those that it could count itself nobody would read.
        environment = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
        environment["RECSYS_DATA_DIR"] = str(self._settings.data_dir)
        if self._settings.rules is not None:
            environment["RECSYS_RULES"] = str(self._settings.rules)
        command = (sys.executable, "-m", "service.shadow_process", version)
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, env=environment, limit=LINE_BYTES
        )

    async def _ask(self, process: Process, asked: dict[str, Any]) -> None:
        """Let the process answer one request.

        Raises:
            OSError, TimeoutError, IncompleteReadError: it does not.
        """
        if self._clock() - asked["at"] > OLDEST_SECONDS:
            self._metrics.shadowed("dropped")
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(_line(asked))
        await process.stdin.drain()
        told = orjson.loads(await asyncio.wait_for(process.stdout.readuntil(), ANSWER_SECONDS))
        self._metrics.shadowed(told["outcome"])
        if told["outcome"] != "failed":
            self._metrics.compared(overlap=told["overlap"], correlation=told["correlation"], seconds=told["seconds"])


def _line(asked: dict[str, Any]) -> bytes:
    """A request for the process; what Redis held of the shopper as bytes in base64."""
    recorded: Recorded = asked["recorded"]
    members = {
        **asked,
        "request": asked["request"].model_dump(exclude_unset=True),
        "recorded": [base64.b64encode(part.tobytes()).decode() for part in (recorded.user, recorded.session)],
    }
    return orjson.dumps(members) + b"\n"

"""Whether this worker may be sent requests, and how it leaves: first it says so, then it goes.

Who is told to stop (SIGTERM) still answers everything for a while, says on `/health/ready` that no more should come, and closes each
connection with an answer, never between an answer and the next question. Only then uvicorn is let close what is left.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType

logger = logging.getLogger(__name__)


class State(StrEnum):
    """Of a worker."""

    WARMING = "warming"
    READY = "ready"
    LEAVING = "leaving"


def share_of(requests: int | None) -> int | None:
    """How many requests this worker answers: up to a half more than asked for, so that not all are replaced at the same time."""
    return None if requests is None else requests + random.randrange(requests // 2 + 1)


class Presence:
    """Of this worker, from its start to its end."""

    def __init__(self, *, drain_seconds: float, most_requests: int | None = None) -> None:
        """It leaves `drain_seconds` after it is told to; by itself after `most_requests`, where that is given."""
        self.state = State.WARMING
        self._drain_seconds = drain_seconds
        self._left = most_requests

    @property
    def leaving(self) -> bool:
        """Whether it is about to stop."""
        return self.state is State.LEAVING

    def count(self) -> None:
        """One more request has come."""
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                logger.info("this worker has answered its share of requests, and makes room for a new one")
                os.kill(os.getpid(), signal.SIGTERM)

    async def look(self) -> None:
        """Leave where the process that looks after this worker is gone: nobody would replace it, and who serves next would find the port taken."""
        parent = multiprocessing.parent_process()  # None where there is but one process
        if parent is not None and not parent.is_alive() and not self.leaving:
            logger.error("the process that looks after this worker is gone, so the worker leaves too")
            os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Ready while the block runs; a SIGTERM then reaches the server only when the time to drain is over."""
        self.state = State.READY
        then = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(then):
            yield  # no server that would have to be kept from stopping
            return
        loop, server = asyncio.get_running_loop(), then

        def drain(number: int, frame: FrameType | None) -> None:
            if self.leaving:  # told twice
                server(number, frame)
                return
            self.state = State.LEAVING
            loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, server, number, None)

        signal.signal(signal.SIGTERM, drain)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, then)

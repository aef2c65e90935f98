"""The append-only log of events and exposures: JSON lines, one file for each worker and day.

An event is on disk before it is acknowledged: many waiting requests share one fsync. Exposures are written within 50 ms and
synced within a second. `recsys tables` reads the files again (a later version may keep them in a database behind `EventLog`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol

FLUSH_SECONDS: Final = 0.05
SYNC_SECONDS: Final = 1.0
MAX_BUFFERED: Final = 100_000
"""Exposures kept while the disk cannot be written; beyond that they are counted as lost."""

logger = logging.getLogger(__name__)


class EventLogError(Exception):
    """The log could not be written."""


class EventLog(Protocol):
    """Where events and exposures go."""

    async def append(self, lines: Sequence[bytes]) -> None:
        """Return once the lines, JSON without newlines, are durable.

        Raises:
            EventLogError: they are not.
        """
        ...

    def append_later(self, line: bytes) -> None:
        """Write a line soon. Never blocks, never raises."""
        ...

    async def start(self) -> None:
        """Begin to write."""
        ...

    async def stop(self) -> None:
        """Write what is left and close."""
        ...


class FileEventLog:
    """`EventLog` in files below a folder."""

    def __init__(self, folder: Path, clock: Callable[[], float], on_lost: Callable[[int], None]) -> None:
        """`on_lost` is told how many exposures could not be kept."""
        self._folder = folder
        self._clock = clock
        self._on_lost = on_lost
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="event-log")
        self._waiting: list[tuple[Sequence[bytes], asyncio.Future[None]]] = []
        self._later: list[bytes] = []
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._committer: asyncio.Task[None] | None = None
        self._file: BinaryIO | None = None
        self._day = ""
        self._unsynced = False
        self._stopping = False

    async def append(self, lines: Sequence[bytes]) -> None:
        """See `EventLog`."""
        if self._stopping:
            raise EventLogError("the service is stopping")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, done))
        self._wake.set()
        await done

    def append_later(self, line: bytes) -> None:
        """See `EventLog`."""
        if len(self._later) < MAX_BUFFERED:
            self._later.append(line)
        else:
            self._on_lost(1)

    async def start(self) -> None:
        """See `EventLog`."""
        self._committer = asyncio.create_task(self._commit_forever(), name="event-log commit")
        self._writer = asyncio.create_task(self._flush_forever(), name="event-log flush")

    async def stop(self) -> None:
        """See `EventLog`."""
        self._stopping = True
        for task in (self._writer, self._committer):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(t for t in (self._writer, self._committer) if t), return_exceptions=True)
        await self._commit()
        await self._flush(sync=True)
        self._thread.shutdown(wait=True)
        if self._file is not None:
            self._file.close()

    async def _commit_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.shield(self._commit())

    async def _commit(self) -> None:
        """One write and one fsync for everybody who waits now."""
        group, self._waiting = self._waiting, []
        if not group:
            return
        lines = [line for part, _ in group for line in part]
        try:
            await self._in_thread(lines, sync=True)
        except OSError as error:
            logger.exception("the event log cannot be written")
            for _, done in group:
                if not done.done():
                    done.set_exception(EventLogError(str(error)))
        else:
            for _, done in group:
                if not done.done():
                    done.set_result(None)

    async def _flush_forever(self) -> None:
        loop = asyncio.get_running_loop()
        synced = loop.time()
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            sync = loop.time() - synced >= SYNC_SECONDS
            if sync:
                synced = loop.time()
            await asyncio.shield(self._flush(sync=sync))

    async def _flush(self, *, sync: bool) -> None:
        lines, self._later = self._later, []
        if not lines and not (sync and self._unsynced):
            return
        try:
            await self._in_thread(lines, sync=sync)
        except OSError:
            logger.exception("%d exposures could not be written", len(lines))
            self._on_lost(len(lines))

    async def _in_thread(self, lines: Sequence[bytes], *, sync: bool) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, lines, sync)

    def _write(self, lines: Sequence[bytes], sync: bool) -> None:
        file = self._open()
        if lines:
            file.write(b"\n".join(lines) + b"\n")
            self._unsynced = True
        if sync:
            os.fsync(file.fileno())
            self._unsynced = False

    def _open(self) -> BinaryIO:
        """Today's file. Unbuffered: what `write` has taken survives the process."""
        day = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%d")
        if self._file is None or day != self._day:
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._file.close()
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"events-{day}-{os.getpid()}.jsonl"
            self._file = path.open("ab", buffering=0)
            if path.stat().st_size:
                # After a crash the last line may be torn: begin a new one.
                self._file.write(b"\n")
            self._day = day
        return self._file

"""The log of what the catalogue API was told, shared by all workers and read by `recsys tables`: append-only JSON lines.

Three kinds of lines. `item` holds a whole item, as `PUT` gave it. `set` changes the availability or the price of items by
their ids. `delete` takes items away until an `item` brings them back. A change is on disk before it is acknowledged; every worker reads on before its next request, so what one worker
was told all of them know.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson

logger = logging.getLogger(__name__)


class CatalogueLogError(Exception):
    """The log could not be written."""


class CatalogueLog:
    """One file that several processes append to and follow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = str(path)
        self._one_at_a_time = asyncio.Lock()

    def size(self) -> int:
        """Bytes of the log, 0 where there is none yet. Cheap enough for every request."""
        try:
            return os.stat(self._name).st_size  # noqa: PTH116 - at every request
        except FileNotFoundError:
            return 0

    def read(self, start: int, stop: int | None = None) -> tuple[list[dict[str, Any]], int]:
        """The complete lines from byte `start` to `stop`, by default the end, and the byte after them.

        A line that is no JSON object is passed over.
        """
        if self.size() <= start:
            return [], start
        with self._path.open("rb") as file:
            file.seek(start)
            content = file.read(-1 if stop is None else stop - start)
        content = content[: content.rfind(b"\n") + 1]
        found = []
        for line in filter(None, content.split(b"\n")):
            try:
                change = orjson.loads(line)
            except orjson.JSONDecodeError:
                change = None
            if isinstance(change, dict):
                found.append(change)
            else:
                # A crash while writing leaves a torn line, which nobody was told is stored.
                logger.error("%s: not a change: %r", self._path, line[:200])
        return found, start + len(content)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[CatalogueWriter]:
        """The log for one writer alone, of all processes: what is read of it in here stays true until the end.

        Raises:
            CatalogueLogError: it cannot be opened.
        """
        async with self._one_at_a_time:
            try:
                file = await asyncio.to_thread(self._lock)
            except OSError as error:
                raise CatalogueLogError(f"the catalogue log cannot be opened: {error}") from error
            try:
                yield CatalogueWriter(file)
            finally:
                file.close()  # which unlocks it

    def _lock(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab+", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        return file


class PastCatalogueLog(CatalogueLog):
    """The log as it was at a moment; only to be read."""

    def __init__(self, path: Path, moment: datetime) -> None:
        """`moment` is in UTC, with or without saying so."""
        super().__init__(path)
        self._moment = moment.replace(tzinfo=UTC)

    def read(self, start: int, stop: int | None = None) -> tuple[list[dict[str, Any]], int]:
        """See `CatalogueLog`; without what was told later."""
        changes, end = super().read(start, stop)
        return [one for one in changes if datetime.fromisoformat(one["changed_at"]) <= self._moment], end


class CatalogueWriter:
    """Appends to the locked log."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    async def append(self, changes: Sequence[dict[str, Any]]) -> None:
        """Return once the changes are on disk.

        Raises:
            CatalogueLogError: they are not.
        """
        if changes:
            await asyncio.to_thread(self._append, changes)

    def _append(self, changes: Sequence[dict[str, Any]]) -> None:
        content = b"".join(orjson.dumps(change) + b"\n" for change in changes)
        try:
            end = self._file.seek(0, os.SEEK_END)
            if end:
                self._file.seek(end - 1)
                if self._file.read(1) != b"\n":
                    content = b"\n" + content  # after a torn line
            if self._file.write(content) != len(content):
                self._file.truncate(end)
                raise CatalogueLogError("the catalogue log cannot be written: the disk took a part only")
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CatalogueLogError(f"the catalogue log cannot be written: {error}") from error

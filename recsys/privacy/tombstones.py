"""Tombstones: until when what a shopper did is deleted, whoever brings it back.

A line in time, not a ban: who comes back is a new shopper from then on. The list is append-only JSON lines that every process follows: one line
for a deletion, `{"receipt", "shopper", "key", "at"}`, one where imports may bring its shopper back, `{"lifted"}`. It names nobody: `shopper` is a keyed hash.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from recsys.errors import UserError
from recsys.privacy.pseudonyms import KEY_FILE, Pseudonyms

TOMBSTONES: Final = "privacy/tombstones.jsonl"
"""Below the data directory."""
LOOK_SECONDS: Final = 0.1
"""Between two looks of a serving process for new ones."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One deletion."""

    receipt: str
    until: float
    """Unix time."""


class Tombstones:
    """The list, as far as it was written when this was last told to `follow`."""

    def __init__(self, data_dir: Path, pseudonyms: Pseudonyms) -> None:
        self._path = data_dir / TOMBSTONES
        self._pseudonyms = pseudonyms
        self._of: dict[str, list[Tombstone]] = {}
        self._lifted: set[str] = set()
        self._read = 0
        self._foreign = 0
        self.follow()

    def deleted_until(self, user_id: str) -> float | None:
        """Unix time until which nothing of a user may come in; None for almost everybody."""
        return max((stone.until for stone in self._stones(user_id) if stone.receipt not in self._lifted), default=None)

    def hides(self, user_id: str, honoured: Collection[str] = ()) -> bool:
        """Whether a bundle that was trained without the shoppers of the `honoured` receipts may still know a user from before."""
        return bool(self._of) and any(stone.receipt not in honoured for stone in self._stones(user_id))

    def check(self) -> None:
        """Make sure that everybody in the list can be told.

        Raises:
            UserError: some are there under another key, or the key is gone.
        """
        self.follow()
        if self._foreign:
            raise UserError(
                f"{self._foreign} shoppers in {self._path} were deleted under another key: set RECSYS_PRIVACY_KEY to it, "
                f"or bring back {KEY_FILE}"
            )

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def follow(self) -> None:
        """Read what is new; cheap where nothing is.

        Raises:
            UserError: the list is damaged.
        """
        try:
            if self._path.stat().st_size <= self._read:
                return
        except FileNotFoundError:
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        try:
            lines = [orjson.loads(line) for line in filter(None, content.split(b"\n"))]
        except orjson.JSONDecodeError as error:
            message = f"{self._path} is damaged: bring it back from a backup, or nobody who was deleted stays so"
            raise UserError(message) from error
        for line in lines:
            self._take(line)
        self._read += len(content)

    def _stones(self, user_id: str) -> list[Tombstone]:
        return self._of.get(self._pseudonyms.of("user", user_id), []) if self._of else []

    def _take(self, line: dict[str, Any]) -> None:
        if lifted := line.get("lifted"):
            self._lifted.add(lifted)
            return
        if line["key"] != self._pseudonyms.fingerprint:
            self._foreign += 1
            logger.error("%s holds a shopper under another key: they are not hidden here", self._path)
            return
        stone = Tombstone(line["receipt"], datetime.fromisoformat(line["at"]).timestamp())
        self._of.setdefault(line["shopper"], []).append(stone)


def append(data_dir: Path, line: dict[str, Any]) -> None:
    """Add a line, durable when this returns. The caller holds the lock of `recsys.privacy.deletions`."""
    path = data_dir / TOMBSTONES
    with path.open("ab+") as file:
        path.chmod(0o600)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        # A line that a crash has torn was never acknowledged: it goes.
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(orjson.dumps(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def utc_text(seconds: float) -> str:
    """Unix time as receipts have it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()

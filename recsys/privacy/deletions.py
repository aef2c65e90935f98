"""Deletions of shoppers: each a receipt, which says what was removed where, and an order, which is gone when all of it is.

`privacy/receipts/<receipt>.json` stays and names nobody. `privacy/orders/<receipt>.json` holds what is needed to go on after a crash, the user's id
and sessions among it, and goes with the last step. Both are readable by their owner alone.

A removal counts exactly, also where it is broken off: what is about to go is written into the receipt first (`removing`). Whoever goes on and finds it
still there counts anew; whoever finds nothing left knows that it went.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from recsys.errors import UserError
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.privacy.tombstones import Tombstones, append, utc_text

FOLDER: Final = "privacy"
"""Below the data directory."""
DATABASE: Final = "database"
REDIS: Final = "redis"
FILES: Final = "files"
STEPS: Final = (DATABASE, REDIS, FILES)
_NAME: Final = re.compile(r"[0-9a-f]{16}")
PLACES: Final = (
    *(f"database/{table}" for table in ("events", "exposures", "renders", "merges", "verdicts")),
    *("redis/histories", "redis/logins", "redis/event_ids"),
    *(f"log/{kind}" for kind in ("events", "exposures", "renders", "merges")),
)
"""What every receipt counts, zeros included; files of `raw` and `tables` have entries of their own."""
ELSEWHERE: Final = (
    "backups of the database, of Redis and of the data folder: restore one, then run `recsys privacy resume --sweep`",
    "bundles written before this deletion, and MLflow's copies of them (mlflow/ in the data directory): the service hides this shopper in them; delete them when you no longer roll back to them",
    "what models learnt from this shopper together with others, until `first_model`",
    "counts that name nobody: item days, surface days, trends, Prometheus",
    "the shop's own systems, and access logs of proxies in front of the service",
)
"""What no command of ours reaches, on every receipt."""


@dataclass(slots=True)
class Receipt:
    """What a deletion has removed."""

    receipt: str
    shopper: str
    """The user's id as a keyed hash."""
    key: str
    """Which key that is, as a fingerprint."""
    at: str
    """UTC: everything until then is deleted; what comes after is of a new shopper."""
    removed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    """Rows, records or keys, by place."""
    removing: dict[str, int] = field(default_factory=dict)
    """What was about to go when this was written."""
    done: dict[str, str] = field(default_factory=dict)
    """Steps and when they were done, UTC."""
    bundles: list[str] = field(default_factory=list)
    """Those that know the shopper from before; the service hides that."""
    first_model: str | None = None
    """The first version that was trained without them; null until there is one."""
    lifted_at: str | None = None
    """Since when imports may bring them back."""
    elsewhere: tuple[str, ...] = ELSEWHERE

    @property
    def pending(self) -> list[str]:
        """Steps that are still to be done."""
        return [step for step in STEPS if step not in self.done]

    @property
    def until(self) -> datetime:
        """`at` as the database has times: UTC without zone."""
        return datetime.fromisoformat(self.at).astimezone(UTC).replace(tzinfo=None)


@dataclass(slots=True)
class Order:
    """What is needed to go on with a deletion."""

    user_id: str
    at: str
    """As on the receipt."""
    sessions: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """From when until when, Unix time, each was the user's."""
    event_ids: list[str] = field(default_factory=list)
    """Of events in the database."""
    request_ids: list[str] = field(default_factory=list)
    """Of answers in the database."""


class Deletions:
    """All deletions of a data folder; several processes may work on it."""

    def __init__(self, data_dir: Path, pseudonyms: Pseudonyms) -> None:
        self.data_dir = data_dir
        self._pseudonyms = pseudonyms
        self._folder = data_dir / FOLDER

    def begin(self, user_id: str, now: float) -> Receipt:
        """A new deletion of all until `now`, Unix time; from here on no answer and no import knows the user from before.

        Raises:
            UserError: earlier ones were made under another key.
        """
        Tombstones(self.data_dir, self._pseudonyms).check()
        name, order = secrets.token_hex(8), Order(user_id, utc_text(now))
        self.know(name, order)
        return self._begun(name, order)

    def _begun(self, name: str, order: Order) -> Receipt:
        """The receipt of an order; made, after its tombstone, where a crash came between."""
        with self.locked("list"):
            if not self._path("receipts", name).exists():
                shopper = self._pseudonyms.of("user", order.user_id)
                key = self._pseudonyms.fingerprint
                append(self.data_dir, {"receipt": name, "shopper": shopper, "key": key, "at": order.at})
                receipt = Receipt(name, shopper, key, order.at)
                self._write("receipts", name, asdict(receipt))
        return self.receipt(name)

    def receipt(self, name: str) -> Receipt:
        """One receipt.

        Raises:
            UserError: there is none of that name.
        """
        path = self._path("receipts", name)
        if not _NAME.fullmatch(name) or not path.exists():
            raise UserError(f"there is no receipt {name!r}")
        return Receipt(**orjson.loads(path.read_bytes()))

    def receipts(self) -> list[Receipt]:
        """All of them, the oldest first."""
        found = [self.receipt(path.stem) for path in (self._folder / "receipts").glob("*.json")]
        return sorted(found, key=lambda one: (one.at, one.receipt))

    def order(self, name: str) -> Order:
        """What is to be done for a receipt."""
        return Order(**orjson.loads(self._path("orders", name).read_bytes()))

    def pending(self, step: str | None = None) -> list[Receipt]:
        """Deletions that are not done, or lack a step, the oldest first."""
        found = []
        with self.locked("list"):
            for draft in (self._folder / "orders").glob("*.tmp"):
                draft.unlink()  # of one who was killed while writing: it holds an id
        for path in (self._folder / "orders").glob("*.json"):
            try:
                found.append(self._begun(path.stem, self.order(path.stem)))
            except FileNotFoundError:
                continue  # another process has just finished it
        return sorted((one for one in found if step is None or step not in one.done), key=lambda one: one.at)

    def know(self, name: str, order: Order) -> None:
        """Keep what was found out for a deletion."""
        with self.locked("list"):
            self._write("orders", name, asdict(order))

    @contextmanager
    def removing(self, name: str, found: Mapping[str, int]) -> Iterator[None]:
        """Count what is removed in the block, by place or by file in a place; see the module."""

        def intend(receipt: Receipt) -> None:
            for what, count in found.items():
                before = receipt.removing.pop(what, 0)
                if count:
                    receipt.removing[what] = count
                else:
                    _add(receipt, what, before)

        def settle(receipt: Receipt) -> None:
            for what in found:
                _add(receipt, what, receipt.removing.pop(what, 0))

        if any(found.values()) or not self.receipt(name).removing.keys().isdisjoint(found):
            self.update(name, intend)
        yield
        if any(found.values()):
            self.update(name, settle)

    def finish(self, name: str, step: str, now: float) -> Receipt:
        """Note that a step is done; with the last one the order goes."""
        receipt = self.update(name, lambda one: one.done.update({step: utc_text(now)}))
        if not receipt.pending:
            self._path("orders", name).unlink(missing_ok=True)
        return receipt

    def update(self, name: str, change: Callable[[Receipt], None]) -> Receipt:
        """Change a receipt, durable when this returns."""
        with self.locked("list"):
            receipt = self.receipt(name)
            change(receipt)
            self._write("receipts", name, asdict(receipt))
            return receipt

    def again(self, user_id: str) -> list[Receipt]:
        """Begin all steps anew of a user's deletions, for data that came back, as from a backup."""
        theirs = self.of(user_id)
        for receipt in theirs:
            self.know(receipt.receipt, Order(user_id, receipt.at))
            self.update(receipt.receipt, lambda one: one.done.clear())
        return theirs

    def of(self, user_id: str) -> list[Receipt]:
        """The receipts of a user."""
        shopper = self._pseudonyms.of("user", user_id)
        return [one for one in self.receipts() if one.shopper == shopper]

    def lift(self, user_id: str, now: float) -> list[Receipt]:
        """Let imports bring a user back; the receipts that this concerns. What is deleted stays so, and bundles keep hiding it."""
        theirs = [one for one in self.of(user_id) if one.lifted_at is None]
        for receipt in theirs:
            with self.locked("list"):
                append(self.data_dir, {"lifted": receipt.receipt})
            self.update(receipt.receipt, lambda one: setattr(one, "lifted_at", utc_text(now)))
        return theirs

    def honoured(self) -> list[str]:
        """Receipts whose shoppers are in none of the files that a training reads from now on."""
        return [one.receipt for one in self.receipts() if FILES in one.done]

    def note_model(self, version: str, honoured: list[str]) -> None:
        """A bundle was trained without the shoppers of these receipts: the first one goes on them."""
        for name in honoured:
            if self.receipt(name).first_model is None:
                self.update(name, lambda one: setattr(one, "first_model", version))

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Alone with the `list`, the live steps (`live`), or the `files`, of all processes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{what}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _path(self, kind: str, name: str) -> Path:
        return self._folder / kind / f"{name}.json"

    def _write(self, kind: str, name: str, content: Any) -> None:
        """A file that appears whole, stays after a power cut, and only its owner may read."""
        path = self._path(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_suffix(".tmp")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, for its mode
            file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _add(receipt: Receipt, what: str, count: int) -> None:
    """To the place that something is in: `log/events` of `log/events/date=2026-11-25/part-1-3.parquet`."""
    place = "/".join(what.split("/")[:2])
    if count:
        receipt.removed[place] = receipt.removed.get(place, 0) + count

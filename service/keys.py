"""API keys: who may ask for what. `recsys keys` writes their hashes to a file, the service reads it again when it changes."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from recsys.errors import UserError
from service.metrics import Metrics
from service.schemas import in_words
from service.settings import Rate, Settings
from service.watched import WatchedFile

KEYS_FILE: Final = "keys.json"
PREFIX: Final = "recsys"
"""Of every key, so that those who look for leaked secrets know one."""
SECRET_BYTES: Final = 32
_NOBODY: Final = bytes(32)
"""Compared with where no key has the name, so that both take the same time."""

logger = logging.getLogger(__name__)


class KeysError(UserError):
    """The keys cannot be used, or changed as asked."""


class Role(StrEnum):
    """What a key is for; each may do what those before it may. What that is: `service.access`."""

    WIDGET = "widget"
    """Stands in the shop's pages, so everybody has it."""
    SERVER = "server"
    """Stays on the shop's own servers."""
    ADMIN = "admin"

    def may(self, needed: Role) -> bool:
        """Whether it covers another."""
        return _RANK[self] >= _RANK[needed]


_RANK: Final = {role: rank for rank, role in enumerate(Role)}
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]


class Key(BaseModel):
    """A key as it is stored. A plain SHA-256 will do: nobody can try the 2^256 secrets, as they could try passwords."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    role: Role
    sha256: str = Field(pattern="^[0-9a-f]{64}$", repr=False)
    created_at: datetime
    limit: Rate | None = None
    """How often it may be used, by whomever."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...]


class KeyRing:
    """The keys in force."""

    def __init__(self, keys: Iterable[Key]) -> None:
        """Names must differ.

        Raises:
            KeysError: two keys have one name.
        """
        self.keys: Final = tuple(keys)
        self._known = {key.name.encode(): (key, bytes.fromhex(key.sha256)) for key in self.keys}
        if len(self._known) < len(self.keys):
            raise KeysError("two keys have the same name: revoke one of them")

    def find(self, token: bytes) -> Key | None:
        """The key that a client shows; its hash is compared in constant time. Which names there are is no secret."""
        name = token.split(b".", 2)[1:2]
        key, digest = self._known.get(name[0], (None, _NOBODY)) if name else (None, _NOBODY)
        return key if hmac.compare_digest(hashlib.sha256(token).digest(), digest) else None


class KeysHolder:
    """The keys of this process. It watches their file; one that cannot be used, or is gone, keeps the old keys in force."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        """Read the keys; where there is no file, whoever reaches the service may do everything.

        Raises:
            KeysError: the file cannot be used.
        """
        self._path = path
        self._file = WatchedFile(path)
        self._metrics = metrics
        self.ring = read_keys(path) if path.exists() else None
        """None while there is no file."""

    async def reload(self) -> None:
        """Read the file again where it has changed."""
        if not self._file.changed():
            return
        try:
            self.ring = await asyncio.to_thread(read_keys, self._path)
        except KeysError as error:
            self._metrics.keys_refused(stale=True)
            logger.error("the keys are refused, those of before stay in force: %s", error)  # noqa: TRY400
            return
        self._metrics.keys_refused(stale=False)
        logger.info("%d keys are in force", len(self.ring.keys))


def keys_path(settings: Settings) -> Path:
    """Where the keys are: as set, or in the data directory."""
    return settings.keys or settings.data_dir / KEYS_FILE


def read_keys(path: Path) -> KeyRing:
    """The keys of a file.

    Raises:
        KeysError: it cannot be read, or holds something else; the message names no hash.
    """
    try:
        return KeyRing(_File.model_validate_json(path.read_bytes()).keys)
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise KeysError(f"{path} holds no keys: {in_words(error)}") from None


def create_key(path: Path, name: str, role: Role, now: datetime, limit: str | None = None) -> str:
    """Add a key, which may be used as often as `limit` says; what the client has to show, which cannot be had again.

    Raises:
        KeysError: the name or the limit cannot be, or the name is taken; or the file cannot be used.
    """
    token = f"{PREFIX}.{name}.{secrets.token_urlsafe(SECRET_BYTES)}"
    try:
        digest = hashlib.sha256(token.encode()).hexdigest()
        key = Key(name=name, role=role, sha256=digest, created_at=now, limit=limit)
    except ValidationError as error:
        raise KeysError(
            f"no key can be so (names have lower-case letters, digits, hyphens): {in_words(error)}"
        ) from None
    with _changing(path):
        known = read_keys(path).keys if path.exists() else ()
        if any(other.name == name for other in known):
            raise KeysError(f"there is a key {name!r}: choose another name, or revoke that one first")
        _write(path, (*known, key))
    return token


def revoke_key(path: Path, name: str) -> None:
    """Take a key away. A file without keys lets nobody in.

    Raises:
        KeysError: there is none of this name, or the file cannot be used.
    """
    with _changing(path):
        known = read_keys(path).keys
        kept = tuple(key for key in known if key.name != name)
        if len(kept) == len(known):
            raise KeysError(f"there is no key {name!r}: `recsys keys list` shows them")
        _write(path, kept)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """One at a time, of all processes, reads the keys and writes them: or who comes second could bring a revoked key back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    """Replace the file as a whole; only its owner may read it."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - of a descriptor
        file.write(_File(keys=keys).model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def require_keys(settings: Settings) -> None:
    """Make sure that a service which others can reach asks who they are.

    Raises:
        KeysError: it would not, or its keys or that of the storefront cannot be used, or the file of keys that is named is gone.
    """
    path = keys_path(settings)
    if settings.keys is not None:
        read_keys(path)  # what is named has to be there: on this machine, too, a proxy may let everybody in
    ring = read_keys(path) if path.exists() else None
    if ring is None and not settings.open_access and not _is_loopback(settings.host):
        raise KeysError(
            f"without API keys everybody who reaches {settings.host} could change the catalogue and read every event: "
            "make some with `recsys keys create --role admin --name NAME`, listen on 127.0.0.1, "
            "or set RECSYS_OPEN_ACCESS=true where something in front of the service lets only the right ones in"
        )
    if settings.storefront_key is None:
        return
    key = None if ring is None else ring.find(settings.storefront_key.encode())
    if key is None or key.role is not Role.WIDGET:
        raise KeysError(
            "RECSYS_STOREFRONT_KEY must be a key of the role widget, since everybody can read it in the page; "
            f"it is {'none of the keys in force' if key is None else f'of the role {key.role}'}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

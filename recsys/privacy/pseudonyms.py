"""Pseudonyms: ids as keyed hashes, for whatever must tell shoppers apart and must not say who they are.

Without the key nobody can try out ids (GDPR, Article 4(5)): it lies in the data folder, readable by its owner alone, or comes from a setting.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import Final

from recsys.errors import UserError

KEY_FILE: Final = "privacy/key"
"""Below the data directory."""
KEY_BYTES: Final = 32
SHORTEST: Final = 16
"""Characters of a key that is given."""


class Pseudonyms:
    """Keyed hashes of ids, 128 bits: BLAKE2b with its key (RFC 7693)."""

    def __init__(self, data_dir: Path, given: str | None = None) -> None:
        """With the key that is given, else with the data folder's, which is made when it is first needed.

        Raises:
            UserError: the key that is given is too short.
        """
        if given is not None and len(given) < SHORTEST:
            raise UserError(f"RECSYS_PRIVACY_KEY needs at least {SHORTEST} characters: openssl rand -hex 32")
        self._path = data_dir / KEY_FILE
        self._given = given

    @cached_property
    def _key(self) -> bytes:
        """32 bytes.

        Raises:
            UserError: others than its owner may read it, or it is gone and pseudonyms made with it are not.
        """
        key = _read_key(self._path) if self._given is None else self._given.encode()
        return hashlib.sha256(key).digest()  # BLAKE2b takes at most 64 bytes of a key

    @cached_property
    def fingerprint(self) -> str:
        """Tells keys apart, and says nothing of them."""
        return self.of("", "the key itself")[:16]

    def of(self, kind: str, external_id: str) -> str:
        """32 hexadecimal digits for the id of a `user` or a `session`."""
        text = f"{kind}:{external_id}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=16, key=self._key).hexdigest()


def _read_key(path: Path) -> bytes:
    if not path.exists():
        if (path.parent / "tombstones.jsonl").exists():
            raise UserError(f"{path} is gone: bring it back from a backup, or nobody who was deleted stays so")
        _make_key(path)
    if path.stat().st_mode & 0o077:
        raise UserError(f"others may read {path}: chmod 600 {path}")
    return path.read_bytes()


def _make_key(path: Path) -> None:
    """A new key, whole at once; of two who make one the first has made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    draft = path.with_name(f".key-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_hex(KEY_BYTES).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass  # another process was faster
    finally:
        draft.unlink()

"""External string ids as 64-bit hashes and packed columns: how bundles and Redis name items without Python objects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NOT_FOUND = -1


def hash_id(external_id: str) -> int:
    """The unsigned 64-bit hash of an id, stable across machines and versions.

    Among a million ids the chance that any two collide is below 3e-8; `HashIndex` refuses a set that does.
    """
    # surrogatepass: an id that came in as a lone surrogate must hash, not raise.
    digest = hashlib.blake2b(external_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True, slots=True)
class HashIndex:
    """From id hashes to rows by binary search over two arrays, which a memory map can share."""

    hashes: NDArray[np.uint64]
    """`(n,)` uint64, ascending."""
    rows: NDArray[np.int32]
    """`(n,)` int32: the row that each hash stands for."""

    @classmethod
    def build(cls, external_ids: Iterable[str]) -> HashIndex:
        """Index ids by their position.

        Raises:
            ValueError: two ids are equal or collide.
        """
        hashes = np.fromiter((hash_id(i) for i in external_ids), dtype=np.uint64)
        rows = np.argsort(hashes, kind="stable")
        ordered = hashes[rows]
        if len(ordered) > 1 and bool((ordered[1:] == ordered[:-1]).any()):
            raise ValueError("two ids are equal or have the same 64-bit hash: rename one of them")
        return cls(ordered, rows.astype(np.int32))

    def row(self, external_id: str) -> int:
        """The row of one id, or `NOT_FOUND`."""
        wanted = np.uint64(hash_id(external_id))
        position = int(self.hashes.searchsorted(wanted))
        if position < len(self.hashes) and self.hashes[position] == wanted:
            return int(self.rows[position])
        return NOT_FOUND

    def lookup(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """`(m,)` hashes to `(m,)` int32 rows, `NOT_FOUND` where unknown."""
        if len(self.hashes) == 0:
            return np.full(len(hashes), NOT_FOUND, dtype=np.int32)
        positions = np.minimum(self.hashes.searchsorted(hashes), len(self.hashes) - 1)
        return np.where(self.hashes[positions] == hashes, self.rows[positions], np.int32(NOT_FOUND))


@dataclass(frozen=True, slots=True)
class BytesColumn:
    """A read-only column of byte strings in two arrays."""

    blob: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    """`(n + 1,)` int64: value i is `blob[offsets[i]:offsets[i + 1]]`."""
    _bytes: memoryview = field(init=False, repr=False, compare=False)
    _ends: memoryview = field(init=False, repr=False, compare=False)
    """The two arrays once more: a single value is read from them at a fraction of what numpy takes for one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bytes", self.blob.data)
        object.__setattr__(self, "_ends", self.offsets.data)

    @classmethod
    def build(cls, values: Iterable[bytes]) -> BytesColumn:
        """Pack the values in order."""
        values = list(values)
        offsets = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum([len(v) for v in values], out=offsets[1:])
        return cls(np.frombuffer(b"".join(values), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: Iterable[int]) -> list[bytes]:
        """The values of several rows."""
        data, ends = self._bytes, self._ends
        return [data[ends[row] : ends[row + 1]].tobytes() for row in rows]

    def __getitem__(self, row: int) -> bytes:
        return self._bytes[self._ends[row] : self._ends[row + 1]].tobytes()

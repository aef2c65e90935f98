"""Bundles in which nobody is known who was deleted since their training: a bundle is never changed, so what it knows is hidden."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recsys.bundle import Bundle
from recsys.ids import NOT_FOUND, HashIndex
from recsys.privacy.tombstones import Tombstones


@dataclass(frozen=True, slots=True)
class VeiledIndex(HashIndex):
    """An index of users in which those who were deleted are not found."""

    tombstones: Tombstones
    honoured: frozenset[str]
    """Receipts whose shoppers the bundle was trained without: who is in it now came back."""

    def row(self, external_id: str) -> int:
        """See `HashIndex`."""
        if self.tombstones.hides(external_id, self.honoured):
            return NOT_FOUND
        return HashIndex.row(self, external_id)


def veiled(bundle: Bundle, tombstones: Tombstones) -> Bundle:
    """The same bundle, whose history, region and segments of a deleted shopper are those of a stranger."""
    index = bundle.histories.index
    honoured = frozenset(bundle.manifest.get("deletions", ()))
    veil = VeiledIndex(index.hashes, index.rows, tombstones, honoured)
    return replace(bundle, histories=replace(bundle.histories, index=veil))

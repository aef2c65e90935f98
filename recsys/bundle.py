"""The bundle: an immutable directory with all that serving needs, written by training, read by the service.

`manifest.json` describes it, with a SHA-256 for every file; `arrays/*.npy` hold the numbers and are memory-mapped,
so that workers on one machine share them. There is no pickle anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys.compose import model_from_state
from recsys.errors import UserError
from recsys.events import Surface
from recsys.ids import BytesColumn, HashIndex
from recsys.models.content import ContentModel
from recsys.ranking import EMPTY_HISTORY, NO_ITEM, History, ItemArray, Mask, Model, ModelState, Query

FORMAT: Final = 5
"""Of the directory; raised by one when an older service could not read a newer bundle."""

Arrays = dict[str, NDArray[Any]]


class BundleError(UserError):
    """A bundle is missing, damaged, or from an incompatible version."""


@dataclass(frozen=True, slots=True)
class BundleCatalogue:
    """Items by row, ready for answers: parallel columns. Rows from `n_listed` on are spare, see `recsys.dataset.Catalogue`."""

    index: HashIndex
    item_ids: BytesColumn
    fragments: BytesColumn
    titles: BytesColumn
    categories: BytesColumn
    brands: BytesColumn
    category: NDArray[np.int32]
    """Code into `categories`, -1 where unknown."""
    brand: NDArray[np.int32]
    """Code into `brands`, -1 where unknown."""
    price_cents: NDArray[np.int64]
    """-1 where unknown."""
    available: Mask

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def n_listed(self) -> int:
        """Rows that are items."""
        return len(self.index.hashes)

    def row(self, item_id: str) -> int:
        """The row of an item, or `NO_ITEM`."""
        return self.index.row(item_id)

    def rows_of_hashes(self, hashes: NDArray[np.uint64]) -> ItemArray:
        """`(m,)` id hashes to `(m,)` rows, `NO_ITEM` where unknown."""
        return self.index.lookup(hashes)

    def item_id(self, row: int) -> str:
        """The external id of a row."""
        return self.item_ids[row].decode("utf-8", "surrogatepass")

    def fragment(self, row: int) -> bytes:
        """The item's JSON members without braces, ready to be spliced into an answer."""
        return self.fragments[row]

    def title_json(self, row: int) -> bytes:
        """The title as a JSON string, quotes included."""
        return self.titles[row]


@dataclass(frozen=True, slots=True)
class BundleHistories:
    """What every known user had done at the end of the data, looked up by user id."""

    index: HashIndex
    offsets: NDArray[np.int64]
    items: ItemArray
    event_types: NDArray[np.uint8]
    age_days: NDArray[np.float32]
    regions: NDArray[np.int32]
    """`(n_users,)` int32: where each user usually is, or -1."""
    region_index: HashIndex
    """From a region's name to its code."""
    segment_offsets: NDArray[np.int64]
    """`(n_users + 1,)` int64: user u is in `segments[segment_offsets[u]:segment_offsets[u + 1]]`."""
    segments: ItemArray
    """Codes of segments."""
    segment_index: HashIndex
    """From `attribute=value` to a segment's code."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def region_of(self, user_id: str) -> int:
        """The code of where a user usually is, -1 where that is unknown."""
        row = self.index.row(user_id)
        return int(self.regions[row]) if row >= 0 else NO_ITEM

    def segments_of(self, user_id: str) -> ItemArray:
        """Codes of what a user told of themselves."""
        row = self.index.row(user_id)
        if row < 0:
            return self.segments[:0]
        return self.segments[int(self.segment_offsets[row]) : int(self.segment_offsets[row + 1])]

    def of(self, user_id: str) -> History:
        """The user's history, oldest first, aged up to the end of the data; empty for a user unknown to it."""
        row = self.index.row(user_id)
        return self.of_row(row) if row >= 0 else EMPTY_HISTORY

    def of_row(self, row: int) -> History:
        """The same by row."""
        rows = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return History(self.items[rows], self.event_types[rows], self.age_days[rows])


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle. Everything in it is immutable but what `content.put` changes."""

    directory: Path
    manifest: Mapping[str, Any]
    surfaces: Mapping[Surface, Model]
    popularity: Model
    """What answers when nothing else can."""
    catalogue: BundleCatalogue
    histories: BundleHistories
    sample_users: tuple[str, ...]
    """A few users with long histories, for smoke tests and demonstrations."""
    content: ContentModel | None
    """Where items that join are `put`; what else judges content shares its arrays."""

    @property
    def version(self) -> str:
        """The name of its directory."""
        return str(self.manifest["version"])

    @property
    def phase(self) -> int:
        """1, 2 or 3."""
        return int(self.manifest["phase"])

    @property
    def log_until(self) -> float:
        """Unix time up to which it has learnt from the service's own event log; 0 where from none of it."""
        return float(self.manifest["data"]["log_until"])


def _read_models(nodes: list[dict[str, Any]], arrays: Arrays) -> list[Model]:
    models: list[Model] = []
    changes = np.zeros(1, dtype=np.int64)
    for node in nodes:
        if node["kind"] == ContentModel.kind:
            for name in ContentModel.writable:
                arrays[node["arrays"][name]].flags.writeable = True
        state = ModelState(
            params=node["params"],
            arrays={name: arrays[file] for name, file in node["arrays"].items()},
            parts=tuple(models[part] for part in node["parts"]),
        )
        model = model_from_state(node["kind"], state)
        # Content models share what `put` writes, so they share the count of it too.
        models.append(replace(model, changes=changes) if isinstance(model, ContentModel) else model)
    return models


CATALOGUE_STRINGS: Final = ("item_ids", "fragments", "titles", "categories", "brands")
CATALOGUE_NUMBERS: Final = ("category", "brand", "price_cents", "available")


def _read_catalogue(arrays: Arrays) -> BundleCatalogue:
    columns: dict[str, Any] = {
        name: BytesColumn(arrays[f"catalogue-{name}-blob"], arrays[f"catalogue-{name}-offsets"])
        for name in CATALOGUE_STRINGS
    }
    columns |= {name: arrays[f"catalogue-{name}"] for name in CATALOGUE_NUMBERS}
    return BundleCatalogue(index=HashIndex(arrays["catalogue-hashes"], arrays["catalogue-rows"]), **columns)


def _read_histories(arrays: Arrays) -> BundleHistories:
    return BundleHistories(
        index=HashIndex(arrays["history-hashes"], arrays["history-rows"]),
        offsets=arrays["history-offsets"],
        items=arrays["history-items"],
        event_types=arrays["history-event_types"],
        age_days=arrays["history-age_days"],
        regions=arrays["history-regions"],
        region_index=HashIndex(arrays["region-hashes"], arrays["region-rows"]),
        segment_offsets=arrays["history-segment_offsets"],
        segments=arrays["history-segments"],
        segment_index=HashIndex(arrays["segment-hashes"], arrays["segment-rows"]),
    )


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        BundleError: there is none, it is not JSON, or a newer version wrote it.
    """
    path = directory / "manifest.json"
    try:
        manifest: dict[str, Any] = orjson.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing: not a bundle") from error
    except orjson.JSONDecodeError as error:
        raise BundleError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{path} is no manifest")
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{path} has format {manifest.get('format')}, this version reads {FORMAT}: train again")
    missing = [name for name in ("version", "data", "currency") if name not in manifest]
    if missing:
        raise BundleError(f"{path} lacks {missing[0]!r}")
    return manifest


def verify(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file with the manifest.

    Raises:
        BundleError: a file is missing, of another size or content, or named outside the bundle.
    """
    for name, expected in manifest["files"].items():
        path = directory / name
        if not path.resolve().is_relative_to(directory.resolve()):
            raise BundleError(f"{name!r} points outside the bundle {directory}")
        if not path.is_file():
            raise BundleError(f"{path} is missing")
        if path.stat().st_size != expected["bytes"] or sha256(path) != expected["sha256"]:
            raise BundleError(f"{path} differs from its checksum: the bundle is damaged")


def load_bundle(directory: Path) -> Bundle:
    """Verify a bundle and map it into memory.

    Raises:
        BundleError: see `read_manifest` and `verify`; or a model kind is unknown to this version.
    """
    manifest = read_manifest(directory)
    verify(directory, manifest)
    arrays: Arrays = {
        # As plain arrays over the mapped memory: numpy's memmap class makes every slice several times dearer.
        Path(name).stem: _map(directory / name)
        for name in manifest["files"]
    }
    try:
        models = _read_models(manifest["models"], arrays)
        return Bundle(
            directory=directory,
            manifest=manifest,
            surfaces={Surface(name): models[node] for name, node in manifest["surfaces"].items()},
            popularity=models[manifest["popularity"]],
            catalogue=_read_catalogue(arrays),
            histories=_read_histories(arrays),
            sample_users=tuple(manifest["sample_users"]),
            content=next((model for model in models if isinstance(model, ContentModel)), None),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BundleError(f"{directory} does not fit this version: {error!r}") from error


def _map(path: Path) -> NDArray[Any]:
    """An array over the mapped file, read-only; where that is lifted, a write copies the page and never reaches the file."""
    array = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    array.flags.writeable = False
    return array


SMOKE_K: Final = 5


def record_answers(
    surfaces: Mapping[Surface, Model],
    catalogue: BundleCatalogue,
    histories: BundleHistories,
    sample_users: tuple[str, ...],
) -> list[dict[str, Any]]:
    """The top items of every surface for a new shopper and two sample users: what a smoke test repeats."""
    answers = []
    mask = np.array(catalogue.available)
    for surface, model in surfaces.items():
        for user_id in ("", *sample_users[:2]):
            history = histories.of(user_id) if user_id else EMPTY_HISTORY
            last = history.items[-1:].astype(np.int32)
            query = Query(
                surface=surface,
                history=history,
                session_items=last,
                cart_items=last,
                context_item=int(last[0]) if len(last) else -1,
                region=histories.region_of(user_id),
                segments=histories.segments_of(user_id),
            )
            items = model.recommend(query, SMOKE_K, mask).items
            answers.append({"surface": str(surface), "user_id": user_id, "rows": [int(i) for i in items]})
    return answers


def smoke_test(bundle: Bundle) -> None:
    """Ask a loaded bundle what it was asked when it was written.

    Raises:
        BundleError: an answer is invalid, or fewer than four in five of all recorded items come again (rounding
            may differ between machines, so the order of near-ties may).
    """
    recorded = bundle.manifest["smoke"]
    answered = record_answers(bundle.surfaces, bundle.catalogue, bundle.histories, bundle.sample_users)
    expected = repeated = 0
    for old, new in zip(recorded, answered, strict=True):
        rows = new["rows"]
        if len(set(rows)) != len(rows) or not all(bundle.catalogue.available[row] for row in rows):
            raise BundleError(f"surface {new['surface']!r} answers repeated or unavailable items: {rows}")
        expected += len(old["rows"])
        repeated += len(set(old["rows"]) & set(rows))
    if repeated < 0.8 * expected:
        raise BundleError(f"only {repeated} of {expected} recorded items come again: the bundle does not fit this code")
    full = bundle.popularity.recommend(Query(), SMOKE_K, np.array(bundle.catalogue.available))
    if len(full) < min(SMOKE_K, int(bundle.catalogue.available.sum())):
        raise BundleError("the popularity fallback does not fill an answer")

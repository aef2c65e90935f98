"""The bundle: an immutable directory with all that serving needs, written by training, read by the service.

`manifest.json` describes it, with a SHA-256 for every file; `arrays/*.npy` hold the numbers and are memory-mapped,
so that workers on one machine share them. There is no pickle anywhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
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


class Flaw(StrEnum):
    """Why a bundle is refused; the label of a metric."""

    MISSING = "missing"
    """It, or a file of it, is not there."""
    PATH = "path"
    """It names, or leads to, what lies outside of it."""
    UNREADABLE = "unreadable"
    """Its manifest is none."""
    INCOMPATIBLE = "incompatible"
    """Another version of the program wrote it."""
    TRUNCATED = "truncated"
    """A file has another size."""
    CORRUPT = "corrupt"
    """A file has another content."""
    EMPTY = "empty"
    """It answers nothing where the bundle before it answers something."""
    WRONG = "wrong"
    """It answers what may not be answered, other than when it was written, or fails to answer."""


class BundleError(UserError):
    """A bundle is missing, damaged, or from an incompatible version."""

    def __init__(self, message: str, flaw: Flaw = Flaw.MISSING) -> None:
        super().__init__(message)
        self.flaw = flaw


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

    def traits_of(self, user_id: str) -> tuple[int, ItemArray]:
        """The code of where a user usually is, -1 where that is unknown, and those of what they told of themselves."""
        row = self.index.row(user_id)
        if row < 0:
            return NO_ITEM, self.segments[:0]
        told = self.segments[int(self.segment_offsets[row]) : int(self.segment_offsets[row + 1])]
        return int(self.regions[row]), told

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


_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FILE: Final = re.compile(r"arrays/[A-Za-z0-9_][A-Za-z0-9_.-]*\.npy")


def require_name(version: str) -> str:
    """The same version, which is the name of a directory and nothing more.

    Raises:
        BundleError: it leads elsewhere, or is empty.
    """
    if not _NAME.fullmatch(version):
        raise BundleError(f"{version[:100]!r} is no name of a bundle", Flaw.PATH)
    return version


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        BundleError: there is none, it is not JSON, another version of the program wrote it, or it is of another bundle.
    """
    path = directory / "manifest.json"
    if not _is_within(path, directory):
        raise BundleError(f"{path} points outside the bundle", Flaw.PATH)
    try:
        manifest: dict[str, Any] = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise BundleError(f"{path} is missing: not a bundle", Flaw.MISSING) from error
    except orjson.JSONDecodeError as error:
        raise BundleError(f"{path} is not readable JSON: {error}", Flaw.UNREADABLE) from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{path} is no manifest", Flaw.UNREADABLE)
    if manifest.get("format") != FORMAT:
        message = f"{path} has format {manifest.get('format')}, this version reads {FORMAT}: train again"
        raise BundleError(message, Flaw.INCOMPATIBLE)
    missing = [name for name in ("version", "data", "currency") if name not in manifest]
    if missing:
        raise BundleError(f"{path} lacks {missing[0]!r}", Flaw.INCOMPATIBLE)
    if manifest["version"] != directory.name:
        raise BundleError(f"{path} is the manifest of {manifest['version']!r}", Flaw.INCOMPATIBLE)
    return manifest


def _is_within(path: Path, directory: Path) -> bool:
    """Whether a path, all links followed, stays in a directory."""
    return path.resolve().is_relative_to(directory.resolve())


def verify(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file with the manifest.

    Raises:
        BundleError: a file is missing, of another size or content, or lies, by its name or by a link, outside the bundle.
    """
    files = manifest.get("files")
    if not isinstance(files, dict) or not files:
        raise BundleError(f"the manifest of {directory} lists no files", Flaw.INCOMPATIBLE)
    for name, expected in files.items():
        path = directory / name
        if not _FILE.fullmatch(name) or not _is_within(path, directory):
            raise BundleError(f"{name!r} points outside the bundle {directory}", Flaw.PATH)
        if not path.is_file():
            raise BundleError(f"{path} is missing", Flaw.MISSING)
        if not isinstance(expected, dict) or not {"bytes", "sha256"} <= set(expected):
            raise BundleError(f"the manifest of {directory} has no checksum of {name!r}", Flaw.INCOMPATIBLE)
        if path.stat().st_size != expected["bytes"]:
            raise BundleError(f"{path} differs from its checksum, and in size: it is cut off", Flaw.TRUNCATED)
        if sha256(path) != expected["sha256"]:
            raise BundleError(f"{path} differs from its checksum: the bundle is damaged", Flaw.CORRUPT)


def load_bundle(directory: Path) -> Bundle:
    """Verify a bundle and map it into memory.

    Raises:
        BundleError: see `read_manifest` and `verify`; or a model kind is unknown to this version.
    """
    manifest = read_manifest(directory)
    verify(directory, manifest)
    try:
        # As plain arrays over the mapped memory: numpy's memmap class makes every slice several times dearer.
        arrays: Arrays = {Path(name).stem: _map(directory / name) for name in manifest["files"]}
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
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, EOFError) as error:
        raise BundleError(f"{directory} does not fit this version: {error!r}", Flaw.INCOMPATIBLE) from error


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
            region, segments = histories.traits_of(user_id)
            query = Query(
                surface=surface,
                history=history,
                session_items=last,
                cart_items=last,
                context_item=int(last[0]) if len(last) else -1,
                region=region,
                segments=segments,
            )
            items = model.recommend(query, SMOKE_K, mask).items
            answers.append({"surface": str(surface), "user_id": user_id, "rows": [int(i) for i in items]})
    return answers


def smoke_test(bundle: Bundle) -> None:
    """Ask a loaded bundle what it was asked when it was written.

    Raises:
        BundleError: it fails, an answer is invalid, or fewer than four in five of all recorded items come again (rounding
            may differ between machines, so the order of near-ties may).
    """
    try:
        recorded = [(str(old["surface"]), [int(row) for row in old["rows"]]) for old in bundle.manifest["smoke"]]
        answered = record_answers(bundle.surfaces, bundle.catalogue, bundle.histories, bundle.sample_users)
        full = bundle.popularity.recommend(Query(), SMOKE_K, np.array(bundle.catalogue.available))
    except Exception as error:
        raise BundleError(f"{bundle.directory} fails to answer: {error!r}", Flaw.WRONG) from error
    if [surface for surface, _ in recorded] != [new["surface"] for new in answered]:
        raise BundleError(f"{bundle.directory} has no recorded answer of every surface", Flaw.INCOMPATIBLE)
    expected = repeated = 0
    for (surface, old), new in zip(recorded, answered, strict=True):
        rows = new["rows"]
        if len(set(rows)) != len(rows) or not all(bundle.catalogue.available[row] for row in rows):
            raise BundleError(f"surface {surface!r} answers repeated or unavailable items: {rows}", Flaw.WRONG)
        expected += len(old)
        repeated += len(set(old) & set(rows))
    if repeated < 0.8 * expected:
        message = f"only {repeated} of {expected} recorded items come again: the bundle does not fit this code"
        raise BundleError(message, Flaw.WRONG)
    if len(full) < min(SMOKE_K, int(bundle.catalogue.available.sum())):
        raise BundleError("the popularity fallback does not fill an answer", Flaw.WRONG)

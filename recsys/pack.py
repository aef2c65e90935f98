"""Packing: from a dataset and its fitted models to a bundle on disk. The last step of training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys.bundle import (
    CATALOGUE_NUMBERS,
    CATALOGUE_STRINGS,
    FORMAT,
    Arrays,
    BundleCatalogue,
    BundleHistories,
    record_answers,
    sha256,
)
from recsys.dataset import Catalogue, Dataset, Histories
from recsys.events import Surface
from recsys.ids import BytesColumn, HashIndex
from recsys.ranking import Model
from recsys.reports import code_version

SAMPLE_USERS: Final = 8


def pack_catalogue(catalogue: Catalogue) -> BundleCatalogue:
    """The catalogue with every item's JSON already written."""
    brands = sorted({brand for brand in catalogue.brands if brand is not None})
    brand_code = {brand: code for code, brand in enumerate(brands)}

    def fragment(row: int) -> bytes:
        code, cents = int(catalogue.category[row]), int(catalogue.price_cents[row])
        members = {
            "item_id": catalogue.item_ids[row],
            "title": catalogue.titles[row],
            "brand": catalogue.brands[row],
            "category": catalogue.categories[code] if code >= 0 else None,
            "price_cents": cents if cents >= 0 else None,
            "image_url": catalogue.image_urls[row],
        }
        return orjson.dumps(members)[1:-1]

    return BundleCatalogue(
        index=HashIndex.build(catalogue.item_ids[: catalogue.n_listed]),
        item_ids=BytesColumn.build(i.encode() for i in catalogue.item_ids),
        fragments=BytesColumn.build(fragment(row) for row in range(len(catalogue))),
        titles=BytesColumn.build(orjson.dumps(title) for title in catalogue.titles),
        categories=BytesColumn.build(c.encode() for c in catalogue.categories),
        brands=BytesColumn.build(b.encode() for b in brands),
        category=catalogue.category,
        brand=np.array([-1 if b is None else brand_code[b] for b in catalogue.brands], dtype=np.int32),
        price_cents=catalogue.price_cents,
        available=catalogue.available,
    )


def pack_histories(dataset: Dataset, at: int) -> BundleHistories:
    """Every known user's history before `at` (Unix second)."""
    histories = Histories(dataset, at)
    users = [histories[user] for user in range(dataset.n_users)]
    empty = np.empty(0, dtype=np.int32)
    # Where nobody told anything there is but one offset.
    rest = np.full(dataset.n_users + 1 - len(dataset.segments.offsets), dataset.segments.offsets[-1])
    return BundleHistories(
        index=HashIndex.build(dataset.user_ids),
        offsets=np.concatenate([[0], np.cumsum([len(h) for h in users])]).astype(np.int64),
        items=np.concatenate([empty, *(h.items for h in users)]).astype(np.int32),
        event_types=np.concatenate([empty, *(h.event_types for h in users)]).astype(np.uint8),
        age_days=np.concatenate([empty, *(h.age_days for h in users)]).astype(np.float32),
        regions=histories.regions[: dataset.n_users],
        region_index=HashIndex.build(dataset.regions),
        segment_offsets=np.concatenate([dataset.segments.offsets, rest]),
        segments=dataset.segments.codes,
        segment_index=HashIndex.build(dataset.segments.names),
    )


def pick_sample_users(dataset: Dataset, histories: BundleHistories) -> tuple[str, ...]:
    """Users spread evenly over the upper half of history lengths, so that a demonstration shows variety."""
    lengths = np.diff(histories.offsets)
    longest_first = np.lexsort((np.arange(len(lengths)), -lengths))
    known = longest_first[lengths[longest_first] > 0]
    step = max(1, len(known) // (2 * SAMPLE_USERS))
    return tuple(dataset.user_ids[int(user)] for user in known[::step][:SAMPLE_USERS])


class ModelTreeWriter:
    """Flattens model trees into manifest nodes and arrays; a model or array that several share is stored once."""

    def __init__(self, arrays: Arrays) -> None:
        self.nodes: list[dict[str, Any]] = []
        self._arrays = arrays
        self._written: dict[int, tuple[int, Model]] = {}
        self._names: dict[int, tuple[str, NDArray[Any]]] = {}

    def add(self, model: Model) -> int:
        """The node number of the model, after storing it and its parts."""
        if id(model) in self._written:
            return self._written[id(model)][0]
        state = model.state()
        parts = [self.add(part) for part in state.parts]
        number = len(self.nodes)
        names = {name: self._store(f"model{number}-{name}", array) for name, array in state.arrays.items()}
        self.nodes.append({"kind": model.kind, "params": state.params, "arrays": names, "parts": parts})
        self._written[id(model)] = (number, model)
        return number

    def _store(self, name: str, array: NDArray[Any]) -> str:
        """The name that an array is kept under: its first one, where models share it."""
        first, _ = self._names.setdefault(id(array), (name, array))
        self._arrays[first] = array
        return first


def catalogue_arrays(catalogue: BundleCatalogue) -> Arrays:
    """The catalogue as arrays."""
    arrays: Arrays = {"catalogue-hashes": catalogue.index.hashes, "catalogue-rows": catalogue.index.rows}
    for name in CATALOGUE_STRINGS:
        column: BytesColumn = getattr(catalogue, name)
        arrays |= {f"catalogue-{name}-blob": column.blob, f"catalogue-{name}-offsets": column.offsets}
    return arrays | {f"catalogue-{name}": getattr(catalogue, name) for name in CATALOGUE_NUMBERS}


def history_arrays(histories: BundleHistories) -> Arrays:
    """The histories as arrays."""
    return {
        "history-hashes": histories.index.hashes,
        "history-rows": histories.index.rows,
        "history-offsets": histories.offsets,
        "history-items": histories.items,
        "history-event_types": histories.event_types,
        "history-age_days": histories.age_days,
        "history-regions": histories.regions,
        "region-hashes": histories.region_index.hashes,
        "region-rows": histories.region_index.rows,
        "history-segment_offsets": histories.segment_offsets,
        "history-segments": histories.segments,
        "segment-hashes": histories.segment_index.hashes,
        "segment-rows": histories.segment_index.rows,
    }


def _save_arrays(directory: Path, arrays: Arrays) -> dict[str, dict[str, Any]]:
    """Save every array and return what the manifest says of each file."""
    (directory / "arrays").mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        path = directory / "arrays" / f"{name}.npy"
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)
        files[f"arrays/{name}.npy"] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    return files


def write_bundle(
    bundles: Path,
    *,
    phase: int,
    surfaces: Mapping[Surface, Model],
    popularity: Model,
    dataset: Dataset,
    at: int,
    metadata: Mapping[str, Any],
) -> Path:
    """Write a bundle below `bundles` and return its directory; it appears whole or not at all.

    `dataset` is what the models were fitted on, `at` (Unix second) the moment that histories are aged to.
    `metadata` must hold `currency` and `data` (`since`, `until`: Unix seconds, `fingerprint`, `log_until`, `catalogue_bytes`), and may hold
    `params`, `metrics` and `warnings` (what is odd about the data, in words); it becomes part of the manifest.
    """
    catalogue = pack_catalogue(dataset.catalogue)
    histories = pack_histories(dataset, at)
    sample_users = pick_sample_users(dataset, histories)
    arrays: Arrays = {}
    tree = ModelTreeWriter(arrays)
    roots = {str(surface): tree.add(model) for surface, model in surfaces.items()}
    fallback = tree.add(popularity)
    arrays |= catalogue_arrays(catalogue) | history_arrays(histories)

    created = datetime.now(UTC)
    draft = bundles / f".draft-{created:%Y%m%dT%H%M%S%f}"
    files = _save_arrays(draft, arrays)
    content = hashlib.sha256(orjson.dumps(files, option=orjson.OPT_SORT_KEYS)).hexdigest()
    version = f"{created:%Y%m%dT%H%M%S}-phase{phase}-{content[:8]}"
    manifest = {
        **metadata,
        "format": FORMAT,
        "version": version,
        "phase": phase,
        "created_at": created.isoformat(timespec="seconds"),
        "code_version": code_version(),
        "n_items": catalogue.n_listed,
        "n_users": len(histories),
        "sample_users": list(sample_users),
        "models": tree.nodes,
        "surfaces": roots,
        "popularity": fallback,
        "smoke": record_answers(surfaces, catalogue, histories, sample_users),
        "files": files,
    }
    (draft / "manifest.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return draft.rename(bundles / version)

"""Bundles and their publication: whole or not at all, verified before they go live."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from recsys import phase1
from recsys.bundle import Bundle, BundleError, Flaw, load_bundle, smoke_test
from recsys.dataset import Dataset, Histories
from recsys.ledger import read_ledger
from recsys.pack import write_bundle
from recsys.publish import live_version, publish, rollback
from recsys.ranking import NO_ITEM
from tests.factories import checkerboard, query, without_availability

METADATA: dict[str, Any] = {"data": {"since": 0, "until": 1, "fingerprint": "f", "log_until": 0}, "currency": "EUR"}


def write(bundles: Path, dataset: Dataset | None = None) -> Path:
    dataset = dataset or checkerboard()
    surfaces, popularity = phase1.build_surfaces(phase1.Workshop(dataset, dataset.until, 0), phase1.DEFAULT)
    return write_bundle(
        bundles, phase=1, surfaces=surfaces, popularity=popularity, dataset=dataset, at=dataset.until, metadata=METADATA
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def bundle(written: Path) -> Bundle:
    return load_bundle(written)


def test_a_loaded_bundle_answers_like_the_models_it_was_written_from(bundle: Bundle) -> None:
    dataset = checkerboard()
    surfaces, _ = phase1.build_surfaces(phase1.Workshop(dataset, dataset.until, 0), phase1.DEFAULT)
    mask = np.ones(dataset.n_items, dtype=np.bool_)
    for surface, model in surfaces.items():
        expected = model.recommend(query(0, 2, 4), 10, mask)
        found = bundle.surfaces[surface].recommend(query(0, 2, 4), 10, mask)
        assert found.items.tolist() == expected.items.tolist()
        assert found.scores.tolist() == expected.scores.tolist()


def test_arrays_are_mapped_not_read(bundle: Bundle) -> None:
    assert isinstance(bundle.histories.items.base, np.memmap)
    assert not bundle.histories.items.flags.writeable


def test_the_catalogue_finds_items_and_has_their_json_ready(bundle: Bundle) -> None:
    catalogue = bundle.catalogue
    row = catalogue.row("i3")
    assert catalogue.item_id(row) == "i3"
    assert catalogue.row("unheard of") == NO_ITEM
    assert orjson.loads(b"{" + catalogue.fragment(row) + b"}") == {
        "item_id": "i3",
        "title": "Item 3",
        "brand": "Brand 0",
        "category": "Odd",
        "price_cents": 103,
        "image_url": None,
    }
    assert orjson.loads(catalogue.title_json(row)) == "Item 3"


def test_histories_are_those_of_the_dataset(bundle: Bundle) -> None:
    dataset = checkerboard()
    expected = Histories(dataset, dataset.until)[5]
    found = bundle.histories.of("u5")
    assert found.items.tolist() == expected.items.tolist()
    assert found.age_days.tolist() == expected.age_days.tolist()
    assert len(bundle.histories.of("nobody")) == 0


def test_no_file_is_a_pickle(written: Path) -> None:
    for path in (written / "arrays").glob("*.npy"):
        np.load(path, allow_pickle=False)


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        ("flip", Flaw.CORRUPT),
        ("truncate", Flaw.TRUNCATED),
        ("blank", Flaw.TRUNCATED),
        ("remove", Flaw.MISSING),
        ("nothing", Flaw.MISSING),
        ("format", Flaw.INCOMPATIBLE),
        ("no files", Flaw.INCOMPATIBLE),
        ("no checksum", Flaw.INCOMPATIBLE),
        ("renamed", Flaw.INCOMPATIBLE),
        ("kind", Flaw.INCOMPATIBLE),
        ("shape", Flaw.INCOMPATIBLE),
        ("json", Flaw.UNREADABLE),
        ("blank manifest", Flaw.UNREADABLE),
        ("upwards", Flaw.PATH),
        ("roundabout", Flaw.PATH),
        ("absolute", Flaw.PATH),
        ("link", Flaw.PATH),
        ("link of the manifest", Flaw.PATH),
    ],
)
def test_a_damaged_bundle_is_refused(tmp_path: Path, written: Path, damage: str, flaw: Flaw) -> None:
    directory = Path(shutil.copytree(written, tmp_path / "bundles" / written.name))
    manifest_path = directory / "manifest.json"
    manifest = orjson.loads(manifest_path.read_bytes())
    victim = directory / "arrays" / "history-items.npy"
    outside = tmp_path / "outside.npy"
    shutil.copy(victim, outside)
    the_same = manifest["files"]["arrays/history-items.npy"]
    elsewhere = {
        "upwards": "../../outside.npy",
        "roundabout": "arrays/../arrays/history-items.npy",
        "absolute": str(outside),
    }
    if damage in elsewhere:
        manifest_path.write_bytes(
            orjson.dumps({**manifest, "files": manifest["files"] | {elsewhere[damage]: the_same}})
        )
    elif damage == "link":
        victim.unlink()
        victim.symlink_to(outside)
    elif damage == "link of the manifest":
        manifest_path.rename(tmp_path / "manifest.json")
        manifest_path.symlink_to(tmp_path / "manifest.json")
    elif damage == "blank":
        victim.write_bytes(b"")
    elif damage == "blank manifest":
        manifest_path.write_bytes(b"")
    elif damage == "nothing":
        shutil.rmtree(directory)
        directory.mkdir()
    elif damage == "no files":
        manifest_path.write_bytes(orjson.dumps({**manifest, "files": {}}))
    elif damage == "no checksum":
        bare = {name: {"bytes": 1} for name in manifest["files"]}
        manifest_path.write_bytes(orjson.dumps({**manifest, "files": bare}))
    elif damage == "renamed":
        directory = directory.rename(directory.parent / "another")
    elif damage == "shape":
        victim.write_bytes(b"text, not numbers")
        claimed = {"bytes": 17, "sha256": hashlib.sha256(b"text, not numbers").hexdigest()}
        files = manifest["files"] | {"arrays/history-items.npy": claimed}
        manifest_path.write_bytes(orjson.dumps({**manifest, "files": files}))
    elif damage == "flip":
        content = bytearray(victim.read_bytes())
        content[-1] ^= 1
        victim.write_bytes(content)
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:-8])
    elif damage == "remove":
        victim.unlink()
    elif damage == "format":
        manifest_path.write_bytes(orjson.dumps({**manifest, "format": 99}))
    elif damage == "json":
        manifest_path.write_bytes(b'{"format": 1')
    else:
        manifest["models"][0]["kind"] = "oracle"
        manifest_path.write_bytes(orjson.dumps(manifest))
    with pytest.raises(BundleError) as refused:
        load_bundle(directory)
    assert refused.value.flaw is flaw


@pytest.mark.parametrize("pointer", ["../elsewhere", "/etc", ".", "..", "", "a b", "a/b", "a\0b"])
def test_a_pointer_that_leads_elsewhere_is_refused(tmp_path: Path, pointer: str) -> None:
    (tmp_path / "live").write_text(pointer)
    with pytest.raises(BundleError) as refused:
        live_version(tmp_path)
    assert refused.value.flaw is Flaw.PATH


def test_publish_and_rollback_move_one_pointer_and_say_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no bundle"):
        publish(tmp_path)
    first = publish(tmp_path, write(tmp_path).name)
    second = write(tmp_path, without_availability(checkerboard(), [0])).name
    assert live_version(tmp_path) == first
    with pytest.raises(BundleError, match="nothing to roll back to"):
        rollback(tmp_path)
    publish(tmp_path, second, reason="item 0 is gone")
    assert live_version(tmp_path) == second
    assert rollback(tmp_path) == first
    assert rollback(tmp_path, undo=True) == second  # a rollback of the rollback
    ledger = read_ledger(tmp_path)
    assert [entry.action for entry in ledger] == ["publish", "publish", "rollback", "undo"]
    assert ledger[1].reason == "item 0 is gone" and ledger[1].previous == first


def test_a_damaged_bundle_never_goes_live(tmp_path: Path) -> None:
    first = publish(tmp_path, write(tmp_path).name)
    second = write(tmp_path, without_availability(checkerboard(), [0]))
    (second / "arrays" / "catalogue-available.npy").write_bytes(b"")
    with pytest.raises(BundleError, match="differs from its checksum"):
        publish(tmp_path, second.name)
    assert live_version(tmp_path) == first
    with pytest.raises(BundleError, match="no bundle 'v0'"):
        publish(tmp_path, "v0")


def test_a_bundle_that_answers_otherwise_than_recorded_fails_the_smoke_test(tmp_path: Path) -> None:
    directory = write(tmp_path)
    manifest = orjson.loads((directory / "manifest.json").read_bytes())
    for answer in manifest["smoke"]:
        answer["rows"] = [(row + 1) % 40 for row in answer["rows"]]
    (directory / "manifest.json").write_bytes(orjson.dumps(manifest))
    with pytest.raises(BundleError, match="does not fit this code"):
        smoke_test(load_bundle(directory))

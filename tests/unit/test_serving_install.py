"""What serves runs no stored code, and installs only what was looked at."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from packaging.requirements import Requirement

from recsys.bundle import BundleError, load_bundle
from tests.shop import write_tiny_bundle

LOCK = Path("requirements/serve.txt")
RUNS_STORED_CODE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "code", "imp"}
CALLS = {"eval", "exec", "compile", "__import__"}
SOURCES = sorted(path for folder in ("recsys", "service", "pipelines") for path in Path(folder).rglob("*.py"))


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [name.name.split(".")[0] for name in node.names]
    return [(node.module or "").split(".")[0]] if isinstance(node, ast.ImportFrom) else []


def unsafe(path: Path) -> list[str]:
    """What of a file could run what was stored: by line."""
    found = []
    for node in nodes(path):
        found += [f"{path}: imports {name}" for name in imported(node) if name in RUNS_STORED_CODE]
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append(f"{path}:{node.lineno}: calls {node.func.id}")
        if ast.unparse(node.func) in ("np.load", "numpy.load", "np.save", "np.savez", "torch.load"):
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if given.get("allow_pickle") != "False" and given.get("weights_only") != "True":
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_code_of_ours_runs_what_was_stored() -> None:
    assert len(SOURCES) > 100
    assert [line for path in SOURCES for line in unsafe(path)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "torch.load(p)",
    ],
)
def test_the_search_finds_what_it_looks_for(tmp_path: Path, code: str) -> None:
    path = tmp_path / "one.py"
    path.write_text(code)
    assert len(unsafe(path)) == 1


class _Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self._folder),)


def test_a_bundle_with_a_pickle_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    bundle, sprung = write_tiny_bundle(tmp_path), tmp_path / "sprung"
    victim = bundle / "arrays" / "history-items.npy"
    np.save(victim, np.array([_Trap(sprung)], dtype=object), allow_pickle=True)
    # As whoever may write bundles would: with the checksum of what they wrote.
    manifest = orjson.loads((bundle / "manifest.json").read_bytes())
    content = victim.read_bytes()
    manifest["files"]["arrays/history-items.npy"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    (bundle / "manifest.json").write_bytes(orjson.dumps(manifest))
    with pytest.raises((BundleError, ValueError), match=r"history-items|Python objects|pickle"):
        load_bundle(bundle)
    assert not sprung.exists()
    with pytest.raises(FileExistsError):  # it was a real one
        sprung.mkdir()
        np.load(victim, allow_pickle=True)


def needed() -> list[Requirement]:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["serve"]]]


def locked() -> list[tuple[str, str]]:
    """Name and version of each entry of the lock; a package may have one for each of several Pythons."""
    return re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)", LOCK.read_text(), re.MULTILINE)


def test_the_lock_has_what_a_serving_install_needs() -> None:
    """`make lock` writes it anew after a change of pyproject.toml."""
    for requirement in needed():
        versions = [version for name, version in locked() if name == requirement.name]
        assert versions and all(requirement.specifier.contains(version) for version in versions), requirement


def test_every_package_of_the_lock_has_its_hashes_and_no_address() -> None:
    text = LOCK.read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert len(entries) == len(locked()) and all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_the_lock_holds_no_training_library() -> None:
    training = {"torch", "mlflow", "polars", "duckdb", "scipy", "numba", "scikit-learn", "implicit", "pandas", "optuna"}
    assert training.isdisjoint(name for name, _ in locked())

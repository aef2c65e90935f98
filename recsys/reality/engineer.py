"""Question 3, counted: what somebody has to read, install and wait for who keeps this running without its authors."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import orjson
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("service", "pipelines", "recsys")
SUFFIXES: Final = (".py", ".sql")
_PROBE: Final = """
import sys, time
started = time.perf_counter()
import service.main
seconds = time.perf_counter() - started
import orjson
files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
print(orjson.dumps({"seconds": seconds, "files": files}).decode())
"""


@dataclass(frozen=True, slots=True)
class Burden:
    """What has to be understood."""

    lines: Mapping[str, int]
    """Lines that are not blank, by package: of Python and SQL, docstrings and comments counted."""
    served_lines: int
    """Of these, lines of modules that a serving process imports."""
    served_modules: int
    """Modules of ours that it imports."""
    all_modules: int
    """Modules that it imports in all."""
    import_seconds: float
    """Until they are imported."""
    declared: tuple[str, ...]
    """What a serving install asks for."""
    installed: tuple[str, ...]
    """That, and what it needs in turn."""


def burden(root: Path = ROOT) -> Burden:
    """Counted in the source tree at `root`, and in a process that imports the service as a worker does."""
    probe = subprocess.run([sys.executable, "-c", _PROBE], cwd=root, capture_output=True, text=True, check=True)
    found = orjson.loads(probe.stdout)
    ours = {
        name: Path(file)
        for name, file in found["files"].items()
        if file is not None and name.split(".")[0] in PACKAGES and file.endswith(".py")
    }
    declared = declared_requirements(root / "pyproject.toml", "serve")
    return Burden(
        lines=lines_by_package(root),
        served_lines=sum(_lines(file) for file in set(ours.values())),
        served_modules=len(ours),
        all_modules=len(found["files"]),
        import_seconds=found["seconds"],
        declared=tuple(sorted(requirement.name for requirement in declared)),
        installed=tuple(sorted(closure(declared))),
    )


def lines_by_package(root: Path = ROOT) -> dict[str, int]:
    """Lines that are not blank, by package, and by the packages in `recsys`; the largest first."""
    counts: Counter[str] = Counter()
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*")):
            if file.suffix in SUFFIXES:
                parts = file.relative_to(root).parent.parts
                counts[".".join(parts[:2] if package == "recsys" else parts[:1])] += _lines(file)
    return dict(counts.most_common())


def _lines(file: Path) -> int:
    return sum(bool(line.strip()) for line in file.read_text().splitlines())


def declared_requirements(pyproject: Path, extra: str) -> list[Requirement]:
    """What an install with one extra asks for."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"][extra])]


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """Names of all that these need, themselves among them, as it is installed here.

    Raises:
        importlib.metadata.PackageNotFoundError: one of them is not.
    """
    found: set[str] = set()
    waiting = [(requirement.name, frozenset(requirement.extras)) for requirement in requirements]
    while waiting:
        name, extras = waiting.pop()
        distribution = metadata.distribution(name)
        if (known := distribution.name.lower().replace("_", "-")) in found:
            continue
        found.add(known)
        for line in distribution.requires or ():
            needed = Requirement(line)
            wanted = ({"extra": extra} for extra in (*extras, ""))
            if needed.marker is None or any(needed.marker.evaluate(one) for one in wanted):
                waiting.append((needed.name, frozenset(needed.extras)))
    return found

"""Question 3, exercised: every step of docs/runbook.md is carried out as it stands there, against a running service.

A step is a section `## title` of the document. Its blocks ```` ```sh ```` are one script, in their order, that has to succeed: `bash -euo pipefail`. Blocks
that say ```` ```sh drill ```` are part of it too, but only here: they make the trouble that the step is about.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recsys.reality.serving import DrillError, Server, publish_links, serving

RUNBOOK: Final = Path("docs/runbook.md")
STEP_SECONDS: Final = 120.0
WORKERS: Final = 2
PRELUDE: Final = """
recsys() { "$PYTHON" -c 'from recsys.cli import main; main()' "$@"; }
python() { "$PYTHON" "$@"; }
"""
"""The command and the interpreter of this installation."""
_SECTION: Final = re.compile(r"^## (?P<title>[^\n]+)$(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK: Final = re.compile(r"^```sh(?: drill)?\n(?P<script>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """What to do in one trouble."""

    title: str
    script: str


@dataclass(frozen=True, slots=True)
class Carried:
    """A step that was carried out."""

    title: str
    passed: bool
    seconds: float
    said: str
    """The last line that it printed."""


def read_runbook(path: Path = RUNBOOK) -> tuple[Step, ...]:
    """The steps of a runbook.

    Raises:
        DrillError: it is missing, has no steps, or one of them says nothing to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DrillError(f"{path} cannot be read ({error.strerror}): run this from a checkout, or name it") from error
    steps = tuple(_steps(text))
    empty = [step.title for step in steps if not step.script]
    if not steps or empty:
        raise DrillError(f"{path} has {'no steps' if not steps else f'nothing to do in {empty[0]!r}'}")
    return steps


def _steps(text: str) -> Iterator[Step]:
    for section in _SECTION.finditer(text):
        yield Step(section["title"].strip(), "".join(block["script"] for block in _BLOCK.finditer(section["text"])))


def runbook_drill(live: Path, before: Path, path: Path = RUNBOOK) -> tuple[Carried, ...]:
    """Every step, one after the other, on a service of its own where `before` was live and `live` is.

    Raises:
        DrillError: there is no runbook, or the service does not start.
    """
    steps = read_runbook(path)
    with tempfile.TemporaryDirectory(prefix="drill-") as temporary:
        folder = Path(temporary)
        publish_links(folder / "bundles", (before, live))
        with serving(folder, WORKERS) as server:
            return tuple(carry_out(step, server) for step in steps)


def carry_out(step: Step, server: Server) -> Carried:
    """Run a step's script."""
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "URL": server.url,
        "DATA": str(server.data_dir),
        "PID": str(server.pid),
    }
    started = time.perf_counter()
    try:
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", PRELUDE + step.script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
        passed, output = run.returncode == 0, run.stdout
    except subprocess.TimeoutExpired as error:
        passed, output = False, f"not done after {error.timeout:.0f} seconds"
    lines = [line for line in output.splitlines() if line.strip()]
    return Carried(step.title, passed, time.perf_counter() - started, lines[-1].strip() if lines else "")

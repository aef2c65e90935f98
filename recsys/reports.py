"""Measured figures on their way into documents: a command writes JSON under `reports/`, documents render it.

No figure in a document is typed by hand: `recsys docs` replaces what stands between the markers
`<!-- report:NAME -->` and `<!-- /report -->` with the tables of `reports/NAME.json`, and a test fails when
a document is out of date.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.text import Text

from recsys.errors import UserError

REPORTS: Final = Path("reports")
Cell = str | int | float | bool | None

_BLOCK = re.compile(r"(<!-- report:(?P<name>[\w-]+) -->\n).*?(<!-- /report -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table; `rows` are parallel to `columns`. Units stand in the column names."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title!r}: a row has {len(row)} cells for {len(self.columns)} columns: {row}")


def interval(value: float, low: float, high: float, digits: int = 4) -> str:
    """A figure with its interval, as every table prints it: `0.3712 [0.3651, 0.3777]`."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def code_version() -> str:
    """The commit that is checked out, with `+` where files differ from it, or `unknown` outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


def machine() -> dict[str, Cell]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def write_report(
    name: str,
    command: str,
    tables: Sequence[Table],
    directory: Path = REPORTS,
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Write `<directory>/<name>.json`: the command that prints these tables, when, on what, and the tables; `details` are for programs."""
    directory.mkdir(parents=True, exist_ok=True)
    report = {
        "name": name,
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "code_version": code_version(),
        "machine": machine(),
        "tables": [asdict(table) for table in tables],
    }
    if details is not None:
        report["details"] = details
    path = directory / f"{name}.json"
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")
    return path


def show(table: Table, console: Console | None = None) -> None:
    """Title, rows in columns, and note on the terminal."""
    rows = [[str(name) for name in table.columns], *([_cell(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    print_to = console or Console()
    print_to.print(Text("\n" + table.title, style="bold"))
    print_to.print(Text("\n".join([*lines, *([table.note] if table.note else [])])), soft_wrap=True)


def read_tables(path: Path) -> tuple[Table, ...]:
    """The tables of a written report."""
    return tuple(Table(**table) for table in orjson.loads(path.read_bytes())["tables"])


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return value.replace("|", "\\|")


def to_markdown(report: dict[str, Any]) -> str:
    """A report as Markdown, with the line that says how to print it again."""
    lines: list[str] = []
    for table in report["tables"]:
        lines += [f"**{table['title']}**", ""]
        lines += ["| " + " | ".join(table["columns"]) + " |", "|" + "---|" * len(table["columns"])]
        lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table["rows"]]
        lines.append("")
        if table["note"]:
            lines += [table["note"], ""]
    on = report["machine"]
    lines.append(
        f"*`{report['command']}`, {report['date']}, code {report['code_version']}, "
        f"{on['cores']} cores ({on['processor']}), Python {on['python']}.*"
    )
    return "\n".join(lines) + "\n"


def render(document: str, reports: Path = REPORTS) -> str:
    """`document` with the tables of every report that it names brought up to date.

    Raises:
        UserError: the document names a report that no command has written.
    """

    def block(match: re.Match[str]) -> str:
        path = reports / f"{match['name']}.json"
        if not path.exists():
            raise UserError(f"{path} is missing: run the command that writes it, then `recsys docs`")
        return f"{match[1]}{to_markdown(orjson.loads(path.read_bytes()))}{match[3]}"

    return _BLOCK.sub(block, document)

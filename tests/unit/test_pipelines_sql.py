"""The SQL files: one for each table, with its grain, and nothing in them that only one engine knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines import run
from recsys.tables import TABLES

FILES = sorted(Path(run.__file__).parent.glob("*/*.sql"))
ONE_ENGINE_ONLY = (
    *(
        "::",
        r"\bQUALIFY\b",
        r"\bEXCLUDE\b",
        r"\bUNNEST\b",
        r"\bSTRPTIME\b",
        r"\bREAD_\w+\b",
        r"\bEPOCH\b",
        r"\bLIST\w*\s*\(",
    ),
    *(
        r"\bARG_MAX\b",
        r"\bANY_VALUE\b",
        r"\bREPLACE\s*\(\*",
        r"\bDATE_DIFF\b",
        r"\bDATEDIFF\b",
        r"\bPIVOT\b",
        r"\bGROUP BY ALL\b",
    ),
    *(r"\bSTRUCT_PACK\b", r"\bREGEXP_MATCHES\b", r"\bTIMESTAMPTZ\b", r"\bSTRFTIME\b", r"\bILIKE\b"),
)


def test_every_declared_table_has_its_file_and_every_file_is_used() -> None:
    names = {path.stem for path in FILES}
    assert names == {table.name for table in TABLES} | set(run.STAGING)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_its_grain_and_keeps_to_common_sql(path: Path) -> None:
    sql = path.read_text()
    assert re.search(r"^-- Grain: ", sql, re.MULTILINE)
    code = re.sub(r"--.*", "", sql)
    for pattern in ONE_ENGINE_ONLY:
        assert not re.search(pattern, code, re.IGNORECASE), f"{pattern} is not common SQL"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_key_is_made_of_declared_columns_that_are_never_null(table: object) -> None:
    columns = {column.name: column for column in table.columns}  # type: ignore[attr-defined]
    assert all(not columns[name].nullable for name in table.key)  # type: ignore[attr-defined]
    assert set(table.order_by) <= columns.keys()  # type: ignore[attr-defined]

"""`recsys.reports`: figures reach documents only through the files that commands write."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from recsys.errors import UserError
from recsys.reports import Table, interval, read_tables, render, write_report

TABLE = Table("Speed", ("route", "requests/s"), (("a|b", 1234.5), ("none", None)), note="One core.")


def test_a_report_says_where_its_figures_come_from(tmp_path: Path) -> None:
    path = write_report("speed", "make bench-serve", [TABLE], tmp_path)
    report = orjson.loads(path.read_bytes())
    assert report["command"] == "make bench-serve"
    assert report["machine"]["cores"] >= 1
    assert {"date", "code_version"} <= report.keys()
    assert read_tables(path)[0].rows == [["a|b", 1234.5], ["none", None]]


def test_rendering_replaces_the_block_and_is_idempotent(tmp_path: Path) -> None:
    write_report("speed", "make bench-serve", [TABLE], tmp_path)
    document = "before\n<!-- report:speed -->\nold figures\n<!-- /report -->\nafter\n"
    rendered = render(document, tmp_path)
    assert "old figures" not in rendered
    assert "| a\\|b | 1,234 |" in rendered
    assert "| none | – |" in rendered
    assert rendered.startswith("before\n") and rendered.endswith("after\n")
    assert render(rendered, tmp_path) == rendered


def test_a_document_may_not_name_a_report_that_no_command_wrote(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the command that writes it"):
        render("<!-- report:absent -->\n<!-- /report -->", tmp_path)


def test_a_row_must_fit_its_columns() -> None:
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        Table("Speed", ("a", "b"), ((1, 2, 3),))


def test_an_interval_prints_with_its_value() -> None:
    assert interval(0.37123, 0.36512, 0.37771) == "0.3712 [0.3651, 0.3777]"

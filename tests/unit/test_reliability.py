"""Whether chances come true, counted by hand."""

from __future__ import annotations

import polars as pl
import pytest

from recsys.evaluation.reliability import RELIABILITY_SCHEMA, errors, expected_error, reliability


def observed(*shown: tuple[float, bool]) -> pl.DataFrame:
    """Items with their chances, and whether they were bought."""
    return pl.DataFrame(shown, schema={"chance": pl.Float32, "hit": pl.Boolean}, orient="row")


def test_bins_hold_means_and_shares_and_the_error_weighs_them() -> None:
    # 0.55 and 0.57 lie in one bin, one of the two is bought; 0.25 is not; a NaN claims nothing.
    found = reliability(observed((0.55, False), (0.57, True), (0.25, False), (float("nan"), True)))
    assert found.select("chance", "n").rows() == [("0.2-0.3", 1), ("0.5-0.6", 2)]
    assert found.row(1, named=True)["claimed"] == pytest.approx(0.56)
    assert found.row(1, named=True)["bought"] == 0.5
    assert expected_error(found) == pytest.approx((1 * 0.25 + 2 * 0.06) / 3)


def test_without_chances_nothing_is_claimed() -> None:
    found = reliability(observed((float("nan"), True)))
    assert len(found) == 0
    assert expected_error(found) == 0.0


def test_the_ends_belong_to_bins() -> None:
    assert reliability(observed((1.0, True), (0.0, False)))["chance"].to_list() == ["0-0.02", "0.9-1"]


def test_each_surface_has_an_error_of_its_own() -> None:
    rows = [("home", "0-0.02", 0.01, 0.03, 10), ("cart", "0-0.02", 0.01, 0.01, 5), ("home", "0.9-1", 0.95, 0.85, 30)]
    frame = pl.DataFrame([rows[0], rows[2], rows[1]], schema=RELIABILITY_SCHEMA, orient="row")
    # (10 * 0.02 + 30 * 0.1) / 40
    assert errors(frame).rows() == [("home", pytest.approx(0.08), 40), ("cart", 0.0, 5)]

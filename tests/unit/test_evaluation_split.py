"""`recsys.evaluation.split`: one global cut, and nothing of the future before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.dataset import SECONDS_PER_DAY, parse_day
from recsys.errors import UserError
from recsys.evaluation.split import Window, split

YEAR = (parse_day("2017-01-01"), parse_day("2018-01-01") + 3600)


def test_a_year_is_cut_at_its_last_covered_month() -> None:
    # The data runs an hour into January: that is no month to test on, December is.
    windows = split(*YEAR)
    assert windows.validation == Window(parse_day("2017-11-01"), parse_day("2017-12-01"))
    assert windows.test == Window(parse_day("2017-12-01"), YEAR[1])


def test_a_day_can_be_asked_for() -> None:
    assert split(*YEAR, cut="2017-12-01") == split(*YEAR)
    assert split(*YEAR, cut="2017-10-01").test == Window(parse_day("2017-10-01"), YEAR[1])
    assert split(*YEAR, cut="2017-10-20").validation == Window(parse_day("2017-10-01"), parse_day("2017-10-20"))
    assert split(*YEAR, cut="2017-10-05").validation == Window(parse_day("2017-09-01"), parse_day("2017-10-05"))


def test_two_weeks_are_cut_by_days() -> None:
    start = parse_day("2024-05-01")
    windows = split(start, start + 14 * SECONDS_PER_DAY)
    assert windows.validation == Window(parse_day("2024-05-13"), parse_day("2024-05-14"))
    assert windows.test == Window(parse_day("2024-05-14"), parse_day("2024-05-15"))


@pytest.mark.parametrize(("cut", "message"), [("December", "is not a day"), ("2017-01-10", "too little lies before")])
def test_a_cut_that_cannot_be_is_explained(cut: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(*YEAR, cut=cut)


@given(st.integers(0, 2_000_000_000), st.integers(1, 3_000 * SECONDS_PER_DAY))
def test_windows_follow_each_other_inside_the_data(since: int, span: int) -> None:
    try:
        windows = split(since, since + span)
    except UserError:
        assert span < 70 * SECONDS_PER_DAY  # only little data may be refused
        return
    assert since < windows.validation.start < windows.validation.stop
    assert windows.validation.stop == windows.test.start < windows.test.stop == since + span

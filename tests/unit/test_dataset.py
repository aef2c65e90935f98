"""`recsys.dataset`: what happens to times between the tables and the models."""

from __future__ import annotations

import numpy as np

from recsys.dataset import IDLE_DAYS, SECONDS_PER_DAY, close_gaps, parse_day
from recsys.evaluation.split import Window, split


def test_a_click_years_after_an_import_does_not_age_the_import_or_empty_the_test_window() -> None:
    year = np.arange(parse_day("2017-01-01"), parse_day("2018-01-01"), SECONDS_PER_DAY)
    click = parse_day("2026-11-23")
    seconds = close_gaps(np.append(year, [click, click + 60]))
    assert seconds[:-2].tolist() == year.tolist()
    assert seconds[-2] == year[-1] + SECONDS_PER_DAY
    assert seconds[-1] == seconds[-2] + 60
    windows = split(int(seconds[0]), int(seconds[-1]) + 1)
    assert windows.validation == Window(parse_day("2017-11-01"), parse_day("2017-12-01"))


def test_a_month_without_events_is_left_as_it_is() -> None:
    seconds = np.array([0, IDLE_DAYS * SECONDS_PER_DAY, IDLE_DAYS * SECONDS_PER_DAY + 5], dtype=np.int64)
    assert close_gaps(seconds).tolist() == seconds.tolist()


def test_no_events_no_times() -> None:
    assert len(close_gaps(np.empty(0, dtype=np.int64))) == 0

"""One global time cut: what is learnt from, what is tuned on, and what is looked at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from recsys.dataset import SECONDS_PER_DAY, Dataset, parse_day
from recsys.errors import UserError

MONTHLY_SPAN_DAYS: Final = 180
"""From this span on, windows are calendar months; below it, a twelfth of the span."""


@dataclass(frozen=True, slots=True)
class Window:
    """`[start, stop)` in Unix seconds, UTC."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"{_day(self.start)} to {_day(self.stop - 1)}"


@dataclass(frozen=True, slots=True)
class Split:
    """Train on what lies before a window, test on what lies in it; the two windows follow each other."""

    validation: Window
    test: Window
    """Empty (`start == stop`) where a cut was asked for that no data follows."""


def _day(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d")


def _month_start(second: int) -> int:
    moment = datetime.fromtimestamp(second, UTC)
    return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp())


def _previous_month(second: int) -> int:
    """Start of the month before the one that starts at `second`."""
    return _month_start(second - 1)


def _day_start(second: int) -> int:
    return second - second % SECONDS_PER_DAY


def windows_of(dataset: Dataset, cut: str | None = None) -> Split:
    """`split` of all that a dataset holds."""
    return split(int(dataset.events.second[0]), dataset.until, cut)


def split(since: int, until: int, cut: str | None = None) -> Split:
    """Choose the windows for data that spans `[since, until)`, Unix seconds.

    Without `cut`, the test window is the last calendar month that is at least three quarters covered (spans of
    180 days or more) or the last twelfth of the span, at least one day. With `cut`, a day `YYYY-MM-DD`, it is
    everything from that day on. The validation window is of the same kind and ends where the test window starts.

    Raises:
        UserError: `cut` is not a date, or too little lies before it to learn from.
    """
    days = (until - since) / SECONDS_PER_DAY
    monthly = days >= MONTHLY_SPAN_DAYS
    length = max(1, int(days / 12)) * SECONDS_PER_DAY
    if cut is not None:
        try:
            start = parse_day(cut)
        except ValueError as error:
            raise UserError(f"--until {cut!r} is not a day: write it as 2017-12-01") from error
    elif monthly:
        start = _month_start(until - 1)
        if until - start < timedelta(days=23).total_seconds():
            start = _previous_month(start)
    else:
        start = _day_start(until - 1) + SECONDS_PER_DAY - length
    if monthly:
        month = _month_start(start)
        before = month if month < start else _previous_month(start)
        # A cut early in a month would leave a window of a few days: take the month before as well.
        if start - before < timedelta(days=14).total_seconds():
            before = _previous_month(before)
    else:
        before = start - length
    if before <= since:
        raise UserError(
            f"the data spans {_day(since)} to {_day(until - 1)}: too little lies before {_day(start)} "
            "to tune and to test on; at least four days are needed"
        )
    return Split(Window(before, start), Window(start, max(start, until)))

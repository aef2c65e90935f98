"""`benchmarks.crowd`: what is a valid answer, and when a service is as before, counted by hand."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from benchmarks.crowd import Answered, Crowd, Question, ask, back_to_normal, look_at, sum_up
from benchmarks.open_loop import BROKEN, UNANSWERED, Reply

CROWD = Crowd((), ("off",), frozenset({"a", "b", "c"}), ())
QUESTION = Question(b"", 2, frozenset({"c"}))


def reply(*ids: str, shortfall: int = 0, **members: Any) -> Reply[Question]:
    items = [{"item_id": item_id, "title": "t", "reason": "r"} for item_id in ids]
    body = orjson.dumps({"items": items, "shortfall": shortfall, "degraded": False, **members})
    return Reply(QUESTION, 0.0, 200, 0.010, body)


@pytest.mark.parametrize("answer", [reply("a", "b"), reply("a", shortfall=1), reply(shortfall=2)])
def test_k_items_or_the_shortfall_said_are_an_answer(answer: Reply[Question]) -> None:
    assert CROWD.problem(answer) is None


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (reply("a"), "1 items and a shortfall of 0, not 2 together"),
        (reply("a", "b", shortfall=1), "2 items and a shortfall of 1, not 2 together"),
        (reply("a", "a"), "an item twice"),
        (reply("a", "off"), "an item that may not be shown"),
        (reply("a", "c"), "an item that may not be shown"),  # it stands on the page
        (reply("a", "b", items=[{"item_id": "a", "title": "", "reason": "r"}] * 2), "without a title"),
        (reply("a", "b", items=None), "no answer as documented"),
        (Reply(QUESTION, 0.0, 200, 0.010, b"{"), "no answer as documented"),
        (Reply(QUESTION, 0.0, 500, 0.010, b"{}"), "status 500"),
        (Reply(QUESTION, 0.0, BROKEN), "the connection broke"),
        (Reply(QUESTION, 0.0, UNANSWERED), "no answer"),
    ],
)
def test_anything_else_is_none(answer: Reply[Question], problem: str) -> None:
    assert problem in str(CROWD.problem(answer))


def test_a_path_says_what_an_answer_to_it_may_not_show() -> None:
    question = ask("/recommend?k=3&surface=cart&cart=x&cart=y", "shop:1")
    assert (question.k, question.seen) == (3, {"x", "y"})
    assert question.message == b"GET /recommend?k=3&surface=cart&cart=x&cart=y HTTP/1.1\r\nHost: shop:1\r\n\r\n"


def test_figures_of_some_answers() -> None:
    refused = Reply(QUESTION, 0.0, 429, 0.001, b"{}")
    answers = look_at([reply("a", "b"), reply("a", "b", degraded=True), refused, reply("a")], CROWD)
    found = sum_up(answers)
    assert (found.n, found.valid, found.degraded, found.refused, found.server_errors) == (4, 2, 0.5, 1, 0)
    assert found.p99_ms == pytest.approx(10.0)
    assert found.problems == {"1 items and a shortfall of 0, not 2 together": 1}


def test_two_normal_seconds_in_a_row_are_normal() -> None:
    odd = {3, 5}  # of the seconds 3, 4, 5, 6, 7: the first pair is 6 and 7
    assert back_to_normal(3.0, 8.0, lambda start, _end: start not in odd) == 3.0
    assert back_to_normal(3.0, 7.0, lambda start, _end: start not in odd) is None
    assert back_to_normal(3.0, 8.0, lambda _start, _end: True) == 0.0


def test_an_answer_without_a_problem_is_valid() -> None:
    assert Answered(0.0, 0.1, 200, None, False, False).valid
    assert not Answered(0.0, 0.1, 200, "an item twice", False, False).valid

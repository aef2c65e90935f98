"""The service over HTTP with a Redis that is paused: requests are bounded in time and in number, and every answer is one."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.integration.test_service import ask, eventually, redis_pid
from tests.shop import publish_tiny_shop, running_service

INSIDE = 1
ASKING = 12
WAIT = {"RECSYS_REDIS_TIMEOUT_MS": "4000", "RECSYS_MAX_INSIDE": str(INSIDE)}


@pytest.fixture
def paused(tmp_path: Path) -> Iterator[tuple[httpx.Client, int]]:
    """A client of a service whose Redis has just been stopped, and the process to continue."""
    publish_tiny_shop(tmp_path)
    with running_service(tmp_path, environment=WAIT) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert ask(client, user_id="household-01", k=5)["rung"] == "full"
        redis = redis_pid(tmp_path)
        os.kill(redis, signal.SIGSTOP)
        try:
            yield client, redis
        finally:
            os.kill(redis, signal.SIGCONT)


def test_a_request_that_has_little_time_is_answered_without_redis(paused: tuple[httpx.Client, int]) -> None:
    client, redis = paused
    for user, rung in (("household-01", "remembered"), ("household-02", "simple"), ("somebody new", "simple")):
        answer = client.get("/recommend", params={"user_id": user, "k": 5}, headers={"X-Deadline-Ms": "100"})
        content = answer.json()
        assert (answer.status_code, content["degraded"], len(content["items"])) == (200, True, 5)
        assert content["rung"] in (rung, "popular")  # which needs the least time
    refused = client.get("/recommend", headers={"X-Deadline-Ms": "soon"})
    assert (refused.status_code, "x-deadline-ms" in refused.json()["detail"]) == (422, True)
    os.kill(redis, signal.SIGCONT)
    eventually(lambda: ask(client, user_id="household-01")["rung"] == "full")


def test_no_more_than_so_many_wait_and_the_others_are_told_to_come_again(paused: tuple[httpx.Client, int]) -> None:
    client, redis = paused

    def one(number: int) -> httpx.Response:
        time.sleep(0.02 * number)
        return client.get("/recommend", params={"user_id": f"household-{number:02}", "k": 5})

    with ThreadPoolExecutor(ASKING) as pool:
        answers = list(pool.map(one, range(ASKING)))
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 429}
    assert counts[200] >= INSIDE
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 429)
    assert all(len(answer.json()["items"]) == 5 for answer in answers if answer.status_code == 200)
    os.kill(redis, signal.SIGCONT)
    eventually(lambda: ask(client, user_id="household-01")["rung"] == "full")
    text = client.get("/metrics").text
    assert f'recsys_requests_refused_total{{shop="default"}} {counts[429]}.0' in text
    assert 'recsys_answers_by_rung_total{rung="full",shop="default"}' in text

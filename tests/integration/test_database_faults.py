"""The service over HTTP while its database is locked: answers go on, events are told to come again, nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import httpx

from recsys.store.database import database_url, opened, writing
from recsys.store.schema import EVENTS
from tests.shop import logged, publish_tiny_shop, running_service


def event(number: str) -> dict[str, str]:
    return {"event_id": number, "type": "purchase", "user_id": "w", "item_id": "item-07"}


def test_a_locked_database(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.post("/events", json=event("before")).json()["accepted"] == 1
        with opened(database_url(tmp_path)) as engine, writing(engine):
            late = client.post("/events", json=[event("late"), {"type": "teleport"}])
            assert (late.status_code, late.headers["retry-after"]) == (503, "1")
            assert [verdict["verdict"] for verdict in late.json()["verdicts"]] == ["rejected", "rejected"]
            assert "send it again" in late.json()["verdicts"][0]["reason"]
            answer = client.get("/recommend", params={"user_id": "w", "surface": "buy_again"}).json()
            assert (answer["degraded"], [item["item_id"] for item in answer["items"]]) == (False, ["item-07"])
        while (again := client.post("/events", json=event("late"))).status_code == 503:
            assert again.headers["retry-after"] == "1"
        # It was on its way when the client was told: known, and counted once.
        assert (again.json()["accepted"], again.json()["duplicate"]) in ((1, 0), (0, 1))
    assert [row["event_id"] for row in logged(tmp_path, EVENTS)] == ["before", "late"]

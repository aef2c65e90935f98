"""Who is let in where: the real service with keys, asked as each role, as nobody, and by those who try to get round the door."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.keys import Role, create_key, revoke_key
from tests.integration.test_service import eventually
from tests.shop import publish_tiny_shop, running_service

NOW = datetime(2026, 11, 26, tzinfo=UTC)
NOBODY, WIDGET, SERVER, ADMIN = 0, 1, 2, 3
LEAST = {
    "GET /health/live": NOBODY,
    "GET /health/ready": NOBODY,
    "GET /": NOBODY,
    "GET /index.html": NOBODY,
    "GET /js/main.js": NOBODY,
    "GET /demo/key": NOBODY,
    "GET /recommend?k=1": WIDGET,
    "POST /recommend": WIDGET,
    "POST /page": WIDGET,
    "POST /events": WIDGET,
    "GET /search?q=milk": WIDGET,
    "GET /items/item-01": WIDGET,
    "GET /events/verdicts": SERVER,
    "GET /demo/shoppers": SERVER,
    "GET /recommend?explain=true": SERVER,
    "PUT /items/new": SERVER,
    "POST /items": SERVER,
    "PATCH /items": SERVER,
    "DELETE /items/none": SERVER,
    "GET /metrics": ADMIN,
    "GET /docs": ADMIN,
    "GET /openapi.json": ADMIN,
    "GET /static-offline-docs/swagger-ui.css": ADMIN,
    "GET /console/events/": ADMIN,
    "GET /console/events/events.js": ADMIN,
    "GET /a/route/of/tomorrow": ADMIN,
    "OPTIONS /recommend": ADMIN,
    "TRACE /": ADMIN,
}
"""Whom each is for, as the documents say."""
ROUND_THE_DOOR = (
    "//metrics",
    "/METRICS",
    "/metrics/",
    "/metrics;x",
    "/%6Detrics/",
    "/health/live/../../metrics",
    "/health/live%2f..%2f..%2fmetrics",
    "/js/../metrics",
    "/js/../console/events/index.html",
    "/js/%2e%2e/console/events/index.html",
    "/./console/events/",
    "/console//events/",
    "/console/events/index.html?/js/main.js",
    "/openapi.json#/js/main.js",
    "/docs/",
    "/docs/oauth2-redirect",
    "http://other/metrics",
    "/search/../events/verdicts",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closed")
    publish_tiny_shop(folder)
    return folder


@pytest.fixture(scope="module")
def keys(data_dir: Path) -> dict[int, str]:
    """A key of each role, by its rank."""
    return {rank: create_key(data_dir / "keys.json", str(role), role, NOW) for rank, role in enumerate(Role, WIDGET)}


@pytest.fixture(scope="module")
def url(data_dir: Path, keys: dict[int, str]) -> Iterator[str]:
    # One address asks more here than a shopper would.
    environment = {"RECSYS_STOREFRONT_KEY": keys[WIDGET], "RECSYS_ADDRESS_LIMIT": "off"}
    with running_service(data_dir, environment=environment) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def ask(client: httpx.Client, asked: str, headers: Mapping[str, str]) -> httpx.Response:
    method, path = asked.split(" ", 1)
    body = {} if method in ("PUT", "POST", "PATCH") else None
    return client.request(method, path, json=body, headers=headers)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def status(url: str, method: str, target: str, headers: Mapping[str, str]) -> int:
    """Of a request whose target is sent as it stands."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(method, target, headers=dict(headers))
    found = connection.getresponse().status
    connection.close()
    return found


@pytest.mark.parametrize("asked", LEAST)
def test_each_role_gets_what_is_for_it_and_no_more(client: httpx.Client, keys: dict[int, str], asked: str) -> None:
    for rank in (NOBODY, WIDGET, SERVER, ADMIN):
        answer = ask(client, asked, bearer(keys[rank]) if rank else {})
        refused = 401 if rank == NOBODY else 403
        if rank < LEAST[asked]:
            assert answer.status_code == refused, (rank, answer.text)
            assert "key" in answer.json()["detail"]
        else:
            assert answer.status_code not in (401, 403), (rank, answer.text)
            assert answer.status_code < 500


@pytest.mark.parametrize("target", ROUND_THE_DOOR)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_no_way_leads_round_the_door(url: str, keys: dict[int, str], method: str, target: str) -> None:
    assert status(url, method, target, {}) == 401
    assert status(url, method, target, bearer(keys[WIDGET])) == 403


def test_an_item_whose_id_looks_like_a_path_is_an_item(url: str, keys: dict[int, str]) -> None:
    for target in ("/items/../metrics", "/items/%2e%2e/console/events/index.html", "/items/%0A/../../console/events/"):
        assert status(url, "GET", target, bearer(keys[WIDGET])) == 404
        assert status(url, "HEAD", target, bearer(keys[WIDGET])) == 403


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer  x", "Basic", "Basic !", "Basic eDp5", "Token KEY", "bearer\tKEY", "KEY", "Bearer \xff"],
)
def test_what_is_no_key_opens_nothing(client: httpx.Client, keys: dict[int, str], authorization: str) -> None:
    header = authorization.replace("KEY", keys[ADMIN]).encode("latin-1")
    answer = client.get("/metrics", headers={b"authorization": header})
    assert answer.status_code == 401


def test_a_key_that_is_none_any_more_is_told_from_one_that_is_missing(client: httpx.Client) -> None:
    missing, unknown = (client.get("/metrics", headers=sent).json()["detail"] for sent in ({}, bearer("recsys.gone.x")))
    assert missing.startswith("this needs a key of the role") and "Authorization: Bearer KEY" in missing
    assert unknown == f"the key that was sent is not in force: {missing}"


def test_a_browser_is_asked_for_a_key_before_pages_for_staff_alone(client: httpx.Client, keys: dict[int, str]) -> None:
    page = client.get("/console/events/")
    assert page.headers["www-authenticate"] == 'Basic realm="recsys"'
    assert client.get("/recommend").headers["www-authenticate"] == 'Bearer realm="recsys"'
    password = ("anybody", keys[ADMIN])
    assert client.get("/console/events/", auth=password).status_code == 200
    assert client.get("/events/verdicts", auth=password).status_code == 200
    # Sent by the browser unasked, so another site's page must not be able to change anything with it.
    change = client.patch(
        "/items", auth=password, json={"filter": {"item_ids": ["item-01"]}, "set": {"available": False}}
    )
    assert change.status_code == 401 and change.headers["www-authenticate"] == 'Bearer realm="recsys"'


def test_the_storefront_is_told_its_key(client: httpx.Client, keys: dict[int, str]) -> None:
    assert client.get("/demo/key").json() == {"key": keys[WIDGET]}


def test_a_widget_may_not_ask_how_scores_come_about(client: httpx.Client, keys: dict[int, str]) -> None:
    question = {"k": 1, "explain": True}
    refused = client.post("/recommend", json=question, headers=bearer(keys[WIDGET]))
    assert refused.status_code == 403 and "explain" in refused.json()["detail"]
    assert client.post("/recommend", json=question, headers=bearer(keys[SERVER])).status_code == 200


def test_keys_made_and_revoked_hold_in_the_running_service(client: httpx.Client, data_dir: Path) -> None:
    def opens() -> bool:
        return client.get("/metrics", headers=bearer(token)).status_code == 200

    token = create_key(data_dir / "keys.json", "visitor", Role.ADMIN, NOW)
    eventually(opens)
    revoke_key(data_dir / "keys.json", "visitor")
    eventually(lambda: not opens())


def test_refusals_are_counted(client: httpx.Client, keys: dict[int, str]) -> None:
    client.get("/metrics")
    text = client.get("/metrics", headers=bearer(keys[ADMIN])).text
    assert 'recsys_requests_refused_total{reason="unauthorized",shop="default"}' in text


def test_no_key_is_in_the_log_nor_in_the_documentation(
    client: httpx.Client, data_dir: Path, keys: dict[int, str]
) -> None:
    admin = bearer(keys[ADMIN])
    texts = [
        (data_dir / "service.log").read_text(),
        client.get("/docs", headers=admin).text,
        client.get("/openapi.json", headers=admin).text,
        client.get("/metrics", headers=admin).text,
    ]
    for key in keys.values():
        assert not any(key.rpartition(".")[2] in text for text in texts)


def test_a_service_that_others_reach_does_not_start_without_keys(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    with pytest.raises(RuntimeError, match="recsys keys create"), running_service(tmp_path, host="0.0.0.0"):
        pass


def test_too_many_requests_are_refused_by_address_key_and_whoever_stands_before(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    widget, server = (create_key(tmp_path / "keys.json", str(role), role, NOW) for role in (Role.WIDGET, Role.SERVER))
    tight = create_key(tmp_path / "keys.json", "tight", Role.SERVER, NOW, "3/hour")
    limits = {"RECSYS_ADDRESS_LIMIT": "5/hour", "RECSYS_TRUSTED_PROXIES": "127.0.0.1"}
    with running_service(tmp_path, environment=limits) as url, httpx.Client(base_url=url, timeout=30) as client:

        def statuses(n: int, **headers: str) -> list[int]:
            return [client.get("/recommend", params={"k": 1}, headers=headers).status_code for _ in range(n)]

        public = {"authorization": f"Bearer {widget}", "x-forwarded-for": "192.0.2.1"}
        assert statuses(7, **public) == [200] * 5 + [429] * 2
        refused = client.get("/recommend", headers=public)
        assert 0 < int(refused.headers["retry-after"]) <= 3_600 and "too many" in refused.json()["detail"]
        # What a client says of itself is not believed: the proxy's word is the last.
        assert statuses(1, **{**public, "x-forwarded-for": "192.0.2.77, 192.0.2.1"}) == [429]
        assert statuses(1, **{**public, "x-forwarded-for": "192.0.2.2"}) == [200]
        assert statuses(7, **bearer(server)) == [200] * 7
        assert statuses(5, **bearer(tight)) == [200] * 3 + [429] * 2
        # Guessing keys is limited too; health is not.
        assert statuses(7, **{**bearer("recsys.tight.guess"), "x-forwarded-for": "192.0.2.3"}) == [401] * 5 + [429] * 2
        assert {client.get("/health/live").status_code for _ in range(10)} == {200}
        assert 'reason="limited"' in _metrics(client, tmp_path)


def _metrics(client: httpx.Client, data_dir: Path) -> str:
    admin = bearer(create_key(data_dir / "keys.json", "late", Role.ADMIN, NOW))
    eventually(lambda: client.get("/metrics", headers=admin).status_code == 200)
    return client.get("/metrics", headers=admin).text


def test_a_clients_word_for_its_address_is_not_believed_by_default_nor_limits_lifted_without_redis(
    tmp_path: Path,
) -> None:
    publish_tiny_shop(tmp_path)
    environment = {"RECSYS_ADDRESS_LIMIT": "3/hour", "RECSYS_REDIS_URL": "redis://:hush-hush@127.0.0.1:1/0"}
    with running_service(tmp_path, environment=environment) as url:
        answers = [status(url, "GET", "/search", {"x-forwarded-for": f"192.0.2.{n}"}) for n in range(5)]
    assert answers == [200] * 3 + [429] * 2
    log = (tmp_path / "service.log").read_text()
    assert "Redis does not answer" in log and "hush-hush" not in log

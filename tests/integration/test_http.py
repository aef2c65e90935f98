"""What the real service tells browsers, what it lets other sites ask, and how much it reads."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError

from service.protocol import MAX_AHEAD, MAX_HEAD_BYTES
from service.settings import Settings
from tests.shop import publish_tiny_shop, running_service

SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("http")
    publish_tiny_shop(folder)
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[httpx.Client]:
    origins = {"RECSYS_CORS_ORIGINS": f"{SHOP}, http://localhost:3000"}
    with running_service(data_dir, environment=origins) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def sent(client: httpx.Client, *parts: bytes) -> bytes:
    """What a connection answers on bytes that are sent as they are, until it is closed or says all it has."""
    address = urlsplit(str(client.base_url))
    answer = b""
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            while received := connection.recv(65_536):
                answer += received
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed while more was sent
    return answer


@pytest.mark.parametrize("path", ["/recommend", "/items/none", "/recommend?k=0", "/health/live", "/search?q=milk"])
def test_an_answer_is_kept_by_nobody_and_runs_nothing(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["content-type"] == "application/json" and "server" not in headers


@pytest.mark.parametrize("path", ["/", "/index.html", "/js/main.js", "/console/events/", "/docs"])
def test_no_page_is_framed_or_takes_scripts_from_elsewhere(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "object-src 'none'" in policy
    assert ("unsafe-inline" in policy) == (path == "/docs")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [(SHOP, True), ("http://localhost:3000", True), ("https://evil.example", False), ("null", False)],
)
def test_only_the_shops_pages_may_read_answers(client: httpx.Client, origin: str, allowed: bool) -> None:
    for answer in (
        client.get("/recommend", headers={"origin": origin}),
        client.get("/recommend?k=0", headers={"origin": origin}),
    ):
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
        assert "access-control-allow-credentials" not in answer.headers
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, x-deadline-ms",
    }
    assert client.options("/events", headers=asked).status_code == (200 if allowed else 400)


def test_other_sites_may_not_change_the_catalogue(client: httpx.Client) -> None:
    for method in ("PUT", "PATCH", "DELETE"):
        asked = {"origin": SHOP, "access-control-request-method": method}
        assert client.options("/items/item-01", headers=asked).status_code == 400


@pytest.mark.parametrize("origins", ["shop.example", "https://shop.example/", "https://a.example,", "javascript:x"])
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="no origin"):
        Settings(cors_origins=origins)


@pytest.mark.parametrize(
    "head",
    [
        [b"GET /recommend?user_id=" + b"x" * 2 * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n"],
        [b"GET /recommend HTTP/1.1\r\nhost: x\r\nx: ", *[b"y" * 8_192] * 40],  # never ends
        [b"GET /recommend HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(10_000)) + b"\r\n"],
        [b"POST /events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", *[b"x: y\r\n" * 1_000] * 40],
    ],
)
def test_a_head_has_an_end(client: httpx.Client, head: list[bytes]) -> None:
    # A connection that is closed on what nobody read may take the answer with it; one that is not closed would time out.
    assert sent(client, *head)[:13] in (b"HTTP/1.1 431 ", b"")
    assert client.get("/health/live").status_code == 200


def test_a_long_body_is_not_taken_for_a_head(client: httpx.Client) -> None:
    body = b'{"events": [{"type": "view", "item_id": "item-01", "session_id": "' + b"s" * 1_000_000 + b'"}]}'
    assert client.post("/events", content=body).status_code == 422  # the id is too long, the body is not
    chunks = (body[at : at + 4_096] for at in range(0, len(body), 4_096))
    assert client.post("/events", content=chunks).status_code == 422
    assert client.post("/events", content=body * 3).status_code == 413


def test_requests_sent_ahead_are_answered_up_to_a_bound(client: httpx.Client) -> None:
    one = b"GET /recommend?k=1&user_id=u HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n" % (b"y" * 3_000)
    last = one.replace(b"host: x", b"host: x\r\nconnection: close")
    answer = sent(client, one * MAX_AHEAD, last)  # more than one head may be long
    assert answer.count(b"HTTP/1.1 200 OK") == MAX_AHEAD + 1
    # A connection that is closed on what nobody read may take the answer with it.
    short = b"GET /recommend HTTP/1.1\r\nhost: x\r\n\r\n"
    answer = sent(client, short * 5_000)
    assert answer == b"" or (b"HTTP/1.1 429 " in answer and b"that wait for their answers" in answer)
    assert answer.count(b"HTTP/1.1 200 OK") <= MAX_AHEAD
    assert client.get("/health/live").status_code == 200

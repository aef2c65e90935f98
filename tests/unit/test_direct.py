"""The short way to `GET /recommend`: it reads what Starlette reads, answers that route alone, and an answer's columns are read alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from recsys.ids import BytesColumn
from service.direct import Direct
from service.schemas import pairs_of

PLAIN = st.text(alphabet="ab1&=;.?/ é", max_size=30).map(lambda text: text.encode("latin-1"))
"""Without an escape, so that the short way of reading is taken."""


@given(st.binary(max_size=60) | PLAIN | st.text(alphabet="a&=%2B+", max_size=30).map(str.encode))
def test_a_query_is_read_as_starlette_reads_it(query: bytes) -> None:
    assert pairs_of(query) == QueryParams(query).multi_items()


@pytest.mark.parametrize(
    ("scope", "way"),
    [
        ({"type": "http", "method": "GET", "path": "/recommend"}, "direct"),
        ({"type": "http", "method": "POST", "path": "/recommend"}, "routed"),
        ({"type": "http", "method": "HEAD", "path": "/recommend"}, "routed"),
        ({"type": "http", "method": "GET", "path": "/recommend/"}, "routed"),
        ({"type": "lifespan"}, "routed"),
    ],
)
def test_only_the_one_route_takes_it(scope: Scope, way: str) -> None:
    sent: list[Any] = []

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("routed")({**scope, "type": "http"}, receive, send)

    async def answer(_scope: Scope) -> Response:
        return Response("direct")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads a body")

    asyncio.run(Direct(routed, answer)(scope, receive, send))
    assert sent[1]["body"] == way.encode()


@given(st.lists(st.binary(max_size=8), max_size=9))
def test_a_column_gives_what_it_was_given(values: list[bytes]) -> None:
    column = BytesColumn.build(values)
    assert [column[row] for row in range(len(values))] == column.take(range(len(values))) == values

"""Shoppers who do not stop asking: pages over real HTTP, as many at a time as there are connections, each answer kept with its moment."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import httpx
import numpy as np
import orjson
import psutil

from recsys.events import Surface
from recsys.simulation.world import World

TIMEOUT_SECONDS: Final = 10.0
OK: Final = 200
HEADERS: Final = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer, or what came instead."""

    asked: float
    """Unix time, as `answered`."""
    answered: float
    connection: int
    status: int
    """0 where the connection broke or nothing came in time."""
    version: str
    """Of the bundle that answered; empty where none did."""
    degraded: bool

    @property
    def failed(self) -> bool:
        """Whether the shopper saw no recommendations."""
        return self.status != OK


def page_requests(world: World, n: int, seed: int) -> list[dict[str, Any]]:
    """Requests as visits make them: the home page, a product's page and the cart by turns, of real baskets' shoppers and items."""
    rng, baskets, found = np.random.default_rng(seed), world.baskets, list[dict[str, Any]]()
    for number, basket in enumerate(rng.integers(len(baskets), size=n).tolist()):
        items = [world.items.ids[row] for row in baskets.items[baskets.lines(basket)].tolist()]
        who = world.shopper_ids[int(baskets.shopper[basket])]
        page = (
            {"surface": Surface.HOME},
            {"surface": Surface.SIMILAR, "item_id": items[0]},
            {"surface": Surface.CART, "cart": items[:20]},
        )[number % 3]
        found.append({"k": 12, "session_id": f"drill-{number}", **({"user_id": who} if who else {}), **page})
    return found


@dataclass
class Traffic:
    """Askers that go on until they are stopped. Each has one connection, so that one worker answers it."""

    url: str
    requests: Sequence[dict[str, Any]]
    connections: int
    seen: list[Seen] = field(default_factory=list)
    ports: dict[int, int] = field(default_factory=dict)
    """Connection by the port that it comes from."""
    _times: int = 0
    """That connections were opened anew."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: count[int] = field(default_factory=count)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(self.connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    def reconnect(self) -> None:
        """Every asker opens a new connection, which another worker may take."""
        self._times += 1
        self.ports.clear()

    async def _ask(self, connection: int) -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        while not self._stop.is_set():
            times = self._times
            async with httpx.AsyncClient(base_url=self.url, limits=limits, timeout=TIMEOUT_SECONDS) as client:
                while times == self._times and not self._stop.is_set():
                    request = self.requests[next(self._numbers) % len(self.requests)]
                    await self._look(client, connection, request)

    async def _look(self, client: httpx.AsyncClient, connection: int, request: dict[str, Any]) -> None:
        """Ask for a page, and confirm that it was seen."""
        asked = time.time()
        try:
            response = await client.post("/recommend", content=orjson.dumps(request), headers=HEADERS)
            answer = orjson.loads(response.content) if response.status_code == OK else {}
            self._keep(connection, response)
            status, version = response.status_code, answer.get("model_version", "")
        except httpx.HTTPError:
            status, version, answer = 0, "", {}
        self.seen.append(Seen(asked, time.time(), connection, status, version, bool(answer.get("degraded", False))))
        if not answer:
            await asyncio.sleep(0.01)
            return
        event = {"type": "render", "request_id": answer["request_id"], "session_id": request["session_id"]}
        try:
            told = await client.post("/events", content=orjson.dumps([event]), headers=HEADERS)
            status = told.status_code
        except httpx.HTTPError:
            status = 0
        if status != OK:
            self.seen.append(Seen(asked, time.time(), connection, status, "", degraded=False))

    def _keep(self, connection: int, response: httpx.Response) -> None:
        stream = response.extensions.get("network_stream")
        if stream is not None:
            self.ports[stream.get_extra_info("client_addr")[1]] = connection

    def workers(self, processes: Sequence[psutil.Process]) -> dict[int, int]:
        """Which process answers each connection, by its id: the one that holds the other end."""
        return {
            self.ports[held.raddr.port]: process.pid
            for process in processes
            for held in process.net_connections(kind="tcp")
            if held.raddr and held.raddr.port in self.ports
        }

    def between(self, start: float, stop: float) -> list[Seen]:
        """What was asked from one moment until before another."""
        return [one for one in self.seen if start <= one.asked < stop]


def statuses(seen: Sequence[Seen]) -> dict[int, int]:
    """How many answers came with which status."""
    return dict(Counter(one.status for one in seen))


def percentile_ms(seen: Sequence[Seen], percent: float) -> float:
    """Of the time that answers took."""
    return float(np.percentile([one.answered - one.asked for one in seen if not one.failed], percent) * 1_000)

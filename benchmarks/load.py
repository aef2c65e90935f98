"""What a server is asked, and how wrk asks it: requests as a shop's pages make them, all connections on one core."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlencode

import duckdb
import numpy as np

from benchmarks.servers import Server
from recsys.bundle import Bundle
from recsys.errors import UserError
from recsys.events import Surface

K: Final = 20
CONNECTIONS: Final = 16
MIX: Final = {
    Surface.HOME: 0.35,
    Surface.SIMILAR: 0.20,
    Surface.BOUGHT_TOGETHER: 0.10,
    Surface.CART: 0.10,
    Surface.BUY_AGAIN: 0.10,
    Surface.TRENDING: 0.10,
    Surface.NEW_ARRIVALS: 0.05,
}
"""Shares of the surfaces, about as pages of a shop ask for them."""
WRK_SCRIPT: Final = """
local paths = {}
for line in io.lines("%s") do
  local path, body = line:match("^(.-)\t(.*)$")
  paths[#paths + 1] = body and wrk.format("POST", path, {["content-type"] = "application/json"}, body) or wrk.format("GET", line)
end
local at = 0
function request()
  at = at %% #paths + 1
  return paths[at]
end
function done(summary, latency, requests)
  io.write(string.format("RESULT %%.1f %%.3f %%.3f %%d\\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Cores:
    """One core that serves and one that asks."""

    server: int
    client: int


def pick_cores() -> Cores:
    """The last two that this process may use.

    Raises:
        UserError: there is only one, or wrk is missing.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise UserError("the benchmark needs two cores: one that serves and one that asks")
    if shutil.which("wrk") is None:
        raise UserError("wrk is missing: install it, for example with `apt-get install wrk`")
    return Cores(server=allowed[-2], client=allowed[-1])


def user_ids(data_dir: Path) -> list[str]:
    """Known users: a bundle holds only hashes of their ids, the tables hold the ids."""
    path = data_dir / "tables" / "users.parquet"
    with duckdb.connect() as connection:
        return [row[0] for row in connection.execute(f"SELECT user_id FROM '{path}' ORDER BY user_id").fetchall()]


class Requests:
    """Random requests of known users about items that they have bought."""

    def __init__(self, bundle: Bundle, users: Sequence[str], rng: np.random.Generator) -> None:
        self._bundle = bundle
        self._users = [user for user in users if len(bundle.histories.of(user))]
        self._rng = rng
        if not self._users:
            raise UserError(f"no user of the tables has a history in bundle {bundle.version}: train again")

    def _user(self) -> str:
        return self._users[int(self._rng.integers(len(self._users)))]

    def _bought(self, user: str, n: int) -> list[str]:
        rows = self._rng.choice(self._bundle.histories.of(user).items, n)
        return [self._bundle.catalogue.item_id(int(row)) for row in rows]

    def path(self, surface: Surface) -> str:
        """A `GET` of this surface."""
        user = self._user()
        asked = [("k", str(K)), ("surface", str(surface)), ("user_id", user)]
        if surface in (Surface.SIMILAR, Surface.BOUGHT_TOGETHER):
            asked += [("item_id", item) for item in self._bought(user, 1)]
        if surface is Surface.CART:
            asked += [("cart", item) for item in self._bought(user, 3)]
        return f"/recommend?{urlencode(asked)}"

    def mixed(self, n: int) -> list[str]:
        """`n` requests with the shares of `MIX`."""
        chosen = self._rng.choice(len(MIX), n, p=list(MIX.values()))
        return [self.path(list(MIX)[surface]) for surface in chosen]

    def events(self, n: int) -> list[dict[str, Any]]:
        """Events of this moment, so that Redis has recent histories to read."""
        users = [self._user() for _ in range(n)]
        return [{"type": "view", "user_id": user, "item_id": self._bought(user, 1)[0]} for user in users]


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Answers other than 2xx and 3xx, and broken connections."""


def load(server: Server, core: int, paths: Sequence[str], seconds: int, scratch: Path, key: str | None = None) -> Load:
    """Ask for `seconds`, `CONNECTIONS` at a time, with an API key where one is given.

    Raises:
        UserError: wrk failed.
    """
    listed, script = scratch / "paths.txt", scratch / "wrk.lua"
    listed.write_text("\n".join(paths) + "\n")
    script.write_text(WRK_SCRIPT % listed)
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)]
    if key is not None:
        command += ["-H", f"Authorization: Bearer {key}"]
    run = subprocess.run([*command, f"http://127.0.0.1:{server.port}"], capture_output=True, text=True, check=False)
    found = re.search(r"^RESULT (\S+) (\S+) (\S+) (\d+)$", run.stdout, re.MULTILINE)
    if found is None:
        raise UserError(f"wrk failed:\n{run.stdout}{run.stderr}")
    return Load(float(found[1]), float(found[2]), float(found[3]), int(found[4]))


def together(runs: Sequence[Load]) -> Load:
    """Medians of several runs; failures add up."""
    return Load(
        median(run.per_second for run in runs),
        median(run.p50_ms for run in runs),
        median(run.p99_ms for run in runs),
        sum(run.failed for run in runs),
    )

"""A tiny shop: its catalogue and past as a published bundle, and the real service running on it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from sqlalchemy import Table

from recsys.calibration import Curves, calibrated
from recsys.dataset import SECONDS_PER_DAY, Catalogue, Dataset, Events, parse_day
from recsys.evaluation.questions import observe, questions
from recsys.evaluation.split import Window
from recsys.events import EVENT_CODE, EventType, Surface
from recsys.models.fit.calibration import fit_curves
from recsys.pack import write_bundle
from recsys.phase1 import Workshop
from recsys.phases import PHASES
from recsys.publish import publish
from recsys.store.database import database_url, open_database
from recsys.store.reading import rows_between, watermark

MARKUP: Final = '<img src=x onerror="window.hacked = true"><script>window.hacked = true</script>'
"""Stands as a title in the catalogue: a page must show it as text."""
MARKUP_ITEM: Final = "i/0 0"
"""An id that an address has to escape."""
SHELVES: Final = {
    "DAIRY > MILK": [
        "FLUID MILK WHITE ONLY 1 GA",
        "CHOCOLATE MILK",
        "SOY MILK",
        "HALF & HALF",
        "BUTTERMILK",
        "CREAMER",
    ],
    "DAIRY > CHEESE": ["CREAM CHEESE 8 OZ", "SHREDDED CHEESE", "SWISS", "CHEDDAR", "MOZZARELLA", "FETA"],
    "BAKERY > BREAD": ["WHITE BREAD", "WHEAT BREAD", "BAGELS", "TORTILLAS", "HAMBURGER BUNS", "ROLLS"],
    "PRODUCE > FRUIT": ["BANANAS", "APPLES GALA", "GRAPES RED", "STRAWBERRIES 16 OZ", "LEMONS", "PEARS"],
    "PRODUCE > VEGETABLES": ["TOMATOES", "ONIONS YELLOW", "CARROTS", "LETTUCE", "PEPPERS", "MUSHROOMS"],
    "GROCERY > SNACKS": ["POTATO CHIPS", "PRETZELS", "POPCORN", "SALSA", "CRACKERS", "COOKIES"],
    "GROCERY > PASTA": ["SPAGHETTI", "PASTA SAUCE", "MACARONI", "RICE", "NOODLES", "LASAGNE"],
    "GROCERY > DRINKS": ["COLA 12 PK", "ORANGE JUICE", "SPARKLING WATER", "COFFEE", "TEA", "LEMONADE"],
}
N_USERS: Final = 40
REGIONS: Final = ("north", "south")
"""Even households shop in the first, odd ones in the second."""
WEEKS: Final = 12
START: Final = parse_day("2017-09-01")
STARTUP_SECONDS: Final = 60
TILLS_MAPPING: Final = """
[shop]
name = "tiny"

[[events]]
source = "tills"
files = "tills.csv"
event_type = "purchase"

[events.columns]
user_id = "user"
item_id = "item"
timestamp = "at"
"""
"""Of a file of purchases, tills.csv: user, item, at."""


def tiny_catalogue() -> Catalogue:
    """Eight shelves of six items, and one whose title is markup."""
    titles = [MARKUP, *(title for shelf in SHELVES.values() for title in shelf)]
    shelf_of = [0, *(shelf for shelf in range(len(SHELVES)) for _ in range(6))]
    categories = sorted(SHELVES)
    code = [categories.index(name) for name in SHELVES]
    n = len(titles)
    return Catalogue(
        item_ids=(MARKUP_ITEM, *(f"item-{row:02}" for row in range(1, n))),
        titles=tuple(titles),
        brands=tuple("National" if row % 3 else "Private" for row in range(n)),
        category=np.array([code[shelf] for shelf in shelf_of], dtype=np.int32),
        categories=tuple(categories),
        price_cents=np.arange(n, dtype=np.int64) * 7 + 99,
        listed_price_cents=np.arange(n, dtype=np.int64) * 7 + 99,
        descriptions=(None,) * n,
        attributes=(None,) * n,
        image_urls=(None,) * n,
        available=np.ones(n, dtype=np.bool_),
        listed_second=START + np.arange(n, dtype=np.int64) * SECONDS_PER_DAY,
    )


def tiny_dataset(rng: np.random.Generator) -> Dataset:
    """Twelve weeks in which each household buys four items a week, mostly from two shelves it likes."""
    catalogue = tiny_catalogue()
    shopper, session, item, second = [], [], [], []
    for week in range(WEEKS):
        for user in range(N_USERS):
            liked = [shelf * 6 + 1 + offset for shelf in (user % 8, (user * 3 + 1) % 8) for offset in range(6)]
            basket = {int(i) for i in rng.choice(liked, 3, replace=False)} | {int(rng.integers(len(catalogue)))}
            moment = START + week * 7 * SECONDS_PER_DAY + user * 600
            for row in sorted(basket):
                shopper.append(user)
                session.append(week * N_USERS + user)
                item.append(row)
                second.append(moment)
    n = len(item)
    events = Events(
        shopper=np.array(shopper, dtype=np.int32),
        session=np.array(session, dtype=np.int32),
        item=np.array(item, dtype=np.int32),
        event_type=np.full(n, EVENT_CODE[EventType.PURCHASE], dtype=np.uint8),
        second=np.array(second, dtype=np.int64),
        quantity=np.ones(n, dtype=np.int32),
        region=np.array(shopper, dtype=np.int32) % 2,
    )
    user_ids = tuple(f"household-{user:02}" for user in range(N_USERS))
    return Dataset(events, catalogue, user_ids, n_shoppers=N_USERS, n_sessions=WEEKS * N_USERS, regions=REGIONS)


def publish_tiny_shop(data_dir: Path) -> str:
    """Write a bundle of the tiny shop and make it live below `data_dir`; its version."""
    return publish(data_dir / "bundles", write_tiny_bundle(data_dir).name)


def tiny_curves(dataset: Dataset, phase: int) -> dict[Surface, Curves]:
    """What scores mean, from the last three weeks and models fitted before."""
    window = Window(dataset.until - 21 * SECONDS_PER_DAY, dataset.until)
    workshop = Workshop(dataset.before(window.start), window.start, 0)
    surfaces, _ = PHASES[phase].build_surfaces(workshop, PHASES[phase].DEFAULT)
    asked = questions(dataset, window, seed=0)
    return {
        name: fit_curves(observe(model, asked[name], dataset.catalogue.available)) for name, model in surfaces.items()
    }


def write_tiny_bundle(
    data_dir: Path, dataset: Dataset | None = None, *, phase: int = 1, spare: int = 0, with_chances: bool = False
) -> Path:
    """Fit a phase on the tiny shop (or another) and write its bundle below `data_dir`, unpublished."""
    dataset = (dataset or tiny_dataset(np.random.default_rng(0))).with_spare(spare)
    config = PHASES[phase].DEFAULT
    surfaces, popularity = PHASES[phase].build_surfaces(Workshop(dataset, dataset.until, 0), config)
    if with_chances:
        surfaces = calibrated(surfaces, tiny_curves(dataset, phase))
    return write_bundle(
        data_dir / "bundles",
        phase=phase,
        surfaces=surfaces,
        popularity=popularity,
        dataset=dataset,
        at=dataset.until,
        metadata={
            "data": {
                "since": START,
                "until": dataset.until,
                "fingerprint": "tiny",
                "log_until": 0,
                "catalogue_bytes": 0,
            },
            "currency": "USD",
        },
    )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def logged(data_dir: Path, table: Table, url: str | None = None) -> list[dict[str, Any]]:
    """All rows of a table of the service's database."""
    engine = open_database(database_url(data_dir, url))
    rows = [row for chunk in rows_between(engine, table, 0, watermark(engine, table)) for row in chunk]
    engine.dispose()
    return rows


@contextmanager
def running_service(
    data_dir: Path, workers: int = 1, environment: Mapping[str, str] = MappingProxyType({}), host: str = "127.0.0.1"
) -> Iterator[str]:
    """The service on the live bundle below `data_dir`, as its command starts it, with more variables; gives its address.

    Raises:
        RuntimeError: it ended, or did not answer in time; its output is in the message.
    """
    port = free_port()
    command = [sys.executable, "-c", "from recsys.cli import main; main()", "serve", "--workers", str(workers)]
    log = data_dir / "service.log"
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("REDIS_URL", "DATABASE_URL") and not name.startswith("RECSYS_")
    }
    # On a busy machine Redis, and requests, may wait for longer than the milliseconds after which an answer does without it, or gets cheaper.
    patient = {"RECSYS_REDIS_TIMEOUT_MS": "1000", "RECSYS_DEADLINE_MS": "60000", "RECSYS_QUEUE_MS": "60000"}
    environment = {**inherited, **patient, **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", host, "--port", str(port), "--data-dir", str(data_dir)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + STARTUP_SECONDS
    try:
        while not _answers(f"{url}/health/ready"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not answer:\n{log.read_text()}")
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # as Ctrl-C does
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

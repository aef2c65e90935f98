"""The simulator drives the real service, over HTTP and in this process, to the same result."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest

from recsys.dataset import SECONDS_PER_DAY, Dataset
from recsys.publish import publish
from recsys.simulation.clicks import ClickModel
from recsys.simulation.constants import Constants, Mess
from recsys.simulation.log import Log
from recsys.simulation.loop import Simulation
from recsys.simulation.shops import AsgiShop, HttpShop, Shop, SimulatedClock
from recsys.simulation.traffic import plan_visits
from recsys.simulation.world import World
from recsys.store.database import database_url, open_database
from recsys.store.migrate import upgrade
from service import main
from tests.redis_server import running_redis
from tests.shop import START, running_service, tiny_dataset, write_tiny_bundle

CUT = START + 10 * 7 * SECONDS_PER_DAY
"""Ten of the tiny shop's twelve weeks are learnt from, two are the simulator's."""


WIDGETS = ("home", "buy_again", "new_arrivals")
"""Of a page. What trends is counted every few seconds of the wall's clock, so no two runs show the same."""


def world_of(dataset: Dataset) -> World:
    """The tiny shop as the tables would have it."""
    catalogue, events = dataset.catalogue, dataset.events
    items = pl.DataFrame(
        {
            "item_id": catalogue.item_ids,
            "category": [catalogue.categories[code] for code in catalogue.category],
            "brand": catalogue.brands,
            "price_cents": catalogue.price_cents,
            "available": catalogue.available,
            "listed_at": pl.from_epoch(pl.Series(catalogue.listed_second)).cast(pl.Datetime("us")),
        }
    )
    bought = pl.DataFrame(
        {
            "second": events.second,
            "user_id": [dataset.user_ids[row] for row in events.shopper],
            "session_id": events.session.astype(str),
            "item_id": [catalogue.item_ids[row] for row in events.item],
            "quantity": events.quantity,
            "price_cents": catalogue.price_cents[events.item],
        }
    )
    return World.of(items.sort("item_id"), bought, CUT, dataset.until)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return tiny_dataset(np.random.default_rng(0))


@pytest.fixture
def data_dir(tmp_path: Path, dataset: Dataset) -> Path:
    publish(tmp_path / "bundles", write_tiny_bundle(tmp_path, dataset.before(CUT)).name)
    return tmp_path


def simulate(world: World, shop: Shop) -> Log:
    constants = Constants.read()
    constants = replace(
        constants,
        clicks=replace(constants.clicks, random_ctr=0.05),
        traffic=replace(constants.traffic, browsing_visits=1.0, page_share=0.5, home_widgets=WIDGETS),
        mess=Mess(late=0.02, duplicate=0.05, out_of_order=0.05, missing_id=0.02, bots=0.02),
    )
    visits = plan_visits(world, constants.traffic, constants.mess, 1)
    return Simulation(ClickModel.of(world, constants), constants, visits, shop).run()


def test_http_and_in_process_give_the_same_result(
    data_dir: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(dataset)
    inside = data_dir / "inside"
    shutil.copytree(data_dir / "bundles", inside / "bundles")
    with running_service(data_dir) as url, httpx.Client(base_url=url, timeout=30) as client:
        over_http = simulate(world, HttpShop(client))
    # Between two requests the loop in this process stands still, which is no queue that should make answers cheaper.
    patient = {"REDIS_TIMEOUT_MS": 1_000, "DEADLINE_MS": 60_000, "QUEUE_MS": 60_000}
    with running_redis(inside) as redis_url:
        for name, value in {"DATA_DIR": inside, "REDIS_URL": redis_url, **patient}.items():
            monkeypatch.setenv(f"RECSYS_{name}", str(value))
        engine = open_database(database_url(inside))
        upgrade(engine)  # as `recsys serve` does
        engine.dispose()
        # On the clock of the wall, as the service that listens: how old live events are tells in the answers.
        with AsgiShop(main.app_from_settings(), SimulatedClock(0.0)) as shop:
            in_process = simulate(world, shop)
    assert over_http.pages.equals(in_process.pages) and over_http.visits.equals(in_process.visits)
    assert over_http.sent == in_process.sent
    assert set(over_http.pages["surface"]) == {*WIDGETS, "similar", "cart"}
    clicked = over_http.pages.filter(~pl.col("bot"))
    assert clicked["clicks"].sum() > 100
    assert over_http.sent["duplicate"] > 0 and over_http.sent["accepted"] > 500

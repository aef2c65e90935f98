"""A shop whose catalogue is odd in every way at once, through the command line to the service: it works, and what is odd is named."""

from __future__ import annotations

import contextlib
import csv
import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient

from recsys import cli
from recsys.bundle import read_manifest
from recsys.publish import live_version
from recsys.tracking import CANDIDATE, REGISTERED_MODEL
from tests.shop import running_service

N_ITEMS = 10_000
"""Each with a serial number of its own; most of them were never sold."""
ABSURD_PRICE = "99999999.99"
TITLES = {
    "Tea > Green": ["有機緑茶 {n}g", "有機抹茶 粉末 {n}g", "Green tea, organic {n} g"],
    "Tea > Black": ["شاي أسود {n}", "Чай чёрный листовой {n}", "Black tea, loose {n} g"],
    "Tea > Herbal": ["ชาสมุนไพร {n}", "Kräutertee 🌿 {n} g", "Herbal tea {n} g"],
    "Parts > Spare": ["Spare part {n}"],
}
SOLD = 90
NO_TITLE, NO_CATEGORY, NO_TEXT, ABSURD = range(90, 100), range(100, 110), range(110, 112), 112
MAPPING = """
[shop]
name = "Odd shop"

[[events]]
source = "orders"
files = "orders.csv"
event_type = "purchase"

[events.columns]
user_id = "user"
order_id = "order"
item_id = "item"
timestamp = "at"

[catalogue]
files = "products.csv"
item_id = "sku"
title = ["name"]
description = "text"
category = ["category"]
price = "price"
attributes = ["serial", "colours"]
"""


def product(number: int) -> dict[str, str]:
    """A line of the catalogue; the first `SOLD` are plain but for their languages."""
    category = list(TITLES)[number % 3] if number < 200 else "Parts > Spare"
    title = TITLES[category][number // 3 % len(TITLES[category])].format(n=10 * (1 + number % 7))
    line = {"sku": f"p-{number}", "name": title, "text": "", "category": category, "price": str(3 + number % 9)}
    line |= {"serial": f"SN-{number:06}", "colours": "red" if number % 2 else ""}
    if number in NO_TITLE:
        line["name"] = ""
    if number in NO_CATEGORY:
        line["category"] = ""
    if number in NO_TEXT:
        line |= {"name": "", "text": "", "category": "", "colours": "", "price": ""}
    if number == ABSURD:
        line |= {"price": ABSURD_PRICE, "category": "Nobody > Else > Has > This > One"}
    return line


def write_shop(folder: Path) -> None:
    """Forty shoppers who each drink one kind of tea, for a day: too little to evaluate, so that it trains in seconds."""
    rng = random.Random(0)
    with (folder / "products.csv").open("w", newline="") as file:
        products = csv.DictWriter(file, list(product(0)))
        products.writeheader()
        products.writerows(product(number) for number in range(N_ITEMS))
    lines = ["user,order,item,at"]
    for visit in range(10):
        for user in range(40):
            at = datetime(2024, 1, 1, 10 + visit, user % 7)
            lines += [f"u{user},o{visit}-{user},p-{3 * rng.randrange(SOLD // 3) + user % 3},{at}" for _ in range(3)]
    # Odd items are bought too.
    lines += [f"u{user},o-odd-{user},p-{NO_TITLE[0] + user},2024-01-01 23:00" for user in range(20)]
    (folder / "orders.csv").write_text("\n".join(lines))
    (folder / "shop.toml").write_text(MAPPING)


def recsys(*arguments: str) -> str:
    """What the command line prints; it must succeed."""
    output = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        patch.setattr("sys.argv", ["recsys", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert not stopped.value.code, output.getvalue()
    return output.getvalue()


@dataclass(frozen=True)
class Trained:
    """The shop after a training."""

    data_dir: Path
    printed: str
    manifest: Mapping[str, Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("odd")
    write_shop(folder)
    data = ["--data-dir", str(folder / "data")]
    recsys("ingest", "--mapping", str(folder / "shop.toml"), *data)
    recsys("tables", *data)
    printed = recsys("train", "--phase", "2", "--search-seconds", "0", "--publish", *data)
    bundles = folder / "data" / "bundles"
    return Trained(folder / "data", printed, read_manifest(bundles / str(live_version(bundles))))


@pytest.fixture(scope="module")
def client(trained: Trained) -> Iterator[httpx.Client]:
    with running_service(trained.data_dir) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    "odd",
    [
        "12 of 10,000 items have no title",
        "12 of 10,000 items have no category",
        "2 of 10,000 items have no feature that another item shares: content cannot place them",
        "1 items cost more than",
        "'serial' has 10,000 different values, 10,000 of them on one item only",
    ],
)
def test_training_names_what_is_odd_prints_it_once_and_keeps_it(trained: Trained, odd: str) -> None:
    assert trained.printed.count(f"warning: {odd}") == 1
    assert sum(warning.startswith(odd) for warning in trained.manifest["warnings"]) == 1
    client = MlflowClient(f"sqlite:///{(trained.data_dir / 'mlflow' / 'mlflow.db').resolve()}")
    run = client.get_run(str(client.get_model_version_by_alias(REGISTERED_MODEL, CANDIDATE).run_id))
    assert odd in run.data.tags["warnings"]


def ask(client: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:
    response = client.get("/recommend", params=parameters)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["phase"] == 2 and answer["shortfall"] == 0 and not answer["degraded"]
    items: list[dict[str, Any]] = answer["items"]
    assert all(item["reason"] and item["title"] for item in items)
    return items


@pytest.mark.parametrize("number", [0, 1, 2, NO_TITLE[0], NO_CATEGORY[0], NO_TEXT[0], ABSURD, N_ITEMS - 1])
def test_the_page_of_every_odd_item_is_answered(client: httpx.Client, number: int) -> None:
    line = product(number)
    shown = client.get(f"/items/{line['sku']}").json()
    assert shown["title"] == (line["name"] or line["sku"])
    assert shown["category"] == (line["category"] or None)
    assert shown["price_cents"] == (round(100 * float(line["price"])) if line["price"] else None)
    for surface in ("similar", "bought_together", "cart"):
        assert len(ask(client, surface=surface, item_id=line["sku"], cart=line["sku"], user_id="u1", k=10)) == 10


def test_shoppers_of_odd_items_are_answered_everywhere(client: httpx.Client) -> None:
    for user in ("u0", "u10", "u19", "a-stranger"):
        for surface in ("home", "trending", "new_arrivals"):
            assert len(ask(client, surface=surface, user_id=user, k=10)) == 10


@pytest.mark.parametrize(
    ("item_id", "item", "odd"),
    [
        ("no-title", {"category": "Tea > Green", "price_cents": 500}, "it has no title: its id is shown"),
        ("no-category", {"title": "Green tea, organic"}, "it has no category"),
        ("unknown-category", {"title": "Green tea", "category": "ペット > 犬"}, "category 'ペット > 犬' is new"),
        ("absurd", {"title": "Green tea", "category": "Tea > Green", "price_cents": 9 * 10**9}, "check price_cents"),
        ("other-language", {"title": "ყავა მარცვალი", "category": "Tea > Green"}, "so of no use: text"),
        (
            "serial",
            {"title": "Black tea", "category": "Tea > Black", "attributes": {"serial": "SN-999999", "colours": "red"}},
            "so of no use: serial",
        ),
        ("nothing", {}, "nothing in its content is known from other items: it is only a new arrival"),
    ],
)
def test_an_odd_item_joins_with_a_warning_and_is_recommended(
    client: httpx.Client, item_id: str, item: dict[str, Any], odd: str
) -> None:
    answer = client.put(f"/items/{item_id}", json=item)
    assert answer.status_code == 201 and answer.json()["verdict"] == "added", answer.text
    assert any(odd in warning for warning in answer.json()["warnings"]), answer.json()
    arrivals = ask(client, surface="new_arrivals", k=20)
    assert item_id in [arrival["item_id"] for arrival in arrivals]
    assert len(ask(client, item_id=item_id, k=5)) == 5


def test_a_japanese_item_joins_beside_its_kind_without_a_warning(client: httpx.Client) -> None:
    item = {"title": "有機緑茶 特選 50g", "category": "Tea > Green", "price_cents": 600}
    assert client.put("/items/ryokucha", json=item).json()["warnings"] == []
    similar = ask(client, item_id="ryokucha", k=3)
    assert {found["source"] for found in similar} == {"similar_content"}
    assert all("有機緑茶" in found["title"] for found in similar)
    whole_shelf = {"surface": "home", "user_id": "u0", "category": "Tea > Green", "k": 100}
    home = client.get("/recommend", params=whole_shelf).json()["items"]
    assert "ryokucha" in [found["item_id"] for found in home]

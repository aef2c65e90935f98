"""The simulator on a shop of six items: who wants what, what that is worth in clicks, and how it is reported."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from recsys.simulation.calibration import (
    Campaign,
    Learner,
    Trial,
    fit_taste_share,
    position_effect,
    random_ctr,
    thompson,
)
from recsys.simulation.clicks import ClickModel, examination, expected_clicks
from recsys.simulation.constants import CLEAN, Constants, Mess
from recsys.simulation.log import Log
from recsys.simulation.loop import Simulation
from recsys.simulation.mess import Courier
from recsys.simulation.shops import (
    Answer,
    AsgiShop,
    CallableShop,
    Event,
    HttpShop,
    Request,
    Shop,
    ShopError,
    SimulatedClock,
    composed,
)
from recsys.simulation.traffic import NO_BASKET, plan_visits
from recsys.simulation.truth import expectations, moved, sensitivity, truth
from recsys.simulation.world import UNLISTED, World

DAY = 86_400
CUT, UNTIL = 100 * DAY, 130 * DAY
Line = tuple[int, str, str, int]
"""Day, user, session, item."""

BOUGHT: tuple[Line, ...] = (
    (50, "ann", "s0", 5),
    (90, "bob", "s1", 4),
    (101, "ann", "s2", 0),
    (101, "ann", "s2", 2),
    (105, "ann", "s3", 0),
    (110, "bob", "s4", 3),
    (120, "new", "s5", 4),
)
CONSTANTS = Constants.read()
PLAIN = replace(
    CONSTANTS,
    clicks=replace(
        CONSTANTS.clicks,
        random_ctr=0.05,
        position_effect=1.0,
        taste_share=0.5,
        curiosity=0.2,
        price_effect=0.0,
        novelty=1.0,
        fatigue=0.5,
        taste_of_type=0.4,
        taste_of_brand=0.2,
        taste_of_price=0.1,
    ),
    traffic=replace(CONSTANTS.traffic, page_share=0.0),
    mess=CLEAN,
)
FRESH = replace(PLAIN, clicks=replace(PLAIN.clicks, fatigue=1.0))


def items_frame(n: int = 6) -> pl.DataFrame:
    """Items of two types in one aisle, alternately of two brands, at 1.50, and 3.00 for the last of each type."""
    return pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(n)],
            "category": [f"FOOD > DAIRY > {'MILK' if row < n // 2 else 'CHEESE'}" for row in range(n)],
            "brand": ["A" if row % 2 == 0 else "B" for row in range(n)],
            "price_cents": [300 if row in (n // 2 - 1, n - 1) else 150 for row in range(n)],
            "available": [True] * n,
            "listed_at": [
                None,
                *[datetime.fromtimestamp(CUT - 60 * DAY)] * (n - 2),
                datetime.fromtimestamp(CUT + 10 * DAY),
            ],
        },
        schema_overrides={"listed_at": pl.Datetime("us")},
    )


def frame(lines: Sequence[Line]) -> pl.DataFrame:
    """Purchases as `World.of` reads them."""
    return pl.DataFrame(
        [(day * DAY, user, session, f"i{item}", 1, 150) for day, user, session, item in lines],
        schema=["second", "user_id", "session_id", "item_id", "quantity", "price_cents"],
        orient="row",
    )


def make_world(lines: Sequence[Line] = BOUGHT, n_items: int = 6) -> World:
    return World.of(items_frame(n_items), frame(lines), CUT, UNTIL)


def big_world(n_shoppers: int = 60, n_items: int = 40) -> World:
    """Everybody buys three items a week, of the few that are theirs."""
    lines = [
        (
            101 + 7 * week + shopper % 7,
            f"u{shopper:02}",
            f"s{shopper}-{week}",
            (shopper * 7 + offset * (week + 1)) % n_items,
        )
        for week in range(4)
        for shopper in range(n_shoppers)
        for offset in range(3)
    ]
    return make_world(lines, n_items)


def taste(world: World, model: ClickModel, user: str, *items: int) -> list[float]:
    shopper = world.shopper_ids.index(user)
    return [round(one, 9) for one in model.taste(shopper, np.array(items)).tolist()]


class FakeService:
    """Shows what was clicked most, then by a walk through the catalogue that the shopper's name begins; learns from clicks."""

    def __init__(self, n_items: int, fixed: bool = False) -> None:
        self.n_items, self.fixed = n_items, fixed
        self.clicks: Counter[str] = Counter()
        self.ids: set[str] = set()
        self.events: list[Event] = []
        self.asked = 0

    def answer(self, request: Request) -> Answer:
        self.asked += 1
        start = sum(str(request.get("user_id", request["surface"])).encode()) % self.n_items
        walk = [f"i{(start + step) % self.n_items}" for step in range(self.n_items)]
        order = walk if self.fixed else sorted(walk, key=lambda item: -self.clicks[item])
        above = request.get("filters", {}).get("exclude_item_ids", ())
        shown = [item for item in order if item not in request.get("cart", ()) and item not in above][: request["k"]]
        return {
            "request_id": f"r{self.asked}",
            "arms": {"parity": "even" if start % 2 == 0 else "odd"},
            "items": [{"item_id": one} for one in shown],
        }

    def learn(self, events: Sequence[Event]) -> dict[str, int]:
        self.events += events
        counts = Counter[str]()
        for event in events:
            known = event.get("event_id") in self.ids
            counts["duplicate" if known else "accepted"] += 1
            self.ids.add(event.get("event_id", f"none-{len(self.events)}"))
            self.clicks[event.get("item_id", "")] += event["type"] == "click" and not known
        return {verdict: counts[verdict] for verdict in ("accepted", "duplicate", "rejected")}

    def respond(self, path: str, content: Any) -> dict[str, Any]:
        routes: dict[str, Callable[[Any], Any]] = {
            "/recommend": self.answer,
            "/page": lambda asked: {"widgets": composed(self.answer, asked)},
            "/events": self.learn,
        }
        return dict(routes[path](content))

    async def asgi(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{phase}"
                await send({"type": f"lifespan.{phase}.complete"})
            return
        body = json.dumps(self.respond(scope["path"], json.loads((await receive())["body"]))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def over_http(service: FakeService) -> Iterator[httpx.Client]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps(service.respond(self.path, content)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def simulate(world: World, constants: Constants, shop: Shop, seed: int = 1) -> Log:
    visits = plan_visits(world, constants.traffic, constants.mess, seed)
    return Simulation(ClickModel.of(world, constants), constants, visits, shop).run()


# The world


def test_taste_is_what_was_bought_in_the_window_and_spreads_to_type_brand_and_price() -> None:
    world = make_world()
    model = ClickModel.of(world, PLAIN)
    # ann buys item 0 in two visits, item 2 in one of them. Both are milk (2 visits) of brand A (2); item 0 costs 1.50 (2), item 2 3.00 (1).
    # item 0: 2/3 + 0.4 * 2/3 + 0.2 * 2/3 + 0.1 * 2/3; item 1: milk, brand B, 1.50; item 4: cheese of brand A at 1.50; item 5: brand B, 3.00.
    assert taste(world, model, "ann", 0, 1, 4, 5) == [
        round(2 / 3 * 1.7, 9),
        round(2 / 3 * 0.5, 9),
        round(2 / 3 * 0.3, 9),
        round(1 / 2 * 0.1, 9),
    ]


def test_nothing_before_the_cut_or_from_the_end_on_makes_a_taste() -> None:
    inside = make_world()
    more = [*BOUGHT, (99, "ann", "s8", 3), (130, "ann", "s9", 3), (131, "eve", "s10", 3)]
    world = make_world(more)
    assert world.shopper_ids == inside.shopper_ids
    assert np.array_equal(world.tastes.traits, inside.tastes.traits)
    assert np.array_equal(world.tastes.strengths, inside.tastes.strengths)
    assert len(world.baskets) == 4 and world.baskets.second.min() >= CUT and world.baskets.second.max() < UNTIL
    # The first instant of the window is in, the last before it is not.
    edge = make_world([(99, "ann", "a", 1), (100, "ann", "b", 2)])
    assert edge.baskets.items.tolist() == [2]


def test_who_bought_nothing_before_the_cut_is_new_and_what_is_first_met_after_it_too() -> None:
    world = make_world()
    assert [user for user, new in zip(world.shopper_ids, world.is_new, strict=True) if new] == ["new"]
    assert world.items.sold_before.tolist() == [0, 0, 0, 0, 1, 0]  # ann's line lies fifty days back
    counts = world.counts()
    assert counts["shoppers"] == 3 and counts["of which bought nothing before the cut"] == 1
    assert counts["lines bought"] == 5 and counts["of which first met after the cut"] == 1
    assert world.items.listed_second[0] == UNLISTED


def test_a_session_without_a_user_is_a_shopper_that_never_logs_in() -> None:
    lines = frame(BOUGHT).with_columns(
        pl.when(pl.col("session_id") == "s4").then(None).otherwise("user_id").alias("user_id")
    )
    world = World.of(items_frame(), lines, CUT, UNTIL)
    visits = plan_visits(world, replace(PLAIN.traffic, anonymous_share=0.0, browsing_visits=5.0), CLEAN, 0)
    unknown = [user is None for user in world.shopper_ids]
    assert sum(unknown) == 1 and world.counts()["of which without a user id"] == 1
    assert np.array_equal(visits.anonymous, np.array(unknown)[visits.shopper])


def test_a_window_without_purchases_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was bought"):
        make_world(BOUGHT[:2])


def test_the_world_is_read_from_the_tables(tmp_path: Path) -> None:
    bought = frame(BOUGHT).with_columns(
        pl.from_epoch("second").cast(pl.Datetime("us")).alias("occurred_at"), pl.lit("purchase").alias("event_type")
    )
    looked = bought.with_columns(pl.lit("view").alias("event_type"), pl.lit("i5").alias("item_id"))
    pl.concat([bought, looked]).drop("second").write_parquet(tmp_path / "interactions.parquet")
    items_frame().write_parquet(tmp_path / "items.parquet")
    # 1970-04-11 is the hundredth day, 1970-05-11 the hundred-and-thirtieth.
    read, made = World.read(tmp_path, "1970-04-11", "1970-05-11"), make_world()
    assert (read.cut, read.until) == (CUT, UNTIL)
    assert read.counts() == made.counts()
    assert np.array_equal(read.baskets.second, made.baskets.second) and np.array_equal(
        read.baskets.items, made.baskets.items
    )


# Clicks


def test_examination_falls_with_the_place_and_is_1_in_the_mean() -> None:
    # 1, 1/2, 1/3 by their mean 11/18.
    assert np.allclose(examination(3, 1.0), [18 / 11, 9 / 11, 6 / 11])
    assert examination(12, 0.0).tolist() == [1.0] * 12


def test_the_chance_of_a_click_is_examination_times_attraction_and_curiosity() -> None:
    world = make_world()
    model = ClickModel.of(world, PLAIN)
    ann, rows = world.shopper_ids.index("ann"), np.array([0, 5])
    wants = model.taste(ann, rows)
    renders = np.array([0, 2])
    # Attraction: half of it is taste by the mean taste, the other half 1; two looks before leave a quarter. Curiosity is a fifth of a click.
    attraction = (0.5 + 0.5 * wants / model.mean_taste) * [1.0, 0.25]
    # Of a widget with two places the first is examined 4/3, the second 2/3 of the mean.
    expected = 0.05 * np.array([4 / 3, 2 / 3]) * (0.2 + 0.8 * attraction)
    chances = model.chances(rows, wants, CUT + DAY, renders, 2)
    assert np.allclose(chances, expected)
    assert expected_clicks(model, ann, rows, CUT + DAY, renders, 2) == pytest.approx(expected.sum())


def test_random_items_get_the_random_ctr_whatever_the_share_of_taste() -> None:
    world = big_world()
    rows = np.arange(len(world.items))
    for share in (0.0, 0.3, 1.0):
        model = ClickModel.of(
            world,
            replace(PLAIN, clicks=replace(PLAIN.clicks, taste_share=share, price_effect=0.3, position_effect=0.0)),
        )
        fresh = np.zeros_like(rows)
        means = [
            model.chances(rows, model.taste(shopper, rows), 0.0, fresh, len(rows)).mean()
            for shopper in range(len(world.shopper_ids))
        ]
        assert np.average(means, weights=world.visit_shares) == pytest.approx(0.05)


def test_what_is_dear_tires_or_is_old_attracts_less() -> None:
    world = make_world()
    model = ClickModel.of(
        world, replace(PLAIN, clicks=replace(PLAIN.clicks, price_effect=0.5, novelty=1.5, novel_days=28.0))
    )
    rows, same = np.array([1, 2, 5]), np.full(3, 0.1)
    usual, dear, new = model.attraction(rows, same, CUT + 11 * DAY, np.zeros(3, dtype=np.int64)).tolist()
    assert dear == pytest.approx(usual * 2**-0.5)
    assert new == pytest.approx(dear * 1.5)  # item 5 is dear too
    tired = model.attraction(rows, same, CUT + 11 * DAY, np.array([1, 10, 99]))
    assert tired.tolist() == pytest.approx([usual * 0.5, dear * 0.5**10, new * 0.5**10])


def test_conversion_rises_with_taste_from_the_floor_to_the_top() -> None:
    model = ClickModel.of(make_world(), PLAIN)
    assert model.conversion(np.array([0.0, 0.5, 1.0, 1.7])).tolist() == pytest.approx([0.02, 0.16, 0.3, 0.3])


# Visits


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    world = big_world()
    runs = []
    for seed in (1, 1, 2):
        service = FakeService(40)
        runs.append(
            (
                simulate(world, CONSTANTS, CallableShop(service.answer, lambda e, s=service: s.learn(e)), seed),
                service.events,
            )
        )
    (first, sent), (again, sent_again), (other, _) = runs
    assert first.pages.equals(again.pages) and first.visits.equals(again.visits) and sent == sent_again
    assert not first.pages.equals(other.pages)


def test_visits_are_the_real_ones_and_so_many_more() -> None:
    world = big_world()
    mess = Mess(bots=0.1)
    visits = plan_visits(world, replace(PLAIN.traffic, browsing_visits=3.0, anonymous_share=0.25), mess, 0)
    real = visits.basket != NO_BASKET
    assert real.sum() == 240 and len(visits) == 240 + 720 + 96 and visits.bot.sum() == 96
    assert (np.diff(visits.second) >= 0).all() and not (visits.bot & real).any() and visits.anonymous[visits.bot].all()
    assert sorted(visits.basket[real].tolist()) == list(range(240))
    assert np.array_equal(world.baskets.shopper[visits.basket[real]], visits.shopper[real])
    # 960 visits of shoppers: 0.25 +- four standard errors.
    assert abs(visits.anonymous[~visits.bot].mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 960)


def test_what_is_sampled_is_what_is_expected() -> None:
    world = big_world()
    constants = replace(FRESH, traffic=replace(FRESH.traffic, browsing_visits=10.0))
    service = FakeService(40)
    log = simulate(world, constants, CallableShop(service.answer, lambda e: service.learn(e) and None))
    assert log.pages["expected_clicks"].sum() > 2_000
    for surface in ("home", "similar", "cart"):
        own = log.pages.filter(pl.col("surface") == surface)
        clicks, expected = own["clicks"].sum(), own["expected_clicks"].sum()
        assert abs(clicks - expected) < 4 * np.sqrt(expected), surface
    revenue, expected = log.pages["revenue_cents"].sum(), log.pages["expected_revenue_cents"].sum()
    purchases = log.pages["purchases"].sum()
    assert purchases > 100
    assert abs(revenue - expected) < 4 * 300 * np.sqrt(purchases)  # no item costs more than 300
    by_arm = expectations(log)
    assert set(by_arm) == {"even", "odd"}
    for arm, expectation in by_arm.items():
        own = log.pages.filter(pl.col("label") == arm)
        assert expectation.shown == own["shown"].sum()
        assert abs(own["clicks"].sum() / own["shown"].sum() - expectation.ctr) < 4 * np.sqrt(
            expectation.ctr / expectation.shown
        )


def test_the_truth_does_not_depend_on_what_happened_to_be_clicked() -> None:
    world = big_world()
    model = ClickModel.of(world, FRESH)
    answer = FakeService(40, fixed=True).answer
    visits = plan_visits(world, FRESH.traffic, CLEAN, 3)
    first, again = (truth(model, FRESH, visits, answer) for _ in range(2))
    assert first == again
    # Another seed draws other clicks, but these visits: only the product pages and the times of browsing differ.
    assert first.ctr == pytest.approx(
        truth(model, FRESH, plan_visits(world, FRESH.traffic, CLEAN, 4), answer).ctr, rel=0.1
    )


def test_who_shows_what_is_wanted_gets_more_clicks_and_more_revenue() -> None:
    world = big_world()
    model = ClickModel.of(world, FRESH)
    rows = np.arange(40)

    def knowing(request: Request) -> Answer:
        user = request.get("user_id")
        if user is None:
            return blind(request)
        best = np.argsort(-model.taste(world.shopper_ids.index(user), rows), kind="stable")
        return {"request_id": "r", "items": [{"item_id": world.items.ids[row]} for row in best[: request["k"]]]}

    def blind(request: Request) -> Answer:
        drawn = np.random.default_rng(len(str(request))).permutation(40)[: request["k"]]
        return {"request_id": "r", "items": [{"item_id": world.items.ids[row]} for row in drawn]}

    visits = plan_visits(world, FRESH.traffic, CLEAN, 3)
    table = sensitivity(
        world, FRESH, visits, {"knowing": knowing, "blind": blind}, "blind", {"taste_share": (0.0, 0.2, 0.6)}
    )
    lifts = table.filter(pl.col("arm") == "knowing")["lift"].to_list()
    # Without taste, price or fatigue all items are alike.
    assert lifts[0] == pytest.approx(0.0) and 0.05 < lifts[1] < lifts[2]
    assert table.filter(pl.col("arm") == "blind")["lift"].to_list() == [0.0, 0.0, 0.0]
    assert truth(model, FRESH, visits, knowing).revenue_per_visit > truth(model, FRESH, visits, blind).revenue_per_visit


def test_an_arm_is_asked_once_however_many_values_are_tried() -> None:
    world = big_world()
    visits = plan_visits(world, FRESH.traffic, CLEAN, 3)
    asked = FakeService(40, fixed=True)
    table = sensitivity(world, FRESH, visits, {"fixed": asked.answer}, "fixed", {"curiosity": (0.0, 0.2, 1.0)})
    once = FakeService(40, fixed=True)
    alone = truth(ClickModel.of(world, FRESH), FRESH, visits, once.answer)
    assert asked.asked == once.asked > len(visits)
    shop = CallableShop(FakeService(40, fixed=True).answer)
    log = Simulation(ClickModel.of(world, FRESH), FRESH, visits, shop, label=lambda _: "fixed").run()
    along = moved(world, FRESH, log, {"curiosity": (0.0, 0.2, 1.0)})
    assert (along["expected_clicks"] / along["shown"]).to_list() == pytest.approx(table["ctr"].to_list())
    # FRESH has a curiosity of 0.2; where all is curiosity, every answer gets the random CTR.
    assert table["ctr"].to_list()[1:] == pytest.approx([alone.ctr, 0.05])


def test_a_click_on_what_was_to_be_bought_anyway_is_attributed_but_earns_nothing() -> None:
    world = make_world([(101, "ann", "s2", 0)])
    sure = replace(
        PLAIN,
        clicks=replace(PLAIN.clicks, random_ctr=1.0, curiosity=1.0, position_effect=0.0),
        purchases=replace(PLAIN.purchases, conversion_floor=1.0, conversion_top=1.0),
        traffic=replace(PLAIN.traffic, browsing_visits=0.0, anonymous_share=0.0, product_pages=0),
    )
    sent: list[Event] = []

    def answer(request: Request) -> Answer:
        shown = ["i0", "i5"] if request["surface"] == "home" else []
        return {"request_id": request["surface"], "items": [{"item_id": one} for one in shown]}

    log = simulate(world, sure, CallableShop(answer, sent.extend))
    home, cart = log.pages.to_dicts()
    assert (home["clicks"], home["purchases"], home["revenue_cents"], home["expected_revenue_cents"]) == (
        2,
        1,
        300,
        300,
    )
    assert (home["new_shown"], home["new_clicks"], home["shown"], cart["shown"]) == (1, 1, 2, 0)
    assert log.visits.select("basket_cents", "attributed_cents").row(0) == (150, 450)
    kinds = [(event["type"], event.get("item_id"), event.get("request_id")) for event in sent]
    assert kinds == [
        ("render", None, "home"),
        ("click", "i0", "home"),
        ("cart", "i0", "home"),
        ("click", "i5", "home"),
        ("cart", "i5", "home"),
        ("render", None, "cart"),
        ("purchase", "i0", "home"),
        ("purchase", "i5", "home"),
    ]
    assert all(event["user_id"] == "ann" and event["occurred_at"].endswith("+00:00") for event in sent)
    assert len({event["event_id"] for event in sent}) == len(sent)


def test_bots_click_and_buy_nothing_and_count_nowhere() -> None:
    world = big_world()
    constants = replace(PLAIN, mess=Mess(bots=0.5, bot_clicks=1.0))
    log = simulate(world, constants, CallableShop(FakeService(40).answer))
    bots = log.pages.filter(pl.col("bot"))
    assert bots.height > 100 and (bots["clicks"] == bots["shown"]).all() and bots["purchases"].sum() == 0
    assert sum(one.shown for one in expectations(log).values()) == log.pages.filter(~pl.col("bot"))["shown"].sum()


def test_an_item_that_no_catalogue_has_is_an_error() -> None:
    shop = CallableShop(lambda _: {"request_id": "r", "items": [{"item_id": "nowhere"}]})
    with pytest.raises(ValueError, match="nowhere"):
        simulate(make_world(), PLAIN, shop)


# Mess


def test_mess_comes_at_its_rates() -> None:
    mess = Mess(late=0.1, late_hours=1.0, duplicate=0.05, out_of_order=0.2, missing_id=0.08)
    came: list[Event] = []
    batches: list[list[str]] = []

    def learn(events: Sequence[Event]) -> None:
        came.extend(events)
        batches.append([event.get("event_id", "") for event in events])

    courier = Courier(CallableShop(lambda _: {}, learn), mess, seed=5)
    n = 10_000
    for number in range(0, n, 4):
        batch = [
            {"type": "click", "event_id": f"e{number + one:05}", "request_id": "r", "item_id": "i"} for one in range(4)
        ]
        courier.send(batch, at=float(number))
    courier.finish(0.0)

    def near(count: int, rate: float, of: int) -> bool:
        return abs(count - rate * of) < 4 * np.sqrt(of * rate * (1 - rate))

    copies = Counter(event["event_id"] for event in came if "event_id" in event)
    bare = [event for event in came if "event_id" not in event or "request_id" not in event]
    assert courier.counts["events"] == n and len(came) == n + courier.counts["duplicate"] == courier.counts["accepted"]
    assert (
        near(courier.counts["late"], 0.1, n)
        and near(courier.counts["duplicate"], 0.05, n)
        and near(courier.counts["bare"], 0.08, n)
    )
    assert near(sum(count == 2 for count in copies.values()), 0.05, len(copies)) and max(copies.values()) == 2
    assert len(bare) >= courier.counts["bare"]
    assert near(courier.counts["reversed"], 0.2, courier.counts["batches"])
    assert any(batch != sorted(batch) for batch in batches)


def test_what_is_late_comes_when_it_is_due_and_nothing_is_lost() -> None:
    came: list[tuple[float, str]] = []

    class Clocked:
        def recommend(self, request: Request, at: float) -> Answer:
            raise NotImplementedError

        def take(self, events: Sequence[Event], at: float) -> Counter[str]:
            came.extend((at, event["event_id"]) for event in events)
            return Counter(accepted=len(events))

    courier = Courier(Clocked(), Mess(late=1.0, late_hours=1.0), seed=0)
    courier.send([{"type": "view", "event_id": "a"}], at=0.0)
    courier.send([{"type": "view", "event_id": "b"}], at=3_599.0)
    assert came == []
    courier.send([], at=3_600.0)
    assert came == [(3_600.0, "a")]
    courier.finish(at=5_000.0)
    assert came[1:] == [(5_000.0, "b")]


def test_a_wrong_clock_is_wrong_for_a_whole_visit_and_mess_changes_no_behaviour() -> None:
    world = big_world()
    sent: dict[str, list[Event]] = {"clean": [], "skewed": []}
    skewed = replace(PLAIN, mess=Mess(skewed=0.3, skew_minutes=10.0))
    answer = FakeService(40, fixed=True).answer
    logs = [
        simulate(world, one, CallableShop(answer, sent[name].extend))
        for name, one in (("clean", PLAIN), ("skewed", skewed))
    ]
    assert logs[0].pages.equals(logs[1].pages)
    moved: dict[str, set[float]] = {}
    for right, wrong in zip(sent["clean"], sent["skewed"], strict=True):
        seconds = (
            datetime.fromisoformat(wrong["occurred_at"]) - datetime.fromisoformat(right["occurred_at"])
        ).total_seconds()
        moved.setdefault(right["session_id"], set()).add(round(seconds, 3))
    assert all(len(shifts) == 1 and abs(next(iter(shifts))) <= 600 for shifts in moved.values())
    share = np.mean([shifts != {0.0} for shifts in moved.values()])
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(moved))


def test_an_effect_that_is_put_in_is_what_is_expected() -> None:
    world = big_world()
    visits, model = plan_visits(world, FRESH.traffic, CLEAN, 1), ClickModel.of(world, FRESH)
    shops = [CallableShop(FakeService(40, fixed=True).answer) for _ in range(2)]
    plain = expectations(Simulation(model, FRESH, visits, shops[0]).run())
    more = expectations(Simulation(model, FRESH, visits, shops[1], more_clicks={"odd": 1.05}).run())
    assert more["odd"].ctr == pytest.approx(1.05 * plain["odd"].ctr)
    assert more["even"] == plain["even"]


def test_a_campaign_asks_every_widget_for_its_items_only() -> None:
    world, asked = big_world(), []

    def answer(request: Request) -> Answer:
        asked.append(request)
        return {"request_id": "r", "items": []}

    visits = plan_visits(world, CONSTANTS.traffic, CLEAN, 1)
    filters = {"category": "FOOD"}
    Simulation(ClickModel.of(world, CONSTANTS), CONSTANTS, visits, CallableShop(answer), filters=filters).run()
    assert len(asked) > len(visits) and all(one["filters"] == filters for one in asked)


def test_some_of_the_shoppers_keep_all_their_visits() -> None:
    world = big_world()
    visits = plan_visits(world, CONSTANTS.traffic, CLEAN, 1)
    some = visits.of_some(0.25)
    chosen = np.unique(some.shopper)
    assert len(chosen) == 15 and len(some) == np.isin(visits.shopper, chosen).sum()
    assert visits.of_some(1.0) is visits


# Shops


def test_http_and_in_process_give_the_same_result() -> None:
    world = big_world()
    here, there, inside = (FakeService(40) for _ in range(3))
    logs = [simulate(world, CONSTANTS, CallableShop(here.answer, lambda events: here.learn(events) and None))]
    with over_http(there) as client:
        logs.append(simulate(world, CONSTANTS, HttpShop(client)))
    clock = SimulatedClock(0.0)
    with AsgiShop(inside.asgi, clock) as shop:
        logs.append(simulate(world, CONSTANTS, shop))
    for log in logs[1:]:
        assert log.pages.equals(logs[0].pages) and log.visits.equals(logs[0].visits)
    assert here.events == there.events == inside.events
    assert set(logs[0].pages["surface"]) == {"home", "buy_again", "trending", "new_arrivals", "similar", "cart"}
    assert here.clicks and logs[1].sent == logs[2].sent and logs[1].sent["duplicate"] > 0
    assert clock() > world.cut


def test_a_shop_that_fails_is_an_error_with_its_words() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(503, text="closed today"))
    with httpx.Client(base_url="http://shop", transport=transport) as client:
        with pytest.raises(ShopError, match="closed today"):
            HttpShop(client).recommend({}, 0.0)
        with pytest.raises(ShopError, match="closed today"):
            HttpShop(client).take([{}], 0.0)
    body = b'{"accepted": 0, "duplicate": 0, "rejected": 1, "verdicts": []}'
    rejecting = httpx.MockTransport(lambda _: httpx.Response(422, content=body))
    with httpx.Client(base_url="http://shop", transport=rejecting) as client:
        assert HttpShop(client).take([{}], 0.0) == Counter(rejected=1)


# Calibration


def test_the_random_ctr_has_wilsons_interval() -> None:
    counts = pl.DataFrame(
        {"policy": ["random", "random", "bts"], "clicks": [6, 4, 50], "impressions": [600, 400, 1_000]}
    )
    # 10 of 1,000: centre (0.01 + 3.8415 / 2000) / (1 + 3.8415 / 1000) = 0.011875, half width 0.006434.
    found = random_ctr(counts)
    assert found.value == 0.01
    assert (found.low, found.high) == pytest.approx((0.005441, 0.018309), abs=2e-6)


def test_the_position_effect_is_found_also_where_better_items_stand_first() -> None:
    place = np.arange(1, 4)
    rows = [
        ("c", policy, item, position, int(shown), round(shown * ctr * position**-0.6))
        for item, ctr in enumerate((0.02, 0.2))
        for policy, better_first in (("random", 1.0), ("bts", 4.0))
        for position, shown in zip(
            place.tolist(), 200_000 * (better_first if item else 1.0) ** -(place - 1.0), strict=True
        )
    ]
    counts = pl.DataFrame(
        rows, schema=["campaign", "policy", "item_id", "position", "impressions", "clicks"], orient="row"
    )
    found = position_effect(counts)
    assert found.low < 0.6 < found.high and found.value == pytest.approx(0.6, abs=0.02)


def test_a_learner_gains_what_items_differ() -> None:
    rng = np.random.default_rng(0)
    same = thompson(np.full(34, 0.005), 1_000_000, 0.1, Learner(), rng)
    assert same.gain == pytest.approx(0.0, abs=1e-4)  # pages come in whole numbers
    chances = np.full(34, 0.005)
    chances[:3] = 0.02
    found = thompson(chances, 4_000_000, 0.1, Learner(), rng)
    # Three slots for three best items: 0.02 over the mean (3 * 0.02 + 31 * 0.005) / 34.
    assert found.gain == pytest.approx(0.02 / chances.mean() - 1, rel=0.02)
    assert found.effective_items == pytest.approx(3.0, rel=0.05)
    untrained = thompson(chances, 40_000, 0.1, Learner(days_before=0), rng)
    assert 0 < untrained.gain < found.gain and untrained.effective_items > found.effective_items


def test_the_share_of_taste_is_that_which_gives_the_gain() -> None:
    world = big_world(n_items=120)
    model = ClickModel.of(world, replace(CONSTANTS, clicks=replace(CONSTANTS.clicks, curiosity=0.0)))
    trial = Trial.draw(model, "catalogue", 2, Learner(days_before=7), 0)
    assert [len(draws[0]) for draws in trial.items] == [80, 34, 46]
    share = fit_taste_share(trial, target=0.06, steps=6)
    assert trial.gains(share).mean() == pytest.approx(0.06, abs=0.006)
    with pytest.raises(ValueError, match="nothing but taste"):
        fit_taste_share(trial, target=100.0)
    campaign = Campaign("x", 3, 0.004, 0.005, 1_000)
    assert trial.chances(np.array([0, 1, 2]), campaign, 0.4).mean() == pytest.approx(0.004)
    assert campaign.gain == pytest.approx(0.25)


# Constants


def test_constants_are_complete_and_possible(tmp_path: Path) -> None:
    assert 0 < CONSTANTS.clicks.taste_share < 1 and CONSTANTS.traffic.home_k == 12
    path = tmp_path / "constants.toml"
    text = Path("recsys/simulation/constants.toml").read_text()
    for wrong, message in (
        (text.replace("curiosity = ", "luck = "), "needed are"),
        (text.replace("[mess]", "[chaos]"), "has the tables"),
        (text.replace("curiosity = 0.1", "curiosity = 1.5"), "curiosity is 1.5"),
        (text.replace("carts_per_purchase = 2.0", "carts_per_purchase = 0.5"), "who buys has a cart"),
    ):
        assert wrong != text
        path.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            Constants.read(path)

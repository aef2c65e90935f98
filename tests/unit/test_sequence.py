"""The sequence model: what is served is what was trained, and time counts as it should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from recsys.dataset import SECONDS_PER_DAY, Histories
from recsys.events import EVENT_CODE, EventType
from recsys.models.fit.sequence import Network, SequenceRecommender
from recsys.models.fit.visits import DemandGrid, Visits, supported_items
from recsys.models.sequence import time_class, visit_starts
from recsys.ranking import History
from tests.factories import START, checkerboard, make_dataset

DAY = SECONDS_PER_DAY
HOUR = 3_600


def test_events_an_hour_apart_are_one_visit() -> None:
    ages = np.array([3.0, 3.0, 3.0 - 0.04, 1.0, 0.5], dtype=np.float32)
    assert visit_starts(ages).tolist() == [0, 3, 4]


def test_classes_of_time_end_at_their_edges() -> None:
    assert time_class(np.array([0.0, 0.5, 0.6, 7.0, 1_000.0], dtype=np.float32)).tolist() == [0, 0, 1, 3, 14]


def test_items_need_shoppers_and_the_most_met_come_first() -> None:
    # Item 0 has two shoppers, item 1 one who came twice, item 2 three.
    rows = [
        (START + n, shopper, item, "purchase")
        for n, (shopper, item) in enumerate([(0, 0), (1, 0), (0, 1), (0, 1), (0, 2), (1, 2), (2, 2)])
    ]
    dataset = make_dataset(rows, n_items=4, n_users=3)
    assert supported_items(dataset, 2, 10).tolist() == [0, 2]
    assert supported_items(dataset, 1, 1).tolist() == [2]


def visits() -> Visits:
    """Shopper 0 buys 0 and 1 together, 2 two days later; shopper 1 buys 2 an hour and a half after that. Asked at day 4."""
    rows = [
        (START, 0, 0, "purchase"),
        (START, 0, 1, "purchase"),
        (START + 2 * DAY, 0, 2, "purchase"),
        (START + 2 * DAY + HOUR // 2, 1, 2, "view"),
    ]
    dataset = make_dataset(rows, n_items=3, n_users=2)
    return Visits.of(dataset, START + 4 * DAY, np.arange(3, dtype=np.int32))


def test_visits_know_their_shopper_day_and_items() -> None:
    found = visits()
    assert found.offsets.tolist() == [0, 2, 3]
    assert found.starts.tolist() == [0, 2, 3, 4]
    assert np.allclose(found.first_day, [-4.0, -2.0, -2.0 + 0.5 / 24], atol=1e-4)
    # Two equal items of one visit: 1 / sqrt(2) each; alone: 1, whatever the event is worth.
    assert np.allclose(found.weight, [2**-0.5, 2**-0.5, 1.0, 1.0])


def test_a_question_sees_what_lies_before_it_and_asks_for_what_follows() -> None:
    found = visits()
    shoppers, days = np.array([0, 0, 1]), np.array([-4.0, -1.0, -3.0], dtype=np.float32)
    assert found.before(shoppers, days, 5).tolist() == [[-1, -1], [0, 1], [-1, -1]]
    assert found.before(shoppers, days, 1).tolist() == [[-1], [1], [-1]]
    rows, items = found.bought(shoppers, days, days + np.float32(2.5))
    assert list(zip(rows.tolist(), items.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (2, 2)]


def test_demand_knows_no_future() -> None:
    grid = DemandGrid.of(visits(), 3, (10.0,), 7.0)
    assert grid.days.tolist() == [-7.0, -3.5, 0.0]
    # At day -7 nothing was sold; at -3.5 items 0 and 1, equally, each 1.5 times the average of three items.
    assert np.allclose(grid.levels[0, 0], np.log(0.05))
    assert np.allclose(grid.levels[1, 0], np.log([1.55, 1.55, 0.05]), atol=1e-5)
    assert grid.rows(np.array([-9.0, -3.6, -3.5, 0.0], dtype=np.float32)).tolist() == [0, 0, 1, 2]


def test_numpy_answers_as_torch_does() -> None:
    torch.manual_seed(0)
    dataset = checkerboard()
    dataset = replace(dataset, events=replace(dataset.events, event_type=(dataset.events.item % 4).astype(np.uint8)))
    items = supported_items(dataset, 1, 100)
    places = np.full(dataset.n_items, -1, dtype=np.int32)
    places[items] = np.arange(len(items))
    past = Visits.of(dataset, dataset.until, places)
    settings = SequenceRecommender(dimensions=8, layers=3, max_visits=4)
    vectors = np.random.default_rng(0).standard_normal((len(items), 8)).astype(np.float32)
    network = Network(settings, vectors, past, DemandGrid.of(past, len(items), (10.0, 60.0), 30.0))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model = network.to_model(items, places)
    histories = Histories(dataset, dataset.until)
    shoppers = np.arange(10)
    with torch.no_grad():
        logits = network(shoppers, np.zeros((10, 1), dtype=np.float32)).numpy()
    for shopper in shoppers:
        served = model.vectors @ model.shopper(histories[int(shopper)]) + model.wanted
        assert np.allclose(served, logits[shopper], atol=1e-3)


def test_what_is_ahead_of_a_question_does_not_change_its_answer() -> None:
    dataset = checkerboard()
    places = np.arange(dataset.n_items, dtype=np.int32)
    past = Visits.of(dataset, dataset.until, places)
    vectors = np.random.default_rng(0).standard_normal((dataset.n_items, 8)).astype(np.float32)
    network = Network(
        SequenceRecommender(dimensions=8, layers=2), vectors, past, DemandGrid.of(past, len(places), (10.0, 60.0), 30.0)
    ).eval()
    early = np.full((5, 1), -15.0, dtype=np.float32)
    with torch.no_grad():
        alone = network(np.arange(5), early)
        together = network(np.arange(5), np.concatenate([early, np.zeros_like(early)], axis=1))[::2]
    assert torch.allclose(alone, together, atol=1e-4)


def test_a_question_counts_what_is_recent_by_its_age() -> None:
    dataset = checkerboard()
    model = SequenceRecommender(dimensions=8, min_steps=20, min_shoppers=1).fit(
        dataset, dataset.until, np.random.default_rng(0)
    )
    bought = np.full(2, EVENT_CODE[EventType.PURCHASE], dtype=np.uint8)
    items = np.array([0, 1], dtype=np.int32)
    recent = History(items, bought, np.array([20.0, 1.0], dtype=np.float32))
    far = History(items, bought, np.array([200.0, 1.0], dtype=np.float32))
    assert not np.allclose(model.shopper(recent), model.shopper(far), atol=1e-6)


def test_a_shop_without_enough_shoppers_gets_a_model_without_answers() -> None:
    dataset = make_dataset([(START, 0, 0, "purchase")], n_items=2, n_users=1)
    model = SequenceRecommender().fit(dataset, dataset.until, np.random.default_rng(0))
    assert len(model.items) == 0

"""A rule file tried on a shop: what it changes, what stands against it, and what each rule costs."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from sqlalchemy import URL

from recsys import cli
from recsys.calibration import ANY, Curve, calibrated
from recsys.compose import Fallback
from recsys.events import Surface
from recsys.ranking import NO_ITEM, Ranking
from recsys.rules.reading import RuleSet
from recsys.rules.worth import CHANCES, STAND_IN, Predictor, Worth, worth
from recsys.store.database import database_url, open_database, reading, writing
from recsys.store.migrate import upgrade
from recsys.store.old_log import Imported, import_log
from recsys.store.reading import events_by_id, latest_exposures
from recsys.store.schema import EXPOSURES
from recsys.store.writing import insert_events, insert_merges, insert_new
from service.answering import Answering
from service.answers import Ruling, Shopper
from service.bundles import LiveBundle
from service.dry_run import dry_run, predictor_of
from service.ladder import Memory, Rung, Step
from service.replay import from_log, open_live, requests_for, sampled
from service.rules import engine_for
from service.schemas import Filters, RecommendRequest
from tests.factories import history
from tests.ruled import rules
from tests.shop import publish_tiny_shop

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry")
    publish_tiny_shop(folder)
    return folder


@pytest.fixture(scope="module")
def live(data_dir: Path) -> LiveBundle:
    return open_live(data_dir, None)


def ranking(*items: int, scores: tuple[float, ...]) -> Ranking:
    n = len(items)
    return Ranking(
        np.array(items, dtype=np.int32),
        np.array(scores, dtype=np.float32),
        ("model",) * n,
        np.full(n, NO_ITEM, dtype=np.int32),
    )


def test_an_answer_is_worth_its_purchases_and_their_prices() -> None:
    plain = ranking(0, 1, 2, scores=(4.0, 2.0, 1.0))
    # Item 1 first, 0 third; scores are those without rules, whatever the answer says. Item 3 was not among them.
    answer = ranking(1, 3, 0, scores=(9.0, 9.0, 9.0))
    prices = np.array([100, 200, 300, -1], dtype=np.int64)
    half = Predictor(lambda _, r: np.asarray(r.scores / 8, dtype=np.float32), "half", relative=False)
    # 2/8 + 0 + 4/8; times 200 and 100 cents.
    assert worth(half, Surface.HOME, answer, plain, prices) == Worth(0.75, 100.0)
    # Shares of the best, 4: 2/4 at rank 1, 4/4 at rank 3, which counts 1 / log2(4).
    assert worth(STAND_IN, Surface.HOME, answer, plain, prices) == Worth(1.0, 150.0)


def tried(live: LiveBundle, set_: RuleSet, n: int = 70) -> Any:
    return dry_run(live, set_, sampled(live, n, NOON.timestamp()), predictor_of(live.bundle))


def test_each_rule_has_its_price(live: LiveBundle) -> None:
    run = tried(
        live,
        rules(
            {"kind": "exclude", "items": {"category": "DAIRY > MILK"}, "name": "no-milk"},
            {"kind": "boost", "items": {"ids": "nobody"}, "factor": 2.0, "name": "nothing"},
            {"kind": "pin", "item_id": "item-20", "position": 1, "name": "hero", "when": {"surfaces": "home"}},
            {"kind": "cap", "by": "brand", "at_most": 2, "name": "never", "when": {"regions": "atlantis"}},
        ),
    )
    assert run.requests == 70 and run.idle == ["never"]
    milk, nothing, hero, never = (run.effects[name] for name in ("no-milk", "nothing", "hero", "never"))
    assert (milk.in_force, nothing.in_force, hero.in_force) == (70, 70, 10)
    # A shopper whose region is not known: whether the rule is for them cannot be told.
    assert (never.in_force, never.failed, never.price) == (0, 70, Worth(0.0, 0.0))
    assert milk.changed > 10 and milk.price.purchases < 0 and hero.price.purchases < 0
    assert (nothing.changed, nothing.price) == (0, Worth(0.0, 0.0))
    assert run.with_rules.purchases < run.without_rules.purchases
    assert 0 < run.changed <= 70 and run.examples[0].before != run.examples[0].after
    assert "boost 'nothing' means no item of the catalogue" in run.contradictions
    assert run.warnings == ["rule 'nothing': item 'nobody' is not in the catalogue"]


def test_without_rules_nothing_changes(live: LiveBundle) -> None:
    run = tried(live, rules())
    assert (run.requests, run.changed, run.with_rules) == (70, 0, run.without_rules)


def test_chances_take_the_place_of_the_stand_in_where_every_surface_claims_them(live: LiveBundle) -> None:
    curve = Curve("rank", np.array([1.0]), np.array([0.25]))
    of_all = calibrated(live.bundle.surfaces, {surface: {ANY: curve} for surface in Surface})
    of_home = calibrated(live.bundle.surfaces, {Surface.HOME: {ANY: curve}})
    assert predictor_of(live.bundle) is predictor_of(replace(live.bundle, surfaces=of_home)) is STAND_IN
    assert predictor_of(replace(live.bundle, surfaces=of_all)) is CHANCES


def test_an_item_is_worth_the_chance_that_it_has_without_rules() -> None:
    plain = replace(ranking(0, 1, 2, scores=(4.0, 2.0, 1.0)), chances=np.array([0.5, 0.25, np.nan], np.float32))
    # Item 1 was first only since a rule took out 0; of item 2 nothing is claimed, and 3 was not offered.
    answer = replace(ranking(1, 2, 3, scores=(9.0, 9.0, 9.0)), chances=np.full(3, 0.5, np.float32))
    assert worth(CHANCES, Surface.HOME, answer, plain, np.array([100, 200, 300, 400])) == Worth(0.25, 50.0)


def line(kind: str, hour: int, **members: Any) -> bytes:
    """A line as the log of versions before the database has it."""
    moment = NOON.replace(hour=hour).isoformat()
    served = {"served_by": "phase1", "model_version": "v", "degraded": False}
    ids = {"event_id": f"e{hour}"} if kind == "event" else {"request_id": f"r{hour}", **served}
    return orjson.dumps({"kind": kind, "occurred_at": moment, "received_at": moment, **ids, **members})


LOG = [
    line("event", 1, type="purchase", item_id="item-03", user_id="u", session_id="s"),
    line("exposure", 2, user_id="u", surface="home", items=[["item-01", "x"]], request={"k": 7, "cart": ["item-02"]}),
    line("event", 3, type="view", item_id="item-04", user_id="u"),
    line("exposure", 4, user_id="u", surface="home", items=[["item-01", "x"]], request={"k": 3, "region": "north"}),
    line("exposure", 5, session_id="s", surface="buy_again", items=[["item-01", "x"], ["item-02", "x"]]),
    line("exposure", 6, surface="similar", items=[["item-01", "x"]]),  # of an older version: which item?
    b'{"torn',
    b"17",
    line("exposure", 7, surface="similar", items=[], request={"k": 2, "item_id": "item-09", "filters": {"brand": "B"}}),
]


def with_log(data_dir: Path) -> URL:
    """A database with the log in it, two workers' files having been taken in."""
    (data_dir / "log").mkdir()
    (data_dir / "log" / "events-1.jsonl").write_bytes(b"\n".join(LOG[::2]))
    (data_dir / "log" / "events-2.jsonl").write_bytes(b"\n".join(LOG[1::2]))
    url = database_url(data_dir)
    engine = open_database(url)
    upgrade(engine)
    done = import_log(engine, data_dir)
    assert (done.events, done.exposures, done.known, done.unreadable) == (2, 5, 0, 2)
    assert import_log(engine, data_dir) == Imported()
    engine.dispose()
    return url


def test_the_log_gives_requests_with_the_history_of_then(tmp_path: Path, live: LiveBundle) -> None:
    engine = open_database(with_log(tmp_path))
    first, second, third, fourth = from_log(engine, live, 10)
    assert (first.request.k, first.request.cart, first.shopper.history.items.tolist()) == (7, ("item-02",), [3])
    assert first.shopper.history.age_days.tolist() == pytest.approx([1 / 24])
    assert (second.request.region, second.shopper.history.items.tolist()) == ("north", [3, 4])
    assert (third.request.where, third.request.k, third.shopper.history.items.tolist()) == (Surface.BUY_AGAIN, 2, [3])
    assert (fourth.request.item_id, fourth.request.filters) == ("item-09", Filters(brand="B"))
    assert [one.at for one in from_log(engine, live, 3)] == [second.at, third.at, fourth.at]
    engine.dispose()


def test_what_a_session_did_is_its_users_from_the_login_on(tmp_path: Path, live: LiveBundle) -> None:
    engine = open_database(with_log(tmp_path))
    with writing(engine) as connection:
        login = NOON.replace(hour=4, minute=30, tzinfo=None)
        insert_merges(connection, [{"session_id": "t", "user_id": "v", "since": login}])
        template = next(latest_exposures(engine))
        del template["number"]
        early, late = ({**template, "user_id": "v", "request_id": f"v{n}"} for n in range(2))
        early["occurred_at"], late["occurred_at"] = login - timedelta(minutes=1), login + timedelta(minutes=1)
        anonymous = {
            "event_id": "x",
            "user_id": None,
            "session_id": "t",
            "received_at": NOON.replace(hour=2, tzinfo=None),
        }
        with reading(engine) as other:
            event = events_by_id(other, ["e1"])[0]
        del event["number"]
        insert_events(connection, [{**event, **anonymous, "item_id": "item-05"}])
        insert_new(connection, EXPOSURES, "request_id", [early, late])
    histories = [one.shopper.history.items.tolist() for one in from_log(engine, live, 10) if one.request.user_id == "v"]
    assert histories == [[], [5]]
    engine.dispose()


RULES = '[[rules]]\nname = "no-milk"\nkind = "exclude"\nitems = { category = "DAIRY > MILK" }\n'


def recsys(*arguments: str) -> tuple[int, str]:
    output = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        pytest.raises(SystemExit) as stopped,
    ):
        patch.setattr("sys.argv", ["recsys", *arguments])
        cli.main()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), output.getvalue()


def test_the_command_prints_what_a_file_changes_and_costs(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    code, printed = recsys("rules", "check", str(path), "--data-dir", str(data_dir), "--limit", "14")
    assert code == 0
    assert "14 requests made up from the bundle's users" in " ".join(printed.split())
    assert "answers change" in printed and "no-milk" in printed and "points" in printed
    code, printed = recsys("rules", "check", str(path), "--data-dir", str(data_dir), "--limit", "14", "--json")
    content = orjson.loads(printed)
    assert content["effects"]["no-milk"]["in_force"] == content["requests"] == 14
    path.write_text(RULES.replace("exclude", "exlude"))
    code, printed = recsys("rules", "check", str(path), "--data-dir", str(data_dir))
    assert code == 1 and "rule 'no-milk': kind: give one of" in printed
    code, printed = recsys("rules", "check", str(path), "--data-dir", str(data_dir / "nowhere"))
    assert code == 1


def test_the_command_reads_the_log_where_there_is_one(data_dir: Path, tmp_path: Path, live: LiveBundle) -> None:
    found, words = requests_for(with_log(tmp_path), live, 100)
    assert len(found) == 4 and words.startswith("4 requests of the log")
    found, words = requests_for(database_url(data_dir), live, 5)
    assert not (data_dir / "recsys.db").exists()  # looking makes no database
    assert len(found) == 5 and "made up" in words


# The way from a request to an answer, under random rules


def random_rules(rng: np.random.Generator) -> RuleSet:
    shelves = ["DAIRY", "DAIRY > MILK", "BAKERY > BREAD", "PRODUCE", "GROCERY > PASTA", "NOWHERE"]
    items: list[dict[str, Any]] = [
        *({"category": shelf} for shelf in shelves),
        {"brand": "Private"},
        {"max_price_cents": 150},
        {"new": True},
    ]

    def some() -> dict[str, Any]:
        return items[int(rng.integers(len(items)))]

    tables: list[dict[str, Any]] = [
        {"kind": "exclude", "items": some(), "reason": "legal"},
        {"kind": "only", "items": some()},
        {"kind": "boost", "items": some(), "factor": 3.0},
        {"kind": "bury", "items": some(), "factor": 0.1},
        {"kind": "pin", "item_id": f"item-{rng.integers(1, 60):02}", "position": int(rng.integers(1, 5))},
        {"kind": "quota", "items": some(), "at_least": 2},
        {"kind": "cap", "by": "category", "at_most": int(rng.integers(1, 4))},
        {"kind": "price", "at_least": 0.7, "at_most": 1.3},
        {"kind": "not_bought", "days": 30},
    ]
    return rules(*(table for table in tables if rng.random() < 0.4))


def random_step(live: LiveBundle, request: RecommendRequest, shopper: Shopper, rng: np.random.Generator) -> Step:
    """A rung of the ladder below the best, as the request might find it."""
    surface = request.where
    if rng.random() < 0.3:
        return Step(Rung.POPULAR, live.bundle.popularity)
    if rng.random() < 0.3:
        return Step(Rung.SIMPLE, live.simple[surface])
    said = Answering.rank(live, RecommendRequest(surface=surface, item_id=request.item_id, k=60), shopper).ranking
    memory = Memory()
    asked = request.model_copy(update={"user_id": "u"})
    memory.keep(asked, live.bundle.version, said, "said", 0, 0.0)
    remembered = memory.of(asked, live.bundle.version, None, 1.0)
    known = () if remembered is None else (remembered,)  # nothing was said that could be remembered
    return Step(Rung.REMEMBERED, Fallback((*known, live.simple[surface]), "said"))


def test_random_requests_are_answered_as_the_rules_say(live: LiveBundle) -> None:
    rng = np.random.default_rng(0)
    catalogue, histories = live.catalogue, live.bundle.histories
    for _ in range(150):
        set_ = random_rules(rng)
        engine = engine_for(set_, live)
        for surface in Surface:
            shopper = Shopper(histories.of_row(int(rng.integers(len(histories))))) if rng.random() < 0.7 else Shopper()
            request = RecommendRequest(
                surface=surface,
                item_id=f"item-{rng.integers(1, 55):02}",
                cart=(f"item-{rng.integers(1, 55):02}",),
                k=int(rng.integers(1, 60)),
                filters=Filters(max_price_cents=int(rng.integers(100, 500))) if rng.random() < 0.3 else Filters(),
            )
            degraded = bool(rng.random() < 0.2)
            step = random_step(live, request, shopper, rng) if degraded else None
            ruling = Ruling(engine, NOON.timestamp(), shopper.history, history_read=not degraded)
            trend = [f"item-{row:02}" for row in rng.choice(55, 5, replace=False)]
            deep = request.model_copy(update={"k": 100})
            answer = Answering.rank(live, request, shopper, trend, ruling, step=step, degraded=degraded)
            plain = Answering.rank(live, deep, shopper, trend, step=step, degraded=degraded)
            shown = answer.ranking.items.tolist()
            context = f"{surface} {request} {set_.rules}"
            assert len(set(shown)) == len(shown) <= request.k, context
            assert answer.rules == set_.version
            if surface is not Surface.BUY_AGAIN:
                assert set(shown) <= set(plain.ranking.items.tolist()), (
                    context
                )  # never more than is eligible without rules
            kinds = {rule.kind for rule in set_.rules}
            if not kinds:
                assert shown == plain.ranking.items.tolist()[: request.k], context
            for rule in set_.rules:
                if rule.kind == "exclude":
                    assert not engine.entries[0].selection.match[shown].any(), context  # type: ignore[union-attr]
                if rule.kind == "cap":
                    groups = catalogue.category[shown].tolist()
                    assert all(groups.count(group) <= rule.at_most for group in groups), context


def test_a_rule_that_reads_the_history_does_not_change_what_models_are_told(live: LiveBundle) -> None:
    request = RecommendRequest(surface=Surface.SIMILAR, item_id="item-20", k=12)
    plain = Answering.rank(live, request, Shopper())
    set_ = rules({"kind": "not_bought", "days": 0.001})
    known = history(2, 3)
    ruled = Answering.rank(live, request, Shopper(known), ruling=Ruling(engine_for(set_, live), 0.0, known))
    assert ruled.ranking.items.tolist() == plain.ranking.items.tolist()

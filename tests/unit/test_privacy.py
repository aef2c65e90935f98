"""`recsys.privacy`: pseudonyms, tombstones, and receipts that count exactly what was removed."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import orjson
import pytest

from recsys.errors import UserError
from recsys.ids import NOT_FOUND, HashIndex
from recsys.privacy.deletions import DATABASE, FILES, REDIS, Deletions, Order
from recsys.privacy.export import KINDS
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.privacy.tombstones import Tombstones
from recsys.store.schema import METADATA
from service.judging import ACCEPTED, IGNORED, REJECTED, consents, judge, parse_body
from service.schemas import Event, RecommendRequest, read_page, request_from_query
from service.veil import VeiledIndex
from tests.unit.test_store import NOON

NOW = 1_790_000_000.0


@pytest.fixture
def deletions(tmp_path: Path) -> Deletions:
    return Deletions(tmp_path, Pseudonyms(tmp_path))


def test_a_pseudonym_says_nothing_without_its_key(tmp_path: Path) -> None:
    first, again = Pseudonyms(tmp_path / "a"), Pseudonyms(tmp_path / "a")
    other, given = Pseudonyms(tmp_path / "b"), Pseudonyms(tmp_path / "a", "a key that is long enough")
    assert first.of("user", "anna") == again.of("user", "anna") and first.fingerprint == again.fingerprint
    found = [one.of("user", "anna") for one in (first, other, given)] + [
        first.of("session", "anna"),
        first.of("user", "ben"),
    ]
    assert len(set(found)) == 5 and all(len(one) == 32 for one in found)
    assert first.of("user", "\ud800")  # whatever an id is
    assert given.of("user", "anna") == Pseudonyms(tmp_path, "a key that is long enough").of("user", "anna")
    key = tmp_path / "a" / "privacy" / "key"
    assert key.stat().st_mode & 0o777 == 0o600 and key.parent.stat().st_mode & 0o777 == 0o700
    key.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        Pseudonyms(tmp_path / "a").of("user", "anna")
    with pytest.raises(UserError, match="at least 16"):
        Pseudonyms(tmp_path, "short")


def test_those_who_make_a_key_at_once_have_the_same(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(Pseudonyms(tmp_path).of("user", "x"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and len(set(found)) == 1
    assert [path.name for path in (tmp_path / "privacy").iterdir()] == ["key"]


def test_a_key_that_is_lost_or_exchanged_is_noticed(deletions: Deletions, tmp_path: Path) -> None:
    deletions.begin("anna", NOW)
    with pytest.raises(UserError, match="another key"):
        Tombstones(tmp_path, Pseudonyms(tmp_path, "another one, long enough")).check()
    with pytest.raises(UserError, match="another key"):
        Deletions(tmp_path, Pseudonyms(tmp_path, "another one, long enough")).begin("ben", NOW)
    (tmp_path / "privacy" / "key").unlink()
    with pytest.raises(UserError, match="is gone"):
        Tombstones(tmp_path, Pseudonyms(tmp_path))


def test_a_tombstone_is_a_line_in_time(deletions: Deletions, tmp_path: Path) -> None:
    pseudonyms = Pseudonyms(tmp_path)
    tombstones = Tombstones(tmp_path, pseudonyms)
    assert tombstones.deleted_until("anna") is None and not tombstones.hides("anna")
    first, second = deletions.begin("anna", NOW), deletions.begin("anna", NOW + 5)
    tombstones.follow()
    assert tombstones.deleted_until("anna") == NOW + 5 and tombstones.deleted_until("ben") is None
    # A bundle that was trained between the two knows the shopper who came back, and is to forget them too.
    assert tombstones.hides("anna", [first.receipt]) and not tombstones.hides("anna", [first.receipt, second.receipt])
    assert [one.receipt for one in deletions.lift("anna", NOW + 9)] == [first.receipt, second.receipt]
    tombstones.follow()
    assert tombstones.deleted_until("anna") is None and tombstones.hides("anna") and deletions.lift("anna", NOW) == []
    assert all(
        "anna" not in path.read_text() for path in (tmp_path / "privacy").rglob("*.json*") if "orders" not in path.parts
    )


def test_a_line_that_a_crash_has_torn_is_written_over(deletions: Deletions, tmp_path: Path) -> None:
    deletions.begin("anna", NOW)
    path = tmp_path / "privacy" / "tombstones.jsonl"
    path.write_bytes(path.read_bytes() + b'{"receipt": "to')
    tombstones = Tombstones(tmp_path, Pseudonyms(tmp_path))
    assert len(tombstones) == 1
    deletions.begin("ben", NOW)
    tombstones.follow()
    assert len(tombstones) == 2 and tombstones.hides("ben")
    assert len(path.read_bytes().splitlines()) == 2


def test_a_list_that_is_damaged_is_said_to_be(deletions: Deletions, tmp_path: Path) -> None:
    deletions.begin("anna", NOW)
    (tmp_path / "privacy" / "tombstones.jsonl").write_bytes(b"garbage\n")
    with pytest.raises(UserError, match="is damaged: bring it back from a backup"):
        Tombstones(tmp_path, Pseudonyms(tmp_path))


def test_an_index_does_not_find_who_is_deleted(deletions: Deletions, tmp_path: Path) -> None:
    index = HashIndex.build(["anna", "ben"])
    receipt = deletions.begin("anna", NOW)
    tombstones = Tombstones(tmp_path, Pseudonyms(tmp_path))
    veiled = VeiledIndex(index.hashes, index.rows, tombstones, frozenset())
    trained_since = VeiledIndex(index.hashes, index.rows, tombstones, frozenset({receipt.receipt}))
    assert [veiled.row(name) for name in ("anna", "ben", "carla")] == [NOT_FOUND, 1, NOT_FOUND]
    assert trained_since.row("anna") == 0


@pytest.mark.parametrize("crash", ["before", "after", None])
def test_what_a_crash_leaves_is_counted_once(deletions: Deletions, crash: str | None) -> None:
    """Three rows in one place: it dies before they are gone, or when they are and nobody has noted it."""
    name, rows = deletions.begin("anna", NOW).receipt, [1, 2, 3]

    def step() -> None:
        with deletions.removing(name, {"log/events/one": len(rows), "raw/x": 0}):
            if crash == "before":
                raise KeyboardInterrupt
            rows.clear()
            if crash == "after":
                raise KeyboardInterrupt

    if crash is not None:
        with pytest.raises(KeyboardInterrupt):
            step()
        assert deletions.receipt(name).removed["log/events"] == 0
        crash = None
    step()
    step()  # a third time there is nothing
    receipt = deletions.receipt(name)
    assert (receipt.removed["log/events"], receipt.removing) == (3, {}) and "raw/x" not in receipt.removed


def test_an_order_goes_with_its_last_step(deletions: Deletions, tmp_path: Path) -> None:
    receipt = deletions.begin("anna", NOW)
    order = tmp_path / "privacy" / "orders" / f"{receipt.receipt}.json"
    assert order.stat().st_mode & 0o777 == 0o600 and deletions.order(receipt.receipt) == Order("anna", receipt.at)
    for step in (DATABASE, FILES):
        assert deletions.finish(receipt.receipt, step, NOW).pending and order.exists()
    assert deletions.honoured() == [receipt.receipt] and [one.receipt for one in deletions.pending(REDIS)] == [
        receipt.receipt
    ]
    assert deletions.pending(FILES) == []
    assert deletions.finish(receipt.receipt, REDIS, NOW).pending == [] and not order.exists()
    deletions.note_model("v1", deletions.honoured())
    deletions.note_model("v2", deletions.honoured())
    assert deletions.receipt(receipt.receipt).first_model == "v1"
    assert (
        [one.receipt for one in deletions.again("anna")]
        == [receipt.receipt]
        == [one.receipt for one in deletions.pending()]
    )
    for name in ("../orders/x", "none"):
        with pytest.raises(UserError, match="no receipt"):
            deletions.receipt(name)


@pytest.mark.parametrize("dies_at", ["tombstone", "receipt"])
def test_an_order_that_was_given_is_begun_after_a_crash(
    deletions: Deletions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    with monkeypatch.context() as patch:
        target = "recsys.privacy.deletions.append" if dies_at == "tombstone" else "recsys.privacy.deletions.Receipt"
        patch.setattr(target, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            deletions.begin("anna", NOW)
    (tmp_path / "privacy" / "orders" / "torn.tmp").write_text("anna")
    (receipt,) = deletions.pending()
    assert not list((tmp_path / "privacy" / "orders").glob("*.tmp"))
    assert receipt.pending == ["database", "redis", "files"]
    assert Tombstones(tmp_path, Pseudonyms(tmp_path)).deleted_until("anna") == NOW
    assert asdict(receipt) == asdict(deletions.receipt(receipt.receipt))


# Consent


def test_refused_consent_leaves_no_id_in_a_request() -> None:
    who = {"user_id": "anna", "session_id": "s"}
    asked = RecommendRequest.model_validate({**who, "consent": False, "item_id": "i"})
    assert (asked.user_id, asked.session_id, asked.item_id) == (None, None, "i") and "anna" not in repr(asked)
    assert request_from_query([("consent", "false"), ("user_id", "anna")]).user_id is None
    assert request_from_query([("consent", "true"), ("user_id", "anna")]).user_id == "anna"
    pages = read_page({**who, "consent": False, "widgets": [{"name": "a"}, {"name": "b", "surface": "trending"}]})
    assert [(one.user_id, one.session_id, one.consent) for one in pages.values()] == [(None, None, False)] * 2


def test_an_error_does_not_say_what_came_in() -> None:
    with pytest.raises(ValueError) as error:
        RecommendRequest.model_validate({"user_id": "secret" * 100})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("consent", "agreed"),
    [
        (True, True), (False, False), (None, None), ("false", None), (0, None),
        ({"ad_user_data": "GRANTED", "ad_personalization": "GRANTED"}, True),
        ({"ad_user_data": "GRANTED", "ad_personalization": "DENIED"}, False),
    ],
)  # fmt: skip
def test_what_is_said_of_consent(consent: object, agreed: bool | None) -> None:
    event = {"type": "view", "item_id": "i", "user_id": "anna", "consent": consent}
    assert consents(event) is agreed
    (judged,) = judge([event], NOON.astimezone())
    verdict = ACCEPTED if isinstance(judged.found, Event) else judged.found.verdict  # type: ignore[union-attr]
    assert verdict == {True: ACCEPTED, False: IGNORED, None: REJECTED}[agreed]


def test_a_body_may_refuse_for_all_its_events() -> None:
    event = {"type": "view", "item_id": "i", "user_id": "anna"}
    for events in ([event, event], [event, "nonsense", {**event, "type": "?"}]):
        found = judge(parse_body(orjson.dumps({"consent": False, "events": events})), NOON.astimezone())
        assert [one.found.verdict for one in found] == [IGNORED] * len(events)  # type: ignore[union-attr]
    assert parse_body(orjson.dumps({"consent": True, "events": [event]})) == [{"consent": True, **event}]
    assert consents("no event") is True


def test_the_documentation_names_every_kind_of_line_and_every_place() -> None:
    text = Path("docs/privacy.md").read_text()
    for kind, members in KINDS.items():
        table = {
            "event": "events",
            "exposure": "exposures",
            "render": "renders",
            "login": "merges",
            "verdict": "verdicts",
        }
        said = f"| `{kind}` |"
        assert said in text, kind
        line = next(line for line in text.splitlines() if line.startswith(said))
        if kind in table:
            assert f"`{table[kind]}`" in line and tuple(METADATA.tables[table[kind]].columns.keys()) == members
        else:
            assert all(f"`{member}`" in line for member in members), kind
    receipt = asdict(Deletions.__init__.__globals__["Receipt"]("r", "s", "k", "a"))
    for name in (*receipt.keys() - {"removing"}, "pending"):
        assert f"| `{name}` |" in text, name
    assert np.all([place.split("/")[0] in text for place in receipt["removed"]])

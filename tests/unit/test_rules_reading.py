"""Rule files: what is wrong with one is said by file, rule and field; its version is that of its content."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from recsys.rules.reading import RulesError, parse_rules, read_rules
from recsys.rules.schema import Exclude, When

EXCLUDE = 'name = "a"\nkind = "exclude"\n'
BRAND = 'items = { brand = "x" }\n'


def wrong(text: str) -> str:
    with pytest.raises(RulesError) as error:
        parse_rules(tomllib.loads(text), "shop.toml")
    return str(error.value)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ('name = "a"\n' + BRAND, "rule 'a': kind: give one of exclude, only, boost"),
        ('name = "a"\nkind = "boots"', "rule 'a': kind: give one of"),
        (EXCLUDE, "rule 'a': items: is missing; a rule of kind 'exclude' needs it"),
        (EXCLUDE + "items = { brnd = 'x' }", "rule 'a': items.brnd: unknown name; allowed: ids, category, brand"),
        (EXCLUDE + "items = {}", "rule 'a': items: names no items: give ids, category"),
        (EXCLUDE + BRAND + "when = { surface = 'home' }", "when.surface: unknown name; allowed: surfaces, shopper"),
        (EXCLUDE + BRAND + "when = { item = { id = 'x' } }", "when.item.id: unknown name; allowed: ids"),
        (EXCLUDE + BRAND + "when = { surfaces = 'cellar' }", "rule 'a': when.surfaces.0: Input should be 'home'"),
        (EXCLUDE + BRAND + "when = { hours = [9, 25] }", "when.hours.1: Input should be less than or equal to 24"),
        (EXCLUDE + BRAND + "when = { hours = [9, 9] }", "when: hours are from and until, which must differ"),
        (EXCLUDE + BRAND + "when = { min_events = 3, max_events = 2 }", "when: min_events is above max_events"),
        (EXCLUDE + BRAND + "when = { from = 2026-01-02, until = 2026-01-01 }", "when: from is not before until"),
        (EXCLUDE + BRAND + "reason = 'lega'", "rule 'a': reason: Input should be 'legal', 'stock' or 'merchandising'"),
        (EXCLUDE + BRAND + "on_error = 'ajar'", "rule 'a': on_error: Input should be 'closed' or 'open'"),
        ('kind = "exclude"\n' + BRAND, "rule number 1: name: is missing"),
        ('name = "a b"\nkind = "exclude"\n' + BRAND, "rule 'a b': name: String should match pattern"),
        ('name = "a"\nkind = "boost"\nfactor = 0.5\n' + BRAND, "rule 'a': factor: Input should be greater than 1"),
        ('name = "a"\nkind = "bury"\nfactor = 1.5\n' + BRAND, "rule 'a': factor: Input should be less than 1"),
        (
            'name = "a"\nkind = "pin"\nitem_id = "x"\nposition = 0',
            "position: Input should be greater than or equal to 1",
        ),
        ('name = "a"\nkind = "cap"\nat_most = 1', "rule 'a': say what is counted: give by, items, or both"),
        ('name = "a"\nkind = "cap"\nat_most = 1\nby = "brand"\nlevel = 1', "level goes with by = 'category'"),
        ('name = "a"\nkind = "price"', "rule 'a': give at_least, at_most or both"),
        ('name = "a"\nkind = "price"\nat_least = 2\nat_most = 1', "at_least is above at_most"),
        (EXCLUDE + "items = { min_price_cents = 2, max_price_cents = 1 }", "min_price_cents is above max_price_cents"),
    ],
)
def test_an_error_names_the_file_the_rule_and_the_field(rule: str, words: str) -> None:
    message = wrong(f"[[rules]]\n{rule}")
    assert message.startswith("shop.toml: ")
    assert words in message


def test_all_that_is_wrong_is_said_at_once() -> None:
    twice = f"[[rules]]\n{EXCLUDE}{BRAND}" * 2
    message = wrong(f"colour = 1\n{twice}[[rules]]\nname = 'b'\nkind = 'pin'\nposition = 1")
    assert message.splitlines() == [
        "shop.toml: colour: unknown name; rules stand under [[rules]]",
        "shop.toml: rule 'b': item_id: is missing; a rule of kind 'pin' needs it",
        "shop.toml: rule 'a': name: two rules are called so",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"rules = 1", "write each rule as a table"), (b"[[rules", "is not TOML"), (b"\xff", "is not TOML")],
)
def test_a_file_that_holds_no_rules(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(content)
    with pytest.raises(RulesError, match=words):
        read_rules(path)
    with pytest.raises(RulesError, match="cannot be read"):
        read_rules(tmp_path / "nothing.toml")


def test_an_empty_file_is_no_rules(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text("# nothing yet\n")
    assert read_rules(path).rules == ()


def test_the_version_is_that_of_the_content() -> None:
    plain = parse_rules(tomllib.loads(f"[[rules]]\n{EXCLUDE}{BRAND}"), "a")
    spaced = parse_rules(tomllib.loads(f"# why\n[[rules]]\n{BRAND}\n\n{EXCLUDE}enabled = true"), "b")
    other = parse_rules(tomllib.loads(f"[[rules]]\n{EXCLUDE}items = {{ brand = 'y' }}"), "a")
    assert len(plain.version) == 12 and int(plain.version, 16) >= 0
    assert plain.version == spaced.version != other.version
    assert plain.without("a").rules == () and plain.without("b").version == plain.version


@pytest.mark.parametrize(
    ("fields", "closed"),
    [
        ({}, False),
        ({"reason": "legal"}, True),
        ({"reason": "stock"}, True),
        ({"reason": "legal", "on_error": "open"}, False),
        ({"on_error": "closed"}, True),
    ],
)
def test_law_and_stock_fail_closed_by_default(fields: dict[str, Any], closed: bool) -> None:
    assert Exclude.model_validate({"name": "a", "kind": "exclude", "items": {"brand": "x"}, **fields}).closed is closed


def test_a_moment_without_a_zone_is_utc_and_a_day_its_midnight() -> None:
    when = When.model_validate(tomllib.loads("from = 2026-11-27\nuntil = 2026-11-30T12:00:00"))
    assert when.since is not None and when.since.isoformat() == "2026-11-27T00:00:00+00:00"
    assert when.until is not None and when.until.isoformat() == "2026-11-30T12:00:00+00:00"

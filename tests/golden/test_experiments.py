"""Buckets and arms, forever: a change here moves shoppers of running experiments from arm to arm."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime

import pytest

from recsys.events import Surface
from recsys.experiments.assignment import bucket
from recsys.experiments.reading import parse_plan

# printf 'ranking\0user:900' | sha256sum begins with c96ecf0c66ea2f8e, which is 8110 modulo 10,000; and so on.
BUCKETS = [
    ("ranking", "user:900", 8110),
    ("ranking", "user:901", 666),
    ("cart-page", "user:900", 5954),
    ("ranking", "session:900", 9731),
    ("holdout", "user:900", 9492),
    ("ranking", "user:é😀", 4821),
]
PLAN = """
[holdout]
share = 0.05
[exploration]
random = 0.05
popularity = 0.05
[layers.ranking]
[layers.cart-page]
[[experiments]]
name = "phases"
layer = "ranking"
surfaces = "home"
start = 2026-12-01
control = "phase1"
arms = [
  { name = "phase1", share = 0.25, phase = "phase1" },
  { name = "phase2", share = 0.25, phase = "phase2" },
  { name = "phase3", share = 0.5, phase = "phase3" },
]
[[experiments]]
name = "diverse-cart"
layer = "cart-page"
surfaces = "cart"
buckets = [0, 5000]
start = 2026-12-01
control = "plain"
arms = [{ name = "plain", share = 0.5 }, { name = "diverse", share = 0.5, diversity = 0.1 }]
"""
ARMS = {
    "home": "112223213233331o1r23h2321322o23123r32h21",
    "cart": "dp--pp-p-pdd---oprd-h-pdpd-dodp-p-r-phd-",
}


@pytest.mark.parametrize(("salt", "unit", "expected"), BUCKETS)
def test_buckets(salt: str, unit: str, expected: int) -> None:
    assert bucket(salt, unit) == expected


def test_arms() -> None:
    plan = parse_plan(tomllib.loads(PLAN), "plan.toml")
    at = datetime(2026, 12, 2, tzinfo=UTC)
    letters = {"holdout": "h", "random": "r", "popularity": "o", "plain": "p", "diverse": "d"}

    def letter(user: int, surface: Surface) -> str:
        placements = plan.assign(str(user), None, surface, at).placements
        return "".join(letters.get(one.arm, one.arm[-1]) for one in placements) or "-"

    for surface in (Surface.HOME, Surface.CART):
        assert "".join(letter(user, surface) for user in range(40)) == ARMS[surface]

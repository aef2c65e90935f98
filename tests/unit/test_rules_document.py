"""docs/rules.md: its example is valid, and no field is left out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from recsys.rules.reading import parse_rules
from recsys.rules.schema import KINDS, Items, Rule, When

DOCUMENT = Path("docs/rules.md").read_text()
RULES = get_args(get_args(Rule)[0])


def test_the_example_is_valid_and_shows_every_kind() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    found = parse_rules(tomllib.loads(example), "docs/rules.md")
    assert (
        {rule.kind for rule in found.rules}
        == set(KINDS)
        == {get_args(m.model_fields["kind"].annotation)[0] for m in RULES}
    )
    assert {rule.name for rule in found.rules if rule.closed} == {"no-alcohol", "only-with-a-price"}


@pytest.mark.parametrize("model", [*RULES, Items, When])
def test_every_field_is_documented(model: type[BaseModel]) -> None:
    in_tables = "\n".join(line for line in DOCUMENT.splitlines() if line.startswith("|"))
    for name, field in model.model_fields.items():
        assert f"`{field.alias or name}`" in in_tables, name

"""From a TOML file to rules, with errors that name the file, the rule and the field, and say what to do."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from recsys.errors import UserError
from recsys.rules.schema import KINDS, Rule

_RULE: Final[TypeAdapter[Rule]] = TypeAdapter(Rule)


class RulesError(UserError):
    """A rule file cannot be used; the message holds a line for each thing that is wrong with it."""


@dataclass(frozen=True)
class RuleSet:
    """The rules of one file, in its order."""

    rules: tuple[Rule, ...]
    version: str = field(init=False)
    """12 hexadecimal digits of the content, whatever its layout and comments: what an answer says."""

    def __post_init__(self) -> None:
        content = [rule.model_dump(mode="json", exclude_defaults=True) for rule in self.rules]
        digest = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
        object.__setattr__(self, "version", digest[:12])

    def without(self, name: str) -> RuleSet:
        """All rules but one."""
        return replace(self, rules=tuple(rule for rule in self.rules if rule.name != name))


def read_rules(path: Path) -> RuleSet:
    """The rules of a file.

    Raises:
        RulesError: it is missing, no TOML, or a rule in it cannot be.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RulesError(f"{path} cannot be read ({error.strerror}): give the path of a rule file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesError(f"{path} is not TOML: {error}") from error
    return parse_rules(content, str(path))


def parse_rules(content: Mapping[str, Any], source: str) -> RuleSet:
    """The rules of a parsed file; `source` names it in errors.

    Raises:
        RulesError: a rule cannot be; all that is wrong is in the message.
    """
    wrong = [f"{source}: {name}: unknown name; rules stand under [[rules]]" for name in content if name != "rules"]
    tables = content.get("rules", [])
    if not isinstance(tables, list):
        raise RulesError(f"{source}: rules: write each rule as a table of its own, [[rules]]")
    rules: list[Rule] = []
    for number, table in enumerate(tables, start=1):
        try:
            rules.append(_RULE.validate_python(table))
        except ValidationError as error:
            wrong += [f"{source}: {_title(table, number)}: {words}" for words in _in_words(error)]
    names = [rule.name for rule in rules]
    wrong += [
        f"{source}: rule {name!r}: name: two rules are called so"
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    if wrong:
        raise RulesError("\n".join(wrong))
    return RuleSet(tuple(rules))


def _title(table: Any, number: int) -> str:
    name = table.get("name") if isinstance(table, dict) else None
    return f"rule {name!r}" if isinstance(name, str) else f"rule number {number}"


def _in_words(error: ValidationError) -> list[str]:
    """A line for each problem: the field, what is wrong, what is possible."""
    found = []
    for problem in error.errors(include_url=False, include_context=False):
        loc = problem["loc"]
        kind, path = (str(loc[0]), loc[1:]) if loc and loc[0] in KINDS else ("", loc)
        name, message = ".".join(str(part) for part in path), problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
            name, message = "kind", f"give one of {', '.join(KINDS)}"
        elif problem["type"] == "extra_forbidden":
            message = f"unknown name; {_allowed(kind, path[:-1])}"
        elif problem["type"] == "missing":
            message = f"is missing; a rule of kind {kind!r} needs it"
        found.append(f"{name}: {message}" if name else message)
    return found


def _allowed(kind: str, path: tuple[int | str, ...]) -> str:
    """What may stand where an unknown name stands: in the rule, or in the table at `path` in it."""
    kinds: tuple[type[BaseModel], ...] = get_args(get_args(Rule)[0])
    model = next(one for one in kinds if get_args(one.model_fields["kind"].annotation) == (kind,))
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        nested = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
        model = next(one for one in nested if issubclass(one, BaseModel))
    return f"allowed: {', '.join(field.alias or name for name, field in model.model_fields.items())}"

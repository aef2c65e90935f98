"""From a TOML file to a plan of experiments, with errors that name the file, the experiment and the field, and say what to do."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from recsys.errors import UserError
from recsys.experiments.plan import EXPLORATION, HOLDOUT, Arm, Experiment, Exploration, Holdout, LayerSpec, Plan
from recsys.rules.reading import RulesError, read_rules

SECTIONS: Final = ("holdout", "exploration", "layers", "experiments")
M = TypeVar("M", bound=BaseModel)


class PlanError(UserError):
    """A file of experiments cannot be used; the message holds a line for each thing that is wrong with it."""


def read_plan(path: Path) -> Plan:
    """The plan of a file.

    Raises:
        PlanError: it, or a rule file that it names, is missing, is no TOML, or something in it cannot be.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error.strerror}): give the path of a file of experiments") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not TOML: {error}") from error
    plan = parse_plan(content, str(path))
    wrong = list(_unruly(plan, path))
    if wrong:
        raise PlanError("\n".join(wrong))
    return plan


def _unruly(plan: Plan, path: Path) -> Iterator[str]:
    """Arms whose rule file cannot be used; it is looked for beside the file of experiments."""
    for experiment in plan.experiments:
        for arm in experiment.arms:
            if arm.rules is not None:
                try:
                    read_rules(path.parent / arm.rules)
                except RulesError as error:
                    yield f"{path}: experiment {experiment.name!r}: arm {arm.name!r}: rules: {error}"


def parse_plan(content: Mapping[str, Any], source: str) -> Plan:
    """The plan of a parsed file; `source` names it in errors.

    Raises:
        PlanError: something in it cannot be; all that is wrong is in the message.
    """
    wrong = [f"{name}: unknown name; allowed: {', '.join(SECTIONS)}" for name in content if name not in SECTIONS]
    holdout = _checked(Holdout, content.get("holdout", {}), "holdout", wrong)
    exploration = _checked(Exploration, content.get("exploration", {}), "exploration", wrong)
    layers = {
        name: layer
        for name, table in _table_map(content, wrong).items()
        if (layer := _checked(LayerSpec, table, f"layer {name!r}", wrong)) is not None
    }
    experiments = tuple(
        experiment
        for number, table in enumerate(_table_list(content, wrong), start=1)
        if (experiment := _checked(Experiment, table, _title(table, number), wrong)) is not None
    )
    if not wrong:
        wrong = [*_alike(layers), *_alone(experiments, layers), *_together(experiments)]
    if wrong or holdout is None or exploration is None:
        raise PlanError("\n".join(f"{source}: {words}" for words in wrong))
    return Plan(experiments, layers, holdout, exploration)


def _table_list(content: Mapping[str, Any], wrong: list[str]) -> list[Any]:
    """The experiments, unread."""
    found = content.get("experiments", [])
    if isinstance(found, list):
        return found
    wrong.append("experiments: write each experiment as a table of its own, [[experiments]]")
    return []


def _table_map(content: Mapping[str, Any], wrong: list[str]) -> dict[str, Any]:
    """The layers, unread, by name."""
    found = content.get("layers", {})
    if isinstance(found, dict):
        return found
    wrong.append("layers: write each layer as a table of its own, [layers.NAME]")
    return {}


def _title(table: Any, number: int) -> str:
    name = table.get("name") if isinstance(table, dict) else None
    return f"experiment {name!r}" if isinstance(name, str) else f"experiment number {number}"


def _checked(model: type[M], table: Any, title: str, wrong: list[str]) -> M | None:
    """The table as a model; what is wrong with it is added to `wrong`."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        wrong += [f"{title}: {words}" for words in _in_words(model, table, error)]
        return None


def _in_words(model: type[BaseModel], table: Any, error: ValidationError) -> list[str]:
    """A line for each problem: the arm, the field, what is wrong, what is possible."""
    found = []
    for problem in error.errors(include_url=False, include_context=False):
        path, message = list(problem["loc"]), problem["msg"].removeprefix("Value error, ")
        where, of = "", model
        if path[:1] == ["arms"] and len(path) > 1:
            of, path = Arm, path[1:]
            arm = table["arms"][number] if isinstance(number := path.pop(0), int) else None
            name = arm.get("name") if isinstance(arm, dict) else None
            where = f"arm {name!r}: " if isinstance(name, str) else f"arm number {int(number) + 1}: "
        if problem["type"] == "extra_forbidden":
            message = f"unknown name; allowed: {', '.join(_model_at(of, path[:-1]).model_fields)}"
        elif problem["type"] == "missing":
            message = "is missing; it has no default"
        elif path[-1:] == ["phase"]:
            message = "give random, popularity, phase1, phase2, phase3, or a bundle's version"
        field = ".".join(str(part) for part in path)
        found.append(f"{where}{field}: {message}" if field else f"{where}{message}")
    return found


def _model_at(model: type[BaseModel], path: list[int | str]) -> type[BaseModel]:
    """The model of the table at `path` in one of `model`."""
    for part in path:
        if isinstance(part, str):
            nested = get_args(model.model_fields[part].annotation)
            model = next(one for one in nested if isinstance(one, type) and issubclass(one, BaseModel))
    return model


def _alike(layers: Mapping[str, LayerSpec]) -> list[str]:
    """Layers that would not be independent."""
    return [
        f"layer {other!r}: salt: is that of layer {one!r}, so the two would cut shoppers alike: give another"
        for one, other in combinations(layers, 2)
        if (layers[one].salt or one) == (layers[other].salt or other)
    ]


def _alone(experiments: tuple[Experiment, ...], layers: Mapping[str, LayerSpec]) -> list[str]:
    """What is wrong with single experiments of a file."""
    wrong = []
    for one in experiments:
        if one.name in (HOLDOUT, EXPLORATION):
            wrong.append(f"experiment {one.name!r}: name: is taken by the [{one.name}] of every file: give another")
        if one.layer not in layers:
            known = ", ".join(layers) or "none yet"
            wrong.append(
                f"experiment {one.name!r}: layer: {one.layer!r} is not declared: write [layers.{one.layer}], or give one of: {known}"
            )
    return wrong


def _together(experiments: tuple[Experiment, ...]) -> list[str]:
    """Experiments that cannot both be in a file."""
    wrong = []
    for one, other in combinations(experiments, 2):
        title = f"experiment {other.name!r}"
        if one.name == other.name:
            wrong.append(
                f"{title}: name: it is started twice: a second run needs a name of its own, so that it is read out alone"
            )
        elif not one.meets(other):
            continue
        elif one.layer == other.layer:
            first, end = max(one.buckets[0], other.buckets[0]), min(one.buckets[1], other.buckets[1])
            if first < end:
                wrong.append(
                    f"{title}: buckets: {first} to {end} of layer {one.layer!r} are {one.name!r}'s at the same time: "
                    "give it others, another layer, or a start after the other's stop"
                )
        elif (one.salt or one.name) == (other.salt or other.name):
            wrong.append(f"{title}: salt: is that of {one.name!r}, which runs at the same time: give another")
        elif set(one.surfaces) & set(other.surfaces) and one.sets & other.sets:
            both, where = ", ".join(sorted(one.sets & other.sets)), sorted(set(one.surfaces) & set(other.surfaces))[0]
            wrong.append(
                f"{title}: layer: {one.name!r} of layer {one.layer!r} sets {both} on {where} at the same time too: "
                "put both in one layer, on buckets of their own"
            )
    return wrong

"""Files of experiments: what is wrong is said by experiment and field; what is right says who gets what."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.errors import UserError
from recsys.events import Surface
from recsys.experiments.metrics import METRICS
from recsys.experiments.plan import Configuration, Plan
from recsys.experiments.power import Baseline, sizes
from recsys.experiments.reading import PlanError, parse_plan, read_plan

DURING = datetime(2026, 12, 5, tzinfo=UTC)
HEAD = """
name = "x"
layer = "ranking"
start = 2026-12-01
stop = 2026-12-29
"""
ARMS = """
control = "a"
arms = [{ name = "a", share = 0.5, phase = "phase1" }, { name = "b", share = 0.5, phase = "phase3", diversity = 0.1 }]
"""
ONE = "[[experiments]]" + HEAD + ARMS
LAYERS = "[layers.ranking]\n[layers.other]\n"


def plan_of(text: str) -> Plan:
    return parse_plan(tomllib.loads(text), "plan.toml")


def wrong(text: str) -> str:
    with pytest.raises(PlanError) as error:
        plan_of(text)
    return str(error.value)


def arms(text: str) -> str:
    return LAYERS + "[[experiments]]" + HEAD + text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAYERS + ONE.replace("share = 0.5, phase = \"phase3\"", "share = 0.4, phase = \"phase3\""), "arms: their shares sum to 0.9"),
        (LAYERS + ONE.replace('control = "a"', 'control = "c"'), "control: 'c' is none of its arms: give one of a, b"),
        (LAYERS + ONE.replace('name = "b"', 'name = "a"'), "arms: two are called 'a'"),
        (LAYERS + ONE.replace("2026-12-29", "2026-11-29"), "stop: is not after start"),
        (LAYERS + ONE.replace("phase3", "phase4"), "arm 'b': phase: give random, popularity, phase1"),
        (LAYERS + ONE.replace("diversity", "diverse"), "arm 'b': diverse: unknown name; allowed: phase, against, rules, diversity"),
        (LAYERS + ONE + 'surfaces = "cellar"', "surfaces.0: Input should be 'home'"),
        (LAYERS + ONE + 'primary = "joy"', "primary: 'joy' is no metric: give one of ctr"),
        (LAYERS + ONE + 'metrics = ["ctr", "joy"]', "metrics.1: 'joy' is no metric"),
        (LAYERS + ONE + 'guardrails = [{ metric = "errors" }]', "guardrails.0: give a margin, relative or absolute"),
        (LAYERS + ONE + 'guardrails = [{ metric = "errors", rel = 1 }]', "guardrails.0.rel: unknown name; allowed: metric"),
        (LAYERS + ONE + "buckets = [5000, 4000]", "buckets: give [from, until]"),
        (LAYERS + ONE + "buckets = [0, 10001]", "buckets: give [from, until]"),
        (LAYERS + ONE + "colour = 1", "colour: unknown name; allowed: name, layer"),
        (ONE, "layer: 'ranking' is not declared: write [layers.ranking]"),
        (arms('control = "a"\narms = [{ name = "a", share = 1 }]'), "arms: give at least two"),
        (arms('control = "a"\narms = [{ share = 0.5 }, { name = "b", share = 0.5 }]'), "arm number 1: name: is missing"),
        (
            arms('control = "a"\narms = [{ name = "a", share = 0.99999 }, { name = "b", share = 0.00001 }]'),
            "the share of 'b' is less than a bucket",
        ),
        (LAYERS + ONE.replace('"x"', '"holdout"'), "name: is taken by the [holdout] of every file"),
        (LAYERS + ONE + ONE, "name: it is started twice"),
        (LAYERS + ONE + ONE.replace('"x"', '"y"'), "buckets: 0 to 10000 of layer 'ranking' are 'x''s at the same time"),
        (
            LAYERS + ONE + ONE.replace('"x"', '"y"').replace('"ranking"', '"other"'),
            "layer: 'x' of layer 'ranking' sets diversity, phase on bought_together at the same time too",
        ),
        (
            LAYERS + ONE + ONE.replace('"x"', '"y"').replace('"ranking"', '"other"') + 'salt = "x"',
            "salt: is that of 'x', which runs at the same time",
        ),
    ],
)  # fmt: skip
def test_an_error_names_the_file_the_experiment_and_the_field(text: str, words: str) -> None:
    message = wrong(text)
    assert re.match(r"plan\.toml: experiment '(x|y|holdout)': ", message)
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules = 1", "plan.toml: rules: unknown name; allowed: holdout, exploration, layers, experiments"),
        ("[holdout]\nshare = 2", "plan.toml: holdout: share: Input should be less than or equal to 1"),
        ("[exploration]\nrandom = 0.6\npopularity = 0.6", "plan.toml: exploration: random and popularity sum to more than 1"),
        ("[exploration]\nrandon = 0.1", "plan.toml: exploration: randon: unknown name; allowed: random, popularity"),
        ("[layers.a]\nunit = 'basket'", "plan.toml: layer 'a': unit: Input should be 'user' or 'session'"),
        ("[layers.a]\n[layers.b]\nsalt = 'a'", "plan.toml: layer 'b': salt: is that of layer 'a'"),
        ("experiments = 1", "write each experiment as a table of its own, [[experiments]]"),
        ("layers = 1", "write each layer as a table of its own, [layers.NAME]"),
        ("[[experiments]]\nlayer = 'a'", "plan.toml: experiment number 1: name: is missing"),
    ],
)  # fmt: skip
def test_an_error_names_the_section(text: str, words: str) -> None:
    assert words in wrong(text)


def test_all_that_is_wrong_is_said_at_once() -> None:
    broken = ONE.replace("phase1", "phase0").replace("phase3", "phase4") + 'primary = "joy"\n'
    assert len(wrong(LAYERS + broken + broken + "[holdout]\nshare = 2").splitlines()) == 7


def test_one_after_the_other_or_side_by_side_is_no_overlap() -> None:
    later = ONE.replace('"x"', '"y"').replace("2026-12-29", "2027-01-29").replace("2026-12-01", "2026-12-29")
    assert len(plan_of(LAYERS + ONE + later).experiments) == 2
    beside = ONE + "buckets = [0, 5000]\n" + ONE.replace('"x"', '"y"') + "buckets = [5000, 10000]"
    assert len(plan_of(LAYERS + beside).experiments) == 2


def test_an_experiment_without_a_stop_meets_all_that_start_later() -> None:
    endless = ONE.replace("stop = 2026-12-29", "")
    later = ONE.replace('"x"', '"y"').replace("2026-12-29", "2030-01-29").replace("2026-12-01", "2030-01-01")
    assert "at the same time" in wrong(LAYERS + endless + later)


def test_layers_may_meet_where_they_set_different_things() -> None:
    rules = ONE.replace('"x"', '"y"').replace('"ranking"', '"other"')
    rules = rules.replace('phase = "phase1"', "value_weight = 0.1").replace(
        'phase = "phase3", diversity = 0.1', "value_weight = 0.2"
    )
    plan = plan_of(LAYERS + ONE + rules)
    found = {plan.assign(str(user), None, Surface.HOME, DURING).configuration for user in range(200)}
    assert found == {
        Configuration(phase=phase, diversity=diversity, value_weight=weight)
        for phase, diversity in (("phase1", None), ("phase3", 0.1))
        for weight in (0.1, 0.2)
    }


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="give the path of a file"):
        read_plan(tmp_path / "none.toml")
    (tmp_path / "plan.toml").write_text("[[")
    with pytest.raises(PlanError, match="is not TOML"):
        read_plan(tmp_path / "plan.toml")


def test_rules_of_an_arm_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(LAYERS + ONE.replace('phase = "phase3"', 'rules = "own.toml"'))
    with pytest.raises(PlanError, match=r"experiment 'x': arm 'b': rules: .*own\.toml cannot be read"):
        read_plan(path)
    (tmp_path / "own.toml").write_text("")
    assert read_plan(path).experiments[0].arms[1].rules == Path("own.toml")


def test_the_documents_example_is_a_plan() -> None:
    document = Path("docs/experiments.md").read_text()
    example = re.search(r"```toml\n(.*?)```", document, re.DOTALL)
    assert example is not None
    assert [one.name for one in plan_of(example[1]).experiments] == ["phases-on-home", "by-revenue"]
    assert all(f"`{name}`" in document for name in METRICS)


def test_the_version_is_that_of_the_meaning() -> None:
    plan = plan_of(LAYERS + ONE)
    assert plan_of("# a comment\n[layers.other]\n[layers.ranking]\n" + ONE).version == plan.version
    assert plan_of(LAYERS + ONE + 'primary = "ctr"').version == plan.version
    assert plan_of(LAYERS + ONE.replace("0.1", "0.2")).version != plan.version
    assert plan_of(LAYERS + ONE + "[holdout]\nshare = 0.01").version != plan.version


def placed(plan: Plan, user: int, surface: Surface = Surface.HOME, at: datetime = DURING) -> dict[str, str]:
    return {one.experiment: one.arm for one in plan.assign(str(user), None, surface, at).placements}


FULL = LAYERS + "[holdout]\nshare = 0.1\n[exploration]\nrandom = 0.1\npopularity = 0.1\nsurfaces = 'home'\n" + ONE


def test_holdout_exploration_and_experiments_share_nobody() -> None:
    plan = plan_of(FULL)
    found = [placed(plan, user) for user in range(5_000)]
    assert all(len(one) == 1 for one in found)
    counts = Counter(pair for one in found for pair in one.items())
    expected = {("holdout", "holdout"): 0.1, ("exploration", "random"): 0.09, ("exploration", "popularity"): 0.09}
    expected |= {("x", "a"): 0.36, ("x", "b"): 0.36}
    assert {(name, arm): share for name, arm, _, share in plan.shares()} == pytest.approx(expected)
    for pair, share in expected.items():
        assert abs(counts[pair] / 5_000 - share) < 4 * (share * (1 - share) / 5_000) ** 0.5


def test_a_placement_says_the_share_that_the_plan_prints() -> None:
    plan = plan_of(FULL)
    shares = {(name, arm): share for name, arm, _, share in plan.shares()}
    for user in range(300):
        for one in plan.assign(str(user), None, Surface.HOME, DURING).placements:
            assert one.share == pytest.approx(shares[one.experiment, one.arm])


def test_the_exploration_stays_on_and_the_holdout_is_the_shops_own() -> None:
    plan = plan_of(FULL)
    before = datetime(2026, 11, 1, tzinfo=UTC)
    for user in range(300):
        during, idle = placed(plan, user), placed(plan, user, at=before)
        assert idle == ({} if "x" in during else during)
        got = plan.assign(str(user), None, Surface.HOME, DURING).configuration
        if "holdout" in during:
            assert got == Configuration()
        if "exploration" in during:
            assert got == Configuration(phase=during["exploration"])


def test_who_explores_is_in_no_experiment_on_any_surface() -> None:
    plan = plan_of(FULL)
    for user in range(300):
        if "exploration" in placed(plan, user):
            assert placed(plan, user, Surface.CART) == {}


def test_start_is_in_and_stop_is_out() -> None:
    plan = plan_of(LAYERS + ONE)
    start, stop = datetime(2026, 12, 1, tzinfo=UTC), datetime(2026, 12, 29, tzinfo=UTC)
    assert placed(plan, 1, at=start) == placed(plan, 1)
    assert placed(plan, 1, at=stop) == {}


def test_start_and_stop_move_nobody() -> None:
    plan, moved = plan_of(LAYERS + ONE), plan_of(LAYERS + ONE.replace("2026-12-29", "2027-12-29"))
    assert all(placed(plan, user) == placed(moved, user) for user in range(500))


def test_an_experiment_called_like_its_layer_is_cut_anew() -> None:
    plan = plan_of(LAYERS + ONE.replace('"x"', '"ranking"') + "buckets = [0, 5000]")
    arms_of_all = Counter(arm for user in range(1_000) for arm in placed(plan, user).values())
    assert min(arms_of_all.values()) > 150 and len(arms_of_all) == 2


def test_a_layer_may_randomise_sessions() -> None:
    plan = plan_of("[layers.ranking]\nunit = 'session'\n" + ONE)
    arms_of_one = {plan.assign("7", f"s{number}", Surface.HOME, DURING).placements[0].arm for number in range(50)}
    assert arms_of_one == {"a", "b"}
    assert plan.assign("7", None, Surface.HOME, DURING).placements == ()


def test_who_is_nobody_is_in_nothing() -> None:
    assert plan_of(FULL).assign(None, None, Surface.HOME, DURING).placements == ()


def test_the_size_of_an_experiment() -> None:
    # Two-sided 5%, power 80%: 2 * (1.96 + 0.84)^2 * p (1 - p) / d^2 = 29,826 an arm for p = 0.05 and d = 0.005.
    plan = plan_of(LAYERS + ONE)
    (size,) = sizes(plan, plan.experiments[0], Baseline.of_a_rate(0.05, 3_000), lift=0.1)
    assert size.units == pytest.approx(2 * 29_826, rel=0.001)
    assert size.days == 21  # 59,652 units at 3,000 a day are 19.9 days, in whole weeks
    assert size.planned_days == 28
    assert size.power is not None and 0.8 < size.power < 1
    assert size.detectable is not None and size.detectable < 0.1


def test_more_arms_need_more_units() -> None:
    three = ONE.replace("share = 0.5", "share = 0.25").replace("arms = [", 'arms = [{ name = "c", share = 0.5 }, ')
    two, several = plan_of(LAYERS + ONE), plan_of(LAYERS + three)
    baseline = Baseline.of_a_rate(0.05, 3_000)
    one = sizes(two, two.experiments[0], baseline, 0.1)[0]
    found = {size.arm: size for size in sizes(several, several.experiments[0], baseline, 0.1)}
    assert set(found) == {"b", "c"}
    assert found["b"].units > one.units


def run(*words: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["experiments", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(FULL)
    checked = run("check", str(path))
    assert plan_of(FULL).version in checked
    assert "36.00%" in checked and "9.00%" in checked
    assert "power" in run("check", str(path), "--baseline", "0.05", "--units-per-day", "3000")
    assert "5 +- 9" in run("check", str(path), "--baseline", "5", "--deviation", "9", "--units-per-day", "3000")
    arm = placed(plan_of(FULL), 900)
    assert all(name in run("assign", str(path), "900", "--at", "2026-12-05") for name in arm.values())
    assert "none" in run("assign", str(path), "900", "--session", "--at", "2025-12-05")
    rate = ("--baseline", "0.05", "--units-per-day", "3000")
    for words in (rate[:2], ("--baseline", "5", *rate[2:]), (*rate, "--experiment", "y")):
        with pytest.raises(UserError):
            run("check", str(path), *words)


def test_what_the_service_needs_stays_small() -> None:
    code = (
        "import sys, recsys.experiments.reading, recsys.experiments.interleaving; "
        "print(*{'polars', 'scipy', 'tea_tasting', 'pandas', 'ibis'} & set(sys.modules))"
    )
    run_alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run_alone.stdout.strip() == ""


def test_assignment_needs_the_standard_library_only() -> None:
    code = "import sys; import recsys.experiments.assignment; print(*{'numpy', 'pydantic'} & set(sys.modules))"
    run_alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run_alone.stdout.strip() == ""

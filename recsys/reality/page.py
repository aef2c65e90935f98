"""The reality check as one HTML page that needs nothing else but the decision report beside it, and as JSON with the same figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from scipy.stats import binomtest

from recsys.experiments.roi import CASE_STUDY, Figure
from recsys.reality import plots
from recsys.reality.arms import ENSEMBLE, POPULARITY, RANDOM, SIMPLE
from recsys.reality.check import Check, answers
from recsys.reports import Cell, Table, write_report

SIMULATED: Final = "Simulated shoppers, whose tastes are what real households bought next; how much of a click is taste was fitted to public logs of another shop, before any phase was run."


def write_page(out: Path, check: Check) -> tuple[Path, Path]:
    """Write the page and, beside it under the same name, its JSON; their paths."""
    command = f"recsys reality-check --visits {check.options.visits} --seed {check.options.seed}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(as_html(check), encoding="utf-8")
    tables = [claims_table(check), arms_table(check), surfaces_table(check), changes_table(check)]
    return out, write_report(out.stem, command, tables, out.parent, details(check))


def as_html(check: Check) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("recsys.reality", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["cell"] = _cell
    return environment.get_template("page.html").render(
        check=check,
        answers=answers(check),
        claims=claims_table(check),
        arms=arms_table(check),
        surfaces=surfaces_table(check),
        returns=returns_table(check),
        changes=changes_table(check),
        steps=steps_table(check),
        burden=burden_table(check),
        cost=cost_table(check),
        curve_svg=plots.accuracy_curve(check),
        simple_svg=plots.simple_arms(check),
        rollback_svg=plots.rollback_timeline(check),
        assumptions=assumptions(check),
    )


def claims_table(check: Check) -> Table:
    """What the case study claims, and what was found."""
    trial, shop, whole = check.trial, check.options.shop, check.returns(ENSEMBLE, RANDOM)
    over_popularity, seventy = check.returns(ENSEMBLE, POPULARITY), check.seventy
    slowest = max(change.switched_seconds for change in check.rollback.changes)
    n_answers = sum(change.answers for change in check.rollback.changes)
    stated = f"{shop.visits_per_year:,.0f} visits a year, as these"
    rows: list[list[Cell]] = [
        ["+47% clicks against random items", *_percents(trial.lift(ENSEMBLE)), "simulated shoppers"],
        [
            "learning is needed",
            *_percents(trial.lift(ENSEMBLE, check.best_simple), "{} clicks"),
            f"over {check.best_simple.replace('_', ' ')}",
        ],
        ["if 70% as accurate", *_percents(trial.lift(seventy)), "places lost to random items; clicks over random"],
        ["+$3.2M revenue a year", *_dollars(whole.incremental_per_year), f"over random items; {stated}"],
        ["", *_dollars(over_popularity.incremental_per_year), f"over bestsellers; {stated}"],
        [
            "$18K infrastructure a year",
            f"${check.cost.per_year:,.0f}",
            "–",
            f"cores and memory of the service at {shop.peak:g} times the mean traffic",
        ],
        [
            "ROI 17,700%",
            *_percents(whole.roi),
            f"over random; margin {CASE_STUDY.margin.value:.0%}, five people for six months",
        ],
        ["", *_percents(over_popularity.roi), "over bestsellers, likewise"],
        [
            "",
            "never" if check.paying_visits is None else f"{check.paying_visits:,.0f} visits a year",
            "–",
            "from which the first year pays over random, at this shop's infrastructure",
        ],
        ["a rollback plan", f"{slowest:.1f} s", "–", "until every worker has followed, slowest of three changes"],
        [
            "99.9% uptime",
            f"{check.rollback.failed} of {n_answers:,} answers failed",
            failing(check.rollback.failed, n_answers),
            "while bundles changed under traffic; no outage of a machine",
        ],
    ]
    return Table("Claims against measurements", ("claim", "ours", "95% interval", "assumption"), rows, SIMULATED)


def arms_table(check: Check) -> Table:
    """Every arm."""
    trial, accuracy = check.trial, {arm: figure for figure, arm in check.curve}
    rows: list[list[Cell]] = []
    for arm in (RANDOM, *SIMPLE, *(arm for _, arm in check.curve)):
        read = trial.read_lift(arm)
        rows.append(
            [
                arm.replace("_", " "),
                trial.sums[arm].n_visits,
                trial.sums[arm].n_shoppers,
                f"{accuracy[arm].value:.0%}" if arm in accuracy else "–",
                _interval(trial.lift(arm)),
                "–" if read is None else _interval(read),
                _interval(trial.incremental(arm), "{:.1f}"),
                _interval(check.returns(arm, RANDOM).roi),
            ]
        )
    columns = (
        "arm",
        "visits",
        "shoppers",
        "accuracy",
        "true CTR lift",
        "CTR lift as an experiment reads it",
        "true incremental cents a visit",
        "ROI",
    )
    note = (
        "Over random items, 95% intervals. Every arm alone, met by the same shoppers; the experiment shares more shoppers, some of them the same, between random items, bestsellers and the ensemble, and reads what was logged. Accuracy: NDCG@20 of home over December's purchases as a share of the ensemble's, measured. "
        "Degraded arms are the ensemble with places lost to random items."
    )
    return Table("What accuracy is worth, and what needs no learning", columns, rows, note)


def surfaces_table(check: Check) -> Table:
    """Where each arm gains: the true CTR over random items, by surface."""
    arms = (*SIMPLE, *(arm for _, arm in check.curve))
    rows: list[list[Cell]] = [
        [
            surface.replace("_", " "),
            *(f"{ctrs[arm] / ctrs[RANDOM] - 1:+.0%}" if arm in ctrs and ctrs.get(RANDOM) else "–" for arm in arms),
        ]
        for surface, ctrs in check.trial.surfaces.items()
    ]
    return Table(
        "True CTR lifts over random items, by surface", ("surface", *(arm.replace("_", " ") for arm in arms)), rows
    )


def returns_table(check: Check) -> Table:
    """A year's reckoning of every degraded arm."""
    rows: list[list[Cell]] = []
    for accuracy, arm in reversed(check.curve):
        for over in (RANDOM, POPULARITY):
            found = check.returns(arm, over)
            months = found.payback_months
            rows.append(
                [
                    f"{accuracy.value:.0%}, over {over}",
                    _interval(found.incremental_per_year, "{:,.0f}"),
                    _interval(found.contribution, "{:,.0f}"),
                    f"{found.cost:,.0f}",
                    _interval(found.roi),
                    "never" if months is None else f"{months:.1f}",
                ]
            )
    columns = ("accuracy", "incremental revenue", "contribution", "cost", "ROI", "payback, months")
    return Table("Return of the first year, USD", columns, rows)


def changes_table(check: Check) -> Table:
    """The rollback drill."""
    rows: list[list[Cell]] = [
        [
            change.command,
            f"{change.pointer_seconds:.1f}",
            f"{change.switched_seconds:.1f}",
            change.answers,
            change.failed,
            change.degraded,
            f"{change.p99_ms:.0f}",
        ]
        for change in check.rollback.changes
    ]
    columns = (
        "command",
        "pointer moved after, s",
        "every worker followed after, s",
        "answers meanwhile",
        "failed",
        "degraded",
        "p99, ms",
    )
    note = (
        f"{check.rollback.workers} workers, from the moment the command is typed: it starts Python, verifies every file of the bundle, tries it, and moves the pointer. "
        f"p99 without a change: {check.rollback.steady_p99_ms:.0f} ms; askers, workers and command shared the cores."
    )
    return Table("Another bundle goes live under traffic", columns, rows, note)


def steps_table(check: Check) -> Table:
    """The runbook."""
    rows: list[list[Cell]] = [[step.title, step.passed, f"{step.seconds:.1f}", step.said[:160]] for step in check.steps]
    return Table("The runbook, carried out", ("step", "worked", "seconds", "last line"), rows)


def burden_table(check: Check) -> Table:
    """What there is to know."""
    found = check.burden
    packages: list[list[Cell]] = [[name, f"{lines:,} lines"] for name, lines in found.lines.items()]
    rows: list[list[Cell]] = [
        *packages,
        ["all of it", f"{sum(found.lines.values()):,} lines"],
        ["of which a serving process imports", f"{found.served_lines:,} lines in {found.served_modules} modules"],
        ["modules it imports in all", f"{found.all_modules:,}, in {found.import_seconds:.1f} seconds"],
        ["packages that a serving install declares", f"{len(found.declared)}: {', '.join(found.declared)}"],
        ["with what they need", f"{len(found.installed)}"],
        [
            "from recsys serve to the first answer",
            f"{check.rollback.ready_seconds:.1f} seconds, {check.rollback.workers} workers",
        ],
    ]
    return Table(
        "What a backend engineer has to know",
        ("", ""),
        rows,
        "Lines that are not blank, of Python and SQL, docstrings and comments counted.",
    )


def cost_table(check: Check) -> Table:
    """What serving takes."""
    serving, cost, rates, shop = check.rollback.serving, check.cost, check.options.rates, check.options.shop
    rows: list[list[Cell]] = [
        ["pages per core-second, measured", f"{serving.pages_per_core_second:,.0f}"],
        ["memory of a worker, MiB, measured", f"{serving.worker_mib:,.0f}"],
        ["memory of Redis and the supervisor, MiB, measured", f"{serving.other_mib:,.0f}"],
        ["pages a visit, measured", f"{check.trial.pages_per_visit:.2f}"],
        ["visits a year, stated", f"{shop.visits_per_year:,.0f}"],
        [f"pages per second at {shop.peak:g} times the mean", f"{cost.pages_per_second:,.1f}"],
        ["cores paid for", cost.cores],
        ["memory paid for, GiB", f"{cost.gib:.2f}"],
        ["USD per core-hour and GiB-hour, stated", f"{rates.core_hour} and {rates.gib_hour}"],
        ["USD a year", f"{cost.per_year:,.0f}"],
        ["USD per million pages", f"{cost.per_million_pages:,.2f}"],
    ]
    return Table("What serving costs", ("", ""), rows)


def assumptions(check: Check) -> tuple[str, ...]:
    """What the figures rest on, each in a sentence."""
    shop, rates = check.options.shop, check.options.rates
    people = sum(one.cost for one in CASE_STUDY.people)
    return (
        SIMULATED,
        "Incremental revenue is the simulator's: purchases after clicks on what was not going to be bought on this visit. Whether the shopper would have bought it on a later visit it does not know, "
        "so it is an upper bound where baskets are brought forward.",
        "True figures are expectations of the answers that were really given; their intervals are of the shoppers who happened to come. The assumptions of the simulator are not in them: docs/simulator.md has its ranges.",
        "Every arm has a world of its own, in which the same shoppers make the same visits for a month and tire of what that arm shows them. What a year of it would bring is taken to be twelve such months.",
        f"The shop: {shop.visits_per_year:,.0f} visits a year like these, in prices of these baskets; a margin of {CASE_STUDY.margin.value:.0%}; {people:,.0f} USD once for the people who built it, as `recsys roi` assumes for the case study. Nobody is paid for running it.",
        f"Machines: {rates.core_hour} USD per core-hour and {rates.gib_hour} per GiB-hour, list prices of containers (AWS Fargate, Linux on x86, us-east-1). Load balancer, database, traffic, storage and training are not in it.",
        "A page is an answer of /recommend and the event that confirms it; its cost is the processor time of all processes of the service, Redis among them, at the load that the askers reached beside it.",
        "A less accurate model loses single places to random items. One that errs towards bestsellers would lose less.",
    )


def details(check: Check) -> dict[str, Any]:
    """Everything on the page, as plain data."""
    arms = (RANDOM, *SIMPLE, *(arm for _, arm in check.curve))
    return {
        "answers": dict(answers(check)),
        "assumptions": assumptions(check),
        "bundle": check.bundle,
        "bundle_before": check.bundle_before,
        "visits": check.options.visits,
        "seed": check.options.seed,
        "ndcg_at_20": check.ndcg,
        "degradations": [asdict(one) for one in check.degradations],
        "arms": {arm: _arm(check, arm) for arm in arms},
        "true_ctr_by_surface": check.trial.surfaces,
        "returns": {
            arm: {over: asdict(check.returns(arm, over)) for over in (RANDOM, POPULARITY)} for _, arm in check.curve
        },
        "shop": asdict(check.options.shop),
        "rates": asdict(check.options.rates),
        "cost": asdict(check.cost),
        "burden": asdict(check.burden),
        "runbook": [asdict(step) for step in check.steps],
        "rollback": asdict(check.rollback),
        "decision": asdict(check.decision),
    }


def _arm(check: Check, arm: str) -> dict[str, Any]:
    trial = check.trial
    figures = {
        "true_ctr": trial.ctr(arm),
        "true_lift": trial.lift(arm),
        "read_lift": trial.read_lift(arm),
        "true_incremental_cents_per_visit": trial.incremental(arm),
        "true_incremental_over_popularity": trial.incremental(arm, POPULARITY),
        "read_incremental_cents_per_unit": trial.read_incremental(arm),
    }
    return {"visits": trial.sums[arm].n_visits, "shoppers": trial.sums[arm].n_shoppers} | {
        name: None if figure is None else asdict(figure) for name, figure in figures.items()
    }


def _interval(figure: Figure, form: str = "{:+,.0%}") -> str:
    value = form.format(figure.value)
    return value if figure.low == figure.high else f"{value} [{form.format(figure.low)}, {form.format(figure.high)}]"


def _percents(figure: Figure, words: str = "{}") -> tuple[str, str]:
    return words.format(f"{figure.value:+,.0%}"), f"{figure.low:+,.0%} to {figure.high:+,.0%}"


def failing(failed: int, answers: int) -> str:
    """The 95% interval of the share of answers that fail (Clopper and Pearson, 1934): none of a few hundred is no proof of 99.9%."""
    if not answers:
        return "–"
    found = binomtest(failed, answers).proportion_ci(0.95, "exact")
    return f"{found.low:.2%} to {found.high:.2%} fail"


def _dollars(figure: Figure) -> tuple[str, str]:
    return f"${figure.value:,.0f}", f"${figure.low:,.0f} to ${figure.high:,.0f}"


def _cell(value: Cell) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

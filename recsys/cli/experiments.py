"""Experiments: who gets what, what came of it, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.text import Text

from recsys.cli.options import DEFAULT_DATA_DIR, Database, DataDir, console
from recsys.errors import UserError

app = typer.Typer()
experiments_app = typer.Typer(no_args_is_help=True, help="Experiments: who gets what, and how long it takes to tell.")


@experiments_app.command("check")
def check_experiments(
    file: Annotated[Path, typer.Argument(help="A file of experiments, docs/experiments.md.")],
    baseline: Annotated[float | None, typer.Option(min=0, help="The primary metric's value today.")] = None,
    deviation: Annotated[
        float | None, typer.Option(min=0, help="Its standard deviation between units; that of a yes or no by default.")
    ] = None,
    units_per_day: Annotated[float | None, typer.Option(min=1, help="Units seen for the first time on a day.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Whose metric it is; of every experiment by default.")] = None,
    lift: Annotated[float, typer.Option(min=0.0001, help="Relative difference that is to be found.")] = 0.05,
    power: Annotated[float, typer.Option(min=0.5, max=0.999, help="Chance of finding it.")] = 0.8,
) -> None:
    """Validate a file of experiments, print who gets what and, with a baseline, how long it takes."""
    from recsys.experiments.printing import print_plan, print_sizes
    from recsys.experiments.reading import read_plan

    plan = read_plan(file)
    print_plan(plan, console)
    if baseline is None and units_per_day is None:
        return
    from recsys.experiments.power import Baseline

    if not baseline or not units_per_day:
        raise UserError("the size of an experiment needs both --baseline, above 0, and --units-per-day")
    if deviation is None and baseline >= 1:
        raise UserError("a baseline of 1 or more is no rate: give its standard deviation between units, --deviation")
    if deviation is None:
        today = Baseline.of_a_rate(baseline, units_per_day)
    else:
        today = Baseline(baseline, deviation, units_per_day)
    wanted = [one for one in plan.experiments if experiment in (None, one.name)]
    if not wanted:
        raise UserError(f"--experiment: {file} has no experiment {experiment!r}")
    if len({one.primary for one in wanted}) > 1:
        named = ", ".join(f"{one.name} ({one.primary})" for one in wanted)
        raise UserError(f"one baseline does not fit several metrics: name one with --experiment: {named}")
    print_sizes(plan, wanted, today, lift, power, console)


@experiments_app.command("assign")
def assign_experiments(
    file: Annotated[Path, typer.Argument(help="A file of experiments, docs/experiments.md.")],
    unit: Annotated[str, typer.Argument(help="A user's id.")],
    session: Annotated[bool, typer.Option("--session", help="It is the id of an anonymous session instead.")] = False,
    at: Annotated[datetime | None, typer.Option(help="A moment, UTC; now by default.")] = None,
) -> None:
    """Print what a unit gets on every surface."""
    from recsys.experiments.printing import print_assignments
    from recsys.experiments.reading import read_plan

    user_id, session_id = (None, unit) if session else (unit, None)
    moment = datetime.now(UTC) if at is None else at.replace(tzinfo=UTC)
    print_assignments(read_plan(file), user_id, session_id, moment, console)


@experiments_app.command("counterfactual")
def counterfactual(
    candidate: Annotated[str | None, typer.Option(help="A bundle's version; the newest by default.")] = None,
    champion: Annotated[str | None, typer.Option(help="Another; the live one by default.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write what `recsys publish --evidence` reads.")] = Path(
        "evidence.json"
    ),
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Estimate two bundles' CTR from the log of random answers (docs/offpolicy.md); `recsys tables` first."""
    from recsys.experiments.gate import write_evidence
    from recsys.experiments.offpolicy import compare
    from recsys.experiments.printing import print_comparison
    from recsys.experiments.random_log import answered, as_log, as_target, read_random_log
    from recsys.publish import bundle_versions
    from recsys.store.database import database_url, exists, opened
    from recsys.store.migrate import version as migrated
    from service.counterfactual import would_answer
    from service.replay import open_live

    frame = read_random_log(data_dir / "tables")
    url = database_url(data_dir, database)
    versions = bundle_versions(data_dir / "bundles")
    found = dict[str, dict[str, list[str]]]()
    with opened(url) as engine:
        if not exists(url) or migrated(engine) is None:
            raise UserError("there is no log of answers yet: `recsys serve` writes it")
        for version in (candidate or (versions[-1] if versions else None), champion):
            live = open_live(data_dir, version)
            with console.status(f"asking {live.bundle.version} what it would have answered"):
                found[live.bundle.version] = would_answer(engine, live, set(frame["request_id"]))
    if len(found) < 2:
        raise UserError(f"{next(iter(found))} is live: name another with --candidate or --champion")
    frame = answered(frame, *found.values())
    log, targets = as_log(frame), {version: as_target(frame, answers) for version, answers in found.items()}
    (ours, candidate_target), (theirs, champion_target) = targets.items()
    comparison = compare(log, candidate_target, champion_target)
    if isnan(comparison.difference.value):
        raise UserError(
            f"the log cannot tell: of {len(frame):,} random items that were seen, none stands where one of the bundles would have shown "
            "it. Random items of a large catalogue hardly ever do: collect many more answers, or run an experiment (docs/offpolicy.md)"
        )
    print_comparison(ours, theirs, comparison, console)
    write_evidence(out, ours, theirs, "ctr", comparison)
    console.print(f"written: {out}")


@experiments_app.command("prefer")
def prefer(
    experiment: Annotated[str, typer.Argument(help="Of the plan.")],
    arm: Annotated[str, typer.Argument(help="An arm that interleaves two bundles: `phase` and `against`.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Say which of two interleaved bundles shoppers click more; `recsys tables` first."""
    from recsys.experiments.preference import preference
    from recsys.experiments.printing import print_preference
    from recsys.experiments.teams import read_teams

    credit = read_teams(data_dir / "tables", experiment, arm)
    first, second = credit.columns[1:]
    print_preference(first, second, preference(credit[first], credit[second]), console)


@app.command()
def report(
    experiment: Annotated[str | None, typer.Argument(help="Of the plan; may be left out where it has one.")] = None,
    plan: Annotated[
        Path | None, typer.Option(envvar="RECSYS_EXPERIMENTS", help="A file of experiments, docs/experiments.md.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="The arm to decide about.")] = None,
    candidate: Annotated[str | None, typer.Option(help="A bundle's version; the newest by default.")] = None,
    champion: Annotated[str | None, typer.Option(help="Another; the live one by default.")] = None,
    evidence: Annotated[Path | None, typer.Option(help="Of `recsys experiments counterfactual`.")] = None,
    costs: Annotated[Path | None, typer.Option(help="TOML file of costs and margin, docs/roi.md.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = Path("report"),
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Everything that is known of a change, and what to do: ship, hold or stop. `recsys tables` first."""
    from recsys.decision.evidence import gather
    from recsys.decision.page import write_report
    from recsys.decision.verdict import decide
    from recsys.experiments.gate import read_evidence
    from recsys.experiments.reading import read_plan
    from recsys.experiments.roi import read_costs
    from recsys.tracking import log_report

    found = gather(
        data_dir,
        candidate=candidate,
        champion=champion,
        plan=None if plan is None else read_plan(plan),
        experiment=experiment,
        arm=arm,
        policy=None if evidence is None else read_evidence(evidence),
        costs=None if costs is None else read_costs(costs),
    )
    verdict = decide(found)
    page, data = write_report(out, found, verdict)
    log_report(data_dir, str(found.candidate["version"]), verdict.call, (page, data))
    console.print(f"[bold]{verdict.call.upper()}[/bold]")
    for reason in verdict.reasons:
        console.print(Text(f"  {reason}"), soft_wrap=True)
    console.print(f"written: {page} and {data}, and into MLflow")


@app.command()
def roi(
    inputs: Annotated[Path | None, typer.Option(help="TOML file of the figures, docs/roi.md.")] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="JSON of an experiment's result: incremental_revenue and period_days.")
    ] = None,
    attributed: Annotated[float | None, typer.Option(help="Revenue a year after clicks on recommendations.")] = None,
    incremental_share: Annotated[str | None, typer.Option(help="Of that: SHARE or SHARE,LOW,HIGH.")] = None,
    incremental: Annotated[str | None, typer.Option(help="Measured, a year: VALUE or VALUE,LOW,HIGH.")] = None,
    margin: Annotated[str | None, typer.Option(help="Share of revenue that is left: SHARE or SHARE,LOW,HIGH.")] = None,
    infrastructure: Annotated[float | None, typer.Option(help="Cost a year of all that runs.")] = None,
    engineers: Annotated[float | None, typer.Option(help="Who built it, with --months and --rate.")] = None,
    months: Annotated[float | None, typer.Option(help="For how long.")] = None,
    rate: Annotated[float | None, typer.Option(min=0, help="Cost of one for a month.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="The model is only so good as measured: 0.7.")] = None,
    years: Annotated[float | None, typer.Option(help="The time over which it is reckoned.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture: roi.png, roi.svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Reckon incremental revenue, cost, return and payback; without figures, those of the case study."""
    from recsys.experiments.roi import is_case_study, parse_figure, read_experiment, read_inputs
    from recsys.experiments.roi_printing import as_json as to_json
    from recsys.experiments.roi_printing import print_roi

    measured = None if experiment is None else read_experiment(experiment)
    figures = {"incremental_share": incremental_share, "incremental_per_year": incremental, "margin": margin}
    given: dict[str, Any] = {name: parse_figure(text) for name, text in figures.items() if text is not None}
    team = {"count": engineers, "months": months, "per_month": rate}
    others = {
        "attributed_per_year": attributed,
        "infrastructure_per_year": infrastructure,
        "accuracy": accuracy,
        "years": years,
        "incremental_per_year": None if measured is None else measured.per_year,
        "currency": None if measured is None else measured.currency,
        "people": None
        if engineers is None and months is None
        else [{"role": "engineers"} | {name: value for name, value in team.items() if value is not None}],
    }
    given |= {name: value for name, value in others.items() if value is not None}
    reckoned, case_study = read_inputs(inputs, given, rate=rate), is_case_study(inputs, given)
    if plot is not None:
        from recsys.experiments.roi_plot import plot_roi

        plot_roi(reckoned, plot)
    if as_json:
        found = to_json(reckoned, is_case_study=case_study)
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        print_roi(reckoned, console, is_case_study=case_study)

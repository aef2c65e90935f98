"""The command line, `recsys`: one command for each step of the chain, in the order of the chain.

The composition root: it alone imports pipelines, training and service, each when its command runs, so that
a serving install needs no training library and `--help` answers at once.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.text import Text

from recsys.errors import UserError

if TYPE_CHECKING:
    from service.settings import Settings

app = typer.Typer(
    name="recsys",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Product recommendations for a shop, from its data to its pages.\n\n"
    "The steps, in order: ingest, tables, (doctor), train, evaluate, publish, serve; rollback undoes a publish.",
)
rules_app = typer.Typer(no_args_is_help=True, help="Business rules: what may, must and must not be shown.")
app.add_typer(rules_app, name="rules")
experiments_app = typer.Typer(no_args_is_help=True, help="Experiments: who gets what, and how long it takes to tell.")
app.add_typer(experiments_app, name="experiments")
db_app = typer.Typer(no_args_is_help=True, help="The database of events and exposures.")
app.add_typer(db_app, name="db")
events_app = typer.Typer(no_args_is_help=True, help="Events: take a file in, see what became of them.")
app.add_typer(events_app, name="events")
console = Console(stderr=False)

DataDir = Annotated[Path, typer.Option("--data-dir", envvar="RECSYS_DATA_DIR", help="Where this shop's files live.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar=["RECSYS_DATABASE_URL", "DATABASE_URL"],
        show_envvar=True,
        help="postgresql://user@host/name; a SQLite file in the data directory by default.",
    ),
]
Phase = Annotated[
    int,
    typer.Option(
        min=1, max=3, help="1: collaborative filtering; 2: and content, for new items; 3: the ensemble, with a ranker."
    ),
]
DEFAULT_DATA_DIR = Path("data")


@app.command()
def ingest(
    mapping: Annotated[Path | None, typer.Option(help="TOML file that maps a shop's exports.")] = None,
    propose: Annotated[
        list[Path] | None,
        typer.Option(help="An unmapped export; prints a mapping for it. Repeat for several."),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Take a shop's exports in (the default data set without --mapping)."""
    from pipelines.ingest import ingest as run
    from pipelines.propose import propose_mapping

    if propose:
        typer.echo(propose_mapping(propose))
        return
    run(mapping, data_dir, console)


@app.command()
def tables(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Build the tables from all that was ingested, and from what the service was told: events and catalogue changes."""
    from pipelines.ingest import ingest_catalogue_log, ingest_log
    from pipelines.run import build_tables
    from recsys.store.database import database_url

    ingest_log(database_url(data_dir, database), data_dir, console)
    ingest_catalogue_log(data_dir, console)
    build_tables(data_dir, console)


@app.command()
def doctor(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Say what the data supports, what is missing, and how much more is needed."""
    from pipelines.doctor import doctor as examine

    console.print(examine(data_dir))


@app.command()
def train(
    phase: Phase = 1,
    until: Annotated[
        str | None, typer.Option(help="YYYY-MM-DD: learn only from what happened before this day (UTC).")
    ] = None,
    search_seconds: Annotated[float, typer.Option(min=0, help="Time box of the hyper-parameter search.")] = 60.0,
    seed: int = 0,
    objective: Annotated[
        str | None,
        typer.Option(
            help="What home of phase 3 is ranked by: purchases (the default), revenue, balanced between the two, or clicks."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Train again though nothing has changed.")] = False,
    publish_it: Annotated[
        bool, typer.Option("--publish", help="Publish the bundle too, if it is new or none is live.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Train a phase, evaluate it at its cut, log it in MLflow, and write its bundle."""
    from recsys.publish import live_version
    from recsys.train import train as run

    result = run(
        phase,
        data_dir,
        until=until,
        search_seconds=search_seconds,
        seed=seed,
        objective=objective,
        force=force,
        console=console,
    )
    # A bundle that was there before stays where a rollback put it.
    if publish_it and (result.trained or live_version(data_dir / "bundles") is None):
        publish(result.version, reason="trained", data_dir=data_dir)


@app.command()
def evaluate(phase: Phase = 1, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Evaluate a phase's chosen configuration at its cut, beside every baseline; writes reports/."""
    from recsys.train import evaluate_phase

    evaluate_phase(phase, data_dir, console=console)


@app.command()
def publish(
    version: Annotated[str | None, typer.Argument(help="A bundle's version; the newest by default.")] = None,
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "",
    evidence: Annotated[
        Path | None, typer.Option(help="An off-policy comparison with the live bundle, docs/offpolicy.md.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How much worse a slice or the estimate may be, as a share; 0.05 by default."),
    ] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="Only for arms of experiments; what is live stays live. Needs a version.")
    ] = False,
    force: Annotated[
        str | None, typer.Option(help="Publish although the gate refuses; the reason is kept in the ledger.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Verify and smoke-test a bundle, then make it the live one, unless it is worse than the one that is."""
    from recsys.experiments.gate import DEFAULT, Tolerances, read_evidence
    from recsys.publish import publish as run
    from recsys.publish import publish_beside, read_ledger

    bundles = data_dir / "bundles"
    if beside:
        if version is None:
            raise UserError("say which bundle is to serve beside the live one: recsys publish VERSION --beside")
        console.print(f"beside the live bundle: [bold]{publish_beside(bundles, version, reason=reason)}[/bold]")
        return
    live = run(
        bundles,
        version,
        reason=reason,
        force=force,
        evidence=None if evidence is None else read_evidence(evidence),
        tolerances=DEFAULT if tolerance is None else Tolerances(tolerance, tolerance),
    )
    entry = read_ledger(bundles)[-1]
    for line in entry.gate:
        console.print(Text(f"gate: {line}"), soft_wrap=True)
    console.print(f"live: [bold]{live}[/bold]" + (" (forced)" if entry.forced else ""))
    _follow_in_registry(data_dir, live)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Kept in the ledger.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make the bundle live again that was so before."""
    from recsys.publish import rollback as run

    live = run(data_dir / "bundles", reason=reason)
    console.print(f"live: [bold]{live}[/bold]")
    _follow_in_registry(data_dir, live)


def _follow_in_registry(data_dir: Path, version: str) -> None:
    """Point MLflow's alias `champion` at the live version, where MLflow is installed."""
    try:
        from recsys.tracking import set_champion
    except ModuleNotFoundError as error:
        console.print(f"MLflow's alias 'champion' not moved: {error.name} is not installed here")
        return
    set_champion(data_dir, version)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Serve the live bundle: API and storefront. Settings: docs/api.md."""
    from service.server import serve as run

    run(_settings(host=host, port=port, workers=workers, data_dir=data_dir, database_url=database))


def _settings(**given: Any) -> Settings:
    """The environment's settings, and what was given on the command line."""
    from service.settings import Settings

    return Settings(**{name: value for name, value in given.items() if value is not None})


@db_app.command("upgrade")
def upgrade_database(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Bring the database's tables up to date; `recsys serve` does so too."""
    from recsys.store.database import database_url, opened
    from recsys.store.migrate import upgrade

    with opened(database_url(data_dir, database)) as engine:
        console.print("upgraded" if upgrade(engine) else "up to date")


@db_app.command("status")
def database_status(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Say which database is used, its version, and how much it holds."""
    from recsys.store.database import database_url, exists, opened
    from recsys.store.migrate import version
    from recsys.store.reading import count
    from recsys.store.schema import HEAD, METADATA

    url = database_url(data_dir, database)
    typer.echo(url.render_as_string(hide_password=True))
    with opened(url) as engine:
        found = version(engine) if exists(url) else None
        if found != HEAD:
            typer.echo(f"version {found or 'none'}, this program's is {HEAD}: run `recsys db upgrade`")
            return
        typer.echo(f"version {found}, up to date")
        for table in METADATA.sorted_tables:
            typer.echo(f"{table.name:<10} {count(engine, table):>12,} rows")


@db_app.command("import-log")
def import_old_log(data_dir: DataDir = DEFAULT_DATA_DIR, database: Database = None) -> None:
    """Take logs of older versions (log/*.jsonl) into the database, once; `recsys tables` does so too."""
    from recsys.store.database import database_url, opened
    from recsys.store.migrate import upgrade
    from recsys.store.old_log import import_log

    with opened(database_url(data_dir, database)) as engine:
        upgrade(engine)
        done = import_log(engine, data_dir)
    console.print(
        f"{done.events:,} events, {done.exposures:,} exposures; {done.known:,} known already, {done.unreadable:,} unreadable"
    )


@events_app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="JSON lines, each as POST /events takes it: ours or GA4's.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Take a file of events in, judged as the API judges them; what was sent before counts once."""
    from service.importing import import_events

    done = import_events(_settings(data_dir=data_dir, database_url=database), file)
    console.print(", ".join(f"{count:,} {verdict}" for verdict, count in sorted(done.verdicts.items())) or "no events")
    for example in done.examples:
        console.print(Text(f"  rejected, {example}"), soft_wrap=True)


@events_app.command("tail")
def tail_events(
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many.")] = 20,
    follow: Annotated[bool, typer.Option(help="Go on with those that come; Ctrl-C ends it.")] = False,
    rejected: Annotated[bool, typer.Option(help="Only what was rejected.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Print the latest events with their verdicts and reasons."""
    from service.importing import tail

    settings = _settings(data_dir=data_dir, database_url=database)
    for line in tail(settings, number, follow=follow, rejected=rejected):
        typer.echo(line)


@rules_app.command("check")
def check_rules(
    file: Annotated[Path, typer.Argument(help="A rule file, docs/rules.md.")],
    bundle: Annotated[str | None, typer.Option(help="A bundle's version; the live one by default.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Requests to try the rules on, the latest of the log.")] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    database: Database = None,
) -> None:
    """Validate a rule file, try it on logged requests, and say what each rule changes and costs."""
    from recsys.rules.reading import read_rules
    from recsys.store.database import database_url
    from service.dry_run import dry_run, predictor_of
    from service.dry_run_tables import as_json as to_json
    from service.dry_run_tables import print_dry_run
    from service.replay import open_live, requests_for

    rules = read_rules(file)
    live = open_live(data_dir, bundle)
    requests, requests_from = requests_for(database_url(data_dir, database), live, limit)
    run = dry_run(live, rules, requests, predictor_of(live.bundle))
    if as_json:
        typer.echo(orjson.dumps(to_json(run, requests_from), option=orjson.OPT_INDENT_2).decode())
    else:
        print_dry_run(run, requests_from, str(live.bundle.manifest["currency"]), console)


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
    from recsys.experiments.offpolicy import Target, compare
    from recsys.experiments.printing import print_comparison
    from recsys.experiments.random_log import as_log, as_target, read_random_log
    from recsys.publish import bundle_versions
    from recsys.store.database import database_url, open_database
    from service.counterfactual import would_answer
    from service.replay import open_live

    frame = read_random_log(data_dir / "tables")
    engine = open_database(database_url(data_dir, database))
    newest = bundle_versions(data_dir / "bundles")[-1:]
    log, targets = as_log(frame), dict[str, Target]()
    for version in (candidate or "".join(newest) or None, champion):
        live = open_live(data_dir, version)
        with console.status(f"asking {live.bundle.version} what it would have answered"):
            answers = would_answer(engine, live, set(frame["request_id"]))
        targets[live.bundle.version] = as_target(frame, answers)
    if len(targets) < 2:
        raise UserError(f"{next(iter(targets))} is live: name another with --candidate or --champion")
    (ours, candidate_target), (theirs, champion_target) = targets.items()
    comparison = compare(log, candidate_target, champion_target)
    print_comparison(ours, theirs, comparison, console)
    write_evidence(out, ours, theirs, "ctr", comparison)
    console.print(f"written: {out}")


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

    figures = {"incremental_share": incremental_share, "incremental_per_year": incremental, "margin": margin}
    given: dict[str, Any] = {name: parse_figure(text) for name, text in figures.items() if text is not None}
    team = {"count": engineers, "months": months, "per_month": rate}
    others = {
        "attributed_per_year": attributed,
        "infrastructure_per_year": infrastructure,
        "accuracy": accuracy,
        "years": years,
        "incremental_per_year": None if experiment is None else read_experiment(experiment),
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


@app.command()
def mlflow(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000, data_dir: DataDir = DEFAULT_DATA_DIR
) -> None:
    """Open the comparison of runs and phases in MLflow."""
    from recsys.tracking import open_ui

    open_ui(data_dir, port)


@app.command()
def docs(
    documents: Annotated[list[Path] | None, typer.Argument(help="Markdown files; README.md by default.")] = None,
    check: Annotated[bool, typer.Option(help="Fail where a document is out of date; write nothing.")] = False,
) -> None:
    """Bring the tables in documents up to date with reports/."""
    from recsys.reports import render

    for document in documents or [Path("README.md")]:
        text = document.read_text()
        rendered = render(text)
        if check and rendered != text:
            raise UserError(f"{document} is out of date: run `recsys docs`")
        if rendered != text:
            document.write_text(rendered)


def main() -> None:
    """Run the command line; an error that a user can act on prints as one line, not as a traceback."""
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("recsys", "pipelines", "service"):
            raise  # not a missing library but a mistake of ours
        _fail(
            f"{error.name} is not installed; training and pipelines need: pip install '.[train]', serving: '.[serve]'"
        )


def _fail(message: str) -> None:
    Console(stderr=True).print(Text("error: ", style="red") + Text(message), soft_wrap=True)
    sys.exit(1)

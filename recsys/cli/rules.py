"""Business rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from recsys.cli.options import DEFAULT_DATA_DIR, Database, DataDir, console

rules_app = typer.Typer(no_args_is_help=True, help="Business rules: what may, must and must not be shown.")


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

"""The command line, `recsys`: one command for each step of the chain, in the order of the chain.

The composition root: it and `recsys.reality` alone import pipelines, training and service, each when its command runs, so that
a serving install needs no training library and `--help` answers at once.
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.text import Text

from recsys.cli import chain, experiments, keys, lifecycle, log, privacy, reality, rules
from recsys.errors import UserError

app = typer.Typer(
    name="recsys",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Product recommendations for a shop, from its data to its pages.\n\n"
    "The steps, in order: ingest, tables, (doctor), train, evaluate, publish, serve; rollback undoes a publish.",
)
app.add_typer(chain.app)
app.add_typer(lifecycle.app)
app.add_typer(rules.rules_app, name="rules")
app.add_typer(experiments.app)
app.add_typer(experiments.experiments_app, name="experiments")
app.add_typer(reality.app)
app.add_typer(log.db_app, name="db")
app.add_typer(log.events_app, name="events")
app.add_typer(keys.keys_app, name="keys")
app.add_typer(privacy.privacy_app, name="privacy")


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

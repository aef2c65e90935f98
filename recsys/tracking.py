"""MLflow: where analysts compare phases. Runs, metrics, plots, bundles, and one registered model with two aliases.

The registered model `recsys` has a version for every bundle, tagged with its phase; `candidate` is the last trained,
`champion` the live one. Only this module imports mlflow.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import mlflow
import polars as pl
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from recsys.errors import UserError
from recsys.evaluation.evaluate import ALL, HISTORY_SLICES, NEW
from recsys.evaluation.metrics import PRIMARY
from recsys.evaluation.reliability import errors

EXPERIMENT: Final = "recsys"
REGISTERED_MODEL: Final = "recsys"
CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"


def _tracking_uri(data_dir: Path) -> str:
    """`MLFLOW_TRACKING_URI` where set, else SQLite below the data directory."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    (data_dir / "mlflow").mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(data_dir / 'mlflow' / 'mlflow.db').resolve()}"


def connect(data_dir: Path) -> MlflowClient:
    """A client of this data directory's runs; `mlflow`'s own functions follow it."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri, is_given = _tracking_uri(data_dir), "MLFLOW_TRACKING_URI" in os.environ
    mlflow.set_tracking_uri(uri)
    if not is_given:
        # MLflow exports it, and the process's next data directory would be tracked where this one is.
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    client = MlflowClient(uri)
    if client.get_experiment_by_name(EXPERIMENT) is None:
        artifacts = None if is_given else (data_dir / "mlflow" / "artifacts").resolve().as_uri()
        client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    mlflow.set_experiment(EXPERIMENT)
    return client


def metric_key(model: str, slice_name: str, metric: str) -> str:
    """A metric name that MLflow accepts: `phase1/all_purchases/ndcg_at_20`."""
    return "/".join(re.sub(r"[^\w.-]+", "_", part.replace("@", "_at_")) for part in (model, slice_name, metric))


def log_training(
    data_dir: Path,
    *,
    phase: int,
    bundle: Path,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    results: Mapping[str, pl.DataFrame],
    reliability: Mapping[str, pl.DataFrame],
    tradeoffs: Mapping[str, pl.DataFrame],
) -> str:
    """Log a training as one run, register its bundle as a model version, make it `candidate`; return the run's id.

    `results`: frames of `recsys.evaluation.evaluate` by window (`validation`, `test`); `reliability`: frames of
    `recsys.evaluation.reliability.measure` by window; `tradeoffs`: the curves of `recsys.tradeoffs` by name.
    """
    client = connect(data_dir)
    with mlflow.start_run(run_name=f"phase{phase} {bundle.name}", tags={"phase": str(phase), **tags}) as run:
        mlflow.log_params({key: value for key, value in params.items() if value is not None})
        for window, frame in results.items():
            _log_frame(window, frame)
        for window, frame in reliability.items():
            _log_reliability(window, frame)
        for name, curve in tradeoffs.items():
            mlflow.log_text(curve.write_csv(), f"{name}.csv")
            _log_plot(PLOT_OF[name](curve), name)
        mlflow.log_artifacts(str(bundle), "bundle")
        run_id = str(run.info.run_id)
        source = f"{run.info.artifact_uri}/bundle"
    try:
        client.create_registered_model(REGISTERED_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        REGISTERED_MODEL, source, run_id=run_id, tags={"phase": str(phase), "bundle": bundle.name}
    )
    client.set_registered_model_alias(REGISTERED_MODEL, CANDIDATE, version.version)
    return run_id


def _log_frame(window: str, frame: pl.DataFrame) -> None:
    metrics = {}
    for row in frame.iter_rows(named=True):
        key = f"{window}/{metric_key(row['model'], row['slice'], row['metric'])}"
        metrics[key] = row["value"]
        if row["low"] is not None:
            metrics |= {f"{key}/low": row["low"], f"{key}/high": row["high"]}
    mlflow.log_metrics(metrics)
    mlflow.log_text(frame.write_csv(), f"{window}.csv")
    if len(frame):
        for name, figure in (
            ("models", plot_models(frame, window)),
            ("history_length", plot_history_length(frame, window)),
        ):
            _log_plot(figure, f"{window}_{name}")


def _log_reliability(window: str, frame: pl.DataFrame) -> None:
    mlflow.log_text(frame.write_csv(), f"{window}_reliability.csv")
    if len(frame):
        mlflow.log_metrics({f"{window}/ece/{surface}": error for surface, error, _ in errors(frame).iter_rows()})
        _log_plot(plot_reliability(frame, window), f"{window}_reliability")


def _log_plot(figure: Figure, name: str) -> None:
    mlflow.log_figure(figure, f"plots/{name}.png")
    plt.close(figure)


def plot_models(frame: pl.DataFrame, window: str) -> Figure:
    """The primary metric of every model with its interval, on all purchases and on new items."""
    slices = [name for name in (ALL, NEW) if len(frame.filter(slice=name))]
    figure, axes = plt.subplots(1, len(slices), figsize=(6 * len(slices), 4.5), squeeze=False, layout="constrained")
    for axis, slice_name in zip(axes[0], slices, strict=True):
        part = frame.filter(slice=slice_name, metric=str(PRIMARY)).sort("value")
        errors = [part["value"] - part["low"], part["high"] - part["value"]]
        axis.barh(part["model"], part["value"], xerr=errors, color="#4c72b0", ecolor="#222222", capsize=3)
        axis.set(title=f"{slice_name}, {window}", xlabel=f"{PRIMARY} with 95% interval")
    return figure


def plot_history_length(frame: pl.DataFrame, window: str) -> Figure:
    """The primary metric of every model by how much is known of the shopper."""
    names = [name for name, _, _ in HISTORY_SLICES if len(frame.filter(slice=name))]
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for model in frame["model"].unique(maintain_order=True):
        part = frame.filter(model=model, metric=str(PRIMARY))
        values = {row["slice"]: row["value"] for row in part.iter_rows(named=True)}
        axis.plot(names, [values.get(name, float("nan")) for name in names], marker="o", label=model)
    axis.set(title=f"By history length, {window}", ylabel=str(PRIMARY), xlabel="events known of the shopper")
    axis.legend(fontsize="small")
    return figure


def plot_reliability(frame: pl.DataFrame, window: str) -> Figure:
    """Of each surface: what was claimed, and what share was bought. The axes are logarithmic, since most chances are small."""
    figure, axis = plt.subplots(figsize=(6.5, 6), layout="constrained")
    least = 1e-3
    axis.plot([least, 1], [least, 1], color="#999999", linestyle="--", label="as claimed")
    for surface, error, _ in errors(frame).iter_rows():
        part = frame.filter(surface=surface)
        shown = (part[name].clip(lower_bound=least) for name in ("claimed", "bought"))
        axis.plot(*shown, marker="o", label=f"{surface}, error {error:.4f}")
    axis.set(title=f"Reliability, {window}", xlabel="chance claimed", ylabel="share bought", xscale="log", yscale="log")
    axis.legend(fontsize="small")
    return figure


def plot_thresholds(curve: pl.DataFrame) -> Figure:
    """What an answer gains over the simple one, and how many places are enhanced, by threshold."""
    names = {
        "purchases": "purchases",
        "revenue_cents": "revenue, cents",
        "gain": "gain",
        "enhanced": "share of places enhanced",
    }
    figure, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 4), layout="constrained")
    for axis, (name, label) in zip(axes, names.items(), strict=True):
        axis.fill_between(curve["threshold"], curve[f"{name}_low"], curve[f"{name}_high"], alpha=0.2)
        axis.plot(curve["threshold"], curve[name], marker="o")
        axis.set(xlabel="threshold", ylabel=f"{label}, per answer" if name != "enhanced" else label)
    figure.suptitle("Progressive enhancement, validation: gained over the simple answer, with 95% intervals")
    return figure


def plot_objectives(curve: pl.DataFrame) -> Figure:
    """Purchases against revenue, a point for each weight of prices, with 95% intervals."""
    figure, axis = plt.subplots(figsize=(6.5, 5), layout="constrained")
    errors_of = {
        name: [curve[name] - curve[f"{name}_low"], curve[f"{name}_high"] - curve[name]]
        for name in ("purchases", "revenue_cents")
    }
    axis.errorbar(
        curve["purchases"],
        curve["revenue_cents"],
        xerr=errors_of["purchases"],
        yerr=errors_of["revenue_cents"],
        marker="o",
        capsize=3,
    )
    for weight, x, y in curve.select("value_weight", "purchases", "revenue_cents").iter_rows():
        axis.annotate(f"{weight:g}", (x, y), textcoords="offset points", xytext=(6, 6))
    axis.set(
        title="Objectives, validation, by the weight of prices",
        xlabel="purchases per answer",
        ylabel="revenue per answer, cents",
    )
    return figure


PLOT_OF: Final = {"thresholds": plot_thresholds, "objectives": plot_objectives}


def log_report(data_dir: Path, bundle_version: str, call: str, files: Iterable[Path]) -> None:
    """Log a decision report as a run of its own, tagged with the bundle that it is about."""
    connect(data_dir)
    with mlflow.start_run(run_name=f"report {bundle_version}", tags={"bundle": bundle_version, "verdict": call}):
        for file in files:
            mlflow.log_artifact(str(file), "report")


def set_champion(data_dir: Path, bundle_version: str) -> None:
    """Point the alias `champion` at the model version of a bundle.

    A bundle that came from elsewhere has none here; then the alias is removed, so that it never names a model
    that is not live.
    """
    client = connect(data_dir)
    for version in client.search_model_versions(f"name = '{REGISTERED_MODEL}'"):
        if version.tags.get("bundle") == bundle_version:
            client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, version.version)
            return
    if client.search_registered_models(f"name = '{REGISTERED_MODEL}'"):
        client.delete_registered_model_alias(REGISTERED_MODEL, CHAMPION)


def bundle_of_alias(data_dir: Path, alias: str) -> str:
    """The bundle of the model version that an alias names, as `candidate`.

    Raises:
        UserError: the registry has no such alias, or the version that it names is of no bundle.
    """
    client = connect(data_dir)
    try:
        found = client.get_model_version_by_alias(REGISTERED_MODEL, alias)
    except MlflowException as error:
        raise UserError(
            f"MLflow's registry names no version of {REGISTERED_MODEL!r} {alias!r}: {error.message}"
        ) from error
    if "bundle" not in found.tags:
        raise UserError(f"version {found.version} of {REGISTERED_MODEL!r}, {alias!r}, is of no bundle of ours")
    return str(found.tags["bundle"])


def open_ui(data_dir: Path, port: int) -> None:
    """Become MLflow's own server on this data: a signal to this process reaches it, and ends it."""
    connect(data_dir)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", _tracking_uri(data_dir)]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])

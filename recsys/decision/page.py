"""The report as one HTML page that needs nothing else, and as JSON for whatever comes next."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from recsys.decision import plots
from recsys.decision.evidence import Evidence, Money, Trial
from recsys.decision.verdict import IN_WORDS, Verdict
from recsys.experiments.metrics import METRICS
from recsys.experiments.roi import sensitivity

HTML: Final = "report.html"
JSON: Final = "report.json"


def write_report(folder: Path, evidence: Evidence, verdict: Verdict) -> tuple[Path, Path]:
    """Write both into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / HTML, folder / JSON
    page.write_text(as_html(evidence, verdict), encoding="utf-8")
    data.write_bytes(orjson.dumps(as_json(evidence, verdict), option=orjson.OPT_INDENT_2))
    return page, data


def as_json(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """Everything on the page, as plain data; `recsys roi --experiment` reads its money."""
    trial, money = evidence.trial, evidence.money
    content: dict[str, Any] = {
        "at": evidence.at.isoformat(timespec="seconds"),
        "verdict": verdict.call,
        "reasons": verdict.reasons,
        "candidate": evidence.candidate["version"],
        "champion": None if evidence.champion is None else evidence.champion["version"],
        "slices": evidence.slices.to_dicts(),
        "off_policy": None if evidence.policy is None else evidence.policy.model_dump(mode="json"),
        "experiment": None if trial is None else _trial_as_json(trial),
    }
    if money is not None:
        content |= {
            "incremental_revenue": _figure(money.incremental),
            "attributed_revenue": _figure(money.attributed),
            "period_days": money.period_days,
            "currency": evidence.currency,
            "returns": None if money.returns is None else asdict(money.returns),
        }
    return content


def _trial_as_json(trial: Trial) -> dict[str, Any]:
    readout = trial.readout
    return {
        "name": trial.experiment.name,
        "arm": trial.arm.name,
        "control": trial.experiment.control,
        "is_over": trial.is_over,
        "period_days": trial.period_days,
        "units": dict(readout.units),
        "mismatch_p": readout.mismatch_p,
        "many_arms_share": readout.many_arms_share,
        "no_readout": readout.reason or None,
        "lifts": readout.lifts.filter(arm=trial.arm.name).to_dicts(),
    }


def _figure(figure: Any) -> list[float]:
    return [figure.value, figure.low, figure.high]


def as_html(evidence: Evidence, verdict: Verdict) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("recsys.decision", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": _percent, "money": _money, "number": _number}
    trial = evidence.trial
    lifts = [] if trial is None else trial.readout.lifts.filter(arm=trial.arm.name).to_dicts()
    return environment.get_template("page.html").render(
        evidence=evidence,
        verdict=verdict,
        in_words=IN_WORDS[verdict.call],
        trial=trial,
        lifts=lifts,
        metrics=METRICS,
        lifts_svg=plots.lifts(trial) if trial is not None and lifts else "",
        daily_svg=plots.daily_ctr(trial) if trial is not None and len(trial.days) else "",
        slices_svg=_slices_svg(evidence),
        sensitivity=_sensitivity(evidence.money),
    )


def _slices_svg(evidence: Evidence) -> dict[str, str]:
    compared = evidence.slices.drop_nulls("relative")
    return {window: plots.slices(compared, window) for window in compared["window"].unique(maintain_order=True)}


def _sensitivity(money: Money | None) -> list[tuple[float, Any]]:
    return list(sensitivity(money.inputs)) if money is not None and money.inputs is not None else []


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:+.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def _money(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"

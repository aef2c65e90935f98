"""From evidence to what to do: ship, hold or stop, with every reason in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import polars as pl

from recsys.decision.evidence import INCREMENTAL, Evidence, Trial
from recsys.experiments.analysis import ALPHA
from recsys.experiments.metrics import METRICS
from recsys.experiments.offpolicy import Trust
from recsys.ledger import phase_of


class Call(StrEnum):
    """What to do."""

    SHIP = "ship"
    HOLD = "hold"
    STOP = "stop"


IN_WORDS: Final = {
    Call.SHIP: "Make it live for everybody.",
    Call.HOLD: "Leave things as they are until the open points are closed.",
    Call.STOP: "Take it out: it does harm.",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why; `reasons` start with those that decided."""

    call: Call
    reasons: tuple[str, ...]


def decide(evidence: Evidence) -> Verdict:
    """Stop at any surely broken guardrail, surely worse primary metric or slice, or surely lower revenue; ship what is surely better with every guardrail
    held; hold everything else. What is not measured is never taken for good."""
    harm, open_points, good = _offline(evidence)
    if evidence.trial is None:
        open_points.append("no experiment was read: offline figures alone do not say what shoppers do")
    else:
        open_points += _another_ran(str(evidence.candidate["version"]), evidence.trial)
        for found, more in zip((harm, open_points, good), _online(evidence.trial), strict=True):
            found += more
    if harm:
        return Verdict(Call.STOP, (*harm, *open_points, *good))
    if open_points:
        return Verdict(Call.HOLD, (*open_points, *good))
    return Verdict(Call.SHIP, tuple(good))


Reasons = tuple[list[str], list[str], list[str]]
"""What does harm, what is open, what is good."""


def _offline(evidence: Evidence) -> Reasons:
    harm = [f"offline: {words}" for words in evidence.gate.refusals]
    good = [f"offline: {words}" for words in evidence.gate.notes]
    if evidence.policy is not None and evidence.policy.trust is Trust.NOT_ESTIMABLE:
        good.append("off-policy: the log of random answers is too small to tell anything; nothing rests on it")
    return harm, [], good


def _online(trial: Trial) -> Reasons:
    harm, open_points, good = list[str](), list[str](), list[str]()
    if trial.readout.reason:
        return harm, [trial.readout.reason], good
    open_points += trial.readout.warnings
    _judge_primary(trial, harm, open_points, good)
    _judge_others(trial, harm, open_points)
    guarded = trial.readout.lifts.filter(arm=trial.arm.name, role="guardrail")
    # A guardrail is looked at as often as the primary metric: while the experiment runs its fixed bound holds no more than that one's.
    prefix = "" if trial.is_over else "sequential_"
    for row in guarded.iter_rows(named=True):
        verdict, bound = row[f"{prefix}verdict"], row[f"{prefix}bound"]
        {"broken": harm, "held": good}.get(str(verdict), open_points).append(_guardrail(row, verdict, bound))
    return harm, open_points, good


def _another_ran(candidate: str, trial: Trial) -> list[str]:
    """Why the experiment says nothing of this bundle: its arm was answered by another one."""
    phase, named = phase_of(candidate), trial.arm.phase
    served = trial.days.filter(pl.col("arm") == trial.arm.name, pl.col("phase") > 0)["phase"].unique().sort().to_list()
    if named is not None and named not in (candidate, f"phase{phase}"):
        by = named
    elif set(served) - {phase}:
        by = " and ".join(f"phase {one}" for one in served)
    else:
        return []
    return [
        f"arm {trial.arm.name} was answered by {by}, not by {candidate} alone: name the bundle that ran (--candidate)"
    ]


def _surely(trial: Trial, lift: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the arm is surely better, and whether surely worse: by the difference and, where there is one, by the ratio. With few
    events the two disagree, and then nothing is sure."""
    # Arms that are read out while they run are looked at again and again: only sequential intervals hold then.
    prefix = "" if trial.is_over else "sequential_"
    lows, highs = (
        [value for kind in ("", "relative_") if (value := lift[f"{prefix}{kind}{end}"]) is not None]
        for end in ("low", "high")
    )
    more, less = min(lows) > 0, max(highs) < 0
    return (more, less) if METRICS[lift["metric"]].better == "higher" else (less, more)


def _judge_others(trial: Trial, harm: list[str], open_points: list[str]) -> None:
    """More clicks do not pay for less revenue: what all units bought is judged whatever the primary metric is."""
    declared = dict.fromkeys((INCREMENTAL, *trial.experiment.metrics))
    judged = {trial.experiment.primary, *(one.metric for one in trial.experiment.guardrails)}
    for name in (one for one in declared if one not in judged):
        lift = trial.lift(name)
        if lift is not None and _surely(trial, lift)[1]:
            words = f"{name} ({METRICS[name].meaning}): {_change(lift, is_over=trial.is_over)}"
            (harm if name == INCREMENTAL else open_points).append(
                f"{words}: surely worse than {trial.experiment.control}"
            )


def _judge_primary(trial: Trial, harm: list[str], open_points: list[str], good: list[str]) -> None:
    name = trial.experiment.primary
    lift = trial.lift(name)
    if lift is None:
        open_points.append(f"{name}: no data")
        return
    better, worse = _surely(trial, lift)
    words = f"{name} ({METRICS[name].meaning}): {_change(lift, is_over=trial.is_over)}"
    if worse:
        harm.append(f"{words}: surely worse than {trial.experiment.control}")
    elif not better:
        open_points.append(f"{words}: not surely different from {trial.experiment.control}; run it longer")
    elif trial.is_over and lift["p_adjusted"] is not None and lift["p_adjusted"] >= ALPHA:
        open_points.append(f"{words}: not sure enough once all arms are counted (p = {lift['p_adjusted']:.3f})")
    else:
        good.append(f"{words}: surely better than {trial.experiment.control}")


def _change(lift: dict[str, Any], *, is_over: bool) -> str:
    prefix = "" if is_over else "sequential_"
    low, high = lift[f"{prefix}relative_low"], lift[f"{prefix}relative_high"]
    if lift["relative"] is None or low is None:
        return f"{lift['difference']:+.4g} [{lift[f'{prefix}low']:+.4g}, {lift[f'{prefix}high']:+.4g}]"
    return f"{lift['relative']:+.1%} [{low:+.1%}, {high:+.1%}]"


def _guardrail(row: dict[str, Any], verdict: str | None, bound: float | None) -> str:
    words = f"guardrail {row['metric']}"
    if row["status"] != "ok" and bound is None:
        return f"{words}: {row['status']}"
    margin = "nothing to compare with" if bound is None else f"at most {bound:+.4g} worse, margin {row['margin']:.4g}"
    return f"{words} {verdict}: {margin}"

"""Open Bandit Pipeline (Saito et al., 2021) as a witness: its replay of Bernoulli Thompson sampling, and its estimators.

Run as a subprocess by the interpreter of `.venv-bench`, which has `obp` and nothing of the project; arrays in, JSON or arrays out. `-P` keeps
this folder off the path, where this file would be imported in the library's place.

`python -P benchmarks/obp.py policy OUT.npz CAMPAIGN=N_ITEMS ...`: for each campaign a table `(n_positions, n_items)`, with what probability the policy
puts an item at a position: obp draws from the Beta priors of production, which it ships, `DRAWS` times.

`python -P benchmarks/obp.py estimate IN.npz OUT.json`: IN holds the log `item`, `position`, `reward`, `propensity` `(n,)`, the target's `table`
`(n_positions, n_items)`, and a reward model as `tables` `(folds, n_positions, n_items)` and `fold` `(n,)`. OUT has `[value, low, high]` by estimator.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import numpy as np

POSITIONS: Final = 3
DRAWS: Final = 100_000
SEED: Final = 0
RESAMPLES: Final = 2_000


def policy(target: Path, campaigns: list[str]) -> None:
    """Replay Bernoulli Thompson sampling from the priors of production."""
    from obp.policy import BernoulliTS

    tables = {}
    for campaign in campaigns:
        name, n_items = campaign.split("=")
        replayed = BernoulliTS(
            n_actions=int(n_items), len_list=POSITIONS, random_state=SEED, is_zozotown_prior=True, campaign=name
        )
        tables[name] = replayed.compute_batch_action_dist(n_rounds=1, n_sim=DRAWS)[0].T
    np.savez(target, **tables)


def estimate(source: Path, target: Path) -> None:
    """The three estimators on one log, with bootstrapped intervals."""
    from obp.ope import DoublyRobust, InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting

    with np.load(source, allow_pickle=False) as given:
        log = {name: given[name] for name in given.files}
    rounds = {
        "reward": log["reward"],
        "action": log["item"],
        "position": log["position"],
        "pscore": log["propensity"],
        "action_dist": np.tile(log["table"].T, (len(log["item"]), 1, 1)),
        "estimated_rewards_by_reg_model": log["tables"][log["fold"]].transpose(0, 2, 1),
    }
    names = {
        "ips": InverseProbabilityWeighting(),
        "snips": SelfNormalizedInverseProbabilityWeighting(),
        "dr": DoublyRobust(),
    }
    found = {}
    for name, estimator in names.items():
        bounds = estimator.estimate_interval(**rounds, n_bootstrap_samples=RESAMPLES, random_state=SEED)
        low, high = (bounds[f"95.0% CI ({end})"] for end in ("lower", "upper"))
        found[name] = [float(estimator.estimate_policy_value(**rounds)), float(low), float(high)]
    target.write_text(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "policy":
        policy(Path(sys.argv[2]), sys.argv[3:])
    else:
        estimate(Path(sys.argv[2]), Path(sys.argv[3]))

"""The phases by number: what training, evaluation and the command line know of each."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from recsys import phase1, phase2, phase3
from recsys.dataset import Dataset, clicked_event, target_event
from recsys.errors import UserError

PHASES: Final[dict[int, ModuleType]] = {1: phase1, 2: phase2, 3: phase3}
"""Each module has `NAME`, `DEFAULT`, `default_params`, `suggest`, `objective`, `searched` (the model
that the search judges), `home`, `rows` and `build_surfaces`."""


def wanted(phase: int, objective: str | None) -> Mapping[str, Any]:
    """What an objective, one of `phase3.OBJECTIVES`, makes of a phase's configuration; nothing where none is named.

    Raises:
        UserError: the phase is not ranked by one, or there is none of that name.
    """
    if objective is None:
        return {}
    if phase != 3:
        raise UserError(f"phase {phase} is not ranked by an objective: --objective is for phase 3")
    if objective not in phase3.OBJECTIVES:
        raise UserError(f"--objective {objective!r} is none of {', '.join(phase3.OBJECTIVES)}")
    return phase3.OBJECTIVES[objective]


def event_of_chances(dataset: Dataset, config: phase1.Phase1Config) -> int:
    """Code of the event that a chance of this configuration is the probability of.

    Raises:
        UserError: clicks are wanted and the data has none.
    """
    clicks = isinstance(config, phase3.Phase3Config) and config.clicks
    return clicked_event(dataset) if clicks else target_event(dataset)

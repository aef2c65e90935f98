"""Two rankings in one list, each item on the team of the ranking that put it there: a comparison within one answer.

Team draft: Radlinski, Kurup, Joachims, *How does clickthrough data reflect retrieval quality?*, CIKM 2008. It needs far fewer answers
than two arms, and says which of two rankings is clicked more, not by how much more a shop would sell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import Ranking

FIRST: Final = 0
SECOND: Final = 1
NO_TEAM: Final = -1


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A list of two rankings' items."""

    ranking: Ranking
    """Scores are reversed places: those of two models do not compare."""
    teams: NDArray[np.int8]
    """`(n,)` int8: `FIRST` or `SECOND`; `NO_TEAM` where only one ranking had items left, whose clicks speak for none."""

    def credit(self, items: NDArray[np.int32]) -> tuple[int, int]:
        """How many of the clicked or bought `items` each team has."""
        teams = self.teams[np.isin(self.ranking.items, items)]
        return int((teams == FIRST).sum()), int((teams == SECOND).sum())


def team_draft(first: Ranking, second: Ranking, k: int, seed: int) -> Interleaved:
    """At most k items: in turns, each ranking puts its best item that is not in the list yet; in every round a coin says who begins.

    The same seed makes the same list.
    """
    rankings = (first, second)
    coins = np.random.default_rng(seed).integers(0, 2, size=k)
    places = [0, 0]
    chosen: list[tuple[int, int]] = []  # team, place in its ranking
    teams: list[int] = []
    taken: set[int] = set()
    for turn in range(k):
        for team in (FIRST, SECOND):
            items = rankings[team].items
            while places[team] < len(items) and int(items[places[team]]) in taken:
                places[team] += 1
        left = [team for team in (FIRST, SECOND) if places[team] < len(rankings[team])]
        if not left:
            break
        begins = int(coins[turn // 2])
        team = (begins if turn % 2 == 0 else 1 - begins) if len(left) == 2 else left[0]
        chosen.append((team, places[team]))
        teams.append(team if len(left) == 2 else NO_TEAM)
        taken.add(int(rankings[team].items[places[team]]))
    return Interleaved(_drawn(rankings, chosen), np.array(teams, dtype=np.int8))


def _drawn(rankings: tuple[Ranking, Ranking], chosen: list[tuple[int, int]]) -> Ranking:
    """The ranking of the chosen `(team, place)`."""
    n = len(chosen)

    def of(values: list[NDArray[np.int32]]) -> NDArray[np.int32]:
        return np.array([values[team][place] for team, place in chosen], dtype=np.int32)

    enhanced = None
    if any(ranking.enhanced is not None for ranking in rankings):
        taken = [(rankings[team].enhanced, place) for team, place in chosen]
        enhanced = np.array([them is not None and bool(them[place]) for them, place in taken], dtype=np.bool_)
    chances = None
    if any(ranking.chances is not None for ranking in rankings):
        picked = [(rankings[team].chances, place) for team, place in chosen]
        chances = np.array([np.nan if them is None else them[place] for them, place in picked], dtype=np.float32)
    return Ranking(
        of([ranking.items for ranking in rankings]),
        np.arange(n, 0, -1, dtype=np.float32),
        tuple(rankings[team].sources[place] for team, place in chosen),
        of([ranking.because for ranking in rankings]),
        chances,
        enhanced,
    )

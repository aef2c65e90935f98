"""Simulations side by side, each in a process of its own, under one progress bar."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.sharedctypes import SynchronizedArray
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CORES: Final = 2
COLUMNS: Final = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)
LOOK_SECONDS: Final = 0.5

Order = TypeVar("Order")
Result = TypeVar("Result")
Track = Callable[[Iterable[int]], Iterable[int]]
"""Passes numbers of visits on, and counts them."""

_counts: SynchronizedArray[int]
"""In a process of the pool: the visits done by every task."""


def side_by_side(
    work: Callable[[Order, Track], Result], orders: Sequence[Order], visits: int, console: Console
) -> list[Result]:
    """The results of `work` in the order of its orders, `CORES` at once; together they have about so many visits. The first error ends all."""
    context = get_context("spawn")
    counts = context.Array("q", len(orders))
    with (
        ProcessPoolExecutor(CORES, context, initializer=_count_in, initargs=(counts,)) as pool,
        Progress(*COLUMNS, console=console) as progress,
    ):
        task = progress.add_task("visits", total=visits)
        running = [pool.submit(_tracked, work, number, order) for number, order in enumerate(orders)]
        while not all(one.done() for one in running):
            if any(one.done() and one.exception() is not None for one in running):
                pool.shutdown(wait=False, cancel_futures=True)
                break
            done = sum(counts[:])
            progress.update(task, completed=done, total=max(visits, done))
            time.sleep(LOOK_SECONDS)
        done = sum(counts[:])
        progress.update(task, completed=done, total=done)
    failed = next((error for one in running if one.done() and not one.cancelled() and (error := one.exception())), None)
    if failed is not None:
        raise failed
    return [one.result() for one in running]


def _count_in(counts: SynchronizedArray[int]) -> None:
    global _counts
    _counts = counts
    # DuckDB draws a bar for every query on its standard output; there is one for all.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _tracked(work: Callable[[Order, Track], Result], number: int, order: Order) -> Result:
    try:
        return work(order, partial(_track, number))
    except _AbandonedError:
        os._exit(1)  # all is cleared up; the pool's worker would wait for another order for ever


class _AbandonedError(Exception):
    """The process that asked for a simulation is gone."""


def _track(number: int, visits: Iterable[int]) -> Iterator[int]:
    parent = parent_process()
    for visit in visits:
        if parent is not None and not parent.is_alive():
            raise _AbandonedError
        yield visit
        _counts[number] += 1

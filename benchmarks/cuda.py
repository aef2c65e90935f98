"""The networks of the phases on CUDA and on the processor beside it: how long a fit takes, and whether it learns the same.

`python -m benchmarks.cuda`, on a machine with a GPU. Networks are those that phases 2 and 3 train, and the sequence model in its own size
and a larger one. Each is fitted on both from the same data and seed; dropout draws other numbers on a GPU, so results agree as two seeds
do. Only the validation window is read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks import strict_cold
from recsys import phase3
from recsys.dataset import SECONDS_PER_DAY, Dataset, load_dataset
from recsys.errors import UserError
from recsys.evaluation.evaluate import ALL, evaluate, make_task
from recsys.evaluation.metrics import PRIMARY
from recsys.evaluation.split import Window, windows_of
from recsys.models.fit.content import ContentRecommender
from recsys.models.fit.ranker import Rows
from recsys.models.fit.sequence import SequenceRecommender
from recsys.ranking import Model
from recsys.reports import Cell, Table, interval, show, write_report

DATA: Final = Path("data")
SEED: Final = 0
LARGE: Final = SequenceRecommender(
    dimensions=256, heads=4, layers=2, batch=128, epochs=1, min_steps=60, start_from_als=False
)
"""Not trained to its end: its time is what counts."""
RANKED_SHOPPERS: Final = 600
"""Of either month."""


@dataclass(frozen=True)
class Trial:
    """A network to be fitted twice."""

    name: str
    metric: str
    fit: Callable[[], Callable[[], str]]
    """Fits, and gives what judges it: its figure with an interval."""


def need_cuda() -> None:
    """Look for a GPU before anything long is begun.

    Raises:
        UserError: PyTorch finds none.
    """
    if not torch.cuda.is_available():
        raise UserError("PyTorch finds no CUDA device here: this compares one with the processor beside it")


def content(dataset: Dataset, window: Window, console: Console) -> Trial:
    """Judged on items that it was not told of."""
    task = strict_cold.make_task(dataset, window, SEED)

    def fit() -> Callable[[], str]:
        model = ContentRecommender().fit(task.past, task.at, np.random.default_rng(SEED))
        scorer = strict_cold.ours(task, model)
        return lambda: strict_cold.figure(strict_cold.recall(scorer, task, "content", console)[:, 1])

    return Trial("content (phases 2 and 3)", f"{strict_cold.RECALL} of cold items", fit)


def sequence(name: str, recommender: SequenceRecommender, dataset: Dataset, window: Window) -> Trial:
    """Judged alone on all purchases."""
    task, past = make_task(dataset, window), dataset.before(window.start)

    def fit() -> Callable[[], str]:
        model = recommender.fit(past, window.start, np.random.default_rng(SEED))
        return lambda: reached(model)

    def reached(model: Model) -> str:
        frame, _ = evaluate({name: model}, task)
        found = frame.filter(slice=ALL, metric=str(PRIMARY)).rows(named=True)[0]
        return interval(found["value"], found["low"], found["high"])

    return Trial(name, f"{PRIMARY}, {ALL}", fit)


def ranker(dataset: Dataset, window: Window) -> Trial:
    """Judged by the likelihood of what was bought in the month after the one that it learns from."""
    recommender = replace(phase3.ranker(), max_shoppers=RANKED_SHOPPERS)
    past = dataset.before(window.start)
    length, rng = int(recommender.window_days * SECONDS_PER_DAY), np.random.default_rng(SEED)
    older, newer = (recommender.window_rows(past, window.start - n * length, length, rng) for n in (2, 1))

    def fit() -> Callable[[], str]:
        network = recommender.train(older, SEED)
        return lambda: strict_cold.figure(log_losses(network, newer))

    return Trial(f"ranker (phase 3), on a month of {RANKED_SHOPPERS} shoppers", "log loss, lower is better", fit)


def log_losses(network: Callable[[NDArray[np.float32]], NDArray[np.float32]], rows: Rows) -> NDArray[np.float64]:
    """`(n,)` cross entropy of each row under the network's logits, by its weight, of which 1 is the mean."""
    logits = network(rows.features).astype(np.float64)
    costs: NDArray[np.float64] = np.logaddexp(0.0, np.where(rows.bought, -logits, logits))
    return costs * (rows.weights / rows.weights.mean())


def measure(trial: Trial, console: Console) -> list[Cell]:
    """A row: seconds by the clock on either, how many times faster, what either reached, and MiB of the GPU at most."""
    seconds, reached, mib = {}, {}, {}
    for is_cuda in (True, False):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        started = time.perf_counter()
        with patch.object(torch.cuda, "is_available", lambda there=is_cuda: there):
            judge = trial.fit()
        torch.cuda.synchronize()
        seconds[is_cuda] = time.perf_counter() - started
        used = torch.cuda.max_memory_allocated() - held
        if (used > 0) != is_cuda:
            raise AssertionError(f"{trial.name} took {used} bytes of the GPU, and was to be trained {is_cuda=}")
        mib[is_cuda], reached[is_cuda] = used / 2**20, judge()
        console.print(f"  {trial.name}: {seconds[is_cuda]:.1f} s, {reached[is_cuda]}", highlight=False)
    ratio = seconds[False] / seconds[True]
    return [
        trial.name,
        seconds[True],
        seconds[False],
        ratio,
        trial.metric,
        reached[True],
        reached[False],
        round(mib[True]),
    ]


def run(data_dir: Path, console: Console) -> None:
    """Measure everything and write reports/cuda.json."""
    need_cuda()
    torch.zeros(1, device="cuda")  # The first touch loads libraries, for some seconds.
    dataset = load_dataset(data_dir / "tables")
    window = windows_of(dataset).validation
    dataset = dataset.before(window.stop)
    rows = [
        measure(sequence("sequence", SequenceRecommender(), dataset, window), console),
        measure(sequence("sequence, 256 dimensions, two layers, 60 steps", LARGE, dataset, window), console),
        measure(content(dataset, window, console), console),
        measure(ranker(dataset, window), console),
    ]
    columns = [
        "network",
        "CUDA, s",
        "processor, s",
        "times faster",
        "judged by",
        "CUDA [95%]",
        "processor [95%]",
        "MiB of the GPU at most",
    ]
    title = f"Fits on {torch.cuda.get_device_name()} and on the {torch.get_num_threads()} cores beside it"
    note = f"PyTorch {torch.__version__}, by the clock, with what a fit does on the processor in either case."
    table = Table(title, columns, rows, note)
    show(table, console)
    write_report("cuda", "make bench-cuda", [table])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=DATA)
    try:
        run(parser.parse_args().data_dir, Console())
    except UserError as error:
        raise SystemExit(str(error)) from error

"""Sequential intervals: the paper's formula, its optimum, and what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import lambertw

from recsys.experiments.sequential import factor, tuned_rho


def test_the_formula_by_hand() -> None:
    # t rho^2 = 1: sqrt(2 * (1 + 1) / 1 * log(sqrt(2) / 0.05)).
    assert float(factor(100, 0.1, 0.05)) == pytest.approx(math.sqrt(4 * math.log(math.sqrt(2) / 0.05)))


def test_rho_is_the_best_for_its_number_of_units() -> None:
    best = tuned_rho(5_000, 0.05)
    here = float(factor(5_000, best, 0.05))
    others = factor(5_000, np.array([0.5, 0.9, 1.1, 2.0]) * best, 0.05)
    assert (others > here).all()
    assert here == pytest.approx(3.03, abs=0.01)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01, 1e-6])
def test_rho_is_lamberts(alpha: float) -> None:
    expected = math.sqrt((-lambertw(-(alpha**2) / math.e, -1).real - 1) / 700)
    assert tuned_rho(700, alpha) == pytest.approx(expected, rel=1e-12)


def test_the_interval_shrinks_as_units_come() -> None:
    units = np.arange(10, 100_000, 100)
    assert (np.diff(factor(units, tuned_rho(10_000, 0.05), 0.05) / np.sqrt(units)) < 0).all()


def test_less_error_is_wider() -> None:
    rho = tuned_rho(1_000, 0.05)
    assert factor(1_000, rho, 0.01) > factor(1_000, rho, 0.05)


def test_it_holds_at_every_unit_at_once() -> None:
    rng = np.random.default_rng(0)
    runs, units = 1_000, 2_000
    seen = np.arange(1, units + 1)
    means = np.cumsum(rng.normal(size=(runs, units)), axis=1) / seen
    errors = np.abs(means) * np.sqrt(seen)
    ever = (errors > factor(seen, tuned_rho(1_000, 0.05), 0.05)).any(axis=1).mean()
    fixed = (errors > 1.96).any(axis=1).mean()
    assert ever < 0.05 < 0.5 < fixed

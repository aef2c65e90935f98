"""Off-policy estimates: tiny cases by hand, what must hold for every log, and truth known by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.errors import UserError
from recsys.experiments.offpolicy import (
    Log,
    OffPolicyError,
    Predictions,
    Target,
    Trust,
    compare,
    cross_fit,
    doubly_robust,
    effective_sample_size,
    estimate,
    estimators,
    evaluate,
    fit_rewards,
    ips,
    overlap,
    snips,
    weights,
)
from recsys.experiments.random_log import answered, as_log, as_target

Z = 1.959964


def log_of(
    reward: list[float], propensity: list[float], *, item: list[int] | None = None, unit: list[int] | None = None
) -> Log:
    n = len(reward)
    return Log(
        np.array(item or [0] * n),
        np.zeros(n, dtype=np.int64),
        np.array(reward, dtype=np.float64),
        np.array(propensity, dtype=np.float64),
        np.array(unit or list(range(n))),
    )


LOG = log_of([1, 0, 1, 0], [0.5, 0.25, 0.5, 0.25], item=[0, 1, 0, 1])
TARGET = Target(np.array([0.25, 0.5, 0.25, 0.5]))
"""Weights 0.5, 2, 0.5, 2: they sum to 5."""


def test_ips_by_hand() -> None:
    # (0.5 * 1 + 2 * 0 + 0.5 * 1 + 2 * 0) / 4 = 1 / 4
    assert weights(LOG, TARGET).tolist() == [0.5, 2.0, 0.5, 2.0]
    assert ips(LOG, TARGET).value == 0.25


def test_snips_by_hand() -> None:
    # 1 / 5; the rewards that the log has at the target's weights
    assert snips(LOG, TARGET).value == pytest.approx(0.2)


def test_doubly_robust_by_hand() -> None:
    # predictions 0.5 of what was shown, 0.4 of what the target would show:
    # 0.4 + (0.5 * (1 - 0.5) + 2 * (0 - 0.5) + 0.5 * 0.5 + 2 * -0.5) / 4 = 0.4 - 1.5 / 4 = 0.025
    predictions = Predictions(np.full(4, 0.5), np.full(4, 0.4))
    assert doubly_robust(LOG, TARGET, predictions).value == pytest.approx(0.025)


def test_the_interval_is_that_of_independent_units() -> None:
    # rows: weighted rewards 0.5, 0, 0.5, 0 less their mean 0.25, over 4 rows: +-0.0625 each; sqrt(4/3 * 4 * 0.0625^2) = 0.14434
    found = estimate("ips", ips(LOG, TARGET), LOG, TARGET)
    assert found.high - found.value == pytest.approx(Z * 0.144338, rel=1e-5)
    # two shoppers of two rows: the sums 0.5 - 2 * 0.25 are 0: shoppers do not differ, so nothing is uncertain
    same = replace(LOG, unit=np.array([0, 0, 1, 1]))
    assert estimate("ips", ips(same, TARGET), same, TARGET).high == pytest.approx(0.25)
    # the other way round: +-(1 - 0.5) / 4 = +-0.125; sqrt(2/1 * 2 * 0.125^2) = 0.25
    other = replace(LOG, unit=np.array([0, 1, 0, 1]))
    found = estimate("ips", ips(other, TARGET), other, TARGET)
    assert found.high - found.value == pytest.approx(Z * 0.25, rel=1e-5)
    assert found.units == 2 and found.n == 4


def test_effective_sample_size_by_hand() -> None:
    # (0.5 + 2 + 0.5 + 2)^2 / (0.25 + 4 + 0.25 + 4) = 25 / 8.5
    assert estimate("ips", ips(LOG, TARGET), LOG, TARGET).ess == pytest.approx(25 / 8.5)
    assert effective_sample_size(np.zeros(3)) == 0.0


def test_the_reward_model_by_hand() -> None:
    # position 0 has mean 1/2; item 0 earns 1 over it in 2 rows: 1/2 + 1 / (2 + 100); nothing is known of item 2 or position 1
    table = fit_rewards(LOG.item, LOG.position, LOG.reward, n_items=3, n_positions=2)
    assert table[0].tolist() == pytest.approx([0.5 + 1 / 102, 0.5 - 1 / 102, 0.5])
    assert table[1].tolist() == pytest.approx([0.5 + 1 / 102, 0.5 - 1 / 102, 0.5])


def test_a_target_by_table_and_by_lists_is_the_same() -> None:
    table = np.array([[0.25, 0.5, 0.25]])
    by_table = Target.from_table(LOG, table)
    by_items = Target.from_items(LOG, np.tile([2, 1, 0], (4, 1)), np.tile([0.25, 0.5, 0.25], (4, 1)))
    assert by_table.probability.tolist() == by_items.probability.tolist() == TARGET.probability.tolist()
    models = cross_fit(log_of([1, 0, 1, 0, 1], [0.5] * 5), n_items=3)
    long = log_of([1, 0, 1, 0, 1], [0.5] * 5)
    one = models.predict(long, Target.from_table(long, table))
    two = models.predict(long, Target.from_items(long, np.tile([2, 1, 0], (5, 1)), np.tile([0.25, 0.5, 0.25], (5, 1))))
    assert one.target.tolist() == pytest.approx(two.target.tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": np.array([0.5, 0.0, 0.5, 0.25])}, "propensity is 0 in 1 rows, the first is row 1"),
        ({"propensity": np.array([0.5, np.nan, np.nan, 0.25])}, "propensity is missing or infinite in 2 rows"),
        ({"propensity": np.array([0.5, None, 0.5, 0.25])}, "propensity is missing"),
        ({"propensity": np.array([0.5, 1.5, 0.5, 0.25])}, "lies between 0 and 1"),
        ({"reward": np.array([1.0, 0.0, np.nan, 0.0])}, "reward is missing or infinite in 1 rows, the first is row 2"),
        ({"reward": np.array([1.0, 0.0])}, "reward has shape"),
        ({"unit": np.array(["a", "b", "c", "d"])}, "unit"),
        ({"item": np.array([0, -1, 0, 1])}, "numbers from 0"),
        ({"item": np.array([], dtype=np.int64)}, "no rows"),
    ],
)
def test_a_log_that_cannot_be_is_refused(change: dict[str, NDArray[np.generic]], message: str) -> None:
    with pytest.raises(OffPolicyError, match=message):
        replace(LOG, **change)  # type: ignore[arg-type]


def test_a_target_that_cannot_be_is_refused() -> None:
    with pytest.raises(OffPolicyError, match="the target has 2 rows, the log 4"):
        ips(LOG, Target(np.array([0.5, 0.5])))
    with pytest.raises(OffPolicyError, match="between 0 and 1"):
        Target(np.array([1.2]))
    with pytest.raises(OffPolicyError, match="sum to more than 1"):
        Target.from_table(LOG, np.array([[0.75, 0.75]]))
    with pytest.raises(OffPolicyError, match="beyond the table"):
        Target.from_table(LOG, np.array([[1.0]]))
    with pytest.raises(OffPolicyError, match="or neither"):
        Target(np.array([0.5]), items=np.array([[0]]))
    with pytest.raises(OffPolicyError, match="needs every item"):
        cross_fit(log_of([1.0] * 5, [0.5] * 5)).predict(log_of([1.0] * 5, [0.5] * 5), Target(np.full(5, 0.5)))
    with pytest.raises(OffPolicyError, match="two units"):
        estimate("ips", ips(one := log_of([1.0], [0.5]), Target(np.array([0.5]))), one, Target(np.array([0.5])))


def test_a_log_cannot_be_changed_from_outside() -> None:
    reward = np.array([1.0, 0.0])
    log = Log(np.array([0, 1]), np.array([0, 0]), reward, np.array([0.5, 0.5]), np.array([0, 1]))
    reward[0] = 9.0
    assert log.reward.tolist() == [1.0, 0.0] and not log.reward.flags.writeable


@given(
    st.lists(
        st.tuples(st.floats(-10, 10), st.floats(0.01, 1), st.integers(0, 3), st.integers(0, 2)), min_size=5, max_size=40
    )
)
def test_the_logging_policy_itself_earns_what_it_earned(rows: list[tuple[float, float, int, int]]) -> None:
    reward, propensity, item, position = (np.array(column) for column in zip(*rows, strict=True))
    log = Log(item, position, reward, propensity, np.arange(len(rows)))
    # The doubly robust estimate too, where the model expects of the target what it expects of what was shown: the very same policy.
    shown = Target.from_items(log, log.item[:, None], np.ones((len(rows), 1)))
    sure = replace(log, propensity=np.ones(len(rows)))
    mean = pytest.approx(reward.mean(), abs=1e-9)
    assert ips(log, Target(log.propensity)).value == mean
    assert snips(log, Target(log.propensity)).value == mean
    assert doubly_robust(sure, shown, cross_fit(sure).predict(sure, shown)).value == mean


N_ITEMS, N_POSITIONS = 6, 3
LOGGING = np.array([[0.4, 0.2, 0.1, 0.1, 0.1, 0.1], [0.1, 0.4, 0.2, 0.1, 0.1, 0.1], [0.1, 0.1, 0.4, 0.2, 0.1, 0.1]])
ASKED = np.array([[0.1, 0.1, 0.1, 0.1, 0.2, 0.4], [0.1, 0.1, 0.1, 0.2, 0.4, 0.1], [0.2, 0.1, 0.1, 0.4, 0.1, 0.1]])
CLICKED = np.array([1.0, 0.7, 0.5])[:, None] * np.array([0.10, 0.15, 0.20, 0.25, 0.30, 0.35])
TRUTH = float((ASKED * CLICKED).sum(axis=1).mean())
"""Every page has all three positions."""


def simulate(rng: np.random.Generator, shoppers: int) -> Log:
    """A page of three slots for each shopper, some of whom click on anything: rows of a shopper are alike."""
    draws = rng.random((shoppers, N_POSITIONS, 1))
    item = (draws > LOGGING.cumsum(axis=1)[None]).sum(axis=2)
    position = np.tile(np.arange(N_POSITIONS), (shoppers, 1))
    eager = rng.choice([0.2, 1.8], size=(shoppers, 1))
    reward = rng.random(item.shape) < CLICKED[position, item] * eager
    unit = np.repeat(np.arange(shoppers), N_POSITIONS)
    return Log(item.ravel(), position.ravel(), reward.ravel(), LOGGING[position, item].ravel(), unit)


def test_estimates_are_unbiased_and_their_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, runs = np.random.default_rng(0), 400
    values: dict[str, list[float]] = {"ips": [], "snips": [], "dr": []}
    inside = dict.fromkeys(values, 0)
    for _ in range(runs):
        log = simulate(rng, 400)
        target = Target.from_table(log, ASKED)
        for name, terms in estimators(log, target).items():
            found = estimate(name, terms, log, target)
            values[name].append(found.value)
            inside[name] += found.low <= TRUTH <= found.high
    for name, estimates in values.items():
        error = np.std(estimates) / np.sqrt(runs)
        assert abs(np.mean(estimates) - TRUTH) < 4 * error, name
        # 95% of 400 runs, give or take four standard errors: sqrt(.95 * .05 / 400) = 1.1%
        assert 0.906 <= inside[name] / runs <= 0.994, name


def test_the_model_and_the_normalisation_steady_the_estimate() -> None:
    log = simulate(np.random.default_rng(1), 5_000)
    found = evaluate(log, Target.from_table(log, ASKED)).estimates
    width = {name: one.high - one.low for name, one in found.items()}
    assert width["snips"] < width["ips"] and width["dr"] < width["ips"]


def test_each_position_has_an_estimate_of_its_own() -> None:
    log = simulate(np.random.default_rng(2), 20_000)
    truth = (ASKED * CLICKED).sum(axis=1)
    found = evaluate(log, Target.from_table(log, ASKED)).by_position
    for position in range(N_POSITIONS):
        assert abs(found[position].value - truth[position]) < 2 * (found[position].high - found[position].value)
    assert found[0].value > found[2].value


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    log = simulate(np.random.default_rng(3), 2_000)
    better = ASKED.copy()
    better[:, 5] += better[:, 0]
    better[:, 0] = 0.0
    found = compare(log, Target.from_table(log, better), Target.from_table(log, ASKED))
    unpaired = np.hypot(found.candidate.high - found.candidate.value, found.champion.high - found.champion.value)
    assert found.difference.value == pytest.approx(found.candidate.value - found.champion.value)
    assert found.difference.high - found.difference.value < 0.7 * unpaired
    assert found.difference.low > 0
    nothing = compare(log, Target.from_table(log, ASKED), Target.from_table(log, ASKED), estimator="dr")
    assert nothing.difference.value == nothing.difference.low == nothing.difference.high == 0.0
    with pytest.raises(OffPolicyError, match="there are: ips, snips, dr"):
        compare(log, Target(log.propensity), Target(log.propensity), estimator="dr")


def test_a_good_log_is_trustworthy() -> None:
    log = simulate(np.random.default_rng(4), 2_000)
    found = overlap(log, Target.from_table(log, ASKED))
    assert found.trust is Trust.TRUSTWORTHY and found.reasons == ()
    assert found.unseen == 0.0
    assert found.mean_weight_low <= 1 <= found.mean_weight_high
    assert found.unsupported == max(0.0, 1.0 - found.mean_weight)
    assert found.largest_weight == pytest.approx(4.0)


def test_what_the_log_never_shows_cannot_be_estimated() -> None:
    log = simulate(np.random.default_rng(5), 1_000)
    alien = np.zeros((N_POSITIONS, N_ITEMS + 1))
    alien[:, N_ITEMS] = 1.0
    found = evaluate(log, Target.from_table(log, alien))
    assert found.overlap.trust is Trust.NOT_ESTIMABLE
    assert found.overlap.unseen == 1.0 and found.overlap.unsupported == 1.0
    assert np.isnan(found.estimates["snips"].value) and found.estimates["ips"].value == 0.0
    half = 0.5 * alien + 0.5 * np.pad(ASKED, ((0, 0), (0, 1)))
    partly = overlap(log, Target.from_table(log, half))
    assert partly.trust is Trust.NOT_ESTIMABLE
    assert partly.unseen == pytest.approx(0.5) and partly.unsupported == pytest.approx(0.5, abs=0.05)
    assert any("had a chance in the log" in reason for reason in partly.reasons)


def test_one_row_of_enormous_weight_is_named() -> None:
    log = simulate(np.random.default_rng(6), 1_000)
    propensity = log.propensity.copy()
    propensity[0] = 1e-5
    found = overlap(replace(log, propensity=propensity), Target.from_table(log, ASKED))
    assert found.trust is not Trust.TRUSTWORTHY
    assert any("one row has" in reason for reason in found.reasons)
    assert found.top_share > 0.5


def test_wrong_propensities_show_in_the_mean_weight() -> None:
    log = simulate(np.random.default_rng(7), 2_000)
    found = overlap(replace(log, propensity=log.propensity / 2), Target.from_table(log, ASKED))
    assert found.trust is Trust.WEAK
    assert any("not 1" in reason for reason in found.reasons)


def test_few_rewards_are_weak_evidence() -> None:
    log = simulate(np.random.default_rng(8), 2_000)
    reward = np.zeros(len(log))
    reward[:4] = 1.0
    found = overlap(replace(log, reward=reward), Target.from_table(log, ASKED))
    assert found.trust is Trust.WEAK and "have a reward" in found.reasons[0]


def test_what_cannot_be_asked_again_is_left_out_of_a_comparison() -> None:
    frame = pl.DataFrame(
        {
            "request_id": ["r1", "r1", "r2", "r3"],
            "position": [1, 2, 1, 1],
            "item_id": ["a", "b", "a", "a"],
            "propensity": [0.1] * 4,
            "unit": ["u", "u", "v", "w"],
            "clicked": [1.0, 0.0, 0.0, 1.0],
        }
    )
    ours, theirs = {"r1": ["a", "c"], "r2": []}, {"r1": ["b"], "r2": ["a"], "r3": ["a"]}
    kept = answered(frame, ours, theirs)
    assert kept["request_id"].to_list() == ["r1", "r1", "r2"]  # r2 is answered, with nothing; r3 is not known
    assert as_target(kept, ours).probability.tolist() == [1, 0, 0]
    assert as_target(kept, theirs).probability.tolist() == [0, 0, 1]
    assert as_log(kept).reward.tolist() == [1, 0, 0]
    with pytest.raises(UserError, match="can be asked again"):
        answered(frame, {}, theirs)

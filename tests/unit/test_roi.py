"""The return on recommendations: arithmetic by hand, intervals, bad figures, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from recsys import cli
from recsys.experiments.roi import (
    CASE_STUDY,
    Figure,
    Inputs,
    ROIError,
    break_even,
    parse_figure,
    product,
    read_experiment,
    read_inputs,
    reckon,
    sensitivity,
    steps,
)

SHOP: dict[str, Any] = {
    "incremental_per_year": [100_000, 40_000, 160_000],
    "margin": 0.5,
    "infrastructure_per_year": 6_000,
    "people": [{"role": "engineers", "count": 2, "months": 2, "per_month": 5_500}],
}
"""22,000 once and 6,000 a year."""


def test_the_case_study_by_its_own_arithmetic() -> None:
    found = dict(steps(CASE_STUDY))
    # (3,200,000 - 18,000) / 18,000 = 176.78
    assert f"{found['all attributed revenue, infrastructure only'].roi.value:,.0%}" == "17,678%"
    # 3,200,000 * 47 / 147 = 1,023,129; less 18,000, over 18,000 = 55.84
    assert found["only what is incremental"].roi.value == pytest.approx(55.84, abs=0.01)
    # 5 people * 6 months * 12,500 = 375,000; (1,023,129 - 393,000) / 393,000 = 1.603
    assert found["and the people who built it"].roi.value == pytest.approx(1.603, abs=0.001)
    # 1,023,129 * 0.3 = 306,939; (306,939 - 393,000) / 393,000 = -0.219; 375,000 / ((306,939 - 18,000) / 12) = 15.57 months
    whole = found["and margin instead of revenue"]
    assert whole.roi.value == pytest.approx(-0.219, abs=0.001)
    assert whole.payback_months == pytest.approx(15.57, abs=0.01)


def test_a_return_by_hand() -> None:
    found = reckon(Inputs.model_validate(SHOP))
    # 100,000 * 0.5 = 50,000 [20,000, 80,000]; cost 28,000; ROI 22/28 [-8/28, 52/28]
    assert found.contribution == Figure(50_000, 20_000, 80_000)
    assert found.cost == 28_000
    assert [found.roi.value, found.roi.low, found.roi.high] == pytest.approx([22 / 28, -8 / 28, 52 / 28])
    # 22,000 / (44,000 / 12) = 6; / (74,000 / 12) = 3.57; / (14,000 / 12) = 18.86
    months = [found.payback_months, found.payback_best, found.payback_worst]
    assert months == pytest.approx([6.0, 22 * 12 / 74, 22 * 12 / 14])


def test_years_repeat_what_runs_and_not_what_was_built() -> None:
    found = reckon(Inputs.model_validate({**SHOP, "years": 3}))
    assert found.cost == 22_000 + 3 * 6_000
    assert found.contribution.value == 150_000
    assert found.payback_months == pytest.approx(6.0)


def test_a_model_that_is_only_so_good() -> None:
    found = dict(sensitivity(Inputs.model_validate(SHOP)))
    assert list(found) == [1.0, 0.9, 0.8, 0.7, 0.5]
    # 0.7 * 50,000 = 35,000; 7/28
    assert found[0.7].roi.value == pytest.approx(7 / 28)
    assert found[0.7].roi.low == pytest.approx((0.7 * 20 - 28) / 28)
    # 28,000 / 50,000
    assert break_even(Inputs.model_validate(SHOP)) == pytest.approx(0.56)
    assert break_even(Inputs.model_validate({**SHOP, "incremental_per_year": [-10, -20, 5]})) is None
    at_that = reckon(Inputs.model_validate({**SHOP, "accuracy": 0.56}))
    assert at_that.roi.value == pytest.approx(0.0)


def test_what_is_never_paid_back() -> None:
    found = reckon(Inputs.model_validate({**SHOP, "incremental_per_year": [12_000, 10_000, 400_000]}))
    assert found.payback_months is None and found.payback_worst is None
    # 22,000 / ((200,000 - 6,000) / 12)
    assert found.payback_best == pytest.approx(22 * 12 / 194)


def test_intervals_add_in_squares_each_side_by_itself() -> None:
    # 10 * 4 = 40; below: 4 * 3 = 12 and 10 * 0.5 = 5: 13; above: 4 * 1.5 = 6 and 10 * 0.8 = 8: 10
    assert product(Figure(10, 7, 11.5), Figure(4, 3.5, 4.8)) == Figure(40, 27, 50)
    # a negative factor turns the sides of the other: -2 * (10 [8, 11]) = -20 [-22, -16]
    assert product(Figure(10, 8, 11), Figure(-2, -2, -2)) == Figure(-20, -22, -16)
    assert product(Figure(0, -1, 1), Figure(3, 2, 4)) == Figure(0, -3, 3)


def test_the_propagated_interval_holds_95_of_100_draws() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(100, 10, 200_000), rng.normal(0.4, 0.03, 200_000)
    z = 1.96
    found = product(Figure(100, 100 - z * 10, 100 + z * 10), Figure(0.4, 0.4 - z * 0.03, 0.4 + z * 0.03))
    assert np.mean((one * other > found.low) & (one * other < found.high)) == pytest.approx(0.95, abs=0.005)


def test_a_measured_increment_takes_the_place_of_a_share() -> None:
    inputs = Inputs.model_validate({**SHOP, "attributed_per_year": 900_000, "incremental_share": 0.9})
    found = dict(steps(inputs))
    assert found["all attributed revenue, infrastructure only"].incremental_per_year.value == 900_000
    assert found["only what is incremental"].incremental_per_year == Figure(100_000, 40_000, 160_000)
    assert next(name for name, _ in steps(Inputs.model_validate(SHOP))) == "only what is incremental"
    without = Inputs.model_validate({**SHOP, "infrastructure_per_year": 0})
    assert list(dict(steps(without))) == ["and the people who built it", "and margin instead of revenue"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": 0}, "margin is a share"),
        ({"margin": [0.3, 0.4, 0.5]}, "low <= value <= high"),
        ({"margin": [0.3, 0.2]}, "one number, or"),
        ({"margin": "30%"}, "one number, or"),
        ({"margin": float("nan")}, "low <= value <= high"),
        ({"incremental_share": 1.2}, "incremental_share is a share"),
        ({"infrastructure_per_year": -1}, "infrastructure_per_year"),
        ({"accuracy": 0}, "accuracy"),
        ({"years": 0}, "years"),
        ({"people": [{"role": "engineers", "count": 2}]}, r"people\.0\.months: Field required"),
        ({"people": [], "infrastructure_per_year": 0}, "there is no cost"),
        ({"incremental_per_year": None}, "give incremental_per_year"),
        ({"revenue": 1}, "revenue: Extra inputs"),
        ({"currency": "$"}, "currency"),
    ],
)
def test_figures_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ROIError, match=message):
        read_inputs(None, {**SHOP, **change})


def test_a_file_of_figures(tmp_path: Path) -> None:
    path = tmp_path / "roi.toml"
    with pytest.raises(ROIError, match="cannot be read"):
        read_inputs(path, {})
    path.write_text("margin =")
    with pytest.raises(ROIError, match="is not TOML"):
        read_inputs(path, {})
    path.write_text(
        "incremental_per_year = [100_000, 40_000, 160_000]\nmargin = 0.4\ninfrastructure_per_year = 6_000\n"
        '[[people]]\nrole = "engineers"\ncount = 2\nmonths = 2\nper_month = 1\n'
    )
    assert read_inputs(path, {"margin": 0.5}, rate=5_500) == Inputs.model_validate(SHOP)
    with pytest.raises(ROIError, match="a rate needs people"):
        read_inputs(None, {"attributed_per_year": 1, "infrastructure_per_year": 1}, rate=5)


def test_an_experiments_result_is_scaled_to_a_year(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(orjson.dumps({"incremental_revenue": [2_800, -280, 5_600], "period_days": 28, "arm": "phase3"}))
    # 2,800 / 28 * 365
    found = read_experiment(path).per_year
    assert [found.value, found.low, found.high] == pytest.approx([36_500, -3_650, 73_000])
    path.write_bytes(orjson.dumps({"incremental_revenue": [1, 0, 2], "period_days": 0}))
    with pytest.raises(ROIError, match="period_days"):
        read_experiment(path)
    path.write_bytes(b"[")
    with pytest.raises(ROIError, match="is not JSON"):
        read_experiment(path)
    with pytest.raises(ROIError, match="cannot be read"):
        read_experiment(tmp_path / "absent.json")


def test_a_figure_of_an_option() -> None:
    assert parse_figure("0.3") == 0.3
    assert parse_figure("0.3,0.2,0.4") == [0.3, 0.2, 0.4]
    with pytest.raises(ROIError, match="is no figure"):
        parse_figure("much")


def run(*arguments: str) -> int:
    """Exit status of the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recsys", "roi", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)


def test_the_command_reproduces_the_case_study_and_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    printed = capsys.readouterr().out
    assert "17,678%" in printed and "17,700%" in printed
    assert "Attributed is not incremental" in printed and "2 ML and 3 backend engineers" in printed


def test_the_command_on_a_shops_own_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, plot = tmp_path / "result.json", tmp_path / "roi.png"
    result.write_bytes(orjson.dumps({"incremental_revenue": [10_000, 4_000, 16_000], "period_days": 36.5}))
    own = ["--experiment", str(result), "--margin", "0.5", "--infrastructure", "6000"]
    team = ["--engineers", "2", "--months", "2", "--rate", "5500"]
    assert run(*own, *team, "--plot", str(plot), "--json") == 0
    found = orjson.loads(capsys.readouterr().out)
    assert found["return"]["roi"]["value"] == pytest.approx(22 / 28)
    assert [one["accuracy"] for one in found["sensitivity"]] == [1.0, 0.9, 0.8, 0.7, 0.5]
    assert found["missing_in_the_case_study"] == []
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attributed", "1000"], "there is no cost"),
        (["--attributed", "1000", "--engineers", "3"], "people.0.months"),
        (["--margin", "2"], "margin is a share"),
        (["--plot", "roi.xyz"], "roi.xyz cannot be written"),
    ],
)
def test_a_mistake_prints_what_to_mend(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error

"""Tables and plot of experiments, from made-up results."""

import csv
import math
import random

import pandas as pd
import pytest

from libs.evaluation.reports.experiment_table import (
    build_run_table,
    compute_difference,
    format_markdown,
    plot_differences,
    save_tables,
)

SEEDS = (7, 8, 9)


def make_rows(name, scores, *, question="", seeds=SEEDS, minutes=(), parameters=None, errors=None):
    """Rows of one configuration. scores: task -> scores of the first seeds; errors: seed -> error."""
    for i, seed in enumerate(seeds):
        for task, values in scores.items():
            yield {
                "configuration": name,
                "question": question,
                "seed": seed,
                "task": task,
                "score": values[i] if i < len(values) else None,
                "minutes": minutes[i] if i < len(minutes) else None,
                "parameters": parameters,
                "error": (errors or {}).get(seed),
            }


@pytest.fixture
def runs() -> pd.DataFrame:
    base = {"TAL": [60.0, 61.0, 62.0], "SED": [70.0, 70.5, 71.0]}
    return build_run_table(
        [
            *make_rows("base", base, question="the base", minutes=[2.0, 4.0], parameters=1234567),
            *make_rows("deaf", {"TAL": [60.0, 61.5, 62.0], "SED": [2.0, 2.0, 2.0]}, question="without | sound"),
            *make_rows("tal", {"TAL": [61.0, 62.0]}, errors={9: "TASK1: loss is nan"}),
            *make_rows("broken", {"TAL": [], "SED": []}, errors=dict.fromkeys(SEEDS, "no such folder")),
            *make_rows("later", {"TAL": [], "SED": []}),
        ]
    )


def read_cells(table: str) -> dict[str, list[str]]:
    """First cell of each line of a Markdown table -> the other cells."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {len(rows[0])}
    return {row[0]: row[1:] for row in rows}


def test_compute_difference_agrees_with_welch_test_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(0)
    for _ in range(50):
        values = [rng.gauss(60, 1) for _ in range(rng.randint(2, 6))]
        base = [rng.gauss(59, 3) for _ in range(rng.randint(2, 6))]
        welch = stats.ttest_ind(values, base, equal_var=False)
        low, high = welch.confidence_interval(0.95)
        difference = compute_difference(values, base)
        assert difference.difference == pytest.approx((low + high) / 2)
        assert difference.half_interval == pytest.approx((high - low) / 2)
        assert difference.beyond_noise == (welch.pvalue < 0.05)


def test_compute_difference_of_single_value_has_no_interval():
    assert compute_difference([3.0], [1.0, 2.0]) == (1.5, None, None)
    assert compute_difference([3.0], [1.0]) == (2.0, None, None)


def test_compute_difference_of_constant_values_has_zero_interval():
    pytest.importorskip("scipy")
    assert compute_difference([2.0, 2.0], [1.0, 1.0]) == (1.0, 0.0, True)
    assert not compute_difference([1.0, 1.0], [1.0, 1.0]).beyond_noise


def test_format_markdown_shows_scores_differences_and_failures(runs):
    pytest.importorskip("scipy")
    table = format_markdown(runs)
    cells = read_cells(table)
    assert cells["configuration"] == ["TAL", "Δ TAL", "SED", "Δ SED", "runs", "parameters", "minutes", "what it asks"]
    assert cells["base"] == ["61.00 ± 1.00", "", "70.50 ± 0.50", "", "3", "1,234,567", "3.0", "the base"]
    # SED: only the base varies, so 2 degrees of freedom, t = 4.3027 (12.7062 for 1): t * .5 / sqrt(3) = 1.242.
    assert cells["deaf"][2:4] == ["2.00 ± 0.00", "**-68.50** ± 1.24"]
    assert cells["deaf"][1].startswith("+0.17 ± ")
    assert cells["deaf"][-1] == "without ¦ sound"
    assert cells["tal"][2:5] == ["–", "", "2 of 3, 1 failed"]
    assert cells["broken"][:5] == ["failed", "", "failed", "", "0 of 3, 3 failed"]
    assert cells["later"][:5] == ["…", "", "…", "", "0 of 3"]
    assert "- failed: tal, seed 9: TASK1: loss is nan" in table
    assert table.count("- failed: broken") == 3
    assert "3 seeds, from 7" in table


def test_format_markdown_of_one_seed_has_no_intervals():
    rows = [*make_rows("a", {"TAL": [60.0]}, seeds=(7,)), *make_rows("b", {"TAL": [59.999]}, seeds=(7,))]
    table = format_markdown(build_run_table(rows))
    assert read_cells(table)["b"][:2] == ["60.00", "+0.00"]
    assert "±" not in table
    assert "it is not known how large differences by chance are" in table


def test_save_tables_writes_unrounded_numbers_and_empty_cells(runs, tmp_path):
    pytest.importorskip("scipy")
    assert save_tables(runs, tmp_path, with_plot=False) == (tmp_path / "table.md").read_text(encoding="utf-8")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    assert (rows["base"]["TAL mean"], rows["base"]["TAL difference"]) == ("61.0", "")
    assert float(rows["deaf"]["SED difference"]) == -68.5
    assert float(rows["deaf"]["SED half_interval"]) == pytest.approx(4.302653 * 0.5 / math.sqrt(3))
    assert rows["deaf"]["SED beyond_noise"] == "True"
    assert rows["tal"]["SED mean"] == rows["later"]["SED sd"] == ""
    assert (rows["tal"]["runs"], rows["tal"]["finished"], rows["tal"]["failed"]) == ("3", "2", "1")
    assert (rows["base"]["parameters"], rows["base"]["minutes"]) == ("1234567", "3.0")
    assert rows["tal"]["errors"] == "seed 9: TASK1: loss is nan"
    assert rows["deaf"]["what it asks"] == "without | sound"


def test_plot_differences_writes_one_png(runs, tmp_path):
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    plot_differences(runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]

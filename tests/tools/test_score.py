"""tools/score.py as users call it. What it checks in results files, tools/compare.py checks as well."""

import json

import pytest

from libs.core.config import parse_tious
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics import selection
from libs.evaluation.metrics.average_precision import score_detections
from libs.evaluation.metrics.compute import METRICS
from libs.evaluation.metrics.diagnosis import Diagnosis
from libs.evaluation.results import read_results
from tests.conftest import NEEDS_SHARED, assert_user_error
from tests.evaluation.cases import ANET, UPC
from tests.tools.pages import NASTY, read_page


def test_score_with_metrics_writes_numbers_page_and_plots(scored_files, run_script, tmp_path):
    annotations, results, _ = scored_files
    arguments = [results, annotations, "--subset", "val", "--tious", "0.3,0.5,0.7", "--json", tmp_path / "plain.json"]
    assert run_script("tools/score.py", *arguments)[0] == 0
    plain = json.loads((tmp_path / "plain.json").read_text())
    status, out, err = run_script("tools/score.py", *arguments, "--metrics", "all", "--output", tmp_path / "out")
    assert status == 0, err
    assert "sed is left out of all" in out
    tree = json.loads((tmp_path / "out/metrics.json").read_text())
    assert {key: tree[key] for key in plain} == plain
    assert json.loads((tmp_path / "plain.json").read_text()) == tree
    assert list(tree["metrics"]) == [name for name in METRICS if name != "sed"]
    headline = tree["metrics"]["map"]["headline"]
    assert headline["average_mAP"]["value"] == pytest.approx(plain["average_mAP"], abs=1e-12)
    for result in tree["metrics"].values():
        for number in result["headline"].values():
            assert 0 <= number["low"] <= number["high"] <= 1
    page = read_page(tmp_path / "out/report.html")
    assert NASTY in page.text
    assert f"{100 * plain['average_mAP']:.2f}" in page.text
    plots = {path.stem for path in (tmp_path / "out/plots").iterdir()}
    shown = {"precision_recall", "recall", "proposals", "errors", "characteristics", "scores", "classes", "timelines"}
    assert shown <= plots
    assert len(plots) == page.tags.count("img")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "out/plots").iterdir())


def test_score_with_some_metrics_writes_only_these(scored_files, run_script):
    annotations, results, _ = scored_files
    status, out, err = run_script(
        "tools/score.py", results, annotations, "--subset", "val", "--metrics", "proposals,map,map"
    )
    assert status == 0, err
    tree = json.loads((results.parent / "a_metrics/metrics.json").read_text())
    assert list(tree["metrics"]) == ["map", "proposals"]
    plots = {path.stem for path in (results.parent / "a_metrics/plots").iterdir()}
    assert plots == {"precision_recall", "proposals", "timelines"}


def test_score_without_plot_libraries_raises(monkeypatch, scored_files, run_script):
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    annotations, results, _ = scored_files
    status, out, err = run_script("tools/score.py", results, annotations, "--subset", "val", "--metrics", "map")
    assert_user_error(status, err, "the report of --metrics needs matplotlib, jinja2", ".[metrics]")
    assert not (results.parent / "a_metrics").exists()


@pytest.mark.parametrize(("names", "near"), [("mapp", "map"), ("map,reccall", "recall"), ("", "map"), ("All", "all")])
def test_unknown_metric_raises_with_nearest_name(scored_files, run_script, names, near):
    annotations, results, other = scored_files
    for script in (["tools/score.py", results, annotations], ["tools/compare.py", results, other, annotations]):
        status, out, err = run_script(*script, "--subset", "val", "--metrics", names)
        assert_user_error(status, err, "no such metric; did you mean")
        if names:
            assert f"did you mean '{near}'?" in err
    assert not (results.parent / "a_metrics").exists()


def edit_results(path, change):
    """The results file with its tree edit_results."""
    tree = json.loads(path.read_text())
    change(tree["results"])
    path.write_text(json.dumps(tree))
    return path


def rename_all(results):
    for name in list(results):
        results[f"other_{name}"] = results.pop(name)


def relabel_all(results):
    for rows in results.values():
        for row in rows:
            row["label"] = "four"


def set_score(value):
    def change(results):
        next(iter(results.values()))[0]["score"] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            rename_all,
            "none of its 6 videos is in the split (other_v<0>, other_v<1>, other_v<2> and 3 more; the split has v<0>",
        ),
        (relabel_all, "no detection has a label of the split's annotations; they are"),
        (set_score(1.5), "v<0>: 0: score: Input should be less than or equal to 1, found 1.5 and 0 more faults"),
        (set_score(-0.1), "v<0>: 0: score: Input should be greater than or equal to 0, found -0.1"),
        (set_score(float("nan")), "v<0>: 0: score: Input should be"),
    ],
)
@pytest.mark.parametrize("metrics", [[], ["--metrics", "all"]])
def test_unusable_results_raise_in_both_scripts(scored_files, run_script, change, message, metrics):
    annotations, results, other = scored_files
    edit_results(results, change)
    status, out, err = run_script("tools/score.py", results, annotations, "--subset", "val", *metrics)
    assert_user_error(status, err, str(results), message)
    assert not (results.parent / "a_metrics").exists()
    out_file = results.parent / "c.json"
    status, out, err = run_script(
        "tools/compare.py", other, results, annotations, "--subset", "val", "--json", out_file
    )
    assert_user_error(status, err, str(results), message)
    assert not out_file.exists()


def test_score_counts_detections_of_unknown_videos_as_errors(scored_files, run_script):
    annotations, results, _ = scored_files
    arguments = [annotations, "--subset", "val", "--metrics", "map,diagnosis"]
    known = load_annotations(annotations)
    found, videos = read_results(results, known.class_names), [v.remove_repeats() for v in known.videos]
    average = score_detections(found, videos, parse_tious("0.5:0.95:0.05")).average
    counts = Diagnosis(found, videos, 0.5).counts()

    def add(tree):
        tree["zz <1>"] = tree["zz <2>"] = [{"label": "two", "segment": [0, 10], "score": 1.0}] * 3

    edit_results(results, add)
    status, out, err = run_script("tools/score.py", results, *arguments)
    assert status == 0, err
    warning = next(line for line in out.splitlines() if line.startswith("warning"))
    assert "2 videos are not in the split (zz <1>, zz <2>): their 6 detections find nothing" in warning
    tree = json.loads((results.parent / "a_metrics/metrics.json").read_text())
    assert tree["average_mAP"] < average  # six false positives, as in the official code
    more = tree["metrics"]["diagnosis"]["details"]["counts"]
    assert more == {**counts, "background": counts["background"] + 6}
    assert tree["metrics"]["map"]["headline"]["average_mAP"]["value"] == pytest.approx(tree["average_mAP"])
    assert "2 videos are not in the split (zz <1>" in read_page(results.parent / "a_metrics/report.html").text


def test_score_with_output_but_no_metrics_raises(scored_files, run_script, tmp_path):
    annotations, results, _ = scored_files
    status, _, err = run_script("tools/score.py", results, annotations, "--subset", "val", "--output", tmp_path / "x")
    assert_user_error(status, err, "--output", "add --metrics")


@NEEDS_SHARED
def test_score_gives_official_figures_with_metrics(run_script, tmp_path):
    arguments = [UPC, ANET, "--subset", "validation", "--metrics", "map", "--output", tmp_path / "out"]
    status, out, err = run_script("tools/score.py", *arguments)
    assert status == 0, err
    assert "average mAP 0.138970608615" in out
    number = json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]["map"]["headline"]["average_mAP"]
    assert number["value"] == pytest.approx(0.13897060861532737, abs=1e-12)
    assert number["low"] < number["value"] < number["high"]

"""--metrics of eval.py and score.py, and compare.py, as a user calls them."""

import importlib.util
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from libs.core.config import parse_tious
from libs.core.errors import ConfigError
from libs.core.types import Detections
from libs.datasets.annotations import load_annotations
from libs.evaluation.baselines import generate_random_detections
from libs.evaluation.bootstrap import Estimate, MetricResult
from libs.evaluation.metrics import compute as metrics_module
from libs.evaluation.metrics import selection as choice
from libs.evaluation.metrics.average_precision import GroundTruth, score_detections
from libs.evaluation.metrics.compute import METRICS, EvaluationInput, MetricSettings, compute_metrics
from libs.evaluation.metrics.diagnosis import Diagnosis
from libs.evaluation.metrics.selection import expand_metrics
from libs.evaluation.results import read_results, write_results
from tests.conftest import NEEDS_SHARED
from tests.evaluation.cases import ANET, UPC, random_case, video
from tests.test_bad_input import assert_one_line

TIOUS = (0.3, 0.5, 0.7)
NASTY = '<b onload="x">&$1 _^ 日本'


@pytest.fixture
def fake_sed(monkeypatch):
    """Replace the metrics of sound events, so that their libraries are not needed."""
    calls = []

    def compute_sed_metrics(detections, videos, class_names, *, resamples=1000, seed=0):
        calls.append((detections, videos, class_names, resamples, seed))
        value = len(calls) / 10
        return MetricResult(
            {"event_f1_macro": Estimate(value, 0.0, float("nan"))},
            {"library": "fake 1.0", "per_class": {"<i>Dog": {"events": 3, "event_f1": 0.125}}},
            {"event_f1_macro": np.full(resamples, value)},
        )

    monkeypatch.setattr(metrics_module, "compute_sed_metrics", compute_sed_metrics)
    monkeypatch.setattr(choice, "find_spec", lambda name: importlib.util.spec_from_loader(name, None))
    return calls


def some_found(videos, seed):
    """The annotations not quite where they are, and guesses."""
    rng = np.random.default_rng(seed)
    truth, guesses = GroundTruth.from_videos(videos), generate_random_detections(videos, 3, 10, seed)
    near = np.sort(truth.segments + rng.normal(0, 1.5, truth.segments.shape), axis=1)
    return Detections(
        guesses.video_ids,
        np.concatenate([truth.video, guesses.video]),
        np.concatenate([near, guesses.segments]),
        np.concatenate([rng.uniform(0.3, 1, len(near)), guesses.scores]),
        np.concatenate([truth.labels, guesses.labels]),
    )


@pytest.fixture
def case(tmp_path):
    """Annotations with names that HTML must not read, and two results files: (annotations, A, B)."""
    videos, _ = random_case(5)
    videos = [video(f"v<{i}>", v.segments, v.labels) for i, v in enumerate(videos)]
    names = {0: NASTY, 1: "two", 2: "three", 3: "four"}
    database = {
        v.video_id: {
            "subset": "val",
            "duration": v.duration,
            "annotations": [
                {"segment": s, "label_id": x, "label": names[x]}
                for s, x in zip(v.segments.tolist(), v.labels.tolist(), strict=True)
            ],
        }
        for v in videos
    }
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps({"database": database, "classes": list(names.values())}))
    for name, seed in (("a.json", 1), ("b.json", 2)):
        write_results(tmp_path / name, some_found(videos, seed), names)
    return annotations, tmp_path / "a.json", tmp_path / "b.json"


class Page(HTMLParser):
    """Collects elements, what they load, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "onload")]

    def handle_data(self, data):
        self.text += data


def read_page(path):
    page = Page(path.read_text(encoding="utf-8"))
    assert all(value.startswith("data:") for value in page.loads), "the page loads something"
    assert not {"script", "b"} & set(page.tags)
    return page


def test_score_writes_metrics_and_report(case, run_script, tmp_path):
    annotations, results, _ = case
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


def test_some_metrics_and_where_they_go(case, run_script):
    annotations, results, _ = case
    status, out, err = run_script(
        "tools/score.py", results, annotations, "--subset", "val", "--metrics", "proposals,map,map"
    )
    assert status == 0, err
    tree = json.loads((results.parent / "a_metrics/metrics.json").read_text())
    assert list(tree["metrics"]) == ["map", "proposals"]
    plots = {path.stem for path in (results.parent / "a_metrics/plots").iterdir()}
    assert plots == {"precision_recall", "proposals", "timelines"}


def test_the_same_seed_gives_the_same_numbers():
    videos, found = random_case(2)
    trees = []
    for seed in (0, 0, 1):
        data = EvaluationInput(found, videos, {}, TIOUS, MetricSettings(resamples=20, seed=seed))
        trees.append(metrics_module.metrics_to_dict(compute_metrics(data, ("map", "diagnosis"))))
    assert trees[0] == trees[1] != trees[2]


def test_details_agree_with_each_other():
    videos, found = random_case(4)
    data = EvaluationInput(found, videos, {}, TIOUS, MetricSettings(resamples=20))
    results = compute_metrics(data, expand_metrics(("all",), sounds=False)[0])
    scores = score_detections(found, videos, TIOUS, keep_repeats=True)
    classes = results["classes"].details["per_class"]
    np.testing.assert_allclose([row["AP"]["value"] for row in classes], scores.ap.mean(axis=1), atol=1e-12)
    assert sum(row["instances"] for row in classes) == results["diagnosis"].details["instances"]
    details = results["diagnosis"].details
    assert details["mAP"]["as_is"] == pytest.approx(results["map"].headline["mAP@0.50"].value)
    assert details["mAP"]["all"] == 1
    histogram = details["scores"]
    assert sum(histogram["true_positive"]) + sum(histogram["errors"]) == len(found.scores)
    shares = [x.value for name, x in results["diagnosis"].headline.items() if name.startswith("share_")]
    assert sum(shares) == pytest.approx(1)


def test_precision_curves_enclose_ap():
    """Interpolated precision at a thousand recalls has AP as its mean."""
    videos, found = random_case(7)
    matches = EvaluationInput(found, videos, {}, TIOUS).matches
    curves = metrics_module.compute_precision_curves(matches)
    scores = score_detections(found, videos, TIOUS, keep_repeats=True)
    assert (np.diff(curves, axis=1) <= 1e-12).all()
    np.testing.assert_allclose(curves.mean(axis=1), scores.map, atol=0.02)


def test_sed_by_name_and_by_task(fake_sed):
    assert expand_metrics(("all",), sounds=True) == (tuple(METRICS), [])
    assert expand_metrics(("all", "sed"), sounds=False) == (tuple(METRICS), [])
    videos, found = random_case(1)
    data = EvaluationInput(found, videos, {0: "a"}, TIOUS, MetricSettings(resamples=7, seed=3))
    result = compute_metrics(data, ("sed",))["sed"]
    assert fake_sed == [(found, videos, {0: "a"}, 7, 3)]
    tree = metrics_module.metrics_to_dict({"sed": result})["sed"]
    assert tree["headline"]["event_f1_macro"] == {"value": 0.1, "low": 0.0, "high": None}
    assert tree["details"].keys() == {"library", "per_class"}


def test_missing_libraries(monkeypatch, case, run_script):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    names, notes = expand_metrics(("all",), sounds=True)
    assert "sed" not in names
    assert len(notes) == 1
    assert '".[metrics]"' in notes[0]
    with pytest.raises(ConfigError, match=r"sed needs sed_scores_eval.*\.\[metrics\]"):
        choice.parse_metrics("map,sed")
    annotations, results, _ = case
    status, out, err = run_script("tools/score.py", results, annotations, "--subset", "val", "--metrics", "map")
    assert_one_line(status, err, "the report of --metrics needs matplotlib", ".[metrics]")
    assert not (results.parent / "a_metrics").exists()


@pytest.mark.parametrize(("names", "near"), [("mapp", "map"), ("map,reccall", "recall"), ("", "map"), ("All", "all")])
def test_unknown_metric(case, run_script, names, near):
    annotations, results, other = case
    for script in (["tools/score.py", results, annotations], ["tools/compare.py", results, other, annotations]):
        status, out, err = run_script(*script, "--subset", "val", "--metrics", names)
        assert_one_line(status, err, "no such metric; did you mean")
        if names:
            assert f"did you mean '{near}'?" in err
    assert not (results.parent / "a_metrics").exists()


def changed(path, change):
    """The results file with its tree changed."""
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


def score_of(value):
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
        (score_of(1.5), "video v<0>: score 1.5, expected 0 … 1; 1 lie outside, rescale them"),
        (score_of(-0.1), "video v<0>: score -0.1, expected 0 … 1"),
        (score_of(float("nan")), "video v<0>: a segment or score is not finite"),
    ],
)
@pytest.mark.parametrize("metrics", [[], ["--metrics", "all"]])
def test_results_that_cannot_be_meant(case, run_script, change, message, metrics):
    annotations, results, other = case
    changed(results, change)
    status, out, err = run_script("tools/score.py", results, annotations, "--subset", "val", *metrics)
    assert_one_line(status, err, str(results), message)
    assert not (results.parent / "a_metrics").exists()
    out_file = results.parent / "c.json"
    status, out, err = run_script(
        "tools/compare.py", other, results, annotations, "--subset", "val", "--json", out_file
    )
    assert_one_line(status, err, str(results), message)
    assert not out_file.exists()


def test_unknown_videos_are_counted_and_named(case, run_script):
    annotations, results, _ = case
    arguments = [annotations, "--subset", "val", "--metrics", "map,diagnosis"]
    known = load_annotations(annotations)
    found, videos = read_results(results, known.class_names), [v.remove_repeats() for v in known.videos]
    average = score_detections(found, videos, parse_tious("0.5:0.95:0.05")).average
    counts = Diagnosis.compute(found, videos, 0.5).counts()

    def add(tree):
        tree["zz <1>"] = tree["zz <2>"] = [{"label": "two", "segment": [0, 10], "score": 1.0}] * 3

    changed(results, add)
    status, out, err = run_script("tools/score.py", results, *arguments)
    assert status == 0, err
    warning = next(line for line in out.splitlines() if line.startswith("warning"))
    assert "2 videos are not in the split (zz <1>, zz <2>): their 6 detections find nothing" in warning
    tree = json.loads((results.parent / "a_metrics/metrics.json").read_text())
    assert tree["average_mAP"] < average  # as the official code has it: six false positives
    more = tree["metrics"]["diagnosis"]["details"]["counts"]
    assert more == {**counts, "background": counts["background"] + 6}
    assert tree["metrics"]["map"]["headline"]["average_mAP"]["value"] == pytest.approx(tree["average_mAP"])
    assert "2 videos are not in the split (zz <1>" in read_page(results.parent / "a_metrics/report.html").text


def test_output_without_metrics(case, run_script, tmp_path):
    annotations, results, _ = case
    status, _, err = run_script("tools/score.py", results, annotations, "--subset", "val", "--output", tmp_path / "x")
    assert_one_line(status, err, "--output", "add --metrics")


def test_compare_files(case, run_script, tmp_path):
    annotations, a, b = case
    arguments = [annotations, "--subset", "val", "--tious", "0.3,0.5", "--json", tmp_path / "c.json"]
    status, out, err = run_script("tools/compare.py", a, b, *arguments, "--html", tmp_path / "c.html")
    assert status == 0, err
    rows = {row["name"]: row for row in json.loads((tmp_path / "c.json").read_text())["val"]["numbers"]}
    for row in rows.values():
        difference = row["difference"]
        assert difference["value"] == pytest.approx(row["B"] - row["A"])
        assert (row["p"] < 0.05) == (not difference["low"] <= 0 <= difference["high"])
    assert re.search(r"average mAP\s", out)
    assert NASTY in read_page(tmp_path / "c.html").text
    # The other way round all is negated.
    assert run_script("tools/compare.py", b, a, *arguments)[0] == 0
    swapped = {row["name"]: row for row in json.loads((tmp_path / "c.json").read_text())["val"]["numbers"]}
    for name, row in rows.items():
        assert swapped[name]["difference"]["value"] == pytest.approx(-row["difference"]["value"])
        assert swapped[name]["p"] == row["p"]


def test_compare_with_itself(case, run_script, tmp_path):
    annotations, a, _ = case
    status, out, err = run_script(
        "tools/compare.py", a, a, annotations, "--subset", "val", "--json", tmp_path / "c.json"
    )
    assert status == 0, err
    tree = json.loads((tmp_path / "c.json").read_text())["val"]
    assert len(tree["numbers"]) > 20
    for row in (*tree["numbers"], *tree["classes"]):
        assert row["difference"] == {"value": 0, "low": 0, "high": 0}
        assert row["p"] == 1
    assert "largest" not in out


def test_compare_with_sed(case, run_script, tmp_path, fake_sed):
    annotations, a, b = case
    arguments = [annotations, "--subset", "val", "--metrics", "sed", "--json", tmp_path / "c.json"]
    status, out, err = run_script("tools/compare.py", a, b, *arguments)
    assert status == 0, err
    (row,) = json.loads((tmp_path / "c.json").read_text())["val"]["numbers"]
    assert row["difference"]["value"] == pytest.approx(0.1)


def test_compare_bad_arguments(case, run_script, tmp_path):
    annotations, a, b = case
    assert_one_line(*run_script("tools/compare.py", a, b)[::2], "two results files need ANNOTATIONS.json and --subset")
    assert_one_line(*run_script("tools/compare.py", a, tmp_path)[::2], "expected two folders or two results files")
    status, _, err = run_script("tools/compare.py", a, b, annotations, "--subset", "val", "--metrics", "classes")
    assert_one_line(status, err, "--metrics classes: has no numbers of its own")
    assert_one_line(*run_script("tools/compare.py", tmp_path, tmp_path)[::2], "metrics.json", "what eval.py writes")
    (tmp_path / "metrics.json").write_text('{"checkpoint": "x", "TASK1": {"average_mAP": 0.1}}')
    status, _, err = run_script("tools/compare.py", tmp_path, tmp_path)
    assert_one_line(status, err, "TASK1 lacks annotations, splits, tiou, videos; run eval.py again")


@pytest.fixture
def trained(tiny, run_script):
    arguments = ["--output", "run", "--num_train_epochs", 1, "-o", "opt.warmup_epochs=0"]
    assert run_script("train.py", tiny / "tiny.yaml", *arguments)[0] == 0
    return tiny / "ckpt/tiny_run"


def test_eval_and_compare_folders(tiny, trained, run_script, fake_sed):
    """All metrics for each task, those of sound events for SED, in one report; then two evaluations side by side."""
    out = tiny / "out"
    arguments = ["--output", out, "--metrics", "all", "--tasks", "2-3"]
    status, text, err = run_script("eval.py", tiny / "tiny.yaml", trained, *arguments)
    assert status == 0, err
    tree = json.loads((out / "metrics.json").read_text())
    assert "sed" in tree["TASK3"]["metrics"]
    assert len(fake_sed) == 1
    for key in ("TASK2", "TASK3"):
        assert {"splits", "average_mAP", "tiou", "mAP", "ap_per_class", "metrics"} <= tree[key].keys()
        value = tree[key]["metrics"]["map"]["headline"]["average_mAP"]["value"]
        assert value == pytest.approx(tree[key]["average_mAP"], abs=1e-12)
        assert (out / f"plots/{key}_errors.png").exists()
    page = read_page(out / "report.html")
    assert all(name in page.text for name in ("AVEL avel test", "SED sed test", "event f1 macro", "<i>Dog", "0.1250"))
    fewer = tiny / "fewer"
    assert run_script("eval.py", tiny / "tiny.yaml", trained, "--output", fewer, "-t", 2)[0] == 0
    assert "metrics" not in json.loads((fewer / "metrics.json").read_text())["TASK2"]
    status, text, err = run_script("tools/compare.py", out, fewer, "--metrics", "map", "--json", tiny / "c.json")
    assert status == 0, err
    compared = json.loads((tiny / "c.json").read_text())
    assert compared.keys() == {"A", "B", "TASK2", "TASK3"}  # TASK1 is in one alone
    row = compared["TASK2"]["numbers"][0]
    assert (row["name"], row["A"]) == ("average_mAP", pytest.approx(tree["TASK2"]["average_mAP"]))


def test_eval_refuses_before_it_begins(tiny, run_script):
    ways = {"did you mean 'map'": ["--metrics", "mpa"], "leave one of them out": ["--metrics", "map", "--saveonly"]}
    for message, arguments in ways.items():
        status, _, err = run_script("eval.py", tiny / "tiny.yaml", tiny / "nothing", *arguments)
        assert_one_line(status, err, message)


@NEEDS_SHARED
def test_the_official_figures_stay(run_script, tmp_path):
    arguments = [UPC, ANET, "--subset", "validation", "--metrics", "map", "--output", tmp_path / "out"]
    status, out, err = run_script("tools/score.py", *arguments)
    assert status == 0, err
    assert "average mAP 0.138970608615" in out
    number = json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]["map"]["headline"]["average_mAP"]
    assert number["value"] == pytest.approx(0.13897060861532737, abs=1e-12)
    assert number["low"] < number["value"] < number["high"]


def test_thresholds_keep_their_names():
    assert [metrics_module.format_tiou(t) for t in (0.5, 0.1 + 0.2, 0.333, 0.3334)] == [
        "0.50",
        "0.30",
        "0.333",
        "0.3334",
    ]

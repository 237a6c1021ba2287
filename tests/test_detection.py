import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.plain.average_precision import average_precision
from libs.core.types import Detections, Video
from libs.evaluation.baselines import generate_random_detections
from libs.evaluation.metrics import average_precision as detection
from libs.evaluation.metrics.average_precision import score_detections
from tests.conftest import NEEDS_SHARED, SHARED

TIOUS = (0.3, 0.5, 0.7)


def video(name, segments, labels, duration=100.0):
    return Video(name, "val", duration, None, np.array(segments, float).reshape(-1, 2), np.array(labels, np.int64))


def random_case(seed):
    """Coarse times and scores, so that ties and exact thresholds happen; some videos and classes unknown."""
    rng = np.random.default_rng(seed)
    videos = []
    for i in range(6):
        n = rng.integers(0, 5)
        start = rng.integers(0, 20, n)
        segments = np.stack([start, start + rng.integers(0, 8, n)], axis=1)
        videos.append(video(f"v{i}", segments, rng.integers(0, 3, n)))
    n = 150
    start = rng.integers(0, 20, n).astype(float)
    segments = np.stack([start, start + rng.integers(0, 8, n)], axis=1)
    ids = (*(f"v{i}" for i in range(6)), "unknown")
    order = np.sort(rng.integers(0, 7, n))
    return videos, Detections(ids, order, segments, rng.integers(1, 20, n) / 20, rng.integers(0, 5, n))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("keep", [True, False])
def test_like_a_row_at_a_time(seed, keep):
    videos, found = random_case(seed)
    scores = score_detections(found, videos, TIOUS, keep_repeats=keep)
    truth = videos if keep else [v.remove_repeats() for v in videos]
    expected = {}
    for label in sorted({int(x) for v in truth for x in v.labels}):
        rows = [
            (found.video_ids[found.video[i]], *found.segments[i], found.scores[i])
            for i in np.flatnonzero(found.labels == label)
        ]
        gt = [(v.video_id, *s) for v in truth for s, x in zip(v.segments, v.labels, strict=True) if x == label]
        expected[label] = average_precision(rows, gt, TIOUS)
    assert scores.labels.tolist() == list(expected)
    np.testing.assert_allclose(scores.ap, list(expected.values()), atol=1e-12)
    assert scores.average == pytest.approx(np.mean(list(expected.values())))


def test_perfect_and_empty():
    videos = [video("a", [[0, 1], [2, 4]], [0, 1]), video("b", [], [])]
    perfect = Detections(("a",), np.zeros(2, np.int64), videos[0].segments, np.ones(2), videos[0].labels)
    assert score_detections(perfect, videos, TIOUS).average == 1
    nothing = Detections.concat([])
    assert score_detections(nothing, videos, TIOUS).average == 0
    assert score_detections(nothing, [video("b", [], [])], TIOUS).average == 0


def test_zero_length_counts_as_a_match():
    videos = [video("a", [[3, 3]], [0])]
    found = Detections(("a",), np.zeros(1, np.int64), np.array([[7.0, 7.0]]), np.ones(1), np.zeros(1, np.int64))
    assert score_detections(found, videos, TIOUS).average == 1


def test_unknown_class_takes_no_one_elses_index():
    """The published quirk: predictions of classes that the ground truth lacks took on another class's index."""
    videos = [video("a", [[0, 1]], [5])]
    for label in (0, 4, 6, 99, -1):
        found = Detections(("a",), np.zeros(1, np.int64), np.array([[0.0, 1.0]]), np.ones(1), np.array([label]))
        assert score_detections(found, videos, TIOUS).average == 0


def test_repeats():
    repeated = video("a", [[0, 1], [0.0005, 1.0005], [0, 1], [0, 1.1]], [0, 0, 1, 0]).remove_repeats()
    assert repeated.labels.tolist() == [0, 1, 0]


def test_random_guessing_is_bad():
    videos = [video(f"v{i}", [[10, 40]], [i % 4]) for i in range(40)]
    assert 0 < score_detections(generate_random_detections(videos, 4), videos, TIOUS).average < 0.3


REAL = SHARED / "real"
UPC = REAL / "activitynet/upc2016_submission_detection_validation.json"
SAMPLE = REAL / "activitynet/anet_official_sample_detection_prediction.json"
ANET = REAL / "activitynet/activity_net.v1-3.validation.json"
STUDENT = REAL / "desed/dcase2021_baseline_student/derived_scored_detections.anet_format.json.gz"
DESED = REAL / "desed/desed_validation.anet_format.json"
STUDENT_FIGURES = REAL / "desed/dcase2021_baseline_student.mAP_tiou0.1-0.9.json"


@NEEDS_SHARED
@pytest.mark.parametrize(
    ("results", "truth", "tious", "flags", "average", "figures"),
    [
        (UPC, ANET, "0.5:0.95:0.05", [], 0.138970608615, None),
        (UPC, ANET, "0.5:0.95:0.05", ["--keep-duplicates"], 0.138872495165, UPC.with_suffix(".official.json")),
        (SAMPLE, ANET, "0.5:0.95:0.05", ["--keep-duplicates"], 1.0, SAMPLE.with_suffix(".official.json")),
        (SAMPLE, ANET, "0.5:0.95:0.05", [], 0.9991854822896172, None),
        (STUDENT, DESED, "0.1:0.9:0.1", ["--keep-duplicates"], 0.235996885669, STUDENT_FIGURES),
        (STUDENT, DESED, "0.1:0.9:0.1", [], 0.235996885669, STUDENT_FIGURES),
    ],
)
def test_official_figures(run_script, tmp_path, results, truth, tious, flags, average, figures):
    out = tmp_path / "scores.json"
    flags = [*flags, "--subset", "validation", "--tious", tious, "--json", out]
    status, stdout, _ = run_script("tools/score.py", results, truth, *flags)
    assert status == 0
    scores = json.loads(out.read_text())
    assert scores["average_mAP"] == pytest.approx(average, abs=1e-9)
    assert f"{scores['average_mAP']:.12f}" in stdout
    if figures:
        official = json.loads(figures.read_text())
        official = official.get("activitynet_eval_detection", official)["ap_per_class"]
        assert official.keys() == scores["ap_per_class"].keys()
        for name, ap in official.items():
            np.testing.assert_allclose(scores["ap_per_class"][name], ap, atol=1e-9)


def test_sparse_ids_need_no_table(monkeypatch):
    """Label ids far apart are searched for: a table from id to column would fill the memory."""
    videos, found = random_case(3)
    expected = score_detections(found, videos, TIOUS)
    monkeypatch.setattr(detection, "LARGEST_TABLE", 0)
    np.testing.assert_array_equal(score_detections(found, videos, TIOUS).ap, expected.ap)
    far = [replace(v, labels=v.labels * 2**40) for v in videos]
    scores = score_detections(replace(found, labels=found.labels * 2**40), far, TIOUS)
    np.testing.assert_array_equal(scores.ap, expected.ap)

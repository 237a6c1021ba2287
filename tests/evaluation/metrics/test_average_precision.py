import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.plain.average_precision import average_precision
from libs.core.types import Detections
from libs.evaluation.metrics.average_precision import score_detections
from tests.conftest import NEEDS_SHARED
from tests.evaluation.cases import ANET, DESED, NO_DETECTIONS, REAL, SAMPLE, STUDENT, TIOUS, UPC, random_case, video


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("keep", [True, False])
def test_score_detections_equals_plain_average_precision(seed, keep):
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


def test_score_detections_perfect_scores_one_and_nothing_scores_zero():
    videos = [video("a", [[0, 1], [2, 4]], [0, 1]), video("b", [], [])]
    perfect = Detections(("a",), np.zeros(2, np.int64), videos[0].segments, np.ones(2), videos[0].labels)
    assert score_detections(perfect, videos, TIOUS).average == 1
    assert score_detections(NO_DETECTIONS, videos, TIOUS).average == 0
    assert score_detections(NO_DETECTIONS, [video("b", [], [])], TIOUS).average == 0


def test_score_detections_segments_without_length_match():
    videos = [video("a", [[3, 3]], [0])]
    found = Detections(("a",), np.zeros(1, np.int64), np.array([[7.0, 7.0]]), np.ones(1), np.zeros(1, np.int64))
    assert score_detections(found, videos, TIOUS).average == 1


def test_score_detections_unknown_class_matches_nothing():
    """In the published code, predictions of unknown classes take on the index of another class."""
    videos = [video("a", [[0, 1]], [5])]
    for label in (0, 4, 6, 99, -1):
        found = Detections(("a",), np.zeros(1, np.int64), np.array([[0.0, 1.0]]), np.ones(1), np.array([label]))
        assert score_detections(found, videos, TIOUS).average == 0


def test_remove_repeats_keeps_other_labels_and_ends():
    repeated = video("a", [[0, 1], [0.0005, 1.0005], [0, 1], [0, 1.1]], [0, 0, 1, 0]).remove_repeats()
    assert repeated.labels.tolist() == [0, 1, 0]


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
def test_score_script_gives_official_figures(run_script, tmp_path, results, truth, tious, flags, average, figures):
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


def test_score_detections_label_ids_far_apart_give_the_same_ap():
    videos, found = random_case(3)
    far = [replace(v, labels=v.labels * 2**40) for v in videos]
    scores = score_detections(replace(found, labels=found.labels * 2**40), far, TIOUS)
    np.testing.assert_array_equal(scores.ap, score_detections(found, videos, TIOUS).ap)

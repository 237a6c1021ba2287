"""Diagnosis against a slow oracle, on all videos and in resamples."""

import numpy as np
import pytest

from libs.core.types import Detections
from libs.datasets.annotations import load_annotations
from libs.evaluation.bootstrap import resample_weights
from libs.evaluation.metrics.average_precision import Matches, score_detections
from libs.evaluation.metrics.diagnosis import KINDS, Diagnosis
from libs.evaluation.metrics.recall import find_lowest_k, resample_average_recall, resample_recall
from libs.evaluation.metrics.resampling import resample_ap
from libs.evaluation.results import read_results
from tests.conftest import NEEDS_SHARED
from tests.evaluation import oracles
from tests.evaluation.cases import ANET, DESED, NO_DETECTIONS, STUDENT, TIOUS, UPC, random_case, video
from tests.evaluation.oracles import resample_and_write_out


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("alpha", [0.3, 0.5])
def test_diagnosis_equals_plain_diagnosis(seed, alpha):
    videos, found = random_case(seed)
    weights, copies = resample_and_write_out(found, videos, seed)
    fast = Diagnosis(found, videos, alpha)
    rows, truth = oracles.rows_of(found), oracles.truth_of(videos)
    kinds, taken = oracles.diagnose(rows, truth, alpha)
    assert [KINDS[k] for k in fast.kind] == kinds
    assert set(np.flatnonzero(fast.found).tolist()) == taken
    without = fast.map_without_error(weights)
    shares = fast.resample_shares(weights)
    for i, (detections, copied) in enumerate(copies):
        rows, truth = oracles.rows_of(detections), oracles.truth_of(copied)
        for name, values in without.items():
            wanted = {"as_is": (), "all": ("missed", *KINDS[1:])}.get(name, (name,))
            assert values[i] == pytest.approx(oracles.map_without(rows, truth, alpha, wanted), abs=1e-12), name
        kinds, _ = oracles.diagnose(rows, truth, alpha)
        np.testing.assert_allclose(shares[i], [kinds.count(kind) / len(kinds) for kind in KINDS], atol=1e-12)
    assert (without["all"] == 1).all()


@pytest.mark.parametrize("seed", range(6))
def test_normalized_map_of_groups_equals_plain_map(seed):
    videos, found = random_case(seed)
    fast = Diagnosis(found, videos, 0.5)
    rows, truth = oracles.rows_of(found), oracles.truth_of(videos)
    for groups in fast.group_annotations().values():
        assert (np.sum([chosen for *_, chosen in groups], axis=0) == 1).all()  # each annotation is in one group
        for *_, chosen in groups:
            if chosen.any():
                expected = oracles.normalized_map(rows, truth, 0.5, set(np.flatnonzero(chosen).tolist()))
                assert fast.compute_normalized_map(chosen) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(fast.compute_normalized_map(np.zeros(len(truth), bool)))


def test_group_annotations_ends_belong_to_the_smaller_group():
    videos = [video("a", [[0, 20], [30, 100], [0, 50]], [0, 0, 1]), video("b", [[0, 20.5]], [0])]
    groups = Diagnosis(NO_DETECTIONS, videos, 0.5).group_annotations()
    named = {name: {size: chosen.tolist() for size, _, chosen in rows} for name, rows in groups.items()}
    assert named["coverage"]["XS"] == [True, False, False, False]
    assert named["coverage"]["S"] == [False, False, False, True]
    assert named["coverage"]["M"] == [False, False, True, False]
    assert named["coverage"]["L"] == [False, True, False, False]
    assert named["instances"]["XS"] == [False, False, True, True]
    assert named["instances"]["S"] == [True, True, False, False]


def test_profile_and_confusions_of_one_detection_of_each_kind():
    videos = [video("a", [[0, 10], [50, 60]], [0, 1]), video("b", [[0, 10]], [0])]
    rows = [  # video, segment, score, label
        (0, (0, 10), 0.9, 0),  # hit
        (0, (0, 10), 0.8, 0),  # double
        (0, (50, 60), 0.7, 0),  # wrong label
        (1, (6, 10), 0.6, 0),  # localization
        (0, (50, 54), 0.5, 0),  # confusion
        (1, (80, 90), 0.4, 0),  # background
    ]
    where, segments, scores, labels = zip(*rows, strict=True)
    found = Detections(("a", "b"), np.array(where), np.array(segments, float), np.array(scores), np.array(labels))
    fast = Diagnosis(found, videos, 0.5)
    assert fast.kind.tolist() == [0, 1, 2, 3, 4, 5]
    # Class 0 has two annotations: slices of two detections.
    assert fast.profile()[:4].tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1], [0] * 6]
    assert fast.confusions() == [(0, 1, 2)]
    assert fast.found.tolist() == [True, False, False]


@NEEDS_SHARED
@pytest.mark.parametrize(("results", "truth"), [(UPC, ANET), (STUDENT, DESED)])
def test_diagnosis_of_published_detections_adds_up(results, truth):
    annotations = load_annotations(truth)
    videos = [video.remove_repeats() for video in annotations.select_splits(("validation",))]
    found = read_results(results, annotations.class_names)
    fast = Diagnosis(found, videos, 0.5)
    assert len(fast.kind) == len(found.scores) == sum(fast.counts().values())
    assert fast.counts()["true_positive"] == fast.found.sum()
    weights = resample_weights(len(videos), 5, 0)
    without = fast.map_without_error(weights)
    assert (without["all"] == 1).all()
    assert without["as_is"][0] == pytest.approx(score_detections(found, videos, (0.5,)).average, abs=1e-12)
    assert all((without[kind] >= without["as_is"] - 1e-12).all() for kind in without)
    assert fast.resample_shares(weights).sum(axis=1) == pytest.approx(1)


def test_metrics_without_detections_or_annotations_are_zero():
    videos, found = random_case(0)
    empty = [
        v.__class__(v.video_id, v.subset, v.duration, None, np.empty((0, 2)), np.empty(0, np.int64)) for v in videos
    ]
    weights = resample_weights(len(videos), 3, 0)
    for detections, annotated in ((NO_DETECTIONS, videos), (found, empty), (NO_DETECTIONS, empty)):
        fast = Diagnosis(detections, annotated, 0.5)
        truth, matches = fast.matches.truth, Matches(detections, annotated, TIOUS)
        assert sum(fast.counts().values()) == len(detections.scores)
        assert (resample_ap(fast.matches, weights)[~np.isnan(resample_ap(fast.matches, weights))] == 0).all()
        recall = resample_recall(truth.video, find_lowest_k(matches) == 1, weights)
        assert (recall[~np.isnan(recall)] == 0).all()
        assert (resample_average_recall(matches, weights) == 0).all()
        assert fast.profile().sum() == 0
        assert (fast.map_without_error(weights)["all"] == (1 if len(truth.labels) else 0)).all()

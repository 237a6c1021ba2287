"""Recall, AR and diagnosis against slow oracles, in all videos and in resamples; what must add up does."""

import numpy as np
import pytest

from libs.core.types import Detections
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics.average_precision import (
    GroundTruth,
    find_video_indices,
    match_detections,
    score_detections,
)
from libs.evaluation.metrics.bootstrap import class_means, resample_weights, resampled_ap
from libs.evaluation.metrics.diagnosis import KINDS, Diagnosis
from libs.evaluation.metrics.recall import ProposalRecall, RecallAtKx, auc
from libs.evaluation.results import read_results
from tests import oracles_metrics as oracles
from tests.conftest import NEEDS_SHARED
from tests.test_detection import ANET, DESED, STUDENT, UPC, random_case, video

TIOUS = (0.3, 0.5, 0.7)
NOTHING = Detections.concat([])


def resample(found, videos, seed):
    """Multiplicities of two resamples behind the videos themselves, and each written out."""
    weights = resample_weights(len(videos), 2, seed)
    return weights, [oracles.duplicated(found, videos, row[:-1]) for row in weights]


@pytest.mark.parametrize("seed", range(8))
def test_resampled_ap_is_that_of_videos_written_out(seed):
    videos, found = random_case(seed)
    weights, copies = resample(found, videos, seed)
    matches = match_detections(found, videos, TIOUS)
    ap = resampled_ap(matches, weights)
    for row, (detections, copied) in zip(ap, copies, strict=True):
        expected = score_detections(detections, copied, TIOUS, keep_repeats=True)
        known = np.isin(matches.labels, expected.labels)
        assert np.isnan(row[~known]).all()
        np.testing.assert_allclose(row[known], expected.ap, atol=1e-12)
        np.testing.assert_allclose(class_means(row[None])[0], expected.map, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [1, 5])
def test_top_recall(seed, k):
    videos, found = random_case(seed)
    weights, copies = resample(found, videos, seed)
    fast = RecallAtKx.compute(
        k, found, find_video_indices(found, videos)[found.video], GroundTruth.from_videos(videos), TIOUS
    )
    for row, (detections, copied) in zip(fast.resampled(weights), copies, strict=True):
        rows, truth = oracles.rows_of(detections), oracles.truth_of(copied)
        np.testing.assert_allclose(row, [oracles.top_recall(rows, truth, k, t)[0] for t in TIOUS], atol=1e-12)
    rows, truth = oracles.rows_of(found), oracles.truth_of(videos)
    expected = [oracles.top_recall(rows, truth, k, t)[1] for t in TIOUS]
    np.testing.assert_allclose(fast.class_mean(), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
def test_average_recall(seed, many):
    """Also with more than 100 proposals a video, so that some are never looked at."""
    videos, found = random_case(seed)
    if many:
        found = Detections.concat([found, *(random_case(100 + 10 * seed + i)[1] for i in range(5))])
        ids = tuple(dict.fromkeys(found.video_ids))
        place = np.array([ids.index(name) for name in found.video_ids])[found.video]
        found = Detections(ids, place, found.segments, found.scores, found.labels)
    weights, copies = resample(found, videos, seed)
    where = find_video_indices(found, videos)[found.video]
    fast = ProposalRecall.compute(found, where, GroundTruth.from_videos(videos), TIOUS, len(videos)).resampled(weights)
    for row, (detections, copied) in zip(fast, copies, strict=True):
        ids = [v.video_id for v in copied]
        rows = [row for row in oracles.rows_of(detections) if row[0] in ids]
        expected = oracles.average_recall(rows, oracles.truth_of(copied), ids, TIOUS)
        np.testing.assert_allclose(row, expected, atol=1e-12)
        trapezoids = sum((a + b) / 2 for a, b in zip(expected[:-1], expected[1:], strict=True))
        assert auc(row) == pytest.approx(trapezoids / 100)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("alpha", [0.3, 0.5])
def test_diagnosis(seed, alpha):
    videos, found = random_case(seed)
    weights, copies = resample(found, videos, seed)
    fast = Diagnosis.compute(found, videos, alpha)
    rows, truth = oracles.rows_of(found), oracles.truth_of(videos)
    kinds, taken = oracles.diagnose(rows, truth, alpha)
    assert [KINDS[k] for k in fast.kind] == kinds
    assert set(np.flatnonzero(fast.found).tolist()) == taken
    mended = fast.map_without_error(weights)
    shares = fast.shares(weights)
    for i, (detections, copied) in enumerate(copies):
        rows, truth = oracles.rows_of(detections), oracles.truth_of(copied)
        for name, values in mended.items():
            wanted = {"as_is": (), "all": ("missed", *KINDS[1:])}.get(name, (name,))
            assert values[i] == pytest.approx(oracles.mended_map(rows, truth, alpha, wanted), abs=1e-12), name
        kinds, _ = oracles.diagnose(rows, truth, alpha)
        np.testing.assert_allclose(shares[i], [kinds.count(kind) / len(kinds) for kind in KINDS], atol=1e-12)
    assert (mended["all"] == 1).all()


@pytest.mark.parametrize("seed", range(6))
def test_characteristics(seed):
    videos, found = random_case(seed)
    fast = Diagnosis.compute(found, videos, 0.5)
    rows, truth = oracles.rows_of(found), oracles.truth_of(videos)
    for groups in fast.characteristics().values():
        assert (np.sum([chosen for *_, chosen in groups], axis=0) == 1).all()  # each annotation is in one group
        for *_, chosen in groups:
            if chosen.any():
                expected = oracles.normalized_map(rows, truth, 0.5, set(np.flatnonzero(chosen).tolist()))
                assert fast.normalized_map(chosen) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(fast.normalized_map(np.zeros(len(truth), bool)))


def test_characteristics_bins():
    videos = [video("a", [[0, 20], [30, 100], [0, 50]], [0, 0, 1]), video("b", [[0, 20.5]], [0])]
    groups = Diagnosis.compute(NOTHING, videos, 0.5).characteristics()
    named = {name: {size: chosen.tolist() for size, _, chosen in rows} for name, rows in groups.items()}
    assert named["coverage"]["XS"] == [True, False, False, False]
    assert named["coverage"]["S"] == [False, False, False, True]
    assert named["coverage"]["M"] == [False, False, True, False]
    assert named["coverage"]["L"] == [False, True, False, False]
    assert named["instances"]["XS"] == [False, False, True, True]
    assert named["instances"]["S"] == [True, True, False, False]


def test_profile_and_confusions_by_hand():
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
    fast = Diagnosis.compute(found, videos, 0.5)
    assert fast.kind.tolist() == [0, 1, 2, 3, 4, 5]
    # Class 0 has two annotations: slices of two detections.
    assert fast.profile()[:4].tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1], [0] * 6]
    assert fast.confusions() == [(0, 1, 2)]
    assert fast.found.tolist() == [True, False, False]


def test_nothing_found_or_annotated():
    videos, found = random_case(0)
    empty = [
        v.__class__(v.video_id, v.subset, v.duration, None, np.empty((0, 2)), np.empty(0, np.int64)) for v in videos
    ]
    weights = resample_weights(len(videos), 3, 0)
    for detections, annotated in ((NOTHING, videos), (found, empty), (NOTHING, empty)):
        fast = Diagnosis.compute(detections, annotated, 0.5)
        truth, where = fast.matches.truth, find_video_indices(detections, annotated)[detections.video]
        assert sum(fast.counts().values()) == len(detections.scores)
        assert (resampled_ap(fast.matches, weights)[~np.isnan(resampled_ap(fast.matches, weights))] == 0).all()
        assert (RecallAtKx.compute(1, detections, where, truth, TIOUS).resampled(weights) == 0).all()
        assert (ProposalRecall.compute(detections, where, truth, TIOUS, len(annotated)).resampled(weights) == 0).all()
        assert fast.profile().sum() == 0
        assert (fast.map_without_error(weights)["all"] == (1 if len(truth.labels) else 0)).all()


@NEEDS_SHARED
@pytest.mark.parametrize(("results", "truth"), [(UPC, ANET), (STUDENT, DESED)])
def test_real_detections_are_diagnosed_wholly(results, truth):
    annotations = load_annotations(truth)
    videos = [video.remove_repeats() for video in annotations.select_splits(("validation",))]
    found = read_results(results, annotations.class_names)
    fast = Diagnosis.compute(found, videos, 0.5)
    assert len(fast.kind) == len(found.scores) == sum(fast.counts().values())
    assert fast.counts()["true_positive"] == fast.found.sum()
    weights = resample_weights(len(videos), 5, 0)
    mended = fast.map_without_error(weights)
    assert (mended["all"] == 1).all()
    assert mended["as_is"][0] == pytest.approx(score_detections(found, videos, (0.5,)).average, abs=1e-12)
    assert all((mended[kind] >= mended["as_is"] - 1e-12).all() for kind in mended)
    assert fast.shares(weights).sum(axis=1) == pytest.approx(1)

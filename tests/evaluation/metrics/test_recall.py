import numpy as np
import pytest

from libs.core.types import Detections
from libs.evaluation.metrics.average_precision import Matches
from libs.evaluation.metrics.compute import EvaluationInput, compute_auc, compute_recall
from libs.evaluation.metrics.recall import find_lowest_k, resample_average_recall, resample_recall
from tests.evaluation import oracles
from tests.evaluation.cases import TIOUS, random_case
from tests.evaluation.oracles import resample_and_write_out


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [1, 5])
def test_recall_at_kx_equals_plain_recall(seed, k):
    videos, found = random_case(seed)
    weights, copies = resample_and_write_out(found, videos, seed)
    matches = Matches(found, videos, TIOUS)
    resampled = np.nan_to_num(resample_recall(matches.truth.video, find_lowest_k(matches) <= k, weights))
    for row, (detections, copied) in zip(resampled, copies, strict=True):
        rows, truth = oracles.rows_of(detections), oracles.truth_of(copied)
        np.testing.assert_allclose(row, [oracles.top_recall(rows, truth, k, t)[0] for t in TIOUS], atol=1e-12)
    rows, truth = oracles.rows_of(found), oracles.truth_of(videos)
    expected = [oracles.top_recall(rows, truth, k, t)[1] for t in TIOUS]
    means = compute_recall(EvaluationInput(found, videos, {}, TIOUS, resamples=2)).details["mean_of_classes"]
    np.testing.assert_allclose([means[f"Recall@{k}x@{t:.2f}"] for t in TIOUS], expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("many", [False, True], ids=["under_100", "over_100"])
def test_proposal_recall_equals_plain_average_recall(seed, many):
    """Also with more than 100 proposals per video, so that some are never used."""
    videos, found = random_case(seed)
    if many:
        found = Detections.concat([found, *(random_case(100 + 10 * seed + i)[1] for i in range(5))])
        ids = tuple(dict.fromkeys(found.video_ids))
        place = np.array([ids.index(name) for name in found.video_ids])[found.video]
        found = Detections(ids, place, found.segments, found.scores, found.labels)
    weights, copies = resample_and_write_out(found, videos, seed)
    fast = resample_average_recall(Matches(found, videos, TIOUS), weights)
    for row, (detections, copied) in zip(fast, copies, strict=True):
        ids = [v.video_id for v in copied]
        rows = [row for row in oracles.rows_of(detections) if row[0] in ids]
        expected = oracles.average_recall(rows, oracles.truth_of(copied), ids, TIOUS)
        np.testing.assert_allclose(row, expected, atol=1e-12)
        trapezoids = sum((a + b) / 2 for a, b in zip(expected[:-1], expected[1:], strict=True))
        assert compute_auc(row[None])[0] == pytest.approx(trapezoids / 100)

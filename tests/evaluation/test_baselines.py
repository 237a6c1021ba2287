from libs.evaluation.baselines import generate_random_detections
from libs.evaluation.metrics.average_precision import score_detections
from tests.evaluation.cases import TIOUS, video


def test_random_detections_score_little_but_not_zero():
    videos = [video(f"v{i}", [[10, 40]], [i % 4]) for i in range(40)]
    assert 0 < score_detections(generate_random_detections(videos, 4), videos, TIOUS).average < 0.3

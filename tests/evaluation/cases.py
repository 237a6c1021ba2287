"""Small random videos and detections, and the published results under ../shared, for the tests of metrics."""

import numpy as np

from libs.core.types import Detections, Video
from tests.conftest import SHARED

TIOUS = (0.3, 0.5, 0.7)
NO_DETECTIONS = Detections.concat([])

REAL = SHARED / "real"
UPC = REAL / "activitynet/upc2016_submission_detection_validation.json"
SAMPLE = REAL / "activitynet/anet_official_sample_detection_prediction.json"
ANET = REAL / "activitynet/activity_net.v1-3.validation.json"
DESED = REAL / "desed/desed_validation.anet_format.json"
STUDENT_FOLDER = REAL / "desed/dcase2021_baseline_student"
STUDENT = STUDENT_FOLDER / "derived_scored_detections.anet_format.json.gz"


def video(name, segments, labels, duration=100.0):
    return Video(name, "val", duration, None, np.array(segments, float).reshape(-1, 2), np.array(labels, np.int64))


def random_case(seed):
    """Generate videos and detections on a coarse grid of times and scores, so that ties and exact thresholds occur.

    Some videos and classes of the detections are not annotated.
    """
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

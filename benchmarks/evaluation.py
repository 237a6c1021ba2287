"""mAP of ActivityNet's size."""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.case import Case, Setting, Variant
from libs.core.config import parse_tious
from libs.core.types import Detections, Video
from libs.evaluation.detection import DetectionScores, score_detections
from tests.oracles import average_precision

PUBLISHED_S = 25.5  # with two processes
TIOUS = parse_tious("0.5:0.95:0.05")
DURATION_S = 120.0


def cases(setting: Setting) -> dict[str, Callable[[], Case]]:
    return {"map": partial(map_case, setting)}


def ground_truth(videos: int, classes: int, rng: np.random.Generator) -> list[Video]:
    """One or two events a video, of one class."""
    made = []
    for i in range(videos):
        start = rng.uniform(0, DURATION_S * 0.7, rng.integers(1, 3))
        segments = np.stack([start, start + rng.uniform(5, DURATION_S * 0.3, len(start))], axis=1)
        made.append(Video(f"v{i}", "val", DURATION_S, None, segments, np.full(len(start), rng.integers(classes))))
    return made


def guesses(videos: list[Video], each: int, classes: int, rng: np.random.Generator) -> Detections:
    """`each` detections a video, a tenth of them near its events."""
    video = np.repeat(np.arange(len(videos)), each)
    start = rng.uniform(0, DURATION_S * 0.7, len(video))
    segments = np.stack([start, start + rng.uniform(1, DURATION_S * 0.3, len(video))], axis=1)
    labels = rng.integers(classes, size=len(video))
    for row in range(0, len(video), 10):
        truth = videos[video[row]]
        event = rng.integers(len(truth.labels))
        segments[row], labels[row] = truth.segments[event] + rng.normal(0, 2, 2), truth.labels[event]
    segments.sort(axis=1)
    return Detections(tuple(v.video_id for v in videos), video, segments, rng.uniform(0, 1, len(video)), labels)


def plain_map(found: Detections, videos: list[Video]) -> np.ndarray:
    """AP (classes of the ground truth, tIoUs), a class and a row at a time."""
    videos = [video.without_repeats() for video in videos]
    rows, truth = {}, {}
    for video, segment, score, label in zip(found.video, found.segments, found.scores, found.labels, strict=True):
        rows.setdefault(int(label), []).append((found.video_ids[video], *segment.tolist(), float(score)))
    for video in videos:
        for segment, label in zip(video.segments, video.labels, strict=True):
            truth.setdefault(int(label), []).append((video.video_id, *segment.tolist()))
    return np.array([average_precision(rows.get(label, []), truth[label], TIOUS) for label in sorted(truth)])


def map_case(setting: Setting) -> Case:
    sizes, rng = setting.sizes, np.random.default_rng(0)
    videos = ground_truth(sizes.eval_videos, sizes.eval_classes, rng)
    found = guesses(videos, sizes.eval_detections, sizes.eval_classes, rng)

    def error(expected: np.ndarray, scores: DetectionScores) -> float:
        return float(np.abs(expected - scores.ap).max()) if expected.shape == scores.ap.shape else np.inf

    return Case(
        f"mAP, {len(found.scores)} detections, {len(videos)} videos, {sizes.eval_classes} classes, {len(TIOUS)} tIoUs",
        "s",
        partial(plain_map, found, videos),
        [Variant("vectorised", partial(score_detections, found, videos, TIOUS), error, 1e-9)],
        PUBLISHED_S,
        once=("plain",),
    )

"""mAP of ActivityNet's size, and all metrics with bootstrap intervals."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from libs.evaluation.metrics.bootstrap import resample_weights

from benchmarks.case import BenchmarkCase, Measured, Setting, Variant
from benchmarks.plain.average_precision import average_precision
from libs.core.config import parse_tious
from libs.core.types import Detections, Video
from libs.evaluation.metrics.average_precision import DetectionScores, score_detections
from libs.evaluation.metrics.compute import EvaluationInput, MetricSettings, compute_metrics
from libs.evaluation.metrics.selection import expand_metrics

PUBLISHED_S = 25.5  # with two processes
TIOUS = parse_tious("0.5:0.95:0.05")
DURATION_S = 120.0
WRITTEN_OUT = 5  # resamples that the plain way computes, from which its time for all is taken


def cases(setting: Setting) -> dict[str, Callable[[], BenchmarkCase]]:
    return {"map": partial(map_case, setting), "metrics": partial(metrics_case, setting)}


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
    videos = [video.remove_repeats() for video in videos]
    rows, truth = {}, {}
    for video, segment, score, label in zip(found.video, found.segments, found.scores, found.labels, strict=True):
        rows.setdefault(int(label), []).append((found.video_ids[video], *segment.tolist(), float(score)))
    for video in videos:
        for segment, label in zip(video.segments, video.labels, strict=True):
            truth.setdefault(int(label), []).append((video.video_id, *segment.tolist()))
    return np.array([average_precision(rows.get(label, []), truth[label], TIOUS) for label in sorted(truth)])


def map_case(setting: Setting) -> BenchmarkCase:
    sizes, rng = setting.sizes, np.random.default_rng(0)
    videos = ground_truth(sizes.eval_videos, sizes.eval_classes, rng)
    found = guesses(videos, sizes.eval_detections, sizes.eval_classes, rng)

    def error(expected: np.ndarray, scores: DetectionScores) -> float:
        return float(np.abs(expected - scores.ap).max()) if expected.shape == scores.ap.shape else np.inf

    return BenchmarkCase(
        f"mAP, {len(found.scores)} detections, {len(videos)} videos, {sizes.eval_classes} classes, {len(TIOUS)} tIoUs",
        "s",
        partial(plain_map, found, videos),
        [Variant("vectorised", partial(score_detections, found, videos, TIOUS), error, 1e-9)],
        PUBLISHED_S,
    )


def metrics_case(setting: Setting) -> BenchmarkCase:
    """All metrics but the sound events' own. The plain way has mAP alone, each resample written out and scored."""
    sizes, rng = setting.sizes, np.random.default_rng(0)
    videos = ground_truth(sizes.eval_videos, sizes.eval_classes, rng)
    found = guesses(videos, sizes.eval_detections, sizes.eval_classes, rng)
    settings = MetricSettings(resamples=sizes.eval_resamples)
    names, _ = expand_metrics(("all",), sounds=False)

    def plain() -> Measured:
        began = time.perf_counter()
        weights = resample_weights(len(videos), settings.resamples, settings.seed)[1 : 1 + WRITTEN_OUT, :-1]
        averages = [score_detections(*written_out(found, videos, row), TIOUS).average for row in weights]
        return Measured((time.perf_counter() - began) * settings.resamples / len(weights), np.array(averages))

    def fast() -> np.ndarray:
        data = EvaluationInput(found, [video.remove_repeats() for video in videos], {}, TIOUS, settings)
        return compute_metrics(data, names)["map"].samples["average_mAP"]

    def error(expected: np.ndarray, samples: np.ndarray) -> float:
        return float(np.abs(expected - samples[: len(expected)]).max())

    return BenchmarkCase(
        f"{', '.join(names)} with {settings.resamples} resamples, {len(found.scores)} detections, {len(videos)} videos",
        "s",
        plain,
        [Variant("counted anew", fast, error, 1e-9)],
    )


def written_out(found: Detections, videos: list[Video], times: np.ndarray) -> tuple[Detections, list[Video]]:
    """A resample: video i times[i] times under other names, copies of a detection one after the other."""
    copies = [replace(v, video_id=f"{v.video_id}#{c}") for v, n in zip(videos, times, strict=True) for c in range(n)]
    rows = np.repeat(np.arange(len(found.video)), times[found.video])
    copy = np.arange(len(rows)) - np.searchsorted(rows, rows)
    video = (np.cumsum(times) - times)[found.video[rows]] + copy
    ids = tuple(v.video_id for v in copies)
    return Detections(ids, video, found.segments[rows], found.scores[rows], found.labels[rows]), copies

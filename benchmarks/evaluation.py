"""mAP of ActivityNet's size, and all metrics with bootstrap intervals."""

from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.case import BenchmarkCase, BenchmarkSettings, Variant, relative_error
from benchmarks.plain.average_precision import average_precision
from libs.core.config import parse_tious
from libs.core.types import Detections, Video
from libs.evaluation.bootstrap import resample_weights
from libs.evaluation.metrics.average_precision import remove_repeats, score_detections
from libs.evaluation.metrics.compute import EvaluationInput, compute_metrics
from libs.evaluation.metrics.selection import expand_metrics

TIOUS = parse_tious("0.5:0.95:0.05")
DURATION_S = 120.0
PLAIN_RESAMPLES = 5  # the plain baseline's time for all resamples is extrapolated from these


def build_map_case(settings: BenchmarkSettings) -> BenchmarkCase:
    detections, videos = random_evaluation(settings)
    fast = partial(score_detections, detections, videos, TIOUS)
    variants = [Variant("vectorised", fast, lambda ap, scores: relative_error([ap], [scores.ap]), 1e-9)]
    size = f"{len(detections.scores)} detections, {len(videos)} videos, {settings.classes} classes, {len(TIOUS)} tIoUs"
    return BenchmarkCase(f"mAP, {size}", "s", partial(plain_map, detections, videos), variants)


def build_metrics_case(settings: BenchmarkSettings) -> BenchmarkCase:
    """All metrics but `sed`. The plain baseline computes mAP alone, on each resample written out."""
    detections, videos = random_evaluation(settings)
    names, _ = expand_metrics(("all",), sounds=False)

    def plain() -> np.ndarray:
        weights = resample_weights(len(videos), settings.eval_resamples, seed=0)
        resamples = (write_out_resample(detections, videos, row) for row in weights[1 : 1 + PLAIN_RESAMPLES, :-1])
        return np.array([score_detections(*resample, TIOUS).average for resample in resamples])

    def fast() -> np.ndarray:
        data = EvaluationInput(detections, remove_repeats(videos), {}, TIOUS, resamples=settings.eval_resamples)
        return compute_metrics(data, names)["map"].samples["average_mAP"]

    size = f"{settings.eval_resamples} resamples, {len(detections.scores)} detections, {len(videos)} videos"
    variants = [Variant("counted anew", fast, lambda a, b: relative_error([a], [b[: len(a)]]), 1e-9)]
    factor = settings.eval_resamples / PLAIN_RESAMPLES
    return BenchmarkCase(f"{', '.join(names)} with {size}", "s", plain, variants, plain_factor=factor)


def random_evaluation(settings: BenchmarkSettings) -> tuple[Detections, list[Video]]:
    """Generate videos with one or two events of one class, and detections, a tenth of them near an event."""
    rng = np.random.default_rng(0)

    def random_segments(count: int, shortest_s: float) -> np.ndarray:
        start = rng.uniform(0, DURATION_S * 0.7, count)
        return np.stack([start, start + rng.uniform(shortest_s, DURATION_S * 0.3, count)], axis=1)

    videos = []
    for i, (label, count) in enumerate(rng.integers([0, 1], [settings.classes, 3], (settings.eval_videos, 2))):
        videos.append(Video(f"v{i}", "val", DURATION_S, None, random_segments(count, 5), np.full(count, label)))
    video = np.repeat(np.arange(len(videos)), settings.eval_detections)
    segments, labels = random_segments(len(video), 1), rng.integers(settings.classes, size=len(video))
    for row in range(0, len(video), 10):
        truth = videos[video[row]]
        segments[row], labels[row] = truth.segments[-1] + rng.normal(0, 2, 2), truth.labels[-1]
    segments.sort(axis=1)
    return Detections(tuple(v.video_id for v in videos), video, segments, rng.uniform(0, 1, len(video)), labels), videos


def plain_map(detections: Detections, videos: list[Video]) -> np.ndarray:
    """Compute AP (classes of the ground truth, tIoUs) class by class and row by row."""
    rows, truth = {}, {}
    columns = detections.video, detections.segments, detections.scores, detections.labels
    for video, segment, score, label in zip(*columns, strict=True):
        rows.setdefault(int(label), []).append((detections.video_ids[video], *segment.tolist(), float(score)))
    for video in remove_repeats(videos):
        for segment, label in zip(video.segments, video.labels, strict=True):
            truth.setdefault(int(label), []).append((video.video_id, *segment.tolist()))
    return np.array([average_precision(rows.get(label, []), truth[label], TIOUS) for label in sorted(truth)])


def write_out_resample(detections: Detections, videos: list[Video], counts: np.ndarray) -> tuple[Detections, list]:
    """Repeat video i counts[i] times under other names; copies of a detection follow each other."""
    copies = [replace(v, video_id=f"{v.video_id}#{c}") for v, n in zip(videos, counts, strict=True) for c in range(n)]
    rows = np.repeat(np.arange(len(detections.video)), counts[detections.video])
    copy = np.arange(len(rows)) - np.searchsorted(rows, rows)
    video = (np.cumsum(counts) - counts)[detections.video[rows]] + copy
    columns = detections.segments[rows], detections.scores[rows], detections.labels[rows]
    return Detections(tuple(v.video_id for v in copies), video, *columns), copies

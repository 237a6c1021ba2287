"""A few example videos with their annotations and best detections."""

from dataclasses import dataclass

import numpy as np

from libs.core.types import Video
from libs.evaluation.metrics.compute import EvaluationInput
from libs.evaluation.metrics.recall import find_lowest_k, rank_within_group

VIDEOS_PER_RANK = 2
MAX_LANES = 6  # classes shown of a video
MIN_DETECTIONS = 5


@dataclass(frozen=True)
class Timeline:
    """One video and its N detections with the highest scores."""

    rank: str  # best, middle or worst
    video: Video
    num_found: int  # annotations
    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @property
    def lanes(self) -> list[int]:
        """The classes shown: first those of annotations, then those of detections by score."""
        return list(dict.fromkeys([*self.video.labels.tolist(), *self.labels.tolist()]))[:MAX_LANES]


def select_videos(data: EvaluationInput) -> list[Timeline]:
    """Select the best, middle and worst videos by Recall@1x at the tIoU of the diagnosis.

    Among equals, videos with more annotations come first. Twice as many detections as annotations are shown.
    """
    matches, detections = data.diagnosis.matches, data.detections
    truth = matches.truth
    positives = np.bincount(truth.video, minlength=len(data.videos))
    found = np.bincount(truth.video, find_lowest_k(matches)[:, 0] == 1, len(data.videos))
    annotated = np.flatnonzero(positives)
    recall = found[annotated] / positives[annotated]
    best = annotated[np.lexsort((-positives[annotated], -recall))]
    worst = annotated[np.lexsort((-positives[annotated], recall))]
    chosen: dict[int, str] = {}
    for rank, order in (("best", best), ("middle", best[len(best) // 2 :]), ("worst", worst)):
        unused = [v for v in order.tolist() if v not in chosen]
        chosen |= dict.fromkeys(unused[:VIDEOS_PER_RANK], rank)
    places = rank_within_group(matches.video, detections.scores)
    timelines = []
    for v, rank in chosen.items():
        rows = np.flatnonzero((matches.video == v) & (places < max(MIN_DETECTIONS, 2 * positives[v])))
        rows = rows[np.argsort(places[rows])]
        columns = (detections.segments[rows], detections.scores[rows], detections.labels[rows])
        timelines.append(Timeline(rank, data.videos[v], int(found[v]), *columns))
    return timelines

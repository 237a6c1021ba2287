"""A few videos to look at, good and bad ones, with their annotations and best detections."""

from dataclasses import dataclass

import numpy as np

from libs.evaluation.metrics.compute import EvaluationInput
from libs.evaluation.metrics.recall import RecallAtKx, rank_within_group

EACH = 2  # of the best, of the middling, of the worst
MOST_LANES = 6  # classes of a video that are shown
HOW_CHOSEN = (
    "Videos with annotations are ranked by the share of annotations that the x best scored detections of each class "
    "find (Recall@1x at the tIoU of the diagnosis), of equals those with more annotations first. Shown are two of the "
    "best, two from the middle and, again with the most annotations, two of the worst, with as many of the best scored "
    "detections as twice the annotations, at least 5."
)


@dataclass(frozen=True)
class Timeline:
    """One video: annotations (G) and its best detections (N); why: best, middle or worst."""

    why: str
    video_id: str
    words: str
    duration: float
    truth_segments: np.ndarray
    truth_labels: np.ndarray
    segments: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @property
    def lane_labels(self) -> list[int]:
        """A lane a class: those annotated first, then by score."""
        return list(dict.fromkeys([*self.truth_labels.tolist(), *self.labels.tolist()]))[:MOST_LANES]

    @property
    def lanes(self) -> int:
        return len(self.lane_labels)

    def of_label(self, label: int, annotated: bool) -> tuple[np.ndarray, np.ndarray]:
        """Segments and scores of a lane."""
        if annotated:
            chosen = self.truth_segments[self.truth_labels == label]
            return chosen, np.ones(len(chosen))
        return self.segments[self.labels == label], self.scores[self.labels == label]


def choose_videos(data: EvaluationInput) -> list[Timeline]:
    """As HOW_CHOSEN says; none where nothing is annotated."""
    truth, videos = data.diagnosis.matches.truth, len(data.videos)
    top = RecallAtKx.compute(1, data.detections, data.video, truth, (data.settings.diagnosis_tiou,))
    positives = np.bincount(truth.video, minlength=videos)
    found = np.bincount(truth.video, top.recalled[:, 0], videos)
    annotated = np.flatnonzero(positives)
    share = found[annotated] / positives[annotated]
    ranked = annotated[np.lexsort((-positives[annotated], -share))]
    worst = annotated[np.lexsort((-positives[annotated], share))]
    middle = ranked[len(ranked) // 2 :]
    chosen: dict[int, str] = {}
    for why, row in (("best", ranked), ("middle", middle), ("worst", worst)):
        fresh = [int(v) for v in row if int(v) not in chosen][:EACH]
        chosen |= dict.fromkeys(fresh, why)
    rank = rank_within_group(data.video, data.detections.scores)
    return [_timeline(data, v, why, int(found[v]), int(positives[v]), rank) for v, why in chosen.items()]


def _timeline(data: EvaluationInput, v: int, why: str, found: int, positives: int, rank: np.ndarray) -> Timeline:
    video, detections = data.videos[v], data.detections
    rows = np.flatnonzero((data.video == v) & (rank < max(5, 2 * positives)))
    rows = rows[np.argsort(rank[rows])]
    words = f"{found} of {positives} found"
    truth = (video.segments, video.labels)
    columns = (detections.segments[rows], detections.scores[rows], detections.labels[rows])
    return Timeline(why, video.video_id, words, video.duration, *truth, *columns)

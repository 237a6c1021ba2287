"""Small random sound events and detections, with plain versions of what the metrics derive from them."""

import numpy as np

from libs.core.types import Detections, Video

NAMES = {3: "dog", 5: "speech\\loud", 9: "water"}
LABELS = np.array(sorted(NAMES))


def sed_video(name, events, duration=10.0):
    """Build a video from events (start, end, label)."""
    table = np.array(events, np.float64).reshape(-1, 3)
    return Video(name, "val", duration, None, table[:, :2].copy(), table[:, 2].astype(np.int64))


def build_detections(rows, ids):
    """Build detections from rows (index of the video, start, end, score, label)."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    whole = table[:, [0, 4]].astype(np.int64)
    return Detections(tuple(ids), whole[:, 0], table[:, 1:3].copy(), table[:, 3].copy(), whole[:, 1])


def random_sed_case(seed, grid=4, videos=8, duration=10.0):
    """Generate events and detections on a coarse grid, so that ties, touching ends and exact collars occur.

    The last video has no events, the one before no detections; some detections end after their video. Detections near
    an event have higher scores.
    """
    rng = np.random.default_rng(seed)

    def spans(n, longest):
        start = rng.integers(0, 9 * grid, n)
        return start / grid, (start + rng.integers(1, longest * grid, n)) / grid

    truth = []
    for i in range(videos):
        n = 0 if i == videos - 1 else rng.integers(1, 6)
        start, end = spans(n, 4)
        truth.append(sed_video(f"v{i}", np.stack([start, end.clip(max=10), rng.choice(LABELS, n)], axis=1), duration))
    truth[0] = sed_video("v0", [(1 + i, 1.5 + i, c) for i, c in enumerate(LABELS)], duration)  # every class occurs
    rows = []
    for i in (i for i in range(videos) if i != videos - 2):
        near = [
            (max(0, s + rng.integers(-1, 2) / grid), e + rng.integers(-1, 2) / grid, c)
            for s, e, c in list_events(truth[i])
        ]
        rows += [(i, s, e, rng.integers(8, 20) / 20, c) for s, e, c in near if e > s]
        start, end = spans(8, 5)
        rows += [
            (i, *row)
            for row in zip(start, end.clip(max=11), rng.integers(1, 13, 8) / 20, rng.choice(LABELS, 8), strict=True)
        ]
    order = rng.permutation(len(rows))
    rows = sorted((rows[i] for i in order), key=lambda row: row[0])
    return truth, build_detections(rows, [v.video_id for v in truth])


def list_events(one):
    return [(s, e, c) for (s, e), c in zip(one.segments.tolist(), one.labels.tolist(), strict=True)]


def merge_spans(spans):
    """Merge overlapping and touching intervals."""
    result = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def find_events(found, videos, threshold, labels=LABELS):
    """Find the unions of segments with a score above the threshold: {video_id: [(start, end, label)]}."""
    result = {v.video_id: [] for v in videos}
    for name in result:
        own = np.array([v == name for v in found.video_ids], bool)[found.video] & (found.scores > threshold)
        for label in labels.tolist():
            spans = merge_spans(found.segments[own & (found.labels == label)].tolist())
            result[name] += [(s, e, label) for s, e in spans]
    return result


def reference_events(videos, labels=LABELS):
    return {
        v.video_id: [(*span, c) for c in labels.tolist() for span in merge_spans(select_spans(v, c))] for v in videos
    }


def select_spans(one, label):
    return one.segments[one.labels == label].tolist()


def get_values(result):
    return {name: estimate.value for name, estimate in result.headline.items()}

"""Plain versions of the metrics beside mAP.

Detections are rows (video, start, end, score, label) in file order, annotations (video, start, end, label); videos are
given by their ids.
"""

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from benchmarks.plain.average_precision import precision_recall_area, temporal_iou
from libs.core.types import Detections, Video
from libs.evaluation.bootstrap import resample_weights


def rows_of(detections: Detections) -> list[tuple]:
    columns = (detections.video, detections.segments.tolist(), detections.scores.tolist(), detections.labels.tolist())
    return [
        (detections.video_ids[v], *segment, score, label) for v, segment, score, label in zip(*columns, strict=True)
    ]


def truth_of(videos: list[Video]) -> list[tuple]:
    return [
        (video.video_id, *segment, label)
        for video in videos
        for segment, label in zip(video.segments.tolist(), video.labels.tolist(), strict=True)
    ]


def write_out(detections: Detections, videos: list[Video], weights) -> tuple[Detections, list[Video]]:
    """Write out a resample: video i becomes weights[i] videos with other names, copies of a detection side by side."""
    times = {video.video_id: int(weight) for video, weight in zip(videos, weights, strict=True)}
    copies = [
        replace(video, video_id=f"{video.video_id}#{c}") for video in videos for c in range(times[video.video_id])
    ]
    names, rows = [], []
    for row, video in enumerate(detections.video):
        video_id = detections.video_ids[video]
        for copy in range(times.get(video_id, 1)):
            names.append(f"{video_id}#{copy}")
            rows.append(row)
    ids = tuple(sorted(set(names)))
    video = np.array([ids.index(name) for name in names], np.int64)
    table = (detections.segments[rows], detections.scores[rows], detections.labels[rows])
    return Detections(ids, video, *table), copies


def resample_and_write_out(detections: Detections, videos: list[Video], seed: int) -> tuple[np.ndarray, list]:
    """Return the weights of all videos and of two resamples, and each written out."""
    weights = resample_weights(len(videos), 2, seed)
    return weights, [write_out(detections, videos, row[:-1]) for row in weights]


def falling(rows: list[tuple]) -> list[int]:
    return sorted(range(len(rows)), key=lambda i: (-rows[i][3], -i))


def top_recall(rows, truth, k, tiou):
    """Compute the recalled share of all annotations, and the mean of the classes' shares."""
    recalled = Counter()
    for video, start, end, label in truth:
        same = [t for t in truth if (t[0], t[3]) == (video, label)]
        own = [rows[i] for i in falling(rows) if (rows[i][0], rows[i][4]) == (video, label)]
        best = own[: k * len(same)]
        recalled[label] += any(temporal_iou(row[1:3], (start, end)) >= tiou for row in best)
    totals = Counter(label for *_, label in truth)
    if not truth:
        return 0.0, 0.0
    return sum(recalled.values()) / len(truth), sum(recalled[c] / totals[c] for c in totals) / len(totals)


def average_recall(rows, truth, videos, tious):
    """Compute AR at 1 … 100 proposals per video on average."""
    own = {v: [rows[i] for i in falling(rows) if rows[i][0] == v] for v in videos}
    total = sum(map(len, own.values()))
    if not total or not truth:
        return [0.0] * 100
    ratio = 100 * len(videos) / total
    own = {v: found[: min(math.floor(len(found) * ratio), len(found))] for v, found in own.items()}
    total = sum(map(len, own.values()))
    curve = []
    for j in range(1, 101):
        share = j / 100 * (100 * len(videos) / total if total else 0.0)
        recalls = []
        for tiou in tious:
            hits = 0
            for video, start, end, _ in truth:
                best = own[video][: math.floor(len(own[video]) * share)]
                hits += any(temporal_iou(row[1:3], (start, end)) >= tiou for row in best)
            recalls.append(hits / len(truth))
        curve.append(sum(recalls) / len(recalls))
    return curve


def diagnose(rows, truth, alpha):
    """Compute the kind of each detection, and which annotations are found."""
    kinds, taken = [None] * len(rows), set()
    for i in falling(rows):
        video, start, end, _, label = rows[i]
        overlaps = [(temporal_iou((start, end), t[1:3]), j) for j, t in enumerate(truth) if t[0] == video]
        free = [(iou, j) for iou, j in overlaps if truth[j][3] == label and j not in taken and iou >= alpha]
        if free:
            taken.add(max(free)[1])
            kinds[i] = "true_positive"
            continue
        most = max((iou for iou, _ in overlaps), default=0.0)
        own = any(iou == most and truth[j][3] == label for iou, j in overlaps)
        if most >= alpha:
            kinds[i] = "double_detection" if own else "wrong_label"
        elif most >= 0.1:
            kinds[i] = "localization" if own else "confusion"
        else:
            kinds[i] = "background"
    return kinds, taken


def map_without(rows, truth, alpha, removed):
    """Compute mAP at alpha without errors of the kinds in `removed`; "missed": each missed annotation is hit first."""
    kinds, taken = diagnose(rows, truth, alpha)
    areas = []
    for label in sorted({t[3] for t in truth}):
        instances = [j for j, t in enumerate(truth) if t[3] == label]
        hits = [True for j in instances if j not in taken] if "missed" in removed else []
        order = [i for i in falling(rows) if rows[i][4] == label and kinds[i] not in removed]
        hits += [kinds[i] == "true_positive" for i in order]
        areas.append(precision_recall_area(hits, len(instances)))
    return sum(areas) / len(areas) if areas else 0.0


def normalized_map(rows, truth, alpha, chosen):
    """Compute mAP over the chosen annotations (indices), with precision as if each class had the mean number."""
    kinds, _ = diagnose(rows, truth, alpha)
    labels = sorted({t[3] for t in truth})
    mean, areas = len(truth) / len(labels), []
    taken_by = _taken_by(rows, truth, alpha)
    for label in labels:
        positives = sum(truth[j][3] == label for j in chosen)
        if not positives:
            continue
        points, found, false = [], 0, 0
        for i in falling(rows):
            if rows[i][4] != label:
                continue
            if kinds[i] != "true_positive":
                false += 1
            elif taken_by[i] in chosen:
                found += 1
                recall = found / positives
                points.append(recall * mean / (recall * mean + false))
        areas.append(sum(max(points[i:]) for i in range(len(points))) / positives)
    return sum(areas) / len(areas)


def _taken_by(rows, truth, alpha):
    """Find the annotation that each true positive took."""
    taken = {}
    for i in falling(rows):
        video, start, end, _, label = rows[i]
        free = [
            (temporal_iou((start, end), t[1:3]), j)
            for j, t in enumerate(truth)
            if (t[0], t[3]) == (video, label) and j not in taken.values()
        ]
        if free and max(free)[0] >= alpha:
            taken[i] = max(free)[1]
    return taken

"""Slow and obvious versions of what the project computes fast: what tests compare with, and benchmarks' baseline."""

import math

import numpy as np


def soft_nms(segments, scores, labels, *, method, multiclass, iou_threshold, sigma, min_score, max_seg_num):
    """Exhaust each class by itself, then sort: the published order of things. Lists of (row, score), best first."""
    kept = []
    for group in sorted(set(labels)) if multiclass else [None]:
        alive = [[i, float(scores[i])] for i in range(len(scores)) if group is None or labels[i] == group]
        if method == "hard":
            alive = [c for c in alive if c[1] > min_score]
        picks = []
        while alive and len(picks) < max_seg_num:
            best = max(alive, key=lambda c: c[1])
            alive.remove(best)
            picks.append(tuple(best))
            survivors = []
            for row, score in alive:
                overlap = nms_iou(segments[best[0]], segments[row])
                if method == "hard":
                    if overlap < iou_threshold:
                        survivors.append([row, score])
                    continue
                if method == "soft":
                    score *= math.exp(-overlap * overlap / sigma)
                elif overlap >= iou_threshold:
                    score *= 1 - overlap
                if score >= min_score:
                    survivors.append([row, score])
            alive = survivors
        kept += picks
    return sorted(kept, key=lambda c: -c[1])[:max_seg_num]


def nms_iou(a, b):
    """IoU with 1e-6 added to both lengths, as the published NMS has it."""
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inter / ((a[1] - a[0] + 1e-6) + (b[1] - b[0] + 1e-6) - inter)


def point_targets(points, segments, labels, num_classes, class_aware):
    """Loop over points and segments. Returns classes (P, C) and offsets (P, K, 2)."""
    classes = np.zeros((len(points), num_classes))
    offsets = np.zeros((len(points), num_classes if class_aware else 1, 2))
    for p, (time, low, high, stride) in enumerate(points):
        claims = []
        for (start, end), label in zip(segments, labels, strict=True):
            left, right = time - start, end - time
            if min(left, right) > 0 and low <= max(left, right) <= high:
                claims.append((end - start, label, (left / stride, right / stride)))
        if class_aware:
            for _, label, sides in claims:
                classes[p, label], offsets[p, label] = 1, sides
        elif claims:
            shortest = min(claims, key=lambda c: c[0])
            offsets[p, 0] = shortest[2]
            for length, label, _ in claims:
                if length <= shortest[0] + 1e-3:
                    classes[p, label] = 1
    return classes, offsets


def average_precision(predictions, truth, tious):
    """AP of one class, a row at a time, as the official code goes.

    predictions: (video, start, end, score) in file order; truth: (video, start, end). Returns a list, one a tIoU.
    """
    order = sorted(range(len(predictions)), key=lambda i: (-predictions[i][3], -i))
    result = []
    for tiou in tious:
        taken, hits = set(), []
        for i in order:
            video, start, end, _ = predictions[i]
            rivals = [(_tiou((start, end), g[1:]), j) for j, g in enumerate(truth) if g[0] == video]
            rivals = [(overlap, j) for overlap, j in rivals if j not in taken and overlap >= tiou]
            hits.append(bool(rivals))
            if rivals:
                taken.add(max(rivals)[1])  # of equals the last
        result.append(_area(hits, len(truth)))
    return result


def _tiou(a, b):
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return math.inf if union == 0 else inter / union


def _area(hits, positives):
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    recalls = [0.0] + [sum(hits[: i + 1]) / positives for i in range(len(hits))]
    return sum((recalls[i + 1] - recalls[i]) * max(precisions[i:]) for i in range(len(hits)))

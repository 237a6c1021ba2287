"""Slow and obvious versions of what the project computes fast: what tests compare with, and benchmarks' baseline."""

import math

import numpy as np
import torch

from libs.core.config import TaskSpec
from libs.core.types import Clip, Detections, Prediction


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


def soft_nms_torch(segments, scores, labels, *, sigma, min_score, max_seg_num):
    """`soft_nms` (method soft, multiclass) of one video in PyTorch. Returns rows and decayed scores, best first."""
    picks, decayed = [labels.new_zeros(0)], [scores.new_zeros(0)]
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        current = scores[rows]
        for _ in range(max_seg_num):
            if len(rows) == 0:
                break
            best = current.argmax()
            picks.append(rows[best, None])
            decayed.append(current[best, None])
            (start, end), (starts, ends) = segments[rows[best]], segments[rows].unbind(1)
            inter = (torch.minimum(end, ends) - torch.maximum(start, starts)).clamp(min=0)
            overlap = inter / ((end - start + 1e-6) + (ends - starts + 1e-6) - inter)
            current = current * torch.exp(-overlap * overlap / sigma)
            alive = current >= min_score
            alive[best] = False
            rows, current = rows[alive], current[alive]
    decayed, order = torch.cat(decayed).sort(descending=True, stable=True)
    return torch.cat(picks)[order][:max_seg_num], decayed[:max_seg_num]


def plain_decode(prediction: Prediction, clips: tuple[Clip, ...], spec: TaskSpec) -> Detections:
    """Detections video by video, level by level (method.md §7), with soft-NMS a class."""
    config = spec.test_cfg
    assert (config.nms_method, config.multiclass_nms) == ("soft", True), "the plain decoding knows soft-NMS a class"
    results = []
    for row, clip in enumerate(clips):
        segments, scores, labels = [], [], []
        first = 0
        for size in prediction.level_sizes:
            found = _level_candidates(prediction, row, slice(first, first + size), config)
            for column, values in zip((segments, scores, labels), found, strict=True):
                column.append(values.cpu())
            first += size
        segments, scores, labels = torch.cat(segments), torch.cat(scores), torch.cat(labels)
        options = {"sigma": config.nms_sigma, "min_score": config.min_score, "max_seg_num": config.max_seg_num}
        rows, scores = soft_nms_torch(segments, scores, labels, **options)
        seconds = (segments[rows].double().numpy() * clip.feat_stride + 0.5 * clip.num_frames) / clip.fps
        seconds = seconds.clip(0, clip.duration)
        video = np.zeros(len(rows), np.int64)
        results.append(Detections((clip.video_id,), video, seconds, scores.double().numpy(), labels[rows].numpy()))
    return Detections.concat(results)


def _level_candidates(prediction, row, level, config):
    """Segments (N, 2), scores and labels (N,) of one video's level, before NMS."""
    p = torch.sigmoid(prediction.logits[row, level]) * prediction.mask[row, level, None]  # (points, C)
    offsets, points = prediction.offsets[row, level], prediction.points[level]
    offsets = offsets.expand(-1, p.shape[1], -1)  # (points, C, 2)
    point, label = (p > config.pre_nms_thresh).nonzero(as_tuple=True)
    scores, order = p[point, label].sort(descending=True, stable=True)
    order = order[: config.pre_nms_topk]
    scores, point, label = scores[: config.pre_nms_topk], point[order], label[order]
    (left, right), (time, _, _, stride) = offsets[point, label].unbind(1), points[point].unbind(1)
    segments = torch.stack([time - left * stride, time + right * stride], dim=1)
    kept = segments[:, 1] - segments[:, 0] > config.duration_thresh
    return segments[kept], scores[kept], label[kept]


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
    of_video = {}
    for j, (video, *_) in enumerate(truth):
        of_video.setdefault(video, []).append(j)
    result = []
    for tiou in tious:
        taken, hits = set(), []
        for i in order:
            video, start, end, _ = predictions[i]
            rivals = [(temporal_iou((start, end), truth[j][1:]), j) for j in of_video.get(video, [])]
            rivals = [(overlap, j) for overlap, j in rivals if j not in taken and overlap >= tiou]
            hits.append(bool(rivals))
            if rivals:
                taken.add(max(rivals)[1])  # of equals the last
        result.append(precision_recall_area(hits, len(truth)))
    return result


def temporal_iou(a, b):
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return math.inf if union == 0 else inter / union


def precision_recall_area(hits, positives):
    found, precisions, recalls = 0, [], [0.0]
    for i, hit in enumerate(hits):
        found += hit
        precisions.append(found / (i + 1))
        recalls.append(found / positives)
    area, highest = 0.0, 0.0
    for i in reversed(range(len(hits))):
        highest = max(highest, precisions[i])
        area += (recalls[i + 1] - recalls[i]) * highest
    return area

"""NMS of every method in plain Python, which tests compare with; other oracles are in benchmarks/plain."""

import math


def soft_nms(segments, scores, labels, *, method, multiclass, iou_threshold, sigma, min_score, max_seg_num):
    """Run NMS on each class by itself, then sort. Returns a list of (row, score), best first."""
    kept = []
    for group in sorted(set(labels)) if multiclass else [None]:
        alive = [[i, float(scores[i])] for i in range(len(scores)) if group is None or labels[i] == group]
        if method == "hard":
            alive = [c for c in alive if c[1] > min_score]
        kept_in_group = []
        while alive and len(kept_in_group) < max_seg_num:
            best = max(alive, key=lambda c: c[1])
            alive.remove(best)
            kept_in_group.append(tuple(best))
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
        kept += kept_in_group
    return sorted(kept, key=lambda c: -c[1])[:max_seg_num]


def nms_iou(a, b):
    """Compute the IoU with 1e-6 added to both lengths, as in the published NMS."""
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inter / ((a[1] - a[0] + 1e-6) + (b[1] - b[0] + 1e-6) - inter)

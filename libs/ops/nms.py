"""1-D non-maximum suppression as the torch operator `uniav::nms_1d`, and segment voting.

The operator runs in C++ and CUDA if setup.py could build the extensions. Otherwise it runs in PyTorch on the CPU, and
candidates on a GPU are copied there, with one warning.
"""

import functools
import warnings
from pathlib import Path

import torch
from torch import Tensor

SCHEMA = (
    "nms_1d(Tensor segments, Tensor scores, Tensor groups, Tensor splits, str method, float iou_threshold, "
    "float sigma, float min_score, int max_seg_num) -> (Tensor, Tensor, Tensor)"
)


def pairwise_iou(a: Tensor, b: Tensor, area_eps: float = 0.0) -> Tensor:
    """Compute the IoU of segments a (N, 2) with b (M, 2).

    Args:
        area_eps: added to each length; NMS uses 1e-6.

    Returns:
        (N, M) IoU.
    """
    inter = torch.minimum(a[:, None, 1], b[:, 1]) - torch.maximum(a[:, None, 0], b[:, 0])
    inter = inter.clamp(min=0)
    areas_a, areas_b = (x[:, 1] - x[:, 0] + area_eps for x in (a, b))
    return inter / (areas_a[:, None] + areas_b - inter)


def nms_1d_torch(segments, scores, groups, splits, method, iou_threshold, sigma, min_score, max_seg_num):
    """Run the operator in plain PyTorch, with the results of `nms_1d`."""
    if not (torch.isfinite(scores).all() and torch.isfinite(segments).all()):
        raise ValueError("a segment or score is NaN or infinite")
    cuts = splits.tolist()
    rows = groups.new_zeros((len(cuts) - 1, max_seg_num))
    kept = scores.new_zeros((len(cuts) - 1, max_seg_num))
    counts = groups.new_zeros(len(cuts) - 1)
    removed = -torch.inf
    for v, (first, last) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        own_segments, own_groups, current = segments[first:last], groups[first:last], scores[first:last].clone()
        if method == "hard":
            current[current <= min_score] = removed
        for pick in range(max_seg_num if last > first else 0):
            best = int(current.argmax())
            if current[best] == removed:
                break
            rows[v, pick], kept[v, pick], counts[v] = first + best, current[best], pick + 1
            current[best] = removed
            rivals = (own_groups == own_groups[best]).nonzero()[:, 0]
            iou = pairwise_iou(own_segments[best : best + 1], own_segments[rivals], 1e-6)[0]
            if method == "hard":
                current[rivals[iou >= iou_threshold]] = removed
                continue
            weight = torch.exp(-iou * iou / sigma) if method == "soft" else (1 - iou).where(iou >= iou_threshold, 1)
            decayed = current[rivals] * weight
            current[rivals] = decayed.where(decayed >= min_score, removed)
    return rows, kept, counts


def _load_extension(name: str) -> str | None:
    """Load an extension that setup.py built. Returns the reason if that is not possible."""
    folder = Path(__file__).parent
    note = folder / f"{name}.txt"  # written by setup.py
    reason = f"it could not be built ({note.read_text(encoding='utf-8')})" if note.exists() else "it is not built"
    for path in sorted([*folder.glob(f"{name}*.so"), *folder.glob(f"{name}*.pyd")]):
        try:
            torch.ops.load_library(path)
            return None
        except OSError as error:
            reason = f"{path.name} does not load ({str(error).splitlines()[0]})"
    return reason


def _warn(slow: str, extension: str, reason: str) -> None:
    warnings.warn(
        f"NMS {slow} instead of the {extension} extension: {reason}. See INSTALL.md, 'The extension'.",
        RuntimeWarning,
        stacklevel=3,
    )


def _load_operator() -> torch.library.Library:
    """Declare uniav::nms_1d and register its kernels: the built extensions, or their replacements."""
    library = torch.library.Library("uniav", "DEF")
    library.define(SCHEMA)

    @torch.library.register_fake("uniav::nms_1d", lib=library)
    def _(segments, scores, groups, splits, method, iou_threshold, sigma, min_score, max_seg_num):
        shape = (splits.shape[0] - 1, max_seg_num)
        return groups.new_empty(shape), scores.new_empty(shape), groups.new_empty(shape[0])

    if reason := _load_extension("_nms_cpu"):
        _warn("runs in slow pure PyTorch", "C++", reason)
        library.impl("nms_1d", nms_1d_torch, "CPU")
    if torch.version.cuda and (cuda_reason := _load_extension("_nms_cuda")):

        @functools.cache
        def warn_once() -> None:
            _warn("copies its candidates to the CPU", "CUDA", cuda_reason)

        def run_on_cpu(segments, scores, groups, splits, *options):
            warn_once()
            tensors = (x.cpu() for x in (segments, scores, groups, splits))
            return tuple(x.to(scores.device) for x in torch.ops.uniav.nms_1d(*tensors, *options))

        library.impl("nms_1d", run_on_cpu, "CUDA")
    return library


_LIBRARY = _load_operator()  # an operator is declared as long as its library object lives


def nms_1d(
    segments: Tensor,
    scores: Tensor,
    labels: Tensor,
    splits: Tensor,
    *,
    method: str = "soft",
    multiclass: bool = True,
    iou_threshold: float = 0.7,
    sigma: float = 0.4,
    min_score: float = 0.001,
    max_seg_num: int = 100,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run NMS on the segments of several videos, each on its own (method.md §7).

    Args:
        segments, scores, labels: (N, 2) float32, (N,) float32 and (N,) int64.
        splits: (V+1,) int64; video v has rows splits[v]:splits[v+1].
        method: "soft" (scores decay by exp(-IoU²/sigma)), "soft_linear" (by 1-IoU from iou_threshold on) or "hard".
        multiclass: only segments of the same label compete.

    Returns:
        (V, max_seg_num) rows picked, best first; their scores; and (V,) numbers of picks, with zeros after them.

    Raises:
        ValueError: on values that are not finite, and on wrong shapes, types and options.
    """
    groups = labels if multiclass else torch.zeros_like(labels)
    options = (method, iou_threshold, sigma, min_score, max_seg_num)
    return torch.ops.uniav.nms_1d(segments.float(), scores.float(), groups, splits, *options)


def vote_segments(kept: Tensor, segments: Tensor, scores: Tensor, splits: Tensor, voting_thresh: float) -> Tensor:
    """Replace each kept segment by the score-weighted mean of the segments that overlap it (segment voting).

    Args:
        kept: (V, K, 2) segments that NMS kept.
        segments, scores, splits: (N, 2), (N,) before any decay and (V+1,), as given to NMS.
        voting_thresh: IoU from which a segment of the same video votes.

    Returns:
        (V, K, 2) segments, NaN where no segment votes.
    """
    voted = []
    cuts = splits.tolist()
    for own, first, last in zip(kept, cuts[:-1], cuts[1:], strict=True):
        weights = scores[first:last] * (pairwise_iou(own, segments[first:last]) >= voting_thresh)  # (K, n)
        voted.append(weights @ segments[first:last] / weights.sum(dim=1, keepdim=True))
    return torch.stack(voted) if voted else kept

"""1-D non-maximum suppression as the torch operator `uniav::nms_1d`, and segment voting.

The operator runs in C++ and CUDA where setup.py could build the extensions. Where not, it runs in PyTorch on the CPU,
and candidates on a GPU are copied there; a warning says so once.
"""

import functools
import warnings
from pathlib import Path

import numpy as np
import torch

SCHEMA = (
    "nms_1d(Tensor segments, Tensor scores, Tensor groups, Tensor splits, str method, float iou_threshold, "
    "float sigma, float min_score, int max_seg_num) -> (Tensor, Tensor, Tensor)"
)
NMS_METHODS = ("soft", "soft_linear", "hard")


def pairwise_iou(a: torch.Tensor, b: torch.Tensor, area_eps: float = 0.0) -> torch.Tensor:
    """IoU of segments a (N, 2) with b (M, 2) -> (N, M). `area_eps` is added to each length, as NMS does (1e-6)."""
    inter = torch.minimum(a[:, None, 1], b[:, 1]) - torch.maximum(a[:, None, 0], b[:, 0])
    inter = inter.clamp(min=0)
    areas_a, areas_b = (x[:, 1] - x[:, 0] + area_eps for x in (a, b))
    return inter / (areas_a[:, None] + areas_b - inter)


def nms_1d_torch(segments, scores, groups, splits, method, iou_threshold, sigma, min_score, max_seg_num):
    """The operator in plain PyTorch; same contract as `nms_1d`."""
    if method not in NMS_METHODS:
        raise ValueError(f"NMS method must be soft, soft_linear or hard, got {method}")
    n, videos = scores.numel(), splits.numel() - 1
    if scores.dim() != 1 or segments.shape != (n, 2) or groups.shape != scores.shape:
        raise ValueError("expected segments (N, 2), scores (N,) and groups (N,)")
    if not segments.dtype == scores.dtype == torch.float32:
        raise ValueError("expected segments and scores of float32")
    if not groups.dtype == splits.dtype == torch.int64:
        raise ValueError("expected groups and splits of int64")
    if not (torch.isfinite(scores).all() and torch.isfinite(segments).all()):
        raise ValueError("a segment or score is NaN or infinite")
    if max_seg_num < 0:
        raise ValueError(f"expected max_seg_num >= 0, got {max_seg_num}")
    if not float(np.float32(sigma)) > 0:
        raise ValueError(f"expected sigma > 0, got {sigma}")
    cuts = splits.tolist()
    if splits.dim() != 1 or videos < 0 or cuts != sorted(cuts) or not 0 <= cuts[0] <= cuts[-1] <= n:
        raise ValueError("expected splits that rise between 0 and N")
    rows = groups.new_zeros((videos, max_seg_num))
    kept = scores.new_zeros((videos, max_seg_num))
    counts = groups.new_zeros(videos)
    gone = -torch.inf
    for v, (first, last) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        own_segments, own_groups, current = segments[first:last], groups[first:last], scores[first:last].clone()
        if method == "hard":
            current[current <= min_score] = gone
        for pick in range(max_seg_num if last > first else 0):
            best = int(current.argmax())
            if current[best] == gone:
                break
            rows[v, pick], kept[v, pick], counts[v] = first + best, current[best], pick + 1
            current[best] = gone
            rivals = (own_groups == own_groups[best]).nonzero()[:, 0]
            iou = pairwise_iou(own_segments[best : best + 1], own_segments[rivals], 1e-6)[0]
            if method == "hard":
                current[rivals[iou >= iou_threshold]] = gone
                continue
            weight = torch.exp(-iou * iou / sigma) if method == "soft" else (1 - iou).where(iou >= iou_threshold, 1)
            decayed = current[rivals] * weight
            current[rivals] = decayed.where(decayed >= min_score, gone)
    return rows, kept, counts


def _built(name: str) -> str | None:
    """Load an extension that setup.py built; what is the matter if that is impossible, else None."""
    folder, reason = Path(__file__).parent, "it is not built"
    note = folder / f"{name}.txt"  # of setup.py
    if note.exists():
        reason = f"it could not be built ({note.read_text(encoding='utf-8')})"
    for path in [*sorted(folder.glob(f"{name}*.so")), *sorted(folder.glob(f"{name}*.pyd"))]:
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
    """Declare uniav::nms_1d and give it its kernels: the built extensions, or what does without them."""
    library = torch.library.Library("uniav", "DEF")
    library.define(SCHEMA)

    @torch.library.register_fake("uniav::nms_1d", lib=library)
    def _(segments, scores, groups, splits, method, iou_threshold, sigma, min_score, max_seg_num):
        shape = (splits.shape[0] - 1, max_seg_num)
        return groups.new_empty(shape), scores.new_empty(shape), groups.new_empty(shape[0])

    if reason := _built("_nms_cpu"):
        _warn("runs in slow pure PyTorch", "C++", reason)
        library.impl("nms_1d", nms_1d_torch, "CPU")
    if torch.version.cuda and (no_cuda := _built("_nms_cuda")):

        @functools.cache
        def warn_once() -> None:
            _warn("copies its candidates to the CPU", "CUDA", no_cuda)

        def through_the_cpu(segments, scores, groups, splits, *options):
            warn_once()
            given = (x.cpu() for x in (segments, scores, groups, splits))
            return tuple(x.to(scores.device) for x in torch.ops.uniav.nms_1d(*given, *options))

        library.impl("nms_1d", through_the_cpu, "CUDA")
    return library


_LIBRARY = _load_operator()  # torch.library wants the operator declared for as long as the process lives


def nms_1d(
    segments: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    splits: torch.Tensor,
    *,
    method: str = "soft",
    multiclass: bool = True,
    iou_threshold: float = 0.7,
    sigma: float = 0.4,
    min_score: float = 0.001,
    max_seg_num: int = 100,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """NMS of the segments of several videos, each by itself (method.md §7).

    segments (N, 2) and scores (N,) float32, labels (N,) int64; splits (V+1,) int64: video v owns rows
    splits[v]:splits[v+1]; rows of no video are left out. method "soft" (Gaussian: scores decay by exp(-IoU²/sigma)),
    "soft_linear" (by 1-IoU from iou_threshold on) or "hard"; multiclass: only segments of one label compete.

    Returns rows (V, max_seg_num) int64, the picked rows, best first; their decayed scores (V, max_seg_num); and
    counts (V,): how many of a row's entries are picks, the rest being zeros. All on the segments' device, which is
    waited for once. Raises ValueError on what is not finite, and on shapes, types and options that do not fit.
    """
    groups = labels if multiclass else torch.zeros_like(labels)
    options = (method, iou_threshold, sigma, min_score, max_seg_num)
    return torch.ops.uniav.nms_1d(segments.float(), scores.float(), groups, splits, *options)


def vote_segments(
    kept: torch.Tensor, segments: torch.Tensor, scores: torch.Tensor, splits: torch.Tensor, voting_thresh: float
) -> torch.Tensor:
    """Segment voting: each kept segment becomes the score-weighted mean of all segments of its video that overlap it by
    an IoU of at least voting_thresh.

    kept (V, K, 2); segments (N, 2), scores (N,) before any decay and splits (V+1,) as given to NMS. Returns (V, K, 2),
    NaN where no segment votes.
    """
    voted = []
    cuts = splits.tolist()
    for own, first, last in zip(kept, cuts[:-1], cuts[1:], strict=True):
        weights = scores[first:last] * (pairwise_iou(own, segments[first:last]) >= voting_thresh)  # (K, n)
        voted.append(weights @ segments[first:last] / weights.sum(dim=1, keepdim=True))
    return torch.stack(voted) if voted else kept

"""Soft-NMS of one video and of a batch, without the network."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.case import BenchmarkCase, Setting, Variant
from benchmarks.error_measures import nms_error
from benchmarks.plain.decoding import plain_nms as soft_nms_torch
from libs.ops.nms import nms_1d

PUBLISHED_ONE_VIDEO_MS = 13.3
GRID = 256.0  # windows
OPTIONS = {"sigma": 0.75, "min_score": 0.001, "max_seg_num": 100}
TOLERANCE = 1e-3


def cases(setting: Setting) -> dict[str, Callable[[], BenchmarkCase]]:
    many = setting.sizes.infer_videos if setting.on_gpu else setting.sizes.nms_videos
    batch = gpu_case if setting.on_gpu else cpu_case
    return {"nms-1": partial(cpu_case, setting, 1), f"nms-{many}": partial(batch, setting, many)}


def candidates(setting: Setting, videos: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Segments, scores, labels and splits of `videos` videos with sizes.nms_segments each."""
    generator = torch.Generator().manual_seed(0)
    count = videos * setting.sizes.nms_segments
    start = torch.rand(count, generator=generator) * GRID
    length = 0.1 + torch.rand(count, generator=generator) ** 3 * GRID / 2  # most of them short
    labels = torch.randint(setting.sizes.nms_classes, (count,), generator=generator)
    scores = 0.001 + 0.999 * torch.rand(count, generator=generator)
    splits = torch.arange(videos + 1) * setting.sizes.nms_segments
    return torch.stack([start, start + length], dim=1), scores, labels, splits


def plain_nms(segments: Tensor, scores: Tensor, labels: Tensor, splits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What nms_1d returns, video by video, class by class."""
    videos, most = len(splits) - 1, OPTIONS["max_seg_num"]
    rows, kept, counts = labels.new_zeros(videos, most), scores.new_zeros(videos, most), labels.new_zeros(videos)
    for i, (first, last) in enumerate(zip(splits[:-1].tolist(), splits[1:].tolist(), strict=True)):
        own, decayed = soft_nms_torch(segments[first:last], scores[first:last], labels[first:last], **OPTIONS)
        rows[i, : len(own)], kept[i, : len(own)], counts[i] = own + first, decayed, len(own)
    return rows, kept, counts


def _title(setting: Setting, videos: int, what: str) -> str:
    sizes = setting.sizes
    return f"soft-NMS, {sizes.nms_segments} segments, {sizes.nms_classes} classes, {videos} video(s), {what}"


def cpu_case(setting: Setting, videos: int) -> BenchmarkCase:
    given = candidates(setting, videos)
    return BenchmarkCase(
        _title(setting, videos, "CPU"),
        "ms",
        partial(plain_nms, *given),
        [Variant("C++", partial(nms_1d, *given, **OPTIONS), nms_error, TOLERANCE)],
        PUBLISHED_ONE_VIDEO_MS if videos == 1 else None,
    )


def gpu_case(setting: Setting, videos: int) -> BenchmarkCase:
    """The CUDA kernel against the C++ one, to and from which candidates and picks are copied."""
    given = [column.to(setting.device) for column in candidates(setting, videos)]

    def through_the_cpu() -> tuple[Tensor, ...]:
        return tuple(x.to(setting.device) for x in nms_1d(*(column.cpu() for column in given), **OPTIONS))

    return BenchmarkCase(
        _title(setting, videos, "GPU; plain: C++ on the CPU, with copies"),
        "ms",
        through_the_cpu,
        [Variant("CUDA", partial(nms_1d, *given, **OPTIONS), nms_error, TOLERANCE)],
    )

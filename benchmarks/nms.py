"""Soft-NMS of one video and of a batch, without the network."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.case import BenchmarkCase, BenchmarkSettings, Builders, Variant
from benchmarks.error_measures import nms_error
from benchmarks.plain.decoding import plain_nms
from libs.ops.nms import nms_1d

GRID = 256.0  # windows
OPTIONS = {"sigma": 0.75, "min_score": 0.001, "max_seg_num": 100}
TOLERANCE = 1e-3


def list_cases(settings: BenchmarkSettings) -> Builders:
    many = settings.gpu_batch if settings.on_gpu else settings.nms_videos
    build_batch_case = build_gpu_case if settings.on_gpu else build_cpu_case
    return {"nms-1": partial(build_cpu_case, settings, 1), f"nms-{many}": partial(build_batch_case, settings, many)}


def random_candidates(settings: BenchmarkSettings, videos: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Generate segments, scores, labels and splits of several videos; most segments are short."""
    generator = torch.Generator().manual_seed(0)
    count = videos * settings.nms_segments
    start = torch.rand(count, generator=generator) * GRID
    length = 0.1 + torch.rand(count, generator=generator) ** 3 * GRID / 2
    labels = torch.randint(settings.nms_classes, (count,), generator=generator)
    scores = 0.001 + 0.999 * torch.rand(count, generator=generator)
    splits = torch.arange(videos + 1) * settings.nms_segments
    return torch.stack([start, start + length], dim=1), scores, labels, splits


def plain_batch_nms(segments: Tensor, scores: Tensor, labels: Tensor, splits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what nms_1d returns, video by video and class by class."""
    videos, most = len(splits) - 1, OPTIONS["max_seg_num"]
    rows, kept, counts = labels.new_zeros(videos, most), scores.new_zeros(videos, most), labels.new_zeros(videos)
    for i, (first, last) in enumerate(zip(splits[:-1].tolist(), splits[1:].tolist(), strict=True)):
        own, decayed = plain_nms(segments[first:last], scores[first:last], labels[first:last], **OPTIONS)
        rows[i, : len(own)], kept[i, : len(own)], counts[i] = own + first, decayed, len(own)
    return rows, kept, counts


def _format_title(settings: BenchmarkSettings, videos: int, where: str) -> str:
    return f"soft-NMS, {settings.nms_segments} segments, {settings.nms_classes} classes, {videos} video(s), {where}"


def build_cpu_case(settings: BenchmarkSettings, videos: int) -> BenchmarkCase:
    candidates = random_candidates(settings, videos)
    fast = Variant("C++", partial(nms_1d, *candidates, **OPTIONS), nms_error, TOLERANCE)
    return BenchmarkCase(_format_title(settings, videos, "CPU"), "ms", partial(plain_batch_nms, *candidates), [fast])


def build_gpu_case(settings: BenchmarkSettings, videos: int) -> BenchmarkCase:
    """Compare the CUDA kernel with the C++ one, including copies to the CPU and back."""
    candidates = [column.to(settings.device) for column in random_candidates(settings, videos)]

    def run_on_cpu() -> tuple[Tensor, ...]:
        return tuple(x.to(settings.device) for x in nms_1d(*(column.cpu() for column in candidates), **OPTIONS))

    title = _format_title(settings, videos, "GPU; plain: C++ on the CPU, with copies")
    fast = Variant("CUDA", partial(nms_1d, *candidates, **OPTIONS), nms_error, TOLERANCE)
    return BenchmarkCase(title, "ms", run_on_cpu, [fast])

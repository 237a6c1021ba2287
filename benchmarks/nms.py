"""Soft-NMS of one video and of a batch, without the network."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.case import BenchmarkCase, BenchmarkSettings, Variant
from benchmarks.plain.decoding import plain_nms
from libs.ops.nms import nms_1d

GRID = 256.0  # windows
OPTIONS = {"sigma": 0.75, "min_score": 0.001, "max_seg_num": 100}


def build_nms_case(settings: BenchmarkSettings, videos: int) -> BenchmarkCase:
    """Compare the C++ kernel on one video, or on a CPU, with the plain NMS.

    On a GPU, compare the CUDA kernel on several videos with the C++ one, including copies to the CPU and back.
    """
    candidates = random_candidates(settings, videos)
    name, where, plain = "C++", "CPU", plain_batch_nms
    if settings.on_gpu and videos > 1:
        candidates = [column.to(settings.device) for column in candidates]
        name, where, plain = "CUDA", "GPU; plain: C++ on the CPU, with copies", run_on_cpu
    title = f"soft-NMS, {settings.nms_segments} segments, {settings.classes} classes, {videos} video(s), {where}"
    fast = Variant(name, partial(nms_1d, *candidates, **OPTIONS), nms_error, 1e-3)
    return BenchmarkCase(title, "ms", partial(plain, *candidates), [fast])


def run_on_cpu(*candidates: Tensor) -> list[Tensor]:
    return [x.to(candidates[0].device) for x in nms_1d(*(column.cpu() for column in candidates), **OPTIONS)]


def random_candidates(settings: BenchmarkSettings, videos: int) -> list[Tensor]:
    """Generate segments, scores, labels and splits of several videos; most segments are short."""
    generator = torch.Generator().manual_seed(0)
    count = videos * settings.nms_segments
    start = torch.rand(count, generator=generator) * GRID
    length = 0.1 + torch.rand(count, generator=generator) ** 3 * GRID / 2
    labels = torch.randint(settings.classes, (count,), generator=generator)
    scores = 0.001 + 0.999 * torch.rand(count, generator=generator)
    splits = torch.arange(videos + 1) * settings.nms_segments
    return [torch.stack([start, start + length], dim=1), scores, labels, splits]


def plain_batch_nms(segments: Tensor, scores: Tensor, labels: Tensor, splits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what nms_1d returns, video by video and class by class."""
    videos, most = len(splits) - 1, OPTIONS["max_seg_num"]
    rows, kept, counts = labels.new_zeros(videos, most), scores.new_zeros(videos, most), labels.new_zeros(videos)
    for i, (first, last) in enumerate(zip(splits[:-1].tolist(), splits[1:].tolist(), strict=True)):
        own, decayed = plain_nms(segments[first:last], scores[first:last], labels[first:last], **OPTIONS)
        rows[i, : len(own)], kept[i, : len(own)], counts[i] = own + first, decayed, len(own)
    return rows, kept, counts


def nms_error(expected: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> float:
    """Compare (rows, scores, counts) of nms_1d: the largest difference of scores, or the share of other rows."""
    rows, scores, counts = zip(expected, found, strict=True)
    if not torch.equal(*counts):
        return torch.inf
    return max(float((rows[0] != rows[1]).double().mean()), float((scores[0] - scores[1]).abs().max()))

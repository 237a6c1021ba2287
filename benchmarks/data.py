"""Synthetic batches for the network; targets; loading."""

from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import torch

from benchmarks.case import BenchmarkCase, BenchmarkSettings, Variant, relative_error
from benchmarks.plain.training import PlainTargets, dense_offsets, plain_targets
from libs.core.config import Config, TaskSpec
from libs.core.types import MODALITIES, Batch, Clip, Targets, Video
from libs.datasets.annotations import Annotations
from libs.datasets.clips import ClipDataset
from libs.datasets.loaders import TrainStream, collate
from libs.datasets.task_data import TaskData
from libs.features.sources import open_features
from libs.modeling.points import make_points, make_targets

FPS = 16.0


class _NoClips:
    """Replaces training clips where synthetic batches are used."""

    def __init__(self, task: TaskSpec):
        self.task = task

    def __len__(self) -> int:
        return self.task.batch_size


def task_data_without_clips(task: TaskSpec, seen: list[int] | None = None) -> TaskData:
    """Build the data of a task for a Trainer that is given its batches."""
    clips = cast(ClipDataset, _NoClips(task))
    return TaskData(task, Annotations(Path(), (), {}), [], seen, clips, clips, clips)


def random_batch(config: Config, task: TaskSpec, videos: int, device: torch.device, cropped: bool) -> Batch:
    """Generate clips of about max_seq_len with a few events each.

    Args:
        cropped: clips of different lengths, as in training; without it, those of a resized task are equally long.
    """
    generator = torch.Generator().manual_seed(0)
    longest, spec, items = task.dataset.max_seq_len, task.dataset, []
    shortest = round(0.9 * longest) if cropped or not spec.force_upsampling else longest
    for i in range(videos):
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        count = 1 + int(torch.poisson(torch.tensor(2.0), generator=generator))
        start = torch.rand(count, generator=generator) * 0.8 * length
        segments = torch.stack([start, start + torch.rand(count, generator=generator) * (length - start)], dim=1)
        labels = torch.randint(spec.num_classes, (count,), generator=generator)
        duration = (length * spec.feat_stride + spec.num_frames) / FPS
        clip = Clip(f"video{i}", duration, FPS, spec.feat_stride, spec.num_frames, segments, labels)
        items.append((clip, *(torch.randn(length, dim, generator=generator) for dim in config.model.input_dims)))
    return collate(items, longest, config.model.coarsest_stride).to(device)


def build_targets_case(settings: BenchmarkSettings, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(settings.config, task, task.batch_size, settings.device, cropped=True)
    points = make_points(settings.config.model, batch.mask.shape[1])[0].to(settings.device)
    classes, aware = task.dataset.num_classes, task.dataset.class_aware

    def compute_error(expected: PlainTargets, found: Targets) -> float:
        return relative_error(expected, (found.classes, dense_offsets(found, expected.offsets.shape[2])))

    return BenchmarkCase(
        f"targets a video: {task.task_type} batch {task.batch_size}",
        "ms",
        partial(plain_targets, points.tolist(), batch, classes, aware),
        [
            Variant(
                "float32",
                partial(make_targets, points, batch.segments, batch.labels, classes, aware),
                compute_error,
                1e-5,
            )
        ],
        items=len(batch.clips),
    )


def build_loader_case(settings: BenchmarkSettings, task: TaskSpec) -> BenchmarkCase:
    """One epoch of training batches from a cold start; the plain baseline loads in the main process."""
    pack, config = settings.folder / "pack.h5", settings.config
    videos = write_pack(pack, task, settings.loader_videos, config.model.input_dims)
    task = task.model_copy(update={"dataset": task.dataset.model_copy(update={"feat_folder": str(pack)})})
    dataset = ClipDataset(videos, open_features(task, config), task, config.run.seed)
    no_workers = config.model_copy(update={"loader": config.loader.model_copy(update={"num_workers": 0})})

    def load_epoch(config: Config) -> Batch:
        """Return the last batch."""
        stream = TrainStream(dataset, config, settings.device)
        return [stream.next() for _ in range(stream.batches_per_pass)][-1]

    get = attrgetter("visual", "audio", "segments")
    return BenchmarkCase(
        f"one epoch of loading: {task.task_type}, {config.loader.num_workers} workers, float16 HDF5 pack",
        "videos/s",
        partial(load_epoch, no_workers),
        [Variant("float32", partial(load_epoch, config), lambda a, b: relative_error(get(a), get(b)), 0.0)],
        items=len(videos) // task.batch_size * task.batch_size,
        more_is_better=True,
    )


def write_pack(path: Path, task: TaskSpec, count: int, dims: tuple[int, int]) -> list[Video]:
    """Write a float16 pack of random features. Returns its videos, which are around max_seq_len windows long."""
    rng, videos, spec = np.random.default_rng(0), [], task.dataset
    lengths = rng.integers(round(0.75 * spec.max_seq_len), round(1.25 * spec.max_seq_len) + 1, count)
    with h5py.File(path, "w") as pack:
        for i, length in enumerate(lengths):
            for modality, dim in zip(MODALITIES, dims, strict=True):
                pack[f"{modality}/v{i}"] = rng.standard_normal((length, dim), np.float32).astype(np.float16)
            duration = float((length - 1) * spec.feat_stride + spec.num_frames) / FPS
            segments, labels = np.array([[0.2, 0.7]]) * duration, rng.integers(spec.num_classes, size=1)
            videos.append(Video(f"v{i}", "train", duration, FPS, segments, labels))
    return videos

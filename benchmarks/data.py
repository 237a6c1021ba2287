"""Random batches for the network, targets, and the loader."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import torch

from benchmarks.case import BenchmarkCase, Measured, Setting, Variant
from benchmarks.error_measures import relative_error
from benchmarks.plain.training import PlainTargets, dense_offsets, point_targets
from libs.core.config import Config, TaskSpec
from libs.core.types import MODALITIES, Batch, Clip, Targets, Video
from libs.datasets.annotations import Annotations
from libs.datasets.clips import ClipDataset
from libs.datasets.loaders import TrainStream, build_dataset, collate
from libs.datasets.task_data import TaskData
from libs.modeling.points import make_points, make_targets

EVENTS = 2.0  # mean number of a video's events beyond the first
PUBLISHED_TARGETS_MS = 7.2  # a video of AVEL


class NoClips:
    """Stands for a task's training clips where batches are given."""

    def __init__(self, task: TaskSpec):
        self.task = task

    def __len__(self) -> int:
        return self.task.batch_size


def task_data_without_clips(task: TaskSpec, seen: list[int] | None = None) -> TaskData:
    """Stand in for a task's data in a Trainer that is given its batches."""
    clips = cast(ClipDataset, NoClips(task))
    return TaskData(task, Annotations(Path(), (), {}), [], seen, clips, clips, clips)


def random_batch(config: Config, task: TaskSpec, videos: int, device: torch.device, cropped: bool) -> Batch:
    """Clips of the task's max_seq_len with a few events each. cropped: a bit shorter, as training's crops are (an
    upsampled task's clips are all of one length in evaluation)."""
    generator = torch.Generator().manual_seed(0)
    longest, items = task.dataset.max_seq_len, []
    for i in range(videos):
        shorter = cropped or not task.dataset.force_upsampling
        shortest = round(0.9 * longest) if shorter else longest
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        count = 1 + int(torch.poisson(torch.tensor(EVENTS), generator=generator))
        start = torch.rand(count, generator=generator) * 0.8 * length
        segments = torch.stack([start, start + torch.rand(count, generator=generator) * (length - start)], dim=1)
        labels = torch.randint(task.dataset.num_classes, (count,), generator=generator)
        stride, frames, fps = float(task.dataset.feat_stride), float(task.dataset.num_frames), 16.0
        clip = Clip(f"video{i}", (length * stride + frames) / fps, fps, stride, frames, segments, labels)
        dims = config.model.input_dim_visual, config.model.input_dim_audio
        items.append((clip, *(torch.randn(length, dim, generator=generator) for dim in dims)))
    return collate(items, longest, config.model.coarsest_stride).to(device)


def cases(setting: Setting) -> dict[str, Callable[[], BenchmarkCase]]:
    tasks = list(setting.config.tasks.values())
    aware = next(task for task in tasks if task.dataset.class_aware)
    return {
        f"targets-{aware.task_type}": partial(targets_case, setting, aware),
        f"loader-{tasks[0].task_type}": partial(loader_case, setting, tasks[0]),
    }


def targets_case(setting: Setting, task: TaskSpec) -> BenchmarkCase:
    batch = random_batch(setting.config, task, task.batch_size, setting.device, cropped=True)
    points, _ = make_points(setting.config.model, batch.mask.shape[1])
    points = points.to(setting.device)
    rows, classes, aware = points.tolist(), task.dataset.num_classes, task.dataset.class_aware
    events = [(clip.segments.tolist(), clip.labels.tolist()) for clip in batch.clips]

    def plain() -> PlainTargets:
        found = zip(*(point_targets(rows, *event, classes, aware) for event in events), strict=True)
        return PlainTargets(*(torch.from_numpy(np.stack(column)) for column in found))

    def error(expected: PlainTargets, found: Targets) -> float:
        offsets = dense_offsets(found, expected.offsets.shape[2])
        return max(relative_error([expected.classes], [found.classes]), relative_error([expected.offsets], [offsets]))

    fast = partial(make_targets, points, batch.segments, batch.labels, classes, aware)
    title = f"targets a video: {task.task_type} batch {task.batch_size}"
    return BenchmarkCase(
        title, "ms", plain, [Variant("float32", fast, error, 1e-5)], PUBLISHED_TARGETS_MS, per=len(batch.clips)
    )


def write_pack(path: Path, task: TaskSpec, count: int, dims: tuple[int, int]) -> list[Video]:
    """A float16 pack of random features and the videos that it holds, around max_seq_len windows long."""
    rng = np.random.default_rng(0)
    videos = []
    with h5py.File(path, "w") as pack:
        for i in range(count):
            longest = task.dataset.max_seq_len
            length = int(rng.integers(round(0.75 * longest), round(1.25 * longest) + 1))
            for modality, dim in zip(MODALITIES, dims, strict=True):
                pack[f"{modality}/v{i}"] = rng.standard_normal((length, dim), np.float32).astype(np.float16)
            duration = ((length - 1) * task.dataset.feat_stride + task.dataset.num_frames) / 16
            segments, labels = np.array([[0.2, 0.7]]) * duration, rng.integers(task.dataset.num_classes, size=1)
            videos.append(Video(f"v{i}", "train", duration, 16.0, segments, labels))
    return videos


def loader_case(setting: Setting, task: TaskSpec) -> BenchmarkCase:
    """One epoch of training batches from a cold start. The plain way loads in the main process."""
    folder = tempfile.TemporaryDirectory()
    pack = Path(folder.name) / "pack.h5"
    dims = setting.config.model.input_dim_visual, setting.config.model.input_dim_audio
    videos = write_pack(pack, task, setting.sizes.loader_videos, dims)
    task = task.model_copy(update={"dataset": task.dataset.model_copy(update={"feat_folder": str(pack)})})
    dataset = build_dataset(videos, task, setting.config)
    loader = setting.config.loader
    alone = setting.config.model_copy(update={"loader": loader.model_copy(update={"num_workers": 0})})
    return BenchmarkCase(
        f"one epoch of loading: {task.task_type}, {loader.num_workers} workers, float16 HDF5 pack",
        "videos/s",
        partial(epoch_of_loading, dataset, alone, setting.device),
        [Variant("float32", partial(epoch_of_loading, dataset, setting.config, setting.device), _batch_error, 0.0)],
        more_is_better=True,
        close=folder.cleanup,
    )


def epoch_of_loading(dataset: ClipDataset, config: Config, device: torch.device) -> Measured:
    """Videos/s, and the last batch."""
    began = time.perf_counter()
    stream = TrainStream(dataset, config, device)
    for _ in range(stream.batches_per_pass):
        batch = stream.next()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elapsed_s = time.perf_counter() - began
    return Measured(stream.batches_per_pass * dataset.task.batch_size / elapsed_s, batch)


def _batch_error(expected: Batch, found: Batch) -> float:
    return max(relative_error([getattr(expected, k)], [getattr(found, k)]) for k in ("visual", "audio", "segments"))

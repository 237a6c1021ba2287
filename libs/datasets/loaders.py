"""Batches: the endless training stream, evaluation in batches of one padded length."""

import math
from collections.abc import Iterable, Iterator
from functools import partial, reduce

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from libs.core.config import Config, TaskSpec
from libs.core.errors import ConfigError, DataError, UserError
from libs.core.types import Batch, Video
from libs.datasets.clips import ClipDataset, Item
from libs.features.sources import open_features


def build_dataset(videos: list[Video], task: TaskSpec, config: Config) -> ClipDataset:
    return ClipDataset(videos, open_features(task, config), task, config.run.seed)


def padded_length(length: int, max_seq_len: int, stride: int, tight: bool = False) -> int:
    """Windows after padding: max_seq_len if shorter, else the next multiple of the coarsest pyramid stride.

    tight: what is shorter is padded only until one padded position follows on every level, which gives the very same
    result (method.md §4, "A trap").
    """
    if length >= max_seq_len:
        return math.ceil(length / stride) * stride
    return min(max_seq_len, (math.ceil(length / stride) + 1) * stride) if tight else max_seq_len


def collate(items: list[Item], max_seq_len: int, stride: int, tight: bool = False) -> Batch:
    """Pad clips to the longest one's padded length: zeros, masked. Features stay float16 if all of them are."""
    clips = tuple(clip for clip, _, _ in items)
    length = max(padded_length(len(visual), max_seq_len, stride, tight) for _, visual, _ in items)
    mask = torch.zeros(len(items), length, dtype=torch.bool)
    visual, audio = (_zeros_for([item[i] for item in items], length) for i in (1, 2))
    most = max(1, *(len(clip.labels) for clip in clips))
    segments, labels = torch.zeros(len(items), most, 2), torch.full((len(items), most), -1)
    for row, (clip, v, a) in enumerate(items):
        mask[row, : len(v)] = True
        visual[row, : len(v)], audio[row, : len(a)] = v, a
        segments[row, : len(clip.labels)], labels[row, : len(clip.labels)] = clip.segments, clip.labels
    return Batch(visual, audio, mask, segments, labels, clips)


def _zeros_for(features: list[torch.Tensor], length: int) -> torch.Tensor:
    dtype = reduce(torch.promote_types, (x.dtype for x in features))
    shape = len(features), length, features[0].shape[1]
    if get_worker_info() is None:
        return torch.zeros(shape, dtype=dtype)
    # In a loader process: where the training process will read it, which saves a copy. Shared memory begins as zeros.
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


class TrainBatches:
    """Endless batches of (cycle, index) keys: a new permutation each cycle, the last, incomplete batch left out.

    Batch n is a function of (seed, n): a resumed stream starts at `first`. Every rank takes its share of the rows of
    the same whole batch.
    """

    def __init__(self, videos: int, batch_size: int, seed: int, first: int, rank: int, ranks: int):
        self.videos, self.batch_size, self.seed, self.first = videos, batch_size, seed, first
        share = batch_size // ranks
        self.rows = slice(rank * share, (rank + 1) * share)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches = self.videos // self.batch_size
        cycle, batch = divmod(self.first, batches)
        while True:
            order = np.random.default_rng([self.seed, cycle]).permutation(self.videos)
            for first in range(batch * self.batch_size, batches * self.batch_size, self.batch_size):
                yield [(cycle, int(i)) for i in order[first : first + self.batch_size][self.rows]]
            cycle, batch = cycle + 1, 0


class TrainStream:
    """A task's training batches without end, on the device. `num_batches_seen` is its only state."""

    def __init__(
        self, dataset: ClipDataset, config: Config, device: torch.device | str = "cpu", rank: int = 0, ranks: int = 1
    ):
        """Raises ConfigError or DataError when the batch size does not fit the ranks or the number of videos."""
        task = dataset.task
        if task.batch_size % ranks:
            raise ConfigError(
                f"{task.key}.batch_size {task.batch_size} is for all ranks together and must be a multiple of their "
                f"number, {ranks}"
            )
        self.batches_per_pass = len(dataset) // task.batch_size
        if self.batches_per_pass == 0:
            raise DataError(
                f"{task.dataset.json_file}: {len(dataset)} training videos are less than {task.key}.batch_size "
                f"{task.batch_size}; lower it"
            )
        self.num_batches_seen = 0  # a resumed run sets it before the first batch
        self._dataset, self._config, self._rank, self._ranks = dataset, config, rank, ranks
        self._device = torch.device(device)
        self._copies = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._iterator: Iterator[Batch] | None = None
        self._ahead: Batch | None = None

    def next(self) -> Batch:
        """The next batch (this rank's share). Raises DataError if a feature file turns out to be unusable."""
        batch = self._fetch() if self._ahead is None else self._ahead
        self._ahead = None
        self.num_batches_seen += 1
        if self._copies:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._copies)
            batch.record_stream(computing)
        return batch

    def fetch_ahead(self) -> None:
        """On a GPU, begin to copy the next batch there, while it is still busy with this one."""
        if self._copies:
            self._ahead = self._fetch()

    def _fetch(self) -> Batch:
        if self._iterator is None:
            batch_size, seed = self._dataset.task.batch_size, self._config.run.seed
            batches = TrainBatches(len(self._dataset), batch_size, seed, self.num_batches_seen, self._rank, self._ranks)
            self._iterator = iter(_loader(self._dataset, self._config, batches, tight=False))
        with torch.cuda.stream(self._copies):  # no stream, no effect
            return _unwrapped(self._iterator).to(self._device)


class EvalBatches:
    """Evaluation's batches, those of rank `rank` of `ranks`.

    Only videos of one padded length share a batch, so that what stands beside a video does not change its result.
    """

    def __init__(self, dataset: ClipDataset, config: Config, rank: int = 0, ranks: int = 1):
        self.dataset = dataset
        spec, stride = dataset.task.dataset, config.model.coarsest_stride
        # The published quirk squeezes the position table into the padded length, so that must be the published one.
        tight = not config.model.official_pos_embd
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(dataset.lengths):
            length = spec.max_seq_len if spec.force_upsampling else length
            groups.setdefault(padded_length(length, spec.max_seq_len, stride, tight), []).append(index)
        size = config.loader.eval_batch_size
        batches = [group[i : i + size] for _, group in sorted(groups.items()) for i in range(0, len(group), size)]
        self._batches = batches[rank::ranks]
        self._loader = _loader(dataset, config, self._batches, tight)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(self._loader)
        for _ in range(len(self)):
            yield _unwrapped(iterator)


def _loader(dataset: ClipDataset, config: Config, batches: Iterable[list], tight: bool) -> DataLoader:
    max_seq_len, stride = dataset.task.dataset.max_seq_len, config.model.coarsest_stride
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=config.loader.num_workers,
        collate_fn=partial(collate, max_seq_len=max_seq_len, stride=stride, tight=tight),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own: opening a loader must not move the network's random numbers
    )


def _unwrapped(iterator: Iterator[Batch]) -> Batch:
    """The next batch; a loader process's UserError without the traceback that DataLoader wraps it in."""
    try:
        return next(iterator)
    except UserError as error:
        raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None

"""Batches of clips: an endless stream for training, and batches of one padded length for evaluation."""

import math
from collections.abc import Iterable, Iterator
from functools import partial, reduce

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, get_worker_info

from libs.core.config import Config
from libs.core.errors import ConfigError, DataError, UserError
from libs.core.types import Batch
from libs.datasets.clips import ClipDataset, Item


def padded_length(length: int, max_seq_len: int, stride: int, tight: bool = False) -> int:
    """Return the number of windows after padding.

    Args:
        length: T of the clip.
        max_seq_len: shorter clips are padded to it, longer ones to the next multiple of stride.
        stride: of the coarsest pyramid level.
        tight: pad shorter clips only until every level has one padded position, which gives the same result
            (method.md §4).
    """
    if length >= max_seq_len:
        return math.ceil(length / stride) * stride
    return min(max_seq_len, (math.ceil(length / stride) + 1) * stride) if tight else max_seq_len


def collate(items: list[Item], max_seq_len: int, stride: int, tight: bool = False) -> Batch:
    """Pad clips with masked zeros to one length (padded_length). Features stay float16 if all of them are."""
    clips, visual, audio = zip(*items, strict=True)
    lengths = torch.tensor([len(x) for x in visual])
    length = max(padded_length(n, max_seq_len, stride, tight) for n in lengths.tolist())
    mask = torch.arange(length) < lengths[:, None]
    # A row of one segment, dropped again, makes N at least 1.
    segments = pad_sequence([*(clip.segments for clip in clips), torch.zeros(1, 2)], batch_first=True)[:-1]
    labels = pad_sequence([*(clip.labels for clip in clips), torch.zeros(1).long()], True, padding_value=-1)[:-1]
    return Batch(_pad(visual, length), _pad(audio, length), mask, segments, labels, clips)


def _pad(features: tuple[torch.Tensor, ...], length: int) -> torch.Tensor:
    dtype = reduce(torch.promote_types, (x.dtype for x in features))
    shape = len(features), length, features[0].shape[1]
    if get_worker_info() is None:
        padded = torch.zeros(shape, dtype=dtype)
    else:
        # A loader process allocates in shared memory, which saves a copy to the training process. It starts as zeros.
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
        padded = torch.empty(0, dtype=dtype).set_(storage).view(shape)
    for row, x in enumerate(features):
        padded[row, : len(x)] = x
    return padded


class _ClipLoader(DataLoader):
    """Loads batches of clips. A loader process's UserError is raised without DataLoader's traceback in its message."""

    def __init__(self, dataset: ClipDataset, config: Config, batches: Iterable[list], tight: bool):
        max_seq_len, stride = dataset.task.dataset.max_seq_len, config.model.coarsest_stride
        super().__init__(
            dataset,
            batch_sampler=batches,
            num_workers=config.loader.num_workers,
            collate_fn=partial(collate, max_seq_len=max_seq_len, stride=stride, tight=tight),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # so that opening a loader does not change the network's random numbers
        )

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            yield from super().__iter__()
        except UserError as error:
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None


def generate_train_batches(
    num_videos: int, batch_size: int, seed: int, first: int, rank: int, ranks: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield endless batches of (cycle, index) keys: a rank's share of batch first, first + 1, …

    Each cycle is a new permutation without its last, incomplete batch. Batch n is a function of (seed, n), so a
    resumed run continues as if it had not stopped.
    """
    batches, share = num_videos // batch_size, batch_size // ranks
    cycle, start = divmod(first, batches)
    while True:
        order = np.random.default_rng([seed, cycle]).permutation(num_videos)[: batches * batch_size]
        for batch in order.reshape(batches, ranks, share)[start:, rank].tolist():
            yield [(cycle, i) for i in batch]
        cycle, start = cycle + 1, 0


class TrainStream:
    """The endless training batches of a task, on the device. `num_batches_seen` is its only state."""

    def __init__(
        self, dataset: ClipDataset, config: Config, device: torch.device | str = "cpu", rank: int = 0, ranks: int = 1
    ):
        """Raises ConfigError or DataError where the batch size does not fit the ranks or the number of videos."""
        task = dataset.task
        key = f"{task.key}.batch_size {task.batch_size}"
        if task.batch_size % ranks:
            raise ConfigError(f"{key} is for all ranks together and must be a multiple of their number, {ranks}")
        self.batches_per_pass = len(dataset) // task.batch_size
        if self.batches_per_pass == 0:
            raise DataError(f"{task.dataset.json_file}: {len(dataset)} training videos are less than {key}; lower it")
        self.num_batches_seen = 0  # a resumed run sets it before the first batch
        self._dataset, self._config, self._rank, self._ranks = dataset, config, rank, ranks
        self._device = torch.device(device)
        self._copy_stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._iterator: Iterator[Batch] | None = None
        self._prefetched: Batch | None = None

    def next(self) -> Batch:
        """Return this rank's share of the next batch. Raises DataError where a feature file is damaged."""
        batch = self._fetch() if self._prefetched is None else self._prefetched
        self._prefetched = None
        self.num_batches_seen += 1
        if self._copy_stream:
            current_stream = torch.cuda.current_stream(self._device)
            current_stream.wait_stream(self._copy_stream)
            batch.record_stream(current_stream)
        return batch

    def fetch_ahead(self) -> None:
        """On a GPU, start to copy the next batch to it while it works on the current one."""
        if self._copy_stream:
            self._prefetched = self._fetch()

    def _fetch(self) -> Batch:
        if self._iterator is None:
            batch_size, seed = self._dataset.task.batch_size, self._config.run.seed
            batches = generate_train_batches(
                len(self._dataset), batch_size, seed, self.num_batches_seen, self._rank, self._ranks
            )
            self._iterator = iter(_ClipLoader(self._dataset, self._config, batches, tight=False))
        with torch.cuda.stream(self._copy_stream):  # no effect on a CPU, where it is None
            return next(self._iterator).to(self._device)


class EvalBatches(_ClipLoader):
    """The evaluation batches of one rank.

    Only videos of one padded length share a batch, so that a video's result does not depend on the others.
    """

    def __init__(self, dataset: ClipDataset, config: Config, rank: int = 0, ranks: int = 1):
        spec, stride = dataset.task.dataset, config.model.coarsest_stride
        # The published position encoding depends on the padded length, so that must be the published one as well.
        tight = not config.model.official_pos_embd
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(dataset.lengths):
            length = spec.max_seq_len if spec.force_upsampling else length
            groups.setdefault(padded_length(length, spec.max_seq_len, stride, tight), []).append(index)
        size = config.loader.eval_batch_size
        batches = [group[i : i + size] for _, group in sorted(groups.items()) for i in range(0, len(group), size)]
        super().__init__(dataset, config, batches[rank::ranks], tight)

"""Checks of feature files, which read every number.

Shapes: T windows, D the width of a modality.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from libs.core.config import DatasetConfig
from libs.core.errors import DataError, format_list
from libs.core.types import MODALITIES, Video
from libs.datasets.checks.events import TaskVideos
from libs.datasets.checks.findings import Occurrence
from libs.features.sources import Hdf5Pack, NpyFolder, check_shape, common_length
from libs.features.windows import expected_windows

LENGTH_TOLERANCE = 0.1  # of the windows that fit into the video
MIN_TOLERANCE_WINDOWS = 4


@dataclass
class VideoFeatures:
    """What the features of one video contain. Dictionaries are by modality and leave out what cannot be used."""

    video: Video
    occurrences: list[Occurrence] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # path -> SHA-256, of a folder
    hashes: dict[str, str] = field(default_factory=dict)  # of the file, or of the values in a pack
    lengths: dict[str, int] = field(default_factory=dict)  # T
    ranges: dict[str, np.ndarray] = field(default_factory=dict)  # (2, D) minimum and maximum of each channel

    def add(self, check: str, message: str) -> None:
        self.occurrences.append(Occurrence(self.video.subset, check, self.video.video_id, message))


@dataclass
class TaskFeatures:
    """What the features of a task's videos contain."""

    occurrences: list[Occurrence] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # path -> SHA-256, of a folder
    hashes: list[tuple[str, str, str]] = field(default_factory=list)  # (video_id, modality, hash)
    lengths: dict[str, int] = field(default_factory=dict)  # video_id -> T, of videos that have all modalities


def check_features(data: TaskVideos, source: NpyFolder | Hdf5Pack, jobs: int) -> TaskFeatures:
    """Read all features of a task's videos with `jobs` threads and show the progress."""
    videos = [video for videos in data.splits.values() for video in videos]
    parallel = Parallel(jobs, prefer="threads", return_as="generator")
    calls = (delayed(inspect_video)(source, video, data.task.dataset) for video in videos)
    results = cast(Iterable[VideoFeatures], parallel(calls))
    bar = tqdm(results, f"{data.task.key}: reading features", len(videos), leave=False, unit="video", disable=None)
    features = TaskFeatures()
    ranges: dict[tuple[str, str], np.ndarray] = {}
    for result in bar:
        features.occurrences += result.occurrences
        features.files |= result.files
        if result.lengths.keys() == source.dims.keys():
            features.lengths[result.video.video_id] = min(result.lengths.values())
        for modality, (low, high) in result.ranges.items():
            key = result.video.subset, modality
            lowest, highest = ranges.get(key, (low, high))
            ranges[key] = np.stack([np.minimum(lowest, low), np.maximum(highest, high)])
            if (low != high).any():  # many videos share the same silence
                features.hashes.append((result.video.video_id, modality, result.hashes[modality]))
    for (split, modality), (lowest, highest) in ranges.items():
        dead = np.flatnonzero(lowest == highest).tolist()
        if 0 < len(dead) < len(lowest) and len(data.splits[split]) > 1:
            message = f"{len(dead)}: channels {format_list(dead, 5)}"
            features.occurrences.append(Occurrence(split, "dead channels", modality, message))
    return features


def inspect_video(source: NpyFolder | Hdf5Pack, video: Video, config: DatasetConfig) -> VideoFeatures:
    """Read the features of one video and check every number."""
    found = VideoFeatures(video)
    for modality in source.dims:
        try:
            array = _read_modality(source, modality, found)
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # h5py raises all of them on damaged packs
            found.add("features unreadable", f"{modality}: {error}")
            continue
        if array is None:
            continue
        if array.dtype.kind != "f":
            found.add("feature type", f"{modality} {array.dtype}")
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite in training too
            values = array.astype(np.float32, copy=False)
        found.lengths[modality] = len(values)
        found.ranges[modality] = np.stack([values.min(axis=0), values.max(axis=0)])
        for check, message in _check_values(values, *found.ranges[modality]):
            found.add(check, f"{modality}: {message}")
    if found.lengths.keys() == source.dims.keys():
        _check_video_lengths(found, config)
    return found


def _read_modality(source: NpyFolder | Hdf5Pack, modality: str, found: VideoFeatures) -> np.ndarray | None:
    """Read and hash one modality. Adds an occurrence and returns None if it is missing or has the wrong shape."""
    video_id = found.video.video_id
    if isinstance(source, NpyFolder):
        path = source.paths(video_id)[MODALITIES.index(modality)]
        if not path.exists():
            found.add("features missing", path.name)
            return None
        found.files[str(path)] = found.hashes[modality] = hash_file(path)
    elif source.array(modality, video_id) is None:
        found.add("features missing", f"{modality}/{video_id}")
        return None
    shape, width = source.read_shape(modality, video_id), source.dims[modality]
    try:
        check_shape(modality, shape, width)
    except DataError:
        found.add("feature shape", f"{modality} {shape}, expected (T, {width})")
        return None
    array = source.read_rows(modality, video_id, shape[0])
    if isinstance(source, Hdf5Pack):
        found.hashes[modality] = hashlib.sha256(array.tobytes()).hexdigest()
    return array


def _check_values(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> Iterator[tuple[str, str]]:
    """Check one modality, values (T, D), and yield (check, message).

    NaN and Inf pass through minima and maxima, so that low and high (D,) tell whether the values need a closer look.
    """
    if np.isnan(low).any():
        yield "NaN", f"{np.isnan(values).any(axis=1).sum()} of {len(values)} windows"
    if np.isinf(low).any() or np.isinf(high).any():
        yield "Inf", f"{np.isinf(values).any(axis=1).sum()} of {len(values)} windows"
    constant = low == high
    if not low.any() and not high.any():
        yield "all zero", f"{len(values)} windows"
    elif len(values) > 1 and constant.all():
        yield "constant", f"{len(values)} equal windows"
    elif len(values) > 1 and constant.any():
        yield "constant channels", f"{constant.sum()} of {len(low)}"


def _check_video_lengths(found: VideoFeatures, config: DatasetConfig) -> None:
    """Compare the lengths of the modalities with each other and with the duration."""
    lengths = found.lengths
    windows = " and ".join(f"{length} {modality}" for modality, length in lengths.items()) + " windows"
    try:
        length = common_length("", lengths)
    except DataError:
        found.add("audio against visual", windows)
        return
    if len(set(lengths.values())) > 1:
        found.add("lengths apart", windows)
    if message := compare_length(found.video, config, length):
        found.add("length against duration", message)


def compare_length(video: Video, config: DatasetConfig, length: int) -> str | None:
    """Return a message if rounding and padding do not explain the difference between T and the video's duration."""
    expected = expected_windows(video, config)
    if abs(length - expected) <= max(LENGTH_TOLERANCE * expected, MIN_TOLERANCE_WINDOWS):
        return None
    return f"{length} windows, {expected} expected of {video.duration:g} s"


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Checks of feature files, which read every number.

Shapes: T windows, D the width of a modality.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from libs.core.config import DatasetConfig
from libs.core.errors import format_list
from libs.core.types import MODALITIES, Video
from libs.datasets.checks.events import TaskVideos
from libs.datasets.checks.findings import Occurrence
from libs.features.sources import MAX_LENGTH_MISMATCH, Hdf5Pack, NpyFolder
from libs.features.windows import expected_windows

LENGTH_TOLERANCE = 0.1  # of the windows that fit into the video
MIN_TOLERANCE_WINDOWS = 4

Problem = tuple[str, str]  # check and message


@dataclass
class TaskFeatures:
    """What the features of a task's videos, or of one of them, contain."""

    occurrences: list[Occurrence] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # path -> SHA-256, of a folder
    hashes: list[tuple[str, str, str]] = field(default_factory=list)  # (video_id, modality, of the file or the values)
    lengths: dict[str, int] = field(default_factory=dict)  # video_id -> T, of videos that have all modalities
    ranges: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # (split, modality) -> (2, D) least, most


def check_features(data: TaskVideos, source: NpyFolder | Hdf5Pack, jobs: int) -> TaskFeatures:
    """Read all features of a task's videos with `jobs` threads and show the progress."""
    calls = (delayed(inspect_video)(source, video, data.task.dataset) for video in data.videos)
    results: Iterable[TaskFeatures] = Parallel(jobs, prefer="threads", return_as="generator")(calls)  # pyright: ignore
    features, title = TaskFeatures(), f"{data.task.key}: reading features"
    for found in tqdm(results, title, len(data.videos), leave=False, unit="video", disable=None):
        features.occurrences += found.occurrences
        features.files |= found.files
        features.hashes += found.hashes
        features.lengths |= found.lengths
        for key, (low, high) in found.ranges.items():
            lowest, highest = features.ranges.get(key, (low, high))
            features.ranges[key] = np.stack([np.minimum(lowest, low), np.maximum(highest, high)])
    for (split, modality), (lowest, highest) in features.ranges.items():
        dead = np.flatnonzero(lowest == highest).tolist()
        if 0 < len(dead) < len(lowest) and data.num_videos[split] > 1:
            message = f"{len(dead)}: channels {format_list(dead, 5)}"
            features.occurrences.append(Occurrence(split, "dead channels", modality, message))
    return features


def inspect_video(source: NpyFolder | Hdf5Pack, video: Video, config: DatasetConfig) -> TaskFeatures:
    """Read the features of one video and check every number."""
    found, lengths, problems = TaskFeatures(), {}, []
    for modality, width in source.dims.items():
        try:
            array, digest = _read_modality(source, modality, video.video_id, found.files)
            with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite in training too
                values = array.astype(np.float32, copy=False)
        # Damaged files and packs raise all of them.
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
            check = "features missing" if isinstance(error, FileNotFoundError) else "features unreadable"
            problems.append((check, f"{modality}: {error}"))
            continue
        if array.shape[1:] != (width,) or not len(array):
            problems.append(("feature shape", f"{modality}: {array.shape}, expected (T, {width})"))
            continue
        low, high = limits = np.stack([values.min(axis=0), values.max(axis=0)])
        lengths[modality], found.ranges[video.subset, modality] = len(values), limits
        if (low != high).any():  # many videos share the same silence
            found.hashes.append((video.video_id, modality, digest))
        problems += [(check, f"{modality}: {message}") for check, message in _check_values(values, limits, array.dtype)]
    if lengths.keys() == source.dims.keys():
        found.lengths[video.video_id] = min(lengths.values())
        problems += _check_lengths(lengths, video, config)
    found.occurrences = [Occurrence(video.subset, check, video.video_id, message) for check, message in problems]
    return found


def _read_modality(source: NpyFolder | Hdf5Pack, modality: str, video_id: str, files: dict) -> tuple[np.ndarray, str]:
    """Read one modality once. Returns its values and hash, and adds the hash of a file, readable or not, to `files`."""
    if isinstance(source, NpyFolder):
        path = source.paths(video_id)[MODALITIES.index(modality)]
        if not path.exists():
            raise FileNotFoundError(path.name)
        data = path.read_bytes()
        files[str(path)] = digest = hashlib.sha256(data).hexdigest()
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    else:
        dataset = source.array(modality, video_id)
        if dataset is None:
            raise FileNotFoundError(f"{modality}/{video_id}")
        array = dataset[()]
        digest = hashlib.sha256(array.tobytes()).hexdigest()
    return array, digest


def _check_values(values: np.ndarray, limits: np.ndarray, dtype: np.dtype) -> Iterator[Problem]:
    """Check one modality, values (T, D) that are stored as `dtype`.

    NaN and Inf pass through minima and maxima, so that limits (2, D) tell whether the values need a closer look.
    """
    if dtype.kind != "f":
        yield "feature type", str(dtype)
    for check, is_bad in (("NaN", np.isnan), ("Inf", np.isinf)):
        if is_bad(limits).any():
            yield check, f"{is_bad(values).any(axis=1).sum()} of {len(values)} windows"
    constant = limits[0] == limits[1]
    if not limits.any():
        yield "all zero", f"{len(values)} windows"
    elif len(values) > 1 and constant.all():
        yield "constant", f"{len(values)} equal windows"
    elif len(values) > 1 and constant.any():
        yield "constant channels", f"{constant.sum()} of {len(constant)}"


def _check_lengths(lengths: dict[str, int], video: Video, config: DatasetConfig) -> Iterator[Problem]:
    """Compare the lengths of the modalities with each other and with the duration."""
    shortest, longest = min(lengths.values()), max(lengths.values())
    windows = " and ".join(f"{length} {modality}" for modality, length in lengths.items()) + " windows"
    if longest - shortest > MAX_LENGTH_MISMATCH * longest:
        yield "audio against visual", windows
        return
    if longest > shortest:
        yield "lengths apart", windows
    yield from check_length(shortest, video, config)


def check_length(length: int, video: Video, config: DatasetConfig) -> Iterator[Problem]:
    """Check that rounding and padding explain the difference between T and the video's duration."""
    expected = expected_windows(video, config)
    if abs(length - expected) > max(LENGTH_TOLERANCE * expected, MIN_TOLERANCE_WINDOWS):
        yield "length against duration", f"{length} windows, {expected} expected of {video.duration:g} s"


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, which may be larger than memory, but not empty."""
    return hashlib.sha256(np.memmap(path, np.uint8, "r").data).hexdigest()

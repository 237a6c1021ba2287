"""Checks of feature files: every number is read once. D the width of a modality."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from libs.core.config import DatasetConfig, TaskSpec
from libs.core.errors import DataError, format_list
from libs.core.files import read_npy_header
from libs.core.types import MODALITIES, Video
from libs.datasets.checks.findings import Finding, Occurrence, found
from libs.features.sources import Hdf5Pack, NpyFolder, check_shape, common_length
from libs.features.windows import expected_windows

LENGTH_TOLERANCE = 0.1  # of the windows that a duration makes,
WINDOWS_TOLERANCE = 4  # and at least so many may be more or fewer


class Stream(NamedTuple):
    """One modality's features of a video, or why there are none."""

    where: str
    sha256: str = ""  # of the file, in a pack of the numbers
    array: np.ndarray | None = None
    problem: tuple[str, str] | None = None  # check, what was found


class Examined(NamedTuple):
    """What is known of a video once its features have been read. low, high: {modality: (D,)} least and greatest."""

    video: Video
    length: int | None  # windows that both modalities have
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    sha256: dict[str, tuple[str, str]]  # modality -> place, hash
    problems: list[tuple[str, str]]  # check, what was found


@dataclass
class SplitFeatures:
    """What a split's videos add up to."""

    lengths: dict[str, int] = field(default_factory=dict)  # video_id -> T
    hashes: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))  # -> video_ids
    files: dict[str, str] = field(default_factory=dict)  # file -> SHA-256, of a folder


def read_streams(source: NpyFolder | Hdf5Pack, video_id: str) -> Iterator[Stream]:
    """Of the wanted modalities. What cannot be read is a Stream with a problem, whatever it is."""
    reader = _read_npy if isinstance(source, NpyFolder) else _read_packed
    for modality in source.dims:
        try:
            yield reader(source, video_id, modality)
        except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
            yield Stream("", problem=("features unreadable", f"{modality}: {error}"))


def _read_npy(source: NpyFolder, video_id: str, modality: str) -> Stream:
    path = source.paths(video_id)[MODALITIES.index(modality)]
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Stream(str(path), problem=("features missing", path.name))
    digest = hashlib.sha256(data).hexdigest()
    try:
        read_npy_header(path, "features (T, width)")
    except DataError as error:
        return Stream(str(path), digest, problem=("features unreadable", str(error)))
    return Stream(str(path), digest, np.load(io.BytesIO(data), allow_pickle=False))


def _read_packed(source: Hdf5Pack, video_id: str, modality: str) -> Stream:
    where = f"{source.path}: {modality}/{video_id}"
    array = source.array(modality, video_id)
    if array is None:
        return Stream(where, problem=("features missing", f"{modality}/{video_id}"))
    if array.dtype.kind not in "fiu":
        return Stream(where, problem=("features unreadable", f"{modality} holds {array.dtype}, expected numbers"))
    values = array[()]
    digest = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data.cast("B") if values.size else b"")
    return Stream(where, digest.hexdigest(), values)


def examine(source: NpyFolder | Hdf5Pack, video: Video, config: DatasetConfig) -> Examined:
    """Read the wanted modalities of a video and look at every number."""
    problems: list[tuple[str, str]] = []
    low, high, hashes, lengths = {}, {}, {}, {}
    for (modality, dim), stream in zip(source.dims.items(), read_streams(source, video.video_id), strict=True):
        if stream.problem:
            problems.append(stream.problem)
        if stream.sha256:
            hashes[modality] = (stream.where, stream.sha256)
        if stream.array is None:
            continue
        try:
            check_shape(modality, stream.array.shape, dim)
        except DataError:
            problems.append(("feature shape", f"{modality} {stream.array.shape}, expected (T, {dim})"))
            continue
        lengths[modality] = len(stream.array)
        if stream.array.dtype.kind != "f":
            problems.append(("feature type", f"{modality} {stream.array.dtype}"))
        # As training reads them: a float64 beyond float32's range is infinite there.
        with np.errstate(over="ignore"):
            values = stream.array.astype(np.float32, copy=False)
        low[modality], high[modality] = values.min(axis=0), values.max(axis=0)
        problems += [(check, f"{modality}{said}") for check, said in _oddities(values, low[modality], high[modality])]
    length = min(lengths.values()) if len(lengths) == len(source.dims) else None
    if length is not None:
        problems += _length_problems(video, config, lengths)
    return Examined(video, length, low, high, hashes, problems)


def _oddities(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> Iterator[tuple[str, str]]:
    """Of one modality (T, D). NaN passes through minima and maxima, so those (D,) tell whether to look closer."""
    if np.isnan(low).any():
        yield "NaN", f": {int(np.isnan(values).any(axis=1).sum())} of {len(values)} windows"
    if np.isinf(low).any() or np.isinf(high).any():
        yield "Inf", f": {int(np.isinf(values).any(axis=1).sum())} of {len(values)} windows"
    still = low == high
    if not low.any() and not high.any():
        yield "all zero", f": {len(values)} windows"
    elif len(values) > 1 and still.all():
        yield "constant", f": {len(values)} equal windows"
    elif len(values) > 1 and still.any():
        yield "constant channels", f": {int(still.sum())} of {len(low)}"


def _length_problems(video: Video, config: DatasetConfig, lengths: dict[str, int]) -> Iterator[tuple[str, str]]:
    windows = " and ".join(f"{length} {modality}" for modality, length in lengths.items()) + " windows"
    try:
        length = common_length("", lengths)
    except DataError:
        yield "audio against visual", windows
        return
    if len(set(lengths.values())) > 1:
        yield "lengths apart", windows
    if problem := length_problem(video, config, length):
        yield "length against duration", problem


def length_problem(video: Video, config: DatasetConfig, length: int) -> str | None:
    """What is wrong with T, if it is further from what the duration makes than rounding and padding explain."""
    expected = expected_windows(video, config)
    if abs(length - expected) <= max(LENGTH_TOLERANCE * expected, WINDOWS_TOLERANCE):
        return None
    return f"{length} windows, {expected} expected of {video.duration:g} s"


def check_lengths(task: TaskSpec, split: str, videos: list[Video], lengths: list[int]) -> Iterator[Finding]:
    """T against durations, for what has no features to read or only their headers read."""
    problems = ((video, length_problem(video, task.dataset, n)) for video, n in zip(videos, lengths, strict=True))
    cases = [Occurrence(video.video_id, said) for video, said in problems if said]
    yield from found(task.key, split, "length against duration", cases, len(videos))


def check_features(
    task: TaskSpec,
    split: str,
    videos: list[Video],
    source: NpyFolder | Hdf5Pack,
    pool: ThreadPoolExecutor,
    step: Callable[[], object],
) -> tuple[list[Finding], SplitFeatures]:
    """Examine a split's videos in the pool's threads; `step` is called after each."""
    result, cases = SplitFeatures(), defaultdict(list)
    low: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    for seen in pool.map(lambda video: examine(source, video, task.dataset), videos):
        name = seen.video.video_id
        for check, said in seen.problems:
            cases[check].append(Occurrence(name, said))
        if seen.length is not None:
            result.lengths[name] = seen.length
        for modality, (where, digest) in seen.sha256.items():
            if modality in seen.low and (seen.low[modality] != seen.high[modality]).any():
                result.hashes[modality, digest].append(name)  # silence of one length is the same in many videos
            if isinstance(source, NpyFolder):
                result.files[where] = digest
        for modality in seen.low:
            low[modality] = np.minimum(low.get(modality, np.inf), seen.low[modality])
            high[modality] = np.maximum(high.get(modality, -np.inf), seen.high[modality])
        step()
    findings = [f for check, of_check in cases.items() for f in found(task.key, split, check, of_check, len(videos))]
    if len(videos) > 1:
        findings += _dead_channels(task, split, low, high)
    return findings, result


def _dead_channels(task: TaskSpec, split: str, low: dict, high: dict) -> Iterator[Finding]:
    for modality in low:
        dead = np.flatnonzero(low[modality] == high[modality])
        if 0 < len(dead) < len(low[modality]):
            yield from found(
                task.key,
                split,
                "dead channels",
                [Occurrence(modality, f"{len(dead)}: channels {format_list(dead.tolist(), 5)}")],
            )


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

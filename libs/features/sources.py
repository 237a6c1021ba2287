"""Where features come from: a folder of .npy files or an HDF5 pack (planted ones: planted.py).

Shapes: T windows, Dv and Da the widths of visual and audio features.
"""

import os
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from libs.core.config import Config, DatasetConfig, TaskSpec
from libs.core.errors import DataError, format_list
from libs.core.files import read_npy_header
from libs.core.prompts import load_prompts
from libs.core.types import MODALITIES, PACK_SUFFIXES, Features, Video
from libs.features.planted import PlantedSource

MAX_LENGTH_MISMATCH = 0.1  # of the longer one; what audio and visual may differ by


class FeatureSource(Protocol):
    def lengths(self, videos: list[Video]) -> list[int]:
        """T of each video, without reading its features; checks that they are there and of the right shape.

        Raises DataError; for missing features with their number and the first few names.
        """

    def load(self, video: Video) -> Features:
        """The features of one video, both cut to the shorter of the two."""


class NpyFolder:
    """The published layout: {prefix}{video_id}{suffix}.npy, one file a video and modality."""

    def __init__(self, config: DatasetConfig, dims: tuple[int, int]):
        """dims: widths of visual and audio features; one of width 0 is neither looked for nor loaded."""
        self.folder, self.prefix, self.dims = Path(config.feat_folder), config.file_prefix or "", _wanted(dims)
        self.suffixes = (config.visual_suffix, config.audio_suffix)
        if not self.folder.is_dir():
            raise DataError(
                f"{self.folder}: no such feature folder; put the .npy files there, or set feat_folder to a folder, a "
                "pack (.h5) or the word planted"
            )

    def paths(self, video_id: str) -> tuple[Path, Path]:
        """The visual and the audio file."""
        visual, audio = (self.folder / f"{self.prefix}{video_id}{suffix}.npy" for suffix in self.suffixes)
        return visual, audio

    def _files(self, video_id: str) -> dict[str, Path]:
        """Of the wanted modalities."""
        paths = dict(zip(MODALITIES, self.paths(video_id), strict=True))
        return {modality: paths[modality] for modality in self.dims}

    def lengths(self, videos: list[Video]) -> list[int]:
        present = {path.name for path in self.folder.iterdir()}
        wanted = [path.name for video in videos for path in self._files(video.video_id).values()]
        _refuse_missing(self.folder, [name for name in wanted if name not in present], len(wanted), "feature files")
        return [self._length(video.video_id) for video in videos]

    def _length(self, video_id: str) -> int:
        lengths = {}
        for modality, path in self._files(video_id).items():
            shape = read_npy_header(path, "features (T, width)").shape
            check_shape(str(path), shape, self.dims[modality])
            lengths[modality] = shape[0]
        return common_length(f"{self.folder}: video {video_id}", lengths)

    def load(self, video: Video) -> Features:
        length = self._length(video.video_id)
        files = self._files(video.video_id).items()
        return Features.from_arrays({modality: np.load(path, allow_pickle=False)[:length] for modality, path in files}, length)


class Hdf5Pack:
    """One file with a data set visual/<video_id> and audio/<video_id> a video, as tools/pack_features.py writes."""

    def __init__(self, path: str | Path, dims: tuple[int, int]):
        """dims: as NpyFolder's."""
        self.path, self.dims = Path(path), _wanted(dims)
        self._file: h5py.File | None = None
        self._pid = 0
        self._open()

    def _open(self) -> h5py.File:
        """The file, opened anew in every process: HDF5 handles do not survive a fork."""
        if self._file is None or self._pid != os.getpid():
            try:
                self._file, self._pid = h5py.File(self.path, "r"), os.getpid()
            except FileNotFoundError:
                raise DataError(f"{self.path}: no such feature pack; make it with tools/pack_features.py") from None
            except OSError as error:
                raise DataError(f"{self.path}: not a readable HDF5 pack ({error}); pack the features again") from None
        return self._file

    def array(self, modality: str, video_id: str) -> h5py.Dataset | None:
        """The data set of a video, None where it is missing."""
        found = self._open().get(f"{modality}/{video_id}")
        return found if isinstance(found, h5py.Dataset) else None

    def _arrays(self, video_id: str) -> dict[str, h5py.Dataset]:
        """The wanted data sets of a video that are there."""
        found = {modality: self.array(modality, video_id) for modality in self.dims}
        return {modality: array for modality, array in found.items() if array is not None}

    def lengths(self, videos: list[Video]) -> list[int]:
        missing = [video.video_id for video in videos if len(self._arrays(video.video_id)) < len(self.dims)]
        _refuse_missing(self.path, missing, len(videos), "videos")
        return [self._length(video.video_id) for video in videos]

    def _length(self, video_id: str) -> int:
        arrays = self._arrays(video_id)
        for modality, array in arrays.items():
            check_shape(f"{self.path}: {array.name}", array.shape, self.dims[modality])
            if array.dtype.kind not in "fiu":
                raise DataError(f"{self.path}: {array.name}: holds {array.dtype}, expected numbers")
        return common_length(f"{self.path}: video {video_id}", {m: len(array) for m, array in arrays.items()})

    def load(self, video: Video) -> Features:
        length = self._length(video.video_id)
        try:
            arrays = {modality: array[:length] for modality, array in self._arrays(video.video_id).items()}
        except OSError as error:
            raise DataError(f"{self.path}: video {video.video_id}: {error}; pack the features again") from None
        return Features.from_arrays(arrays, length)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}


def _wanted(dims: tuple[int, int]) -> dict[str, int]:
    return {modality: dim for modality, dim in zip(MODALITIES, dims, strict=True) if dim}


def _refuse_missing(place: Path, missing: list[str], wanted: int, what: str) -> None:
    if missing:
        raise DataError(
            f"{place}: {len(missing)} of {wanted} {what} missing: {format_list(missing)}; add them or correct feat_folder"
        )


def check_shape(where: str, shape: tuple[int, ...], dim: int) -> None:
    """Raise DataError unless the shape is (T, dim), T at least 1."""
    if len(shape) != 2 or shape[0] == 0 or shape[1] != dim:
        raise DataError(
            f"{where}: features of shape {shape}, expected (T, {dim}); set model.input_dim_visual and "
            "model.input_dim_audio to the features' widths"
        )


def common_length(where: str, lengths: dict[str, int]) -> int:
    """The windows that all modalities have. Raises DataError where they are too far apart (method.md §2)."""
    least, most = min(lengths.values()), max(lengths.values())
    if most - least > MAX_LENGTH_MISMATCH * most:
        windows = " and ".join(f"{length} {modality}" for modality, length in lengths.items())
        raise DataError(f"{where}: {windows} windows, more than 10 % apart; extract them with one stride")
    return least


def open_features(task: TaskSpec, config: Config) -> FeatureSource:
    """The task's feature source, as feat_folder says: `planted`, an HDF5 pack, or a folder of .npy files."""
    dims = config.model.input_dims
    folder = task.dataset.feat_folder
    if folder == "planted":
        return PlantedSource(task, load_prompts(task, config.model.text_dim), dims)
    return Hdf5Pack(folder, dims) if folder.endswith(PACK_SUFFIXES) else NpyFolder(task.dataset, dims)

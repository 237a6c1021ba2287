"""Read features: a folder of .npy files or an HDF5 pack (features made on the fly: planted.py).

Shapes: T windows, Dv and Da the widths of visual and audio features.
"""

import os
from collections.abc import Mapping
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

MAX_LENGTH_MISMATCH = 0.1  # of the longer modality


class FeatureSource(Protocol):
    def lengths(self, videos: list[Video]) -> list[int]:
        """Return T of each video without reading its features.

        Raises:
            DataError: features are missing (with their number and first names) or have the wrong shape.
        """
        ...

    def load(self, video: Video) -> Features:
        """Load the features of one video, both modalities cut to the shorter one."""
        ...


class _FeatureFiles:
    """What both layouts share: `path` is the folder or the pack, `dims` the width of each wanted modality."""

    def __init__(self, path: Path, dims: tuple[int, int]):
        self.path = path
        self.dims = {modality: dim for modality, dim in zip(MODALITIES, dims, strict=True) if dim}

    def video_ids(self) -> list[str]:
        """List the videos that have all modalities, sorted."""
        raise NotImplementedError

    def read_shape(self, modality: str, video_id: str) -> tuple[int, ...]:
        raise NotImplementedError

    def read_rows(self, modality: str, video_id: str, length: int) -> np.ndarray:
        """Read the first `length` rows of one modality."""
        raise NotImplementedError

    def load(self, video: Video) -> Features:
        return self.read(video.video_id)

    def read(self, video_id: str) -> Features:
        """Read the features of one video, both modalities cut to the shorter one."""
        length = self.read_length(video_id)
        arrays = {modality: self.read_rows(modality, video_id, length) for modality in self.dims}
        return Features.from_arrays(arrays, length)

    def read_length(self, video_id: str) -> int:
        """Return T of one video. Raises DataError where features are missing or do not fit."""
        lengths = {}
        for modality, dim in self.dims.items():
            shape = self.read_shape(modality, video_id)
            check_shape(f"{self.path}: {modality} features of {video_id}", shape, dim)
            lengths[modality] = shape[0]
        return common_length(f"{self.path}: video {video_id}", lengths)

    def _check_missing(self, missing: list[str], total: int, kind: str) -> None:
        if missing:
            message = f"{len(missing)} of {total} {kind} missing: {format_list(missing)}"
            raise DataError(f"{self.path}: {message}; add them or correct feat_folder")


class NpyFolder(_FeatureFiles):
    """A folder in the published layout: {prefix}{video_id}{suffix}.npy, one file per video and modality."""

    def __init__(self, folder: Path, dims: tuple[int, int], prefix: str, suffixes: tuple[str, str]):
        super().__init__(folder, dims)
        self.prefix, self.suffixes = prefix, suffixes  # suffixes of visual and audio files
        if not folder.is_dir():
            raise DataError(f"{folder}: no such feature folder; set feat_folder to a folder, a pack (.h5) or planted")

    @classmethod
    def from_config(cls, config: DatasetConfig, dims: tuple[int, int]) -> "NpyFolder":
        suffixes = (config.visual_suffix, config.audio_suffix)
        return cls(Path(config.feat_folder), dims, config.file_prefix or "", suffixes)

    def paths(self, video_id: str) -> tuple[Path, Path]:
        """Return the visual and the audio file of a video."""
        visual, audio = (self.path / f"{self.prefix}{video_id}{suffix}.npy" for suffix in self.suffixes)
        return visual, audio

    def video_ids(self) -> list[str]:
        names = {path.name for path in self.path.iterdir()}
        candidates = {name.removeprefix(self.prefix).removesuffix(f"{self.suffixes[0]}.npy") for name in names}
        return sorted(i for i in candidates if all(path.name in names for path in self.paths(i)))

    def lengths(self, videos: list[Video]) -> list[int]:
        present = {path.name for path in self.path.iterdir()}
        wanted = [self._file(modality, video.video_id).name for video in videos for modality in self.dims]
        self._check_missing([name for name in wanted if name not in present], len(wanted), "feature files")
        return [self.read_length(video.video_id) for video in videos]

    def read_shape(self, modality: str, video_id: str) -> tuple[int, ...]:
        return read_npy_header(self._file(modality, video_id), "features (T, width)").shape

    def read_rows(self, modality: str, video_id: str, length: int) -> np.ndarray:
        return np.load(self._file(modality, video_id), allow_pickle=False)[:length]

    def _file(self, modality: str, video_id: str) -> Path:
        return self.paths(video_id)[MODALITIES.index(modality)]


class Hdf5Pack(_FeatureFiles):
    """One HDF5 file with a data set visual/<video_id> and audio/<video_id> per video."""

    def __init__(self, path: str | Path, dims: tuple[int, int]):
        super().__init__(Path(path), dims)
        self._file: h5py.File | None = None
        self._pid = 0
        self._open()

    def _open(self) -> h5py.File:
        """Return the file, opened once per process: HDF5 handles do not survive a fork."""
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = open_pack(self.path), os.getpid()
        return self._file

    def array(self, modality: str, video_id: str) -> h5py.Dataset | None:
        """Return the data set of a video, None where it is missing."""
        return packed_arrays(self._open(), modality).get(video_id)

    def video_ids(self) -> list[str]:
        return sorted(set.intersection(*(set(packed_arrays(self._open(), modality)) for modality in self.dims)))

    def lengths(self, videos: list[Video]) -> list[int]:
        ids = [video.video_id for video in videos]
        missing = [i for i in ids if any(self.array(modality, i) is None for modality in self.dims)]
        self._check_missing(missing, len(ids), "videos")
        return [self.read_length(i) for i in ids]

    def read_shape(self, modality: str, video_id: str) -> tuple[int, ...]:
        array = self.array(modality, video_id)
        if array is None:
            raise DataError(f"{self.path}: no {modality} features of {video_id}; extract them")
        if array.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: {array.name}: holds {array.dtype}, expected numbers")
        return array.shape

    def read_rows(self, modality: str, video_id: str, length: int) -> np.ndarray:
        try:
            return packed_arrays(self._open(), modality)[video_id][:length]
        except OSError as error:
            raise DataError(f"{self.path}: video {video_id}: {error}; pack the features again") from None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}


def is_pack(place: str | Path) -> bool:
    """Tell whether a path names an HDF5 pack rather than a folder."""
    return str(place).endswith(PACK_SUFFIXES)


def open_pack(path: Path) -> h5py.File:
    """Open a pack for reading. Raises DataError where it is missing or damaged."""
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise DataError(f"{path}: no such feature pack; make it with tools/pack_features.py") from None
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 pack ({error}); remove it and make it again") from None


def packed_arrays(pack: h5py.File, modality: str) -> Mapping[str, h5py.Dataset]:
    """Return a modality's data sets by video id."""
    group = pack.get(modality)
    return group if isinstance(group, h5py.Group) else {}  # pyright: ignore[reportReturnType] a Group is a Mapping


def check_shape(where: str, shape: tuple[int, ...], dim: int) -> None:
    """Raise DataError unless the shape is (T, dim) with T at least 1."""
    if len(shape) != 2 or shape[0] == 0 or shape[1] != dim:
        widths = "model.input_dim_visual and model.input_dim_audio"
        raise DataError(f"{where}: shape {shape}, expected (T, {dim}); set {widths} to the features' widths")


def common_length(where: str, lengths: dict[str, int]) -> int:
    """Return the number of windows that all modalities have (method.md §2).

    Raises:
        DataError: the modalities' lengths differ by more than 10 %.
    """
    shortest, longest = min(lengths.values()), max(lengths.values())
    if longest - shortest > MAX_LENGTH_MISMATCH * longest:
        windows = " and ".join(f"{length} {modality}" for modality, length in lengths.items())
        raise DataError(f"{where}: {windows} windows, more than 10 % apart; extract them again with one stride")
    return shortest


def open_feature_files(config: DatasetConfig, dims: tuple[int, int]) -> NpyFolder | Hdf5Pack:
    """Open a data set's pack or folder.

    Args:
        dims: widths of visual and audio features; 0 for a modality that is not wanted.

    Raises:
        DataError: the folder or pack is missing, or the pack is damaged.
    """
    if is_pack(config.feat_folder):
        return Hdf5Pack(config.feat_folder, dims)
    return NpyFolder.from_config(config, dims)


def open_features(task: TaskSpec, config: Config) -> FeatureSource:
    """Open the features that a task's feat_folder names: `planted`, an HDF5 pack, or a folder of .npy files."""
    dims = config.model.input_dims
    if task.dataset.feat_folder == "planted":
        return PlantedSource(task, load_prompts(task, config.model.text_dim), dims)
    return open_feature_files(task.dataset, dims)

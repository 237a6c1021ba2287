"""Read features: a folder of .npy files or an HDF5 pack (features made on the fly: planted.py).

Shapes: T windows, Dv and Da the widths of visual and audio features.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from libs.core.config import Config, DatasetConfig, TaskSpec
from libs.core.errors import DataError, format_list
from libs.core.files import read_npy
from libs.core.prompts import load_prompts
from libs.core.types import MODALITIES, PACK_SUFFIXES, Features, Video
from libs.features.planted import PlantedSource

MAX_LENGTH_MISMATCH = 0.1  # of the longer modality


class _FeatureFiles:
    """What both layouts share.

    Attributes:
        path: the folder or the pack.
        dims: the width of each wanted modality.
        affixes: by modality, what stands before and after a video's id in the name of its features.
    """

    def __init__(self, path: Path, dims: tuple[int, int], affixes: dict[str, tuple[str, str]]):
        self.path, self.affixes = path, affixes
        self.dims = {modality: dim for modality, dim in zip(MODALITIES, dims, strict=True) if dim}

    def list_names(self) -> set[str]:
        """List the names of all stored features."""
        raise NotImplementedError

    def has(self, modality: str, video_id: str) -> bool:
        raise NotImplementedError

    def read_shape(self, modality: str, video_id: str) -> tuple[int, ...]:
        raise NotImplementedError

    def read_array(self, modality: str, video_id: str) -> np.ndarray:
        """Read all of one modality, of any shape. Raises DataError where it is missing or damaged."""
        raise NotImplementedError

    def name(self, modality: str, video_id: str) -> str:
        before, after = self.affixes[modality]
        return f"{before}{video_id}{after}"

    def video_ids(self) -> list[str]:
        """List the videos that have all wanted modalities, sorted."""
        names, (before, after) = self.list_names(), self.affixes[next(iter(self.dims))]
        candidates = {name.removeprefix(before).removesuffix(after) for name in names}
        return sorted(i for i in candidates if all(self.name(modality, i) in names for modality in self.dims))

    def lengths(self, videos: list[Video]) -> list[int]:
        """Return T of each video without reading its features.

        Raises:
            DataError: features are missing (with their number and first names) or have the wrong shape.
        """
        wanted = [(modality, video.video_id) for video in videos for modality in self.dims]
        if missing := [self.name(*features) for features in wanted if not self.has(*features)]:
            message = f"{len(missing)} of {len(wanted)} features missing: {format_list(missing)}"
            raise DataError(f"{self.path}: {message}; add them or correct feat_folder")
        shapes = ({modality: self.read_shape(modality, v.video_id) for modality in self.dims} for v in videos)
        return [self._check_shapes(v.video_id, shape) for v, shape in zip(videos, shapes, strict=True)]

    def load(self, video: Video) -> Features:
        return self.read(video.video_id)

    def read(self, video_id: str) -> Features:
        """Read the features of one video, both modalities cut to the shorter one."""
        arrays = {modality: self.read_array(modality, video_id) for modality in self.dims}
        length = self._check_shapes(video_id, {modality: array.shape for modality, array in arrays.items()})
        return Features.from_arrays({modality: array[:length] for modality, array in arrays.items()}, length)

    def _check_shapes(self, video_id: str, shapes: dict[str, tuple[int, ...]]) -> int:
        """Return T, the number of windows that all modalities have (method.md §2).

        Raises:
            DataError: the network expects another width, or the modalities' lengths differ by more than 10 %.
        """
        for modality, shape in shapes.items():
            if len(shape) != 2 or shape[0] == 0 or shape[1] != self.dims[modality]:
                expected = f"expected (T, {self.dims[modality]})"
                remedy = "set model.input_dim_visual and model.input_dim_audio to the features' widths"
                raise DataError(f"{self.path}: {modality} features of {video_id}: shape {shape}, {expected}; {remedy}")
        lengths = [shape[0] for shape in shapes.values()]
        shortest, longest = min(lengths), max(lengths)
        if longest - shortest > MAX_LENGTH_MISMATCH * longest:
            windows = " and ".join(f"{shape[0]} {modality}" for modality, shape in shapes.items())
            remedy = "extract them again with one stride"
            raise DataError(f"{self.path}: video {video_id}: {windows} windows, more than 10 % apart; {remedy}")
        return shortest


class NpyFolder(_FeatureFiles):
    """A folder in the published layout: {prefix}{video_id}{suffix}.npy, one file per video and modality."""

    def __init__(self, folder: Path, dims: tuple[int, int], prefix: str, suffixes: tuple[str, str]):
        affixes = {m: (prefix, f"{suffix}.npy") for m, suffix in zip(MODALITIES, suffixes, strict=True)}
        super().__init__(folder, dims, affixes)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such feature folder; set feat_folder to a folder, a pack (.h5) or planted")

    def list_names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()}

    def paths(self, video_id: str) -> tuple[Path, Path]:
        """Return the visual and the audio file of a video."""
        visual, audio = (self.path / self.name(modality, video_id) for modality in MODALITIES)
        return visual, audio

    def has(self, modality: str, video_id: str) -> bool:
        return (self.path / self.name(modality, video_id)).exists()

    def read_shape(self, modality: str, video_id: str) -> tuple[int, ...]:
        return read_npy(self.path / self.name(modality, video_id), "features (T, width)", mapped=True).shape

    def read_array(self, modality: str, video_id: str) -> np.ndarray:
        return read_npy(self.path / self.name(modality, video_id), "features (T, width)")


class Hdf5Pack(_FeatureFiles):
    """One HDF5 file with a data set visual/<video_id> and audio/<video_id> per video."""

    def __init__(self, path: Path, dims: tuple[int, int]):
        super().__init__(path, dims, {modality: (f"{modality}/", "") for modality in MODALITIES})
        self._file: h5py.File | None = None
        self._pid = 0
        self._open()

    def _open(self) -> h5py.File:
        """Return the file, opened once per process: HDF5 handles do not survive a fork."""
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = open_pack(self.path), os.getpid()
        return self._file

    def list_names(self) -> set[str]:
        return {self.name(modality, i) for modality in self.dims for i in packed_arrays(self._open(), modality)}

    def array(self, modality: str, video_id: str) -> h5py.Dataset | None:
        """Return the data set of a video, None where it is missing."""
        return packed_arrays(self._open(), modality).get(video_id)

    def has(self, modality: str, video_id: str) -> bool:
        return self.array(modality, video_id) is not None

    def read_shape(self, modality: str, video_id: str) -> tuple[int, ...]:
        return self._find(modality, video_id).shape

    def read_array(self, modality: str, video_id: str) -> np.ndarray:
        try:
            return self._find(modality, video_id)[()]
        except OSError as error:
            raise DataError(f"{self.path}: video {video_id}: {error}; pack the features again") from None

    def _find(self, modality: str, video_id: str) -> h5py.Dataset:
        array = self.array(modality, video_id)
        if array is None:
            raise DataError(f"{self.path}: no {modality} features of {video_id}; extract them")
        return array

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": None}


def is_pack(place: str | Path) -> bool:
    """Tell whether a path names an HDF5 pack rather than a folder."""
    return str(place).endswith(PACK_SUFFIXES)


def open_pack(path: Path) -> h5py.File:
    """Open a pack for reading. Raises DataError where it is missing or damaged."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        problem = "no such feature pack" if isinstance(error, FileNotFoundError) else f"not a readable pack ({error})"
        raise DataError(f"{path}: {problem}; make it with tools/pack_features.py") from None


def packed_arrays(pack: h5py.File, modality: str) -> Mapping[str, h5py.Dataset]:
    """Return a modality's data sets by video id."""
    group = pack.get(modality)
    return group if isinstance(group, h5py.Group) else {}  # pyright: ignore[reportReturnType] a Group is a Mapping


def open_feature_files(config: DatasetConfig, dims: tuple[int, int]) -> NpyFolder | Hdf5Pack:
    """Open a data set's pack or folder.

    Args:
        dims: widths of visual and audio features; 0 for a modality that is not wanted.

    Raises:
        DataError: the folder or pack is missing, or the pack is damaged.
    """
    place = Path(config.feat_folder)
    if is_pack(place):
        return Hdf5Pack(place, dims)
    return NpyFolder(place, dims, config.file_prefix or "", (config.visual_suffix, config.audio_suffix))


FeatureSource = PlantedSource | NpyFolder | Hdf5Pack


def open_features(task: TaskSpec, config: Config) -> FeatureSource:
    """Open the features that a task's feat_folder names: `planted`, an HDF5 pack, or a folder of .npy files."""
    dims = config.model.input_dims
    if task.dataset.feat_folder == "planted":
        return PlantedSource(task, load_prompts(task, config.model.text_dim), dims)
    return open_feature_files(task.dataset, dims)

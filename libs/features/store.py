"""Write extracted features to a folder or an HDF5 pack with their provenance, and read them back.

A file gets its final name only when it is complete.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from libs.core.errors import DataError, UserError
from libs.core.files import make_folder, read_npy, replacing
from libs.core.types import Features
from libs.features.provenance import PROVENANCE_FILE, FeatureProvenance, read_provenance
from libs.features.sources import NpyFolder, is_pack, packed_arrays

RESERVATION_BYTES = 64 * 2**20  # reserved at a time, then flushed; a killed process loses no more
VIDEO_OVERHEAD_BYTES, FILE_OVERHEAD_BYTES = 4096, 65_536  # more than HDF5 writes besides the features


class StoredFeatures(NamedTuple):
    """Features of one video: visual (T, Dv), audio (T, Da), and the stride of their windows in frames."""

    visual: np.ndarray
    audio: np.ndarray
    stride: int


class FeatureStore:
    """Features that extract.py wrote, for reading: a folder of .npy files or a pack."""

    def __init__(self, place: Path):
        """Raises UserError where there are no features of known provenance."""
        names = [field.name for field in fields(FeatureProvenance)]
        found = read_provenance(place) if place.exists() else None
        if found is None or not found.keys() >= set(names):
            raise UserError(f"{place}: no features of known provenance; make them with extract.py")
        self.place, self.provenance = place, FeatureProvenance(**{name: found[name] for name in names})
        self._source = self.provenance.open(place)

    def names(self) -> list[str]:
        """List the videos, sorted. Raises UserError where there are none."""
        if names := self._source.video_ids():
            return names
        raise UserError(f"{self.place}: holds no features; make some with extract.py")

    def read(self, name: str) -> StoredFeatures:
        """Read one video. Raises UserError where its features are missing, damaged or not finite."""
        features = self._source.read(name)
        if not all(np.isfinite(values).all() for values in features):
            raise UserError(f"{self.place}: {name} has features that are NaN or infinite; extract them again")
        return StoredFeatures(*features, self.provenance.stride)


class NpyStore:
    """A folder in the published layout, float16, with encoder.json."""

    def __init__(self, folder: Path, provenance: FeatureProvenance):
        self.folder, self.provenance = folder, provenance
        visual, audio = suffixes = provenance.visual_suffix, provenance.audio_suffix
        for part in (provenance.prefix, *suffixes):
            if "/" in part:
                raise UserError(f"{part!r}: a prefix or suffix of file names, expected no /")
        if visual == audio:
            raise UserError(f"{visual!r}: visual and audio features would get the same file name")
        make_folder(folder)
        record = folder / PROVENANCE_FILE
        if record.exists() or any(path.stem.endswith(suffixes) and path.suffix == ".npy" for path in folder.iterdir()):
            provenance.check_same(folder)
        else:
            with replacing(record) as temporary:
                temporary.write_text(json.dumps(asdict(provenance), indent=1) + "\n", encoding="utf-8")
        self.files = NpyFolder(folder, (provenance.visual_dim, provenance.audio_dim), provenance.prefix, suffixes)

    def has(self, name: str) -> bool:
        return all(path.exists() for path in self.files.paths(name))

    def write(self, name: str, visual: np.ndarray, audio: np.ndarray) -> None:
        for path, features in zip(self.files.paths(name), (visual, audio), strict=True):
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, _to_half(features))

    def finish(self) -> None:
        """Nothing is left to do for a folder."""


class PackStore(NpyStore):
    """An HDF5 pack. Features gather in OUT.h5.parts and are added together at the end.

    So an interrupted extraction continues, and several processes can extract at a time.
    """

    def __init__(self, path: Path, provenance: FeatureProvenance):
        self.path, self.packed = path, set()
        if path.exists():
            provenance.check_same(path)
            self.packed = set(provenance.open(path).video_ids())
        super().__init__(path.with_name(f"{path.name}.parts"), provenance)

    def has(self, name: str) -> bool:
        return name in self.packed or super().has(name)

    def finish(self) -> None:
        """Add the parts to a copy of the pack, which then replaces it."""
        with _locked(self.path.parent):
            if not self.folder.exists():  # another process has added everything
                return
            names = self.files.video_ids()
            if names:
                with replacing(self.path) as temporary:
                    if self.path.exists():
                        shutil.copyfile(self.path, temporary)
                    self._add_parts(temporary, names)
            for path in (path for name in names for path in self.files.paths(name)):
                path.unlink()
            with suppress(OSError):  # another process is extracting into it
                if all(path.name == PROVENANCE_FILE for path in self.folder.iterdir()):
                    (self.folder / PROVENANCE_FILE).unlink(missing_ok=True)
                    self.folder.rmdir()

    def _add_parts(self, pack: Path, names: list[str]) -> None:
        parts = {name: self.files.paths(name) for name in names}
        with open_pack_writer(pack, asdict(self.provenance)) as writer:
            writer.expect(sum(path.stat().st_size + VIDEO_OVERHEAD_BYTES for paths in parts.values() for path in paths))
            for name, paths in parts.items():
                writer.add(name, Features(*(read_npy(path, "features (T, width)") for path in paths)))


Store = NpyStore | PackStore


def open_store(out: Path, provenance: FeatureProvenance) -> Store:
    """Open a pack for writing where `out` ends in .h5 or .hdf5, else a folder.

    Raises:
        UserError: it cannot be written to, or holds features of another provenance.
    """
    return PackStore(out, provenance) if is_pack(out) else NpyStore(out, provenance)


class PackWriter:
    """Adds videos to an unfinished HDF5 pack.

    HDF5 crashes on a full disk, quota or file size limit and leaves a file that it cannot read, so space is reserved
    before it is written to. A video is marked `whole` once both modalities are there.
    """

    def __init__(self, pack: h5py.File):
        self.pack, self.path = pack, Path(pack.filename)
        self.expected_bytes = self._reserved_bytes = 0

    def whole_videos(self) -> set[str]:
        """Return the videos that an interrupted process has added completely."""
        return {name for name, array in packed_arrays(self.pack, "visual").items() if array.attrs.get("whole")}

    def expect(self, num_bytes: int) -> None:
        """Check that the disk has room for all that will be added. Raises DataError where it has not."""
        self.expected_bytes = num_bytes
        free_bytes = shutil.disk_usage(self.path.parent).free
        if num_bytes > free_bytes:
            raise self._full_disk_error(num_bytes, f"{free_bytes / 1e6:.1f} MB are free")

    def add(self, video_id: str, features: Features) -> None:
        """Add one video. Raises DataError on a full disk."""
        needed_bytes = features.visual.nbytes + features.audio.nbytes + VIDEO_OVERHEAD_BYTES
        if needed_bytes > self._reserved_bytes:
            self._reserve(max(needed_bytes, min(self.expected_bytes, RESERVATION_BYTES)))
        self._reserved_bytes -= needed_bytes
        self.expected_bytes -= needed_bytes
        for modality, values in features._asdict().items():
            self.pack.require_group(modality).pop(video_id, None)
            self.pack[f"{modality}/{video_id}"] = values
        self.pack[f"visual/{video_id}"].attrs["whole"] = True

    def _reserve(self, num_bytes: int) -> None:
        self.pack.flush()
        self._reserved_bytes = num_bytes
        if not hasattr(os, "posix_fallocate"):  # macOS
            return
        size = self.pack.id.get_filesize()
        with self.path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size + num_bytes + FILE_OVERHEAD_BYTES)
            except OSError as error:
                file.truncate(size)
                if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):  # else the file system cannot reserve
                    raise self._full_disk_error(num_bytes, os.strerror(error.errno)) from None

    def _full_disk_error(self, num_bytes: int, reason: str) -> DataError:
        needed = f"needs {num_bytes / 1e6:.1f} MB more ({reason})"
        return DataError(f"{self.path}: {needed}; free space and call again, or choose another place")


@contextmanager
def open_pack_writer(path: Path, attributes: Mapping, made_of: str | None = None) -> Iterator[PackWriter]:
    """Open an unfinished pack for writing; no other process can open it meanwhile.

    Args:
        path: of the unfinished file; the caller renames it when everything has been added.
        attributes: the pack's attributes.
        made_of: what the features come from. An interrupted pack of the same is continued; one of something else, or a
            damaged one, is overwritten. None continues any pack.

    Raises:
        DataError: the file cannot be written, is in use, or turns out to be damaged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pack = _open_unfinished(path, made_of)
    except OSError as error:
        if "unable to lock" in str(error):
            raise DataError(f"{path}: another process is packing here; wait for it, or choose another name") from None
        raise DataError(f"{path}: cannot be written ({error}); choose another place") from None
    try:
        with pack:
            pack.attrs.update(attributes if made_of is None else {**attributes, "made_of": made_of})
            yield PackWriter(pack)
            pack.flush()
            size = pack.id.get_filesize()
    except (RuntimeError, KeyError) as error:  # raised by HDF5
        raise DataError(f"{path}: damaged ({error}); remove it and call again") from None
    os.truncate(path, size)  # drop what was reserved and not needed


def _open_unfinished(path: Path, made_of: str | None) -> h5py.File:
    try:
        pack = h5py.File(path, "a")
        if made_of is None or not len(pack) or pack.attrs.get("made_of") == made_of:
            return pack
        pack.close()
    except (OSError, RuntimeError, KeyError) as error:
        if made_of is None or "unable to lock" in str(error):
            raise
    return h5py.File(path, "w")


def _to_half(features: np.ndarray) -> np.ndarray:
    """Halve the size: float16 is precise enough, except for numbers beyond its range."""
    return features.astype(np.float16) if np.abs(features).max(initial=0) <= np.finfo(np.float16).max else features


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time pass."""
    import fcntl  # not on Windows, where training, which imports this package, works without it

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

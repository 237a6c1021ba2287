"""Write features to a folder or an HDF5 pack. A file gets its final name only when it is complete."""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np

from libs.core.errors import DataError, UserError
from libs.core.files import make_folder, replacing
from libs.core.types import Features
from libs.features.provenance import PROVENANCE_FILE, FeatureProvenance
from libs.features.sources import NpyFolder, is_pack, packed_arrays

OVERHEAD_BYTES = 2**20  # more than HDF5 writes for a video besides its features


class FeatureStore:
    """Where extract.py writes features, as float16: a folder in the published layout with encoder.json, or a pack.

    Features for a pack OUT.h5 gather in the folder OUT.h5.parts until `finish` adds them together. So an interrupted
    extraction continues, and several processes can extract at a time.
    """

    def __init__(self, out: Path, provenance: FeatureProvenance):
        """Raises UserError where `out` cannot be written to, or holds features of another provenance."""
        self.out, self.provenance = out, provenance
        self.packed: set[str] = set()
        folder = out.with_name(f"{out.name}.parts") if is_pack(out) else out
        if is_pack(out) and out.exists():
            provenance.check_same(out)
            self.packed = set(provenance.open(out).video_ids())
        suffixes = (provenance.visual_suffix, provenance.audio_suffix)
        if any("/" in part for part in (provenance.prefix, *suffixes)):
            raise UserError(f"prefix {provenance.prefix!r} and suffixes {suffixes} of file names: expected no /")
        if suffixes[0] == suffixes[1]:
            raise UserError(f"{suffixes[0]!r}: visual and audio features would get the same file name")
        make_folder(folder)
        self.files = NpyFolder(folder, (provenance.visual_dim, provenance.audio_dim), provenance.prefix, suffixes)
        record = folder / PROVENANCE_FILE
        if record.exists() or any(path.name.endswith(tuple(f"{s}.npy" for s in suffixes)) for path in folder.iterdir()):
            provenance.check_same(folder)
        else:
            with replacing(record) as temporary:
                temporary.write_text(json.dumps(asdict(provenance), indent=1) + "\n", encoding="utf-8")

    def has(self, name: str) -> bool:
        return name in self.packed or all(path.exists() for path in self.files.paths(name))

    def write(self, name: str, visual: np.ndarray, audio: np.ndarray) -> None:
        for path, features in zip(self.files.paths(name), (visual, audio), strict=True):
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, _to_half(features))

    def finish(self) -> None:
        """Add the parts to a copy of the pack, which then replaces it. Nothing is left to do for a folder."""
        if not is_pack(self.out):
            return
        with _locked(self.out.parent):
            if not self.files.path.exists():  # another process has added everything
                return
            parts = {name: self.files.paths(name) for name in self.files.video_ids()}
            paths = [path for pair in parts.values() for path in pair]
            if parts:
                with replacing(self.out) as temporary:
                    if self.out.exists():
                        shutil.copyfile(self.out, temporary)
                    with open_pack_writer(temporary, asdict(self.provenance)) as writer:
                        writer.check_free_space(sum(path.stat().st_size for path in paths))
                        for name in parts:
                            writer.add(name, self.files.read(name))
            for path in paths:
                path.unlink()
            with suppress(OSError):  # another process is extracting into it
                if all(path.name == PROVENANCE_FILE for path in self.files.path.iterdir()):
                    (self.files.path / PROVENANCE_FILE).unlink(missing_ok=True)
                    self.files.path.rmdir()


class PackWriter:
    """Adds videos to an unfinished HDF5 pack.

    HDF5 crashes on a full disk, quota or file size limit and leaves a file that it cannot read, so space is reserved
    before each video is written. A video is then marked by an attribute of its visual data set, `whole`, which no
    reader needs: it tells a later process that both modalities are there.
    """

    def __init__(self, pack: h5py.File):
        self.pack, self.path = pack, Path(pack.filename)

    def whole_videos(self) -> set[str]:
        """Return the videos that an interrupted process has added completely."""
        return {name for name, array in packed_arrays(self.pack, "visual").items() if array.attrs.get("whole")}

    def check_free_space(self, num_bytes: int) -> None:
        """Raise DataError where the disk has no room for all that will be added."""
        free_bytes = shutil.disk_usage(self.path.parent).free
        if num_bytes > free_bytes:
            raise self._full_disk_error(num_bytes, f"{free_bytes / 1e6:.1f} MB are free")

    def add(self, video_id: str, features: Features) -> None:
        """Add one video. Raises DataError on a full disk."""
        self._reserve(features.visual.nbytes + features.audio.nbytes + OVERHEAD_BYTES)
        for modality, values in features._asdict().items():
            self.pack.require_group(modality).pop(video_id, None)
            self.pack[f"{modality}/{video_id}"] = values
        self.pack[f"visual/{video_id}"].attrs["whole"] = True
        self.pack.flush()

    def _reserve(self, num_bytes: int) -> None:
        if not hasattr(os, "posix_fallocate"):  # macOS
            return
        size = self.pack.id.get_filesize()
        with self.path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size + num_bytes)
            except OSError as error:
                file.truncate(size)
                if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):  # else the file system cannot reserve
                    raise self._full_disk_error(num_bytes, os.strerror(error.errno)) from None

    def _full_disk_error(self, num_bytes: int, reason: str) -> DataError:
        needed = f"needs {num_bytes / 1e6:.1f} MB more ({reason})"
        return DataError(f"{self.path}: {needed}; free space and call again, or choose another place")


@contextmanager
def open_pack_writer(path: Path, attributes: Mapping) -> Iterator[PackWriter]:
    """Open an unfinished pack for writing; no other process can open it meanwhile.

    Args:
        path: of the unfinished file; the caller renames it when everything has been added.
        attributes: the pack's attributes, which say what the features are. A pack that has them is continued; one of
            something else, or a damaged one, is overwritten.

    Raises:
        DataError: the file cannot be written, is in use, or turns out to be damaged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pack = _open_unfinished(path, attributes)
    except OSError as error:
        reason = f"cannot be written, or another process is packing here ({error})"
        raise DataError(f"{path}: {reason}; wait for it, or choose another place") from None
    try:
        with pack:
            pack.attrs.update(attributes)
            yield PackWriter(pack)
            pack.flush()
            size = pack.id.get_filesize()
    except (RuntimeError, KeyError) as error:  # raised by HDF5
        raise DataError(f"{path}: damaged ({error}); remove it and call again") from None
    os.truncate(path, size)  # drop what was reserved and not needed


def _open_unfinished(path: Path, attributes: Mapping) -> h5py.File:
    try:
        pack = h5py.File(path, "a")
        if all(pack.attrs.get(key) == value for key, value in attributes.items()):
            return pack
        pack.close()
    except (OSError, RuntimeError, KeyError) as error:
        if "unable to lock" in str(error):
            raise
    return h5py.File(path, "w")


def _to_half(features: np.ndarray) -> np.ndarray:
    """Halve the size: float16 is precise enough, except for numbers beyond its range."""
    return features.astype(np.float16) if np.abs(features).max(initial=0) <= np.finfo(np.float16).max else features


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time pass."""
    import fcntl  # not on Windows, where packing works without it

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

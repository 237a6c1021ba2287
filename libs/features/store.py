"""Where extracted features go: a folder in the published layout, or an HDF5 pack; both as libs/features/sources.py
reads them, and both saying which encoder and windows made them, so that no others mix in.

Nothing half-written is ever taken as done: files take their names when they are whole.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from libs.core.errors import UserError
from libs.core.files import make_folder, read_npy, replacing
from libs.core.types import MODALITIES, PACK_SUFFIXES
from libs.features.provenance import PROVENANCE_FILE, FeatureProvenance, open_pack, read_provenance

MAX_FLOAT16 = 65504.0


class Stored(NamedTuple):
    """Features that extract.py made of one video: visual (T, Dv), audio (T, Da), and how many frames apart."""

    visual: np.ndarray
    audio: np.ndarray
    stride: int


class FeatureStore:
    """What extract.py wrote, for reading: a folder of .npy files or a pack."""

    def __init__(self, place: Path):
        """Raises UserError where there are no features, or none that say what made them."""
        self.place, found = place, read_provenance(place) if place.exists() else None
        if found is None or not found.keys() >= FeatureProvenance.__dataclass_fields__.keys():
            raise UserError(f"{place}: no features that say what made them; make them with extract.py")
        self.provenance = FeatureProvenance(**{key: found[key] for key in FeatureProvenance.__dataclass_fields__})

    def names(self) -> list[str]:
        """Raises UserError where there are none."""
        in_pack = self.place.suffix in PACK_SUFFIXES
        names = _packed(self.place) if in_pack else _names_in(self.place, self.provenance)
        if not names:
            raise UserError(f"{self.place}: holds no features; make some with extract.py")
        return sorted(names)

    def read(self, name: str) -> Stored:
        """Raises UserError where a video's features are missing, damaged, not finite, or differ in length."""
        if self.place.suffix in PACK_SUFFIXES:
            if name not in _packed(self.place):
                raise UserError(f"{self.place}: no features of {name}; extract them")
            with open_pack(self.place) as pack:
                visual, audio = (pack[modality][name][()] for modality in MODALITIES)
        else:
            paths = _paths(self.place, self.provenance, name)
            visual, audio = (read_npy(path, "features (T, width)") for path in paths)
        if visual.ndim != 2 or audio.ndim != 2 or len(visual) != len(audio) or len(visual) == 0:
            raise UserError(f"{self.place}: {name} has features {visual.shape} and {audio.shape}; extract them again")
        if not (np.isfinite(visual).all() and np.isfinite(audio).all()):
            raise UserError(f"{self.place}: {name} has features that are NaN or infinite; extract them again")
        return Stored(visual, audio, int(self.provenance.stride))


def _packed(path: Path) -> frozenset[str]:
    with open_pack(path) as pack:
        return frozenset(pack["visual"]) & frozenset(pack["audio"])


def _paths(folder: Path, provenance: FeatureProvenance, name: str) -> tuple[Path, Path]:
    """The visual and the audio file."""
    suffixes = (provenance.visual_suffix, provenance.audio_suffix)
    visual, audio = (folder / f"{provenance.prefix}{name}{suffix}.npy" for suffix in suffixes)
    return visual, audio


def _names_in(folder: Path, provenance: FeatureProvenance) -> list[str]:
    """Of all videos of which both files are there."""
    end = f"{provenance.visual_suffix}.npy"
    found = (path.name for path in folder.glob(f"*{glob_safe(end)}"))
    names = (name[len(provenance.prefix) : -len(end)] for name in found if name.startswith(provenance.prefix))
    return sorted(name for name in names if all(path.exists() for path in _paths(folder, provenance, name)))


class NpyStore:
    """The published layout: {prefix}{name}{suffix}.npy in float16, and encoder.json."""

    def __init__(self, folder: Path, provenance: FeatureProvenance):
        self.folder, self.provenance = folder, provenance
        suffixes = (provenance.visual_suffix, provenance.audio_suffix)
        for part in (provenance.prefix, *suffixes):
            if "/" in part or "\0" in part:
                raise UserError(f"{part!r}: a prefix or suffix of file names, expected no /")
        if suffixes[0] == suffixes[1]:
            raise UserError(f"{suffixes[0]!r}: visual and audio features would get the same file name")
        make_folder(folder)
        note = folder / PROVENANCE_FILE
        if note.exists() or any(next(folder.glob(f"*{glob_safe(suffix)}.npy"), None) for suffix in suffixes):
            provenance.check_same(folder)
        else:
            with replacing(note) as temporary:
                temporary.write_text(json.dumps(asdict(provenance), indent=1) + "\n", encoding="utf-8")

    def paths(self, name: str) -> tuple[Path, Path]:
        return _paths(self.folder, self.provenance, name)

    def has(self, name: str) -> bool:
        return all(path.exists() for path in self.paths(name))

    def write(self, name: str, visual: np.ndarray, audio: np.ndarray) -> None:
        for path, features in zip(self.paths(name), (visual, audio), strict=True):
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, _halved(features))

    def names(self) -> list[str]:
        """All that is there, whole."""
        return _names_in(self.folder, self.provenance)

    def finish(self) -> None:
        pass


class PackStore:
    """One HDF5 file, visual/<name> and audio/<name>. Features gather in OUT.h5.parts and are added all at once at the
    end: an interrupted run goes on, several processes do not disturb each other."""

    def __init__(self, path: Path, provenance: FeatureProvenance):
        self.path, self.provenance = path, provenance
        self.packed = self._packed()
        self.parts = NpyStore(path.with_name(f"{path.name}.parts"), provenance)

    def _packed(self) -> frozenset[str]:
        """The names in the pack; empty where there is none yet. Raises UserError where something else made it."""
        if not self.path.exists():
            return frozenset()
        self.provenance.check_same(self.path)
        return _packed(self.path)

    def has(self, name: str) -> bool:
        return name in self.packed or self.parts.has(name)

    def write(self, name: str, visual: np.ndarray, audio: np.ndarray) -> None:
        self.parts.write(name, visual, audio)

    def finish(self) -> None:
        """Add the parts to a copy of the pack, which then takes its place."""
        with _locked(self.path.parent):
            if names := self.parts.names():
                with replacing(self.path) as temporary:
                    if self.path.exists():
                        shutil.copyfile(self.path, temporary)
                    self._add(temporary, names)
            for name in names:
                for path in self.parts.paths(name):
                    path.unlink(missing_ok=True)
            with suppress(OSError):  # another process has put something into it meanwhile
                if [path.name for path in self.parts.folder.iterdir()] == [PROVENANCE_FILE]:
                    (self.parts.folder / PROVENANCE_FILE).unlink()
                    self.parts.folder.rmdir()

    def _add(self, path: Path, names: list[str]) -> None:
        with h5py.File(path, "a") as pack:
            pack.attrs.update(asdict(self.provenance))
            for name in names:
                for modality, part in zip(MODALITIES, self.parts.paths(name), strict=True):
                    group = pack.require_group(modality)
                    if name not in group:
                        group[name] = read_npy(part, "features (T, width)")


Store = NpyStore | PackStore


def open_store(out: Path, provenance: FeatureProvenance) -> Store:
    """A pack where `out` ends in .h5 or .hdf5 (its names have no prefix), else a folder. Raises UserError where it
    cannot be written to, or holds the features of another encoder or of other windows."""
    return PackStore(out, provenance) if out.suffix in PACK_SUFFIXES else NpyStore(out, provenance)


def glob_safe(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _halved(features: np.ndarray) -> np.ndarray:
    """float16, half the size and precise enough, unless numbers are too large for it."""
    small = np.abs(features).max(initial=0) <= MAX_FLOAT16
    return features.astype(np.float16) if small else features


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time."""
    import fcntl  # not on Windows, where training, which reads what made its features, works without it

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

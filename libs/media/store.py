"""Where extracted features go: a folder in the published layout, or an HDF5 pack; both as libs/datasets/features.py
reads them, and both saying which encoder and windows made them, so that no others mix in.

Nothing half-written is ever taken as done: files take their names when they are whole.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from libs.core.errors import UserError
from libs.core.files import make_folder, replacing
from libs.core.npy import read_array
from libs.core.types import MODALITIES, PACK_SUFFIXES
from libs.media.windows import FRAME_RATE_HZ, WINDOW_FRAMES

MADE_BY = "encoder.json"
SUFFIXES = ("_one_peace_video_finetune", "_one_peace_audio")  # the published layout's, whatever the encoder
MAX_FLOAT16 = 65504.0


@dataclass(frozen=True)
class MadeBy:
    """What made the features: only equal ones go together."""

    encoder: str
    visual_dim: int
    audio_dim: int
    stride: int
    num_frames: int = WINDOW_FRAMES
    fps: int = FRAME_RATE_HZ
    streams: str = "best"  # of the files
    prefix: str = ""  # of a folder's file names
    visual_suffix: str = SUFFIXES[0]
    audio_suffix: str = SUFFIXES[1]

    def refuse_other(self, place: Path) -> None:
        """Raises UserError unless what lies in a place says that the same made it."""
        found, mine = read_made_by(place), asdict(self)
        if found is None:
            raise UserError(f"{place}: holds features that do not say what made them; choose another --out")
        if other := [key for key in mine if found.get(key) != mine[key]]:
            said = ", ".join(f"{key} {found.get(key)}, now {mine[key]}" for key in other)
            raise UserError(f"{place}: holds other features ({said}); choose another --out")


def read_made_by(place: Path) -> dict | None:
    """What a folder's encoder.json or a pack's attributes say of its features, as MadeBy's fields; None: nothing.

    Raises UserError on a pack that cannot be read.
    """
    if place.suffix in PACK_SUFFIXES:
        with _reading(place) as pack:
            return {
                key: getattr(value, "item", lambda value=value: value)() for key, value in pack.attrs.items()
            } or None
    try:
        tree = json.loads((place / MADE_BY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as pack:
            yield pack
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: not a readable HDF5 pack ({error}); remove it and make it again") from None


class Stored(NamedTuple):
    """Features that extract.py made of one video: visual (T, Dv), audio (T, Da), and how many frames apart."""

    visual: np.ndarray
    audio: np.ndarray
    stride: int


class FeatureStore:
    """What extract.py wrote, for reading: a folder of .npy files or a pack."""

    def __init__(self, place: Path):
        """Raises UserError where there are no features, or none that say what made them."""
        self.place, found = place, read_made_by(place) if place.exists() else None
        if found is None or not found.keys() >= MadeBy.__dataclass_fields__.keys():
            raise UserError(f"{place}: no features that say what made them; make them with extract.py")
        self.made_by = MadeBy(**{key: found[key] for key in MadeBy.__dataclass_fields__})

    def names(self) -> list[str]:
        """Raises UserError where there are none."""
        in_pack = self.place.suffix in PACK_SUFFIXES
        names = _packed(self.place) if in_pack else _names_in(self.place, self.made_by)
        if not names:
            raise UserError(f"{self.place}: holds no features; make some with extract.py")
        return sorted(names)

    def read(self, name: str) -> Stored:
        """Raises UserError where a video's features are missing, damaged, not finite, or differ in length."""
        if self.place.suffix in PACK_SUFFIXES:
            if name not in _packed(self.place):
                raise UserError(f"{self.place}: no features of {name}; extract them")
            with _reading(self.place) as pack:
                visual, audio = (pack[modality][name][()] for modality in MODALITIES)
        else:
            paths = _paths(self.place, self.made_by, name)
            visual, audio = (read_array(path, "features (T, width)") for path in paths)
        if visual.ndim != 2 or audio.ndim != 2 or len(visual) != len(audio) or len(visual) == 0:
            raise UserError(f"{self.place}: {name} has features {visual.shape} and {audio.shape}; extract them again")
        if not (np.isfinite(visual).all() and np.isfinite(audio).all()):
            raise UserError(f"{self.place}: {name} has features that are NaN or infinite; extract them again")
        return Stored(visual, audio, int(self.made_by.stride))


def _packed(path: Path) -> frozenset[str]:
    with _reading(path) as pack:
        return frozenset(pack["visual"]) & frozenset(pack["audio"])


def _paths(folder: Path, made_by: MadeBy, name: str) -> tuple[Path, Path]:
    """The visual and the audio file."""
    suffixes = (made_by.visual_suffix, made_by.audio_suffix)
    visual, audio = (folder / f"{made_by.prefix}{name}{suffix}.npy" for suffix in suffixes)
    return visual, audio


def _names_in(folder: Path, made_by: MadeBy) -> list[str]:
    """Of all videos of which both files are there."""
    end = f"{made_by.visual_suffix}.npy"
    found = (path.name for path in folder.glob(f"*{glob_safe(end)}"))
    names = (name[len(made_by.prefix) : -len(end)] for name in found if name.startswith(made_by.prefix))
    return sorted(name for name in names if all(path.exists() for path in _paths(folder, made_by, name)))


class NpyStore:
    """The published layout: {prefix}{name}{suffix}.npy in float16, and encoder.json."""

    def __init__(self, folder: Path, made_by: MadeBy):
        self.folder, self.made_by = folder, made_by
        suffixes = (made_by.visual_suffix, made_by.audio_suffix)
        for part in (made_by.prefix, *suffixes):
            if "/" in part or "\0" in part:
                raise UserError(f"{part!r}: a prefix or suffix of file names, expected no /")
        if suffixes[0] == suffixes[1]:
            raise UserError(f"{suffixes[0]!r}: visual and audio features would get the same file name")
        make_folder(folder)
        note = folder / MADE_BY
        if note.exists() or any(next(folder.glob(f"*{glob_safe(suffix)}.npy"), None) for suffix in suffixes):
            made_by.refuse_other(folder)
        else:
            with replacing(note) as temporary:
                temporary.write_text(json.dumps(asdict(made_by), indent=1) + "\n", encoding="utf-8")

    def paths(self, name: str) -> tuple[Path, Path]:
        return _paths(self.folder, self.made_by, name)

    def has(self, name: str) -> bool:
        return all(path.exists() for path in self.paths(name))

    def write(self, name: str, visual: np.ndarray, audio: np.ndarray) -> None:
        for path, features in zip(self.paths(name), (visual, audio), strict=True):
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, _halved(features))

    def names(self) -> list[str]:
        """All that is there, whole."""
        return _names_in(self.folder, self.made_by)

    def finish(self) -> None:
        pass


class PackStore:
    """One HDF5 file, visual/<name> and audio/<name>. Features gather in OUT.h5.parts and are added all at once at the
    end: an interrupted run goes on, several processes do not disturb each other."""

    def __init__(self, path: Path, made_by: MadeBy):
        self.path, self.made_by = path, made_by
        self.packed = self._packed()
        self.parts = NpyStore(path.with_name(f"{path.name}.parts"), made_by)

    def _packed(self) -> frozenset[str]:
        """The names in the pack; empty where there is none yet. Raises UserError where something else made it."""
        if not self.path.exists():
            return frozenset()
        self.made_by.refuse_other(self.path)
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
                if [path.name for path in self.parts.folder.iterdir()] == [MADE_BY]:
                    (self.parts.folder / MADE_BY).unlink()
                    self.parts.folder.rmdir()

    def _add(self, path: Path, names: list[str]) -> None:
        with h5py.File(path, "a") as pack:
            pack.attrs.update(asdict(self.made_by))
            for name in names:
                for modality, part in zip(MODALITIES, self.parts.paths(name), strict=True):
                    group = pack.require_group(modality)
                    if name not in group:
                        group[name] = read_array(part, "features (T, width)")


Store = NpyStore | PackStore


def open_store(out: Path, made_by: MadeBy) -> Store:
    """A pack where `out` ends in .h5 or .hdf5 (its names have no prefix), else a folder. Raises UserError where it
    cannot be written to, or holds the features of another encoder or of other windows."""
    return PackStore(out, made_by) if out.suffix in PACK_SUFFIXES else NpyStore(out, made_by)


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

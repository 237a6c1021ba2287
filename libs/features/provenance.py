"""What made features: the note that extract.py writes beside them, and the check against a configuration."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py

from libs.core.config import TaskSpec
from libs.core.errors import DataError, UserError
from libs.core.types import PACK_SUFFIXES
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES

PROVENANCE_FILE = "encoder.json"
SUFFIXES = ("_one_peace_video_finetune", "_one_peace_audio")  # the published layout's, whatever the encoder


@dataclass(frozen=True)
class FeatureProvenance:
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

    def check_same(self, place: Path) -> None:
        """Raises UserError unless what lies in a place says that the same made it."""
        found, mine = read_provenance(place), asdict(self)
        if found is None:
            raise UserError(f"{place}: holds features that do not say what made them; choose another --out")
        if other := [key for key in mine if found.get(key) != mine[key]]:
            said = ", ".join(f"{key} {found.get(key)}, now {mine[key]}" for key in other)
            raise UserError(f"{place}: holds other features ({said}); choose another --out")


def read_provenance(place: Path) -> dict | None:
    """What a folder's encoder.json or a pack's attributes say of its features, as FeatureProvenance's fields; None: nothing.

    Raises UserError on a pack that cannot be read.
    """
    if place.suffix in PACK_SUFFIXES:
        with open_pack(place) as pack:
            return {
                key: getattr(value, "item", lambda value=value: value)() for key, value in pack.attrs.items()
            } or None
    try:
        tree = json.loads((place / PROVENANCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


@contextmanager
def open_pack(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as pack:
            yield pack
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: not a readable HDF5 pack ({error}); remove it and make it again") from None


def check_provenance(task: TaskSpec, encoder: str) -> None:
    """Raise DataError where the task's features say (extract.py's do) that another encoder made them, or other windows
    than the configuration has. Features that say nothing, such as the published ones, are taken as they are."""
    spec = task.dataset
    if not Path(spec.feat_folder).exists():  # planted, or missing, which whoever opens them says better
        return
    found = read_provenance(Path(spec.feat_folder)) or {}
    for name, key, value in (
        ("encoder", "model.encoder", encoder),
        ("stride", f"{task.key}.dataset.feat_stride", spec.feat_stride),
        ("num_frames", f"{task.key}.dataset.num_frames", spec.num_frames),
    ):
        if found.get(name, value) != value:
            raise DataError(f"{spec.feat_folder}: made with {name} {found[name]}, but {key} is {value}; set it so")

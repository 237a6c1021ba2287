"""How features were made: the record that extract.py writes beside them, and its check against a configuration."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from libs.core.config import TaskSpec
from libs.core.errors import DataError, UserError
from libs.core.files import read_json
from libs.features.sources import Hdf5Pack, NpyFolder, is_pack, open_pack
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES

PROVENANCE_FILE = "encoder.json"
SUFFIXES = ("_one_peace_video_finetune", "_one_peace_audio")  # of the published files; other encoders keep them


@dataclass(frozen=True)
class FeatureProvenance:
    """How features were made. Features of different provenance never go into one folder or pack."""

    encoder: str
    visual_dim: int
    audio_dim: int
    stride: int
    num_frames: int = WINDOW_FRAMES
    fps: int = FRAME_RATE_HZ
    streams: str = "best"  # of the media files
    prefix: str = ""  # of the file names in a folder
    visual_suffix: str = SUFFIXES[0]
    audio_suffix: str = SUFFIXES[1]

    def open(self, place: Path) -> NpyFolder | Hdf5Pack:
        """Open a folder or a pack with these features."""
        dims = (self.visual_dim, self.audio_dim)
        if is_pack(place):
            return Hdf5Pack(place, dims)
        return NpyFolder(place, dims, self.prefix, (self.visual_suffix, self.audio_suffix))

    def check_same(self, place: Path) -> None:
        """Raise UserError unless the features in a folder or pack have this provenance."""
        found = read_provenance(place)
        if found is None:
            raise UserError(f"{place}: holds features of unknown provenance; choose another --out")
        if different := [key for key, value in asdict(self).items() if found.get(key) != value]:
            changes = ", ".join(f"{key} {found.get(key)}, now {getattr(self, key)}" for key in different)
            raise UserError(f"{place}: holds other features ({changes}); choose another --out")


def read_provenance(place: Path) -> dict[str, Any] | None:
    """Read a folder's encoder.json or a pack's attributes.

    Returns:
        The fields of FeatureProvenance, all or some; None where nothing is recorded.

    Raises:
        DataError: the pack is missing, or the pack or the file is damaged.
    """
    if is_pack(place):
        with open_pack(place) as pack:
            found = {k: v.item() if isinstance(v, np.generic) else v for k, v in pack.attrs.items()}
    else:
        record = place / PROVENANCE_FILE
        found = read_json(record, "the record of extract.py") if record.exists() else None
    return found or None


ExtractedFeatures = tuple[FeatureProvenance, NpyFolder | Hdf5Pack]


def open_extracted(place: Path) -> ExtractedFeatures:
    """Open a folder or a pack that extract.py wrote. Raises UserError where it holds no such features."""
    names = [field.name for field in fields(FeatureProvenance)]
    found = read_provenance(place) if place.exists() else None
    if found is None or not found.keys() >= set(names):
        raise UserError(f"{place}: no features of known provenance; make them with extract.py")
    provenance = FeatureProvenance(**{name: found[name] for name in names})
    files = provenance.open(place)
    if not files.video_ids():
        raise UserError(f"{place}: holds no features; make some with extract.py")
    return provenance, files


def check_provenance(task: TaskSpec, encoder: str) -> None:
    """Check that a task's features were made as the configuration says.

    Features without a record, such as the published ones, pass.

    Raises:
        DataError: they are recorded to be of another encoder, or of windows other than the configured ones.
    """
    spec = task.dataset
    if not Path(spec.feat_folder).exists():  # planted, or missing: opening them gives the better message
        return
    found = read_provenance(Path(spec.feat_folder)) or {}
    for name, key, value in (
        ("encoder", "model.encoder", encoder),
        ("stride", f"{task.key}.dataset.feat_stride", spec.feat_stride),
        ("num_frames", f"{task.key}.dataset.num_frames", spec.num_frames),
    ):
        if found.get(name, value) != value:
            raise DataError(f"{spec.feat_folder}: made with {name} {found[name]}, but {key} is {value}; set it so")

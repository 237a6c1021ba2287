"""Whether a task's features are those that the network is configured for."""

from pathlib import Path

from libs.core.config import TaskSpec
from libs.core.errors import DataError
from libs.media.store import read_made_by


def refuse_other_features(task: TaskSpec, encoder: str) -> None:
    """Raise DataError where the task's features say (extract.py's do) that another encoder made them, or other windows
    than the configuration has. Features that say nothing, such as the published ones, are taken as they are."""
    spec = task.dataset
    if not Path(spec.feat_folder).exists():  # planted, or missing, which whoever opens them says better
        return
    found = read_made_by(Path(spec.feat_folder)) or {}
    for name, key, value in (
        ("encoder", "model.encoder", encoder),
        ("stride", f"{task.key}.dataset.feat_stride", spec.feat_stride),
        ("num_frames", f"{task.key}.dataset.num_frames", spec.num_frames),
    ):
        if found.get(name, value) != value:
            raise DataError(f"{spec.feat_folder}: made with {name} {found[name]}, but {key} is {value}; set it so")

"""All that a run needs of one task's data: annotations, class names and the clips of its splits."""

from dataclasses import dataclass

import numpy as np

from libs.core.config import Config, TaskSpec
from libs.core.errors import DataError
from libs.core.types import Video
from libs.datasets.annotations import Annotations, load_annotations
from libs.datasets.clips import ClipDataset
from libs.features.provenance import check_provenance
from libs.features.sources import open_features

ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class TaskData:
    """A task's data, opened and checked; a split that was not asked for has no clips.

    Attributes:
        class_names: by label_id.
        seen: label_ids trained on where classes are held out (dataset.train_classes), else None.
    """

    task: TaskSpec
    annotations: Annotations
    class_names: list[str]
    seen: list[int] | None
    train: ClipDataset
    val: ClipDataset
    test: ClipDataset


def load_task_data(config: Config, task: TaskSpec, roles: tuple[str, ...] = ROLES) -> TaskData:
    """Load a task's annotations and open the features of its splits.

    Args:
        roles: the splits to open, of "train", "val" and "test".

    Raises:
        DataError: if a split selects no video, features are missing or of another encoder, or a class that is to be
            trained has no example.
    """
    check_provenance(task, config.model.encoder)
    annotations = load_annotations(task.dataset.json_file, task.dataset.num_classes)
    source, chosen = open_features(task, config), task.dataset.train_classes
    seen = None if chosen is None else annotations.find_class_ids(chosen, task.dataset.num_classes)

    def open_clips(role: str) -> ClipDataset:
        splits, limit = getattr(task, f"{role}_split"), task.dataset.max_videos
        videos = annotations.select_splits(splits, limit) if role in roles else []
        if role == "train" and videos and seen is not None:
            videos = _drop_unseen(videos, seen, annotations, task)
        return ClipDataset(videos, source, task, config.run.seed)

    names = [annotations.class_name(label) for label in range(task.dataset.num_classes)]
    return TaskData(task, annotations, names, seen, *map(open_clips, ROLES))


def _drop_unseen(videos: list[Video], seen: list[int], annotations: Annotations, task: TaskSpec) -> list[Video]:
    """Keep the training videos without an event of a held-out class."""
    kept = [video for video in videos if np.isin(video.labels, seen).all()]
    present = np.unique(np.concatenate([np.empty(0, np.int64), *(video.labels for video in kept)]))
    if lost := [annotations.class_name(label) for label in seen if label not in present]:
        raise DataError(
            f"{annotations.path}: no training video shows {lost[0]}{' and others' if lost[1:] else ''} without a class "
            f"that {task.key}.dataset.train_classes holds out; hold out other classes, or this one too"
        )
    return kept

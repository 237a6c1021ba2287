"""Checks of a task's annotations, classes and prompts. They read no features."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from libs.core.config import TaskSpec
from libs.core.types import Video
from libs.datasets.annotations import Annotations
from libs.datasets.checks.findings import Occurrence

UNIT_TOLERANCE = 1e-3
EQUAL_PROMPTS_COSINE = 1 - 1e-6
TIME_TOLERANCE_S = 1e-6  # annotation files round times


@dataclass(frozen=True)
class TaskVideos:
    """The annotated videos that a task uses, by role ("train", "val", "test")."""

    task: TaskSpec
    annotations: Annotations

    @cached_property
    def role_splits(self) -> dict[str, tuple[str, ...]]:
        """The subsets of the annotation file that each role takes its videos from."""
        return {"train": self.task.train_split, "val": self.task.val_split, "test": self.task.test_split}

    @cached_property
    def roles(self) -> dict[str, list[Video]]:
        """The videos of each role; none where the file has no such split."""
        videos, limit = self.annotations.videos, self.task.dataset.max_videos
        return {role: [v for v in videos if v.subset in splits][:limit] for role, splits in self.role_splits.items()}

    @cached_property
    def splits(self) -> dict[str, list[Video]]:
        """The videos that some role uses, once each, by subset."""
        videos = {video.video_id: video for videos in self.roles.values() for video in videos}.values()
        subsets = dict.fromkeys(video.subset for video in videos)
        return {subset: [video for video in videos if video.subset == subset] for subset in subsets}

    @cached_property
    def events(self) -> pd.DataFrame:
        """One row for each event of `splits`: split, video_id, duration, start and end in seconds, label."""
        rows = [
            (split, video.video_id, video.duration, start, end, label)
            for split, videos in self.splits.items()
            for video in videos
            for (start, end), label in zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        ]
        return pd.DataFrame(rows, columns=["split", "video_id", "duration", "start", "end", "label"])

    def split_name(self, role: str) -> str:
        """Return the name of a role's splits for messages, such as "train+val"."""
        return "+".join(self.role_splits[role])


def check_annotations(data: TaskVideos) -> Iterator[Occurrence]:
    """Run all checks that need only the annotations."""
    for check in (check_roles, check_shared_videos, check_names, check_classes, check_times, check_videos):
        yield from check(data)


def check_roles(data: TaskVideos) -> Iterator[Occurrence]:
    """Find splits that are empty, too small or unused."""
    counts = Counter(video.subset for video in data.annotations.videos)
    used = {split for splits in data.role_splits.values() for split in splits}
    for role, splits in data.role_splits.items():
        for split in splits:
            if split not in counts:
                message = f"{role}_split names it; the file has: {', '.join(sorted(counts))}"
                yield Occurrence("", "empty split", split, message)
    for split in sorted(counts.keys() - used):
        yield Occurrence("", "unused split", split, f"{counts[split]} videos")
    train, name = data.roles["train"], data.split_name("train")
    if 0 < len(train) < data.task.batch_size:
        message = f"{len(train)} videos, batch_size {data.task.batch_size}"
        yield Occurrence("", "few training videos", name, message)
    if train and not any(len(video.labels) for video in train):
        yield Occurrence("", "no event in training", name, f"{len(train)} videos")


def check_shared_videos(data: TaskVideos) -> Iterator[Occurrence]:
    """Find videos that have several roles."""
    ids = {role: {video.video_id for video in videos} for role, videos in data.roles.items()}
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        if shared := ids[one] & ids[other]:
            name = f"{data.split_name(one)} and {data.split_name(other)}"
            message = f"{len(shared)} videos of {one}_split are in {other}_split"
            yield Occurrence("", f"{one} and {other} share videos", name, message)


def check_names(data: TaskVideos) -> Iterator[Occurrence]:
    """Compare class names with label_ids and num_classes."""
    annotations, num_classes = data.annotations, data.task.dataset.num_classes
    ids, names = defaultdict(list), defaultdict(list)
    for name, label in sorted(annotations.named):
        ids[name].append(label)
        names[label].append(name)
    for name, labels in sorted(ids.items()):
        if len(labels) > 1:
            yield Occurrence("", "name with several ids", name, f"ids {', '.join(map(str, labels))}")
    for label, its_names in sorted(names.items()):
        if len(its_names) > 1:
            yield Occurrence("", "id with several names", str(label), f"names {', '.join(map(repr, its_names))}")
        if label >= num_classes:
            for name in its_names:
                message = f"label_id {label}, num_classes is {num_classes}"
                yield Occurrence("", "class beyond num_classes", name, message)
    if annotations.alphabetical:
        message = f"{len(annotations.class_names)} names without ids"
        yield Occurrence("", "ids by alphabet", annotations.path.name, message)
    for label in range(num_classes):
        if label not in names:
            yield Occurrence("", "class without name", str(label), "no name")


def check_classes(data: TaskVideos) -> Iterator[Occurrence]:
    """Find classes without an example in training or in the test."""
    counts = {
        role: Counter(label for video in videos for label in video.labels.tolist())
        for role, videos in data.roles.items()
    }
    for role, other, check in (("train", "test", "class not in training"), ("test", "train", "class not in test")):
        for label in range(data.task.dataset.num_classes):
            if counts[role] and not counts[role][label]:
                name = data.annotations.class_name(label)
                message = f"label_id {label}, {counts[other][label]} events in {other}"
                yield Occurrence(data.split_name(role), check, name, message)


def check_times(data: TaskVideos) -> Iterator[Occurrence]:
    """Compare segments with the duration of their video."""
    start, end, duration = (data.events[name] for name in ("start", "end", "duration"))
    events = data.events.assign(late=end - duration, early=-start)
    outside = (start >= duration) & (end > duration) | (end <= 0) & (start < 0)
    late, early = end > duration + TIME_TOLERANCE_S, start < -TIME_TOLERANCE_S
    for check, failed, template in (
        ("outside the video", outside, "[{start:g}, {end:g}] of {duration:g} s"),
        ("ends late", late & ~outside, "[{start:g}, {end:g}] ends {late:.2g} s after its {duration:g} s"),
        ("starts early", early & ~outside, "[{start:g}, {end:g}] starts {early:.2g} s before it"),
        ("zero length", start == end, "[{start:g}, {end:g}] of {duration:g} s"),
    ):
        for event in events.loc[failed].to_dict(orient="records"):
            yield Occurrence(event["split"], check, event["video_id"], template.format_map(event))


def check_videos(data: TaskVideos) -> Iterator[Occurrence]:
    """Find repeated events, videos without events and videos without a frame rate."""
    for split, videos in data.splits.items():
        for video in videos:
            for i in video.find_repeats():
                message = "label_id {}, [{:g}, {:g}] again".format(video.labels[i], *video.segments[i])
                severity = "note" if data.task.drop_repeats else None
                yield Occurrence(split, "repeated event", video.video_id, message, severity)
            if not len(video.labels):
                yield Occurrence(split, "no events", video.video_id, "no event")
            if video.fps is None and data.task.dataset.default_fps is None:
                yield Occurrence(split, "no fps", video.video_id, "no fps")


def check_prompts(task: TaskSpec, prompts: np.ndarray) -> Iterator[Occurrence]:
    """Find rows of a prompt table (C, text_dim) that are zero, equal or not of unit length."""
    name, prompts = Path(task.prompt_file).name, prompts.astype(np.float64)
    lengths = np.linalg.norm(prompts, axis=1)
    zero = lengths == 0
    unit = prompts / np.where(zero, 1, lengths)[:, None]
    for row in np.flatnonzero(zero):
        yield Occurrence("", "zero prompt", name, f"row {row}")
    for i, j in np.argwhere(np.triu(unit @ unit.T > EQUAL_PROMPTS_COSINE, k=1)):
        yield Occurrence("", "equal prompts", name, f"rows {i} and {j}")
    for row in np.flatnonzero(~zero & (np.abs(lengths - 1) > UNIT_TOLERANCE)):
        yield Occurrence("", "prompt not of length 1", name, f"row {row} has length {lengths[row]:.4g}")

"""Checks of a task's annotations, classes and prompts. They read no features."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from libs.core.config import TaskSpec
from libs.datasets.annotations import Annotations
from libs.datasets.checks.findings import Occurrence

UNIT_TOLERANCE = 1e-3
EQUAL_PROMPTS_COSINE = 1 - 1e-6
TIME_TOLERANCE_S = 1e-6  # annotation files round times


class TaskVideos:
    """The annotated videos that a task uses.

    Attributes:
        role_splits: the subsets of the annotation file that each role ("train", "val", "test") takes its videos from.
        split_names: the name of a role's splits for messages, such as "train+val".
        roles: the videos of each role; none where the file has no such split.
        videos: the videos that some role uses, once each.
        num_videos: the number of `videos` in each subset.
        events: one row for each event of `videos`: split, video_id, duration, start and end in seconds, label.
    """

    def __init__(self, task: TaskSpec, annotations: Annotations):
        self.task, self.annotations = task, annotations
        self.role_splits = {"train": task.train_split, "val": task.val_split, "test": task.test_split}
        self.split_names = {role: "+".join(splits) for role, splits in self.role_splits.items()}
        self.roles = {}
        for role, splits in self.role_splits.items():
            self.roles[role] = [v for v in annotations.videos if v.subset in splits][: task.dataset.max_videos]
        self.videos = list({video.video_id: video for videos in self.roles.values() for video in videos}.values())
        self.num_videos = Counter(video.subset for video in self.videos)
        rows = [
            (video.subset, video.video_id, video.duration, *segment, label)
            for video in self.videos
            for segment, label in zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        ]
        self.events = pd.DataFrame(rows, columns=["split", "video_id", "duration", "start", "end", "label"])


def check_annotations(data: TaskVideos) -> Iterator[Occurrence]:
    """Run all checks that need only the annotations."""
    for check in (check_roles, check_shared_videos, check_names, check_classes, check_times, check_videos):
        yield from check(data)


def check_roles(data: TaskVideos) -> Iterator[Occurrence]:
    """Find splits that are empty, too small or unused."""
    counts = Counter(video.subset for video in data.annotations.videos)
    for role, splits in data.role_splits.items():
        for split in sorted(set(splits) - counts.keys()):
            yield Occurrence("", "empty split", split, f"{role}_split, the file has: {', '.join(sorted(counts))}")
    for split in sorted(counts.keys() - set().union(*data.role_splits.values())):
        yield Occurrence("", "unused split", split, f"{counts[split]} videos")
    train, name = data.roles["train"], data.split_names["train"]
    if 0 < len(train) < data.task.batch_size:
        yield Occurrence("", "few training videos", name, f"{len(train)} videos, batch_size {data.task.batch_size}")
    if train and not any(len(video.labels) for video in train):
        yield Occurrence("", "no event in training", name, f"{len(train)} videos")


def check_shared_videos(data: TaskVideos) -> Iterator[Occurrence]:
    """Find videos that have several roles."""
    ids = {role: {video.video_id for video in videos} for role, videos in data.roles.items()}
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        if shared := ids[one] & ids[other]:
            name = f"{data.split_names[one]} and {data.split_names[other]}"
            yield Occurrence("", f"{one} and {other} share videos", name, f"{len(shared)} videos")


def check_names(data: TaskVideos) -> Iterator[Occurrence]:
    """Compare class names with label_ids and num_classes."""
    annotations, num_classes = data.annotations, data.task.dataset.num_classes
    ids, names = defaultdict(list), defaultdict(list)
    for name, label in sorted(annotations.named):
        ids[name].append(label)
        names[label].append(name)
        if label >= num_classes:
            yield Occurrence("", "class beyond num_classes", name, f"label_id {label}, num_classes is {num_classes}")
    for check, groups, kind in (("name with several ids", ids, "ids"), ("id with several names", names, "names")):
        for key, values in groups.items():
            if len(values) > 1:
                yield Occurrence("", check, str(key), f"{kind} {', '.join(map(repr, values))}")
    if annotations.alphabetical:
        yield Occurrence("", "ids by alphabet", annotations.path.name, f"{len(ids)} names without ids")
    for label in sorted(set(range(num_classes)) - names.keys()):
        yield Occurrence("", "class without name", str(label), "no name")


def check_classes(data: TaskVideos) -> Iterator[Occurrence]:
    """Find classes without an example in training or in the test."""
    labels = {
        role: [label for video in videos for label in video.labels.tolist()] for role, videos in data.roles.items()
    }
    counts = {role: Counter(of_role) for role, of_role in labels.items()}
    for role, other, check in (("train", "test", "class not in training"), ("test", "train", "class not in test")):
        for label in range(data.task.dataset.num_classes):
            if counts[role] and not counts[role][label]:
                message = f"label_id {label}, {counts[other][label]} events in {other}"
                yield Occurrence(data.split_names[role], check, data.annotations.class_name(label), message)


def check_times(data: TaskVideos) -> Iterator[Occurrence]:
    """Compare segments with the duration of their video."""
    start, end, duration = (data.events[name] for name in ("start", "end", "duration"))
    events = data.events.assign(late=end - duration, early=-start)
    outside = (start >= duration) & (end > duration) | (end <= 0) & (start < 0)
    late, early = (~outside & (events[name] > TIME_TOLERANCE_S) for name in ("late", "early"))
    for check, failed, template in (
        ("outside the video", outside, "[{start:g}, {end:g}] of {duration:g} s"),
        ("ends late", late, "[{start:g}, {end:g}] ends {late:.2g} s after its {duration:g} s"),
        ("starts early", early, "[{start:g}, {end:g}] starts {early:.2g} s before it"),
        ("zero length", start == end, "[{start:g}, {end:g}] of {duration:g} s"),
    ):
        for event in events.loc[failed].to_dict(orient="records"):
            yield Occurrence(event["split"], check, event["video_id"], template.format_map(event))


def check_videos(data: TaskVideos) -> Iterator[Occurrence]:
    """Find repeated events, videos without events and videos without a frame rate."""
    severity = "note" if data.task.drop_repeats else None
    for video in data.videos:
        for i in video.find_repeats():
            message = "label_id {}, [{:g}, {:g}] again".format(video.labels[i], *video.segments[i])
            yield Occurrence(video.subset, "repeated event", video.video_id, message, severity)
        if not len(video.labels):
            yield Occurrence(video.subset, "no events", video.video_id, "no event")
        if video.fps is None and data.task.dataset.default_fps is None:
            yield Occurrence(video.subset, "no fps", video.video_id, "no fps")


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

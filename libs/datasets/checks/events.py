"""Checks of a task's annotations, classes and prompts: no feature is looked at."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libs.core.config import TaskSpec
from libs.core.errors import DataError
from libs.core.types import Video
from libs.datasets.annotations import Annotations, Problem, read_annotations
from libs.datasets.checks.findings import Finding, Occurrence, found

UNIT_TOLERANCE = 1e-3
SAME_PROMPT = 1 - 1e-6  # cosine from which two prompts are one
TIME_TOLERANCE_S = 1e-6  # times are written with few digits


@dataclass(frozen=True)
class TaskVideos:
    """A task's videos as a run would take them, of what can be read: roles "train", "val", "test" -> videos."""

    task: TaskSpec
    annotations: Annotations
    roles: dict[str, list[Video]]
    problems: tuple[Problem, ...] = ()

    @classmethod
    def read(cls, task: TaskSpec) -> "TaskVideos":
        """Raises DataError where there is no annotation file."""
        problems: list[Problem] = []
        annotations = read_annotations(task.dataset.json_file, task.dataset.num_classes, problems.append)
        return cls.of(task, annotations, problems)

    @classmethod
    def of(cls, task: TaskSpec, annotations: Annotations, problems: Iterable[Problem] = ()) -> "TaskVideos":
        roles = {}
        for role, splits in roles_of(task).items():
            try:
                roles[role] = annotations.select_splits(splits, task.dataset.max_videos)
            except DataError:
                roles[role] = []
        return cls(task, annotations, roles, tuple(problems))

    @property
    def splits(self) -> dict[str, list[Video]]:
        """subset -> the videos of it that some role takes."""
        splits: dict[str, dict[str, Video]] = {}
        for videos in self.roles.values():
            for video in videos:
                splits.setdefault(video.subset, {})[video.video_id] = video
        return {subset: list(videos.values()) for subset, videos in splits.items()}


def roles_of(task: TaskSpec) -> dict[str, tuple[str, ...]]:
    return {"train": task.train_split, "val": task.val_split, "test": task.test_split}


def check_annotations(data: TaskVideos) -> Iterator[Finding]:
    """All that annotations alone tell."""
    yield from check_entries(data)
    yield from check_roles(data)
    yield from check_shared(data)
    yield from check_names(data)
    yield from check_classes(data)
    for split, videos in data.splits.items():
        yield from check_times(data.task, split, videos)
        yield from check_events(data.task, split, videos)


def check_entries(data: TaskVideos) -> Iterator[Finding]:
    """What the loader refuses."""
    groups = defaultdict(list)
    for problem in data.problems:
        groups[problem.kind, problem.subset].append(
            Occurrence(problem.video_id or data.annotations.path.name, problem.message)
        )
    for (kind, subset), cases in groups.items():
        yield from found(data.task.key, subset, kind, cases)


def check_roles(data: TaskVideos) -> Iterator[Finding]:
    """Splits that are empty, too small or named by none."""
    task, roles = data.task, data.roles
    wanted = roles_of(task)
    there = {video.subset for video in data.annotations.videos}
    for role, splits in wanted.items():
        lost = [Occurrence(split, f"{role}_split names it; there are: {', '.join(sorted(there))}") for split in splits]
        yield from found(task.key, "", "empty split", [case for case in lost if case.name not in there])
    unused = there - {split for splits in wanted.values() for split in splits}
    counts = {split: sum(video.subset == split for video in data.annotations.videos) for split in sorted(unused)}
    yield from found(task.key, "", "unused split", (Occurrence(split, f"{n} videos") for split, n in counts.items()))
    if 0 < len(roles["train"]) < task.batch_size:
        said = f"{len(roles['train'])} videos, batch_size {task.batch_size}"
        yield from found(task.key, "", "few training videos", [Occurrence("+".join(task.train_split), said)])
    if roles["train"] and not any(len(video.labels) for video in roles["train"]):
        said = f"{len(roles['train'])} videos"
        yield from found(task.key, "", "no event in training", [Occurrence("+".join(task.train_split), said)])


def check_shared(data: TaskVideos) -> Iterator[Finding]:
    """Videos that several roles take."""
    task, wanted = data.task, roles_of(data.task)
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        shared = {video.video_id for video in data.roles[one]} & {video.video_id for video in data.roles[other]}
        names = " and ".join("+".join(wanted[role]) for role in (one, other))
        said = f"{len(shared)} videos of {one}_split are in {other}_split"
        yield from found(task.key, "", f"{one} and {other} share videos", [Occurrence(names, said)] if shared else [])


def check_names(data: TaskVideos) -> Iterator[Finding]:
    """Names against ids."""
    key, annotations = data.task.key, data.annotations
    ids, names = defaultdict(set), defaultdict(set)
    for name, label in annotations.named:
        ids[name].add(label)
        names[label].add(name)
    yield from found(
        key,
        "",
        "name with several ids",
        (Occurrence(n, f"ids {_listed(ids[n])}") for n in sorted(ids) if len(ids[n]) > 1),
    )
    yield from found(
        key,
        "",
        "id with several names",
        (Occurrence(str(i), f"names {_listed(names[i])}") for i in sorted(names) if len(names[i]) > 1),
    )
    if annotations.alphabetical:
        said = f"{len(annotations.class_names)} names without ids"
        yield from found(key, "", "ids by alphabet", [Occurrence(annotations.path.name, said)])
    classes = data.task.dataset.num_classes
    beyond = [(name, label) for name, label in sorted(annotations.named) if label >= classes]
    said = f"num_classes is {classes}"
    yield from found(key, "", "class beyond num_classes", (Occurrence(n, f"label_id {i}, {said}") for n, i in beyond))
    nameless = [label for label in range(classes) if label not in names]
    yield from found(key, "", "class without name", (Occurrence(str(label), "no name") for label in nameless))


def _listed(values: Iterable) -> str:
    return ", ".join(repr(value) for value in sorted(values))


def check_classes(data: TaskVideos) -> Iterator[Finding]:
    """Classes without an example."""
    counts = {}
    for role, videos in data.roles.items():
        labels = np.concatenate([np.empty(0, np.int64), *(video.labels for video in videos)])
        counts[role] = np.bincount(labels, minlength=data.task.dataset.num_classes)
    for role, other in (("train", "test"), ("test", "train")):
        if data.roles[role] and counts[role].any():
            cases = [
                Occurrence(
                    data.annotations.class_name(label), f"label_id {label}, {counts[other][label]} events in {other}"
                )
                for label in np.flatnonzero(counts[role] == 0).tolist()
            ]
            name = "+".join(roles_of(data.task)[role])
            check = {"train": "class not in training", "test": "class not in test"}[role]
            yield from found(data.task.key, name, check, cases)


def check_times(task: TaskSpec, split: str, videos: list[Video]) -> Iterator[Finding]:
    """Segments against their video's duration."""

    def cases(wrong: Callable[[Video], np.ndarray], said: str) -> Iterator[Occurrence]:
        for video in videos:
            for start, end in video.segments[wrong(video)].tolist():
                late, early = end - video.duration, -start
                text = said.format(start=start, end=end, duration=video.duration, late=late, early=early)
                yield Occurrence(video.video_id, text)

    def outside(video: Video) -> np.ndarray:
        """Wholly."""
        starts, ends = video.segments.T
        return (starts >= video.duration) & (ends > video.duration) | (ends <= 0) & (starts < 0)

    def late(video: Video) -> np.ndarray:
        return (video.segments[:, 1] > video.duration + TIME_TOLERANCE_S) & ~outside(video)

    def early(video: Video) -> np.ndarray:
        return (video.segments[:, 0] < -TIME_TOLERANCE_S) & ~outside(video)

    def empty(video: Video) -> np.ndarray:
        return video.segments[:, 0] == video.segments[:, 1]

    for check, wrong, said in (
        ("outside the video", outside, "[{start:g}, {end:g}] of {duration:g} s"),
        ("ends late", late, "[{start:g}, {end:g}] ends {late:.2g} s after its {duration:g} s"),
        ("starts early", early, "[{start:g}, {end:g}] starts {early:.2g} s before it"),
        ("zero length", empty, "[{start:g}, {end:g}] of {duration:g} s"),
    ):
        yield from found(task.key, split, check, cases(wrong, said))


def check_events(task: TaskSpec, split: str, videos: list[Video]) -> Iterator[Finding]:
    """Repeats, videos without events, videos whose time base is not known."""
    cases = [
        Occurrence(video.video_id, "label_id {}, [{:g}, {:g}] again".format(video.labels[i], *video.segments[i]))
        for video in videos
        for i in video.find_repeats()
    ]
    yield from found(task.key, split, "repeated event", cases, severity="note" if task.drop_repeats else None)
    nothing = (Occurrence(video.video_id, "no event") for video in videos if not len(video.labels))
    yield from found(task.key, split, "no events", nothing)
    if task.dataset.default_fps is None:
        cases = [Occurrence(video.video_id, "no fps") for video in videos if video.fps is None]
        yield from found(task.key, split, "no fps", cases)


def check_prompts(task: TaskSpec, prompts: np.ndarray) -> Iterator[Finding]:
    """Rows of the table (C, text_dim)."""
    path, rows = Path(task.prompt_file), prompts.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    zero = lengths == 0
    yield from found(task.key, "", "zero prompt", (Occurrence(path.name, f"row {i}") for i in np.flatnonzero(zero)))
    unit = rows / np.where(zero, 1, lengths)[:, None]
    pairs = np.argwhere(np.triu(unit @ unit.T > SAME_PROMPT, k=1))
    yield from found(task.key, "", "equal prompts", (Occurrence(path.name, f"rows {i} and {j}") for i, j in pairs))
    odd = np.flatnonzero(~zero & (np.abs(lengths - 1) > UNIT_TOLERANCE))
    yield from found(
        task.key,
        "",
        "prompt not of length 1",
        (Occurrence(path.name, f"row {i} has length {lengths[i]:.4g}") for i in odd),
    )

"""What training and test have in common: videos by id, recordings by the ids of their parts, features by hash."""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import permutations, product

from libs.datasets.checks.events import TaskVideos
from libs.datasets.checks.feature_files import SplitFeatures
from libs.datasets.checks.findings import Finding, Occurrence, found

# YouTube's id and the seconds cut out of the video, as AudioSet and DESED name their clips.
PART = re.compile(r"(?:v_|Y)?([\w-]{11})_\d+(?:\.\d+)?_\d+(?:\.\d+)?")


def recording(video_id: str) -> str:
    """The id of what a clip was cut from, where its own says so."""
    part = PART.fullmatch(video_id)
    return part[1] if part else video_id.removeprefix("v_")


def check_recordings(tasks: list[TaskVideos]) -> Iterator[Finding]:
    """Videos of a test split that a training split has, too: in another task, or as another part of the recording."""
    trained = defaultdict(list)
    for data in tasks:
        for video in data.roles["train"]:
            trained[recording(video.video_id)].append((data.task.key, video.video_id))
    for data in tasks:
        key, split = data.task.key, "+".join(data.task.test_split)
        cases: dict[str, list[Occurrence]] = defaultdict(list)
        for video in data.roles["test"]:
            for other, video_id in trained.get(recording(video.video_id), ()):
                if video_id != video.video_id:
                    cases["one recording in train and test"].append(
                        Occurrence(video.video_id, f"{other} trains on {video_id}")
                    )
                elif other != key:  # the same video of the same task: the splits share videos, which is said elsewhere
                    cases["one video in train and test"].append(Occurrence(video.video_id, f"{other} trains on it"))
        for check, of_check in cases.items():
            yield from found(key, split, check, of_check)


def _owners(features: dict[str, SplitFeatures]) -> dict[tuple[str, str], list[str]]:
    """(modality, hash) -> the videos of a task's splits that have it."""
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for split in features.values():
        for content, video_ids in split.hashes.items():
            owners[content] += video_ids
    return owners


def check_equal_features(data: TaskVideos, features: dict[str, SplitFeatures]) -> Iterator[Finding]:
    """Features of one content under several ids of a task. features: split -> what was read."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)  # video ids -> modalities
    for (modality, _), video_ids in _owners(features).items():
        if len(video_ids) > 1:
            alike[tuple(video_ids)].append(modality)
    train, test = ({video.video_id for video in data.roles[role]} for role in ("train", "test"))
    leaks, repeats = [], []
    for video_ids, modalities in alike.items():
        what = " and ".join(modalities)
        others = {
            tested: [v for v in video_ids if v in train and v != tested] for tested in video_ids if tested in test
        }
        leaked = [Occurrence(tested, f"{what} as {trained[0]}") for tested, trained in others.items() if trained]
        leaks += leaked
        repeats += [] if leaked else [Occurrence(video_id, f"{what} as {video_ids[0]}") for video_id in video_ids[1:]]
    yield from found(data.task.key, "", "equal features in train and test", leaks)
    yield from found(data.task.key, "", "equal features", repeats)


def check_equal_features_of_tasks(
    tasks: list[TaskVideos], features: dict[str, dict[str, SplitFeatures]]
) -> Iterator[Finding]:
    """Features of one content in one task's training and another's test, under other ids. features: task -> split."""
    owners = {data.task.key: _owners(features.get(data.task.key, {})) for data in tasks}
    for data, other in permutations(tasks, 2):
        test = {video.video_id for video in data.roles["test"]}
        train = {video.video_id for video in other.roles["train"]}
        tested_of, trained_of = owners[data.task.key], owners[other.task.key]
        cases = {
            tested: Occurrence(tested, f"{other.task.key} trains on its features as {trained}")
            for content in tested_of.keys() & trained_of.keys()
            for tested, trained in product(tested_of[content], trained_of[content])
            if tested in test and trained in train and recording(tested) != recording(trained)
        }
        split = "+".join(data.task.test_split)
        yield from found(data.task.key, split, "one video in train and test", [cases[name] for name in sorted(cases)])

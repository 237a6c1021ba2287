"""What training and test share: videos by id, recordings by the ids of their parts, features by hash."""

import re
from collections import defaultdict
from collections.abc import Iterator

import pandas as pd

from libs.datasets.checks.events import TaskVideos
from libs.datasets.checks.feature_files import TaskFeatures
from libs.datasets.checks.findings import Occurrence

# AudioSet and DESED name a clip by the YouTube id of its video and the seconds that it was cut at.
CLIP_OF_RECORDING = re.compile(r"(?:v_|Y)?([\w-]{11})_\d+(?:\.\d+)?_\d+(?:\.\d+)?")


def find_recording(video_id: str) -> str:
    """Return the id of the recording that a clip was cut from, or the video's own id."""
    match = CLIP_OF_RECORDING.fullmatch(video_id)
    return match[1] if match else video_id.removeprefix("v_")


def check_leaks(tasks: list[TaskVideos], features: dict[str, TaskFeatures]) -> Iterator[tuple[str, list[Occurrence]]]:
    """Yield each task's key and what its test shares with the training of any task. features: by task."""
    rows = [
        (data.task.key, role, video.video_id, find_recording(video.video_id))
        for data in tasks
        for role, videos in data.roles.items()
        for video in videos
    ]
    videos = pd.DataFrame(rows, columns=["task", "role", "video_id", "recording"])
    rows = [(data.task.key, *row) for data in tasks for row in features[data.task.key].hashes]
    hashes = pd.DataFrame(rows, columns=["task", "video_id", "modality", "hash"]).merge(videos, on=["task", "video_id"])
    for data in tasks:
        yield data.task.key, [*check_equal_features(data, hashes), *check_other_tasks(data, videos, hashes)]


def check_equal_features(data: TaskVideos, hashes: pd.DataFrame) -> Iterator[Occurrence]:
    """Find videos of one task that have equal features."""
    rows = hashes.loc[hashes["task"] == data.task.key].drop_duplicates(subset=["video_id", "modality"])
    modalities_by_ids = defaultdict(list)  # key: the videos with equal features
    for (modality, _), video_ids in rows.groupby(["modality", "hash"], sort=False)["video_id"].agg(tuple).items():
        modalities_by_ids[video_ids].append(modality)
    train, test = ({video.video_id for video in data.roles[role]} for role in ("train", "test"))
    for video_ids, modalities in modalities_by_ids.items():
        equal, others = " and ".join(modalities), video_ids[1:]
        for name in (video_id for video_id in video_ids if video_id in test):
            if trained := [video_id for video_id in video_ids if video_id in train and video_id != name]:
                yield Occurrence("", "equal features in train and test", name, f"{equal} as {trained[0]}")
                others = ()
        for name in others:
            yield Occurrence("", "equal features", name, f"{equal} as {video_ids[0]}")


def check_other_tasks(data: TaskVideos, videos: pd.DataFrame, hashes: pd.DataFrame) -> Iterator[Occurrence]:
    """Find test videos that another task trains on, and those with another part of the recording in training."""
    split = data.split_names["test"]
    for pair in _pair_test_with_train(videos, data.task.key, ["recording"]).to_dict(orient="records"):
        name, other = pair["video_id"], pair["task_train"]
        if name != pair["video_id_train"]:
            message = f"{other} trains on {pair['video_id_train']}"
            yield Occurrence(split, "one recording in train and test", name, message)
        elif other != data.task.key:  # within a task it is "train and test share videos"
            yield Occurrence(split, "one video in train and test", name, f"{other} trains on it")
    pairs = _pair_test_with_train(hashes, data.task.key, ["modality", "hash"])
    pairs = pairs.loc[(pairs["task_train"] != data.task.key) & (pairs["recording"] != pairs["recording_train"])]
    for pair in pairs.drop_duplicates(["video_id", "task_train"]).to_dict(orient="records"):
        message = f"{pair['task_train']} trains on its features as {pair['video_id_train']}"
        yield Occurrence(split, "one video in train and test", pair["video_id"], message)


def _pair_test_with_train(table: pd.DataFrame, task: str, columns: list[str]) -> pd.DataFrame:
    """Return the pairs of a task's test rows and any task's training rows that are equal in `columns`."""
    test, train = table[(table["task"] == task) & (table["role"] == "test")], table[table["role"] == "train"]
    return test.merge(train, on=columns, suffixes=("", "_train"))

"""Write a small synthetic data set of a configuration's tasks, in the published layout.

python tools/make_demo_data.py configs/demo.yaml

Annotations, prompts and .npy features are written where the configuration looks for them. Only files of an earlier call
are overwritten. Each task's dataset.planted sets how strong its events are and how many distractors there are.
"""

import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.files import make_folder, write_json
from libs.core.prompts import sample_prompts, save_prompts
from libs.datasets.annotations import load_annotations
from libs.features.planted import PlantedSource
from libs.features.sources import NpyFolder, is_pack

VIDEOS_PER_SPLIT = (1280, 48, 320)  # train, validation, test
EMPTY_VIDEO_SHARE = 0.02
MARKER = "made_by_make_demo_data"  # a file in the feature folders that this tool may overwrite


# By task type, the ranges of a video's seconds, its number of events, and their length as a share of the video.
RANGES = {"TAL": ((24.0, 48.0), (1, 3), (0.15, 0.6)), "SED": ((10.0, 10.0), (1, 5), (0.12, 0.5))}
OTHER_RANGES = ((8.0, 22.0), (1, 4), (0.1, 0.5))


def make_annotations(task: TaskSpec, rng: np.random.Generator) -> dict:
    """Make annotations of all the task's splits, in ActivityNet's layout."""
    database = {}
    for split, count in zip((task.train_split, task.val_split, task.test_split), VIDEOS_PER_SPLIT, strict=True):
        for i in range(count):
            name = f"{task.dataset_name}_{split[0]}_{i:04d}"
            database[name] = {"subset": split[0], **make_video(task, rng)}
    return {"version": "planted demo data", "database": database}


def make_video(task: TaskSpec, rng: np.random.Generator) -> dict:
    """Make a video's duration and events; those of one class do not overlap."""
    durations, counts, shares = RANGES.get(task.task_type, OTHER_RANGES)
    duration = round(float(rng.uniform(*durations)), 2)
    empty = rng.random() < EMPTY_VIDEO_SHARE
    annotations: list[dict] = []
    for _ in range(0 if empty else int(rng.integers(*counts, endpoint=True))):
        length = duration * rng.uniform(*shares)
        start = rng.uniform(0, duration - length)
        label = int(rng.integers(task.dataset.num_classes))
        same_class = (event["segment"] for event in annotations if event["label_id"] == label)
        if all(other[1] < start or other[0] > start + length for other in same_class):
            segment = [round(float(start), 3), round(float(start + length), 3)]
            annotations.append({"segment": segment, "label": f"{task.task_type} class {label}", "label_id": label})
    return {"duration": duration, "annotations": annotations}


def check_overwrites(task: TaskSpec) -> None:
    """Raise ConfigError where files that this tool did not make are in the way."""
    folder = Path(task.dataset.feat_folder)
    if folder == Path("planted") or is_pack(folder):
        raise ConfigError(f"{task.key}.dataset.feat_folder: {folder}, expected a folder to write .npy files to")
    if (folder / MARKER).exists():
        return
    for path in (folder, Path(task.dataset.json_file), task.prompt_file):
        if path.exists():
            raise ConfigError(f"{path}: exists and was not made by this tool; move it away or set another path")


def write_task(task: TaskSpec, config: Config, rng: np.random.Generator) -> None:
    """Write a task's annotations, prompts and features."""
    json_file, folder = Path(task.dataset.json_file), Path(task.dataset.feat_folder)
    annotations = make_annotations(task, rng)
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    (folder / MARKER).touch()
    write_json(json_file, annotations)
    prompts = sample_prompts(task.dataset.num_classes, config.model.text_dim, rng)
    save_prompts(task.prompt_file, prompts)

    dims = (config.model.input_dim_visual, config.model.input_dim_audio)
    suffixes = (task.dataset.visual_suffix, task.dataset.audio_suffix)
    planted = PlantedSource(task, prompts, dims)
    files = NpyFolder(folder, dims, task.dataset.file_prefix or "", suffixes)
    videos = load_annotations(json_file, task.dataset.num_classes).videos
    for video in tqdm(videos, desc=f"{task.key} {task.dataset_name}", disable=None):
        for path, features in zip(files.paths(video.video_id), planted.load(video), strict=True):
            np.save(path, features.astype(np.float16))
    print(f"{task.key}: {len(videos)} videos in {folder}")


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="for example configs/demo.yaml")
    add_override_option(parser)
    args = parser.parse_args()
    config = load_config(args.config, args.o)
    for task in config.tasks.values():
        check_overwrites(task)
    for i, task in enumerate(config.tasks.values()):
        write_task(task, config, np.random.default_rng([config.run.seed, i]))


if __name__ == "__main__":
    main()

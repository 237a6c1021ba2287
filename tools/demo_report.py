"""Print mAP of the trained network beside random guessing and window matching, all scored in the same way.

python tools/demo_report.py configs/demo.yaml ckpt/demo_make

Random guessing draws class, score, start and end uniformly. Window matching knows the projections of planted features:
it thresholds the match of each window with what an event of a class adds to the features, and reports the best of
several thresholds. Features made by an encoder have no such projections, so that their table has no such row.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import DataError
from libs.core.files import read_json
from libs.core.prompts import load_prompts
from libs.core.types import Detections, Video
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics.average_precision import score_detections
from libs.evaluation.reports.tables import scores_to_dict
from libs.features.planted import PlantedSource
from libs.features.provenance import read_provenance
from libs.features.sources import open_features
from libs.features.windows import feature_fps

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # relative to the mean match of a window within an event


def generate_random_detections(videos: list[Video], num_classes: int, per_video: int, seed: int = 0) -> Detections:
    """Generate `per_video` detections in each video with uniform classes, scores and ends."""
    rng = np.random.default_rng(seed)
    count = len(videos) * per_video
    ends = np.sort(rng.random((count, 2)), axis=1)
    durations = np.repeat([video.duration for video in videos], per_video)
    return Detections(
        tuple(video.video_id for video in videos),
        np.repeat(np.arange(len(videos)), per_video),
        ends * durations[:, None],
        rng.random(count),
        rng.integers(num_classes, size=count),
    )


def match_windows(videos: list[Video], task: TaskSpec, config: Config) -> list[Detections]:
    """Detect, for each threshold, all runs of windows with a higher match. The score is their mean match.

    The match of a window and a class is on average 1 within an event in all its modalities, and 0 elsewhere.
    """
    source = open_features(task, config)
    dims = (config.model.input_dim_visual, config.model.input_dim_audio)
    signals = PlantedSource(task, load_prompts(task, config.model.text_dim), dims).signals  # (C, D) of each modality
    projections = {name: (s / (s**2).sum(axis=1, keepdims=True)).T for name, s in signals.items()}
    stride, frames = task.dataset.feat_stride, task.dataset.num_frames
    rows: dict[float, list] = {threshold: [] for threshold in THRESHOLDS}
    for index, video in enumerate(videos):
        features = source.load(video)
        match = np.min([getattr(features, name) @ projections[name] for name in task.shows_in], axis=0)  # (T, C)
        total = np.concatenate([np.zeros((1, match.shape[1])), np.cumsum(match, axis=0)])
        for threshold in THRESHOLDS:
            padded = np.pad(match > threshold, ((1, 1), (0, 0))).astype(np.int8)
            change = np.diff(padded, axis=0).T  # (C, T + 1)
            (label, first), (_, last) = np.nonzero(change == 1), np.nonzero(change == -1)
            score = (total[last, label] - total[first, label]) / (last - first)
            ends = (np.stack([first, last], axis=1) * stride + (frames - stride) / 2) / feature_fps(video, task.dataset)
            rows[threshold].append((np.full(len(label), index), ends.clip(0, video.duration), score, label))
    ids = tuple(video.video_id for video in videos)
    return [Detections(ids, *(np.concatenate(column) for column in zip(*r, strict=True))) for r in rows.values()]


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="for example configs/demo.yaml")
    parser.add_argument("run", metavar="RUN", type=Path, help="a folder with eval.py's metrics.json")
    args = parser.parse_args()
    config = load_config(args.config)
    metrics = read_json(args.run / "metrics.json", "the metrics that eval.py writes")
    rows = []
    for key, task in config.tasks.items():
        if key not in metrics:
            raise DataError(f"{args.run / 'metrics.json'}: no {key}; evaluate all tasks with eval.py first")
        videos = load_annotations(task.dataset.json_file).select_splits(task.test_split, task.dataset.max_videos)
        guesses = generate_random_detections(videos, task.dataset.num_classes, task.test_cfg.max_seg_num)
        baselines = {"  random guessing": [guesses]}
        if read_provenance(Path(task.dataset.feat_folder)) is None:
            baselines = {"  window matching": match_windows(videos, task, config), **baselines}
        scores = {f"{task.task_type} network": metrics[key]}
        for name, choices in baselines.items():
            best = max((score_detections(found, videos, task.tious) for found in choices), key=lambda s: s.average)
            scores[name] = scores_to_dict(best, {})
        for name, tree in scores.items():
            cells = {f".{round(100 * t):02d}": f"{100 * x:.1f}" for t, x in zip(task.tious, tree["mAP"], strict=True)}
            rows.append({"task": name, **cells, "average": f"{100 * tree['average_mAP']:.2f}"})
    table = pd.DataFrame(rows)
    columns = ["task", *sorted(table.columns.drop(["task", "average"])), "average"]
    print("mAP in % on unseen videos at each tIoU, and their average")
    print(table[columns].fillna("").to_markdown(index=False, tablefmt="simple", disable_numparse=True))


if __name__ == "__main__":
    main()

"""Print mAP of the trained network beside random guessing and window matching, all scored in the same way.

python tools/demo_report.py configs/demo.yaml ckpt/demo_make

Random guessing draws class, score, start and end uniformly. Window matching knows the projections of planted features:
it thresholds the match of each window with what an event of a class adds to the features, and reports the best of
several thresholds. Features made by an encoder have no such projections, so that their table has no such row.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import DataError
from libs.core.files import read_json
from libs.core.prompts import load_prompts
from libs.core.types import Detections, Features, Video
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics.average_precision import DetectionScores, score_detections
from libs.features.planted import PlantedSource
from libs.features.provenance import read_provenance
from libs.features.sources import open_features
from libs.features.windows import feature_fps

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # relative to the mean match of a window within an event


def generate_random_detections(
    videos: list[Video], num_classes: int, per_video: int = 100, seed: int = 0
) -> Detections:
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


def match_windows(features: Features, signals: dict[str, np.ndarray], shows_in: tuple[str, ...]) -> np.ndarray:
    """Match windows with classes (T, C): on average 1 within an event in all its modalities, 0 elsewhere."""
    matches = []
    for modality in shows_in:
        signal = signals[modality]  # (C, D)
        matches.append(getattr(features, modality) @ (signal / (signal**2).sum(axis=1, keepdims=True)).T)
    return np.min(matches, axis=0)


def detect_by_matching(videos: list[Video], task: TaskSpec, config: Config) -> list[Detections]:
    """Detect, for each threshold, all runs of windows with a higher match. The score is their mean match."""
    source = open_features(task, config)
    dims = (config.model.input_dim_visual, config.model.input_dim_audio)
    signals = PlantedSource(task, load_prompts(task, config.model.text_dim), dims).signals
    stride, frames = task.dataset.feat_stride, task.dataset.num_frames
    rows: dict[float, list] = {threshold: [] for threshold in THRESHOLDS}
    for index, video in enumerate(videos):
        match = match_windows(source.load(video), signals, task.shows_in)
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


def score_window_matching(videos: list[Video], task: TaskSpec, config: Config) -> DetectionScores:
    """Score the best threshold."""
    scores = [score_detections(found, videos, task.tious) for found in detect_by_matching(videos, task, config)]
    return max(scores, key=lambda s: s.average)


def build_row(name: str, tious: Sequence[float], values: Sequence[float], average: float) -> dict[str, str]:
    cells = {f".{round(100 * tiou):02d}": f"{100 * value:.1f}" for tiou, value in zip(tious, values, strict=True)}
    return {"task": name, **cells, "average": f"{100 * average:.2f}"}


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
        rows.append(
            build_row(f"{task.task_type} network", task.tious, metrics[key]["mAP"], metrics[key]["average_mAP"])
        )
        guesses = generate_random_detections(videos, task.dataset.num_classes, task.test_cfg.max_seg_num)
        baselines = {"  random guessing": score_detections(guesses, videos, task.tious)}
        if read_provenance(Path(task.dataset.feat_folder)) is None:
            baselines = {"  window matching": score_window_matching(videos, task, config), **baselines}
        rows += [
            build_row(name, scores.tious, scores.map.tolist(), scores.average) for name, scores in baselines.items()
        ]
    table = pd.DataFrame(rows)
    columns = ["task", *sorted(table.columns.drop(["task", "average"])), "average"]
    print("mAP in % on unseen videos at each tIoU, and their average")
    print(table[columns].fillna("").to_markdown(index=False, tablefmt="simple", disable_numparse=True))


if __name__ == "__main__":
    main()

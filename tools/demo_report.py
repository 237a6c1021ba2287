"""The demo's table: the trained network beside what needs no training, all measured the same way.

python tools/demo_report.py configs/demo.yaml ckpt/demo_make

Random guessing draws class, score and ends uniformly. Window matching knows the true projections: it thresholds each
window's match with what the class's prompt adds to the features, and reports the best of several thresholds; features
that an encoder made have no such projections.
"""

from pathlib import Path

import numpy as np
from tabulate import tabulate

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import DataError
from libs.core.files import read_json
from libs.core.prompts import load_prompts
from libs.core.types import Detections, Features, Video
from libs.datasets.annotations import load_annotations
from libs.evaluation.baselines import generate_random_detections
from libs.evaluation.metrics.average_precision import score_detections
from libs.features.planted import PlantedSource
from libs.features.provenance import read_provenance
from libs.features.sources import open_features

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the mean match of a window within an event


def match_windows(features: Features, signals: dict[str, np.ndarray], shows_in: tuple[str, ...]) -> np.ndarray:
    """(T, C): 0 where a class is absent, 1 in the mean where it is present in all modalities it shows in."""
    matches = []
    for modality in shows_in:
        signal = signals[modality]  # (C, D)
        matches.append(getattr(features, modality) @ (signal / (signal**2).sum(axis=1, keepdims=True)).T)
    return np.min(matches, axis=0)


def window_matching(videos: list[Video], task: TaskSpec, config: Config) -> dict[float, Detections]:
    """For each threshold: every run of windows that match a class better is a detection, its mean match the score."""
    source = open_features(task, config)
    dims = (config.model.input_dim_visual, config.model.input_dim_audio)
    signals = PlantedSource(task, load_prompts(task, config.model.text_dim), dims).signals
    stride, frames, fps = task.dataset.feat_stride, task.dataset.num_frames, task.dataset.default_fps
    rows: dict[float, list] = {threshold: [] for threshold in THRESHOLDS}
    for index, video in enumerate(videos):
        match = match_windows(source.load(video), signals, task.shows_in)
        total = np.concatenate([np.zeros((1, match.shape[1])), np.cumsum(match, axis=0)])
        for threshold in THRESHOLDS:
            padded = np.pad(match > threshold, ((1, 1), (0, 0))).astype(np.int8)
            change = np.diff(padded, axis=0).T  # (C, T + 1)
            (label, first), (_, last) = np.nonzero(change == 1), np.nonzero(change == -1)
            score = (total[last, label] - total[first, label]) / (last - first)
            ends = (np.stack([first, last], axis=1) * stride + (frames - stride) / 2) / fps
            rows[threshold].append((np.full(len(label), index), ends.clip(0, video.duration), score, label))
    ids = tuple(video.video_id for video in videos)
    return {t: Detections(ids, *(np.concatenate(c) for c in zip(*r, strict=True))) for t, r in rows.items()}


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="for example configs/demo.yaml")
    parser.add_argument("run", metavar="RUN", type=Path, help="a folder with eval.py's metrics.json")
    args = parser.parse_args()
    config = load_config(args.config)
    metrics = read_json(args.run / "metrics.json", "what eval.py writes there")
    columns = sorted({round(tiou, 2) for task in config.tasks.values() for tiou in task.tious})
    table = []

    def add(name: str, tious: tuple[float, ...], values: list[float], average: float) -> None:
        at = {round(tiou, 2): f"{100 * value:.1f}" for tiou, value in zip(tious, values, strict=True)}
        table.append([name, *(at.get(column, "") for column in columns), f"{100 * average:.2f}"])

    for key, task in config.tasks.items():
        if key not in metrics:
            raise DataError(f"{args.run / 'metrics.json'}: no {key}; evaluate all tasks with eval.py first")
        videos = load_annotations(task.dataset.json_file).select_splits(task.test_split, task.dataset.max_videos)
        guesses = generate_random_detections(videos, task.dataset.num_classes, task.test_cfg.max_seg_num)
        guessing = score_detections(guesses, videos, task.tious)
        add(f"{task.task_type} network", task.tious, metrics[key]["mAP"], metrics[key]["average_mAP"])
        if read_provenance(Path(task.dataset.feat_folder)) is None:
            matched = [score_detections(f, videos, task.tious) for f in window_matching(videos, task, config).values()]
            best = max(matched, key=lambda scores: scores.average)
            add("  window matching", task.tious, best.map.tolist(), best.average)
        add("  random guessing", task.tious, guessing.map.tolist(), guessing.average)
    print("mAP in % on unseen videos at each tIoU, and their average")
    print(
        tabulate(
            table, headers=["task", *(f".{round(100 * c):02d}" for c in columns), "average"], disable_numparse=True
        )
    )


if __name__ == "__main__":
    main()

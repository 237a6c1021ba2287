"""What sed_scores_eval counts in each video at every threshold, and the annotated events as it wants them.

Shapes: V videos, C classes with events, E places in a class's scores where counts change, U different scores.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from libs.core.errors import DataError, UserError
from libs.core.types import Video
from libs.evaluation.sound_events.tables import OVERHANG_S

# No tolerance where times are compared: as sed_eval and psds_eval do it, whose figures are the published ones. (With
# the library's 6 decimals an offset that misses the collar by a rounding error is a hit: .39895 for .39873 on DESED.)
EXACT = 20
# The library rounds the ends of 1 s segments as well, and from 95 s on EXACT would move them.
COUNTED: dict[str, dict[str, Any]] = {
    "event": {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.2, "time_decimals": EXACT},
    "segment": {"segment_length": 1.0, "time_decimals": 6},
    "intersection": {"dtc_threshold": 0.5, "gtc_threshold": 0.5, "time_decimals": EXACT},
    "psds1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "cttc_threshold": None, "time_decimals": EXACT},
    "psds2": {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "time_decimals": EXACT},
}


class Truth(NamedTuple):
    """Annotated events, as the library wants them: of each video (start, end, class's name in it)."""

    labels: np.ndarray  # (C,)
    events: dict[str, list[tuple[float, float, str]]]
    count: np.ndarray  # (V, C)
    seconds: np.ndarray  # (V, C)
    durations: np.ndarray  # (V,)
    left_out: dict[str, int]


class Counts(NamedTuple):
    """What one class's true and false positives and cross-triggers change by as a threshold falls, in falling score."""

    scores: np.ndarray  # (E,)
    video: np.ndarray  # (E,)
    tps: np.ndarray  # (E,)
    fps: np.ndarray  # (E,)
    cts: np.ndarray  # (E, C); 0 where they are not counted
    last: np.ndarray  # (U,): the last place of each score


def load_library() -> Any:
    """The library, quietly: it loads dcase_util, which warns of its own old ways."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sed_scores_eval
    except ImportError as error:
        what = f"metrics of sound events need sed_scores_eval ({error})"
        raise UserError(f"{what}: pip install -e .[metrics]") from None
    return sed_scores_eval


def annotated(videos: list[Video]) -> Truth:
    """The events of videos; of a class, those that touch or overlap are one (the library wants them apart), and those
    without length none. What lies outside the video is cut off as detections are. Raises DataError where there are none
    at all."""
    spans: list[dict[int, list[list[float]]]] = []
    empty = joined = 0
    for video in videos:
        own: dict[int, list[list[float]]] = {}
        for (start, end), label in sorted(zip(video.segments.tolist(), video.labels.tolist(), strict=True)):
            runs = own.setdefault(label, [])
            start, end = max(start, 0.0), min(end, video.duration + OVERHANG_S)
            if end <= start:
                empty += 1
            elif runs and start <= runs[-1][1]:
                runs[-1][1] = max(runs[-1][1], end)
                joined += 1
            else:
                runs.append([start, end])
        spans.append(own)
    labels = np.array(sorted({label for own in spans for label, runs in own.items() if runs}), np.int64)
    if len(labels) == 0:
        raise DataError(f"none of {len(videos)} videos has an event with a length: metrics of sound events need some")
    runs = [[own.get(label, []) for label in labels.tolist()] for own in spans]
    return Truth(
        labels,
        {
            video.video_id: [
                (*run, name) for name, of_class in zip(class_columns(labels), own, strict=True) for run in of_class
            ]
            for video, own in zip(videos, runs, strict=True)
        },
        np.array([[len(of_class) for of_class in own] for own in runs]),
        np.array([[sum(end - start for start, end in of_class) for of_class in own] for own in runs]),
        np.array([video.duration for video in videos]),
        {"events_without_length_in_their_video": empty, "events_joined_to_another": joined},
    )


def class_columns(labels: np.ndarray) -> list[str]:
    """Names of classes within the library: real ones may hold what it uses to join names."""
    return [f"class {label}" for label in labels]


def count(metric: str, scores: dict[str, Any], truth: Truth) -> tuple[dict, np.ndarray]:
    """The library's deltas, {video: {class: (scores, {"tps", "fps", "cts"})}}, and how many positives (V, C) there are
    to be found. A score of 0 says that nothing was found, it is no low score: at 0 nothing changes."""
    library = load_library()
    columns = class_columns(truth.labels)
    settings = dict(COUNTED[metric])
    if metric == "event":
        deltas = library.collar_based.intermediate_statistics_deltas(scores, truth.events, **settings)
    elif metric == "segment":
        from sed_scores_eval.segment_based.intermediate_statistics import intermediate_statistics_deltas

        deltas = intermediate_statistics_deltas(scores, truth.events, audio_durations=None, **settings)
    else:
        if len(columns) == 1:
            settings["cttc_threshold"] = None  # there is no other class to be triggered by
        deltas = library.intersection_based.intermediate_statistics_deltas(scores, truth.events, **settings)
    positives = truth.count
    if metric == "segment":
        positives = np.array([[deltas[key][name][1]["tps"].sum() for name in columns] for key in truth.events])
    for of_video in deltas.values():
        for at, stats in of_video.values():
            stats |= {key: values * (at > 0) for key, values in stats.items()}
    return deltas, positives


def library_tables(frames: list[tuple[np.ndarray, np.ndarray]], truth: Truth) -> dict[str, Any]:
    """The library's data frame of each video's frame scores."""
    import pandas

    class Table(pandas.DataFrame):
        """Gives writable arrays, as the library's compiled part wants them: pandas itself doesn't from version 3 on."""

        @property
        def _constructor(self):
            return Table

        def to_numpy(self, *args, **kwargs):
            return super().to_numpy(*args, **kwargs).copy()

    create, columns = load_library().base_modules.scores.create_score_dataframe, class_columns(truth.labels)
    pairs = zip(truth.events, frames, strict=True)
    return {video_id: Table(create(scores, times, columns)) for video_id, (times, scores) in pairs}


def counts_of(deltas: dict, truth: Truth) -> list[Counts]:
    """The library's deltas, a class after the other, all videos together."""
    columns = class_columns(truth.labels)
    result = []
    for name in columns:
        parts = [deltas[key][name] for key in truth.events]
        scores = np.concatenate([at for at, _ in parts])
        video = np.repeat(np.arange(len(parts)), [len(at) for at, _ in parts])
        order = np.argsort(-scores, kind="stable")

        def joined(key: str, parts=parts, order=order) -> np.ndarray:
            columns = [stats.get(key, np.zeros(len(at))) for at, stats in parts]
            return np.concatenate(columns).astype(np.float64)[order]

        scores = scores[order]
        last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
        cts = np.stack([joined(f"cts\\{other}") for other in columns], axis=1)
        result.append(Counts(scores, video[order], joined("tps"), joined("fps"), cts, last))
    return result

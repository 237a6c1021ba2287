"""Counts of true and false positives at every threshold, by sed_scores_eval, and the reference events that it needs.

Shapes: V videos, C classes with events, E changes of a class's counts, U different scores.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from libs.core.errors import DataError
from libs.core.types import Video
from libs.evaluation.metrics.average_precision import GroundTruth
from libs.evaluation.sound_events.tables import OVERHANG_S

# Compare times without tolerance, as sed_eval and psds_eval do, which made the published figures. With the library's 6
# decimals an offset that misses the collar by a rounding error is a hit: .39895 instead of .39873 on DESED.
EXACT = 20
# Segments keep 6 decimals: the library also rounds the ends of 1 s segments, and EXACT would move them from 95 s on.
COUNTED: dict[str, dict[str, Any]] = {
    "event": {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.2, "time_decimals": EXACT},
    "segment": {"segment_length": 1.0, "time_decimals": 6},
    "intersection": {"dtc_threshold": 0.5, "gtc_threshold": 0.5, "time_decimals": EXACT},
    "psds1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "cttc_threshold": None, "time_decimals": EXACT},
    "psds2": {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "time_decimals": EXACT},
}

Event = tuple[float, float, str]  # start, end, class name in the library


class ReferenceEvents(NamedTuple):
    """Annotated events in the library's form.

    Attributes:
        labels: (C,) label_ids.
        events: by video_id.
        count, seconds: (V, C) number and length of events.
        durations: (V,) seconds.
        left_out: number of events that were dropped or merged, by reason.
    """

    labels: np.ndarray
    events: dict[str, list[Event]]
    count: np.ndarray
    seconds: np.ndarray
    durations: np.ndarray
    left_out: dict[str, int]


class ClassCounts(NamedTuple):
    """Changes of one class's counts as the threshold falls, over all videos, in falling score.

    Attributes:
        scores, video, tps, fps: (E,).
        cts: (E, C) cross-triggers with each class; 0 where the metric does not count them.
        last: (U,) index of the last change at each score.
    """

    scores: np.ndarray
    video: np.ndarray
    tps: np.ndarray
    fps: np.ndarray
    cts: np.ndarray
    last: np.ndarray


def load_library() -> Any:
    """Import sed_scores_eval, an extra, without the warnings of dcase_util, which it loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sed_scores_eval
    return sed_scores_eval


def build_reference(videos: list[Video]) -> ReferenceEvents:
    """Convert annotations to reference events.

    Events of a class that touch or overlap are merged, because the library needs them apart. Events are cut to the
    video as detections are; those without length are dropped.

    Raises:
        DataError: if no event is left.
    """
    truth = GroundTruth(videos)
    start, end = (
        truth.segments[:, 0].clip(min=0),
        truth.segments[:, 1].clip(max=truth.durations[truth.video] + OVERHANG_S),
    )
    table = pd.DataFrame({"video": truth.video, "label": truth.labels, "start": start, "end": end})
    events = table.query("start < end").sort_values(["video", "label", "start", "end"], kind="stable")
    if events.empty:
        raise DataError(f"none of {len(videos)} videos has an event with a length: metrics of sound events need some")
    # An event begins a new one if it starts after all earlier ones of its video and class.
    latest = events.groupby(["video", "label"]).end.cummax().groupby([events.video, events.label]).shift(fill_value=-1)
    number = (events.start > latest).cumsum()
    merged = events.groupby(number).agg({"video": "first", "label": "first", "start": "min", "end": "max"})

    labels, column = np.unique(merged.label, return_inverse=True)
    count, seconds = np.zeros((len(videos), len(labels)), int), np.zeros((len(videos), len(labels)))
    np.add.at(count, (merged.video, column), 1)
    np.add.at(seconds, (merged.video, column), merged.end - merged.start)
    by_video: dict[str, list[Event]] = {video.video_id: [] for video in videos}
    for video, start, end, name in zip(merged.video, merged.start, merged.end, name_classes(merged.label), strict=True):
        by_video[videos[video].video_id].append((start, end, name))
    left_out = {
        "events_without_length_in_their_video": len(table) - len(events),
        "events_joined_to_another": len(events) - len(merged),
    }
    return ReferenceEvents(labels, by_video, count, seconds, truth.durations, left_out)


def name_classes(labels: np.ndarray) -> list[str]:
    """Name classes for the library. Real names may contain its separator."""
    return [f"class {label}" for label in labels]


class _WritableFrame(pd.DataFrame):
    """A data frame with writable arrays, which the library's compiled part needs; those of pandas 3 are read-only."""

    @property
    def _constructor(self):
        return _WritableFrame

    def to_numpy(self, *args, **kwargs):
        return super().to_numpy(*args, **kwargs).copy()


def build_score_frames(frames: list[tuple[np.ndarray, np.ndarray]], reference: ReferenceEvents) -> dict[str, Any]:
    """Build the library's data frame of each video's frame scores (tables.compute_frame_scores)."""
    create = load_library().base_modules.scores.create_score_dataframe
    classes = name_classes(reference.labels)
    pairs = zip(reference.events, frames, strict=True)
    return {video_id: _WritableFrame(create(scores, times, classes)) for video_id, (times, scores) in pairs}


def count_changes(metric: str, scores: dict[str, Any], reference: ReferenceEvents) -> tuple[dict, np.ndarray]:
    """Count what changes as the threshold falls.

    Returns:
        the library's {video: {class: (scores, {"tps", "fps", "cts"})}}, and the number of positives (V, C).
    """
    library = load_library()
    classes = name_classes(reference.labels)
    settings = dict(COUNTED[metric])
    positives = reference.count
    if metric == "event":
        deltas = library.collar_based.intermediate_statistics_deltas(scores, reference.events, **settings)
    elif metric == "segment":
        from sed_scores_eval.segment_based.intermediate_statistics import intermediate_statistics_deltas

        deltas = intermediate_statistics_deltas(scores, reference.events, audio_durations=None, **settings)
        positives = np.array([[deltas[key][name][1]["tps"].sum() for name in classes] for key in reference.events])
    else:
        if len(classes) == 1:
            settings["cttc_threshold"] = None  # without a second class there are no cross-triggers
        deltas = library.intersection_based.intermediate_statistics_deltas(scores, reference.events, **settings)
    for by_class in deltas.values():
        for at, stats in by_class.values():  # a score of 0 means that nothing was found, so it changes no count
            stats |= {key: values * (at > 0) for key, values in stats.items()}
    return deltas, positives


def collect_counts(deltas: dict, reference: ReferenceEvents) -> list[ClassCounts]:
    """Collect the library's changes by class, over all videos."""
    classes = name_classes(reference.labels)
    result = []
    for name in classes:
        parts = [deltas[key][name] for key in reference.events]
        columns = {"scores": np.concatenate([at for at, _ in parts])}
        columns["video"] = np.repeat(np.arange(len(parts)), [len(at) for at, _ in parts])
        for key in ("tps", "fps", *(f"cts\\{other}" for other in classes)):
            columns[key] = np.concatenate([stats.get(key, np.zeros(len(at))) for at, stats in parts]).astype(float)
        table = pd.DataFrame(columns).sort_values("scores", ascending=False, kind="stable")
        scores, video, tps, fps, *cts = (table.loc[:, key].to_numpy() for key in table)
        last = np.flatnonzero(~table.scores.duplicated(keep="last"))
        result.append(ClassCounts(scores, video, tps, fps, np.stack(cts, axis=1), last))
    return result

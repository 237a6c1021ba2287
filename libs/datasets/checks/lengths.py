"""Compare the lengths of clips and events with max_seq_len and the regression ranges of the pyramid levels.

Clips are measured in windows, segments in grid units (after any resizing). V videos, N segments, L levels.
"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from tabulate import tabulate

from libs.core.config import Config, TaskSpec
from libs.datasets.checks.events import TaskVideos
from libs.datasets.checks.findings import Occurrence
from libs.features.windows import expected_windows, feature_fps, grid

BAR_WIDTH = 40  # characters
BINS_TO_MAX_SEQ_LEN = 8
WHOLE_CLIPS = 0.99  # the part of the clips that max_seq_len should hold without cropping
MIN_PART = 0.01  # of the events; a smaller part needs no suggestion


class TaskLengths:
    """Lengths of a task's training clips and events.

    Attributes:
        clips: (V,) windows of each video.
        events: one row for each event: video_id, windows and last grid point of its clip; start, end, span in grid
            units; matched, whether a point of some level is assigned to it.
        matches: (N, L) whether a point of the level is assigned to the event.
    """

    def __init__(self, config: Config, data: TaskVideos, num_windows: dict[str, int]):
        """Measure the training videos. num_windows: by video_id; what it lacks is computed from the duration."""
        self.task, self.model, dataset = data.task, config.model, data.task.dataset
        clips, rows = [], []
        for video in data.roles["train"]:
            video = video.remove_repeats() if data.task.drop_repeats else video
            windows = num_windows.get(video.video_id) or expected_windows(video, dataset)
            clips.append(windows)
            stride, frames = grid(dataset, windows)
            last_point = (dataset.max_seq_len if dataset.force_upsampling else windows) - 1
            for start, end in (video.segments * feature_fps(video, dataset) - 0.5 * frames) / stride:
                rows.append((video.video_id, windows, last_point, start, end, end - start))
        columns = {"video_id": str, "windows": int, "last_point": int, "start": float, "end": float, "span": float}
        self.clips = np.array(clips, np.int64)
        self.events = pd.DataFrame(rows, columns=list(columns)).astype(columns)
        self.matches = match_levels(self.events, self.model.regression_range, self.model.scale_factor)
        self.events["matched"] = self.matches.any(axis=1)


def match_levels(events: pd.DataFrame, ranges: tuple[tuple[float, float], ...], scale: int) -> np.ndarray:
    """Tell which pyramid levels have a point that is assigned to an event (method.md §3.6).

    Args:
        events: start, end and the last_point of their video, in grid units.
        ranges: (low, high) of max(t - start, end - t) for each of L levels.
        scale: ratio of the strides of two neighbouring levels.

    Returns:
        (N, L) bool.
    """
    starts, ends, last_points = (events[name].to_numpy() for name in ("start", "end", "last_point"))
    after = np.nextafter(starts, np.inf)  # points lie strictly inside
    before = np.minimum(np.nextafter(ends, -np.inf), last_points)
    matches = []
    for level, (low, high) in enumerate(ranges):
        first, last = np.maximum(np.maximum(after, ends - high), 0), np.minimum(before, starts + high)
        far_from_start = _contains_point(np.maximum(first, starts + low), last, scale**level)
        far_from_end = _contains_point(first, np.minimum(last, ends - low), scale**level)
        matches.append(far_from_start | far_from_end)
    return np.stack(matches, axis=1)


def _contains_point(first: np.ndarray, last: np.ndarray, stride: int) -> np.ndarray:
    """Tell whether a multiple of stride lies in [first, last]."""
    return np.floor(last / stride) * stride >= first


def check_lengths(lengths: TaskLengths) -> Iterator[Occurrence]:
    """Find events that training does not see."""
    dataset, events, split = lengths.task.dataset, lengths.events, "+".join(lengths.task.train_split)
    max_span = dataset.max_seq_len + dataset.num_frames / dataset.feat_stride  # of a crop and its margins
    is_cropped = (events["windows"] > dataset.max_seq_len) & (not dataset.force_upsampling)
    too_long = is_cropped & (dataset.trunc_thresh * events["span"] > max_span)
    is_inside = (events["start"] < events["last_point"]) & (events["end"] > 0) & (events["span"] > 0)
    unmatched = is_inside & ~events["matched"]
    for check, failed in (("longer than any crop", too_long), ("learned by no point", unmatched)):
        for event in events.loc[failed].to_dict(orient="records"):
            message = "grid units {start:.1f} to {end:.1f}, {span:.2f} long".format_map(event)
            yield Occurrence(split, check, event["video_id"], message)


def build_histograms(lengths: TaskLengths) -> dict[str, list[dict]]:
    """Count clips by length, segments by length (with the levels that match some of them) and segments by level.

    Returns:
        "clips", "segments" and "levels": rows of {"from", "to", "count"}.
    """
    spans, ranges = lengths.events["span"].to_numpy(), np.array(lengths.model.regression_range)
    edges = _clip_edges(lengths.task.dataset.max_seq_len, int(lengths.clips.max(initial=1)))
    octaves = np.array([0.0, *(2.0**k for k in range(math.frexp(spans.max(initial=1.0))[1] + 1))])
    segments = _to_rows(octaves[:-1], octaves[1:], np.histogram(spans, octaves)[0])
    for row in segments:
        matched = lengths.matches[(spans >= row["from"]) & (spans < row["to"])]
        row["levels"] = np.flatnonzero(matched.any(axis=0)).tolist()
    return {
        "clips": _to_rows(edges[:-1] + 1, edges[1:], np.histogram(lengths.clips, edges + 0.5)[0]),
        "segments": segments,
        "levels": _to_rows(ranges[:, 0], ranges[:, 1], lengths.matches.sum(axis=0)),
    }


def _to_rows(low: np.ndarray, high: np.ndarray, count: np.ndarray) -> list[dict]:
    return pd.DataFrame({"from": low, "to": high, "count": count}).to_dict(orient="records")


def _clip_edges(max_seq_len: int, longest: int) -> np.ndarray:
    """Compute the bins' edges in windows: equal bins up to twice max_seq_len, which is an edge, then doubling ones."""
    step = max(1, max_seq_len // BINS_TO_MAX_SEQ_LEN)
    edges = [*range(0, max_seq_len, step), *range(max_seq_len, 2 * max_seq_len, step), 2 * max_seq_len]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    return np.array(edges[: np.searchsorted(edges, longest) + 1])


def format_histograms(histograms: dict[str, list[dict]], task: TaskSpec) -> str:
    """Format the histograms of a task as text: in each line a bar, a count, a percentage and the levels."""
    max_seq_len, effect = task.dataset.max_seq_len, "resized" if task.dataset.force_upsampling else "cropped"
    clips, segments = ([row for row in histograms[key] if row["count"]] for key in ("clips", "segments"))
    levels = [{**row, "levels": [level]} for level, row in enumerate(histograms["levels"])]
    lines = []
    for title, rows, counted in (
        (f"windows of training clips; those above max_seq_len {max_seq_len} are {effect}", clips, clips),
        ("grid units of training events, and the levels that they are assigned to", segments, segments),
        ("training events of each level (regression_range; some count at several)", levels, segments),
    ):
        longest, total = max([1, *(row["count"] for row in rows)]), sum(row["count"] for row in counted)
        table = []
        for row in rows:
            bar, percent = "█" * math.ceil(BAR_WIDTH * row["count"] / longest), 100 * row["count"] / max(1, total)
            note = ", ".join(f"level {level}" for level in row.get("levels", ()))
            table.append([f"{row['from']:g}–{row['to']:g}", bar, row["count"], percent, note])
        chart = tabulate(table, headers=["", "", "count", "%", ""], tablefmt="plain", floatfmt=".1f")
        lines += [f"{task.key} {task.dataset_name}: {title}", chart]
    return "\n".join(lines)


def suggest_settings(lengths: TaskLengths) -> Iterator[str]:
    """Suggest settings of max_seq_len and regression_range, one sentence each."""
    dataset, clips, events, matches = lengths.task.dataset, lengths.clips, lengths.events, lengths.matches
    if len(clips):
        stride = lengths.model.coarsest_stride
        enough = math.ceil(np.quantile(clips, WHOLE_CLIPS, method="higher") / stride) * stride
        longer = np.mean(clips > dataset.max_seq_len)
        if longer or enough <= dataset.max_seq_len / 2:
            part = f"{longer:.1%} of training clips are longer than max_seq_len {dataset.max_seq_len}"
            yield f"{part}; {WHOLE_CLIPS:.0%} fit into {enough} windows"
    used = set(np.flatnonzero(matches.any(axis=0)).tolist())
    if used and (unused := sorted(set(range(matches.shape[1])) - used)):
        levels = ", ".join(map(str, unused))
        yield f"no training event in the range of level {levels}; backbone_arch[2] = {max(used)} is enough"
    if (short := np.mean(events["span"] < 1)) > MIN_PART:
        remedy = "a larger max_seq_len" if dataset.force_upsampling else "a smaller feat_stride"
        yield f"{short:.1%} of training events are shorter than the grid's spacing: use {remedy}"
    if (unmatched := np.mean(~events["matched"])) > MIN_PART:
        yield f"{unmatched:.1%} of training events are assigned to no point of any level"

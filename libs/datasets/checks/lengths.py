"""Compare the lengths of clips and events with max_seq_len and the regression ranges of the pyramid levels.

Clips are measured in windows, segments in grid units (after any resizing). V videos, N segments, L levels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from libs.core.config import Config, ModelConfig, TaskSpec
from libs.core.errors import format_list
from libs.datasets.checks.events import TaskVideos
from libs.datasets.checks.findings import Occurrence
from libs.features.windows import expected_windows, feature_fps, grid

BAR_WIDTH = 40  # characters
BINS_TO_MAX_SEQ_LEN = 8
WHOLE_CLIPS = 0.99  # the part of the clips that max_seq_len should hold without cropping
MIN_PART = 0.01  # of the events; a smaller part needs no suggestion


@dataclass(frozen=True)
class TaskLengths:
    """Lengths of a task's training clips and events.

    clips: (V,) windows of each video.
    events: one row for each event: video_id, windows and last grid point of its clip; start, end, span in grid units.
    matches: (N, L) whether a point of the level is assigned to the event.
    """

    task: TaskSpec
    model: ModelConfig
    clips: np.ndarray
    events: pd.DataFrame
    matches: np.ndarray

    @classmethod
    def measure(cls, config: Config, data: TaskVideos, num_windows: dict[str, int]) -> "TaskLengths":
        """Measure the training videos. num_windows: by video_id; what it lacks is computed from the duration."""
        task, model, dataset, rows, clips = data.task, config.model, data.task.dataset, [], []
        for video in data.roles["train"]:
            video = video.remove_repeats() if task.drop_repeats else video
            windows = num_windows.get(video.video_id) or expected_windows(video, dataset)
            clips.append(windows)
            stride, frames = grid(dataset, windows)
            last_point = (dataset.max_seq_len if dataset.force_upsampling else windows) - 1
            for start, end in (video.segments * feature_fps(video, dataset) - 0.5 * frames) / stride:
                rows.append((video.video_id, windows, last_point, start, end, end - start))
        columns = {"video_id": str, "windows": int, "last_point": int, "start": float, "end": float, "span": float}
        events = pd.DataFrame(rows, columns=list(columns)).astype(columns)
        segments, last_points = events[["start", "end"]].to_numpy(), events["last_point"].to_numpy()
        matches = match_levels(segments, last_points, model.regression_range, model.scale_factor)
        return cls(task, model, np.array(clips, np.int64), events, matches)


def match_levels(
    segments: np.ndarray, last_points: np.ndarray, ranges: tuple[tuple[float, float], ...], scale: int
) -> np.ndarray:
    """Tell which pyramid levels have a point that is assigned to a segment (method.md §3.6).

    Args:
        segments: (N, 2) start and end in grid units.
        last_points: (N,) the last grid point of each segment's video.
        ranges: (low, high) of max(t - start, end - t) for each of L levels.
        scale: ratio of the strides of two neighbouring levels.

    Returns:
        (N, L) bool.
    """
    starts, ends = segments.T
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
    unmatched = is_inside & ~lengths.matches.any(axis=1)
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
    """Format the histograms of a task as text."""
    max_seq_len, name = task.dataset.max_seq_len, f"{task.key} {task.dataset_name}"
    beyond = "resized to max_seq_len" if task.dataset.force_upsampling else "cropped"
    clips, segments, levels = (histograms[key] for key in ("clips", "segments", "levels"))
    clip_bars = [(_range(row), row["count"], beyond * (row["from"] > max_seq_len)) for row in _skip_empty(clips)]
    level_bars = [(f"level {level}: {_range(row)}", row["count"], "") for level, row in enumerate(levels)]
    segment_bars = []
    for row in _skip_empty(segments):
        note = f"level {format_list(row['levels'], len(levels))}" if row["levels"] else ""
        segment_bars.append((_range(row), row["count"], note))
    lines = [
        f"{name}: windows of training clips; max_seq_len {max_seq_len}",
        *_format_bars(clip_bars, sum(row["count"] for row in clips)),
        f"{name}: grid units of training events, and the levels that they are assigned to",
        *_format_bars(segment_bars, sum(row["count"] for row in segments)),
        f"{name}: training events assigned to each level (regression_range)",
        *_format_bars(level_bars, sum(row["count"] for row in segments)),
    ]
    return "\n".join(lines)


def _range(row: dict) -> str:
    return f"{row['from']:g}–{row['to']:g}"


def _skip_empty(rows: list[dict]) -> list[dict]:
    """Leave out the empty rows at the beginning."""
    return rows[next((i for i, row in enumerate(rows) if row["count"]), len(rows)) :]


def _format_bars(bars: list[tuple[str, int, str]], total: int) -> Iterator[str]:
    """Format a bar chart. bars: (name, count, note)."""
    name_width = max((len(name) for name, _, _ in bars), default=0)
    longest = max([1, *(count for _, count, _ in bars)])
    for name, count, note in bars:
        bar, percent = "█" * math.ceil(BAR_WIDTH * count / longest), 100 * count / max(1, total)
        yield f"  {name:>{name_width}}  {bar:<{BAR_WIDTH}} {count:>6} {percent:5.1f} %  {note}".rstrip()


def suggest_settings(lengths: TaskLengths) -> list[str]:
    """Suggest settings of max_seq_len and regression_range, one sentence each."""
    return [*_suggest_max_seq_len(lengths), *_suggest_levels(lengths)]


def _suggest_max_seq_len(lengths: TaskLengths) -> Iterator[str]:
    clips, stride, max_seq_len = lengths.clips, lengths.model.coarsest_stride, lengths.task.dataset.max_seq_len
    if not len(clips):
        return
    longer = float((clips > max_seq_len).mean())
    if lengths.task.dataset.force_upsampling:
        shortest, median, longest = (round(n) for n in np.quantile(clips, (0, 0.5, 1)))
        yield (
            f"clips of {shortest} to {longest} windows (half of them up to {median}) are all resized to max_seq_len "
            f"{max_seq_len}" + (f"; {_format_part(longer)} of them are longer and lose detail" if longer else "")
        )
        return
    enough = math.ceil(np.quantile(clips, WHOLE_CLIPS, method="higher") / stride) * stride
    if longer:
        remedy = f"; {enough} would hold 99 % of them whole" if enough > max_seq_len else ""
        part = _format_part(longer)
        yield f"{part} of training clips are longer than max_seq_len {max_seq_len} and are cropped{remedy}"
    elif enough <= max_seq_len / 2:
        yield f"99 % of training clips have at most {enough} windows: max_seq_len {max_seq_len} could be {enough}"


def _suggest_levels(lengths: TaskLengths) -> Iterator[str]:
    ranges, matches = lengths.model.regression_range, lengths.matches
    if not len(matches):
        return
    used = np.flatnonzero(matches.any(axis=0)).tolist()
    last = max(used, default=-1)
    if 0 <= last < len(ranges) - 1:
        unused = ", ".join(map(str, range(last + 1, len(ranges))))
        remedy = f"levels up to {last} (backbone_arch[2] = {last}) are enough"
        yield f"no training event is in the range of level {unused}: {remedy}"
    for level in sorted(set(range(last)) - set(used)):
        yield f"no training event is in the range of level {level}, {ranges[level][0]:g} to {ranges[level][1]:g}"
    if (short := float((lengths.events["span"].to_numpy() < 1).mean())) > MIN_PART:
        remedy = "a larger max_seq_len" if lengths.task.dataset.force_upsampling else "a smaller feat_stride"
        yield f"{_format_part(short)} of training events are shorter than the grid's spacing: use {remedy}"
    if (unmatched := float((~matches.any(axis=1)).mean())) > MIN_PART:
        yield f"{_format_part(unmatched)} of training events are assigned to no point of any level"


def _format_part(part: float) -> str:
    return f"{100 * part:.1f} %" if part < 0.1 else f"{100 * part:.0f} %"

"""Compare the lengths of clips and events with max_seq_len and the regression ranges of the pyramid levels.

Clips are measured in windows, segments in grid units (after any resizing). V videos, N segments, L levels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from libs.core.config import ModelConfig, TaskSpec
from libs.core.types import Video
from libs.datasets.checks.findings import Occurrence
from libs.features.windows import feature_fps, grid

BAR_WIDTH = 40  # characters
BINS_TO_MAX_SEQ_LEN = 8
WHOLE_CLIPS = 0.99  # the part of the clips that max_seq_len should hold without cropping
MIN_PART = 0.01  # of the events; a smaller part needs no suggestion


@dataclass(frozen=True)
class TaskLengths:
    """Lengths of a task's training clips and events.

    clips (V,) windows of each video; segments (N, 2) start and end; owner (N,) the video of each segment.
    """

    task: TaskSpec
    model: ModelConfig
    videos: list[Video]
    clips: np.ndarray
    segments: np.ndarray
    owner: np.ndarray

    @classmethod
    def measure(cls, task: TaskSpec, model: ModelConfig, videos: list[Video], clips: list[int]) -> "TaskLengths":
        """Measure training videos. clips: windows of each video."""
        videos = [video.remove_repeats() for video in videos] if task.drop_repeats else videos
        segments = [np.empty((0, 2))]
        for video, length in zip(videos, clips, strict=True):
            stride, frames = grid(task.dataset, length)
            segments.append((video.segments * feature_fps(video, task.dataset) - 0.5 * frames) / stride)
        owner = np.repeat(np.arange(len(videos)), [len(video.labels) for video in videos])
        return cls(task, model, videos, np.array(clips, np.int64), np.concatenate(segments), owner)

    @property
    def spans(self) -> np.ndarray:
        """(N,) lengths of the segments."""
        return self.segments[:, 1] - self.segments[:, 0]

    @property
    def last_points(self) -> np.ndarray:
        """(N,) the last grid point of each segment's video."""
        dataset = self.task.dataset
        lengths = np.full_like(self.clips, dataset.max_seq_len) if dataset.force_upsampling else self.clips
        return lengths[self.owner] - 1

    def match_levels(self) -> np.ndarray:
        """(N, L) whether a point of the level is assigned to the segment."""
        return match_levels(self.segments, self.last_points, self.model.regression_range, self.model.scale_factor)


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
    dataset, spans, last_points = lengths.task.dataset, lengths.spans, lengths.last_points
    max_span = dataset.max_seq_len + dataset.num_frames / dataset.feat_stride  # of a crop and its margins
    is_cropped = (lengths.clips[lengths.owner] > dataset.max_seq_len) & (not dataset.force_upsampling)
    too_long = is_cropped & (dataset.trunc_thresh * spans > max_span)
    is_inside = (lengths.segments[:, 0] < last_points) & (lengths.segments[:, 1] > 0) & (spans > 0)
    unmatched = is_inside & ~lengths.match_levels().any(axis=1)
    for check, failed in (("longer than any crop", too_long), ("learned by no point", unmatched)):
        for row in np.flatnonzero(failed):
            start, end = lengths.segments[row]
            message = f"grid units {start:.1f} to {end:.1f}, {end - start:.2f} long"
            yield Occurrence(
                "+".join(lengths.task.train_split), check, lengths.videos[lengths.owner[row]].video_id, message
            )


def build_histograms(lengths: TaskLengths) -> dict[str, list[dict]]:
    """Count clips by length, segments by length (with the levels that match some of them) and segments by level.

    Returns:
        "clips", "segments" and "levels": rows of {"from", "to", "count"}.
    """
    spans, matches = lengths.spans, lengths.match_levels()
    edges = _clip_edges(lengths.task.dataset.max_seq_len, int(lengths.clips.max(initial=1)))
    counts = np.histogram(lengths.clips, [edge + 0.5 for edge in edges])[0].tolist()
    segments = []
    for low, high in pairwise([0.0, *(2.0**k for k in range(math.frexp(spans.max(initial=1.0))[1] + 1))]):
        rows = (spans >= low) & (spans < high)
        levels = np.flatnonzero(matches[rows].any(axis=0)).tolist()
        segments.append({"from": low, "to": high, "count": int(rows.sum()), "levels": levels})
    return {
        "clips": [{"from": a + 1, "to": b, "count": n} for (a, b), n in zip(pairwise(edges), counts, strict=True)],
        "segments": segments,
        "levels": [
            {"from": low, "to": high, "count": int(matches[:, level].sum())}
            for level, (low, high) in enumerate(lengths.model.regression_range)
        ],
    }


def _clip_edges(max_seq_len: int, longest: int) -> list[int]:
    """Compute the bins' edges in windows: equal bins up to twice max_seq_len, which is an edge, then doubling ones."""
    step = max(1, max_seq_len // BINS_TO_MAX_SEQ_LEN)
    edges = [*range(0, max_seq_len, step), *range(max_seq_len, 2 * max_seq_len, step), 2 * max_seq_len]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    return edges[: np.searchsorted(edges, longest) + 1]


def format_histograms(histograms: dict[str, list[dict]], task: TaskSpec) -> str:
    """Format the histograms of a task as text."""
    max_seq_len, name = task.dataset.max_seq_len, f"{task.key} {task.dataset_name}"
    beyond = "resized to max_seq_len" if task.dataset.force_upsampling else "cropped"
    clips, segments, levels = (histograms[key] for key in ("clips", "segments", "levels"))
    num_segments = sum(row["count"] for row in segments)
    clip_bars = [(_range(row), row["count"], beyond * (row["from"] > max_seq_len)) for row in _skip_empty(clips)]
    segment_bars = [
        (_range(row), row["count"], "level " * bool(row["levels"]) + ", ".join(map(str, row["levels"])))
        for row in _skip_empty(segments)
    ]
    level_bars = [(f"level {level}: {_range(row)}", row["count"], "") for level, row in enumerate(levels)]
    return "\n".join(
        [
            f"{name}: windows of training clips; max_seq_len {max_seq_len}",
            *_format_bars(clip_bars, sum(row["count"] for row in clips)),
            f"{name}: grid units of training events, and the levels that they are assigned to",
            *_format_bars(segment_bars, num_segments),
            f"{name}: training events assigned to each level (regression_range)",
            *_format_bars(level_bars, num_segments),
        ]
    )


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
    dataset, clips, stride = lengths.task.dataset, lengths.clips, lengths.model.coarsest_stride
    if not len(clips):
        return
    max_seq_len = dataset.max_seq_len
    enough = math.ceil(np.quantile(clips, WHOLE_CLIPS, method="higher") / stride) * stride
    longer = float((clips > max_seq_len).mean())
    if dataset.force_upsampling:
        shortest, median, longest = (round(n) for n in np.quantile(clips, (0, 0.5, 1)))
        lost = f"; {_format_part(longer)} of them are longer and lose detail" if longer else ""
        yield (
            f"clips of {shortest} to {longest} windows (half of them up to {median}) are all resized to max_seq_len "
            f"{max_seq_len}{lost}"
        )
    elif longer:
        remedy = f"; {enough} would hold 99 % of them whole" if enough > max_seq_len else ""
        part = _format_part(longer)
        yield f"{part} of training clips are longer than max_seq_len {max_seq_len} and are cropped{remedy}"
    elif enough <= max_seq_len / 2:
        yield f"99 % of training clips have at most {enough} windows: max_seq_len {max_seq_len} could be {enough}"


def _suggest_levels(lengths: TaskLengths) -> Iterator[str]:
    spans, ranges, matches = lengths.spans, lengths.model.regression_range, lengths.match_levels()
    if not len(spans):
        return
    used = np.flatnonzero(matches.any(axis=0)).tolist()
    last = max(used, default=-1)
    if 0 <= last < len(ranges) - 1:
        unused = ", ".join(map(str, range(last + 1, len(ranges))))
        yield (
            f"no training event is in the range of level {unused}: "
            f"levels up to {last} (backbone_arch[2] = {last}) are enough"
        )
    for level in sorted(set(range(last)) - set(used)):
        yield f"no training event is in the range of level {level}, {ranges[level][0]:g} to {ranges[level][1]:g}"
    if (short := float((spans < 1).mean())) > MIN_PART:
        remedy = "a larger max_seq_len" if lengths.task.dataset.force_upsampling else "a smaller feat_stride"
        yield f"{_format_part(short)} of training events are shorter than the grid's spacing: use {remedy}"
    if (unmatched := float((~matches.any(axis=1)).mean())) > MIN_PART:
        yield f"{_format_part(unmatched)} of training events are assigned to no point of any level"


def _format_part(part: float) -> str:
    return f"{100 * part:.1f} %" if part < 0.1 else f"{100 * part:.0f} %"

"""How long clips and events are, against max_seq_len and the levels' regression ranges: histograms and advice.

V videos, N segments, L levels; lengths in windows (of clips) and grid units (of segments, after any resizing).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from libs.core.config import ModelConfig, TaskSpec
from libs.core.types import Video
from libs.datasets.checks.findings import Finding, Occurrence, found
from libs.features.windows import feature_fps, grid

BAR = 40  # characters
BINS_TO_MAX_SEQ_LEN = 8
MOST = 0.99  # of the clips: what max_seq_len should hold
RARE = 0.01  # of the segments: what needs no advice


@dataclass(frozen=True)
class TaskLengths:
    """Of training: V videos, clips (V,) windows, segments (N, 2) grid units, owner (N,) a segment's video,
    in_video (N,) whether any of it lies within the video."""

    task: TaskSpec
    model: ModelConfig
    videos: list[Video]
    clips: np.ndarray
    segments: np.ndarray
    owner: np.ndarray
    in_video: np.ndarray

    @classmethod
    def of(cls, task: TaskSpec, model: ModelConfig, videos: list[Video], clips: list[int]) -> "TaskLengths":
        videos = [video.remove_repeats() for video in videos] if task.drop_repeats else videos
        segments, inside = [np.empty((0, 2))], [np.empty(0, bool)]
        for video, length in zip(videos, clips, strict=True):
            stride, frames = grid(task.dataset, length)
            segments.append((video.segments * feature_fps(video, task.dataset) - 0.5 * frames) / stride)
            inside.append((video.segments[:, 0] < video.duration) & (video.segments[:, 1] > 0))
        owner = np.repeat(np.arange(len(videos)), [len(video.labels) for video in videos])
        clips = np.array(clips, np.int64)
        return cls(task, model, videos, clips, np.concatenate(segments), owner, np.concatenate(inside))

    @property
    def spans(self) -> np.ndarray:
        """(N,) lengths of the segments."""
        return self.segments[:, 1] - self.segments[:, 0]

    @property
    def ends(self) -> np.ndarray:
        """(N,) the last grid point of each segment's video."""
        lengths = np.full(len(self.clips), self.task.dataset.max_seq_len)
        return (lengths if self.task.dataset.force_upsampling else self.clips)[self.owner] - 1

    def levels(self) -> np.ndarray:
        """(N, L) whether a point of the level learns the segment."""
        return learned_at(self.segments, self.ends, self.model.regression_range, self.model.scale_factor)


def learned_at(
    segments: np.ndarray, ends: np.ndarray, ranges: tuple[tuple[float, float], ...], scale: int
) -> np.ndarray:
    """Whether some point of a level lies inside a segment at a distance that the level regresses (method.md §3.6).

    segments (N, 2), ends (N,) the last point, ranges L × (low, high) of max(t - start, end - t) -> (N, L) bool.
    """
    starts, stops = segments.T
    after = np.nextafter(starts, np.inf)  # a point lies strictly inside
    before = np.minimum(np.nextafter(stops, -np.inf), ends)
    hits = []
    for level, (low, high) in enumerate(ranges):
        stride = scale**level
        first, last = np.maximum(np.maximum(after, stops - high), 0), np.minimum(before, starts + high)
        far_from_start = _has_point(np.maximum(first, starts + low), last, stride)
        far_from_end = _has_point(first, np.minimum(last, stops - low), stride)
        hits.append(far_from_start | far_from_end)
    return np.stack(hits, axis=1)


def _has_point(first: np.ndarray, last: np.ndarray, stride: int) -> np.ndarray:
    """Whether a multiple of stride lies in [first, last]."""
    return np.floor(last / stride) * stride >= first


def check_learning(lengths: TaskLengths) -> Iterator[Finding]:
    """Events of which training sees nothing."""
    task, spans = lengths.task, lengths.spans
    split = "+".join(task.train_split)

    def cases(rows: np.ndarray) -> Iterator[Occurrence]:
        for row in np.flatnonzero(rows).tolist():
            start, end = lengths.segments[row]
            said = f"grid units {start:.1f} to {end:.1f}, {end - start:.2f} long"
            yield Occurrence(lengths.videos[lengths.owner[row]].video_id, said)

    kept = task.dataset.max_seq_len + task.dataset.num_frames / task.dataset.feat_stride  # the crop and its margins
    too_long = np.zeros(len(spans), bool)
    if not task.dataset.force_upsampling:
        cropped = lengths.clips[lengths.owner] > task.dataset.max_seq_len
        too_long = cropped & (task.dataset.trunc_thresh * spans > kept)
    yield from found(task.key, split, "longer than any crop", cases(too_long))
    inside = (lengths.segments[:, 0] < lengths.ends) & (lengths.segments[:, 1] > 0)
    yield from found(
        task.key, split, "learned by no point", cases(~lengths.levels().any(axis=1) & (spans > 0) & inside)
    )


def histograms(lengths: TaskLengths) -> dict:
    """Rows of {from, to, count}: of clips, of segments with the levels that learn some of them, of levels."""
    ranges, levels = lengths.model.regression_range, lengths.levels()
    edges = _clip_edges(lengths.task.dataset.max_seq_len, int(lengths.clips.max(initial=1)))
    counts = np.histogram(lengths.clips, [edge + 0.5 for edge in edges])[0].tolist()
    octaves = [0.0, *(2.0**k for k in range(math.frexp(lengths.spans.max(initial=1.0))[1] + 1))]
    rows = [(lengths.spans >= low) & (lengths.spans < high) for low, high in pairwise(octaves)]
    learned = [np.flatnonzero(levels[row].any(axis=0)).tolist() for row in rows]
    return {
        "clips": [{"from": a + 1, "to": b, "count": n} for (a, b), n in zip(pairwise(edges), counts, strict=True)],
        "segments": [
            {"from": low, "to": high, "count": int(row.sum()), "levels": of_row}
            for (low, high), row, of_row in zip(pairwise(octaves), rows, learned, strict=True)
        ],
        "levels": [
            {"from": low, "to": high, "count": int(n)}
            for (low, high), n in zip(ranges, levels.sum(axis=0), strict=True)
        ],
    }


def _clip_edges(limit: int, longest: int) -> list[int]:
    """Windows at which bins end: equal ones up to max_seq_len, which is an edge, and twice that, then doubling ones."""
    step = max(1, limit // BINS_TO_MAX_SEQ_LEN)
    edges = [*range(0, limit, step), *range(limit, 2 * limit, step), 2 * limit]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    return edges[: np.searchsorted(edges, longest) + 1]


def format_histograms(tree: dict, task: TaskSpec) -> str:
    """Histograms as text."""
    limit, name = task.dataset.max_seq_len, f"{task.key} {task.dataset_name}"
    beyond = "shortened to max_seq_len" if task.dataset.force_upsampling else "cropped"
    clips, segments, levels = _from_first(tree["clips"]), _from_first(tree["segments"]), tree["levels"]
    learned = ["level " + ", ".join(map(str, row["levels"])) if row["levels"] else "" for row in segments]
    ranges = [f"level {level}: {row['from']:g}–{row['to']:g}" for level, row in enumerate(levels)]
    return "\n".join(
        [
            f"{name}: training clips, windows; max_seq_len {limit}",
            *_bars(
                [f"{row['from']}–{row['to']}" for row in clips], clips, [beyond * (r["from"] > limit) for r in clips]
            ),
            f"{name}: training events, grid units, and the levels that learn them",
            *_bars([f"{row['from']:g}–{row['to']:g}" for row in segments], segments, learned),
            f"{name}: training events that a level learns (regression_range)",
            *_bars(ranges, levels, [""] * len(levels), of=sum(row["count"] for row in segments)),
        ]
    )


def _from_first(rows: list[dict]) -> list[dict]:
    """Without the empty rows that come first."""
    return rows[next((i for i, row in enumerate(rows) if row["count"]), len(rows)) :]


def _bars(names: list[str], rows: list[dict], remarks: list[str], of: int | None = None) -> list[str]:
    counts, wide = [row["count"] for row in rows], max(map(len, names), default=0)
    longest, of = max([1, *counts]), max(1, sum(counts) if of is None else of)
    bars = ["█" * math.ceil(BAR * count / longest) for count in counts]
    shares = [f"{count:>6} {100 * count / of:5.1f} %" for count in counts]
    parts = zip(names, bars, shares, remarks, strict=True)
    return [f"  {name:>{wide}}  {bar:<{BAR}} {share}  {remark}".rstrip() for name, bar, share, remark in parts]


def length_advice(lengths: TaskLengths) -> list[str]:
    """What the lengths say about the configuration, a sentence each."""
    return [*_of_clips(lengths), *_of_levels(lengths)]


def _of_clips(lengths: TaskLengths) -> Iterator[str]:
    dataset, clips, multiple = lengths.task.dataset, lengths.clips, lengths.model.coarsest_stride
    if not len(clips):
        return
    limit = dataset.max_seq_len
    enough = math.ceil(np.quantile(clips, MOST, method="higher") / multiple) * multiple
    longer = float((clips > limit).mean())
    if dataset.force_upsampling:
        least, middle, most = (round(n) for n in np.quantile(clips, (0, 0.5, 1)))
        detail = f"; {_percent(longer)} of them are longer and lose detail" if longer else ""
        yield (
            f"clips of {least} to {most} windows (half of them up to {middle}) are all resized to max_seq_len "
            f"{limit}{detail}"
        )
    elif longer:
        remedy = f"; {enough} would hold 99 % whole" if enough > limit else ""
        yield f"{_percent(longer)} of training clips are longer than max_seq_len {limit}: they are cropped{remedy}"
    elif enough <= limit / 2:
        yield f"99 % of training clips have at most {enough} windows: max_seq_len {enough} would do, it is {limit}"


def _of_levels(lengths: TaskLengths) -> Iterator[str]:
    spans, ranges = lengths.spans, lengths.model.regression_range
    if not len(spans):
        return
    learned = lengths.levels()
    used = np.flatnonzero(learned.any(axis=0)).tolist()
    last = used[-1] if used else -1
    if 0 <= last < len(ranges) - 1:
        idle = ", ".join(map(str, range(last + 1, len(ranges))))
        remedy = f"levels up to {last} (backbone_arch[2] = {last}) would do"
        yield f"no training event falls in the range of level {idle}: {remedy}"
    for level in sorted(set(range(last)) - set(used)):
        yield f"no training event falls in the range of level {level}, {ranges[level][0]:g} to {ranges[level][1]:g}"
    if (short := float((spans < 1).mean())) > RARE:
        remedy = "a larger max_seq_len" if lengths.task.dataset.force_upsampling else "a smaller feat_stride"
        yield f"{_percent(short)} of training events are shorter than the points' spacing: {remedy} would help them"
    if (lost := float((~learned.any(axis=1)).mean())) > RARE:
        yield f"{_percent(lost)} of training events are learned by no point of any level"


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %" if part < 0.1 else f"{100 * part:.0f} %"

"""What a configuration should be for data of a user's own: rules from durations and segment lengths to max_seq_len,
pyramid levels, regression ranges and the size of a training run, each with its reason in a sentence.

Lengths are in windows, which are feat_stride frames apart: grid units of level 0 (method.md §3).
"""

from typing import Any, NamedTuple

import numpy as np

from libs.core.config import PYRAMID_END
from libs.core.types import Video
from libs.features.windows import num_windows

PART = 95  # percent of clips and events that are to fit; the rest is cropped, or left to the last range
FIRST_RANGE = 4  # windows: where the published ranges begin to double
LEVELS = (3, 8)  # at least, so that the coarsest points see some context, and at most
LONGEST_INPUT = 1024  # windows: attention's memory and time grow with the square
BATCH_SIZES = (1, 2, 4, 8, 16)
STEPS_AN_EPOCH = 6  # at least, as far as BATCH_SIZES go
STEPS = 400  # a training run, about what the demos take (330 and 440)
EPOCHS = (5, 60)
OVERLAP = 0.05  # part of the events that happen while one of another class does, from which each class has its offsets
SMALL = 1000  # training clips: the demos have 240 and 640, the published data sets 1,168 to 10,024


class Choice(NamedTuple):
    value: Any
    reason: str


def at_most(values: np.ndarray) -> float:
    """What PART percent of the values do not exceed: one of them."""
    return float(np.percentile(values, PART, method="higher"))


def regression_ranges(segments: np.ndarray) -> Choice:
    """A range (low, high) a level, in windows, for segments (N,) windows long.

    Ranges double from FIRST_RANGE on, as the published ones. A point in the middle of a segment is half its length from
    both ends, which is the most that the point nearest to the ends can claim: so the last range begins at or below
    half the length that PART percent of the segments do not exceed, and the one after would not.
    """
    longest = at_most(segments)
    lows = [0]
    while len(lows) < LEVELS[0] or (len(lows) < LEVELS[1] and _next(lows) <= longest / 2):
        lows.append(_next(lows))
    ranges = [*zip(lows[:-1], lows[1:], strict=True), (lows[-1], PYRAMID_END)]
    least = " (no fewer are taken)" if lows[-1] > longest / 2 else ""
    reason = (
        f"{PART} % of the events last at most {longest:.1f} windows: their middle is {longest / 2:.1f} windows from "
        f"their ends, so the last range begins at {lows[-1]}{least}"
    )
    return Choice(tuple(ranges), reason)


def _next(lows: list[int]) -> int:
    return 2 * lows[-1] or FIRST_RANGE


def max_seq_len(clips: np.ndarray, segments: np.ndarray, coarsest: int) -> Choice:
    """The longest training input, a multiple of the coarsest level's stride.

    clips (N,) and segments (M,) in windows. PART percent of the clips fit whole, and of the segments, but no more than
    LONGEST_INPUT windows are taken.
    """
    clip, segment = at_most(clips), at_most(segments)
    wanted = max(clip, segment)
    taken = min(wanted, LONGEST_INPUT)
    value = int(-(-taken // coarsest) * coarsest)
    what = f"{PART} % of the clips have at most {clip:.0f} windows"
    if segment > clip:
        what = f"{PART} % of the events last at most {segment:.0f} windows, more than as many of the clips have"
    if wanted > taken:
        what += f"; more than {LONGEST_INPUT} would take too much memory"
    longer = int((clips > value).sum())
    rest = f"{longer} longer clips are cropped in training, not in evaluation" if longer else "no clip is longer"
    return Choice(value, f"{what}; {value} is a multiple of the coarsest level's stride {coarsest}; {rest}")


def class_aware(videos: list[tuple[np.ndarray, np.ndarray]]) -> Choice:
    """Whether each class needs offsets of its own: where events of different classes happen at once.

    videos: (segments (N, 2) seconds, labels (N,)) each.
    """
    overlapping = total = 0
    for segments, labels in videos:
        starts, ends = segments[:, 0], segments[:, 1]
        at_once = (starts[:, None] < ends) & (ends[:, None] > starts) & (labels[:, None] != labels)
        overlapping, total = overlapping + int(at_once.any(1).sum()), total + len(labels)
    part = overlapping / max(1, total)
    then = "each class has offsets of its own" if part >= OVERLAP else "one pair of offsets serves all classes"
    return Choice(part >= OVERLAP, f"{100 * part:.0f} % of the events overlap one of another class: {then}")


class Run(NamedTuple):
    """Of a training run and its network: keys of TASKn, model and opt."""

    batch_size: int
    epochs: int
    warmup_epochs: int
    learning_rate: float
    size: int  # embd_dim and head_dim
    depth: tuple[int, int]  # backbone_arch's first two
    drop_path: float
    ema_decay: float


def training_run(clips: int) -> Choice:
    """A run for so many training clips: a batch size that leaves STEPS_AN_EPOCH, as many epochs as STEPS take, and the
    demos' small network or the published one."""
    batch = max(size for size in BATCH_SIZES if size == 1 or size * STEPS_AN_EPOCH <= clips)
    steps = max(1, clips // batch)
    epochs = int(np.clip(-(-STEPS // steps), *EPOCHS))
    small = clips < SMALL
    shape = (2e-3, 64, (2, 2), 0.0, 0.99) if small else (1e-3, 512, (2, 3), 0.1, 0.999)
    run = Run(batch, epochs, max(1, epochs // 10), *shape)
    whose = "the demos' small network, fewer than" if small else "the published network, at least"
    reason = (
        f"{clips} training clips make {steps} steps an epoch; {epochs} epochs are {steps * epochs} steps (the aim is "
        f"{STEPS}, in {EPOCHS[0]} to {EPOCHS[1]} epochs); {whose} {SMALL} clips"
    )
    return Choice(run, reason)


class Derived(NamedTuple):
    """All of a configuration that follows from the data, and sentences that say why (but run's)."""

    ranges: Choice
    max_seq_len: Choice
    class_aware: Choice
    run: Choice
    reasons: list[str]


def derive(train: list[Video], stride: int, num_frames: int, fps: float, ranges: Choice | None = None) -> Derived:
    """From the training videos, at least one of them with an event; ranges: those of an existing network."""
    segments = np.concatenate([video.segments for video in train])
    lengths = (segments[:, 1] - segments[:, 0]) * fps / stride
    clips = num_windows(np.array([video.duration for video in train]), stride, num_frames, fps)
    ranges = ranges or regression_ranges(lengths)
    length = max_seq_len(clips, lengths, 2 ** (len(ranges.value) - 1))
    aware = class_aware([(video.segments, video.labels) for video in train])
    shown = " ".join(f"{low:g}–{high:g}" for low, high in ranges.value[:-1]) + f" {ranges.value[-1][0]:g}–"
    reasons = [
        f"a window is {num_frames / fps:g} s, the next begins {stride / fps:g} s later",
        f"regression_range {shown}: {ranges.reason}",
        f"max_seq_len {length.value}: {length.reason}",
        f"class_aware {str(aware.value).lower()}: {aware.reason}",
        *advice(lengths, ranges.value),
    ]
    return Derived(ranges, length, aware, training_run(len(train)), reasons)


def advice(segments: np.ndarray, ranges: tuple[tuple[float, float], ...]) -> list[str]:
    """What the lengths of segments (N,), in windows, say of the stride."""
    notes = []
    if short := int((segments < 1).sum()):
        notes.append(
            f"{short} of {len(segments)} events are shorter than the step between two windows: no point may fall into "
            "them, and they are hard to find"
        )
    # A segment's points are between half its length and all of it from its farther end.
    idle = [high for _, high in ranges if high < np.min(segments, initial=np.inf) / 2]
    if idle:
        notes.append(f"no event is so short that the ranges up to {idle[-1]:g} get any: a larger --stride would do")
    return notes

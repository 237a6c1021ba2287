"""Rules that choose configuration values from a data set: each returns a value and the reason for it.

Lengths are in windows, which are feat_stride frames apart: grid units of level 0 (method.md §3).
"""

from typing import Any, NamedTuple

import numpy as np

from libs.core.config import PYRAMID_END
from libs.core.types import Video

PERCENT_COVERED = 95  # of clips and events that must fit; longer ones are cropped, or left to the last range
FIRST_RANGE = 4  # windows; the published ranges double from here
LEVELS = (3, 8)  # at least, so that the coarsest points see some context, and at most
MAX_INPUT = 1024  # windows; memory and time of attention grow with the square
BATCH_SIZES = (1, 2, 4, 8, 16)
STEPS_PER_EPOCH = 6  # wanted at least; a smaller batch gives more steps
STEPS_PER_RUN = 400  # wanted at least; the demos take 330 and 440
EPOCHS = (5, 60)
MIN_OVERLAP = 0.05  # fraction of events that overlap one of another class, from which offsets are per class
LARGE_DATA_SET = 1000  # training clips; the demos have 240 and 640, the published data sets 1,168 to 10,024


class Choice(NamedTuple):
    """A value of the configuration; reason: a sentence that starts with the key and the value."""

    value: Any
    reason: str


def choose_regression_range(lengths: np.ndarray) -> Choice:
    """Choose the range (low, high) of each level, in windows.

    The ranges double like the published ones. The point in the middle of an event is half its length from both ends,
    and no other point is closer to its farther end. So the last range must start at or below half the length of the
    longest events that are covered, and one more level would start above it.

    Args:
        lengths: (N,) of the events, in windows.
    """
    longest = _covering(lengths)
    lows = [0, FIRST_RANGE]
    while len(lows) < LEVELS[0] or (len(lows) < LEVELS[1] and 2 * lows[-1] <= longest / 2):
        lows.append(2 * lows[-1])
    ranges = [*zip(lows[:-1], lows[1:], strict=True), (lows[-1], PYRAMID_END)]
    fewest = f" ({LEVELS[0]} levels at least)" if lows[-1] > longest / 2 else ""
    formatted = " ".join([*(f"{low:g}–{high:g}" for low, high in ranges[:-1]), f"{lows[-1]}–"])
    reason = (
        f"regression_range {formatted}: {PERCENT_COVERED} % of the events last at most {longest:.1f} windows; their "
        f"middle is {longest / 2:.1f} windows from their ends, so the last range starts at {lows[-1]}{fewest}"
    )
    return Choice(tuple(ranges), reason)


def choose_max_seq_len(clips: np.ndarray, events: np.ndarray, coarsest_stride: int) -> Choice:
    """Choose the longest training input: most clips and events fit, up to MAX_INPUT windows.

    Args:
        clips, events: (N,) and (M,) lengths in windows.
        coarsest_stride: of the pyramid; the value is a multiple of it.
    """
    clip, event = _covering(clips), _covering(events)
    wanted = max(clip, event)
    value = int(-(-min(wanted, MAX_INPUT) // coarsest_stride) * coarsest_stride)
    reason = f"{PERCENT_COVERED} % of the clips have at most {clip:.0f} windows"
    if event > clip:
        reason = f"{PERCENT_COVERED} % of the events last at most {event:.0f} windows, longer than that of the clips"
    if wanted > MAX_INPUT:
        reason += f"; more than {MAX_INPUT} would need too much memory"
    longer = int((clips > value).sum())
    cropped = f"{longer} longer clips are cropped in training, not in evaluation" if longer else "no clip is longer"
    reason += f"; {value} is a multiple of the coarsest stride {coarsest_stride}; {cropped}"
    return Choice(value, f"max_seq_len {value}: {reason}")


def choose_class_aware(videos: list[Video]) -> Choice:
    """Choose offsets per class if events of different classes overlap."""
    overlaps = []
    for video in videos:
        starts, ends = video.segments.T
        overlap = (starts[:, None] < ends) & (ends[:, None] > starts) & (video.labels[:, None] != video.labels)
        overlaps.append(overlap.any(axis=1))
    fraction = float(np.concatenate(overlaps).mean())
    aware = fraction >= MIN_OVERLAP
    effect = "each class has its own offsets" if aware else "one pair of offsets serves all classes"
    reason = f"{100 * fraction:.0f} % of the events overlap one of another class, so {effect}"
    return Choice(aware, f"class_aware {str(aware).lower()}: {reason}")


def plan_training(num_clips: int, num_levels: int) -> Choice:
    """Choose batch size and epochs for enough steps, and the demos' or the published network.

    Returns:
        The keys of three sections of the configuration: `task` (a block TASKn), `model` and `opt`.
    """
    batch = max(size for size in BATCH_SIZES if size == 1 or size * STEPS_PER_EPOCH <= num_clips)
    steps = max(1, num_clips // batch)
    epochs = int(np.clip(-(-STEPS_PER_RUN // steps), *EPOCHS))
    small = num_clips < LARGE_DATA_SET
    rate, size, depth, drop_path, decay = (2e-3, 64, (2, 2), 0.0, 0.99) if small else (1e-3, 512, (2, 3), 0.1, 0.999)
    network = "the demos' small network, for fewer than" if small else "the published network, for at least"
    reason = (
        f"batch_size {batch}, epochs {epochs}, embd_dim {size}: {num_clips} training clips are {steps} steps an epoch; "
        f"{epochs} epochs are {steps * epochs} steps (the goal is {STEPS_PER_RUN}, in {EPOCHS[0]} to {EPOCHS[1]} "
        f"epochs); {network} {LARGE_DATA_SET} clips"
    )
    task = {"batch_size": batch, "learning_rate": rate, "epochs": epochs}
    model = {"backbone_arch": [*depth, num_levels - 1], "embd_dim": size, "head_dim": size, "drop_path": drop_path}
    opt = {"warmup_epochs": max(1, epochs // 10), "num_train_epochs": epochs, "clip_proj_lr": rate, "ema_decay": decay}
    return Choice({"task": task, "model": model, "opt": opt}, reason)


def check_stride(lengths: np.ndarray, ranges: tuple[tuple[float, float], ...]) -> list[str]:
    """Return notes if the stride is too large or too small for events of these lengths (N,), in windows."""
    notes = []
    if short := int((lengths < 1).sum()):
        notes.append(
            f"{short} of {len(lengths)} events are shorter than the step between two windows: they may contain no "
            "point and are hard to find"
        )
    # A point in an event is between half its length and its whole length from the farther end.
    if unused := [high for _, high in ranges if high < np.min(lengths, initial=np.inf) / 2]:
        notes.append(f"no event is short enough for the ranges up to {unused[-1]:g}: a larger --stride is possible")
    return notes


def _covering(values: np.ndarray) -> float:
    """Return the smallest of the values that PERCENT_COVERED percent of them do not exceed."""
    return float(np.percentile(values, PERCENT_COVERED, method="higher"))

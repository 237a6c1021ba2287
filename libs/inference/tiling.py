"""Overlapping pieces of long videos: time and memory grow linearly with length, although attention is quadratic."""

import math
from typing import NamedTuple

from libs.core.config import TaskSpec

# In lengths of a training clip: what passes the network at once, and the context on both sides of a piece's core.
PIECE_CLIPS, MARGIN_CLIPS = 16, 2


class Piece(NamedTuple):
    """Windows [start, stop) of a video, of which [core_start, core_stop) are this piece's own.

    The cores tile the video: they are infinite at its ends, and an event belongs to the core that holds its middle.
    """

    start: int
    stop: int
    core_start: float = -math.inf
    core_stop: float = math.inf


def split_into_pieces(num_windows: int, max_seq_len: int) -> list[Piece]:
    """Split a video into pieces of PIECE_CLIPS training clips that overlap by twice MARGIN_CLIPS, the last by more.

    Args:
        num_windows: windows of the video.
        max_seq_len: windows of a training clip; inner cores start and end at multiples of it.
    """
    size, margin = PIECE_CLIPS * max_seq_len, MARGIN_CLIPS * max_seq_len
    if num_windows <= size:
        return [Piece(0, num_windows)]
    step = size - 2 * margin
    count = math.ceil((num_windows - 2 * margin) / step)
    starts = (min(step * i, num_windows - size) for i in range(count))
    bounds = [-math.inf, *(size - margin + step * i for i in range(count - 1)), math.inf]
    return [Piece(start, start + size, *bounds[i : i + 2]) for i, start in enumerate(starts)]


def scale_limits(task: TaskSpec, num_windows: float) -> TaskSpec:
    """Scale a task's limits on detections from one training clip to a video of `num_windows`."""
    factor, config = math.ceil(num_windows / task.dataset.max_seq_len), task.test_cfg
    limits = {"pre_nms_topk": config.pre_nms_topk * factor, "max_seg_num": config.max_seg_num * factor}
    return task.model_copy(update={"test_cfg": config.model_copy(update=limits)})

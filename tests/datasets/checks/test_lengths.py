"""Lengths of clips and events against max_seq_len and the regression ranges."""

import numpy as np
import pandas as pd
import pytest

from libs.core.configfile import from_tree
from libs.core.types import Video
from libs.datasets.annotations import Annotations
from libs.datasets.checks.events import TaskVideos
from libs.datasets.checks.lengths import (
    TaskLengths,
    build_histograms,
    check_lengths,
    format_histograms,
    match_levels,
    suggest_settings,
)
from tests.conftest import tiny_tree


def match_levels_slowly(start, end, last, ranges, scale):
    levels = []
    for level, (low, high) in enumerate(ranges):
        points = [t for t in range(0, last + 1, scale**level) if min(t - start, end - t) > 0]
        levels.append(any(low <= max(t - start, end - t) <= high for t in points))
    return levels


@pytest.mark.parametrize("scale", [1, 2])
def test_match_levels_random_segments_equal_a_loop_over_points(scale):
    rng = np.random.default_rng(0)
    ranges = ((0, 4), (4, 8), (8, 16), (16, 40))
    starts = np.concatenate([rng.uniform(-3, 60, 400), rng.integers(0, 60, 400)])
    spans = np.concatenate([rng.uniform(0, 3, 200), rng.uniform(0, 90, 200), rng.integers(0, 60, 400)])
    events = pd.DataFrame({"start": starts, "end": starts + spans, "last_point": rng.integers(0, 90, 800)})
    expected = [match_levels_slowly(*event, ranges, scale) for event in events.itertuples(index=False)]
    found = match_levels(events, ranges, scale)
    np.testing.assert_array_equal(found, expected)
    assert 0.1 < found.mean() < 0.9


def measure(tiny, clips, segments, **dataset):
    """Measure a training set of one class: clips in windows (4 per second), one segment in seconds for each."""
    tree = tiny_tree(tiny)
    tree["TASK2"]["dataset"] |= dataset
    config = from_tree(tree)
    videos = tuple(
        Video(f"v{i}", "train", (n - 1) / 4 + 1, None, np.array([segment], float), np.array([0]))
        for i, (n, segment) in enumerate(zip(clips, segments, strict=True))
    )
    data = TaskVideos(config.tasks["TASK2"], Annotations(tiny / "tiny.json", videos, {}))
    return TaskLengths(config, data, {video.video_id: n for video, n in zip(videos, clips, strict=True)})


def test_build_histograms_counts_all_clips_and_segments(tiny):
    clips = [1, 4, 5, 32, 33, 70, 1000]
    tree = build_histograms(measure(tiny, clips, [[0, 0.2]] * 3 + [[0, 8]] * 4))
    rows = tree["clips"]
    assert sum(row["count"] for row in rows) == len(clips)
    assert [row["count"] for row in rows if row["to"] <= 32] == [2, 1, 0, 0, 0, 0, 0, 1]  # max_seq_len 32 is an edge
    assert rows[-1]["from"] <= 1000 <= rows[-1]["to"]
    assert all(a["to"] + 1 == b["from"] for a, b in zip(rows, rows[1:], strict=False))
    assert [row["count"] for row in tree["segments"]] == [3, 0, 0, 0, 0, 0, 4]  # .8 and 32 windows
    assert [row["levels"] for row in tree["segments"]][-1] == [2]


def test_suggest_settings_of_cropped_short_and_resized_clips(tiny):
    longer = measure(tiny, [20] * 88 + [100] * 12, [[1, 1.8]] * 100)
    assert [*suggest_settings(longer)] == [
        "12.0% of training clips are longer than max_seq_len 32; 99% fit into 100 windows",
        "no training event in the range of level 1, 2; backbone_arch[2] = 0 is enough",
    ]
    text = format_histograms(build_histograms(longer), longer.task)
    assert "those above max_seq_len 32 are cropped" in text
    assert "25–28" not in text  # no clip has so many windows
    assert [*suggest_settings(measure(tiny, [10] * 10, [[0, 0.1]] + [[0, 2.4]] * 9))] == [
        "0.0% of training clips are longer than max_seq_len 32; 99% fit into 12 windows",
        "no training event in the range of level 0, 2; backbone_arch[2] = 1 is enough",
        "10.0% of training events are shorter than the grid's spacing: use a smaller feat_stride",
        "10.0% of training events are assigned to no point of any level",
    ]
    resized = measure(tiny, [10, 20, 90], [[0, 2]] * 3, force_upsampling=True)
    assert "33.3% of training clips are longer than max_seq_len 32" in [*suggest_settings(resized)][0]


def test_check_lengths_event_longer_than_any_crop_is_found(tiny):
    clips, segments = [200, 200, 30], [[0, 25], [0, 15], [0, 7]]  # 100, 60, 28 windows; crops of 32 keep half of 72
    found = list(check_lengths(measure(tiny, clips, segments)))
    assert [(o.check, o.name) for o in found] == [("longer than any crop", "v0")]

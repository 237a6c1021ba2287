"""The number of windows is compared with the duration."""

import numpy as np
import pytest

from libs.core.configfile import from_tree
from libs.core.types import Video
from libs.datasets.checks.feature_files import check_length
from tests.conftest import tiny_tree


@pytest.mark.parametrize(
    ("length", "is_wrong"), [(37, False), (41, False), (33, False), (42, True), (32, True), (74, True)]
)
def test_check_length_of_ten_seconds_tolerates_four_windows(tmp_path, length, is_wrong):
    config = from_tree(tiny_tree(tmp_path)).tasks["TASK2"].dataset  # windows of 16 frames, every 4, at 16 frames/s: 37
    video = Video("x", "test", 10.0, None, np.empty((0, 2)), np.empty(0, np.int64))
    assert bool([*check_length(length, video, config)]) == is_wrong

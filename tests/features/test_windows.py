"""Windows over a stream and their number."""

import numpy as np
import pytest

from libs.features.windows import batches, num_windows, span


@pytest.mark.parametrize(
    ("seconds", "stride", "windows"), [(10, 4, 37), (10, 8, 19), (1, 4, 1), (0.2, 8, 1), (1.24, 4, 1)]
)
def test_num_windows_ignores_rounding_of_times(seconds, stride, windows):
    assert num_windows(seconds, stride) == windows
    assert num_windows(seconds + 0.0009, stride) == num_windows(seconds - 0.0009, stride) == windows


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_batches_of_any_block_size_are_the_windows(block):
    data = np.arange(span(9, 16, 4))
    pieces = (data[i : i + block] for i in range(0, len(data), block))
    parts = list(batches(pieces, 9, 16, 4, size=4))
    assert [len(part) for part in parts] == [4, 4, 1]
    assert np.array_equal(np.concatenate([p.windows for p in parts]), [data[4 * k : 4 * k + 16] for k in range(9)])

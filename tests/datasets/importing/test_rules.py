"""Rules: the values that follow from clips and events of given lengths."""

import numpy as np
import pytest

from libs.core.types import Video
from libs.datasets.importing import rules
from libs.features.windows import num_windows


def make_video(segments: list[tuple[float, float]], labels: list[int]) -> Video:
    return Video("a", "training", 10.0, None, np.array(segments, float), np.array(labels))


@pytest.mark.parametrize("seed", range(10))
def test_choose_regression_range_last_range_holds_the_middles_of_long_events(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(rng.uniform(1, 5), rng.uniform(0.1, 1), 200)
    ranges = rules.choose_regression_range(lengths).value
    assert all(high == low for (_, high), (low, _) in zip(ranges, ranges[1:], strict=False))
    assert all(high == 2 * low for low, high in ranges[1:-1])
    longest = sorted(lengths)[int(np.ceil(0.95 * 199))]
    times = np.linspace(0, longest, 2001)
    middle = np.maximum(times, longest - times).min()  # the distance of the middle point from its farther end
    levels = [i for i, (low, high) in enumerate(ranges) if low <= middle <= high]
    if rules.LEVELS[0] < len(ranges) < rules.LEVELS[1]:
        assert levels[-1] == len(ranges) - 1
        assert 2 * ranges[-1][0] > middle
    else:
        assert len(ranges) in rules.LEVELS


def test_choices_for_data_like_unav_are_the_published_values():
    clips = num_windows(np.linspace(20, 60, 100), 4)
    lengths = np.linspace(1, 50, 100) * 4
    ranges = rules.choose_regression_range(lengths).value
    assert ranges == ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))
    assert rules.choose_max_seq_len(clips, lengths, 32).value == 256


def test_choose_max_seq_len_fits_most_clips_and_events():
    clips, events = np.array([20] * 99 + [500]), np.array([5.0] * 10)
    choice = rules.choose_max_seq_len(clips, events, 8)
    assert choice.value == 24
    assert "1 longer clips are cropped" in choice.reason
    assert rules.choose_max_seq_len(clips, np.array([100.0] * 10), 8).value == 104
    assert rules.choose_max_seq_len(np.array([5000]), events, 8).value == rules.MAX_INPUT


def test_choose_class_aware_if_classes_overlap():
    apart = make_video([(0, 1), (2, 3), (2.5, 4)], [0, 1, 1])
    overlapping = make_video([(0, 1.5), (1, 3), (5, 6)], [0, 1, 0])
    assert not rules.choose_class_aware([apart]).value
    assert rules.choose_class_aware([apart, overlapping]).value


@pytest.mark.parametrize("num_clips", [1, 2, 5, 14, 100, 240, 999, 1000, 10_024])
def test_plan_training_has_enough_steps(num_clips):
    plan = rules.plan_training(num_clips, num_levels=6).value
    batch_size, epochs = plan["task"]["batch_size"], plan["task"]["epochs"]
    assert batch_size <= num_clips
    assert rules.EPOCHS[0] <= epochs <= rules.EPOCHS[1]
    assert epochs * (num_clips // batch_size) >= rules.STEPS_PER_RUN or epochs == rules.EPOCHS[1]
    assert plan["model"]["backbone_arch"][-1] == 5


def test_check_stride_too_small_or_too_large():
    ranges = rules.choose_regression_range(np.array([20.0, 200.0])).value
    assert "ranges up to 8" in rules.check_stride(np.array([20.0, 200.0]), ranges)[0]
    assert "1 of 2 events are shorter" in rules.check_stride(np.array([0.5, 200.0]), ranges)[0]
    assert not rules.check_stride(np.array([6.0, 200.0]), ranges)

import numpy as np
import pytest
import torch

from libs.core.errors import DataError
from libs.core.types import Clip, Video
from libs.datasets.clips import ClipDataset, crop, drop_truncated
from libs.features.sources import open_features
from tests.conftest import open_tiny_task


def build_dataset(videos, task, config):
    return ClipDataset(videos, open_features(task, config), task, config.run.seed)


def assert_same_items(a, b):
    assert len(a) == len(b)
    for (clip_a, *features_a), (clip_b, *features_b) in zip(a, b, strict=True):
        assert clip_a.video_id == clip_b.video_id
        assert torch.equal(clip_a.segments, clip_b.segments)
        for x, y in zip(features_a, features_b, strict=True):
            assert torch.equal(x, y)


def make_item(length, segments):
    segments = torch.tensor(segments).reshape(-1, 2)
    clip = Clip("x", 60.0, 16.0, 4.0, 16.0, segments, torch.arange(len(segments)))
    return clip, torch.arange(length)[:, None].float(), torch.arange(length)[:, None].float()


def crop_config(tiny, **dataset):
    return open_tiny_task(tiny, **dataset)[1].dataset


def test_crop_keeps_lengths_and_times_in_range(tiny):
    config = crop_config(tiny, crop_ratio=[0.5, 0.9], trunc_thresh=0.5)
    lengths, item = set(), make_item(20, [[3.0, 9.0], [12.0, 16.0]])
    for seed in range(300):
        clip, visual, audio = crop(item, config, np.random.default_rng(seed))
        lengths.add(len(visual))
        assert torch.equal(visual, audio)
        start = visual[0].item()
        assert len(clip.labels) >= 1
        for segment, label in zip(clip.segments, clip.labels, strict=True):
            original = item[0].segments[label]
            whole = original[1] - original[0]
            cut = original.clamp(start - 2.0, start + len(visual) + 2.0)  # o = 0.5·num_frames/feat_stride = 2
            assert torch.allclose(segment + start, cut)
            assert cut[1] - cut[0] >= 0.5 * whole
    assert lengths == set(range(10, 19))  # round(.5·20) … round(.9·20), both included


def test_crop_long_clip_is_cut_to_max_seq_len(tiny):
    config = crop_config(tiny, crop_ratio=None)
    starts = set()
    for seed in range(100):
        clip, visual, _ = crop(make_item(50, [[10.0, 20.0]]), config, np.random.default_rng(seed))
        assert len(visual) == 32
        assert len(clip.labels) == 1
        starts.add(int(visual[0]))
    assert len(starts) > 5
    assert crop(make_item(20, [[1.0, 2.0]]), config, np.random.default_rng(0))[1].shape[0] == 20


def test_crop_without_a_fitting_window_warns(tiny):
    config = crop_config(tiny, crop_ratio=None)
    clip, visual, _ = crop(make_item(50, []), config, np.random.default_rng(0))
    assert (len(visual), len(clip.labels)) == (32, 0)
    with pytest.warns(UserWarning, match="video x: no window of 32 of its 200 windows keeps a segment"):
        clip, visual, _ = crop(make_item(200, [[0.0, 200.0]]), config, np.random.default_rng(0))
    assert (len(visual), len(clip.labels)) == (200, 1)


def test_clip_dataset_crop_is_a_function_of_seed_cycle_and_video(tiny):
    config, task, annotations = open_tiny_task(tiny)
    first, again = (build_dataset(annotations.select_splits(task.train_split), task, config) for _ in range(2))
    keys = [(cycle, i) for cycle in range(2) for i in range(5)]
    assert_same_items([first[k] for k in keys], [again[k] for k in keys])
    assert any(
        len(a[1]) != len(b[1]) for a, b in zip([first[k] for k in keys[:5]], [first[k] for k in keys[5:]], strict=True)
    )


def test_clip_dataset_segments_after_the_end_warn(tiny):
    config, task, annotations = open_tiny_task(tiny, "TASK1")
    video = annotations.select_splits(("train",))[0]
    late = Video(video.video_id, "train", video.duration, None, np.array([[900.0, 950.0]]), np.array([0]))
    with pytest.warns(UserWarning, match=f"video {video.video_id}: all its segments lie beyond its end"):
        clip, visual, _ = build_dataset([late], task, config)[(0, 0)]
    assert len(clip.labels) == 0


def test_crop_does_not_keep_an_empty_segment_outside(tiny):
    config = crop_config(tiny, crop_ratio=None)
    for seed in range(20):
        clip, _, _ = crop(make_item(50, [[500.0, 500.0], [10.0, 20.0]]), config, np.random.default_rng(seed))
        assert clip.labels.tolist() == [1]


def test_clip_dataset_without_default_fps_uses_the_annotated_one(tiny):
    config, task, annotations = open_tiny_task(tiny, default_fps=None)
    with pytest.raises(DataError, match="has no fps; give it one or set TASK2.dataset.default_fps"):
        build_dataset(list(annotations.videos), task, config)
    video = Video("avel_train_0000", "train", 10.0, 8.0, np.array([[2.0, 4.0]]), np.array([0]))
    clip, _, _ = build_dataset([video], task, config)[0]
    assert torch.allclose(clip.segments, torch.tensor([[(2 * 8 - 8) / 4, (4 * 8 - 8) / 4]]))


def test_drop_truncated_segment_that_starts_at_the_grids_end_is_dropped():
    """docs/method.md §3: also an empty one; one inside stays."""
    segments = torch.tensor([[8.5, 8.5], [8.5, 9.0], [3.0, 3.0], [7.0, 9.0]])
    clip = Clip("v", 3.0, 16.0, 4.0, 4.0, segments, torch.arange(4))
    kept = drop_truncated(clip, 8, 0.5)  # the grid ends at 8 + 0.5·4/4 = 8.5
    assert kept.labels.tolist() == [2, 3]
    assert kept.segments.tolist() == [[3.0, 3.0], [7.0, 8.5]]

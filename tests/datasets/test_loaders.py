import warnings

import pytest

from libs.core.errors import ConfigError, DataError
from libs.datasets.loaders import EvalBatches, TrainStream, collate, generate_train_batches
from tests.conftest import open_tiny_task
from tests.datasets.test_clips import build_dataset, make_item


def test_generate_train_batches_resume_share_and_shuffle():
    def take(first, rank=0, ranks=1, n=9):
        batches = generate_train_batches(11, batch_size=4, seed=3, first=first, rank=rank, ranks=ranks)
        return [next(batches) for _ in range(n)]

    whole = take(0)
    assert take(3)[:6] == whole[3:]  # a resumed stream
    assert [a + b for a, b in zip(take(0, 0, 2), take(0, 1, 2), strict=True)] == whole  # ranks share each batch
    for cycle in range(4):
        keys = whole[2 * cycle] + whole[2 * cycle + 1]
        assert {c for c, _ in keys} == {cycle}
        assert len({i for _, i in keys}) == 8  # 11 videos, the incomplete batch left out
    assert whole[0] != [(0, i) for _, i in whole[2]]  # each cycle is shuffled


def test_train_stream_batch_size_that_does_not_fit_raises(tiny):
    config, task, annotations = open_tiny_task(tiny)
    dataset = build_dataset(annotations.select_splits(task.train_split), task, config)
    with pytest.raises(ConfigError, match="multiple of their number, 3"):
        TrainStream(dataset, config, rank=0, ranks=3)
    small = build_dataset(annotations.select_splits(task.train_split)[:3], task, config)
    with pytest.raises(DataError, match="3 training videos are less than TASK2.batch_size 4"):
        TrainStream(small, config)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_eval_batches_contain_every_video_once(tiny, ranks):
    config, task, annotations = open_tiny_task(tiny)
    videos = annotations.select_splits(("train", "test"))
    dataset = build_dataset(videos, task, config)
    seen, shapes = [], set()
    for rank in range(ranks):
        for batch in EvalBatches(dataset, config, rank, ranks):
            seen += [clip.video_id for clip in batch.clips]
            for n in batch.mask.sum(1).tolist():
                up = -(-n // 4) * 4  # the coarsest stride of the tiny network
                assert batch.mask.shape[1] == (up if n >= 32 else min(32, up + 4))
            shapes.add(batch.mask.shape[1])
    assert sorted(seen) == sorted(video.video_id for video in videos)
    assert len(shapes) > 1


def test_train_stream_error_in_a_loader_process_is_one_line(tiny, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # waited for when the loader ends
    config, task, annotations = open_tiny_task(tiny)
    config = config.model_copy(update={"loader": config.loader.model_copy(update={"num_workers": 1})})
    dataset = build_dataset(annotations.select_splits(task.train_split), task, config)
    for path in (tiny / "avel/av_features").glob("*.npy"):  # broken after they had been checked
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        TrainStream(dataset, config).next()
    assert "\n" not in str(caught.value)
    assert ".npy: not a .npy file" in str(caught.value)


def test_collate_pads_and_masks():
    batch = collate([make_item(5, []), make_item(9, [])], max_seq_len=8, stride=4)
    assert batch.mask.shape == (2, 12)
    assert batch.mask.sum(1).tolist() == [5, 9]
    assert not batch.visual[~batch.mask].any()


def test_train_stream_ordinary_data_does_not_warn(tiny):
    config, task, annotations = open_tiny_task(tiny)
    dataset = build_dataset(annotations.select_splits(task.train_split), task, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrainStream(dataset, config).next()

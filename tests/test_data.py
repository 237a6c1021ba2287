import json
import warnings

import numpy as np
import pytest
import torch

from libs.core.configfile import from_tree
from libs.core.errors import ConfigError, DataError
from libs.core.prompts import load_prompts
from libs.core.types import Clip, Video
from libs.datasets.annotations import load_annotations
from libs.datasets.clips import ClipDataset, crop
from libs.datasets.loaders import EvalBatches, TrainBatches, TrainStream, build_dataset, collate
from libs.features.planted import PlantedSource
from libs.features.provenance import read_provenance
from libs.features.sources import Hdf5Pack, NpyFolder, open_feature_files, open_features
from tests.conftest import tiny_tree

DIMS = (12, 10)


def open_task(tiny, key="TASK2", **dataset):
    tree = tiny_tree(tiny)
    tree[key]["dataset"] |= dataset
    config = from_tree(tree)
    task = config.tasks[key]
    return config, task, load_annotations(task.dataset.json_file, task.dataset.num_classes)


def items_of(dataset, keys):
    return [dataset[key] for key in keys]


def assert_same_items(a, b, tolerance=0.0):
    assert len(a) == len(b)
    for (clip_a, *features_a), (clip_b, *features_b) in zip(a, b, strict=True):
        assert clip_a.video_id == clip_b.video_id
        assert torch.equal(clip_a.segments, clip_b.segments)
        for x, y in zip(features_a, features_b, strict=True):
            torch.testing.assert_close(x.float(), y.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("key", ["TASK1", "TASK2"])  # resized, and not
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 2e-3)])
def test_the_three_sources_agree(tiny, run_script, key, dtype, tolerance):
    """.npy files, an HDF5 pack of them, and planted features made on the fly."""
    config, task, annotations = open_task(tiny, key)
    videos = annotations.select_splits(task.test_split)
    folder = ClipDataset(videos, open_feature_files(task.dataset, DIMS), task)
    pack = tiny / "pack.h5"
    status, out, err = run_script("tools/pack_features.py", tiny / "tiny.yaml", key, pack, "--dtype", dtype)
    assert status == 0, err
    assert dtype in out
    packed = ClipDataset(videos, Hdf5Pack(pack, DIMS), task)
    planted = ClipDataset(videos, PlantedSource(task, load_prompts(task, 8), DIMS), task)
    keys = list(range(len(videos)))
    trained = items_of(packed, [(0, 0), (0, 1)])
    assert trained[0][1].dtype == trained[0][2].dtype == getattr(torch, dtype)  # half the memory, up to the network
    assert collate(trained, 32, 4).visual.dtype == getattr(torch, dtype)
    assert collate([trained[0], planted[0, 1]], 32, 4).visual.dtype == torch.float32
    assert folder.lengths == packed.lengths == planted.lengths
    assert_same_items(items_of(folder, keys), items_of(packed, keys), 0.0)  # the files are float16 themselves
    assert_same_items(items_of(folder, keys), items_of(planted, keys), 2e-3 + tolerance)


def test_an_interrupted_pack_is_continued(tiny, run_script, monkeypatch):
    """Ctrl-C in the middle: no pack yet; the second call reads only what is missing, and the pack is whole."""
    from libs.features import sources as features

    loaded, load = [], features.NpyFolder.load

    def interrupted(self, video):
        loaded.append(video.video_id)
        if len(loaded) == 6:
            raise KeyboardInterrupt
        return load(self, video)

    pack, note = tiny / "pack.h5", {"encoder": "builtin", "prefix": "v_", "stride": 4}
    (tiny / "avel/av_features/encoder.json").write_text(json.dumps(note))
    monkeypatch.setattr(features.NpyFolder, "load", interrupted)
    assert run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", pack)[0] == 130
    assert not pack.exists()
    assert run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", pack)[0] == 0
    assert len(loaded) == 25 + 1  # 25 videos, one of them twice
    assert read_provenance(pack) == {**note, "prefix": "", "made_of": f"TASK2 {tiny / 'avel/av_features'} float16"}
    _, task, annotations = open_task(tiny)
    source = Hdf5Pack(pack, DIMS)
    for video in annotations.videos:
        for packed, plain in zip(source.load(video), open_feature_files(task.dataset, DIMS).load(video), strict=True):
            np.testing.assert_array_equal(packed, plain)
    assert not list(tiny.glob("*.part"))


def test_source_is_named_by_feat_folder(tiny):
    for folder, kind in (("planted", PlantedSource), (str(tiny / "avel/av_features"), NpyFolder)):
        config, task, _ = open_task(tiny, feat_folder=folder)
        assert isinstance(open_features(task, config), kind)


def test_planted_signal_shows_where_the_task_says(tiny):
    """Matching with the true projection: high in events and only in the task's modalities; distractors elsewhere."""
    for key, visual, audio in (("TASK1", 1, 0), ("TASK2", 1, 1), ("TASK3", 0, 1)):
        config, task, _ = open_task(tiny, key, planted={"signal": 3.0, "distractors": 0.0})
        source = PlantedSource(task, load_prompts(task, 8), DIMS)
        video = Video("x", "test", 60.0, None, np.array([[20.0, 40.0]]), np.array([1]))
        features = source.load(video)
        inside = (np.arange(len(features.visual)) * task.dataset.feat_stride / 16 - 22) % 100 < 15
        for stream, shows, modality in ((features.visual, visual, "visual"), (features.audio, audio, "audio")):
            signal = source.signals[modality][1]
            match = stream @ signal / (signal @ signal)
            assert match[inside].mean() - match[~inside].mean() == pytest.approx(shows, abs=0.35)


def test_planted_distractors_are_not_findable(tiny):
    for key, allowed in (("TASK1", {"audio"}), ("TASK2", {"visual", "audio"}), ("TASK3", {"visual"})):
        _, task, annotations = open_task(tiny, key, planted={"distractors": 4.0})
        source = PlantedSource(task, load_prompts(task, 8), DIMS)
        seen = set()
        for i, video in enumerate(annotations.videos):
            plan = source.plan_events(video, np.random.default_rng(i))
            events, distractors = plan[: len(video.labels)], plan[len(video.labels) :]
            assert all((e.visual > 0) == ("visual" in task.shows_in) for e in events)
            assert all((e.audio > 0) == ("audio" in task.shows_in) for e in events)
            for d in distractors:
                modality = "visual" if d.visual else "audio"
                assert (d.visual > 0) != (d.audio > 0)
                seen.add(modality)
                assert not any(e.label == d.label and e.start < d.end and d.start < e.end for e in events)
        assert seen == allowed


def test_planted_noise_is_correlated(tiny):
    _, task, _ = open_task(tiny, planted={"correlation": 0.8})
    noise = PlantedSource(task, load_prompts(task, 8), DIMS)._make_noise(np.random.default_rng(0), 20000, 4)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(0.8, abs=0.05)


def make_item(length, segments):
    segments = torch.tensor(segments).reshape(-1, 2)
    clip = Clip("x", 60.0, 16.0, 4.0, 16.0, segments, torch.arange(len(segments)))
    return clip, torch.arange(length)[:, None].float(), torch.arange(length)[:, None].float()


def crop_config(tiny, **dataset):
    return open_task(tiny, **dataset)[1].dataset


def test_crop_lengths_and_times(tiny):
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


def test_crop_of_what_is_too_long(tiny):
    config = crop_config(tiny, crop_ratio=None)
    starts = set()
    for seed in range(100):
        clip, visual, _ = crop(make_item(50, [[10.0, 20.0]]), config, np.random.default_rng(seed))
        assert len(visual) == 32
        assert len(clip.labels) == 1
        starts.add(int(visual[0]))
    assert len(starts) > 5
    assert crop(make_item(20, [[1.0, 2.0]]), config, np.random.default_rng(0))[1].shape[0] == 20


def test_crop_without_events_or_without_hope(tiny):
    config = crop_config(tiny, crop_ratio=None)
    clip, visual, _ = crop(make_item(50, []), config, np.random.default_rng(0))
    assert (len(visual), len(clip.labels)) == (32, 0)
    with pytest.warns(UserWarning, match="video x: no window of 32 of its 200 windows keeps a segment"):
        clip, visual, _ = crop(make_item(200, [[0.0, 200.0]]), config, np.random.default_rng(0))
    assert (len(visual), len(clip.labels)) == (200, 1)


def test_a_crop_follows_from_seed_cycle_and_video(tiny):
    config, task, annotations = open_task(tiny)
    first, again = (build_dataset(annotations.select_splits(task.train_split), task, config) for _ in range(2))
    keys = [(cycle, i) for cycle in range(2) for i in range(5)]
    assert_same_items(items_of(first, keys), items_of(again, list(keys)))
    assert any(
        len(a[1]) != len(b[1]) for a, b in zip(items_of(first, keys[:5]), items_of(first, keys[5:]), strict=True)
    )


def test_training_batches():
    def take(first, rank=0, ranks=1, n=9):
        batches = iter(TrainBatches(videos=11, batch_size=4, seed=3, first=first, rank=rank, ranks=ranks))
        return [next(batches) for _ in range(n)]

    whole = take(0)
    assert take(3)[:6] == whole[3:]  # a resumed stream
    assert [a + b for a, b in zip(take(0, 0, 2), take(0, 1, 2), strict=True)] == whole  # ranks share each batch
    for cycle in range(4):
        keys = whole[2 * cycle] + whole[2 * cycle + 1]
        assert {c for c, _ in keys} == {cycle}
        assert len({i for _, i in keys}) == 8  # 11 videos, the incomplete batch left out
    assert whole[0] != [(0, i) for _, i in whole[2]]  # shuffled anew


def test_stream_refuses_what_does_not_fit(tiny):
    config, task, annotations = open_task(tiny)
    dataset = build_dataset(annotations.select_splits(task.train_split), task, config)
    with pytest.raises(ConfigError, match="multiple of their number, 3"):
        TrainStream(dataset, config, rank=0, ranks=3)
    few = build_dataset(annotations.select_splits(task.train_split)[:3], task, config)
    with pytest.raises(DataError, match="3 training videos are less than TASK2.batch_size 4"):
        TrainStream(few, config)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_evaluation_sees_every_video_once(tiny, ranks):
    config, task, annotations = open_task(tiny)
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


def test_loader_processes_report_user_errors_in_one_line(tiny):
    tree = tiny_tree(tiny) | {"loader": {"num_workers": 1}}
    config = from_tree(tree)
    task = config.tasks["TASK2"]
    dataset = build_dataset(load_annotations(task.dataset.json_file).select_splits(task.train_split), task, config)
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


def test_what_lies_beyond_a_resized_video_is_said(tiny):
    config, task, annotations = open_task(tiny, "TASK1")
    video = annotations.select_splits(("train",))[0]
    late = Video(video.video_id, "train", video.duration, None, np.array([[900.0, 950.0]]), np.array([0]))
    with pytest.warns(UserWarning, match=f"video {video.video_id}: all its segments lie beyond its end"):
        clip, visual, _ = build_dataset([late], task, config)[(0, 0)]
    assert len(clip.labels) == 0


def test_a_crop_is_not_satisfied_with_a_point_outside(tiny):
    config = crop_config(tiny, crop_ratio=None)
    for seed in range(20):
        clip, _, _ = crop(make_item(50, [[500.0, 500.0], [10.0, 20.0]]), config, np.random.default_rng(seed))
        assert clip.labels.tolist() == [1]


def test_every_process_opens_a_pack_for_itself(tiny, run_script):
    """HDF5 handles do not survive a fork: loader processes must not read through their parent's."""
    pack = tiny / "pack.h5"
    assert run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", pack)[0] == 0
    tree = tiny_tree(tiny) | {"loader": {"num_workers": 2, "eval_batch_size": 4}}
    tree["TASK2"]["dataset"]["feat_folder"] = str(pack)
    config = from_tree(tree)
    task = config.tasks["TASK2"]
    dataset = build_dataset(load_annotations(task.dataset.json_file).select_splits(("train", "test")), task, config)
    alone = {clip.video_id: visual for clip, visual, _ in (dataset[i] for i in range(len(dataset)))}
    source = dataset.source
    assert source._pid != 0
    for batch in EvalBatches(dataset, config):
        for row, clip in enumerate(batch.clips):
            assert torch.equal(batch.visual[row][batch.mask[row]], alone[clip.video_id])
    source._pid = -1  # as a forked child sees it
    inherited = source._file
    assert source._open() is not inherited


def write_annotations(path, entry, **top):
    path.write_text(json.dumps({"database": {"clip1": {"subset": "Test", "duration": 10, **entry}}, **top}))
    return path


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"annotations": [{"segment": [3, 2], "label_id": 0}]}, "segment [3, 2] ends before it starts"),
        ({"annotations": [{"segment": [float("nan"), 2], "label_id": 0}]}, "finite seconds"),
        ({"annotations": [{"segment": [1], "label_id": 0}]}, "expected [start, end]"),
        ({"annotations": [{"segment": [1, 2], "label_id": 7}]}, "label_id 7, expected 0 … 2"),
        ({"annotations": [{"segment": [1, 2], "label_id": -1}]}, "label"),
        ({"annotations": [{"segment": [1, 2]}]}, "is unknown"),
        ({"annotations": ["x"]}, "segment None"),
        ({"annotations": {"segment": [0, 1]}}, "expected a list"),
        ({"annotations": 5}, "expected a list"),
        ({"annotations": [{"segment": [1, 2], "label": ["x"]}]}, "is unknown"),
        ({"annotations": [{"segment": [1, 2], "label_id": True}]}, "is unknown"),
        ({"annotations": [{"segment": [1, 2], "label_id": 10**20}]}, "is unknown"),
        ({"duration": None, "annotations": []}, "duration None"),
        ({"duration": -1, "annotations": []}, "expected seconds above 0"),
        ({"fps": 0, "annotations": []}, "fps 0"),
        ({"duration": 10**400, "annotations": []}, "expected seconds above 0"),
        ({"subset": None, "annotations": []}, "subset None"),
    ],
)
def test_bad_annotations(tmp_path, entry, message):
    path = write_annotations(tmp_path / "a.json", entry)
    with pytest.raises(DataError) as caught:
        load_annotations(path, num_classes=3)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "clip1" in str(caught.value)


def test_missing_ids_follow_the_class_list_else_the_alphabet(tmp_path):
    named = {"annotations": [{"segment": [1, 2], "label": "b"}, {"segment": [1, 2], "label": "a"}]}
    assert load_annotations(write_annotations(tmp_path / "a.json", named)).videos[0].labels.tolist() == [1, 0]
    listed = write_annotations(tmp_path / "b.json", named, classes=["b", "c", "a"])
    assert load_annotations(listed).videos[0].labels.tolist() == [0, 2]
    assert load_annotations(listed).class_name(2) == "a"
    ids = {"annotations": [{"segment": [1, 2], "label_id": 2}]}
    only_ids = load_annotations(write_annotations(tmp_path / "c.json", ids, classes=["b", "c", "a"]))
    assert only_ids.videos[0].labels.tolist() == [2]
    assert only_ids.class_name(2) == "a"


def test_splits_compare_in_lower_case(tmp_path):
    annotations = load_annotations(write_annotations(tmp_path / "a.json", {"annotations": []}))
    assert len(annotations.select_splits(("TEST",))) == 1
    with pytest.raises(DataError, match="no video in split val; the file's splits are: test"):
        annotations.select_splits(("val",))


def test_lengths_that_differ_a_little_are_cut(tiny):
    _, task, annotations = open_task(tiny)
    video = annotations.videos[0]
    source = open_feature_files(task.dataset, DIMS)
    visual_path, audio_path = source.paths(video.video_id)
    whole = np.load(audio_path)
    np.save(audio_path, whole[:-1])
    features = source.load(video)
    assert len(features.visual) == len(features.audio) == len(whole) - 1 == source.lengths([video])[0]


def test_annotated_fps_counts_without_a_default(tiny):
    config, task, annotations = open_task(tiny, default_fps=None)
    with pytest.raises(DataError, match="has no fps; give it one or set TASK2.dataset.default_fps"):
        build_dataset(list(annotations.videos), task, config)
    video = Video("avel_train_0000", "train", 10.0, 8.0, np.array([[2.0, 4.0]]), np.array([0]))
    clip, _, _ = build_dataset([video], task, config)[0]
    assert torch.allclose(clip.segments, torch.tensor([[(2 * 8 - 8) / 4, (4 * 8 - 8) / 4]]))


def test_no_warning_in_ordinary_use(tiny):
    config, task, annotations = open_task(tiny)
    dataset = build_dataset(annotations.select_splits(task.train_split), task, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrainStream(dataset, config).next()

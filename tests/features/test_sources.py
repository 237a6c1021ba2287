import h5py
import numpy as np
import pytest
import torch

from libs.core.errors import DataError
from libs.core.prompts import load_prompts
from libs.core.types import Video
from libs.datasets.clips import ClipDataset
from libs.datasets.loaders import EvalBatches, collate
from libs.features.planted import PlantedSource
from libs.features.sources import Hdf5Pack, NpyFolder, open_feature_files, open_features
from tests.conftest import assert_user_error, open_tiny_task

DIMS = (12, 10)


def assert_same_features(a, b, tolerance=0.0):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.astype(np.float32), y.astype(np.float32), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("key", ["TASK1", "TASK2"])  # resized, and not
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 2e-3)])
def test_sources_folder_pack_and_planted_agree(tiny, run_script, key, dtype, tolerance):
    _, task, annotations = open_tiny_task(tiny, key)
    videos = annotations.select_splits(task.test_split)
    status, out, err = run_script("tools/pack_features.py", tiny / "tiny.yaml", key, tiny / "x.h5", "--dtype", dtype)
    assert status == 0, err
    assert dtype in out
    folder, pack = open_feature_files(task.dataset, DIMS), Hdf5Pack(tiny / "x.h5", DIMS)
    planted = PlantedSource(task, load_prompts(task, 8), DIMS)
    assert folder.lengths(videos) == pack.lengths(videos) == planted.lengths(videos)
    for video in videos:
        assert_same_features(folder.load(video), pack.load(video))  # the files are float16 themselves
        assert_same_features(folder.load(video), planted.load(video), 2e-3 + tolerance)
    packed, planted = (ClipDataset(videos, source, task) for source in (pack, planted))
    item = packed[(0, 0)]
    assert item[1].dtype == item[2].dtype == getattr(torch, dtype)  # float16 stays so up to the network
    assert collate([item], 32, 4).visual.dtype == getattr(torch, dtype)
    assert collate([item, planted[0, 1]], 32, 4).visual.dtype == torch.float32


def test_open_features_feat_folder_selects_the_source(tiny, run_script):
    assert run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", tiny / "x.h5", "--splits", "val")[0] == 0
    for folder, kind in (
        ("planted", PlantedSource),
        (str(tiny / "avel/av_features"), NpyFolder),
        (str(tiny / "x.h5"), Hdf5Pack),
    ):
        config, task, _ = open_tiny_task(tiny, feat_folder=folder)
        assert isinstance(open_features(task, config), kind)


def test_npy_folder_lengths_that_differ_by_one_are_cut(tiny):
    _, task, annotations = open_tiny_task(tiny)
    video, source = annotations.videos[0], open_feature_files(task.dataset, DIMS)
    _, audio_path = source.paths(video.video_id)
    whole = np.load(audio_path)
    np.save(audio_path, whole[:-1])
    features = source.load(video)
    assert len(features.visual) == len(features.audio) == len(whole) - 1 == source.lengths([video])[0]


def test_npy_folder_unwanted_modality_is_not_read(tiny):
    _, task, annotations = open_tiny_task(tiny)
    video, source = annotations.videos[0], open_feature_files(task.dataset, (12, 0))
    source.paths(video.video_id)[1].unlink()
    assert source.load(video).audio.shape == (source.lengths([video])[0], 0)


def test_npy_folder_video_ids_lists_whole_videos(tiny):
    _, task, annotations = open_tiny_task(tiny)
    source = open_feature_files(task.dataset, DIMS)
    first, *others = sorted(video.video_id for video in annotations.videos)
    source.paths(first)[1].unlink()
    assert source.video_ids() == others


@pytest.mark.parametrize("key", ["visual/x", "audio/x"])
def test_hdf5_pack_missing_modality_is_named(tmp_path, key):
    with h5py.File(tmp_path / "x.h5", "w") as pack:
        pack[key] = np.zeros((3, 12 if key == "visual/x" else 10))
    pack = Hdf5Pack(tmp_path / "x.h5", DIMS)
    assert pack.video_ids() == []
    missing = "audio" if key == "visual/x" else "visual"
    with pytest.raises(DataError, match=f"x.h5: no {missing} features of x"):
        pack.load(Video("x", "test", 1.0, None, np.empty((0, 2)), np.empty(0, np.int64)))


def test_hdf5_pack_that_is_broken_is_a_user_error(tiny, run_script):
    pack = tiny / "broken.h5"
    arguments = [tiny / "tiny.yaml", "-o", f"TASK2.dataset.feat_folder={pack}", "--tasks", "2"]
    pack.write_bytes(b"no HDF5")
    assert_user_error(*run_script("train.py", *arguments)[::2], "broken.h5: not a readable pack")
    with h5py.File(pack, "w") as file:
        file["visual"] = 3
    assert_user_error(*run_script("train.py", *arguments)[::2], "24 of 24 features missing")


def test_hdf5_pack_of_other_videos_is_a_user_error(tiny, run_script):
    pack = tiny / "val.h5"
    assert run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", pack, "--splits", "val")[0] == 0
    arguments = [tiny / "tiny.yaml", "-o", f"TASK2.dataset.feat_folder={pack}", "--tasks", "2"]
    assert_user_error(*run_script("train.py", *arguments)[::2], "24 of 24 features missing: visual/avel_train_0000")


def test_hdf5_pack_each_process_opens_its_own_handle(tiny, run_script):
    """HDF5 handles do not survive a fork, so loader processes must not read through their parent's."""
    pack = tiny / "pack.h5"
    assert run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", pack)[0] == 0
    config, task, annotations = open_tiny_task(tiny, feat_folder=str(pack))
    config = config.model_copy(update={"loader": config.loader.model_copy(update={"num_workers": 2})})
    dataset = ClipDataset(annotations.select_splits(("test",)), open_features(task, config), task)
    alone = {clip.video_id: visual for clip, visual, _ in (dataset[i] for i in range(len(dataset)))}
    for batch in EvalBatches(dataset, config):
        for row, clip in enumerate(batch.clips):
            assert torch.equal(batch.visual[row][batch.mask[row]], alone[clip.video_id])
    source = dataset.source
    source._pid = -1  # as a forked child sees it
    inherited = source._file
    assert source._open() is not inherited


def test_lengths_of_video_ids_with_slashes_finds_their_features(tmp_path):
    """EPIC-KITCHENS and HACS name videos so; a folder has subfolders then, a pack nested groups."""
    arrays = {"visual": np.zeros((5, 3), np.float32), "audio": np.ones((5, 2), np.float32)}
    (tmp_path / "f/P01").mkdir(parents=True)
    with h5py.File(tmp_path / "p.h5", "w") as pack:
        for modality, array in arrays.items():
            np.save(tmp_path / f"f/P01/a_{modality}.npy", array)
            pack[f"{modality}/P01/a"] = array
    video = Video("P01/a", "train", 2.0, None, np.zeros((0, 2)), np.zeros(0, np.int64))
    folder = NpyFolder(tmp_path / "f", (3, 2), "", ("_visual", "_audio"))
    for source in (folder, Hdf5Pack(tmp_path / "p.h5", (3, 2))):
        assert source.lengths([video]) == [5]
        np.testing.assert_array_equal(source.load(video).audio, arrays["audio"])

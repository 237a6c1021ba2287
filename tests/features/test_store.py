from dataclasses import asdict

import h5py
import numpy as np
import pytest

from libs.core.errors import DataError, UserError
from libs.core.types import Features
from libs.features.provenance import FeatureProvenance, open_extracted, read_provenance
from libs.features.store import FeatureStore, open_pack_writer

PROVENANCE = FeatureProvenance("builtin", 3, 2, stride=4)


def make_features(length=5, value=1.0):
    return np.full((length, 3), value, np.float32), np.full((length, 2), value, np.float32)


@pytest.mark.parametrize("place", ["folder", "pack.h5"])
def test_store_written_features_are_read_back(tmp_path, place):
    store = FeatureStore(tmp_path / place, PROVENANCE)
    for name in ("b", "a [1]"):
        assert not store.has(name)
        store.write(name, *make_features())
        assert store.has(name)
    store.finish()
    provenance, files = open_extracted(tmp_path / place)
    assert provenance == PROVENANCE
    assert files.video_ids() == ["a [1]", "b"]
    visual, audio = files.read("b")
    assert (visual.shape, audio.shape, visual.dtype) == ((5, 3), (5, 2), np.float16)
    assert [path.name for path in tmp_path.iterdir()] == [place]


def test_store_values_beyond_float16_stay_float32(tmp_path):
    store = FeatureStore(tmp_path / "folder", PROVENANCE)
    store.write("a", *make_features(value=1e5))
    assert open_extracted(tmp_path / "folder")[1].read("a").visual.dtype == np.float32


@pytest.mark.parametrize("place", ["folder", "pack.h5"])
def test_store_of_another_provenance_raises(tmp_path, place):
    store = FeatureStore(tmp_path / place, PROVENANCE)
    store.write("a", *make_features())
    store.finish()
    with pytest.raises(UserError, match="holds other features \\(stride 4, now 8\\)"):
        FeatureStore(tmp_path / place, FeatureProvenance("builtin", 3, 2, stride=8))


def test_open_extracted_without_features_raises(tmp_path):
    with pytest.raises(UserError, match="no features of known provenance"):
        open_extracted(tmp_path)
    FeatureStore(tmp_path, PROVENANCE)
    with pytest.raises(UserError, match="holds no features"):
        open_extracted(tmp_path)


def test_open_pack_writer_other_attributes_overwrite(tmp_path):
    with open_pack_writer(tmp_path / "x.part", {"encoder": "e"}) as writer:
        writer.add("a", Features(*make_features()))
    with open_pack_writer(tmp_path / "x.part", {"encoder": "f"}) as writer:
        assert writer.whole_videos() == set()


def test_pack_store_interrupted_extraction_continues(tmp_path):
    path = tmp_path / "pack.h5"
    FeatureStore(path, PROVENANCE).write("a", *make_features())  # killed before finish()
    store = FeatureStore(path, PROVENANCE)
    assert store.has("a")
    store.write("b", *make_features())
    store.finish()
    store = FeatureStore(path, PROVENANCE)  # a later extraction adds to the pack
    assert store.has("a") and store.has("b")
    store.write("c", *make_features())
    store.finish()
    assert open_extracted(path)[1].video_ids() == ["a", "b", "c"]


def test_pack_store_adds_to_a_pack_of_pack_features(tmp_path):
    attributes = {**asdict(PROVENANCE), "made_of": "TASK1 folder float16"}
    with open_pack_writer(tmp_path / "x.h5.part", attributes) as writer:
        writer.add("a", Features(*make_features()))
    (tmp_path / "x.h5.part").rename(tmp_path / "x.h5")
    store = FeatureStore(tmp_path / "x.h5", PROVENANCE)
    store.write("b", *make_features())
    store.finish()
    assert open_extracted(tmp_path / "x.h5")[1].video_ids() == ["a", "b"]


def test_pack_store_finish_keeps_the_parts_of_other_processes(tmp_path):
    path = tmp_path / "pack.h5"
    first, second = (FeatureStore(path, PROVENANCE) for _ in range(2))
    first.write("a", *make_features())
    (tmp_path / "pack.h5.parts/.b.npy.1.tmp").touch()  # the second process is writing
    first.finish()
    second.write("b", *make_features())
    (tmp_path / "pack.h5.parts/.b.npy.1.tmp").unlink()
    second.finish()
    assert open_extracted(path)[1].video_ids() == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["pack.h5"]


def test_pack_store_full_disk_keeps_pack_and_parts(tmp_path, monkeypatch):
    path = tmp_path / "pack.h5"
    store = FeatureStore(path, PROVENANCE)
    store.write("a", *make_features())
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="needs 0.0 MB more \\(0.0 MB are free\\); free space and call again"):
        store.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["pack.h5.parts"]
    monkeypatch.undo()
    store.finish()
    assert open_extracted(path)[1].video_ids() == ["a"]


def test_pack_writer_many_reservations_lose_nothing(tmp_path):
    features = {f"v{i}": Features(*make_features(100, i)) for i in range(50)}
    with open_pack_writer(tmp_path / "x.part", {"encoder": "e"}) as writer:
        for name, values in features.items():
            writer.add(name, values)
    with open_pack_writer(tmp_path / "x.part", {"encoder": "e"}) as writer:
        assert writer.whole_videos() == set(features)
    with h5py.File(tmp_path / "x.part") as pack:
        for name, values in features.items():
            np.testing.assert_array_equal(pack["visual"][name][()], values.visual)
            np.testing.assert_array_equal(pack["audio"][name][()], values.audio)
        stored = sum(array.nbytes for group in pack.values() for array in group.values())
    assert (tmp_path / "x.part").stat().st_size < 1.5 * stored


def test_read_provenance_without_a_record_is_none(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as pack:
        pack["visual/x"] = np.zeros((3, 4))
    assert read_provenance(tmp_path / "x.h5") is None
    assert read_provenance(tmp_path) is None

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from libs.features.provenance import read_provenance
from libs.features.sources import Hdf5Pack, NpyFolder, open_feature_files
from tests.conftest import assert_user_error, open_tiny_task

DIMS = (12, 10)


def run(run_script, tiny, *more):
    return run_script("tools/pack_features.py", tiny / "tiny.yaml", "2", tiny / "pack.h5", *more)


def test_pack_features_after_ctrl_c_continues(tiny, run_script, monkeypatch):
    """The second call loads only what is missing, and the pack is complete."""
    loaded, load = [], NpyFolder.load

    def interrupt(self, video):
        loaded.append(video.video_id)
        if len(loaded) == 6:
            raise KeyboardInterrupt
        return load(self, video)

    pack, record = tiny / "pack.h5", {"encoder": "builtin", "prefix": "v_", "stride": 4}
    (tiny / "avel/av_features/encoder.json").write_text(json.dumps(record))
    monkeypatch.setattr(NpyFolder, "load", interrupt)
    assert run(run_script, tiny)[0] == 130
    assert not pack.exists()
    assert run(run_script, tiny)[0] == 0
    assert len(loaded) == 25 + 1  # 25 videos, one of them twice
    assert read_provenance(pack) == {**record, "prefix": "", "made_of": f"TASK2 {tiny / 'avel/av_features'} float16"}
    _, task, annotations = open_tiny_task(tiny)
    packed, plain = Hdf5Pack(pack, DIMS), open_feature_files(task.dataset, DIMS)
    for video in annotations.videos:
        for a, b in zip(packed.load(video), plain.load(video), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not list(tiny.glob("*.part"))


def test_pack_features_killed_continues(tiny, run_script):
    """A killed process leaves a part that is continued or overwritten; the pack is complete in both cases."""
    code = (
        "import os, runpy, sys\n"
        "from libs.features import store\n"
        "add = store.PackWriter.add\n"
        "def killed(self, video_id, features):\n"
        "    add(self, video_id, features)\n"
        "    if len(self.pack['visual']) == 20: os.kill(os.getpid(), 9)\n"
        "store.PackWriter.add = killed\n"
        "runpy.run_path('tools/pack_features.py', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, tiny / "tiny.yaml", "2", tiny / "pack.h5"]
    assert subprocess.run(command, capture_output=True).returncode == -9
    assert (tiny / "pack.h5.part").exists() and not (tiny / "pack.h5").exists()
    assert run(run_script, tiny)[0] == 0
    _, task, annotations = open_tiny_task(tiny)
    packed, plain = Hdf5Pack(tiny / "pack.h5", DIMS), open_feature_files(task.dataset, DIMS)
    for video in annotations.videos:
        np.testing.assert_array_equal(packed.load(video).audio, plain.load(video).audio)


def test_pack_features_full_disk_is_a_user_error(tiny, run_script):
    """HDF5 would crash, so space is reserved; the same command continues once there is more of it."""
    resource = pytest.importorskip("resource")  # a limit on the size of files acts like a full disk
    pack = tiny / "pack.h5"
    part, before = tiny / "pack.h5.part", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        status, _, err = run(run_script, tiny)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_user_error(status, err, f"{part}: needs ", " MB more (File too large); free space and call again, or")
    assert not pack.exists()
    assert part.stat().st_size < 20_000
    assert run(run_script, tiny)[0] == 0
    with h5py.File(pack) as packed:
        stored = sum(array.nbytes for group in packed.values() for array in group.values())
    assert stored < pack.stat().st_size < 1.5 * stored + 16_384  # the rest of the reservation is given back


def test_pack_features_second_process_changes_nothing(tiny, run_script):
    part = tiny / "pack.h5.part"
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'w'); f['visual/x'] = 1; f.flush(); print(); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(part)], **pipes) as other:
        other.stdout.readline()
        before = part.read_bytes()
        status, _, err = run(run_script, tiny)
        assert_user_error(status, err, f"{part}: cannot be written, or another process is packing here")
        assert part.read_bytes() == before
        other.communicate(b"\n")
    # That part was not made of these features, so it is overwritten.
    assert run(run_script, tiny)[0] == 0
    with h5py.File(tiny / "pack.h5") as packed:
        assert len(packed["visual"]) == 25
        assert "x" not in packed["visual"]


def test_pack_features_damaged_part_is_overwritten_or_named(tiny, run_script, monkeypatch):
    part = tiny / "pack.h5.part"
    part.write_bytes(b"no HDF5")
    assert run(run_script, tiny)[0] == 0

    def broken(*_):
        raise RuntimeError("Unable to synchronously check link existence")

    monkeypatch.setattr("h5py.Group.require_group", broken)
    status, _, err = run(run_script, tiny)
    assert_user_error(status, err, f"{part}: damaged (Unable to", "remove it and call again")


@pytest.mark.parametrize(
    ("value", "message"),
    [(1e5, "visual features hold numbers that are beyond float16's 65504; use --dtype float32"), (np.nan, "NaN")],
)
def test_pack_features_values_beyond_the_type_are_a_user_error(tiny, run_script, value, message):
    path = sorted((tiny / "avel/av_features").glob("*video_finetune.npy"))[-1]
    features = np.load(path).astype(np.float32)
    features[0, 0] = value
    np.save(path, features)
    video_id = path.name.removesuffix("_one_peace_video_finetune.npy")
    assert_user_error(*run(run_script, tiny)[::2], f"video {video_id}: ", message)
    assert not (tiny / "pack.h5").exists()


@pytest.mark.parametrize(("arguments", "message"), [(("1-2", "x.h5"), "one task"), (("2", "x.npz"), ".h5 or .hdf5")])
def test_pack_features_bad_arguments_are_a_user_error(tiny, run_script, arguments, message):
    assert_user_error(*run_script("tools/pack_features.py", tiny / "tiny.yaml", *arguments)[::2], message)

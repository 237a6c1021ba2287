"""extract.py as a user calls it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from libs.core.types import Video
from libs.features.provenance import SUFFIXES, read_provenance
from libs.features.sources import Hdf5Pack, NpyFolder
from libs.media.encoders.build import build_encoder
from libs.media.extract import extract_features
from tests.conftest import NEEDS_SHARED, ROOT, SHARED

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.media.clips import write_clip  # noqa: E402

BUILTIN = build_encoder("builtin")
DIMS = (BUILTIN.visual_dim, BUILTIN.audio_dim)


def load_arrays(folder: Path, name: str, prefix: str = "") -> list[np.ndarray]:
    return [np.load(folder / f"{prefix}{name}{suffix}.npy") for suffix in SUFFIXES]


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_video(name: str) -> Video:
    return Video(name, "test", 3.0, None, np.empty((0, 2)), np.empty(0, np.int64))


def test_extract_to_folder_has_published_layout(clips, tmp_path, run_script):
    out = tmp_path / "out"
    status, stdout, err = run_script("extract.py", clips, "--out", out, "--workers", 1, "--prefix", "v_")
    assert status == 0 and "3 videos, 8 s of media" in stdout and "x real time; 0 were done before, 0 failed" in stdout
    assert err.count("no picture in the file: its features are zero") == 1
    assert len(read_files(out)) == 7
    expected = extract_features(clips / "a.mp4", BUILTIN, 4)
    for stored, features in zip(load_arrays(out, "a", "v_"), (expected.visual, expected.audio), strict=True):
        assert stored.dtype == np.float16 and np.array_equal(stored, features.astype(np.float16))
    assert json.loads((out / "encoder.json").read_text()) == read_provenance(out)
    assert read_provenance(out) == {
        "encoder": "builtin", "visual_dim": DIMS[0], "audio_dim": DIMS[1], "stride": 4, "num_frames": 16, "fps": 16,
        "streams": "best", "prefix": "v_", "visual_suffix": SUFFIXES[0], "audio_suffix": SUFFIXES[1],
    }  # fmt: skip
    folder = NpyFolder(out, DIMS, "v_", SUFFIXES)
    assert folder.lengths([make_video("a"), make_video("b"), make_video("ç 音 [1]")]) == [9, 5, 7]


def test_extract_twice_or_in_processes_is_bit_identical(clips, tmp_path, run_script):
    outs = [tmp_path / str(i) for i in range(3)]
    for out, workers in zip(outs, (1, 1, 2), strict=True):
        assert run_script("extract.py", clips, "--out", out, "--workers", workers)[0] == 0
    assert read_files(outs[0]) == read_files(outs[1]) == read_files(outs[2])


def test_extract_to_pack_adds_missing_videos(clips, tmp_path, run_script):
    out = tmp_path / "features.h5"
    assert run_script("extract.py", clips / "a.mp4", "--out", out)[0] == 0
    status, stdout, _ = run_script("extract.py", clips, "--out", out, "--workers", 1)
    assert status == 0 and "1 were done before" in stdout
    assert [path.name for path in tmp_path.iterdir()] == ["features.h5"]
    pack = Hdf5Pack(out, DIMS)
    assert pack.lengths([make_video("a"), make_video("b"), make_video("ç 音 [1]")]) == [9, 5, 7]
    expected = extract_features(clips / "a.mp4", BUILTIN, 4)
    assert np.array_equal(pack.load(make_video("a")).visual, expected.visual.astype(np.float16))
    assert read_provenance(out) | {"encoder": "builtin", "stride": 4} == read_provenance(out)


def test_extract_again_repeats_only_incomplete_videos(clips, tmp_path, run_script):
    out = tmp_path / "out"
    assert run_script("extract.py", clips, "--out", out, "--workers", 1)[0] == 0
    before = read_files(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / f"b{SUFFIXES[1]}.npy").unlink()
    (out / f".b{SUFFIXES[1]}.npy.1.tmp").write_bytes(b"half")
    status, stdout, _ = run_script("extract.py", clips, "--out", out, "--workers", 1)
    assert status == 0 and "1 videos" in stdout and "2 were done before" in stdout
    assert read_files(out).items() >= before.items()
    assert {path.name[0] for path, at in times.items() if path.stat().st_mtime_ns != at} == {"b"}


def test_extract_into_other_features_is_an_error(clips, tmp_path, run_script):
    for out in (tmp_path / "out", tmp_path / "out.h5"):
        assert run_script("extract.py", clips / "a.mp4", "--out", out)[0] == 0
        for options, changed in ((["--stride", 8], "stride 4, now 8"), (["--audio-stream", 1], "best, now audio 1")):
            status, _, err = run_script("extract.py", clips / "b.webm", "--out", out, *options)
            assert status == 2 and f"{changed}" in err and err.startswith(f"error: {out}: ") and err.count("\n") == 1
    (tmp_path / "published").mkdir()
    np.save(tmp_path / "published" / f"x{SUFFIXES[0]}.npy", np.zeros((3, 1536)))
    with h5py.File(tmp_path / "published.h5", "w") as pack:
        pack["visual/x"] = np.zeros((3, 1536))
    for out in (tmp_path / "published", tmp_path / "published.h5"):
        status, _, err = run_script("extract.py", clips / "a.mp4", "--out", out)
        assert status == 2 and err.startswith(f"error: {out}: ") and "choose another --out" in err


@pytest.mark.parametrize("workers", [1, 2])
def test_extract_broken_videos_fail_and_others_go_on(clips, tmp_path, run_script, workers):
    broken = tmp_path / "broken ü.mp4"
    broken.write_bytes((clips / "a.mp4").read_bytes()[:3000])
    (tmp_path / "empty.mp4").touch()
    out = tmp_path / "out"
    args = (broken, clips / "a.mp4", tmp_path / "empty.mp4", tmp_path / "none.mp4", clips / "b.webm")
    status, stdout, err = run_script("extract.py", *args, "--out", out, "--workers", workers)
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert status == 1 and "2 videos" in stdout and "3 failed" in stdout and len(failed) == 3
    assert f"failed: {broken}: not readable as video or sound" in err and "Traceback" not in err
    assert len(read_files(out)) == 5


def test_extract_unwritable_folder_is_an_error(clips, tmp_path, run_script):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "file" / "out.h5"):
        status, _, err = run_script("extract.py", clips / "a.mp4", "--out", out)
        assert status == 2 and err.count("\n") == 1 and "cannot be written" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--encoder", "vgg"], "unknown name; choose builtin"),
        (["--prefix", "../x"], "expected no /"),
        (["--suffixes", "_x", "_x"], "the same file name"),
        (["--workers", "0"], "expected at least 1"),
    ],
)
def test_extract_wrong_option_is_an_error(clips, tmp_path, run_script, args, message):
    status, _, err = run_script("extract.py", clips / "a.mp4", "--out", tmp_path / "out", *args)
    assert status == 2 and message in err and err.count("\n") == 1


def test_extract_without_pyav_names_the_package(clips, tmp_path, run_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, err = run_script("extract.py", clips, "--out", tmp_path / "out")
    assert status == 2 and err.count("\n") == 1 and "pip install -e .[media]" in err


def test_extract_ranks_share_the_videos(clips, tmp_path, run_script, monkeypatch):
    for out in (tmp_path / "out", tmp_path / "out.h5"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        for rank, videos in (("1", 1), ("0", 2)):
            monkeypatch.setenv("RANK", rank)
            status, stdout, _ = run_script("extract.py", clips, "--out", out, "--workers", 1)
            assert status == 0 and f"rank {rank}: {videos} videos" in stdout
    assert len(read_files(tmp_path / "out")) == 7
    with h5py.File(tmp_path / "out.h5") as pack:
        assert set(pack["visual"]) == set(pack["audio"]) == {"a", "b", "ç 音 [1]"}


@NEEDS_SHARED
def test_extract_selected_streams(tmp_path, run_script):
    path = SHARED / "real" / "media" / "nasa_13013.mp4"
    for streams in ((0, 1), (3, 4)):
        out = tmp_path / str(streams[0])
        args = ("--video-stream", streams[0], "--audio-stream", streams[1])
        assert run_script("extract.py", path, "--out", out, *args)[0] == 0
        assert len(load_arrays(out, path.stem)[0]) == 49
    assert not np.array_equal(load_arrays(tmp_path / "0", path.stem)[0], load_arrays(tmp_path / "3", path.stem)[0])
    status, _, err = run_script("extract.py", path, "--out", tmp_path / "x", "--audio-stream", 9)
    assert status == 1 and "no audio stream 9; its streams are 0 (video, h264), 1 (audio, aac), 3" in err


@pytest.mark.slow
def test_extract_under_torchrun_waits_for_all_ranks(clips, tmp_path):
    """A broken video of one rank does not stop the other rank."""
    folder, out = tmp_path / "clips", tmp_path / "out.h5"
    shutil.copytree(clips, folder)
    (folder / "0 broken.mp4").write_bytes(b"")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*command, ROOT / "extract.py", folder, "--out", out], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("failed: ") >= 1 and "0 broken.mp4" in done.stderr
    with h5py.File(out) as pack:
        assert set(pack["visual"]) == {"a", "b", "ç 音 [1]"}
    assert not (tmp_path / "out.h5.parts").exists()


@pytest.mark.slow
def test_extract_interrupted_ends_at_once(tmp_path):
    """Ctrl-C reaches the script while two processes are at work."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_clip(tmp_path / name, 1)
    write_clip(tmp_path / "long 1.mp4", 200, size=(320, 240))
    shutil.copy(tmp_path / "long 1.mp4", tmp_path / "long 2.mp4")
    command = [sys.executable, ROOT / "extract.py", tmp_path, "--out", tmp_path / "out", "--workers", "2"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while run.poll() is None and len(list(tmp_path.glob("out/*.npy"))) < 6:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=15)
    finally:
        run.kill()
    assert (run.returncode, err) == (130, "interrupted\n")

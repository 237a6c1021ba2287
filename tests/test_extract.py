"""extract.py as a user calls it, and the function that it shares with infer.py."""

import json
import shutil
import subprocess
import sys
import tracemalloc
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import h5py
import numpy as np
import pytest

from libs.core.config import DatasetConfig
from libs.core.types import Video
from libs.features.provenance import SUFFIXES, read_provenance
from libs.features.sources import Hdf5Pack, open_feature_files
from libs.media.batch_extraction import ExtractionResult, ExtractionSettings, VideoExtractor, extract_videos
from libs.media.encoders.build import build_encoder
from libs.media.extract import extract_features
from libs.media.inputs import VideoInput, find_videos
from tests.conftest import NEEDS_SHARED, ROOT, SHARED

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.media.clips import write_clip  # noqa: E402

BUILTIN = build_encoder("builtin")
DIMS = (BUILTIN.visual_dim, BUILTIN.audio_dim)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with a.mp4, b.webm, a sound, and something that no one wants."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.mp4", 3)
    write_clip(folder / "b.webm", 2, beep=None)
    write_clip(folder / "ç 音 [1].mp4", 2.5, picture=False)
    (folder / "notes.doc").write_text("no video")
    return folder


def load(folder, name: str, prefix: str = "") -> list[np.ndarray]:
    return [np.load(folder / f"{prefix}{name}{suffix}.npy") for suffix in SUFFIXES]


def content(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def video(name: str) -> Video:
    return Video(name, "test", 3.0, None, np.empty((0, 2)), np.empty(0, np.int64))


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
@pytest.mark.parametrize("stride", [4, 8])
def test_flash_and_beep_land_in_the_same_windows(tmp_path, ending, stride):
    path = write_clip(tmp_path / f"clip{ending}", 8, flash=(4, 4.48), beep=(4, 4.5))
    quiet = write_clip(tmp_path / f"quiet{ending}", 8, flash=None, beep=None)
    made, base = extract_features(path, BUILTIN, stride), extract_features(quiet, BUILTIN, stride)
    starts = np.arange(len(made.visual)) * stride / 16
    assert len(made.visual) == len(made.audio) == (128 - 16) // stride + 1 == len(base.visual)
    sees = np.abs(made.visual - base.visual).max(1) > 1
    hears = np.abs(made.audio - base.audio)[:, :64].max(1) > 1
    expected = (starts + 1 > 4) & (starts < 4.5)
    assert np.array_equal(sees, expected)
    assert np.array_equal(hears, expected)
    assert made.duration == pytest.approx(8, abs=0.03) and made.notes == [] and made.has_visual and made.has_audio


def test_waveform_peaks(tmp_path):
    made = extract_features(write_clip(tmp_path / "clip.mp4", 10, beep=(4, 5)), BUILTIN, 4)
    peaks = made.waveform_peaks
    assert peaks.shape == (2000, 2) and peaks.dtype == np.float32
    loud = np.flatnonzero(peaks[:, 1] - peaks[:, 0] > 0.5) / 200
    assert loud[0] == pytest.approx(4, abs=0.011) and loud[-1] == pytest.approx(5, abs=0.011) and len(loud) > 195


def test_missing_modalities_are_zero_and_said(tmp_path):
    unseen = extract_features(write_clip(tmp_path / "sound.webm", 3, picture=False), BUILTIN, 4)
    unheard = extract_features(write_clip(tmp_path / "picture.mp4", 3, sound=False), BUILTIN, 4)
    assert unseen.visual.shape == (9, DIMS[0]) and not unseen.visual.any() and unseen.audio.any()
    assert (
        not unseen.has_visual and unseen.has_audio and unseen.notes == ["no picture in the file: its features are zero"]
    )
    assert unheard.audio.shape == (9, DIMS[1]) and not unheard.audio.any() and unheard.visual.any()
    assert (
        unheard.has_visual
        and not unheard.has_audio
        and unheard.notes == ["no sound in the file: its features are zero"]
    )
    assert unheard.waveform_peaks.shape == (0, 2)


def test_the_end_of_either_is_the_end_of_both(tmp_path):
    """Where the sound ends before the picture, silence follows; where the picture does, its last frame stays."""
    for how in ({"times": list(np.arange(0, 1, 0.04))}, {"sound_until": 1.0}):
        made = extract_features(write_clip(tmp_path / "clip.mkv", 4, beep=(0, 4), **how), BUILTIN, 4)
        assert len(made.visual) == len(made.audio) == 13
        assert np.isfinite(made.visual).all() and np.isfinite(made.audio).all()


def test_memory_does_not_grow_with_the_length(tmp_path):
    """But for the features and the time line's 2000 peaks."""
    peaks = []
    for seconds in (20, 80):
        path = write_clip(tmp_path / f"{seconds}.mp4", seconds, fps=4, size=(96, 64))
        tracemalloc.start()
        made = extract_features(path, BUILTIN, 4, threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1] - made.visual.nbytes - made.audio.nbytes)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.05


def test_shorter_than_a_window(tmp_path):
    made = extract_features(write_clip(tmp_path / "clip.mp4", 0.2), BUILTIN, 4)
    assert made.visual.shape == (1, DIMS[0]) and made.audio.shape == (1, DIMS[1])


def test_published_layout(clips, tmp_path, run_script):
    out = tmp_path / "out"
    status, said, err = run_script("extract.py", clips, "--out", out, "--workers", 1, "--prefix", "v_")
    assert status == 0 and "3 videos, 8 s of media" in said and "x real time; 0 were done before, 0 failed" in said
    assert err.count("no picture in the file: its features are zero") == 1
    assert len(content(out)) == 7
    made = extract_features(clips / "a.mp4", BUILTIN, 4)
    for stored, features in zip(load(out, "a", "v_"), (made.visual, made.audio), strict=True):
        assert stored.dtype == np.float16 and np.array_equal(stored, features.astype(np.float16))
    assert json.loads((out / "encoder.json").read_text()) == read_provenance(out)
    assert read_provenance(out) == {
        "encoder": "builtin", "visual_dim": DIMS[0], "audio_dim": DIMS[1], "stride": 4, "num_frames": 16, "fps": 16,
        "streams": "best", "prefix": "v_", "visual_suffix": SUFFIXES[0], "audio_suffix": SUFFIXES[1],
    }  # fmt: skip
    config = DatasetConfig(
        json_file="", feat_folder=str(out), file_prefix="v_", feat_stride=4, num_classes=1, max_seq_len=32
    )
    assert open_feature_files(config, DIMS).lengths([video("a"), video("b"), video("ç 音 [1]")]) == [9, 5, 7]


def test_two_runs_are_bit_identical_and_processes_change_nothing(clips, tmp_path, run_script):
    outs = [tmp_path / str(i) for i in range(3)]
    for out, workers in zip(outs, (1, 1, 2), strict=True):
        assert run_script("extract.py", clips, "--out", out, "--workers", workers)[0] == 0
    assert content(outs[0]) == content(outs[1]) == content(outs[2])


def test_pack(clips, tmp_path, run_script):
    out = tmp_path / "features.h5"
    assert run_script("extract.py", clips / "a.mp4", "--out", out)[0] == 0
    status, said, _ = run_script("extract.py", clips, "--out", out, "--workers", 1)
    assert status == 0 and "1 were done before" in said
    assert [path.name for path in tmp_path.iterdir()] == ["features.h5"]
    pack = Hdf5Pack(out, DIMS)
    assert pack.lengths([video("a"), video("b"), video("ç 音 [1]")]) == [9, 5, 7]
    made = extract_features(clips / "a.mp4", BUILTIN, 4)
    assert np.array_equal(pack.load(video("a")).visual, made.visual.astype(np.float16))
    assert read_provenance(out)["encoder"] == "builtin" and read_provenance(out)["stride"] == 4


def test_what_is_done_is_not_done_again_and_half_is_not_done(clips, tmp_path, run_script):
    out = tmp_path / "out"
    assert run_script("extract.py", clips, "--out", out, "--workers", 1)[0] == 0
    whole = content(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / f"b{SUFFIXES[1]}.npy").unlink()
    (out / f".b{SUFFIXES[1]}.npy.1.tmp").write_bytes(b"half")
    status, said, _ = run_script("extract.py", clips, "--out", out, "--workers", 1)
    assert status == 0 and "1 videos" in said and "2 were done before" in said
    assert content(out).items() >= whole.items()
    assert [path.name for path, at in times.items() if path.stat().st_mtime_ns != at] != []
    assert all(path.stat().st_mtime_ns == at for path, at in times.items() if not path.name.startswith("b"))


def test_other_features_are_refused(clips, tmp_path, run_script):
    for out in (tmp_path / "out", tmp_path / "out.h5"):
        assert run_script("extract.py", clips / "a.mp4", "--out", out)[0] == 0
        status, _, err = run_script("extract.py", clips / "b.webm", "--out", out, "--stride", 8)
        assert status == 2 and err == f"error: {out}: holds other features (stride 4, now 8); choose another --out\n"
    (tmp_path / "published").mkdir()
    np.save(tmp_path / "published" / f"x{SUFFIXES[0]}.npy", np.zeros((3, 1536)))
    with h5py.File(tmp_path / "published.h5", "w") as pack:
        pack["visual/x"] = np.zeros((3, 1536))
    for out in (tmp_path / "published", tmp_path / "published.h5"):
        status, _, err = run_script("extract.py", clips / "a.mp4", "--out", out)
        assert status == 2 and "features of unknown provenance" in err


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_videos_are_reported_and_the_rest_goes_on(clips, tmp_path, run_script, workers):
    broken = tmp_path / "broken ü.mp4"
    broken.write_bytes((clips / "a.mp4").read_bytes()[:3000])
    (tmp_path / "empty.mp4").touch()
    out = tmp_path / "out"
    args = (broken, clips / "a.mp4", tmp_path / "empty.mp4", tmp_path / "none.mp4", clips / "b.webm")
    status, said, err = run_script("extract.py", *args, "--out", out, "--workers", workers)
    failed = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert status == 1 and "2 videos" in said and "3 failed" in said and len(failed) == 3
    assert f"{broken}: no video or sound file, or a truncated one" in err and "Traceback" not in err
    assert len(content(out)) == 5


def test_two_of_one_name(clips, tmp_path, run_script):
    twin = write_clip(tmp_path / "a.webm", 1)
    args = (clips / "a.mp4", twin, clips / "a.mp4", clips / "b.webm", "--out", tmp_path / "out", "--workers", 1)
    status, said, err = run_script("extract.py", *args)
    assert status == 1 and "2 videos" in said
    assert err == f"failed: {twin}: its features would be named a, as those of {clips / 'a.mp4'}; rename one\n"


def test_a_folder_that_cannot_be_written(clips, tmp_path, run_script):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "file" / "out.h5"):
        status, _, err = run_script("extract.py", clips / "a.mp4", "--out", out)
        assert status == 2 and err.count("\n") == 1 and "cannot be written" in err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--encoder", "vgg"], "unknown name; choose builtin"),
        (["--prefix", "../x"], "expected no /"),
        (["--suffixes", "_x", "_x"], "the same file name"),
        (["--workers", "0"], "expected at least 1"),
    ],
)
def test_wrong_arguments(clips, tmp_path, run_script, args, said):
    status, _, err = run_script("extract.py", clips / "a.mp4", "--out", tmp_path / "out", *args)
    assert status == 2 and said in err and err.count("\n") == 1


def test_without_pyav(clips, tmp_path, run_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, err = run_script("extract.py", clips, "--out", tmp_path / "out")
    assert status == 2 and err.count("\n") == 1 and "pip install -e .[media]" in err


def test_find_videos(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text(f"{clips / 'b.webm'}\n\n{tmp_path}/*.mp4\n...mp4\n")
    for name in ("x.mp4", "...mp4", "y.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "nothing").mkdir()
    names = [job.name for job in find_videos([str(clips)])[0]]
    assert names == ["a", "b", "ç 音 [1]"]
    assert [job.name for job in find_videos([str(clips / "ç 音 [1].mp4")])[0]] == ["ç 音 [1]"]
    for listed in ("list.txt", "@list.txt"):
        jobs, problems = find_videos([listed])
        assert [job.name for job in jobs] == ["b", "x", "y"]
        assert len(problems) == 1 and "no name but dots" in problems[0]
    assert find_videos(["nothing", "*.avi", "@none"])[1] == [
        "nothing: no video or sound files in this folder",
        "*.avi: no file has a name like this",
        "none: no readable list of videos (No such file or directory)",
    ]


def test_ranks_share_the_work(clips, tmp_path, run_script, monkeypatch):
    for out in (tmp_path / "out", tmp_path / "out.h5"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        for rank, videos in (("1", 1), ("0", 2)):
            monkeypatch.setenv("RANK", rank)
            status, said, _ = run_script("extract.py", clips, "--out", out, "--workers", 1)
            assert status == 0 and f"{videos} videos" in said
    assert len(content(tmp_path / "out")) == 7
    with h5py.File(tmp_path / "out.h5") as pack:
        assert set(pack["visual"]) == set(pack["audio"]) == {"a", "b", "ç 音 [1]"}


def test_a_process_that_dies_fails_one_video(tmp_path, monkeypatch):
    """As where a decoder crashes: what was under way is tried again, one by one."""
    jobs = [VideoInput(name, tmp_path / name) for name in "abcd"]

    def in_processes(jobs, plan, workers):
        for job in jobs:
            if job.name == "b":
                raise BrokenProcessPool
            yield ExtractionResult(job, 1.0)

    monkeypatch.setattr("libs.media.batch_extraction._in_processes", in_processes)
    outcomes = list(
        extract_videos(jobs, VideoExtractor(ExtractionSettings("builtin", 4, tmp_path / "out", "", SUFFIXES)), workers=2)
    )
    assert [(o.job.name, bool(o.error)) for o in outcomes] == [("a", False), ("b", True), ("c", False), ("d", False)]


@NEEDS_SHARED
def test_chosen_streams(tmp_path, run_script):
    path = SHARED / "real" / "media" / "nasa_13013.mp4"
    for streams in ((0, 1), (3, 4)):
        out = tmp_path / str(streams[0])
        args = ("--video-stream", streams[0], "--audio-stream", streams[1])
        assert run_script("extract.py", path, "--out", out, *args)[0] == 0
        assert len(load(out, path.stem)[0]) == 49
    assert not np.array_equal(load(tmp_path / "0", path.stem)[0], load(tmp_path / "3", path.stem)[0])
    status, _, err = run_script("extract.py", path, "--out", tmp_path / "x", "--audio-stream", 9)
    assert status == 1 and "no audio stream 9; its streams are 0 (video, h264), 1 (audio, aac), 3" in err


def test_torchrun_waits_for_the_rest(clips, tmp_path):
    """One rank's broken video does not end the other rank at work."""
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


def test_other_streams_are_other_features(clips, tmp_path, run_script):
    clip = clips / "a.mp4"
    assert run_script("extract.py", clip, "--out", tmp_path / "out")[0] == 0
    status, _, err = run_script("extract.py", clip, "--out", tmp_path / "out", "--audio-stream", 1)
    assert (status, "holds other features (streams best, now audio 1)" in err) == (2, True)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()
    (tmp_path / "a.mp4").touch()

    def iterdir(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", iterdir)
    jobs, problems = find_videos([str(tmp_path / "shut"), str(tmp_path / "a.mp4")])
    assert [job.name for job in jobs] == ["a"]
    assert problems == [f"{tmp_path / 'shut'}: Permission denied"]

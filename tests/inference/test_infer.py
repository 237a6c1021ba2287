"""The script infer.py: files written, errors reported, features instead of videos."""

import csv
import glob

import numpy as np
import pytest

from libs.inference.localizer import Localizer
from tests.inference.conftest import WIDTHS

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.media.clips import write_clip  # noqa: E402


@pytest.fixture
def infer(run_script, checkpoint, tmp_path):
    """Run infer.py with the checkpoint; outputs go to tmp_path / "out"."""

    def run(*arguments, out=tmp_path / "out"):
        return run_script("infer.py", *arguments, "--checkpoint", checkpoint, "--out", out)

    return run


def test_infer_clip_writes_all_formats(infer, clip, tmp_path):
    status, text, err = infer(clip, "--min-score", 0.05, "--tasks", "1-3")
    assert status == 0, err
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"ä clip.{kind}" for kind in ("json", "csv", "vtt", "srt", "txt", "html")}
    rows = list(csv.DictReader((tmp_path / "out/ä clip.csv").open()))
    assert {row["task"] for row in rows} == {"TAL", "SED"}
    assert all(float(row["score"]) >= 0.05 for row in rows)
    assert "ä clip.mp4" in text
    assert "<class>" not in (tmp_path / "out/ä clip.html").read_text()  # escaped


def test_infer_broken_video_does_not_stop_the_others(infer, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    status, _, err = infer(broken, clip, tmp_path / "absent.mp4")
    assert status == 1
    assert err.count("error: ") == 2
    assert str(broken) in err
    assert "absent.mp4" in err
    assert (tmp_path / "out/ä clip.html").exists()
    assert not (tmp_path / "out/broken.html").exists()


def test_infer_unexpected_error_does_not_stop_the_others(infer, clip, tmp_path, monkeypatch):
    other, localize_video = write_clip(tmp_path / "other.mp4", 2), Localizer.localize_video
    errors = iter([RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), ValueError("odd\nshape")])

    def fail_on_clip(self, path, *rest):
        if path == clip:
            raise next(errors)
        return localize_video(self, path, *rest)

    monkeypatch.setattr(Localizer, "localize_video", fail_on_clip)
    for message in (f"{clip}: memory ran out", f"{clip}: ValueError: odd shape"):
        status, text, err = infer(clip, other)
        assert status == 1
        assert message in err
        assert err.count("\n") == 1
        assert "other.mp4" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "hf:x"], "was trained on features of builtin, not of hf:x"),
        (["--tasks", "9"], "no TASK9"),
        (["--classes", "a,b", "--task", "SED"], "builtin"),
        (["--classes", "a,b", "--task", "DANCE"], "no such task"),
        (["--classes", " , ", "--task", "SED"], "expected names"),
    ],
)
def test_infer_unusable_option_ends_with_one_line(infer, clip, arguments, message):
    status, _, err = infer(clip, *arguments)
    assert status == 2
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("place", ["features", "features.h5"])
def test_infer_features_finds_the_events_of_decoding(infer, run_script, checkpoint, clip, tmp_path, place):
    """With the videos beside the features, and without."""
    features = tmp_path / place
    assert run_script("extract.py", clip, "--out", features)[0] == 0
    expected = Localizer.from_checkpoint(checkpoint, device="cpu").localize(clip, 0.05)
    for videos, out in (([clip], tmp_path / "with"), ([], tmp_path / "without")):
        status, text, err = infer(*videos, "--features", features, "--min-score", 0.05, out=out)
        assert status == 0, err
        assert "ä clip" in text
        rows = list(csv.DictReader((out / "ä clip.csv").open(encoding="utf-8")))
        assert len(rows) == pytest.approx(len(expected), abs=3)  # features are stored in float16
        assert max(float(row["score"]) for row in rows) == pytest.approx(expected[0].score, abs=0.02)
        assert ("clip.mp4" in (out / "ä clip.html").read_text(encoding="utf-8")) == bool(videos)


def test_infer_features_that_do_not_fit_reports_them(infer, run_script, clip, tmp_path):
    features = tmp_path / "features"

    def run() -> tuple[int, str]:
        status, _, err = infer(clip, "--features", features)
        assert err.count("\n") == 1
        return status, err

    status, err = run()
    assert (status, f"error: {features}: " in err) == (2, True)
    assert run_script("extract.py", clip, "--out", features, "--stride", 8)[0] == 0
    status, err = run()
    assert (status, "extract with --stride 4" in err) == (1, True)
    note = features / "encoder.json"
    note.write_text(note.read_text().replace("builtin", "hf:x"))
    status, err = run()
    assert status == 2
    assert "features of hf:x, the checkpoint was trained on those of builtin" in err
    note.write_text(note.read_text().replace("hf:x", "builtin"))
    (path,) = features.glob("*audio.npy")
    sound = np.load(path)
    np.save(path, np.where(np.arange(len(sound))[:, None] == 1, np.nan, sound))
    status, err = run()
    assert (status, "NaN or infinite" in err) == (1, True)
    np.save(path, np.zeros((3, WIDTHS[1])))
    status, err = run()
    assert (status, "extract them again" in err) == (1, True)


def test_infer_two_videos_with_one_file_name_reports_the_second(infer, tmp_path):
    clips = [write_clip(tmp_path / name, 2) for name in ("a?.mp4", "a*.mp4")]
    status, text, err = infer(*map(glob.escape, map(str, clips)))
    assert status == 1
    assert "a*.mp4: its files would be named a_, as those of a?.mp4; rename one" in err
    assert "a?.mp4" in text

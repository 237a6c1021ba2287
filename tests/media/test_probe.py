"""Streams, durations and errors of media files."""

import json
import wave
from fractions import Fraction

import pytest

from libs.core.errors import MediaError
from libs.features.windows import num_windows
from libs.media.probe import probe
from tests.conftest import NEEDS_SHARED, SHARED

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.media.clips import write_clip  # noqa: E402

REAL = SHARED / "real" / "media"


def write_unusable_file(folder, kind: str):
    path = folder / f"{kind} ünïcode 视频.mp4"
    if kind == "text":
        path.write_text("no video\n" * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "no header":
        whole = write_clip(folder / "whole.mp4").read_bytes()
        path.write_bytes(whole[: whole.index(b"moov") - 4])
    elif kind == "half":
        whole = write_clip(folder / "whole.mp4", 8, noise=True, faststart=True).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "subtitles":
        path.write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    elif kind == "still":
        image = pytest.importorskip("PIL.Image")
        image.new("RGB", (32, 32)).save(path, format="PNG")
    elif kind == "silent wav":
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "(No such file or directory)"),
        ("text", "not readable as video or sound"),
        ("empty", "not readable as video or sound"),
        ("folder", "(Is a directory)"),
        ("no header", "not readable as video or sound"),
        ("half", "truncated"),
        ("subtitles", "neither a picture nor sound"),
        ("still", "not a video or sound file"),
        ("silent wav", "neither a picture nor sound can be decoded"),
    ],
)
def test_probe_unusable_file_raises_one_line_naming_it(tmp_path, kind, message):
    path = write_unusable_file(tmp_path, kind)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value) and "\n" not in str(caught.value)


def test_probe_wrong_stream_index_lists_streams(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 1)
    for choice in ({"video_stream": 1}, {"audio_stream": 0}, {"audio_stream": 7}):
        with pytest.raises(MediaError, match=r"its streams are 0 \(video, h264\), 1 \(audio, aac\)"):
            probe(path, **choice)


def test_probe_name_with_colon_is_not_a_protocol(tmp_path):
    assert probe(write_clip(tmp_path / "plain.mp4", 1).rename(tmp_path / "concat:a|b.mp4")).duration == 1


def test_probe_truncated_webm_notes_missing_end(tmp_path):
    path = write_clip(tmp_path / "clip.webm", 8, noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    media = probe(path)
    assert 3 < media.duration < 5 and "its header says 8.0 s" in media.notes[0]


@NEEDS_SHARED
def test_probe_real_clips_agrees_with_their_packets():
    for name, facts in json.loads((REAL / "media_facts.json").read_text())["files"].items():
        for stream in facts["streams"]:
            is_video = stream["type"] == "video"
            media = probe(REAL / name, **{f"{stream['type']}_stream": stream["index"]})
            assert (media.video if is_video else media.audio) == stream["index"]
            if is_video:
                end = stream["last_pts_s"] + 1 / float(Fraction(stream["avg_fps"]))
            else:
                end = stream["first_pts_s"] + stream["samples_decoded"] / stream["sample_rate"]
            assert end - 1 / 16 <= media.duration + float(media.start) <= facts["streams"][-1]["last_pts_s"] + 0.13
            assert float(media.start) <= stream["first_pts_s"]
    windows = {"bigbuckbunny_720p_5s.mp4": 18, "bigbuckbunny_0_30.webm": 117, "nasa_13013.mp4": 49, "jfk.flac": 41}
    assert {name: num_windows(probe(REAL / name).duration, 4) for name in windows} == windows

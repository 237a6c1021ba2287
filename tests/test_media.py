"""Decoding: pictures and sound of any file on one time line, in windows; and files that are none."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from libs.core.errors import MediaError
from libs.features.windows import WINDOW_FRAMES, WINDOW_SAMPLES, batches, num_windows, span
from libs.media.decode import decode_frames, decode_sound
from libs.media.probe import probe
from tests.conftest import NEEDS_SHARED, ROOT, SHARED

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.media.clips import write_clip  # noqa: E402

REAL = SHARED / "real" / "media"
BRIGHT, LOUD = 125, 0.2


def brightness(media, notes=None, short_side=None) -> np.ndarray:
    count = int(media.duration * 16 + 0.01)
    return np.array(
        [p.mean() for p in decode_frames(media, count, short_side, [] if notes is None else notes, threads=1)]
    )


def samples(media, notes=None) -> np.ndarray:
    return np.concatenate(list(decode_sound(media, round(media.duration * 16000), [] if notes is None else notes)))


def first(values: np.ndarray, rate: float) -> float:
    """Seconds to the first true value."""
    return float(np.flatnonzero(values)[0] / rate)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"start": 7.3},
        {"sound_start": 0.7, "beep": (1.3, 1.8)},
        {"fps": 30000 / 1001},
        {"times": sorted(np.random.default_rng(3).uniform(0, 4, 90)) + [4.0]},
        {"fps": 5},
    ],
    ids=["plain", "starts late", "sound starts late", "29.97", "variable rate", "slow"],
)
@pytest.mark.parametrize("ending", [".mp4", ".webm", ".mkv", ".ts"])
def test_flash_and_beep_at_one_moment(tmp_path, ending, how):
    media = probe(write_clip(tmp_path / f"clip{ending}", **how))
    at_times = np.array(how.get("times", np.arange(0, 4, 1 / how.get("fps", 25))))
    flash_at = at_times[at_times >= 2.0][0]  # the first frame that is bright
    shift = first(np.abs(samples(media)) > LOUD, 16000) - 2.0  # of the time line: up to a packet of priming, in some
    assert -0.002 < shift < 0.09
    assert -0.002 <= first(brightness(media) > BRIGHT, 16) - flash_at - shift <= 1 / 16 + 0.002
    assert media.notes == ()


def test_frames_are_the_last_ones_shown(tmp_path):
    """Each frame has its own grey; the oracle looks each output moment up."""
    times = sorted(np.random.default_rng(0).uniform(0, 3, 40))
    media = probe(write_clip(tmp_path / "clip.mp4", times=times, flash=None, sound=False, ramp=True))
    greys = np.arange(40) * 6
    begins = np.array(times) - times[0] - 1e-4
    count = int(media.duration * 16)
    expected = [greys[max(0, np.searchsorted(begins, k / 16, side="right") - 1)] for k in range(count)]
    assert np.abs(brightness(media) - expected).max() < 3


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_no_drift_in_ten_minutes(tmp_path, ending):
    how = {"seconds": 600, "fps": 4, "size": (32, 32), "flash": (599, 600), "beep": (599, 600)}
    media = probe(write_clip(tmp_path / f"long{ending}", **how))
    assert media.duration == pytest.approx(600, abs=0.03)
    assert first(brightness(media) > BRIGHT, 16) == 599
    assert first(np.abs(samples(media)) > LOUD, 16000) == pytest.approx(599, abs=0.002)


def test_what_an_edit_list_cuts_off_is_not_shown(tmp_path):
    """As in a clip cut out of a longer mp4 without encoding anew: 1.5 s are in the file, but before its start."""
    import av

    whole = write_clip(tmp_path / "whole.mp4", 8)
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as out,
    ):
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                shift = round(1.5 / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    media = probe(tmp_path / "cut.mp4")
    assert media.duration == 6.5 and media.notes == ()
    assert first(brightness(media) > BRIGHT, 16) == 0.5
    assert first(np.abs(samples(media)) > LOUD, 16000) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pictures_are_upright_with_square_pixels(tmp_path, rotation):
    painted = np.zeros((48, 64, 3), np.uint8)
    painted[:24, :32], painted[:24, 32:], painted[24:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)  # red is top left
    path = write_clip(tmp_path / "clip.mp4", 1, painted=painted, rotation=rotation, aspect=Fraction(3, 2), sound=False)
    picture = next(decode_frames(probe(path), 16, None, []))
    expected = np.rot90(np.repeat(painted, 3, axis=1)[:, ::2], rotation // 90)
    assert picture.shape == expected.shape == ((48, 96, 3) if rotation % 180 == 0 else (96, 48, 3))
    assert np.abs(picture.astype(int) - expected).mean() < 15
    small = next(decode_frames(probe(path), 16, 24, []))
    assert min(small.shape[:2]) == 24 and max(small.shape[:2]) == 48


def test_gaps_in_sound_are_silent(tmp_path):
    media = probe(write_clip(tmp_path / "clip.mkv", beep=(0.0, 4.0), gap=(1.0, 2.5)))
    loud = np.abs(samples(media, notes := [])[:64000]).reshape(-1, 160).max(1) > LOUD  # 10 ms each
    assert loud[5:95].all() and not loud[105:245].any() and loud[260:390].all()
    assert notes == ["1.5 s of sound are missing in the middle: taken as silent"]


@pytest.mark.parametrize(
    ("seconds", "stride", "windows"), [(10, 4, 37), (10, 8, 19), (1, 4, 1), (0.2, 8, 1), (1.24, 4, 1)]
)
def test_number_of_windows(seconds, stride, windows):
    assert num_windows(seconds, stride) == windows
    assert num_windows(seconds + 0.0009, stride) == num_windows(seconds - 0.0009, stride) == windows


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_batches_are_the_windows(block):
    data = np.arange(span(9, 16, 4))
    pieces = (data[i : i + block] for i in range(0, len(data), block))
    parts = list(batches(pieces, 9, 16, 4, size=4))
    assert [len(part) for part in parts] == [4, 4, 1]
    assert np.array_equal(np.concatenate([p.windows for p in parts]), [data[4 * k : 4 * k + 16] for k in range(9)])


DECODE = """
import gc, resource, sys
from libs.media.decode import decode_frames
from libs.media.probe import probe
gc.disable()
media = probe(sys.argv[1])
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = most()
assert sum(1 for _ in decode_frames(media, 200, 32, [], threads=1)) == 200
print(most() - before)
"""


def test_frames_are_let_go(tmp_path):
    """Without waiting for the garbage collector, which is late: it does not see how large they are."""
    path = write_clip(tmp_path / "clip.mp4", 12.5, fps=16, size=(960, 540), sound=False)
    run = subprocess.run([sys.executable, "-c", DECODE, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 40  # MiB; the 200 decoded frames have 150


@NEEDS_SHARED
def test_real_clips():
    """Against the packets of media_facts.json: last frames, sample counts, and the picture at every moment."""
    for name, facts in json.loads((REAL / "media_facts.json").read_text())["files"].items():
        for stream in facts["streams"]:
            picture = stream["type"] == "video"
            media = probe(REAL / name, **{f"{stream['type']}_stream": stream["index"]})
            assert (media.video if picture else media.audio) == stream["index"]
            if picture:
                step = 1 / float(Fraction(stream["avg_fps"]))
                end = stream["last_pts_s"] + step
            else:
                end = stream["first_pts_s"] + stream["samples_decoded"] / stream["sample_rate"]
            assert end - 1 / 16 <= media.duration + float(media.start) <= facts["streams"][-1]["last_pts_s"] + 0.13
            assert float(media.start) <= stream["first_pts_s"]
    windows = {"bigbuckbunny_720p_5s.mp4": 18, "bigbuckbunny_0_30.webm": 117, "nasa_13013.mp4": 49, "jfk.flac": 41}
    assert {name: num_windows(probe(REAL / name).duration, 4) for name in windows} == windows


@NEEDS_SHARED
def test_real_frames_are_the_ones_of_their_time():
    import av

    path = REAL / "nasa_13013.mp4"
    for index, facts in ((0, "stream0"), (3, "stream3")):
        with av.open(str(path)) as container:
            decoded = [
                (f.pts * f.time_base, f.to_ndarray(format="rgb24").mean()) for f in container.decode(video=index // 3)
            ]
        listed = json.loads((REAL / f"nasa_13013.mp4.{facts}.all_frames_info.json").read_text())
        assert [float(at) for at, _ in decoded] == pytest.approx([float(f["pts_time"]) for f in listed], abs=1e-5)
        expected = [[mean for at, mean in decoded if at <= Fraction(k, 16)][-1] for k in range(208)]
        assert np.abs(brightness(probe(path, video_stream=index))[:208] - expected).max() < 1


@NEEDS_SHARED
def test_a_damaged_frame_is_skipped(tmp_path):
    data = bytearray((REAL / "bigbuckbunny_0_30.webm").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    (tmp_path / "damaged.webm").write_bytes(data)
    media, notes = probe(tmp_path / "damaged.webm"), []
    assert media.duration == pytest.approx(30.019, abs=0.03)
    assert len(brightness(media, notes, 32)) == 480 and len(samples(media, notes)) == round(media.duration * 16000)
    assert notes or media.notes


def test_a_damaged_packet_is_noted(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 4, size=(128, 96), noise=True)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 200_000
    data[at : at + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    media, notes = probe(path), []
    assert len(brightness(media, notes)) == 64
    assert any("damaged" in note and "skipped" in note for note in notes)


def test_a_truncated_webm_goes_as_far_as_it_does(tmp_path):
    path = write_clip(tmp_path / "clip.webm", 8, noise=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    media = probe(path)
    assert 3 < media.duration < 5 and "its header says 8.0 s" in media.notes[0]


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
        from PIL import Image

        Image.new("RGB", (32, 32)).save(path, format="PNG")
    elif kind == "silent wav":
        import wave

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
def test_probe_of_unusable_file_names_it(tmp_path, kind, message):
    if kind == "still":
        pytest.importorskip("PIL")
    path = write_unusable_file(tmp_path, kind)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value) and "\n" not in str(caught.value)


def test_streams_that_are_not_there(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 1)
    for choice in ({"video_stream": 1}, {"audio_stream": 0}, {"audio_stream": 7}):
        with pytest.raises(MediaError, match=r"its streams are 0 \(video, h264\), 1 \(audio, aac\)"):
            probe(path, **choice)


def test_colons_in_names_are_no_protocols(tmp_path):
    assert probe(write_clip(tmp_path / "plain.mp4", 1).rename(tmp_path / "concat:a|b.mp4")).duration == 1


def test_window_lengths_agree():
    assert WINDOW_FRAMES / 16 == WINDOW_SAMPLES / 16000 == 1

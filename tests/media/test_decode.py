"""Pictures and sound of media files on one time line."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from libs.media.decode import decode_frames, decode_sound
from libs.media.probe import MediaInfo, probe
from tests.conftest import NEEDS_SHARED, ROOT, SHARED

av = pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.media.clips import write_clip  # noqa: E402

REAL = SHARED / "real" / "media"
BRIGHT, LOUD = 125, 0.2


def read_brightness(media: MediaInfo, notes: list[str] | None = None, short_side: int | None = None) -> np.ndarray:
    count = int(media.duration * 16 + 0.01)
    pictures = decode_frames(media, count, short_side, [] if notes is None else notes, threads=1)
    return np.array([picture.mean() for picture in pictures])


def read_samples(media: MediaInfo, notes: list[str] | None = None) -> np.ndarray:
    return np.concatenate(list(decode_sound(media, round(media.duration * 16000), [] if notes is None else notes)))


def find_first(values: np.ndarray, rate: float) -> float:
    """Return the seconds to the first true value."""
    return float(np.flatnonzero(values)[0] / rate)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": 7.3},
        {"sound_start": 0.7, "beep": (1.3, 1.8)},
        {"fps": 30000 / 1001},
        {"times": [*sorted(np.random.default_rng(3).uniform(0, 4, 90)), 4.0]},
        {"fps": 5},
    ],
    ids=["plain", "late start", "late sound", "29.97", "variable rate", "slow"],
)
@pytest.mark.parametrize("ending", [".mp4", ".webm", ".mkv", ".ts"])
def test_decode_flash_and_beep_at_one_time(tmp_path, ending, options):
    media = probe(write_clip(tmp_path / f"clip{ending}", **options))
    times = np.array(options.get("times", np.arange(0, 4, 1 / options.get("fps", 25))))
    flash_at = times[times >= 2.0][0]  # the first bright frame
    shift = find_first(np.abs(read_samples(media)) > LOUD, 16000) - 2.0  # in some formats up to a packet of priming
    assert -0.002 < shift < 0.09
    assert -0.002 <= find_first(read_brightness(media) > BRIGHT, 16) - flash_at - shift <= 1 / 16 + 0.002
    assert media.notes == ()


def test_decode_frames_variable_rate_returns_last_frame_shown(tmp_path):
    """Each frame has its own grey; the oracle looks each output time up."""
    times = sorted(np.random.default_rng(0).uniform(0, 3, 40))
    media = probe(write_clip(tmp_path / "clip.mp4", times=times, flash=None, sound=False, ramp=True))
    greys = np.arange(40) * 6
    begins = np.array(times) - times[0] - 1e-4
    count = int(media.duration * 16)
    expected = [greys[max(0, np.searchsorted(begins, k / 16, side="right") - 1)] for k in range(count)]
    assert np.abs(read_brightness(media) - expected).max() < 3


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_decode_ten_minutes_has_no_drift(tmp_path, ending):
    options = {"fps": 4, "size": (32, 32), "flash": (599, 600), "beep": (599, 600)}
    media = probe(write_clip(tmp_path / f"long{ending}", 600, **options))
    assert media.duration == pytest.approx(600, abs=0.03)
    assert find_first(read_brightness(media) > BRIGHT, 16) == 599
    assert find_first(np.abs(read_samples(media)) > LOUD, 16000) == pytest.approx(599, abs=0.002)


def test_decode_edit_list_skips_what_precedes_its_start(tmp_path):
    """As in a clip cut out of a longer mp4 without encoding anew: 1.5 s are in the file, but before its start."""
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
    assert find_first(read_brightness(media) > BRIGHT, 16) == 0.5
    assert find_first(np.abs(read_samples(media)) > LOUD, 16000) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_decode_frames_are_upright_with_square_pixels(tmp_path, rotation):
    painted = np.zeros((48, 64, 3), np.uint8)
    painted[:24, :32], painted[:24, 32:], painted[24:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)  # red is top left
    path = write_clip(tmp_path / "clip.mp4", 1, painted=painted, rotation=rotation, aspect=Fraction(3, 2), sound=False)
    picture = next(decode_frames(probe(path), 16, None, []))
    expected = np.rot90(np.repeat(painted, 3, axis=1)[:, ::2], rotation // 90)
    assert picture.shape == expected.shape == ((48, 96, 3) if rotation % 180 == 0 else (96, 48, 3))
    assert np.abs(picture.astype(int) - expected).mean() < 15
    small = next(decode_frames(probe(path), 16, 24, []))
    assert min(small.shape[:2]) == 24 and max(small.shape[:2]) == 48


def test_decode_sound_gap_is_silent_and_noted(tmp_path):
    media = probe(write_clip(tmp_path / "clip.mkv", beep=(0.0, 4.0), gap=(1.0, 2.5)))
    loud = np.abs(read_samples(media, notes := [])[:64000]).reshape(-1, 160).max(1) > LOUD  # 10 ms each
    assert loud[5:95].all() and not loud[105:245].any() and loud[260:390].all()
    assert notes == ["1.5 s of sound are missing in the middle: taken as silent"]


MEASURE_MEMORY = """
import gc, resource, sys
from libs.media.decode import decode_frames
from libs.media.probe import probe
gc.disable()
media = probe(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
assert sum(1 for _ in decode_frames(media, 200, 32, [], threads=1)) == 200
print(peak() - before)
"""


def test_decode_frames_releases_frames_without_garbage_collector(tmp_path):
    """The collector runs too late, because it does not know how large frames are."""
    path = write_clip(tmp_path / "clip.mp4", 12.5, fps=16, size=(960, 540), sound=False)
    command = [sys.executable, "-c", MEASURE_MEMORY, path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 40  # MiB; the 200 decoded frames have 150


@NEEDS_SHARED
def test_decode_frames_of_real_clip_match_their_times():
    path = REAL / "nasa_13013.mp4"
    for index, facts in ((0, "stream0"), (3, "stream3")):
        with av.open(str(path)) as container:
            frames = [
                (f.pts * f.time_base, f.to_ndarray(format="rgb24").mean()) for f in container.decode(video=index // 3)
            ]
        listed = json.loads((REAL / f"nasa_13013.mp4.{facts}.all_frames_info.json").read_text())
        assert [float(time) for time, _ in frames] == pytest.approx([float(f["pts_time"]) for f in listed], abs=1e-5)
        expected = [[mean for time, mean in frames if time <= Fraction(k, 16)][-1] for k in range(208)]
        assert np.abs(read_brightness(probe(path, video_stream=index))[:208] - expected).max() < 1


@NEEDS_SHARED
def test_decode_real_clip_with_zeroed_bytes_skips_them(tmp_path):
    data = bytearray((REAL / "bigbuckbunny_0_30.webm").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    (tmp_path / "damaged.webm").write_bytes(data)
    media, notes = probe(tmp_path / "damaged.webm"), []
    assert media.duration == pytest.approx(30.019, abs=0.03)
    assert len(read_brightness(media, notes, 32)) == 480
    assert len(read_samples(media, notes)) == round(media.duration * 16000)
    assert notes or media.notes


def test_decode_damaged_packet_is_skipped_and_noted(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", 4, size=(128, 96), noise=True)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 200_000
    data[at : at + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    media, notes = probe(path), []
    assert len(read_brightness(media, notes)) == 64
    assert any("damaged" in note and "skipped" in note for note in notes)

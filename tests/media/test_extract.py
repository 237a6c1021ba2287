"""From a file to features."""

import tracemalloc

import numpy as np
import pytest

from libs.media.encoders.build import build_encoder
from libs.media.extract import extract_features

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

from tests.media.clips import write_clip  # noqa: E402

BUILTIN = build_encoder("builtin")
DIMS = (BUILTIN.visual_dim, BUILTIN.audio_dim)


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
@pytest.mark.parametrize("stride", [4, 8])
def test_extract_features_flash_and_beep_change_the_same_windows(tmp_path, ending, stride):
    path = write_clip(tmp_path / f"clip{ending}", 8, flash=(4, 4.48), beep=(4, 4.5))
    quiet = write_clip(tmp_path / f"quiet{ending}", 8, flash=None, beep=None)
    features, base = extract_features(path, BUILTIN, stride), extract_features(quiet, BUILTIN, stride)
    starts = np.arange(len(features.visual)) * stride / 16
    assert len(features.visual) == len(features.audio) == (128 - 16) // stride + 1 == len(base.visual)
    expected = (starts + 1 > 4) & (starts < 4.5)
    assert np.array_equal(np.abs(features.visual - base.visual).max(1) > 1, expected)
    assert np.array_equal(np.abs(features.audio - base.audio)[:, :64].max(1) > 1, expected)
    assert features.duration == pytest.approx(8, abs=0.03) and features.notes == []


def test_extract_features_waveform_peaks_show_the_beep(tmp_path):
    peaks = extract_features(write_clip(tmp_path / "clip.mp4", 10, beep=(4, 5)), BUILTIN, 4).waveform_peaks
    assert peaks.shape == (2000, 2) and peaks.dtype == np.float32
    loud = np.flatnonzero(peaks[:, 1] - peaks[:, 0] > 0.5) / 200
    assert loud[0] == pytest.approx(4, abs=0.011) and loud[-1] == pytest.approx(5, abs=0.011) and len(loud) > 195


def test_extract_features_missing_modality_is_zero_and_noted(tmp_path):
    unseen = extract_features(write_clip(tmp_path / "sound.webm", 3, picture=False), BUILTIN, 4)
    unheard = extract_features(write_clip(tmp_path / "picture.mp4", 3, sound=False), BUILTIN, 4)
    assert unseen.visual.shape == (9, DIMS[0]) and not unseen.visual.any() and unseen.audio.any()
    assert unseen.notes == ["no picture in the file: its features are zero"]
    assert unheard.audio.shape == (9, DIMS[1]) and not unheard.audio.any() and unheard.visual.any()
    assert unheard.notes == ["no sound in the file: its features are zero"]
    assert unheard.waveform_peaks.shape == (0, 2)


@pytest.mark.parametrize("options", [{"times": list(np.arange(0, 1, 0.04))}, {"sound_until": 1.0}])
def test_extract_features_shorter_stream_is_filled_up(tmp_path, options):
    """With its last frame, or with silence."""
    features = extract_features(write_clip(tmp_path / "clip.mkv", 4, beep=(0, 4), **options), BUILTIN, 4)
    assert len(features.visual) == len(features.audio) == 13
    assert np.isfinite(features.visual).all() and np.isfinite(features.audio).all()


def test_extract_features_memory_does_not_grow_with_length(tmp_path):
    """Except for the features themselves and the 2000 peaks."""
    peaks = []
    for seconds in (15, 45):
        path = write_clip(tmp_path / f"{seconds}.mp4", seconds, fps=4, size=(96, 64))
        tracemalloc.start()
        features = extract_features(path, BUILTIN, 4, threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1] - features.visual.nbytes - features.audio.nbytes)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.05


def test_extract_features_shorter_than_a_window_gives_one(tmp_path):
    features = extract_features(write_clip(tmp_path / "clip.mp4", 0.2), BUILTIN, 4)
    assert features.visual.shape == (1, DIMS[0]) and features.audio.shape == (1, DIMS[1])

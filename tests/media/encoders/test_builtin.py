"""What the builtin encoder sees and hears."""

import numpy as np
import pytest

from libs.core.errors import UserError
from libs.features.windows import WINDOW_FRAMES, WINDOW_SAMPLES, WindowBatch
from libs.media.encoders.builtin import BuiltinEncoder
from tests.media.encoders.batches import make_noise, make_pictures, make_tone, split_windows

ENCODER = BuiltinEncoder()


@pytest.mark.parametrize("stride", [4, 8])
def test_builtin_window_is_independent_of_its_batch(stride):
    """What overlapping windows share is computed once, with bit-identical results."""
    for make, encode, dim in (
        (make_pictures, ENCODER.encode_frames, ENCODER.visual_dim),
        (make_noise, ENCODER.encode_audio, ENCODER.audio_dim),
    ):
        batch = make(5, stride)
        features = encode(batch)
        assert features.shape == (5, dim) and features.dtype == np.float32 and np.isfinite(features).all()
        assert np.array_equal(features, np.concatenate([encode(window) for window in split_windows(batch)]))


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (64, 2), (48, 64)])
def test_builtin_pictures_of_any_size_are_finite(size):
    assert np.isfinite(ENCODER.encode_frames(make_pictures(2, size=size))).all()


def test_builtin_features_are_of_order_one():
    black = WindowBatch(np.zeros((16, 36, 64, 3), np.uint8), WINDOW_FRAMES, 4)
    silence = WindowBatch(np.zeros(WINDOW_SAMPLES, np.float32), WINDOW_SAMPLES, 4000)
    for features in (
        ENCODER.encode_frames(black),
        ENCODER.encode_frames(make_pictures(2)),
        ENCODER.encode_audio(silence),
        ENCODER.encode_audio(make_noise(2)),
        ENCODER.encode_audio(make_tone(1000)),
    ):
        assert 0.1 < np.abs(features).mean() < 3 and np.abs(features).max() < 12


def test_builtin_sees_position_and_direction_of_a_square():
    def encode_moving(step: int) -> np.ndarray:
        frames = np.full((16, 64, 64, 3), 40, np.uint8)
        for i in range(16):
            left = 24 + step * (i - 8)
            frames[i, 20:36, left : left + 16] = (200, 40, 40)
        return ENCODER.encode_frames(WindowBatch(frames, WINDOW_FRAMES, 4))[0]

    right, left, still = encode_moving(2), encode_moving(-2), encode_moving(0)
    across = slice(12 * 16, 13 * 16)  # motion along x, one number per cell
    assert right[across].sum() > 1 and left[across].sum() < -1 and abs(still[across]).max() < 1e-6
    assert still[:16].reshape(4, 4)[1].argmax() in (1, 2)  # brightest cell: second row, in the middle


def test_builtin_hears_pitch():
    bands = [ENCODER.encode_audio(make_tone(hz))[0, :64].argmax() for hz in (200, 500, 1000, 2000, 4000)]
    assert bands == sorted(set(bands))


def test_builtin_embeds_no_text():
    with pytest.raises(UserError, match="embeds no text"):
        ENCODER.encode_text(["a dog"])

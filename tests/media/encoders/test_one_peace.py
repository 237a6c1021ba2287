"""The adapter of ONE-PEACE's library, tested with a stand-in that has the library's interface."""

import sys
import types
import wave

import numpy as np
import pytest
import torch

from libs.features.windows import WINDOW_SAMPLES
from libs.media.encoders.build import build_encoder
from tests.media.encoders.batches import make_noise, make_pictures

image = pytest.importorskip("PIL.Image")


class Model:
    def process_image(self, paths):
        return torch.tensor([np.asarray(image.open(path)).mean() for path in paths])

    def process_audio(self, paths):
        sounds = []
        for path in paths:
            with wave.open(path) as file:
                sounds.append(np.frombuffer(file.readframes(WINDOW_SAMPLES), "<i2") / 32767)
        return torch.tensor(np.stack(sounds)), None

    def process_text(self, sentences):
        return torch.tensor([len(sentence) for sentence in sentences])

    def _widen(self, values):
        return torch.stack((values, torch.ones_like(values)), 1).repeat(1, 768)

    def extract_image_features(self, images):
        return self._widen(images)

    def extract_audio_features(self, sounds, masks):
        return self._widen(sounds.abs().amax(1))

    def extract_text_features(self, tokens):
        return self._widen(tokens.float())


def test_one_peace_encoder_passes_whole_files_in_order(monkeypatch):
    library = types.ModuleType("one_peace.models")
    monkeypatch.setattr(library, "from_pretrained", lambda name, device, dtype: Model(), raising=False)
    monkeypatch.setitem(sys.modules, "one_peace", types.ModuleType("one_peace"))
    monkeypatch.setitem(sys.modules, "one_peace.models", library)
    encoder = build_encoder("one-peace")
    sounds = make_noise(20)
    audio = encoder.encode_audio(sounds)
    assert audio.shape == (20, 1536)
    assert np.allclose(audio[:, 0] / audio[:, 1], np.abs(sounds.windows).max(1), atol=1e-4)
    assert encoder.encode_frames(make_pictures(20)).shape == (20, 1536)
    assert encoder.encode_text(["a", "bc"]).shape == (2, 1536)

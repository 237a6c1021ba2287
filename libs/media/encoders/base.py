"""The protocol of encoders, and what they share."""

import os
from typing import Protocol

import numpy as np
import torch

from libs.features.windows import WindowBatch


class Encoder(Protocol):
    """name says which one made features: equal names, equal features. short_side: pixels of the shorter side that it
    wants of pictures (None: as they are). text_dim is 0 where it embeds no text."""

    name: str
    visual_dim: int
    audio_dim: int
    text_dim: int
    short_side: int | None

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        """(N, visual_dim) float32 of N windows of frames."""

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        """(N, audio_dim) float32 of N windows of sound."""

    def encode_text(self, sentences: list[str]) -> np.ndarray:
        """(N, text_dim) float32, unit rows. Raises UserError where the encoder embeds no text."""


def default_device() -> str:
    """A GPU, torchrun's ranks one each, or else the CPU."""
    gpus = torch.cuda.device_count()
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % gpus}" if gpus else "cpu"

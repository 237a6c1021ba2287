"""Encoders: what makes features of windows. One protocol, and the names that a user chooses them by."""

from typing import Protocol

import numpy as np

from libs.core.errors import UserError
from libs.media.windows import WindowBatch

CHOICES = "builtin, hf:NAME[,NAME] (a name or folder of Hugging Face transformers) or one-peace:VISUAL.pt[,AUDIO.pt]"


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


def make_encoder(spec: str) -> Encoder:
    """The encoder of that name. Raises UserError on another name, or where what it needs is not installed."""
    kind, _, names = spec.partition(":")
    if spec == "builtin":
        from libs.media.builtin import BuiltinEncoder

        return BuiltinEncoder()
    if kind == "hf" and names:
        from libs.media.hf import make_hf_encoder

        return make_hf_encoder(names)
    if kind == "one-peace":
        from libs.media.one_peace import make_one_peace_encoder

        return make_one_peace_encoder(names)
    raise UserError(f"encoder {spec!r}: there is none of that name; choose {CHOICES}")

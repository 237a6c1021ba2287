"""The interface of encoders."""

import os
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from libs.features.windows import WindowBatch


class Encoder(Protocol):
    """Computes features of windows. Encoders of equal names compute equal features.

    Attributes:
        text_dim: 0 if the encoder embeds no text.
        short_side: pixels of the shorter side to which pictures are scaled down; None: not scaled.
    """

    name: str
    visual_dim: int
    audio_dim: int
    text_dim: int

    @property
    def short_side(self) -> int | None: ...

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        """Encode N windows of frames as (N, visual_dim) float32."""
        ...

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        """Encode N windows of sound as (N, audio_dim) float32."""
        ...

    def encode_text(self, sentences: list[str]) -> np.ndarray:
        """Encode N sentences as (N, text_dim) float32 unit rows. Raises UserError if the encoder embeds no text."""
        ...


@runtime_checkable
class ContextEncoder(Protocol):
    """An encoder with a text side that can learn a context, as in CoOp."""

    def build_context_embedder(self, names: list[str], length: int) -> tuple[Callable[[Tensor], Tensor], int]:
        """Build a differentiable function that embeds learned vectors followed by a class name.

        Returns:
            The function (length, width) -> (N, text_dim), and the width of the vectors.
        """
        ...


def default_device() -> str:
    """Return a GPU, one per rank under torchrun, or the CPU if there is none."""
    gpus = torch.cuda.device_count()
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % gpus}" if gpus else "cpu"

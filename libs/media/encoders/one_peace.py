"""ONE-PEACE's own library and checkpoints as an encoder, if they are installed.

The library does the preprocessing, from files. A visual window is the mean over one picture per hop. The published
features come from a checkpoint fine-tuned on video, and this interface does not reach its video head. So a network for
features from here must be trained on features from here.
"""

import tempfile
import wave
from collections.abc import Callable

import numpy as np
import torch

from libs.core.errors import UserError
from libs.features.windows import SAMPLE_RATE_HZ, WindowBatch, sliding
from libs.media.encoders.base import default_device

BATCH_SIZE = 16  # pictures or seconds of sound


class OnePeaceEncoder:
    visual_dim = audio_dim = text_dim = 1536
    short_side = 256

    def __init__(self, name: str, visual, audio):
        self.name, self.visual, self.audio = name, visual, audio

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        def encode(paths: list[str]) -> torch.Tensor:
            return self.visual.extract_image_features(self.visual.process_image(paths))

        rows = _encode_files(batch.data[batch.hop // 2 :: batch.hop], _write_png, encode)
        return sliding(rows, batch.length // batch.hop, 1)[: len(batch)].mean(1)

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        def encode(paths: list[str]) -> torch.Tensor:
            return self.audio.extract_audio_features(*self.audio.process_audio(paths))

        return _encode_files(batch.windows, _write_wav, encode)

    @torch.inference_mode()
    def encode_text(self, sentences: list[str]) -> np.ndarray:
        return _to_unit_rows(self.visual.extract_text_features(self.visual.process_text(sentences)))


def build_one_peace_encoder(names: str) -> OnePeaceEncoder:
    """Build the encoder of VISUAL.pt[,AUDIO.pt]; "" means the library's pretrained checkpoint.

    Raises:
        UserError: the library is not installed, or a checkpoint cannot be loaded.
    """
    files = (names or "ONE-PEACE").split(",")
    try:
        from one_peace.models import from_pretrained  # pyright: ignore[reportMissingImports] (not on PyPI)

        models = {file: from_pretrained(file, device=default_device(), dtype="float32") for file in set(files)}
    except (ImportError, OSError, RuntimeError, ValueError, KeyError) as error:
        needed = "install the library, https://github.com/OFA-Sys/ONE-PEACE, and name its checkpoints"
        raise UserError(f"encoder one-peace: cannot be loaded ({str(error)[:200]}); {needed}") from None
    return OnePeaceEncoder(f"one-peace:{names}" if names else "one-peace", models[files[0]], models[files[-1]])


@torch.inference_mode()
def _encode_files(
    rows: np.ndarray, write: Callable[[str, np.ndarray], str], encode: Callable[[list[str]], torch.Tensor]
) -> np.ndarray:
    """Encode rows through temporary files, one each."""
    parts = []
    for first in range(0, len(rows), BATCH_SIZE):
        with tempfile.TemporaryDirectory() as folder:
            batch = rows[first : first + BATCH_SIZE]
            parts.append(encode([write(f"{folder}/{i}", row) for i, row in enumerate(batch)]))
    return _to_unit_rows(torch.cat(parts))


def _write_png(stem: str, picture: np.ndarray) -> str:
    from PIL import Image

    Image.fromarray(picture).save(path := f"{stem}.png")
    return path


def _write_wav(stem: str, samples: np.ndarray) -> str:
    with wave.open(path := f"{stem}.wav", "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", "not compressed"))
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def _to_unit_rows(rows: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(rows.float(), dim=-1).cpu().numpy()

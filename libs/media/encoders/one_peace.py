"""ONE-PEACE's own library and checkpoints as an encoder, where they are installed.

Its preprocessing is the library's: windows go to it as the files that its interface takes. A visual window is the mean
over one picture every hop. The published features come from a checkpoint fine-tuned on video, which this interface,
made for pictures, does not reach through its video head: features made here suit networks trained on such.
"""

import tempfile
import wave
from pathlib import Path

import numpy as np
import torch

from libs.core.errors import UserError
from libs.features.windows import SAMPLE_RATE_HZ, WindowBatch, sliding
from libs.media.encoders.base import Encoder, default_device

DEFAULT_CHECKPOINT = "ONE-PEACE"  # the library's name of its pretrained checkpoint
DIM = 1536
ROWS = 16  # pictures or seconds of sound that go through the network together


class OnePeaceEncoder:
    visual_dim = audio_dim = text_dim = DIM
    short_side = 256

    def __init__(self, name: str, visual, audio):
        self.name, self.visual, self.audio = name, visual, audio

    @torch.inference_mode()
    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        from PIL import Image

        pictures, parts = batch.data[batch.hop // 2 :: batch.hop], []
        for first in range(0, len(pictures), ROWS):
            with tempfile.TemporaryDirectory() as folder:
                paths = [str(Path(folder) / f"{i}.png") for i in range(len(pictures[first : first + ROWS]))]
                for path, picture in zip(paths, pictures[first:], strict=False):
                    Image.fromarray(picture).save(path)
                parts.append(self.visual.extract_image_features(self.visual.process_image(paths)))
        return sliding(_numpy(parts), batch.length // batch.hop, 1)[: len(batch)].mean(1)

    @torch.inference_mode()
    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        windows, parts = batch.windows, []
        for first in range(0, len(windows), ROWS):
            with tempfile.TemporaryDirectory() as folder:
                paths = [str(Path(folder) / f"{i}.wav") for i in range(len(windows[first : first + ROWS]))]
                for path, samples in zip(paths, windows[first:], strict=False):
                    _write_wav(path, samples)
                parts.append(self.audio.extract_audio_features(*self.audio.process_audio(paths)))
        return _numpy(parts)

    @torch.inference_mode()
    def encode_text(self, sentences: list[str]) -> np.ndarray:
        return _numpy([self.visual.extract_text_features(self.visual.process_text(list(sentences)))])


def build_one_peace_encoder(names: str) -> Encoder:
    """The encoder of VISUAL.pt[,AUDIO.pt], the library's pretrained checkpoint where no name is given.

    Raises UserError where the library is not installed or a checkpoint cannot be loaded.
    """
    try:
        from one_peace.models import from_pretrained
    except ImportError:
        raise UserError(
            "encoder one-peace: the library one_peace is not installed: git clone "
            "https://github.com/OFA-Sys/ONE-PEACE, then pip install -r requirements.txt and pip install -e . in it"
        ) from None
    wanted = (names or DEFAULT_CHECKPOINT).split(",")
    if len(wanted) > 2 or not all(wanted):
        raise UserError(
            f"encoder one-peace:{names}: expected one-peace, one-peace:VISUAL.pt or one-peace:VISUAL.pt,AUDIO.pt"
        )
    try:
        models = {
            name: from_pretrained(name, device=default_device(), dtype="float32") for name in dict.fromkeys(wanted)
        }
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"encoder one-peace:{names}: a checkpoint cannot be loaded ({str(error)[:200]})") from None
    return OnePeaceEncoder(f"one-peace:{names}" if names else "one-peace", models[wanted[0]], models[wanted[-1]])


def _write_wav(path: str, samples: np.ndarray) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())


def _numpy(parts: list[torch.Tensor]) -> np.ndarray:
    return torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu().numpy()

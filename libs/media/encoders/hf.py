"""Checkpoints of Hugging Face transformers as encoders.

Tested kinds: CLIP, SigLIP (pictures and text), CLAP (sound and text), X-CLIP (clips and text), VideoMAE, ViViT,
TimeSformer (clips), ViT, DINO (pictures), AST, Wav2Vec2 (sound). Embeddings that share a space with text are unit
vectors; others are the mean of the last layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libs.core.errors import UserError
from libs.features.windows import SAMPLE_RATE_HZ, WINDOW_FRAMES, WINDOW_SAMPLES, WindowBatch, sliding
from libs.media.encoders.base import default_device
from libs.media.encoders.builtin import BuiltinEncoder

BATCH_SIZE = 16  # pictures, clips, seconds of sound or sentences


class HfModel:
    """One checkpoint, and what it can embed.

    Attributes:
        visual: "image", "clip" or None.
        audio, text: whether it embeds sound and text.
        short_side: pixels of the shorter side that its preprocessing scales pictures down to; None if it does not say.
    """

    def __init__(self, name: str):
        self.name, self.device = name, default_device()
        self.model = _load("AutoModel", name).float().eval().to(self.device)  # some checkpoints are stored in 16 bits
        config, input_name = self.model.config, self.model.main_input_name
        vision_config = getattr(config, "vision_config", None)
        self.num_frames = getattr(config, "num_frames", None) or getattr(vision_config, "num_frames", None) or 1
        images, clips, sound, self.text = (
            hasattr(self.model, f"get_{kind}_features") for kind in ("image", "video", "audio", "text")
        )
        self.visual, self.short_side = None, None
        if images or clips or input_name.startswith("pixel_values"):
            self.visual = "clip" if self.num_frames > 1 and not images else "image"
            self.image_processor = _load("AutoImageProcessor", name)
            sizes = [dict(getattr(self.image_processor, key, None) or {}) for key in ("size", "crop_size")]
            self.short_side = max((side for size in sizes for side in size.values() if side), default=None)
        self.audio = sound or input_name in ("input_values", "input_features")
        if self.audio:
            self.feature_extractor = _load("AutoFeatureExtractor", name)

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        """Encode windows as clips, or as the mean over one picture per hop, which overlapping windows share.

        A model of fewer frames than a window has gets evenly spaced ones.
        """
        if self.visual is None:
            raise UserError(f"encoder hf:{self.name}: embeds no pictures; name one that does first: hf:VISUAL,AUDIO")
        process = partial(self.image_processor, return_tensors="pt")
        if self.visual == "clip":
            frames = np.linspace(0, batch.length - 1, self.num_frames).round().astype(int)
            clips = [list(clip) for clip in batch.windows[:, frames]]
            return self._embed(clips, process, "get_video_features")
        pictures = list(batch.data[batch.hop // 2 :: batch.hop])
        embedded = self._embed(pictures, process, "get_image_features")
        return sliding(embedded, batch.length // batch.hop, 1)[: len(batch)].mean(1)

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        if not self.audio:
            raise UserError(f"encoder hf:{self.name}: embeds no sound; name one that does second: hf:VISUAL,AUDIO")
        return self._embed(batch.windows, self._process_sound, "get_audio_features")

    def encode_text(self, sentences: list[str]) -> np.ndarray:
        return self._embed(sentences, self._tokenize, "get_text_features")

    def build_context_embedder(self, names: list[str], length: int) -> tuple[Callable[[Tensor], Tensor], int]:
        """Build the function of `ContextEncoder`: learned vectors replace the first words of a frozen text encoder."""
        words = "a " * length  # a word that is one token
        inputs = self._tokenize([f"{words}{name}." for name in names], return_special_tokens_mask=True)
        first = int((inputs.pop("special_tokens_mask")[0] == 0).nonzero()[0])
        inputs, model = inputs.to(self.device), self.model.requires_grad_(False)
        vocabulary = model.config.text_config.vocab_size
        tokens = next(m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == vocabulary)

        def embed(context: Tensor) -> Tensor:
            def insert_context(_module, _inputs, embedded: Tensor) -> Tensor:  # (N, L, width)
                vectors = context.to(embedded).expand(len(embedded), -1, -1)
                return torch.cat([embedded[:, :first], vectors, embedded[:, first + length :]], dim=1)

            with tokens.register_forward_hook(insert_context):
                return _normalize(model.get_text_features(**inputs))

        return embed, tokens.embedding_dim

    def _process_sound(self, seconds: np.ndarray) -> Any:
        rate, num_samples = self.feature_extractor.sampling_rate, seconds.shape[1]
        if rate != SAMPLE_RATE_HZ:  # Fourier interpolation
            wanted = num_samples * rate // SAMPLE_RATE_HZ
            seconds = (np.fft.irfft(np.fft.rfft(seconds), wanted) * (wanted / num_samples)).astype(np.float32)
        inputs = self.feature_extractor(list(seconds), sampling_rate=rate, return_tensors="pt")
        if "is_longer" in inputs:  # CLAP's extractor marks a random row if no row is longer than its input
            inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
        return inputs

    def _tokenize(self, sentences: list[str], **options: Any) -> Any:
        # SigLIP was trained with texts padded to its full length, and does worse on others.
        padding = "max_length" if self.model.config.model_type.startswith("siglip") else True
        tokenizer = _load("AutoTokenizer", self.name)
        return tokenizer(sentences, padding=padding, truncation=True, return_tensors="pt", **options)

    @torch.inference_mode()
    def _embed(self, rows: Any, process: Callable[[Any], Any], method: str) -> np.ndarray:
        """Embed rows with a method of the model into the space shared with text, otherwise as the mean over tokens."""
        embed_shared, parts = getattr(self.model, method, None), []
        for first in range(0, len(rows), BATCH_SIZE):
            inputs = process(rows[first : first + BATCH_SIZE]).to(self.device)
            if embed_shared is None:
                encode = self.model.encoder if self.model.config.is_encoder_decoder else self.model
                last = encode(**inputs).last_hidden_state  # (N, T, D), or (N, D, H, W) of convolutions
                parts.append(last.mean(1) if last.ndim == 3 else last.flatten(2).mean(2))
            else:
                parts.append(_normalize(embed_shared(**inputs)))
        return torch.cat(parts).float().cpu().numpy()


class HfEncoder:
    """Pictures by one checkpoint, sound by another or the same; either may be the builtin encoder."""

    def __init__(self, names: list[str]):
        """Load one or two checkpoints, each a hub's name, a folder, or `builtin`.

        Raises:
            UserError: a checkpoint cannot be loaded, or embeds no pictures or no sound although it should.
        """
        models = {name: BuiltinEncoder() if name == "builtin" else HfModel(name) for name in dict.fromkeys(names)}
        visual, audio = models[names[0]], models[names[-1]]
        self.name, self.short_side = f"hf:{','.join(names)}", visual.short_side
        self.encode_frames, self.encode_audio = visual.encode_frames, audio.encode_audio
        self.text_models = [model for model in models.values() if isinstance(model, HfModel) and model.text]
        side = self.short_side or 224
        frames = WindowBatch(np.zeros((WINDOW_FRAMES, side, side, 3), np.uint8), WINDOW_FRAMES, 4)
        second = WindowBatch(np.zeros(WINDOW_SAMPLES, np.float32), WINDOW_SAMPLES, WINDOW_SAMPLES)
        self.visual_dim, self.audio_dim = self.encode_frames(frames).shape[1], self.encode_audio(second).shape[1]
        self.text_dim = self.encode_text(["a"]).shape[1] if self.text_models else 0

    def encode_text(self, sentences: list[str]) -> np.ndarray:
        """Concatenate the unit embeddings of all checkpoints with a text side, as unit rows."""
        rows = [model.encode_text(sentences) for model in self._get_text_models()]
        return np.concatenate(rows, 1) / np.float32(len(rows) ** 0.5)

    def build_context_embedder(self, names: list[str], length: int) -> tuple[Callable[[Tensor], Tensor], int]:
        """Build the function of `ContextEncoder`; the vectors of all checkpoints are concatenated."""
        parts = [model.build_context_embedder(names, length) for model in self._get_text_models()]
        embedders, widths = zip(*parts, strict=True)

        def embed(context: Tensor) -> Tensor:
            vectors = context.split(widths, dim=1)
            rows = [embed_part(part) for embed_part, part in zip(embedders, vectors, strict=True)]
            return torch.cat(rows, 1) / len(rows) ** 0.5

        return embed, sum(widths)

    def _get_text_models(self) -> list[HfModel]:
        if not self.text_models:
            raise UserError(f"encoder {self.name}: none of its checkpoints embeds text; use a CLIP- or CLAP-like one")
        return self.text_models


def _load(kind: str, name: str) -> Any:
    """Load a model or its preprocessing from the hub or a folder. Raises UserError, one line, if that fails."""
    try:
        import transformers

        return getattr(transformers, kind).from_pretrained(name)
    except (ImportError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"encoder hf:{name}: {kind} cannot be loaded ({reason}); give a folder that holds the checkpoint with its "
            "preprocessing, or a name on the hub, and install what is missing: pip install -e .[hf]"
        ) from None


def _normalize(features: Any) -> Tensor:
    return F.normalize(getattr(features, "pooler_output", features), dim=-1)  # a tensor before transformers 5

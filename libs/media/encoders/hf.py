"""Checkpoints of Hugging Face's transformers as encoders: CLIP, SigLIP (pictures and text), CLAP (sound and text),
X-CLIP (clips and text), VideoMAE, ViViT, TimeSformer (clips), ViT, DINO (pictures), AST, Wav2Vec2 (sound), and others.

N windows of a batch. Embeddings that share a space with text are unit vectors; others are the mean of the last layer.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libs.core.errors import UserError
from libs.features.windows import SAMPLE_RATE_HZ, WINDOW_FRAMES, WINDOW_SAMPLES, WindowBatch, sliding
from libs.media.encoders.base import Encoder, default_device
from libs.media.encoders.builtin import BuiltinEncoder

PLACEHOLDER = "a"  # a word that is one token; learned vectors take its place
ROWS = 16  # pictures, clips or seconds of sound that go through a network together


class HfModel:
    """One checkpoint: what it can embed (`visual`: "image", "clip" or None; `audio`; `text`), and the embedding."""

    def __init__(self, name: str):
        transformers = _import_transformers()
        self.name, self.device = name, default_device()
        self.model = _load(transformers.AutoModel, name).float().eval().to(self.device)  # some are kept in 16 bits
        takes = self.model.main_input_name
        self.text = hasattr(self.model, "get_text_features")
        self.num_frames = _num_frames(self.model.config)
        images, clips = (hasattr(self.model, f"get_{what}_features") for what in ("image", "video"))
        if not images and (clips or takes.startswith("pixel_values")):
            self.visual = "clip" if self.num_frames > 1 else "image"
        else:
            self.visual = "image" if images else None
        self.audio = hasattr(self.model, "get_audio_features") or takes in ("input_values", "input_features")
        if self.visual:
            self.pictures = _load(transformers.AutoImageProcessor, name)
        if self.audio:
            self.sound = _load(transformers.AutoFeatureExtractor, name)

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """(F, H, W, 3) uint8 -> (F, D)."""
        return self._embed(images, lambda rows: self.pictures(list(rows), return_tensors="pt"), "get_image_features")

    def embed_clips(self, clips: np.ndarray) -> np.ndarray:
        """(N, 16, H, W, 3) uint8 -> (N, D); a model of fewer frames gets evenly spaced ones."""
        clips = clips[:, np.linspace(0, clips.shape[1] - 1, self.num_frames).round().astype(int)]
        return self._embed(
            clips, lambda rows: self.pictures([list(clip) for clip in rows], return_tensors="pt"), "get_video_features"
        )

    def embed_sound(self, seconds: np.ndarray) -> np.ndarray:
        """(N, samples) float32 at 16 kHz -> (N, D)."""

        def prepare(rows: np.ndarray) -> dict:
            rate = self.sound.sampling_rate
            inputs = self.sound(list(_at_rate(rows, rate)), sampling_rate=rate, return_tensors="pt")
            if "is_longer" in inputs:  # CLAP's extractor marks a random row, where none is longer than its input
                inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
            return inputs

        return self._embed(seconds, prepare, "get_audio_features")

    def embed_text(self, sentences: list[str]) -> np.ndarray:
        """(N, D), unit rows."""
        tokenizer = _load(_import_transformers().AutoTokenizer, self.name)
        # SigLIP has learned with texts filled up to its full length, and does worse on others.
        padding = "max_length" if self.model.config.model_type.startswith("siglip") else True
        return self._embed(
            sentences, lambda rows: tokenizer(rows, padding=padding, truncation=True, return_tensors="pt"),
            "get_text_features",
        )  # fmt: skip

    def context_embedder(self, names: list[str], length: int) -> "ContextEmbedder":
        """What embeds `length` learned vectors followed by a class's name, for each of N names."""
        tokenizer = _load(_import_transformers().AutoTokenizer, self.name)
        words = " ".join([PLACEHOLDER] * length)
        padding = "max_length" if self.model.config.model_type.startswith("siglip") else True
        inputs = tokenizer(
            [f"{words} {name}." for name in names],
            padding=padding,
            truncation=True,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        first = int((inputs.pop("special_tokens_mask")[0] == 0).nonzero()[0])
        vocabulary = self.model.config.text_config.vocab_size
        tables = (m for m in self.model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == vocabulary)
        return ContextEmbedder(
            self.model.requires_grad_(False), next(tables), inputs.to(self.device), slice(first, first + length)
        )

    @torch.inference_mode()
    def _embed(self, rows, prepare, shared_space: str) -> np.ndarray:
        """Rows through the network, some at a time: its embedding in the space that it shares with text, or a mean."""
        into_space, parts = getattr(self.model, shared_space, None), []
        for first in range(0, len(rows), ROWS):
            inputs = prepare(rows[first : first + ROWS]).to(self.device)
            if into_space is None:
                encode = self.model.encoder if self.model.config.is_encoder_decoder else self.model
                last = encode(**inputs).last_hidden_state  # (N, T, D), or (N, D, H, W) of convolutions
                parts.append(last.mean(1) if last.ndim == 3 else last.flatten(2).mean(2))
            else:
                features = into_space(**inputs)
                features = getattr(features, "pooler_output", features)  # a tensor before transformers 5
                parts.append(F.normalize(features, dim=-1))
        return torch.cat(parts).float().cpu().numpy()


class ContextEmbedder(NamedTuple):
    """Learned vectors in the places of a frozen text encoder's first words (CoOp's unified context)."""

    model: nn.Module
    tokens: nn.Embedding
    inputs: dict
    places: slice

    def __call__(self, context: Tensor) -> Tensor:
        """(length, width of tokens) -> (N, D), unit rows, differentiable."""

        def put(_module, _inputs, embedded: Tensor) -> Tensor:  # (N, L, width)
            ours = context.to(embedded).expand(len(embedded), -1, -1)
            return torch.cat([embedded[:, : self.places.start], ours, embedded[:, self.places.stop :]], dim=1)

        hook = self.tokens.register_forward_hook(put)
        try:
            features = self.model.get_text_features(**self.inputs)
        finally:
            hook.remove()
        return F.normalize(getattr(features, "pooler_output", features), dim=-1)


class HfEncoder:
    """Pictures by one checkpoint, sound by another or the same; either may be the builtin encoder."""

    def __init__(self, name: str, visual: HfModel | BuiltinEncoder, audio: HfModel | BuiltinEncoder):
        self.name, self.visual, self.audio = name, visual, audio
        self.short_side = visual.short_side if isinstance(visual, BuiltinEncoder) else _short_side(visual.pictures)
        self.texts = [m for m in dict.fromkeys((visual, audio)) if isinstance(m, HfModel) and m.text]
        side = self.short_side or 224
        frames = WindowBatch(np.zeros((WINDOW_FRAMES, side, side, 3), np.uint8), WINDOW_FRAMES, 4)
        self.visual_dim = self.encode_frames(frames).shape[1]
        second = WindowBatch(np.zeros(WINDOW_SAMPLES, np.float32), WINDOW_SAMPLES, WINDOW_SAMPLES)
        self.audio_dim = self.encode_audio(second).shape[1]
        self.text_dim = self.encode_text(["a"]).shape[1] if self.texts else 0

    def encode_frames(self, batch: WindowBatch) -> np.ndarray:
        """Clips as they are; of pictures one every hop, shared by the windows that it lies in, and their mean."""
        if isinstance(self.visual, BuiltinEncoder):
            return self.visual.encode_frames(batch)
        if self.visual.visual == "clip":
            return self.visual.embed_clips(batch.windows)
        embedded = self.visual.embed_images(batch.data[batch.hop // 2 :: batch.hop])
        return sliding(embedded, batch.length // batch.hop, 1)[: len(batch)].mean(1)

    def encode_audio(self, batch: WindowBatch) -> np.ndarray:
        if isinstance(self.audio, BuiltinEncoder):
            return self.audio.encode_audio(batch)
        return self.audio.embed_sound(batch.windows)

    def encode_text(self, sentences: list[str]) -> np.ndarray:
        """The unit embeddings of all checkpoints with a text side, side by side, as unit rows."""
        if not self.texts:
            raise UserError(f"encoder {self.name}: none of its checkpoints embeds text; take a CLIP- or CLAP-like one")
        rows = np.concatenate([model.embed_text(list(sentences)) for model in self.texts], 1)
        return rows / np.float32(len(self.texts) ** 0.5)

    def context_embedder(self, names: list[str], length: int) -> tuple[Callable[[Tensor], Tensor], int]:
        """As encode_text, but of `length` learned vectors and a class's name: a differentiable function from the
        vectors (length, width), those of all checkpoints side by side, to (N, text_dim); and the width."""
        if not self.texts:
            raise UserError(f"encoder {self.name}: none of its checkpoints embeds text; take a CLIP- or CLAP-like one")
        embedders = [model.context_embedder(names, length) for model in self.texts]
        widths = [embedder.tokens.embedding_dim for embedder in embedders]

        def embed(context: Tensor) -> Tensor:
            parts = zip(embedders, context.split(widths, dim=1), strict=True)
            return torch.cat([embedder(part) for embedder, part in parts], 1) / len(embedders) ** 0.5

        return embed, sum(widths)


def build_hf_encoder(names: str) -> Encoder:
    """The encoder of NAME or VISUAL,AUDIO, each a hub's name, a folder, or `builtin`.

    Raises UserError where one cannot be loaded or does not embed what it is wanted for.
    """
    wanted = names.split(",")
    if len(wanted) > 2 or not all(wanted):
        raise UserError(f"encoder hf:{names}: expected hf:NAME or hf:VISUAL,AUDIO")
    models = {name: BuiltinEncoder() if name == "builtin" else HfModel(name) for name in dict.fromkeys(wanted)}
    visual, audio = models[wanted[0]], models[wanted[-1]]
    if isinstance(visual, HfModel) and not visual.visual:
        raise UserError(
            f"encoder hf:{names}: {wanted[0]} embeds no pictures; name one that does first: hf:VISUAL,AUDIO"
        )
    if isinstance(audio, HfModel) and not audio.audio:
        raise UserError(
            f"encoder hf:{names}: {wanted[-1]} embeds no sound; name one that does second: hf:{wanted[0]},AUDIO, "
            f"or hf:{wanted[0]},builtin"
        )
    return HfEncoder(f"hf:{names}", visual, audio)


def _num_frames(config) -> int:
    """Frames of the clips that a model takes, 1 for pictures."""
    return (
        getattr(config, "num_frames", None) or getattr(getattr(config, "vision_config", None), "num_frames", None) or 1
    )


def _import_transformers():
    try:
        import transformers
    except ImportError:
        raise UserError("hf: encoders need transformers, which is not installed: pip install -e .[hf]") from None
    return transformers


def _load(kind, name: str):
    """What transformers has under a name or in a folder. Raises UserError, one line, where that fails."""
    try:
        return kind.from_pretrained(name)
    except ImportError as error:
        raise UserError(f"encoder hf:{name}: {_first_line(error)}; install what it names") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"encoder hf:{name}: {kind.__name__} cannot be loaded ({_first_line(error)}); give a folder that holds the "
            "checkpoint with its preprocessing, or a name on the hub"
        ) from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _short_side(processor) -> int | None:
    """Pixels of the shorter side that a processor scales pictures down to; None where it does not say."""
    sizes = [dict(getattr(processor, key, None) or {}) for key in ("size", "crop_size")]
    return max((side for size in sizes for side in size.values() if side), default=None)


def _at_rate(seconds: np.ndarray, rate_hz: int) -> np.ndarray:
    """(N, samples) at 16 kHz -> at another rate, by Fourier interpolation."""
    if rate_hz == SAMPLE_RATE_HZ:
        return seconds
    samples = seconds.shape[1]
    wanted = samples * rate_hz // SAMPLE_RATE_HZ
    return (np.fft.irfft(np.fft.rfft(seconds), wanted) * (wanted / samples)).astype(np.float32)

"""Build encoders by the names that users choose them by."""

from libs.core.errors import UserError
from libs.media.encoders.base import Encoder

CHOICES = "builtin, hf:NAME[,NAME] (a name or folder of Hugging Face transformers) or one-peace:VISUAL.pt[,AUDIO.pt]"


def build_encoder(spec: str) -> Encoder:
    """Build the encoder of this name. Raises UserError if the name is unknown or a package it needs is missing."""
    kind, _, names = spec.partition(":")
    if spec == "builtin":
        from libs.media.encoders.builtin import BuiltinEncoder

        return BuiltinEncoder()
    if kind == "hf" and names:
        from libs.media.encoders.hf import build_hf_encoder

        return build_hf_encoder(names)
    if kind == "one-peace":
        from libs.media.encoders.one_peace import build_one_peace_encoder

        return build_one_peace_encoder(names)
    raise UserError(f"encoder {spec!r}: unknown name; choose {CHOICES}")

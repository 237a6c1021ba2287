"""Build encoders by the names that users choose them by."""

from libs.core.errors import UserError
from libs.media.encoders.base import Encoder

CHOICES = "builtin, hf:NAME[,NAME] (a name or folder of Hugging Face transformers) or one-peace:VISUAL.pt[,AUDIO.pt]"


def build_encoder(spec: str) -> Encoder:
    """Build the encoder of this name. Raises UserError if the name is unknown or a package it needs is missing."""
    kind, _, rest = spec.partition(":")
    names = rest.split(",")
    if spec == "builtin":
        from libs.media.encoders.builtin import BuiltinEncoder

        return BuiltinEncoder()
    if kind == "hf" and len(names) <= 2 and all(names):
        from libs.media.encoders.hf import HfEncoder

        return HfEncoder(names)
    if spec == "one-peace" or (kind == "one-peace" and len(names) <= 2 and all(names)):
        from libs.media.encoders.one_peace import build_one_peace_encoder

        return build_one_peace_encoder(rest)
    raise UserError(f"encoder {spec!r}: unknown name; choose {CHOICES}")

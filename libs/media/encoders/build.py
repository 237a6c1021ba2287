"""Encoders: what makes features of windows. One protocol, and the names that a user chooses them by."""

from libs.core.errors import UserError
from libs.media.encoders.base import Encoder

CHOICES = "builtin, hf:NAME[,NAME] (a name or folder of Hugging Face transformers) or one-peace:VISUAL.pt[,AUDIO.pt]"


def build_encoder(spec: str) -> Encoder:
    """The encoder of that name. Raises UserError on another name, or where what it needs is not installed."""
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
    raise UserError(f"encoder {spec!r}: there is none of that name; choose {CHOICES}")

"""Encoders by name."""

import sys

import pytest

from libs.core.errors import UserError
from libs.media.encoders.build import build_encoder


@pytest.mark.parametrize("spec", ["", "resnet", "hf", "hf:", "builtin:x"])
def test_build_encoder_unknown_name_lists_choices(spec):
    with pytest.raises(UserError, match="unknown name; choose builtin"):
        build_encoder(spec)


@pytest.mark.parametrize(
    ("package", "spec", "message"),
    [("transformers", "hf:x", r"pip install -e .\[hf\]"), ("one_peace", "one-peace", "github.com/OFA-Sys/ONE-PEACE")],
)
def test_build_encoder_missing_package_says_how_to_install(monkeypatch, package, spec, message):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=message):
        build_encoder(spec)

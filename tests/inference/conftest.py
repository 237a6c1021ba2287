"""A checkpoint of a small untrained network on builtin features, and a clip, each made once."""

from pathlib import Path

import pytest
import torch

from libs.core.configfile import from_tree
from libs.media.encoders.build import build_encoder
from libs.modeling.uniav import UniAV
from tests.conftest import tiny_tree

BUILTIN = build_encoder("builtin")
WIDTHS = BUILTIN.visual_dim, BUILTIN.audio_dim


def save_checkpoint(folder: Path, **changes) -> Path:
    """Save what train.py saves; `changes` replace entries, None removes them."""
    tree = tiny_tree(folder)
    tree["model"] |= {"encoder": "builtin", "input_dim_visual": WIDTHS[0], "input_dim_audio": WIDTHS[1]}
    config = from_tree(tree)
    torch.manual_seed(0)
    model = UniAV(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)  # does not depend on the parameter's memory format
    counts = {key: task.dataset.num_classes for key, task in config.tasks.items()}
    content = {
        "state_dict_ema": model.state_dict(),
        "config": config.to_tree(),
        "class_names": {key: [f"{key} <class> {i}" for i in range(n)] for key, n in counts.items()},
        "prompts": {key: torch.randn(n, 8) for key, n in counts.items()},
    }
    path = folder / "last.pth.tar"
    torch.save({key: value for key, value in (content | changes).items() if value is not None}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")
    from tests.media.clips import write_clip

    return write_clip(tmp_path_factory.mktemp("media") / "ä clip.mp4", 4)

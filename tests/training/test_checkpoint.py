"""Checkpoints: published, damaged, dangerous."""

import pytest
import torch

from libs.core.errors import CheckpointError
from libs.modeling.published import published_name
from libs.training.checkpoint import find_checkpoint, load_checkpoint, load_weights
from tests.modeling.networks import make_model


def save_published(model, path, **change):
    """The network's weights in the published layout: names, and (C, 1)-shaped axes where that has them."""
    state = {
        published_name(k): v[None, :, None] if k.endswith("norm.weight") else v for k, v in model.state_dict().items()
    }
    torch.save({"epoch": 1, "state_dict": {}, "state_dict_ema": state | change}, path)
    return path


def test_load_weights_of_a_published_checkpoint(config, tmp_path):
    model = make_model(config)
    path = save_published(model, tmp_path / "epoch_001.pth.tar")
    other = make_model(config, seed=1)
    load_weights(other, load_checkpoint(find_checkpoint(tmp_path))["state_dict_ema"], path)
    for x, y in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_load_weights_of_other_shapes_names_the_mismatches(config, tmp_path):
    path = save_published(
        make_model(config), tmp_path / "a.pth.tar", **{"module.cls_head.clip_proj.bias": torch.ones(5)}
    )
    state = load_checkpoint(path)["state_dict_ema"]
    del state["module.cls_head.logit_scale"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(make_model(config), state, path)
    message = str(caught.value)
    assert "2 parameters" in message
    assert "cls_head.logit_scale is missing" in message
    assert "cls_head.prompt_proj.bias has shape (5,), expected (16,)" in message


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_load_checkpoint_of_a_damaged_or_dangerous_file_is_one_line(config, tmp_path, capsys):
    whole = save_published(make_model(config), tmp_path / "whole.pth.tar").read_bytes()
    path = tmp_path / "bad.pth.tar"
    for content in (b"", b"not a checkpoint", whole[: len(whole) // 2], whole[:-300]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="bad.pth.tar: damaged, or holds Python objects"):
            load_checkpoint(path)
    torch.save({"state_dict_ema": {}, "x": Evil()}, path)
    with pytest.raises(CheckpointError, match="bad.pth.tar: .* Python objects that would run code"):
        load_checkpoint(path)
    assert "never run" not in capsys.readouterr().out
    torch.save({"state_dict_ema": {"module.x": 3}}, path)
    with pytest.raises(CheckpointError, match="expected a dict with state_dict_ema"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="expected a dict with state_dict_ema"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        find_checkpoint(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(tmp_path / "empty")


def test_find_checkpoint_prefers_best_then_last_then_newest(tmp_path):
    for name in ("epoch_009.pth.tar", "epoch_010.pth.tar", "last.pth.tar", "best.pth.tar"):
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path).name == name

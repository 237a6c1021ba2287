"""The whole network: what its outputs and gradients depend on."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from libs.core.configfile import from_tree
from libs.datasets.loaders import padded_length
from libs.training.distributed import DistributedContext
from tests.conftest import tiny_tree
from tests.modeling.networks import make_batch, make_model, valid


@torch.no_grad()
@pytest.mark.parametrize("task", ["TASK1", "TASK2", "TASK3"])
def test_forward_in_a_batch_equals_each_video_alone(config, task):
    model = make_model(config)
    together = make_batch([32, 20, 9, 1], 32)
    prediction = model(together, task)
    for row in range(4):
        alone = replace(together, **{k: getattr(together, k)[row, None] for k in ("visual", "audio", "mask")})
        for x, y in zip(valid(prediction, row), valid(model(alone, task), 0), strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_forward_with_one_padded_position_per_level_equals_full_padding(config):
    """method.md §4: pad to min(max_seq_len, s·(⌈T/s⌉+1)); one less moves outputs."""
    model, length = make_model(config), 8
    full = make_batch([length], 32)
    expected = valid(model(full, "TASK2"), 0)
    assert padded_length(length, 32, 4, tight=True) == 12
    for padded, same in ((12, True), (8, False)):
        short = replace(full, **{k: getattr(full, k)[:, :padded] for k in ("visual", "audio", "mask")})
        difference = (valid(model(short, "TASK2"), 0)[0] - expected[0]).abs().max()
        assert (difference < 1e-5) == same


@torch.no_grad()
@pytest.mark.parametrize("task", ["TASK1", "TASK2"])
def test_forward_in_bf16_is_close_with_float32_norms_and_outputs(config, task):
    model, batch = make_model(config), make_batch([32, 20], 32)
    exact = model(batch, task)
    normed = []
    for norm in (module for module in model.modules() if isinstance(module, nn.LayerNorm)):
        norm.register_forward_hook(lambda _, given, out: normed.extend([given[0].dtype, out.dtype]))
    with DistributedContext(0, 1, torch.device("cpu"), "bf16").autocast():
        rough = model(batch, task)
    assert set(normed) == {torch.float32}
    assert rough.logits.dtype == rough.offsets.dtype == torch.float32
    for x, y in ((exact.logits, rough.logits), (exact.offsets, rough.offsets)):
        assert 0 < (x - y).abs().max() < 0.1 * x.abs().max()


@torch.no_grad()
def test_forward_accepts_float16_features(config):
    model, batch = make_model(config), make_batch([32, 20], 32)
    half = replace(batch, visual=batch.visual.half(), audio=batch.audio.half())
    same = replace(batch, visual=half.visual.float(), audio=half.audio.float())
    assert torch.equal(model(half, "TASK2").logits, model(same, "TASK2").logits)


@torch.no_grad()
def test_forward_ignores_parameters_of_other_tasks(config):
    model, batch = make_model(config), make_batch([32, 20], 32)
    before = model(batch, "TASK2").logits
    for name, parameter in model.named_parameters():
        if ".TAL." in name or ".SED." in name or "TASK1" in name or "TASK3" in name:
            parameter.fill_(float("nan"))
    assert torch.equal(model(batch, "TASK2").logits, before)
    with pytest.raises(KeyError):
        model(batch, "TASK9")


@torch.no_grad()
def test_config_with_a_fourth_task_builds_a_network(tmp_path):
    tree = tiny_tree(tmp_path)
    config = from_tree(tree | {"TASK4": tree["TASK2"] | {"task_type": "MUSIC", "dataset_name": "music"}})
    prediction = make_model(config)(make_batch([32, 20], 32), "TASK4")
    assert prediction.logits.shape[-1] == 4
    assert config.tasks["TASK4"].shows_in == ("visual", "audio")


@torch.no_grad()
def test_set_prompts_changes_the_classes(config):
    """Permuted prompts permute the classes; other prompts are other classes, also in number."""
    model, batch = make_model(config), make_batch([32], 32)
    before = model(batch, "TASK2").logits
    model.set_prompts("TASK2", model.prompts["TASK2"].table.flip(0))
    torch.testing.assert_close(model(batch, "TASK2").logits, before.flip(-1))
    model.set_prompts("TASK1", torch.randn(9, 8))
    assert model(batch, "TASK1").logits.shape[-1] == 9
    assert not any("prompts" in name for name in model.state_dict())


def gradients_of(model, batch, task):
    torch.manual_seed(1)  # of drop path
    prediction = model(batch, task)
    model.zero_grad()
    (prediction.logits.square().sum() + prediction.offsets.sum()).backward()
    return prediction, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_backward_leaves_gradients_of_other_tasks_none(config):
    model = make_model(config).train()
    prediction = model(make_batch([32, 20], 32), "TASK3")
    (prediction.logits.sum() + prediction.offsets.sum()).backward()
    for name, parameter in model.named_parameters():
        foreign = any(part in name for part in (".TAL.", ".AVEL.", "TASK1", "TASK2"))
        assert (parameter.grad is None) == foreign, name


@pytest.mark.parametrize("task", ["TASK1", "TASK2"])
def test_backward_gives_gradients_the_memory_layout_of_weights(config, task):
    """Else each of them is copied once a step."""
    model, strides = make_model(config).train(), {}
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda grad, name=name: strides.update({name: grad.stride()}))
    gradients_of(model, make_batch([32, 20], 32), task)
    assert len(strides) > 100
    assert strides == {name: p.stride() for name, p in model.named_parameters() if name in strides}

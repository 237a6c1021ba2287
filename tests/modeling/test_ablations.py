"""The keys of `model` that change the network: what each one changes, and what it does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from libs.core.config import TASK_TYPES
from libs.core.prompts import build_prompts
from libs.modeling.blocks import local_attention
from libs.modeling.uniav import UniAV
from tests.modeling.networks import make_batch, make_model, valid
from tests.tiny_networks import make_config

TASKS = ("TASK1", "TASK2", "TASK3")


@torch.no_grad()
@pytest.mark.parametrize(("kept", "other"), [("visual", "audio"), ("audio", "visual")])
def test_network_with_one_modality_ignores_the_other(tmp_path, kept, other):
    """It has no parameters for the other modality either."""
    config = make_config(tmp_path, modalities=[kept])
    model, batch = make_model(config), make_batch([32, 20, 9, 1], 32)
    assert not [name for name in model.state_dict() if other in name.split(".")]
    for task in TASKS:
        found = model(batch, task)
        blind = model(replace(batch, **{other: torch.randn_like(getattr(batch, other))}), task)
        assert torch.equal(found.logits, blind.logits) and torch.equal(found.offsets, blind.offsets)
        other_input = replace(batch, **{kept: getattr(batch, kept).flip(1)})
        assert not torch.allclose(found.logits, model(other_input, task).logits)


@torch.no_grad()
@pytest.mark.parametrize("cross", [True, False])
def test_network_without_cross_attention_keeps_modalities_apart(tmp_path, cross):
    """The heads still combine both modalities."""
    config = make_config(tmp_path, cross_attention=cross)
    model, batch = make_model(config), make_batch([32, 20], 32)
    changed = replace(batch, audio=torch.randn_like(batch.audio) * batch.mask[..., None])
    mask = batch.mask[..., None]
    before, after = (model.backbone({"visual": b.visual, "audio": b.audio}, mask, "TAL", 32) for b in (batch, changed))
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one.features["visual"], two.features["visual"]) == (not cross)
        assert not torch.allclose(one.features["audio"], two.features["audio"])
    assert not torch.allclose(model(batch, "TASK1").logits, model(changed, "TASK1").logits)
    assert make_model(make_config(tmp_path)).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("levels", [[], [0], [1, 2], None])
def test_network_has_experts_at_expert_levels_only(tmp_path, levels):
    model = UniAV(make_config(tmp_path, expert_levels=levels))
    for name in (name for name in model.state_dict() if ".experts." in name):
        parts = name.split(".")
        level = 1 + int(parts[3]) if parts[1] == "pyramid" else 0
        expert = parts[parts.index("experts") + 1]
        assert (expert != "shared") == (levels is None or level in levels), name
    experts = {name.split("experts.")[1].split(".")[0] for name in model.state_dict() if ".experts." in name}
    assert experts == ({"shared"} if levels == [] else set(TASK_TYPES) | ({"shared"} if levels else set()))


@torch.no_grad()
def test_linear_classifier_has_no_prompts_and_starts_at_prior(tmp_path):
    config = make_config(tmp_path, classifier="linear")
    torch.manual_seed(0)
    model, batch = UniAV(config).eval(), make_batch([32, 20], 32)
    for task in TASKS:
        found = model(batch, task)
        assert found.logits.shape[2] == config.tasks[task].dataset.num_classes
        assert found.logits[found.mask].sigmoid().mean() == pytest.approx(0.01, rel=0.3)
        assert (found.logits[~found.mask] == 0).all()
    assert not [name for name in model.state_dict() if "prompt" in name]


def test_random_prompts_are_fixed_unit_vectors_per_task(tmp_path):
    """Each task has its own ones. No prompt file is read."""
    config = make_config(tmp_path, prompts="random")
    tables = [build_prompts(task, config.model) for task in config.tasks.values()]
    for task, table in zip(config.tasks.values(), tables, strict=True):
        assert table.shape == (task.dataset.num_classes, 8) and table.dtype == np.float32
        assert np.allclose(np.linalg.norm(table, axis=1), 1)
        assert np.array_equal(table, build_prompts(task, config.model))
    assert not np.allclose(tables[0], tables[1][: len(tables[0])])


@pytest.mark.parametrize("length", [1, 5, 7, 32, 33])
@pytest.mark.parametrize("window", [1, 3, 7, 65])
def test_local_attention_equals_masked_attention(length, window):
    """The oracle is full attention with weight 0 outside the window."""
    generator = torch.Generator().manual_seed(length + 100 * window)
    q, k, v = (torch.randn(3, 2, length, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    valid_keys = torch.arange(length) < torch.tensor([length, max(1, length // 2), 1])[:, None]
    found = local_attention(q, k, v, valid_keys[:, None], window, dropout=0.0)
    place = torch.arange(length)
    near = (place - place[:, None]).abs() <= window // 2
    allowed = valid_keys[:, None, None] & near
    scores = (q @ k.mT / 2).masked_fill(~allowed, -torch.inf)
    expected = scores.softmax(-1) @ v
    rows = valid_keys[:, None, :, None].expand_as(expected)
    torch.testing.assert_close(found[rows], expected[rows])
    assert found.isfinite().all()


@torch.no_grad()
def test_attention_window_changes_logits_only_if_narrow(tmp_path):
    """With a window, the videos of a batch remain independent."""
    batch = make_batch([32, 20, 9, 1], 32)
    everything, wide, narrow = (make_model(make_config(tmp_path, attention_window=window)) for window in (None, 65, 3))
    torch.testing.assert_close(wide(batch, "TASK2").logits, everything(batch, "TASK2").logits, atol=1e-5, rtol=1e-5)
    prediction = narrow(batch, "TASK2")
    assert not torch.allclose(prediction.logits, everything(batch, "TASK2").logits, atol=1e-2)
    for row in range(4):
        alone = replace(batch, **{k: getattr(batch, k)[row, None] for k in ("visual", "audio", "mask")})
        for x, y in zip(valid(prediction, row), valid(narrow(alone, "TASK2"), 0), strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_network_without_pyramid_has_one_level(tmp_path):
    config = make_config(tmp_path, backbone_arch=[1, 2, 0], regression_range=[[0, 10000]])
    prediction = make_model(config)(make_batch([32, 9], 32), "TASK1")
    assert prediction.level_sizes == (32,)

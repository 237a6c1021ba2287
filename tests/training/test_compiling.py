"""Compiled and checkpointed networks against plain ones."""

import pytest
import torch

from libs.core.configfile import from_tree
from libs.modeling.blocks import Block, DropPath
from libs.training.compiling import compile_network
from tests.conftest import tiny_tree
from tests.modeling.networks import make_batch, make_model
from tests.modeling.test_uniav import gradients_of


def assert_same_training(model, other, batch, task):
    """Outputs and gradients."""
    (expected, gradients), (found, own) = (gradients_of(m, batch, task) for m in (model, other))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.offsets, expected.offsets, atol=1e-5, rtol=1e-5)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("compiled", [pytest.param("inductor", marks=pytest.mark.slow), "none"])
def test_compiled_and_checkpointed_are_the_same(tmp_path, compiled):
    """`inductor` compiles for a minute or so; checkpointing repeats what drop path drew."""
    tree = tiny_tree(tmp_path)
    tree["model"] |= {"backbone_arch": [1, 1, 1], "regression_range": [[0, 4], [4, 10000]]}
    config = from_tree(tree | {"run": {"compile": compiled}})
    model, other = make_model(config).train(), make_model(config).train()
    calls = 0

    def count(*_) -> None:
        nonlocal calls
        calls += 1

    if compiled == "none":
        other.backbone.checkpointing = True
        for block in (m for m in other.modules() if isinstance(m, Block)):
            block.register_forward_pre_hook(count)
    else:  # whose random numbers are its own
        for drop_path in (m for net in (model, other) for m in net.modules() if isinstance(m, DropPath)):
            drop_path.prob = 0.0
        compile_network(other, config.run, torch.device("cpu"))
        assert other.state_dict().keys() == model.state_dict().keys()
        torch._dynamo.utils.counters.clear()
    assert_same_training(model, other, make_batch([32, 20], 32), "TASK2")
    if compiled == "none":
        assert calls == 2 * sum(isinstance(m, Block) for m in other.modules())  # forwards, and again backwards
    else:
        assert torch._dynamo.utils.counters["frames"]["ok"] == 3  # backbone and heads, nothing twice

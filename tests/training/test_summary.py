"""The summary of a network: parameters and FLOPs."""

import pytest

from libs.training.summary import summarize
from tests.tiny_networks import make_config, make_events, make_trainer


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"modalities": ["audio"]},
        {"expert_levels": [1]},
        {"classifier": "linear"},
        {"prompts": "offsets"},
        {"attention_window": 3},
    ],
)
def test_summarize_counts_the_parameters_that_a_task_trains(tmp_path, keys):
    config = make_config(tmp_path, **keys)
    trainer = make_trainer(config)
    text, tree = summarize(config, list(config.tasks.values()))
    assert tree["parameters"] == sum(p.numel() for p in trainer.model.parameters()) == sum(tree["by_part"].values())
    for key, task in config.tasks.items():
        trainer.backward(task, trainer.compute_losses(task, make_events(config, key)))
        trained = [p for p in trainer.model.parameters() if p.grad is not None]
        assert tree["tasks"][key]["parameters"] == sum(p.numel() for p in trained)
        trainer.optimizer.zero_grad()
        assert key in text


def test_summarize_counts_the_flops_of_matrix_products(tmp_path):
    """The expected number is counted by hand for a small network."""
    config = make_config(tmp_path, backbone_arch=[1, 1, 0], regression_range=[[0, 10000]], head_num_layers=1)
    _, tree = summarize(config, [config.tasks["TASK1"]])
    t, c, d, kernel, text, classes = 32, 16, 16, 3, 8, 3
    embedding = t * kernel * (12 + 10) * c
    block = t * (4 * c * c + 2 * 4 * c * c) + 2 * t * t * c  # projections, expert, attention
    rows = t + kernel // 2  # of the heads: points and the gap
    heads = rows * kernel * 2 * c * d + rows * d * classes + classes * text * d + rows * kernel * 2 * c * 2
    flops = 2 * (embedding + 2 * block + heads)
    assert tree["tasks"]["TASK1"]["flops_a_video"] == pytest.approx(flops, rel=0.05)  # rows between clips count too

"""The criterion."""

import pytest
import torch

from libs.core.types import Prediction
from libs.modeling.losses import Criterion
from libs.modeling.points import make_points, make_targets


def test_criterion_without_positives_is_finite(config):
    """A batch without any event: finite, no regression, the normaliser counts one."""
    task = config.tasks["TASK2"]
    points, sizes = make_points(config.model, 32)
    logits = torch.zeros(2, len(points), 4, requires_grad=True)
    offsets = torch.ones(2, len(points), 4, 2, requires_grad=True)
    prediction = Prediction(logits, offsets, torch.ones(2, len(points), dtype=torch.bool), points, sizes)
    criterion = Criterion(task, 0.9)
    targets = make_targets(points, torch.zeros(2, 1, 2), torch.full((2, 1), -1), 4, class_aware=True)
    losses = criterion(prediction, targets)
    losses.total.backward()
    assert losses.reg == 0
    assert torch.isfinite(losses.total)
    assert criterion.normalizer == pytest.approx(0.9 * 400 + 0.1)
    assert torch.isfinite(logits.grad).all()

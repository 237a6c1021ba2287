"""Points and targets against loops."""

import numpy as np
import pytest
import torch

from benchmarks.plain.training import dense_offsets, point_targets
from libs.modeling.points import make_points, make_targets
from tests.modeling.networks import make_batch, make_model


def test_points_made_in_inference_mode_serve_training(config):
    """They are remembered a length, and tensors of inference_mode could not be differentiated through."""
    model, batch = make_model(config), make_batch([32, 20], 32)
    with torch.inference_mode():
        evaluated = model(batch, "TASK2").points
    prediction = model(batch, "TASK2")
    assert prediction.points is evaluated
    (prediction.offsets * prediction.points[:, 3, None, None]).sum().backward()
    expected, _ = make_points(config.model, 32)
    np.testing.assert_array_equal(evaluated, expected)
    assert len(model(make_batch([16], 16), "TASK2").points) < len(expected)


@pytest.mark.parametrize("class_aware", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_make_targets_equals_loops(config, class_aware, seed):
    """A batch with a clip of many segments, one of few, one of none."""
    rng = np.random.default_rng(seed)
    points, _ = make_points(config.model, 32)
    segments, labels = np.zeros((3, 6, 2), np.float32), np.full((3, 6), -1)
    for row, n in enumerate((6, 2, 0)):
        start = rng.integers(-2, 30, n)
        segments[row, :n] = np.stack([start, start + rng.integers(1, 20, n)], axis=1)
        labels[row, :n] = rng.integers(0, 3, n)
        segments[row, 1:2] = segments[row, :1]  # equal lengths, several labels
    targets = make_targets(points, torch.from_numpy(segments), torch.from_numpy(labels), 3, class_aware)
    dense = dense_offsets(targets, 3 if class_aware else 1)
    for row, n in enumerate((6, 2, 0)):
        given = (points.tolist(), segments[row, :n].tolist(), labels[row, :n].tolist())
        classes, offsets = point_targets(*given, 3, class_aware)
        np.testing.assert_array_equal(targets.classes[row], classes)
        np.testing.assert_allclose(dense[row], offsets, rtol=1e-6)

"""The plain baselines and the fast code compute the same."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.data import task_data_without_clips
from benchmarks.plain.decoding import plain_decode, plain_nms
from benchmarks.plain.network import drop, plain_forward
from benchmarks.plain.training import PlainTraining
from libs.core.configfile import from_tree
from libs.core.types import Batch
from libs.modeling.postprocess import decode_predictions
from libs.training.distributed import DistributedContext
from libs.training.optimizer import set_lr
from libs.training.trainer import Trainer
from tests import golden, oracles
from tests.conftest import ROOT, tiny_tree
from tests.modeling.networks import make_batch, make_model

TASKS = ("TASK1", "TASK2", "TASK3")
GOLDEN = ROOT / "tests/golden_data"


@pytest.fixture
def config(tmp_path):
    """A configuration whose drop path draws random numbers but never drops, so that results can be compared."""
    tree = tiny_tree(tmp_path)
    tree["model"]["drop_path"] = 1e-30
    return from_tree(tree)


@torch.no_grad()
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("lengths", "padded"), [([32, 20, 9, 1], 32), ([8, 5], 12), ([50, 40], 52)])
@pytest.mark.parametrize("training", [True, False])
def test_plain_forward_any_length_equals_model(config, task, lengths, padded, training):
    """Clips of max_seq_len, shorter, and longer than the position table."""
    model, batch = make_model(config).train(training), make_batch(lengths, padded)
    found, expected = model(batch, task), plain_forward(model, batch, task)
    valid = expected.mask
    assert torch.equal(found.mask, valid)
    assert torch.equal(found.points, expected.points)
    assert found.level_sizes == expected.level_sizes
    for x, y in ((found.logits, expected.logits), (found.offsets, expected.offsets)):
        torch.testing.assert_close(x[valid], y[valid], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("forward_*.npz")), ids=lambda path: path.stem)
def test_plain_forward_golden_input_equals_published_network(path):
    task, data = path.stem.split("_")[1], np.load(path)
    config = golden.small_config(GOLDEN, official_pos_embd=path.stem.endswith("official_pe"))
    model = golden.small_model(GOLDEN, config).eval()
    prediction = plain_forward(model, golden.read_batch(data, "", task, config), task)
    columns = (x.split(prediction.level_sizes, dim=1) for x in (prediction.logits, prediction.offsets))
    for i, (logits, offsets) in enumerate(zip(*columns, strict=True)):
        assert golden.error(logits, data[f"level{i}_cls_logits"]) < golden.FORWARD_TOLERANCE
        expected = data[f"level{i}_offsets"]
        assert golden.error(offsets.flatten(2).transpose(1, 2), expected) < golden.FORWARD_TOLERANCE


@torch.no_grad()
def test_drop_drops_whole_samples_and_keeps_the_mean():
    dropped = drop(torch.ones(2000, 3, 4), 0.25)
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    assert all(len(sample.unique()) == 1 for sample in dropped)


@pytest.mark.parametrize("task", TASKS)
def test_plain_decode_equals_decode_predictions(config, task):
    spec, batch = config.tasks[task], make_batch([32, 20, 9, 1], 32)
    settings = spec.test_cfg.model_copy(update={"pre_nms_topk": 30, "max_seg_num": 15})
    spec = spec.model_copy(update={"test_cfg": settings})
    with torch.no_grad():
        prediction = make_model(config)(batch, task)
    found = decode_predictions(prediction, batch.clips, spec)
    expected = plain_decode(prediction, batch.clips, spec)
    assert found.video_ids == expected.video_ids
    for column in ("video", "labels"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column))
    for column in ("segments", "scores"):
        np.testing.assert_allclose(getattr(found, column), getattr(expected, column), atol=1e-5)


def test_plain_nms_equals_nms_in_plain_python():
    rng = np.random.default_rng(0)
    start, scores = rng.uniform(0, 50, 200), rng.uniform(0, 1, 200).astype(np.float32)
    labels = rng.integers(4, size=200)
    segments = np.stack([start, start + rng.uniform(0.5, 20, 200)], axis=1).astype(np.float32)
    options = {"sigma": 0.4, "min_score": 0.01, "max_seg_num": 20}
    expected = oracles.soft_nms(segments, scores, labels, method="soft", multiclass=True, iou_threshold=0.7, **options)
    rows, kept = plain_nms(*(torch.from_numpy(x) for x in (segments, scores, labels)), **options)
    assert rows.tolist() == [row for row, _ in expected]
    np.testing.assert_allclose(kept, [score for _, score in expected], atol=1e-5)


def with_events(batch: Batch, num_classes: int) -> Batch:
    """Add three random events to each clip but the last, which has none."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(len(batch.clips), 3, generator=generator) * 20
    segments = torch.stack([start, start + 1 + 10 * torch.rand(start.shape, generator=generator)], dim=-1)
    labels = torch.randint(num_classes, start.shape, generator=generator)
    labels[-1] = -1
    return replace(batch, segments=segments, labels=labels)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("loss_weight", [1.0, 0.0])
def test_plain_training_two_steps_equal_trainer(config, task, loss_weight):
    """Losses, gradient norms, weights and their averages."""
    spec = config.tasks[task]
    spec = spec.model_copy(update={"train_cfg": spec.train_cfg.model_copy(update={"loss_weight": loss_weight})})
    config = config.model_copy(update={"tasks": {**config.tasks, task: spec}})
    model = make_model(config).train()
    plain = PlainTraining(copy.deepcopy(model), config)
    data = [task_data_without_clips(task) for task in config.tasks.values()]
    fast = Trainer(config, model, data, DistributedContext(0, 1, torch.device("cpu")))
    set_lr(fast.optimizer, lambda base: base)
    batch = with_events(make_batch([32, 20, 9, 1], 32), spec.dataset.num_classes)
    for _ in range(2):
        expected, losses = plain.compute_losses(spec, batch), fast.compute_losses(spec, batch)
        torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-5, atol=1e-6)
        fast.backward(spec, losses)
        plain.backward(spec, expected)
        torch.testing.assert_close(fast.update(), plain.update(), rtol=1e-4, atol=1e-6)
    averages = dict(fast.ema.model.named_parameters())
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-3, atol=1e-4, msg=name)
        torch.testing.assert_close(averages[name], plain.ema[name], rtol=1e-3, atol=1e-4, msg=name)

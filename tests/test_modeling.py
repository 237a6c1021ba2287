from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.plain.training import dense_offsets, point_targets
from libs.core.configfile import from_tree
from libs.core.errors import CheckpointError, DataError
from libs.core.types import Batch, Clip, Prediction, Video
from libs.datasets.loaders import padded_length
from libs.modeling.blocks import Block, DropPath
from libs.modeling.losses import Criterion
from libs.modeling.points import make_points, make_targets
from libs.modeling.postprocess import decode_predictions, load_external_scores
from libs.modeling.published import published_name
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import find_checkpoint, load_checkpoint, load_weights
from libs.training.compiling import compile_network
from libs.training.distributed import DistributedContext
from tests import oracles
from tests.conftest import tiny_tree


@pytest.fixture
def config(tmp_path):
    return from_tree(tiny_tree(tmp_path))


def make_model(config, seed=0) -> UniAV:
    """Random weights all over: fresh norms and scales would hide mistakes."""
    torch.manual_seed(seed)
    model = UniAV.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    for key, task in config.tasks.items():
        model.set_prompts(key, torch.randn(task.dataset.num_classes, config.model.text_dim))
    return model


def make_batch(lengths, padded) -> Batch:
    generator = torch.Generator().manual_seed(len(lengths) + sum(lengths))
    mask = torch.arange(padded) < torch.tensor(lengths)[:, None]
    clips = tuple(Clip(str(n), n / 4 + 1, 16.0, 4.0, 16.0, torch.zeros(0, 2), torch.zeros(0).long()) for n in lengths)
    visual, audio = torch.zeros(len(lengths), padded, 12), torch.zeros(len(lengths), padded, 10)
    for row, n in enumerate(lengths):
        visual[row, :n] = torch.randn(n, 12, generator=generator)
        audio[row, :n] = torch.randn(n, 10, generator=generator)
    return Batch(visual, audio, mask, torch.zeros(len(lengths), 1, 2), torch.full((len(lengths), 1), -1), clips)


def valid(prediction: Prediction, row: int):
    mask = prediction.mask[row]
    return prediction.logits[row][mask], prediction.offsets[row][mask]


@torch.no_grad()
@pytest.mark.parametrize("task", ["TASK1", "TASK2", "TASK3"])
def test_a_video_does_not_see_its_neighbours(config, task):
    model = make_model(config)
    together = make_batch([32, 20, 9, 1], 32)
    prediction = model(together, task)
    for row in range(4):
        alone = replace(together, **{k: getattr(together, k)[row, None] for k in ("visual", "audio", "mask")})
        for x, y in zip(valid(prediction, row), valid(model(alone, task), 0), strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_one_padded_position_a_level_is_enough(config):
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
def test_bf16_is_near_and_its_outputs_are_float32(config, task):
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


def gradients_of(model, batch, task):
    torch.manual_seed(1)  # of drop path
    prediction = model(batch, task)
    model.zero_grad()
    (prediction.logits.square().sum() + prediction.offsets.sum()).backward()
    return prediction, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_training(model, other, batch, task):
    """Outputs and gradients."""
    (expected, gradients), (found, own) = (gradients_of(m, batch, task) for m in (model, other))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.offsets, expected.offsets, atol=1e-5, rtol=1e-5)
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("compiled", ["inductor", "none"])
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


@pytest.mark.parametrize("task", ["TASK1", "TASK2"])
def test_gradients_lie_in_memory_as_their_weights(config, task):
    """Else each of them is copied once a step."""
    model, strides = make_model(config).train(), {}
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda grad, name=name: strides.update({name: grad.stride()}))
    gradients_of(model, make_batch([32, 20], 32), task)
    assert len(strides) > 100
    assert strides == {name: p.stride() for name, p in model.named_parameters() if name in strides}


@torch.no_grad()
def test_features_may_be_float16(config):
    model, batch = make_model(config), make_batch([32, 20], 32)
    half = replace(batch, visual=batch.visual.half(), audio=batch.audio.half())
    same = replace(batch, visual=half.visual.float(), audio=half.audio.float())
    assert torch.equal(model(half, "TASK2").logits, model(same, "TASK2").logits)


@torch.no_grad()
def test_other_tasks_experts_do_not_matter(config):
    model, batch = make_model(config), make_batch([32, 20], 32)
    before = model(batch, "TASK2").logits
    for name, parameter in model.named_parameters():
        if ".TAL." in name or ".SED." in name or "TASK1" in name or "TASK3" in name:
            parameter.fill_(float("nan"))
    assert torch.equal(model(batch, "TASK2").logits, before)
    with pytest.raises(KeyError):
        model(batch, "TASK9")


@torch.no_grad()
def test_a_fourth_task_is_a_block_of_yaml(tmp_path):
    tree = tiny_tree(tmp_path)
    config = from_tree(tree | {"TASK4": tree["TASK2"] | {"task_type": "MUSIC", "dataset_name": "music"}})
    prediction = make_model(config)(make_batch([32, 20], 32), "TASK4")
    assert prediction.logits.shape[-1] == 4
    assert config.tasks["TASK4"].shows_in == ("visual", "audio")


@torch.no_grad()
def test_prompts_are_the_classes(config):
    """Permuted prompts permute the classes; other prompts are other classes, also in number."""
    model, batch = make_model(config), make_batch([32], 32)
    before = model(batch, "TASK2").logits
    model.set_prompts("TASK2", model.prompts["TASK2"].table.flip(0))
    torch.testing.assert_close(model(batch, "TASK2").logits, before.flip(-1))
    model.set_prompts("TASK1", torch.randn(9, 8))
    assert model(batch, "TASK1").logits.shape[-1] == 9
    assert not any("prompts" in name for name in model.state_dict())


def test_gradients_of_a_task_touch_only_its_own(config):
    model = make_model(config).train()
    prediction = model(make_batch([32, 20], 32), "TASK3")
    (prediction.logits.sum() + prediction.offsets.sum()).backward()
    for name, parameter in model.named_parameters():
        foreign = any(part in name for part in (".TAL.", ".AVEL.", "TASK1", "TASK2"))
        assert (parameter.grad is None) == foreign, name


def test_points_that_evaluation_asked_for_serve_training(config):
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
def test_targets_like_loops(config, class_aware, seed):
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


def test_loss_without_positives(config):
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


def test_published_names_are_all_different(config):
    names = [published_name(name) for name in UniAV.from_config(config).state_dict()]
    assert len(set(names)) == len(names)


def save_published(model, path, **change):
    """The network's weights in the published layout: names, and (C, 1)-shaped axes where that has them."""
    state = {
        published_name(k): v[None, :, None] if k.endswith("norm.weight") else v for k, v in model.state_dict().items()
    }
    torch.save({"epoch": 1, "state_dict": {}, "state_dict_ema": state | change}, path)
    return path


def test_a_published_checkpoint_loads_by_name(config, tmp_path):
    model = make_model(config)
    path = save_published(model, tmp_path / "epoch_001.pth.tar")
    other = make_model(config, seed=1)
    load_weights(other, load_checkpoint(find_checkpoint(tmp_path))["state_dict_ema"], path)
    for x, y in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_a_checkpoint_of_other_dimensions(config, tmp_path):
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


def test_damaged_and_dangerous_checkpoints(config, tmp_path, capsys):
    whole = save_published(make_model(config), tmp_path / "whole.pth.tar").read_bytes()
    path = tmp_path / "bad.pth.tar"
    for content in (b"", b"not a checkpoint", whole[: len(whole) // 2], whole[:-300]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="bad.pth.tar: damaged, or no checkpoint"):
            load_checkpoint(path)
    torch.save({"state_dict_ema": {}, "x": Evil()}, path)
    with pytest.raises(CheckpointError, match="bad.pth.tar: holds Python objects that would run code"):
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


def test_choice_among_checkpoints(tmp_path):
    for name in ("epoch_009.pth.tar", "epoch_010.pth.tar", "last.pth.tar", "best.pth.tar"):
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path).name == name


def decoded(config, key, external=None, **test_cfg):
    task = config.tasks[key]
    task = task.model_copy(update={"test_cfg": task.test_cfg.model_copy(update=test_cfg)})
    batch = make_batch([32, 20], 32)
    with torch.no_grad():
        prediction = make_model(config)(batch, key)
    return task, prediction, batch, decode_predictions(prediction, batch.clips, task, external)


@pytest.mark.parametrize("key", ["TASK1", "TASK2"])
def test_decode_like_loops(config, key):
    """Against the text of method.md §7, one pair at a time."""
    task, prediction, batch, found = decoded(config, key, pre_nms_topk=30, max_seg_num=15)
    settings = task.test_cfg
    cuts = np.cumsum([0, *prediction.level_sizes])
    for row, clip in enumerate(batch.clips):
        rows = []
        for first, last in zip(cuts[:-1], cuts[1:], strict=True):
            level = []
            for p in range(first, last):
                for c in range(task.dataset.num_classes):
                    score = float(torch.sigmoid(prediction.logits[row, p, c]) * prediction.mask[row, p])
                    time, _, _, stride = prediction.points[p].tolist()
                    left, right = prediction.offsets[row, p, c if task.dataset.class_aware else 0].tolist()
                    if score > settings.pre_nms_thresh:
                        level.append((score, time - left * stride, time + right * stride, c))
            level = sorted(level, reverse=True)[: settings.pre_nms_topk]
            rows += [r for r in level if r[2] - r[1] > settings.duration_thresh]
        segments, scores, labels = [r[1:3] for r in rows], [r[0] for r in rows], [r[3] for r in rows]
        options = {k: getattr(settings, k) for k in ("iou_threshold", "min_score", "max_seg_num")}
        kept = oracles.soft_nms(
            segments, scores, labels, method="soft", multiclass=True, sigma=settings.nms_sigma, **options
        )
        mine = found.video == row
        assert found.labels[mine].tolist() == [labels[i] for i, _ in kept]
        np.testing.assert_allclose(found.scores[mine], [score for _, score in kept], atol=1e-5)
        seconds = (np.array([segments[i] for i, _ in kept]) * clip.feat_stride + 0.5 * clip.num_frames) / clip.fps
        np.testing.assert_allclose(found.segments[mine], seconds.clip(0, clip.duration), atol=1e-4)


def test_fusion_with_video_level_scores(config, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text('{"results": {"32": [0.1, 0.9, 0.5], "20": [0.2, 0.1, 0.3]}}')
    _, _, _, plain = decoded(config, "TASK1")
    settings = config.tasks["TASK1"].test_cfg.model_copy(update={"ext_score_file": str(path)})
    external = load_external_scores(config.tasks["TASK1"].model_copy(update={"test_cfg": settings}), [])
    _, _, _, fused = decoded(config, "TASK1", external, ext_top_segments=5)
    rows, before = fused.video == 0, plain.video == 0
    assert rows.sum() == 10
    assert set(fused.labels[rows]) == {1, 2}
    assert (np.diff(fused.scores[rows]) <= 0).all()
    assert fused.scores[rows][0] == pytest.approx(np.sqrt(0.9 * plain.scores[before][0]), abs=1e-6)
    for text, message in (
        ("{", "not valid JSON"),
        ('{"20": [1, 2]}', "20: expected 3 scores"),
        ('{"20": [1, 2, 0]}', "between 0 and 1"),
        ('{"20": "x"}', "expected"),
        ("[]", "expected a JSON object"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            load_external_scores(config.tasks["TASK1"].model_copy(update={"test_cfg": settings}), [])
    path.write_text('{"20": [1, 0, 0]}')
    videos = [Video(name, "test", 1.0, None, np.zeros((0, 2)), np.zeros(0)) for name in ("20", "32")]
    with pytest.raises(DataError, match="no scores of 1 of 2 videos, 32 the first"):
        load_external_scores(config.tasks["TASK1"].model_copy(update={"test_cfg": settings}), videos)

"""What each ablation key changes, and what it leaves alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from benchmarks.data import task_data_without_clips
from libs.core.config import TASK_TYPES
from libs.core.configfile import from_tree, load_config
from libs.core.errors import CheckpointError
from libs.core.prompts import build_prompts
from libs.modeling.blocks import local_attention
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import load_fitting
from libs.training.distributed import DistributedContext
from libs.training.summary import summarize
from libs.training.trainer import Trainer
from tests.benchmarks.test_plain import with_events
from tests.conftest import ROOT, tiny_tree, write_yaml
from tests.modeling.networks import make_batch, make_model, valid
from tests.training.runs import assert_same_weights

TASKS = ("TASK1", "TASK2", "TASK3")


def make_config(tmp_path, opt=None, **model):
    tree = tiny_tree(tmp_path)
    tree["model"] |= model
    tree["opt"] |= opt or {}
    return from_tree(tree)


def make_trainer(config, seed=0) -> Trainer:
    tasks = list(config.tasks.values())
    model = make_model(config, seed).train()
    data = [task_data_without_clips(task) for task in tasks]
    return Trainer(config, model, data, DistributedContext(0, 1, torch.device("cpu")))


def events(config, task: str):
    return with_events(make_batch([32, 20, 9, 1], 32), config.tasks[task].dataset.num_classes)


@torch.no_grad()
@pytest.mark.parametrize(("kept", "other"), [("visual", "audio"), ("audio", "visual")])
def test_one_modality(tmp_path, kept, other):
    """The network has nothing of the other one, and does not look at it."""
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
def test_cross_attention(tmp_path, cross):
    """Without it, what a modality becomes depends on itself alone; the heads still see both."""
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
def test_expert_levels(tmp_path, levels):
    model = UniAV.from_config(make_config(tmp_path, expert_levels=levels))
    for name in (name for name in model.state_dict() if ".experts." in name):
        parts = name.split(".")
        level = 1 + int(parts[3]) if parts[1] == "pyramid" else 0
        expert = parts[parts.index("experts") + 1]
        assert (expert != "shared") == (levels is None or level in levels), name
    experts = {name.split("experts.")[1].split(".")[0] for name in model.state_dict() if ".experts." in name}
    assert experts == ({"shared"} if levels == [] else set(TASK_TYPES) | ({"shared"} if levels else set()))


@torch.no_grad()
def test_linear_classifier(tmp_path):
    """Knows no prompts, and starts out believing in nothing."""
    config = make_config(tmp_path, classifier="linear")
    torch.manual_seed(0)
    model, batch = UniAV.from_config(config).eval(), make_batch([32, 20], 32)
    for task in TASKS:
        found = model(batch, task)
        assert found.logits.shape[2] == config.tasks[task].dataset.num_classes
        assert found.logits[found.mask].sigmoid().mean() == pytest.approx(0.01, rel=0.3)
        assert (found.logits[~found.mask] == 0).all()
    assert not [name for name in model.state_dict() if "prompt" in name]


def test_random_prompts(tmp_path):
    """Unit vectors, other ones for each task, the same ones whenever asked; no file is read."""
    config = make_config(tmp_path, prompts="random")
    tables = [build_prompts(task, config.model) for task in config.tasks.values()]
    for task, table in zip(config.tasks.values(), tables, strict=True):
        assert table.shape == (task.dataset.num_classes, 8) and table.dtype == np.float32
        assert np.allclose(np.linalg.norm(table, axis=1), 1)
        assert np.array_equal(table, build_prompts(task, config.model))
    assert not np.allclose(tables[0], tables[1][: len(tables[0])])


def test_learned_offsets(tmp_path):
    """At first they change nothing; each task learns its own, which inference is given ready-made."""
    config = make_config(tmp_path, prompts="offsets")
    trainer = make_trainer(config)
    model = trainer.model
    for offsets in (p.learned for p in model.prompts.values()):
        torch.nn.init.zeros_(offsets)
    frozen = make_config(tmp_path)
    plain = UniAV.from_config(frozen)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "learned" not in k})
    for task in TASKS:
        plain.set_prompts(task, model.prompts[task].table)
    batch = events(config, "TASK2")
    with torch.no_grad():
        assert torch.equal(model.eval()(batch, "TASK2").logits, plain.eval()(batch, "TASK2").logits)
    model.train()
    spec = config.tasks["TASK2"]
    trainer.backward(spec, trainer.compute_losses(spec, batch))
    assert {k for k, p in model.prompts.items() if p.learned.grad is not None} == {"TASK2"}
    trainer.update()
    assert model.prompts["TASK2"].learned.abs().max() > 0 == model.prompts["TASK1"].learned.abs().max()
    table = trainer.state_dict()["prompts"]["TASK2"]
    assert torch.equal(table, trainer.ema.model.prompts["TASK2"]())
    with torch.no_grad():
        expected = trainer.ema.model(batch, "TASK2").logits
        trainer.ema.model.override_prompts("TASK2", table)
        assert torch.equal(trainer.ema.model(batch, "TASK2").logits, expected)


@pytest.mark.parametrize("length", [1, 5, 7, 32, 33])
@pytest.mark.parametrize("window", [1, 3, 7, 65])
def test_local_attention(length, window):
    """As attention to everything, with weight 0 beyond the window."""
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
def test_attention_window(tmp_path):
    """A window over all is as none; a narrow one changes things, and a video still does not see its neighbours."""
    batch = make_batch([32, 20, 9, 1], 32)
    everything, wide, narrow = (make_model(make_config(tmp_path, attention_window=window)) for window in (None, 65, 3))
    torch.testing.assert_close(wide(batch, "TASK2").logits, everything(batch, "TASK2").logits, atol=1e-5, rtol=1e-5)
    prediction = narrow(batch, "TASK2")
    assert not torch.allclose(prediction.logits, everything(batch, "TASK2").logits, atol=1e-2)
    for row in range(4):
        alone = replace(batch, **{k: getattr(batch, k)[row, None] for k in ("visual", "audio", "mask")})
        for x, y in zip(valid(prediction, row), valid(narrow(alone, "TASK2"), 0), strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_no_pyramid(tmp_path):
    config = make_config(tmp_path, backbone_arch=[1, 2, 0], regression_range=[[0, 10000]])
    prediction = make_model(config)(make_batch([32, 9], 32), "TASK1")
    assert prediction.level_sizes == (32,)


def test_joint_steps(tmp_path, monkeypatch):
    """One optimizer step, on the sum of what each task's loss asks for."""
    gradients = {}
    for joint in (False, True):
        trainer = make_trainer(make_config(tmp_path, opt={"joint_steps": joint, "clip_grad_norm": 0}))
        taken = []

        def update(trainer=trainer, taken=taken):
            taken.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
            trainer.optimizer.zero_grad()
            return torch.tensor(0.0)

        monkeypatch.setattr(trainer, "update", update)
        for task, stream in trainer.streams.items():
            monkeypatch.setattr(stream, "next", lambda task=task, t=trainer: events(t.config, task))
        torch.manual_seed(1)
        trainer.train_step(trainer.build_meters())
        gradients[joint] = taken
    assert [len(taken) for taken in gradients.values()] == [3, 1]
    names = {name for taken in gradients[False] for name in taken}
    assert gradients[True][0].keys() == names
    for name in names:
        expected = sum(taken[name] for taken in gradients[False] if name in taken)
        torch.testing.assert_close(gradients[True][0][name], expected, rtol=1e-4, atol=1e-5, msg=name)


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
def test_summary_counts_what_a_task_trains(tmp_path, keys):
    config = make_config(tmp_path, **keys)
    trainer = make_trainer(config)
    text, tree = summarize(config, list(config.tasks.values()))
    assert tree["parameters"] == sum(p.numel() for p in trainer.model.parameters()) == sum(tree["by_part"].values())
    for key, task in config.tasks.items():
        trainer.backward(task, trainer.compute_losses(task, events(config, key)))
        trained = [p for p in trainer.model.parameters() if p.grad is not None]
        assert tree["tasks"][key]["parameters"] == sum(p.numel() for p in trained)
        trainer.optimizer.zero_grad()
        assert key in text


def test_flops_are_those_of_the_matrix_products(tmp_path):
    """Twice the window is twice the work, attention itself aside; a known layer by hand."""
    config = make_config(tmp_path, backbone_arch=[1, 1, 0], regression_range=[[0, 10000]], head_num_layers=1)
    _, tree = summarize(config, [config.tasks["TASK1"]])
    t, c, d, kernel, text, classes = 32, 16, 16, 3, 8, 3
    embedding = t * kernel * (12 + 10) * c
    block = t * (4 * c * c + 2 * 4 * c * c) + 2 * t * t * c  # projections, expert, attention
    rows = t + kernel // 2  # of the heads: points and the gap
    heads = rows * kernel * 2 * c * d + rows * d * classes + classes * text * d + rows * kernel * 2 * c * 2
    flops = 2 * (embedding + 2 * block + heads)
    assert tree["tasks"]["TASK1"]["flops_a_video"] == pytest.approx(flops, rel=0.05)  # rows between clips count too


def test_load_fitting(tmp_path):
    """What fits is loaded, by name and shape; the rest is named."""
    old, new = make_model(make_config(tmp_path)), make_model(make_config(tmp_path, text_dim=5), seed=1)
    before = {name: x.clone() for name, x in new.state_dict().items()}
    state = {k: v for k, v in old.state_dict().items() if ".experts.SED." not in k} | {"extra.weight": torch.ones(1)}
    content = {"state_dict_ema": state, "config": make_config(tmp_path, cross_attention=False).to_tree()}
    said = load_fitting(new, content, make_config(tmp_path, text_dim=5).model, tmp_path / "old.pth.tar")
    for name, x in new.state_dict().items():
        kept = ".experts.SED." in name or name == "cls_head.prompt_proj.weight"
        assert torch.equal(x, before[name] if kept else old.state_dict()[name]), name
    assert "1 begin anew, of another shape there: cls_head.prompt_proj" in said
    assert "begin anew, not there: backbone.stem.visual, " in said
    assert "1 left, not in this network: extra" in said
    assert "note: model.cross_attention was False, is True" in said
    with pytest.raises(CheckpointError, match="no parameter fits"):
        load_fitting(new, {"state_dict_ema": {"a": torch.ones(1)}}, new.config, tmp_path / "x")


def test_fine_tuning_on_one_task(tiny, run_script):
    """--init-from begins a run of one task with what three have learned."""
    few = ["-o", "opt.warmup_epochs=0", "opt.num_train_epochs=1"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "all", *few)
    assert status == 0, err
    arguments = ["--output", "one", "--init-from", tiny / "ckpt/tiny_all", *few, "run.tasks='2'"]
    status, out, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert status == 0, err
    assert "parameter tensors loaded" in out and "TASK2 AVEL" in out and "TASK1" not in out
    config = load_config(tiny / "ckpt/tiny_one/config.yaml")
    assert (config.run.tasks, config.run.init_from) == ("2", str(tiny / "ckpt/tiny_all"))
    for path, said in ((tiny / "none", "no such checkpoint"), ("", "need a value")):
        status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "x", "--init-from", path)
        assert (status, said in err) == (2, True)
        assert not (tiny / "ckpt/tiny_x").exists()


def test_evaluation_is_of_what_was_trained(tiny, run_script):
    """Another network, though its parameters have the same names and shapes, is refused; other tasks are left out."""
    few = ["-o", "opt.warmup_epochs=0", "opt.num_train_epochs=1", "model.cross_attention=false"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "one", "--tasks", "3", *few)
    assert status == 0, err
    run = tiny / "ckpt/tiny_one"
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run)
    assert (status, "model.cross_attention was False, is True; evaluate it with that" in err) == (2, True), err
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run, *few)
    assert status == 0, err
    assert "not trained on it: TASK1, TASK2" in out and "SED sed test" in out and "TAL tal" not in out
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run, "--tasks", "1-3", *few)
    assert (status, "was trained on TASK3 alone" in err) == (2, True), err


@pytest.mark.parametrize("model", [{"classifier": "linear"}, {"prompts": "offsets"}])
def test_resumed_with_other_classifiers(tiny, run_script, model):
    """As test_resumed_is_bit_identical, of what such a network has besides."""
    settings = ["-o", *(f"model.{key}={value}" for key, value in model.items())]
    arguments = ["--output", "whole", "--tasks", "2"], ["--output", "half", "--tasks", "2", "--resume", "auto"]
    whole, half = tiny / "ckpt/tiny_whole", tiny / "ckpt/tiny_half"
    status, _, err = run_script("train.py", tiny / "tiny.yaml", *arguments[0], *settings)
    assert status == 0, err
    half.mkdir()
    begun = torch.load(whole / "epoch_001.pth.tar", weights_only=True)
    del begun["config"]["model"]["attention_window"]  # as in a run that was begun before there was this key
    torch.save(begun, half / "last.pth.tar")
    status, _, err = run_script("train.py", tiny / "tiny.yaml", *arguments[1], *settings)
    assert status == 0, err
    assert_same_weights(whole / "last.pth.tar", half / "last.pth.tar")
    prompts = torch.load(half / "last.pth.tar", weights_only=True)["prompts"]
    assert list(prompts) == ([] if model == {"classifier": "linear"} else ["TASK2"])


def test_one_modality_needs_no_files_of_the_other(tiny, run_script):
    for path in tiny.glob("*/av_features/*_one_peace_video_finetune.npy"):
        path.unlink()
    settings = ["-o", "model.modalities=[audio]", "opt.warmup_epochs=0", "opt.num_train_epochs=1"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "heard", *settings)
    assert status == 0, err
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", tiny / "ckpt/tiny_heard", *settings)
    assert status == 0, err
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml", *settings)
    assert "features missing" not in out, out
    status, out, err = run_script("tools/verify_data.py", tiny / "tiny.yaml")
    assert (status, "features missing" in out) == (1, True)


def test_joint_steps_of_paused_tasks(tmp_path):
    """Nothing moves, not even the average, at a step that no task takes part in."""
    trainer = make_trainer(make_config(tmp_path, opt={"joint_steps": True}))
    for state in trainer.stop_and_go.values():
        state.paused = True
    trainer.step = 1
    before = [p.clone() for p in trainer.ema.model.parameters()]
    assert trainer.train_step(trainer.build_meters()) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.ema.model.parameters(), strict=True))


def test_held_out_classes(tiny, run_script):
    """Training leaves out the videos that show them and never asks for them; evaluation has them apart."""
    held = [
        "-o",
        "TASK3.dataset.class_aware=false",
        "TASK3.dataset.train_classes=[0, SED class 1, 2, 3]",
        "TASK3.batch_size=1",
        "run.tasks='3'",
    ]
    status, out, err = run_script("train.py", tiny / "tiny.yaml", "--output", "held", *held)
    assert status == 0, err
    assert "TASK3: trains on 4 of 5 classes, and on the " in out and " seen" in out and " unseen" in out
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", tiny / "ckpt/tiny_held", "--metrics", "map", *held)
    assert status == 0, err
    numbers = json.loads((tiny / "ckpt/tiny_held/metrics.json").read_text())["TASK3"]
    for name in ("seen", "unseen"):
        interval = numbers["metrics"]["map"]["headline"][f"average_mAP_{name}"]
        assert interval["value"] == pytest.approx(numbers[name]["average_mAP"])
    everything = (("[0, 1, 2, 3, 4]", "names all 5 classes"), ("[7]", "no class 7"), ("[Alarm]", "no class 'Alarm'"))
    for wrong, said in (*everything, ("[]", "train_classes")):
        wrong = [*held[:2], f"TASK3.dataset.train_classes={wrong}", "run.tasks='3'"]
        status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "wrong", *wrong)
        assert (status, said in err) == (2, True), err
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "-o", "TASK3.dataset.train_classes=[0]")
    assert (status, "set class_aware to false" in err) == (2, True), err
    for key in ("model.classifier=linear", "model.prompts=random"):
        status, _, err = run_script("train.py", tiny / "tiny.yaml", *held, key)
        assert (status, "found by their prompts" in err) == (2, True), err


def test_unseen_classes_are_not_trained(tmp_path):
    """The loss is that of a network that has the seen classes alone."""
    config = make_config(tmp_path)
    task = config.tasks["TASK1"]
    seen, model, batch = [0, 2], make_model(config), events(config, "TASK1")
    batch = replace(batch, labels=torch.where(batch.labels == 1, 2, batch.labels))
    tasks = list(config.tasks.values())
    ctx = DistributedContext(0, 1, torch.device("cpu"))
    held = Trainer(config, model, [task_data_without_clips(t, seen if t is task else None) for t in tasks], ctx)
    found = held.compute_losses(task, batch)
    alone = Trainer(config, model, [task_data_without_clips(t) for t in tasks], ctx)
    model.set_prompts("TASK1", model.prompts["TASK1"]()[seen])
    fewer = task.model_copy(update={"dataset": task.dataset.model_copy(update={"num_classes": 2})})
    renamed = replace(batch, labels=torch.where(batch.labels == 2, 1, batch.labels))
    expected = alone.compute_losses(fewer, renamed)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))


FILES = sorted((ROOT / "configs/ablations").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ablation_files(path):
    """Each is a base and what differs, says in its first line what it asks, and builds."""
    text = path.read_text()
    assert text.startswith("# ") and "base:" in text
    config = load_config(path)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = UniAV.from_config(config)
    assert config.select_tasks(None) and model
    base = yaml.safe_load(text)["base"]
    assert load_config(path.parent / base).to_tree() != config.to_tree() or path.stem == "base"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.modalities=[visual, visual]", "modalities: expected each once"),
        ("model.modalities=[]", "model.modalities"),
        ("model.modalities=[smell]", "'visual' or 'audio'"),
        ("model.attention_window=4", "attention_window 4 must be odd"),
        ("model.expert_levels=[3]", "expert_levels: 3, expected levels from 0 to 2"),
        ("run.tasks=7", "run.tasks: 7: the configuration has no TASK7"),
        ("run.task=1", "did you mean run.tasks?"),
        ("model.classifier=svm", "'prompt' or 'linear'"),
        ("model.prompts=none", "'frozen', 'random', 'offsets' or 'context'"),
    ],
)
def test_bad_keys(tmp_path, run_script, override, said):
    path = write_yaml(tmp_path / "tiny.yaml", tiny_tree(tmp_path))
    status, _, err = run_script("train.py", path, "-o", override)
    assert (status, said in err, err.count("\n")) == (2, True, 1), err


def test_context_needs_a_text_encoder(tiny, run_script):
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "-o", "model.prompts=context", "model.encoder=builtin")
    assert (status, "learn offsets instead" in err) == (2, True), err

"""Training with learned prompts, joint steps, unseen classes, and from the weights of another run."""

from dataclasses import replace

import pytest
import torch

from benchmarks.data import task_data_without_clips
from libs.core.errors import CheckpointError
from libs.modeling.uniav import UniAV
from libs.training.checkpoint import load_fitting
from libs.training.distributed import DistributedContext
from libs.training.trainer import Trainer
from tests.modeling.networks import make_model
from tests.tiny_networks import make_config, make_events, make_trainer

TASKS = ("TASK1", "TASK2", "TASK3")


def test_learned_offsets_train_per_task_and_are_exported(tmp_path):
    """Zero offsets change nothing. The checkpoint has the sum of prompts and offsets, which inference loads."""
    config = make_config(tmp_path, prompts="offsets")
    trainer = make_trainer(config)
    model = trainer.model
    for offsets in (p.learned for p in model.prompts.values()):
        torch.nn.init.zeros_(offsets)
    frozen = make_config(tmp_path)
    plain = UniAV(frozen)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "learned" not in k})
    for task in TASKS:
        plain.set_prompts(task, model.prompts[task].table)
    batch = make_events(config, "TASK2")
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


def test_joint_step_sums_the_gradients_of_all_tasks(tmp_path, monkeypatch):
    """Joint training makes one optimizer step, else there is one per task."""
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
            monkeypatch.setattr(stream, "next", lambda task=task, t=trainer: make_events(t.config, task))
        torch.manual_seed(1)
        trainer.train_step(trainer.build_meters())
        gradients[joint] = taken
    assert [len(taken) for taken in gradients.values()] == [3, 1]
    names = {name for taken in gradients[False] for name in taken}
    assert gradients[True][0].keys() == names
    for name in names:
        expected = sum(taken[name] for taken in gradients[False] if name in taken)
        torch.testing.assert_close(gradients[True][0][name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_joint_step_of_paused_tasks_changes_nothing(tmp_path):
    trainer = make_trainer(make_config(tmp_path, opt={"joint_steps": True}))
    for state in trainer.stop_and_go.values():
        state.paused = True
    trainer.step = 1
    before = [p.clone() for p in trainer.ema.model.parameters()]
    assert trainer.train_step(trainer.build_meters()) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.ema.model.parameters(), strict=True))


def test_loss_without_unseen_classes_equals_that_of_a_smaller_task(tmp_path):
    config = make_config(tmp_path)
    task = config.tasks["TASK1"]
    seen, model, batch = [0, 2], make_model(config), make_events(config, "TASK1")
    batch = replace(batch, labels=torch.where(batch.labels == 1, 2, batch.labels))
    tasks = list(config.tasks.values())
    ctx = DistributedContext(0, 1, torch.device("cpu"))
    partly_trained = Trainer(
        config, model, [task_data_without_clips(t, seen if t is task else None) for t in tasks], ctx
    )
    losses = partly_trained.compute_losses(task, batch)
    fully_trained = Trainer(config, model, [task_data_without_clips(t) for t in tasks], ctx)
    model.set_prompts("TASK1", model.prompts["TASK1"]()[seen])
    smaller_task = task.model_copy(update={"dataset": task.dataset.model_copy(update={"num_classes": 2})})
    renamed = replace(batch, labels=torch.where(batch.labels == 2, 1, batch.labels))
    expected = fully_trained.compute_losses(smaller_task, renamed)
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected))


def test_load_fitting_loads_by_name_and_shape(tmp_path):
    old, new = make_model(make_config(tmp_path)), make_model(make_config(tmp_path, text_dim=5), seed=1)
    before = {name: x.clone() for name, x in new.state_dict().items()}
    state = {k: v for k, v in old.state_dict().items() if ".experts.SED." not in k} | {"extra.weight": torch.ones(1)}
    content = {"state_dict_ema": state, "config": make_config(tmp_path, cross_attention=False).to_tree()}
    torch.save(content, tmp_path / "old.pth.tar")
    message = load_fitting(new, make_config(tmp_path, text_dim=5).model, tmp_path / "old.pth.tar")
    for name, x in new.state_dict().items():
        kept = ".experts.SED." in name or name == "cls_head.prompt_proj.weight"
        assert torch.equal(x, before[name] if kept else old.state_dict()[name]), name
    assert "1 start random, another shape in the checkpoint: cls_head.prompt_proj" in message
    assert "start random, not in the checkpoint: backbone.stem.visual, " in message
    assert "1 left out, not in this network: extra" in message
    assert "note: model.cross_attention was False, is True" in message
    torch.save({"state_dict_ema": {"a": torch.ones(1)}}, tmp_path / "other.pth.tar")
    with pytest.raises(CheckpointError, match="no parameter fits"):
        load_fitting(new, new.config, tmp_path / "other.pth.tar")

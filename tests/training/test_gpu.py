"""Training and evaluation on a CUDA GPU; skipped without one. NMS on the GPU is tested with NMS."""

import json

import numpy as np
import pytest
import torch

from benchmarks.__main__ import CONFIG
from benchmarks.case import BenchmarkSettings, run_in_process
from benchmarks.network import train_two_steps
from libs.core.configfile import load_config
from libs.datasets.task_data import load_task_data
from libs.modeling.uniav import UniAV
from libs.training.distributed import init_distributed
from libs.training.trainer import Trainer
from tests.training.runs import read_losses

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SMALL = ["model.backbone_arch=[1,1,1]", "model.regression_range=[[0,4],[4,10000]]"]  # compiles quickly
STEADY = [*SMALL, "model.drop_path=0", "stop_and_go.enabled=false"]  # no random numbers on the device


def build_trainer(config, ctx) -> Trainer:
    torch.manual_seed(0)
    model = UniAV(config)
    for task in config.tasks.values():
        model.set_prompts(task.key, torch.randn(task.dataset.num_classes, config.model.text_dim))
    data = [load_task_data(config, task, ("train",)) for task in config.tasks.values()]
    return Trainer(config, model.to(ctx.device), data, ctx)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("mode", ["none", "cuda_graphs"])
def test_train_step_never_waits_for_the_gpu(tiny, precision, mode):
    """Waiting raises an error within the step; checking the losses afterwards may wait."""
    config = load_config(tiny / "tiny.yaml", [*SMALL, f"run.precision={precision}", f"run.compile={mode}"])
    with init_distributed(None, precision) as ctx:
        trainer = build_trainer(config, ctx)
        trainer.model.train()
        meters = trainer.build_meters()
        for _ in range(5):  # compiling and recording may wait
            trainer.train_step(meters)
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.train_step(meters)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        trainer.check_losses()


def test_train_on_gpu_gives_the_losses_of_the_cpu(tiny, run_script, monkeypatch):
    """Losses and gradient norms of every step, plain, compiled, and from CUDA graphs."""
    curves = {}
    for name in ("cpu", "none", "inductor", "cuda_graphs"):
        with monkeypatch.context() as patch:
            options = [*STEADY, f"run.compile={'none' if name == 'cpu' else name}"]
            if name == "cpu":
                patch.setattr(torch.cuda, "is_available", lambda: False)
            status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", name, "-o", *options)
            assert status == 0, err
        curves[name] = read_losses(tiny / f"ckpt/tiny_{name}")
    for name, curve in curves.items():
        np.testing.assert_allclose(curve, curves["cpu"], rtol=2e-3, err_msg=name)


def test_eval_on_gpu_gives_the_map_of_the_cpu(tiny, run_script, monkeypatch):
    assert run_script("train.py", tiny / "tiny.yaml", "--output", "run")[0] == 0
    found = {}
    for name in ("gpu", "cpu"):
        if name == "cpu":
            monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        status, _, err = run_script("eval.py", tiny / "tiny.yaml", tiny / "ckpt/tiny_run", "--output", tiny / name)
        assert status == 0, err
        found[name] = json.loads((tiny / name / "metrics.json").read_text())
    for key in ("TASK1", "TASK2", "TASK3"):
        assert found["gpu"][key]["average_mAP"] == pytest.approx(found["cpu"][key]["average_mAP"], abs=1e-3)


def test_train_out_of_memory_ends_with_one_line(tiny, run_script):
    free, _ = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(1e-6 + 2**21 / free)
    try:
        status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "small", "-o", "model.embd_dim=1024")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert status == 2
    for remedy in ("batch_size", "run.precision=bf16", "run.checkpointing=true"):
        assert remedy in err


def test_train_at_published_setting_needs_at_most_8_gb(tmp_path):
    """At most 8 GB for steps of every task at full size in float32, optimizer and EMA included."""
    settings = BenchmarkSettings(load_config(CONFIG), torch.device("cuda"), tmp_path)
    assert run_in_process(train_two_steps, settings, settings.config.run)[0] <= 8

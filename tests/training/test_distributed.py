"""Two ranks against one process."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from libs.core.configfile import load_config
from libs.datasets.loaders import generate_train_batches
from tests.conftest import ROOT
from tests.training.runs import read_losses, read_weights

# 20 steps of 3 tasks; drop path and cropping off, so that ranks differ from one process in nothing but rounding.
ALIKE = [
    "-o",
    "model.drop_path=0",
    "-o",
    "stop_and_go.enabled=false",
    "-o",
    "opt.num_train_epochs=6",
    "-o",
    "opt.warmup_epochs=1",
] + [part for i in (1, 2, 3) for part in ("-o", f"TASK{i}.dataset.crop_ratio=null", "-o", f"TASK{i}.epochs=6")]


def launch(config, launcher: list[str], *arguments):
    command = [sys.executable, *launcher, "train.py", str(config), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_two_ranks_equal_one_process(tiny, run_script):
    """Losses and gradient norms over 21 steps, the final detections' mAP, and evaluation by eval.py under two ranks."""
    config = tiny / "tiny.yaml"
    status, _, err = run_script("train.py", config, "--output", "one", *ALIKE)
    assert status == 0, err
    done = launch(
        config,
        ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"],
        "--output",
        "two",
        *ALIKE,
    )
    assert done.returncode == 0, done.stderr
    one, two = (read_losses(tiny / f"ckpt/tiny_{name}") for name in ("one", "two"))
    assert len(one) == 21 * 3
    np.testing.assert_allclose(two, one, rtol=1e-4)
    a, b = (read_weights(tiny / f"ckpt/tiny_{name}/last.pth.tar") for name in ("one", "two"))
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, atol=1e-4, rtol=1e-4)

    found = {}
    for ranks in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--standalone"]
        command = [sys.executable, *launcher, "eval.py", config, tiny / "ckpt/tiny_one", "--output", tiny / str(ranks)]
        command += ["-o", "TASK1.dataset.max_videos=1"]  # fewer batches than ranks
        subprocess.run([*map(str, command)], cwd=ROOT, check=True, capture_output=True, timeout=280)
        found[ranks] = json.loads((tiny / str(ranks) / "results_TASK2.json").read_text())["results"]
    assert list(found[1]) == list(found[2])
    for video_id, rows in found[1].items():
        for x, y in zip(rows, found[2][video_id], strict=True):
            assert x["label"] == y["label"]
            assert [x["score"], *x["segment"]] == pytest.approx([y["score"], *y["segment"]], abs=1e-5)


@pytest.mark.slow
def test_two_ranks_equal_one_process_in_joint_steps(tiny, run_script):
    """A step's gradients are added up over the tasks, each averaged over the ranks, learned prompts among them."""
    settings = [*ALIKE, "-o", "opt.num_train_epochs=2", "opt.joint_steps=true", "model.prompts=offsets"]
    settings += [f"TASK{i}.epochs=2" for i in (1, 2, 3)]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "one", *settings)
    assert status == 0, err
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = launch(tiny / "tiny.yaml", launcher, "--output", "two", *settings)
    assert done.returncode == 0, done.stderr
    one, two = (read_losses(tiny / f"ckpt/tiny_{name}") for name in ("one", "two"))
    assert len(one) == 9 * 3
    np.testing.assert_allclose(two, one, rtol=1e-4)
    a, b = (read_weights(tiny / f"ckpt/tiny_{name}/last.pth.tar") for name in ("one", "two"))
    assert "state_dict/prompts.TASK1.learned" in a
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, atol=1e-4, rtol=1e-4)


def test_torch_distributed_launch_trains(tiny):
    launcher = ["-m", "torch.distributed.launch", "--nproc_per_node", "2", "--standalone"]
    done = launch(tiny / "tiny.yaml", launcher, "--output", "old", "--tasks", "3")
    assert done.returncode == 0, done.stderr
    assert (tiny / "ckpt/tiny_old/last.pth.tar").exists()
    assert done.stdout.count("epoch 3/3") == 1  # rank 0 alone speaks


@pytest.mark.parametrize("mistake", [["--resume", "nowhere"], ["-o", "TASK3.dataset.feat_folder=nowhere"]])
def test_user_error_on_two_ranks_is_one_line(tiny, mistake):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = launch(tiny / "tiny.yaml", launcher, "--tasks", "3", *mistake)
    assert done.returncode != 0
    assert done.stderr.count("nowhere") == 1
    assert 'train.py", line' not in done.stderr  # no traceback of ours, whatever torchrun adds


def test_nan_loss_on_one_rank_ends_both(tiny):
    """The first step's batch has four videos, two a rank; one of the second rank's is spoiled."""
    config = load_config(tiny / "tiny.yaml")
    keys = next(generate_train_batches(12, 4, config.run.seed, first=0, rank=1, ranks=2))
    path = tiny / f"sed/av_features/sed_train_{keys[0][1]:04d}_one_peace_audio.npy"
    np.save(path, np.load(path) * np.nan)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = launch(tiny / "tiny.yaml", launcher, "--tasks", "3")
    assert done.returncode != 0
    assert done.stderr.count("error (rank 1): TASK3: loss is nan at step 1") == 1
    assert path.name[:14] in done.stderr
    assert 'train.py", line' not in done.stderr

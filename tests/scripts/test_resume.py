"""train.py --resume."""

import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, tiny_tree, write_yaml
from tests.training.runs import assert_same_weights, read_log, read_losses


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_resume_is_bit_identical(tiny, trained, run_script, stopped_after):
    """Interrupted in the epoch after: what was logged beyond the checkpoint does not stay either."""
    run, _ = trained
    half = tiny / "ckpt/tiny_half"
    half.mkdir()
    shutil.copy(run / f"epoch_00{stopped_after}.pth.tar", half / "last.pth.tar")
    shutil.copy(run / "metrics.jsonl", half)
    status, out, err = run_script("train.py", tiny / "tiny.yaml", "--output", "half", "--resume", "auto")
    assert status == 0, err
    assert f"resumes after epoch {stopped_after}" in out
    assert_same_weights(run / "last.pth.tar", half / "last.pth.tar")
    np.testing.assert_array_equal(read_losses(run), read_losses(half))
    whole, resumed = (torch.load(r / "last.pth.tar", weights_only=True) for r in (run, half))
    for key in ("epoch", "step", "best", "stop_and_go", "num_batches_seen", "criteria"):
        assert whole[key] == resumed[key]


def test_resume_from_moments_of_another_memory_layout(tiny, trained, run_script):
    """As by a network whose weights lay otherwise in memory: fused AdamW would pair the wrong numbers."""
    run, _ = trained
    half = tiny / "ckpt/tiny_half"
    half.mkdir()
    state = torch.load(run / "epoch_002.pth.tar", weights_only=True)
    moments = [m for m in state["optimizer"]["state"].values() if not m["exp_avg"].is_contiguous()]
    assert moments
    for moment in moments:
        moment |= {key: value.contiguous() for key, value in moment.items()}
    torch.save(state, half / "last.pth.tar")
    assert run_script("train.py", tiny / "tiny.yaml", "--output", "half", "--resume", "auto")[0] == 0
    assert_same_weights(run / "last.pth.tar", half / "last.pth.tar")


def test_resume_of_a_finished_run_does_nothing(tiny, trained, run_script):
    run, _ = trained
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    for arguments in (
        ["--resume", run],
        ["--resume", run / "epoch_003.pth.tar"],
        ["--output", "whole", "--resume", "auto"],
    ):
        status, out, _ = run_script("train.py", tiny / "tiny.yaml", *arguments)
        assert status == 0
        assert re.search(r"has finished epoch 3 of 3; nothing to do", out)
    assert before == {path.name: path.stat().st_mtime_ns for path in run.iterdir()}


def test_resume_repeats_an_interrupted_last_evaluation(tiny, trained, run_script):
    """Of a run that was interrupted after its last epoch."""
    run, _ = trained
    results, weights = (run / "metrics.json").read_text(), (run / "last.pth.tar").read_bytes()
    (run / "metrics.json").unlink()
    status, out, err = run_script("train.py", tiny / "tiny.yaml", "--output", "whole", "--resume", "auto")
    assert status == 0, err
    assert "resumes after epoch 3" in out
    assert (run / "metrics.json").read_text() == results
    assert (run / "last.pth.tar").read_bytes() == weights


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (
            ["TASK3.learning_rate=0.5", "opt.gamma=0.3"],
            2,
            "TASK3.learning_rate was 0.001, is 0.5; opt.gamma was 0.1, is 0.3",
        ),
        (["TASK1.epochs=4"], 2, "TASK1.epochs was 2, is 4"),
        (["loader.num_workers=1", "run.print_freq=2"], 0, "resumes after epoch 1"),
        (["run.eval_freq=2"], 2, "run.eval_freq was 1, is 2"),
        (["TASK1.test_cfg.nms_sigma=0.3"], 2, "TASK1.test_cfg.nms_sigma was 0.4, is 0.3"),
        (["opt.num_train_epochs=3"], 0, "resumes after epoch 1"),
    ],
)
def test_resume_with_another_configuration(tiny, trained, run_script, options, status, said):
    run, _ = trained
    (tiny / "moved").mkdir()
    shutil.copy(run / "epoch_001.pth.tar", tiny / "moved")
    arguments = ["--resume", tiny / "moved/epoch_001.pth.tar", "-o", *options]
    found, out, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert found == status
    assert said in out + err


def test_resume_does_not_overwrite_another_run(tiny, trained, run_script):
    run, _ = trained
    before = (run / "metrics.jsonl").read_text()
    (tiny / "moved").mkdir()
    shutil.copy(run / "epoch_001.pth.tar", tiny / "moved")
    arguments = ["--output", "whole", "--resume", tiny / "moved/epoch_001.pth.tar"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert status == 2
    assert "already holds a run" in err
    assert (run / "metrics.jsonl").read_text() == before


def test_resume_drops_a_half_written_log_line(tiny, trained, run_script):
    run, _ = trained
    half = tiny / "ckpt/tiny_half"
    half.mkdir()
    shutil.copy(run / "epoch_002.pth.tar", half / "last.pth.tar")
    text = (run / "metrics.jsonl").read_text()
    (half / "metrics.jsonl").write_text(text[: len(text) // 2])
    assert run_script("train.py", tiny / "tiny.yaml", "--output", "half", "--resume", "auto")[0] == 0
    assert all("step" in line for line in read_log(half))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_resume_after_a_kill_equals_an_uninterrupted_run(tiny, run_script):
    """A real kill in the middle of an epoch; the finished checkpoint is whole and the resumed run equals another."""
    config = write_yaml(tiny / "long.yaml", {**tiny_tree(tiny), "loader": {"num_workers": 1}})
    options = ["-o", "opt.num_train_epochs=8"]
    arguments = [sys.executable, "train.py", str(config), "--output", "killed", *options]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tiny / "ckpt/long_killed/last.pth.tar"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert last.exists()
    assert process.poll() is None
    process.kill()
    process.wait()
    status, out, _ = run_script("train.py", config, "--output", "killed", "--resume", "auto", *options)
    assert status == 0
    assert "resumes after epoch" in out
    assert run_script("train.py", config, "--output", "calm", *options)[0] == 0
    assert_same_weights(last, tiny / "ckpt/long_calm/last.pth.tar")

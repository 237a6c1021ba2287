"""The scripts, end to end, on the tiny data set."""

import json
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from libs.core.config import StopAndGoConfig
from libs.core.configfile import load_config
from libs.datasets.loaders import TrainBatches
from libs.training.stop_and_go import StopAndGo
from tests.conftest import ROOT, tiny_tree, write_yaml


def metrics_of(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses_of(run) -> np.ndarray:
    rows = [line for line in metrics_of(run) if line["kind"] == "train" and "task" in line]
    return np.array([[line[k] for k in ("cls", "reg", "total", "grad_norm")] for line in rows])


def weights_of(path) -> dict:
    content = torch.load(path, weights_only=True)
    return {f"{kind}/{k}": v for kind in ("state_dict", "state_dict_ema") for k, v in content[kind].items()}


def assert_same_weights(a, b):
    a, b = weights_of(a), weights_of(b)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.fixture
def trained(tiny, run_script):
    """A finished run of three epochs, with drop path, cropping and stop-and-go on."""
    status, out, err = run_script("train.py", tiny / "tiny.yaml", "--output", "whole")
    assert status == 0, err
    return tiny / "ckpt/tiny_whole", out


def test_a_run_leaves_what_it_should(tiny, trained):
    run, out = trained
    names = {path.name for path in run.iterdir()}
    expected = {"config.yaml", "tensorboard", "metrics.jsonl", "metrics.json", "last.pth.tar", "best.pth.tar"}
    assert names == expected | {f"epoch_00{n}.pth.tar" for n in (1, 2, 3)}
    assert load_config(run / "config.yaml") == load_config(tiny / "tiny.yaml")
    lines = metrics_of(run)
    # 12 videos, batch 4: 3 batches a pass, 2 passes in 2 epochs -> 3 steps an epoch, 3 epochs with the warm-up.
    assert [line["step"] for line in lines if line["kind"] == "train" and "lr" in line] == list(range(1, 10))
    assert next(line for line in lines if "lr" in line)["lr"] == 0
    assert sum(line["kind"] == "eval" for line in lines) == 3 * 3 + 3  # every epoch on val, test at the end
    final = json.loads((run / "metrics.json").read_text())
    assert final.pop("network")["parameters"] > 0
    assert {key: tree["splits"] for key, tree in final.items()} == {f"TASK{i}": ["test"] for i in (1, 2, 3)}
    assert out.count("average") == 12
    paces = [line for line in lines if "videos_per_s" in line]
    assert all(line["videos_per_s"] > 0 and 0 < line["data_wait"] < 1 for line in paces)
    assert list((run / "tensorboard").iterdir())


def test_an_epochs_line_is_of_the_whole_epoch(tiny, run_script):
    """Six steps, the log has a line after the fourth and the sixth."""
    options = ["run.print_freq=4", "opt.warmup_epochs=0", "loader.num_workers=0"]
    arguments = ["--output", "a", "--tasks", "2", "--num_train_epochs", 1, "-o", *options]
    status, out, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert status == 0, err
    lines = metrics_of(tiny / "ckpt/tiny_a")
    first, second = (line["total"] for line in lines if line["kind"] == "train" and "task" in line)
    rates = [line["videos_per_s"] for line in lines if "videos_per_s" in line]
    waits = [line["data_wait"] for line in lines if "data_wait" in line]
    elapsed = 16 / rates[0], 8 / rates[1]
    (said,) = (line for line in out.splitlines() if line.startswith("epoch 1/1: "))
    assert f": loss TASK2 {(2 * first + second) / 3:.3f}; " in said
    assert f" {24 / sum(elapsed):.0f} videos/s, " in said
    waited = sum(share * time for share, time in zip(waits, elapsed, strict=True))
    assert said.endswith(f" {waited / sum(elapsed):.0%} waiting for data")


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_resumed_is_bit_identical(tiny, trained, run_script, stopped_after):
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
    np.testing.assert_array_equal(losses_of(run), losses_of(half))
    whole, resumed = (torch.load(r / "last.pth.tar", weights_only=True) for r in (run, half))
    for key in ("epoch", "step", "best", "stop_and_go", "drawn", "criteria"):
        assert whole[key] == resumed[key]


def test_resumed_from_moments_laid_out_otherwise(tiny, trained, run_script):
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


def test_the_same_run_twice_is_the_same(tiny, trained, run_script):
    run, _ = trained
    assert run_script("train.py", tiny / "tiny.yaml", "--output", "again", "-o", "loader.num_workers=2")[0] == 0
    assert_same_weights(run / "last.pth.tar", tiny / "ckpt/tiny_again/last.pth.tar")
    assert (run / "metrics.json").read_text() == (tiny / "ckpt/tiny_again/metrics.json").read_text()


def test_resume_when_done_says_so_and_does_nothing(tiny, trained, run_script):
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


def test_the_last_evaluation_is_made_up_for(tiny, trained, run_script):
    """Of a run that was interrupted after its last epoch."""
    run, _ = trained
    results, weights = (run / "metrics.json").read_text(), (run / "last.pth.tar").read_bytes()
    (run / "metrics.json").unlink()
    status, out, err = run_script("train.py", tiny / "tiny.yaml", "--output", "whole", "--resume", "auto")
    assert status == 0, err
    assert "resumes after epoch 3" in out
    assert (run / "metrics.json").read_text() == results
    assert (run / "last.pth.tar").read_bytes() == weights


def test_no_run_is_overwritten(tiny, trained, run_script):
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "whole")
    assert status == 2
    assert "already holds a run; go on with --resume auto" in err
    status, _, err = run_script(
        "train.py", tiny / "tiny.yaml", "--resume", trained[0] / "epoch_001.pth.tar", "--tasks", "1"
    )
    assert status == 2
    assert "resume with the same --tasks" in err


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
def test_a_run_goes_on_with_its_own_configuration(tiny, trained, run_script, options, status, said):
    run, _ = trained
    (tiny / "moved").mkdir()
    shutil.copy(run / "epoch_001.pth.tar", tiny / "moved")
    arguments = ["--resume", tiny / "moved/epoch_001.pth.tar", "-o", *options]
    found, out, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert found == status
    assert said in out + err


def test_resume_overwrites_no_other_run(tiny, trained, run_script):
    run, _ = trained
    before = (run / "metrics.jsonl").read_text()
    (tiny / "moved").mkdir()
    shutil.copy(run / "epoch_001.pth.tar", tiny / "moved")
    arguments = ["--output", "whole", "--resume", tiny / "moved/epoch_001.pth.tar"]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert status == 2
    assert "already holds a run" in err
    assert (run / "metrics.jsonl").read_text() == before


def test_a_half_written_log_line_does_not_stop_a_resume(tiny, trained, run_script):
    run, _ = trained
    half = tiny / "ckpt/tiny_half"
    half.mkdir()
    shutil.copy(run / "epoch_002.pth.tar", half / "last.pth.tar")
    text = (run / "metrics.jsonl").read_text()
    (half / "metrics.jsonl").write_text(text[: len(text) // 2])
    assert run_script("train.py", tiny / "tiny.yaml", "--output", "half", "--resume", "auto")[0] == 0
    assert all("step" in line for line in metrics_of(half))


def test_nan_in_evaluation_is_not_silent(tiny, trained, run_script):
    path = next((tiny / "avel/av_features").glob("*_test_0003_one_peace_audio.npy"))
    np.save(path, np.load(path) * np.nan)
    status, _, err = run_script("eval.py", tiny / "tiny.yaml", trained[0], "--output", tiny / "out", "--tasks", "2")
    assert status == 2
    assert "AVEL avel test: the network's output is not finite for avel_test_0003" in err
    assert not list((tiny / "out").iterdir())


def test_eval_reproduces_training_and_scores_its_own_results(tiny, trained, run_script):
    run, _ = trained
    reported = json.loads((run / "metrics.json").read_text())
    out_folder = tiny / "evaluated"
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run / "last.pth.tar", "--output", out_folder, "-p", 5)
    assert status == 0, err
    metrics = json.loads((out_folder / "metrics.json").read_text())
    del reported["network"]
    for key, tree in reported.items():
        assert metrics[key]["mAP"] == tree["mAP"]
        scores = tiny / f"{key}.json"
        folder = {"TASK1": "tal", "TASK2": "avel", "TASK3": "sed"}[key]
        annotations = tiny / folder / "annotations/tiny.json"
        tious = ["--tious", "0.5:0.95:0.05" if key == "TASK1" else "0.1:0.9:0.1"]
        arguments = [out_folder / f"results_{key}.json", annotations, "--subset", "test", *tious, "--json", scores]
        assert run_script("tools/score.py", *arguments)[0] == 0
        assert json.loads(scores.read_text())["average_mAP"] == pytest.approx(tree["average_mAP"], abs=1e-12)


def test_eval_options(tiny, trained, run_script):
    run, _ = trained
    out_folder = tiny / "some"
    arguments = ["--tasks", "2", "-t", 3, "--saveonly", "--output", out_folder]
    status, out, err = run_script("eval.py", tiny / "tiny.yaml", run, *arguments)
    assert status == 0, err
    assert {path.name for path in out_folder.iterdir()} == {"results_TASK2.json"}
    results = json.loads((out_folder / "results_TASK2.json").read_text())["results"]
    assert len(results) == 9
    assert max(len(rows) for rows in results.values()) == 3
    assert "average" not in out


def test_a_task_that_is_not_chosen_needs_no_files(tiny, run_script):
    for folder in ("tal", "sed"):
        shutil.rmtree(tiny / folder)
    assert run_script("train.py", tiny / "tiny.yaml", "--output", "two", "--tasks", "2")[0] == 0
    assert run_script("eval.py", tiny / "tiny.yaml", tiny / "ckpt/tiny_two", "--tasks", "2")[0] == 0


def test_the_test_split_watched_is_warned_of(tiny, run_script):
    _, out, _ = run_script("train.py", tiny / "tiny.yaml", "--tasks", "1", "-o", "TASK1.val_split=test")
    assert "warning: TASK1: val_split is the test split" in out


def test_profile_trains_nothing(tiny, run_script):
    status, out, err = run_script("train.py", tiny / "tiny.yaml", "--profile", tiny / "profile", "--tasks", "3")
    assert status == 0, err
    assert str(tiny / "profile/trace.json") in out
    assert "aten::" in out
    assert json.loads((tiny / "profile/trace.json").read_text())["traceEvents"]
    assert {path.name for path in (tiny / "profile").iterdir()} == {"trace.json"}
    assert not (tiny / "ckpt").exists()


def test_a_paused_task_trains_at_some_steps():
    state = StopAndGo(StopAndGoConfig(train_iter_gap=4))
    assert all(state.trains_at(step) for step in range(9))
    state.paused = True
    assert [step for step in range(9) if state.trains_at(step)] == [0, 4, 8]
    assert StopAndGo(StopAndGoConfig(enabled=False), paused=True).trains_at(1)


def launch(config, launcher: list[str], *arguments):
    command = [sys.executable, *launcher, "train.py", str(config), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


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


def test_two_ranks_equal_one(tiny, run_script):
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
    one, two = (losses_of(tiny / f"ckpt/tiny_{name}") for name in ("one", "two"))
    assert len(one) == 21 * 3
    np.testing.assert_allclose(two, one, rtol=1e-4)
    a, b = (weights_of(tiny / f"ckpt/tiny_{name}/last.pth.tar") for name in ("one", "two"))
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


def test_two_ranks_equal_one_in_joint_steps(tiny, run_script):
    """A step's gradients are added up over the tasks, each averaged over the ranks, learned prompts among them."""
    settings = [*ALIKE, "-o", "opt.num_train_epochs=2", "opt.joint_steps=true", "model.prompts=offsets"]
    settings += [f"TASK{i}.epochs=2" for i in (1, 2, 3)]
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "one", *settings)
    assert status == 0, err
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = launch(tiny / "tiny.yaml", launcher, "--output", "two", *settings)
    assert done.returncode == 0, done.stderr
    one, two = (losses_of(tiny / f"ckpt/tiny_{name}") for name in ("one", "two"))
    assert len(one) == 9 * 3
    np.testing.assert_allclose(two, one, rtol=1e-4)
    a, b = (weights_of(tiny / f"ckpt/tiny_{name}/last.pth.tar") for name in ("one", "two"))
    assert "state_dict/prompts.TASK1.learned" in a
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, atol=1e-4, rtol=1e-4)


def test_the_old_launcher_works_too(tiny):
    launcher = ["-m", "torch.distributed.launch", "--nproc_per_node", "2", "--standalone"]
    done = launch(tiny / "tiny.yaml", launcher, "--output", "old", "--tasks", "3")
    assert done.returncode == 0, done.stderr
    assert (tiny / "ckpt/tiny_old/last.pth.tar").exists()
    assert done.stdout.count("epoch 3/3") == 1  # rank 0 alone speaks


@pytest.mark.parametrize("mistake", [["--resume", "nowhere"], ["-o", "TASK3.dataset.feat_folder=nowhere"]])
def test_one_line_from_two_ranks(tiny, mistake):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = launch(tiny / "tiny.yaml", launcher, "--tasks", "3", *mistake)
    assert done.returncode != 0
    assert done.stderr.count("nowhere") == 1
    assert 'train.py", line' not in done.stderr  # no traceback of ours, whatever torchrun adds


def test_a_nan_on_one_rank_ends_both(tiny):
    """The first step's batch has four videos, two a rank; one of the second rank's is spoiled."""
    config = load_config(tiny / "tiny.yaml")
    keys = next(iter(TrainBatches(12, 4, config.run.seed, first=0, rank=1, ranks=2)))
    path = tiny / f"sed/av_features/sed_train_{keys[0][1]:04d}_one_peace_audio.npy"
    np.save(path, np.load(path) * np.nan)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = launch(tiny / "tiny.yaml", launcher, "--tasks", "3")
    assert done.returncode != 0
    assert done.stderr.count("error (rank 1): TASK3: loss is nan at step 1") == 1
    assert path.name[:14] in done.stderr
    assert 'train.py", line' not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_and_resumed(tiny, run_script):
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

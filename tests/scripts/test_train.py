"""train.py, end to end, on the tiny data set."""

import json
import shutil

from libs.core.configfile import diff_configs, load_config
from tests.training.runs import assert_same_weights, read_log


def test_train_writes_config_logs_metrics_and_checkpoints(tiny, trained):
    run, out = trained
    names = {path.name for path in run.iterdir()}
    expected = {"config.yaml", "tensorboard", "metrics.jsonl", "metrics.json", "last.pth.tar", "best.pth.tar"}
    assert names == expected | {f"epoch_00{n}.pth.tar" for n in (1, 2, 3)}
    trees = [load_config(path).to_tree() for path in (run / "config.yaml", tiny / "tiny.yaml")]
    assert diff_configs(*trees, frozenset(["json_file", "feat_folder", "run.output_folder"])) == []
    lines = read_log(run)
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


def test_train_prints_the_mean_of_the_whole_epoch(tiny, run_script):
    """Six steps, the log has a line after the fourth and the sixth."""
    options = ["run.print_freq=4", "opt.warmup_epochs=0", "loader.num_workers=0"]
    arguments = ["--output", "a", "--tasks", "2", "--num_train_epochs", 1, "-o", *options]
    status, out, err = run_script("train.py", tiny / "tiny.yaml", *arguments)
    assert status == 0, err
    lines = read_log(tiny / "ckpt/tiny_a")
    first, second = (line["total"] for line in lines if line["kind"] == "train" and "task" in line)
    rates = [line["videos_per_s"] for line in lines if "videos_per_s" in line]
    waits = [line["data_wait"] for line in lines if "data_wait" in line]
    elapsed = 16 / rates[0], 8 / rates[1]
    (said,) = (line for line in out.splitlines() if line.startswith("epoch 1/1: "))
    assert f": loss TASK2 {(2 * first + second) / 3:.3f}; " in said
    assert f" {24 / sum(elapsed):.0f} videos/s, " in said
    waited = sum(share * time for share, time in zip(waits, elapsed, strict=True))
    assert said.endswith(f" {waited / sum(elapsed):.0%} waiting for data")


def test_train_twice_gives_the_same_weights(tiny, trained, run_script):
    run, _ = trained
    assert run_script("train.py", tiny / "tiny.yaml", "--output", "again", "-o", "loader.num_workers=2")[0] == 0
    assert_same_weights(run / "last.pth.tar", tiny / "ckpt/tiny_again/last.pth.tar")
    assert (run / "metrics.json").read_text() == (tiny / "ckpt/tiny_again/metrics.json").read_text()


def test_train_does_not_overwrite_a_run(tiny, trained, run_script):
    status, _, err = run_script("train.py", tiny / "tiny.yaml", "--output", "whole")
    assert status == 2
    assert "already holds a run; go on with --resume auto" in err
    status, _, err = run_script(
        "train.py", tiny / "tiny.yaml", "--resume", trained[0] / "epoch_001.pth.tar", "--tasks", "1"
    )
    assert status == 2
    assert "resume with the same --tasks" in err


def test_train_without_files_of_other_tasks(tiny, run_script):
    for folder in ("tal", "sed"):
        shutil.rmtree(tiny / folder)
    assert run_script("train.py", tiny / "tiny.yaml", "--output", "two", "--tasks", "2")[0] == 0
    assert run_script("eval.py", tiny / "tiny.yaml", tiny / "ckpt/tiny_two", "--tasks", "2")[0] == 0


def test_train_warns_if_val_split_is_the_test_split(tiny, run_script):
    _, out, _ = run_script("train.py", tiny / "tiny.yaml", "--tasks", "1", "-o", "TASK1.val_split=test")
    assert "warning: TASK1: val_split is the test split" in out


def test_profile_writes_a_trace_alone(tiny, run_script):
    status, out, err = run_script("train.py", tiny / "tiny.yaml", "--profile", tiny / "profile", "--tasks", "3")
    assert status == 0, err
    assert str(tiny / "profile/trace.json") in out
    assert "aten::" in out
    assert json.loads((tiny / "profile/trace.json").read_text())["traceEvents"]
    assert {path.name for path in (tiny / "profile").iterdir()} == {"trace.json"}
    assert not (tiny / "ckpt").exists()

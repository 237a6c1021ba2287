"""Shared fixtures: a tiny planted data set, its configuration, a trained run, and scripts called as users call them."""

import copy
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from libs.core.config import Config
from libs.core.configfile import from_tree

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
NEEDS_SHARED = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder shared/ beside the project")

TINY_MODEL = {
    "input_dim_visual": 12,
    "input_dim_audio": 10,
    "text_dim": 8,
    "embd_dim": 16,
    "head_dim": 16,
    "backbone_arch": [1, 2, 2],
    "regression_range": [[0, 4], [4, 8], [8, 10000]],
}


def tiny_task(folder: Path, number: int, kind: str, **dataset) -> dict:
    root = folder / kind.lower()
    return {
        "task_type": kind,
        "dataset_name": kind.lower(),
        "train_split": "train",
        "val_split": "val",
        "test_split": "test",
        "dataset": {
            "json_file": str(root / "annotations" / "tiny.json"),
            "feat_folder": str(root / "av_features"),
            "feat_stride": 8 if kind == "TAL" else 4,
            "num_classes": 2 + number,
            "max_seq_len": 32,
            "force_upsampling": kind == "TAL",
            "class_aware": kind != "TAL",
            **dataset,
        },
        "batch_size": 4,
        "epochs": 2,
    }


def tiny_tree(folder: Path) -> dict:
    tasks = {f"TASK{i}": tiny_task(folder, i, kind) for i, kind in enumerate(("TAL", "AVEL", "SED"), start=1)}
    return {
        **tasks,
        "model": copy.deepcopy(TINY_MODEL),
        "opt": {"warmup_epochs": 1, "num_train_epochs": 2, "ema_decay": 0.9},
        "loader": {"num_workers": 0, "eval_batch_size": 4},
        "run": {"output_folder": str(folder / "ckpt"), "print_freq": 1},
    }


def write_yaml(path: Path, tree: dict) -> Path:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


class Scripts:
    """Run a script of the project in this process. Returns its exit status, stdout and stderr."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, script: str, *args) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        self.capsys.readouterr()
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = self.capsys.readouterr()
        return status, out, err


@pytest.fixture
def run_script(monkeypatch, capsys) -> Scripts:
    return Scripts(monkeypatch, capsys)


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> Path:
    """The tiny data set, made once. Tests use the copy of the `tiny` fixture."""
    folder = tmp_path_factory.mktemp("tiny")
    config = write_yaml(folder / "tiny.yaml", tiny_tree(folder))
    module = runpy.run_path(str(ROOT / "tools/make_demo_data.py"))
    argv, sys.argv = sys.argv, ["make_demo_data", str(config)]
    module["main"].__wrapped__.__globals__["VIDEOS_PER_SPLIT"] = (12, 4, 9)
    try:
        module["main"]()
    finally:
        sys.argv = argv
    return folder


@pytest.fixture
def tiny(_made, tmp_path) -> Path:
    """A folder with tiny.yaml and its own copy of the data."""
    for kind in ("tal", "avel", "sed"):
        shutil.copytree(_made / kind, tmp_path / kind)
    write_yaml(tmp_path / "tiny.yaml", tiny_tree(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def _trained(_made, tmp_path_factory) -> tuple[Path, str]:
    """A finished run of three epochs on the tiny data set, made once, and what train.py printed."""
    folder = tmp_path_factory.mktemp("trained")
    for kind in ("tal", "avel", "sed"):
        (folder / kind).symlink_to(_made / kind)
    config = write_yaml(folder / "tiny.yaml", tiny_tree(folder))
    command = [sys.executable, str(ROOT / "train.py"), str(config), "--output", "whole"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder / "ckpt/tiny_whole", done.stdout


@pytest.fixture
def trained(tiny, _trained) -> tuple[Path, str]:
    """A copy of the finished run `tiny`/ckpt/tiny_whole, with drop path, cropping and stop-and-go on."""
    run, out = _trained
    return Path(shutil.copytree(run, tiny / "ckpt/tiny_whole")), out


@pytest.fixture
def config(tmp_path) -> Config:
    """The tiny configuration; nothing is on disk."""
    return from_tree(tiny_tree(tmp_path))


def assert_user_error(status: int, err: str, *parts: str) -> None:
    """Check that a script ended with status 2 and one line on stderr that holds all parts."""
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("error: ")
    for part in parts:
        assert part in err


def open_tiny_task(folder: Path, key: str = "TASK2", **dataset):
    """Return the tiny configuration, one of its tasks (with other dataset keys) and that task's annotations."""
    from libs.core.configfile import from_tree
    from libs.datasets.annotations import load_annotations

    tree = tiny_tree(folder)
    tree[key]["dataset"] |= dataset
    config = from_tree(tree)
    task = config.tasks[key]
    return config, task, load_annotations(task.dataset.json_file, task.dataset.num_classes)

"""What an earlier version of the project wrote goes on loading: configuration, checkpoint, pack, results."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from libs.core.configfile import load_config
from libs.datasets.annotations import load_annotations
from libs.features.sources import open_features
from tests.conftest import ROOT
from tests.training.runs import read_log

EARLIER = Path(__file__).parent / "earlier_version"
VIDEOS_PER_SPLIT = (8, 3, 4)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """A folder with tiny.yaml and its planted data, as the earlier version had them."""
    folder = tmp_path_factory.mktemp("earlier")
    shutil.copy(EARLIER / "tiny.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["make_demo_data", "tiny.yaml"])
        module = runpy.run_path(str(ROOT / "tools/make_demo_data.py"))
        module["main"].__wrapped__.__globals__["VIDEOS_PER_SPLIT"] = VIDEOS_PER_SPLIT
        module["main"]()
    return folder


def test_resume_from_an_earlier_checkpoint_continues_its_run(planted, monkeypatch, run_script):
    """Learned prompts, the number of batches seen and stop-and-go had other names."""
    monkeypatch.chdir(planted)
    run = planted / "ckpt/tiny_offsets"
    run.mkdir(parents=True)
    shutil.copy(EARLIER / "epoch_001.pth.tar", run / "last.pth.tar")
    arguments = ["--output", "offsets", "--resume", "auto", "-o", "model.prompts=offsets"]
    status, out, err = run_script("train.py", "tiny.yaml", *arguments)
    assert status == 0, err
    assert "resumes after epoch 1" in out
    expected = [line for line in read_log(EARLIER) if line["step"] > 2 and line.get("kind") == "train"]
    lines = [line for line in read_log(run) if line["kind"] == "train"]
    assert len(lines) == len(expected) > 0
    for line, other in zip(lines, expected, strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() & {"cls", "reg", "total", "grad_norm", "lr"}:
            assert line[key] == pytest.approx(other[key], rel=1e-5)
    metrics = json.loads((run / "metrics.json").read_text())
    others = json.loads((EARLIER / "offsets_metrics.json").read_text())
    assert metrics["network"] == others["network"]
    for task in ("TASK1", "TASK2", "TASK3"):
        assert metrics[task]["average_mAP"] == pytest.approx(others[task]["average_mAP"], abs=1e-6)


def test_score_of_earlier_results_is_unchanged(planted, run_script, tmp_path):
    expected = json.loads((EARLIER / "run_metrics.json").read_text())["TASK3"]
    arguments = ["--subset", "test", "--tious", "0.1:0.9:0.1", "--json", tmp_path / "scores.json"]
    annotations = planted / "sed/annotations/tiny.json"
    status, _, err = run_script("tools/score.py", EARLIER / "results_TASK3.json", annotations, *arguments)
    assert status == 0, err
    assert json.loads((tmp_path / "scores.json").read_text())["average_mAP"] == expected["average_mAP"]


def test_open_features_of_an_earlier_pack_equals_the_folder(planted, monkeypatch):
    monkeypatch.chdir(planted)
    config, packed = (load_config("tiny.yaml", o) for o in ([], [f"TASK2.dataset.feat_folder={EARLIER}/pack.h5"]))
    videos = list(load_annotations("avel/annotations/tiny.json").videos)
    folder, pack = (open_features(c.tasks["TASK2"], c) for c in (config, packed))
    assert folder.lengths(videos) == pack.lengths(videos)
    for video in videos:
        for a, b in zip(folder.load(video), pack.load(video), strict=True):
            np.testing.assert_array_equal(a, b)

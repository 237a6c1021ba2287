"""The clips and annotations of `make demo-video`, and all that it runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.media import scenes
from libs.media.scenes import LABELS, build_scene
from tests.conftest import ROOT
from tools import make_demo_videos

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

CONFIG = ROOT / "configs/demo_video.yaml"


def test_build_annotations_omits_distractors():
    rng = np.random.default_rng(0)
    clips = {"training": [build_scene(f"v{i}", rng) for i in range(40)]}
    for task in load_config(CONFIG).tasks.values():
        database = make_demo_videos.build_annotations(task, clips)["database"]
        distractors = [row for entry in database.values() for row in entry["distractors"]]
        assert bool(distractors) == (task.task_type == "AVEL")
        for scene in clips["training"]:
            own = [event for event in scene.events if event.label in LABELS[task.task_type]]
            expected = [event for event in own if task.task_type != "AVEL" or (event.seen and event.heard)]
            annotated = [tuple(row["segment"]) for row in database[scene.name]["annotations"]]
            assert annotated == [(event.start, event.end) for event in expected]
            assert all(0 <= event.start < event.end <= scene.duration for event in own)


def test_check_config_of_other_data_is_an_error():
    with pytest.raises(ConfigError, match="TASK1: TAL, 3 classes; expected TAL with 5 classes"):
        make_demo_videos.check_config(load_config(CONFIG, ["TASK1.dataset.num_classes=3"]))


def test_main_keeps_a_folder_of_others(tmp_path, monkeypatch, run_script):
    monkeypatch.chdir(tmp_path)
    Path("data/demo_video").mkdir(parents=True)
    status, _, err = run_script("tools/make_demo_videos.py", CONFIG)
    assert status == 2 and "exists and was not made by this tool" in err


def run(folder: Path, *command) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_demo_video_leads_from_clips_to_a_page(tmp_path, monkeypatch):
    """What `make demo-video` runs, with a dozen clips, a recording in the background and almost no training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(make_demo_videos, "CLIPS_PER_SPLIT", (8, 2, 2))
    monkeypatch.setattr(make_demo_videos, "LONG_S", 12.0)
    monkeypatch.setattr(scenes, "DURATION_S", (4.0, 6.0))
    monkeypatch.setattr(sys, "argv", ["make_demo_videos.py", str(CONFIG)])
    make_demo_videos.main()
    made = Path("data/demo_video")
    assert {path.suffix for path in (made / "clips").iterdir()} == {".mp4", ".webm"}
    shutil.copy(made / "long.mp4", "recording.mp4")
    monkeypatch.setattr(sys, "argv", ["make_demo_videos.py", str(CONFIG), "--recordings", "recording.mp4"])
    make_demo_videos.main()

    run(tmp_path, ROOT / "extract.py", made / "clips", "--out", made / "features")
    short = [f"TASK{i}.{key}" for i in (1, 2, 3) for key in ("epochs=1", "batch_size=4")]
    short += ["opt.num_train_epochs=1", "opt.warmup_epochs=1"]
    run(tmp_path, ROOT / "train.py", CONFIG, "--output", "t", "-o", *short)
    ckpt = tmp_path / "ckpt/demo_video_t"
    run(tmp_path, ROOT / "eval.py", CONFIG, ckpt)
    table = run(tmp_path, ROOT / "tools/demo_report.py", CONFIG, ckpt)
    assert "random guessing" in table and "window matching" not in table
    run(tmp_path, ROOT / "infer.py", made / "long.mp4", "--checkpoint", ckpt, "--out", "found")
    assert json.loads(Path("found/long.json").read_text())
    assert "../data/demo_video/long.mp4" in Path("found/long.html").read_text()

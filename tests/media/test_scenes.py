"""The clips of `make demo-video`: what is annotated is there to be seen and heard, and the whole chain runs on them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.media.writing import RATE_HZ
from tests.conftest import ROOT
from tools import make_demo_videos as demo

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

CONFIG = ROOT / "configs/demo_video.yaml"


def scene_of(label, seen, heard):
    scene = demo.make_scene("a", np.random.default_rng(0), 6.0)
    look = demo.Look(np.array([1.0, 0.5, 0.2]), 0.6, 0.5, 1.0, 1.0, 1.0)
    return scene._replace(planted=[demo.Planted(label, 2.0, 4.0, seen, heard, look)])


@pytest.mark.parametrize("label", sorted({*demo.SEEN, *demo.HEARD}))
def test_an_event_is_seen_and_heard_while_it_lasts(label):
    seen, heard = label in demo.SEEN, label in demo.HEARD
    with_it, without = scene_of(label, seen, heard), scene_of(label, False, False)
    pictures, plain = (
        np.array(list(demo.draw(scene, np.random.default_rng(1))), np.int16) for scene in (with_it, without)
    )
    differs = (np.abs(pictures - plain) > 20).any(axis=(1, 2, 3))
    at = np.arange(len(differs)) / with_it.fps
    during = (at >= 2) & (at < 4)
    assert not differs[~during].any()
    assert differs[during].mean() > (0.3 if seen else -1)  # a drum is seen at its beats
    assert differs.any() == seen

    sound, silence = (demo.play(scene, np.random.default_rng(1)) for scene in (with_it, without))
    second = np.arange(len(sound)) / RATE_HZ
    louder = np.abs(sound - silence) > 0.01
    assert not louder[(second < 2) | (second >= 4)].any()
    assert louder.any() == heard


def test_recordings_are_heard_behind():
    scene, tone = scene_of("bell", True, False), np.sin(np.arange(RATE_HZ) / 20).astype(np.float32)
    plain, mixed = (demo.play(scene, np.random.default_rng(1), recording) for recording in (None, tone))
    assert len(mixed) == len(plain) == 6 * RATE_HZ
    assert np.corrcoef(mixed, np.resize(tone, len(mixed)))[0, 1] > 0.7 > abs(np.corrcoef(plain, mixed)[0, 1])


def test_distractors_are_not_annotated():
    rng = np.random.default_rng(0)
    scenes = {"training": [demo.make_scene(f"v{i}", rng) for i in range(40)]}
    for task in load_config(CONFIG).tasks.values():
        database = demo.annotate(task, scenes)["database"]
        distractors = [d for video in database.values() for d in video["distractors"]]
        assert bool(distractors) == (task.task_type == "AVEL")
        for scene in scenes["training"]:
            events = [(e.start, e.end) for e in scene.planted if e.label in demo.LABELS[task.task_type]]
            both = [e for e in scene.planted if e.label in demo.LABELS["AVEL"] and e.seen and e.heard]
            annotated = [tuple(a["segment"]) for a in database[scene.name]["annotations"]]
            assert annotated == ([(e.start, e.end) for e in both] if task.task_type == "AVEL" else events)
            assert all(0 <= start < end <= scene.duration for start, end in events)


def test_another_configuration_is_refused():
    with pytest.raises(ConfigError, match="TASK1: TAL, 3 classes; expected TAL with 5 classes"):
        demo.check(load_config(CONFIG, ["TASK1.dataset.num_classes=3"]))


def run(*command, folder):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_clips_to_a_page(tmp_path, monkeypatch):
    """What `make demo-video` runs, with a dozen clips and hardly any training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "CLIPS_PER_SPLIT", (8, 2, 2))
    monkeypatch.setattr(demo, "DURATION_S", (4.0, 6.0))
    monkeypatch.setattr(demo, "LONG_S", 12.0)
    monkeypatch.setattr(sys, "argv", ["make_demo_videos.py", str(CONFIG)])
    demo.main()
    made = Path("data/demo_video")
    suffixes = {path.suffix for path in (made / "clips").iterdir()}
    assert suffixes == {".mp4", ".webm"}

    run(ROOT / "extract.py", made / "clips", "--out", made / "features", folder=tmp_path)
    short = [f"TASK{i}.{key}" for i in (1, 2, 3) for key in ("epochs=1", "batch_size=4")]
    short += ["opt.num_train_epochs=1", "opt.warmup_epochs=1"]
    run(ROOT / "train.py", CONFIG, "--output", "t", "-o", *short, folder=tmp_path)
    ckpt = tmp_path / "ckpt/demo_video_t"
    run(ROOT / "eval.py", CONFIG, ckpt, folder=tmp_path)
    table = run(ROOT / "tools/demo_report.py", CONFIG, ckpt, folder=tmp_path)
    assert "random guessing" in table
    assert "window matching" not in table
    run(ROOT / "infer.py", made / "long.mp4", "--checkpoint", ckpt, "--out", "found", folder=tmp_path)
    assert json.loads(Path("found/long.json").read_text())
    assert "../data/demo_video/long.mp4" in Path("found/long.html").read_text()

    shutil.rmtree(made)
    made.mkdir()
    with pytest.raises(SystemExit) as stopped:
        demo.main()
    assert stopped.value.code == 2

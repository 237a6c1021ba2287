"""docs/custom_dataset.md: its commands, run as they stand, from CSV to mAP and a page; and its block of a new task."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from libs.core.configfile import load_config
from tests.conftest import ROOT
from tests.media.clips import write_clip

pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")

GUIDE = (ROOT / "docs/custom_dataset.md").read_text(encoding="utf-8")
CLIPS = 24


def find_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def write_example(folder: Path) -> None:
    """Write clips that flash, beep, do both or neither, and events.csv with what happens in them."""
    rng = np.random.default_rng(0)
    (folder / "clips").mkdir()
    rows = []

    def place(seconds: float) -> tuple[float, float]:
        start = rng.uniform(0.3, seconds - 2.0)
        return round(start, 2), round(start + rng.uniform(0.8, 1.6), 2)

    for i in range(CLIPS):
        name, seconds = f"clip_{i:02d}.mp4", round(rng.uniform(4, 6), 1)
        flash = place(seconds) if i % 4 != 3 else None
        beep = place(seconds) if i % 4 != 2 else None
        if i == CLIPS - 1:
            flash = beep = None
        write_clip(folder / "clips" / name, seconds, fps=16, flash=flash, beep=beep)
        rows += [f"{name},{at[0]},{at[1]},{label}" for at, label in ((flash, "flash"), (beep, "beep")) if at]
    (folder / "events.csv").write_text("\n".join(["video,start,end,label", *rows, ""]))
    flashes = [row for row in rows if row.endswith("flash")]
    (folder / "more.csv").write_text("\n".join(["video,start,end,label", *flashes, ""]))
    write_clip(folder / "new.mp4", 6, fps=16, flash=(1, 2.2), beep=(3.5, 4.7))


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """The folder after all commands of the guide, unchanged, and what each of them printed."""
    folder = tmp_path_factory.mktemp("guide")
    for name in ("train.py", "eval.py", "extract.py", "infer.py", "tools"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "configs").mkdir()
    write_example(folder)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    printed = {}
    for command in find_blocks("bash"):
        done = subprocess.run(["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}{done.stdout}{done.stderr}"
        printed[command] = done.stdout
    return folder, printed


def test_guide_has_every_step():
    steps = [command.split()[1] for command in find_blocks("bash")]
    importing = "tools/import_annotations.py"
    assert steps == ["extract.py", importing, "tools/verify_data.py", "train.py", "eval.py", "infer.py", importing]


@pytest.mark.slow
def test_guide_ends_in_map_and_a_page(guide):
    folder, printed = guide
    run = folder / "ckpt/mine_first"
    table = next(out for command, out in printed.items() if command.startswith("python eval.py"))
    assert re.search(r"^mAP, SIGNAL mine testing +0\.10 .* average$", table, re.MULTILINE)
    metrics = json.loads((run / "metrics.json").read_text())["TASK1"]
    assert metrics["average_mAP"] > 0.4  # guessing: less than 0.1
    assert f"{100 * metrics['average_mAP']:.2f}" in table
    results = json.loads((run / "results_TASK1.json").read_text())["results"]
    database = json.loads((folder / "data/mine/annotations/mine.json").read_text())["database"]
    assert set(results) == {name for name, video in database.items() if video["subset"] == "testing"}
    assert "flash" in (folder / "found/new.html").read_text()
    assert len((folder / "found/new.csv").read_text().splitlines()) > 1


@pytest.mark.slow
def test_guide_shows_what_the_import_prints(guide):
    _, printed = guide
    command = next(command for command in printed if "--name mine" in command)
    assert printed[command] == find_blocks("text")[0]


@pytest.mark.slow
def test_guide_shows_the_first_rows_of_the_table(guide):
    folder, _ = guide
    assert (folder / "events.csv").read_text().startswith(find_blocks("csv")[0])


@pytest.mark.slow
def test_guide_adds_a_task(guide):
    folder, _ = guide
    config = load_config(folder / "configs/more.yaml")
    assert list(config.tasks) == ["TASK1", "TASK2"]
    assert config.tasks["TASK2"].task_type == "LIGHT"
    assert yaml.safe_load((folder / "configs/more.yaml").read_text())["base"] == "mine.yaml"
    assert config.model == load_config(folder / "configs/mine.yaml").model
    assert np.load(folder / "data/more/more_prompt.npy").shape == (1, config.model.text_dim)


def test_guide_block_of_a_fourth_task_is_a_configuration(tmp_path):
    """The block is used as it stands, with the published setting as its base."""
    path = tmp_path / "music.yaml"
    base = ROOT / "configs/multi_task_anet_unav_dcase.yaml"
    path.write_text(f"base: {base}\n{find_blocks('yaml')[0]}")
    task = load_config(path).tasks["TASK4"]
    assert task.format_prompt("violin") == "Somebody plays the violin."
    assert len(task.tious) == 5
    assert task.drop_repeats


@pytest.mark.slow
def test_fourth_task_is_a_block_of_yaml(tiny, run_script):
    """Beside the three, of a type that no code knows: data made, all four trained and evaluated."""
    tree = yaml.safe_load((tiny / "tiny.yaml").read_text())
    block = {
        **tree["TASK3"],
        "task_type": "MUSIC",
        "prompt": "Somebody plays the {label}.",
        "dataset_name": "music",
        "test_cfg": {"tious": "0.3:0.7:0.1"},
        "dataset": {
            **tree["TASK3"]["dataset"],
            "json_file": str(tiny / "music/annotations/tiny.json"),
            "feat_folder": str(tiny / "music/av_features"),
            "drop_repeats": True,
            "planted": {"shows_in": ["visual"]},
        },
    }
    (tiny / "four.yaml").write_text(yaml.safe_dump({"base": "tiny.yaml", "TASK4": block}))
    shutil.copytree(tiny / "sed", tiny / "music")
    (tiny / "music/sed_prompt.npy").rename(tiny / "music/music_prompt.npy")
    quick = ["-o", "opt.num_train_epochs=1", "opt.warmup_epochs=0"]
    status, out, err = run_script("train.py", tiny / "four.yaml", "--output", "t", *quick)
    assert status == 0, err
    run = tiny / "ckpt/four_t"
    status, out, err = run_script("eval.py", tiny / "four.yaml", run)
    assert status == 0, err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() == {"checkpoint", "TASK1", "TASK2", "TASK3", "TASK4"}
    assert len(metrics["TASK4"]["tiou"]) == 5
    assert "mAP, MUSIC music test" in out
    task = load_config(tiny / "four.yaml").tasks["TASK4"]
    assert task.format_prompt("violin") == "Somebody plays the violin."
    assert task.shows_in == ("visual",)
    assert task.drop_repeats

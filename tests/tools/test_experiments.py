"""tools/experiments.py: what it checks, the tables of finished runs, and real runs that fail or are interrupted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from libs.core.configfile import load_config
from tests.conftest import ROOT, write_yaml
from tests.evaluation.reports.test_experiment_table import read_cells

SEED = 1234567891  # run.seed of tiny.yaml
SCORES = {"TASK1": 0.5, "TASK2": 0.6, "TASK3": 0.7}


def write_finished_run(
    config: Path, out: Path, scores: dict[str, float], *, name: str = "", seed: int = SEED, **more
) -> Path:
    """Write the folder of a finished run as train.py does."""
    folder = out / f"{name or config.stem}_seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(load_config(config, [f"run.seed={seed}"]).to_yaml())
    metrics = {key: {"average_mAP": value} for key, value in scores.items()}
    (folder / "metrics.json").write_text(json.dumps({**metrics, **more}))
    return folder


@pytest.fixture
def two(tiny) -> tuple[Path, Path]:
    """tiny.yaml and wider.yaml, which has it as its base."""
    text = "# Is a wider network better?\n# (A second line.)\nbase: tiny.yaml\nmodel: {embd_dim: 32}\n"
    (tiny / "wider.yaml").write_text(text)
    return tiny / "tiny.yaml", tiny / "wider.yaml"


def read_table(out: Path) -> dict[str, list[str]]:
    return read_cells((out / "table.md").read_text())


def test_experiments_of_finished_runs_writes_tables_and_plot(two, tiny, run_script):
    out = tiny / "out"
    for seed in (SEED, SEED + 1):
        write_finished_run(two[0], out, SCORES, seed=seed)
        write_finished_run(two[1], out, {**SCORES, "TASK1": 0.4}, seed=seed, network={"parameters": 98765})
    (out / f"wider_seed{SEED}/minutes.json").write_text("1.5")
    status, printed, err = run_script("tools/experiments.py", *two, "--seeds", 2, "--out", out)
    assert status == 0, err
    assert "4 done before, 0 to do" in printed
    assert (out / "table.md").read_text() in printed
    cells = read_table(out)
    assert cells["wider"][:2] == ["40.00 ± 0.00", "**-10.00** ± 0.00"]
    assert cells["wider"][-4:] == ["2", "98,765", "1.5", "Is a wider network better?"]
    assert cells["tiny"][-3:] == ["–", "–", ""]
    assert {path.name for path in out.iterdir() if path.is_file()} == {".lock", "table.md", "table.csv", "plot.png"}


def test_experiments_with_base_compares_with_it(two, tiny, run_script):
    for config in two:
        write_finished_run(config, tiny / "out", SCORES)
    arguments = ["--seeds", 1, "--out", tiny / "out", "--base", tiny / "." / "wider.yaml"]
    for configs in (two, two[:1], [*two, *two]):
        assert run_script("tools/experiments.py", *configs, *arguments)[0] == 0
        assert list(read_table(tiny / "out"))[2:] == ["wider", "tiny"]


def test_experiments_with_tasks_shows_only_these(two, tiny, run_script):
    write_finished_run(two[0], tiny / "out", {"TASK3": 0.7})
    arguments = [two[0], "--seeds", 1, "--out", tiny / "out", "--tasks"]
    assert run_script("tools/experiments.py", *arguments, "3")[0] == 0
    assert read_table(tiny / "out")["configuration"][:3] == ["SED", "Δ SED", "runs"]
    status, _, err = run_script("tools/experiments.py", *arguments, "2-3")
    assert status == 2
    assert "expected an average_mAP for each of TASK2, TASK3" in err


def test_experiments_with_equal_file_names_adds_folders_to_names(two, tiny, run_script):
    (tiny / "a").mkdir()
    (tiny / "a/tiny.yaml").write_text("base: ../tiny.yaml\n")
    write_finished_run(two[0], tiny / "out", SCORES, name=f"{tiny.name}/tiny")
    write_finished_run(tiny / "a/tiny.yaml", tiny / "out", SCORES, name="a/tiny")
    configs = [two[0], tiny / "a/tiny.yaml"]
    status, _, err = run_script("tools/experiments.py", *configs, "--seeds", 1, "--out", tiny / "out")
    assert status == 0, err
    assert {f"{tiny.name}/tiny", "a/tiny"} <= set(read_table(tiny / "out"))


def test_experiments_without_matplotlib_writes_tables_only(two, tiny, run_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for config in two:
        write_finished_run(config, tiny / "out", SCORES)
    status, printed, err = run_script("tools/experiments.py", *two, "--seeds", 1, "--out", tiny / "out")
    assert status == 0, err
    assert "plot.png is left out, since matplotlib is not installed: pip install -e" in printed
    assert not (tiny / "out/plot.png").exists()
    assert "tiny" in read_table(tiny / "out")


def test_experiments_in_folder_of_another_configuration_raises(two, tiny, run_script):
    arguments = ["tools/experiments.py", two[0], "--seeds", 1, "--out", tiny / "out"]
    folder = write_finished_run(two[0], tiny / "out", SCORES)
    for changed, expected in {
        "TASK1.epochs=4": "holds a run of another configuration: TASK1.epochs was 2, is 4",
        "opt.num_train_epochs=3": "opt.num_train_epochs was 2, is 3",
        "TASK3.dataset.feat_folder=planted": "TASK3.dataset.feat_folder was",
    }.items():
        status, _, err = run_script(*arguments, "-o", changed)
        assert status == 2
        assert expected in err
    assert run_script(*arguments, "-o", "loader.num_workers=1")[0] == 0
    (folder / "metrics.json").write_text(json.dumps({"checkpoint": "x/best.pth.tar", **dict.fromkeys(SCORES, 0)}))
    assert "expected an average_mAP for each of TASK1, TASK2, TASK3" in run_script(*arguments)[2]
    trees = {key: {"average_mAP": 0.5} for key in SCORES}
    (folder / "metrics.json").write_text(json.dumps({"checkpoint": "x/best.pth.tar", **trees}))
    assert "written by eval.py for best.pth.tar, but runs are compared after" in run_script(*arguments)[2]
    (folder / "metrics.json").write_text(json.dumps({"checkpoint": "x/last.pth.tar", **trees}))
    assert run_script(*arguments)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["no configuration: name YAML files"]),
        (["--seeds", "2"], ["no configuration: name YAML files"]),
        (["TINY", "--seeds", "0"], ["--seeds 0", "1 or more"]),
        (["TINY", "--jobs", "-1"], ["--jobs -1", "1 or more"]),
        (["TINY", "absent.yaml"], ["absent.yaml: no such configuration file"]),
        (["TINY", "--base", "absent.yaml"], ["absent.yaml: no such configuration file"]),
        (["TINY", "-o", "TASK1.batchsize=3"], ["unknown key TASK1.batchsize", "did you mean TASK1.batch_size?"]),
        (["TINY", "-o", "run.output_folder=x"], ["run.output_folder", "under --out"]),
        (["TINY", "-o", f"run.seed={2**63 - 2}"], ["run.seed", "9223372036854775808"]),
        (["TINY", "--tasks", "1-7"], ["no TASK7; choose from TASK1, TASK2, TASK3"]),
        (["TINY", "BAD"], ["bad.yaml", "unknown key model.embed_dim"]),
        (["TINY", "OTHER"], ["other.yaml: TASK3.test_split is ('val',), but ('test',) in ", "cannot be compared"]),
        (["TINY", "--out", "TINY"], ["cannot be written"]),
        (["TINY", "--out", "TINY/below"], ["cannot be written"]),
    ],
)
def test_experiments_with_bad_arguments_writes_nothing(two, tiny, run_script, monkeypatch, arguments, expected):
    (tiny / "bad.yaml").write_text("base: tiny.yaml\nmodel: {embed_dim: 32}\n")
    (tiny / "other.yaml").write_text("base: tiny.yaml\nTASK3: {test_split: val}\n")
    names = {"TINY": two[0], "BAD": tiny / "bad.yaml", "OTHER": tiny / "other.yaml"}
    names["TINY/below"] = two[0] / "below"
    monkeypatch.setattr("libs.training.experiment_runs.execute_runs", None)  # nothing is run
    monkeypatch.chdir(tiny)
    before = set(tiny.rglob("*"))
    status, _, err = run_script("tools/experiments.py", *(names.get(a, a) for a in arguments))
    assert status == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in expected:
        assert part in err
    assert set(tiny.rglob("*")) == before


def test_experiments_with_failed_run_shows_it_and_continues(two, tiny, run_script, monkeypatch):
    def execute(runs, num_jobs, lock):
        assert [run.title for run in runs] == [f"{name}, seed {SEED + i}" for name in ("tiny", "wider") for i in (0, 1)]
        for run in runs:
            broken = run.title == f"wider, seed {SEED}"
            if not broken:
                run.folder.mkdir(parents=True)
                (run.folder / "metrics.json").write_text(json.dumps({key: {"average_mAP": 0.5} for key in SCORES}))
            yield run, "no such feature folder" if broken else None

    monkeypatch.setattr("libs.training.experiment_runs.execute_runs", execute)
    status, printed, err = run_script("tools/experiments.py", *two, "--seeds", 2, "--out", tiny / "out")
    assert (status, err) == (1, "")
    assert f"wider, seed {SEED}: failed: no such feature folder (3 of 4 runs)" in printed
    assert "1 of 2, 1 failed" in read_table(tiny / "out")["wider"]
    assert f"- failed: wider, seed {SEED}: no such feature folder" in (tiny / "out/table.md").read_text()


def long_and_broken(tiny: Path) -> list:
    """Arguments for two configurations of one task. The features of the first are missing."""
    tree = yaml.safe_load((tiny / "tiny.yaml").read_text())
    write_yaml(tiny / "long.yaml", tree | {"opt": {"warmup_epochs": 0, "num_train_epochs": 16, "ema_decay": 0.9}})
    (tiny / "broken.yaml").write_text("base: long.yaml\nTASK3: {dataset: {feat_folder: nowhere}}\n")
    return [tiny / "broken.yaml", tiny / "long.yaml", "--tasks", "3", "--seeds", 1, "--out", tiny / "my runs"]


@pytest.mark.slow
def test_experiments_interrupted_continues_with_the_same_command(tiny, run_script):
    """The first run fails, the second is interrupted. Then the missing features of the first are there."""
    arguments, out = long_and_broken(tiny), tiny / "my runs"
    run, broken = out / f"long_seed{SEED}", out / f"broken_seed{SEED}"
    command = [sys.executable, ROOT / "tools/experiments.py", *arguments]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "last.pth.tar").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # not SIGINT, which tests in the background ignore
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == "the running trainings were stopped; the same command continues\ninterrupted\n"
    assert not (run / "metrics.json").exists()
    assert f"broken, seed {SEED}: failed: nowhere: no such feature folder" in printed
    assert (read_table(out)["broken"][0], read_table(out)["long"][0]) == ("failed", "…")

    (tiny / "broken.yaml").write_text("base: long.yaml\n")
    status, _, err = run_script("tools/experiments.py", *arguments, "--jobs", 2)
    assert status == 0, err
    assert "resumes after epoch" in (run / "train.log").read_text()
    cells = read_table(out)
    assert cells["long"][0] == cells["broken"][0]  # an interruption does not change the result
    assert cells["long"][1] == "+0.00"

    # The state after a run is killed between its last epoch and its results.
    results = (run / "metrics.json").read_text()
    (run / "metrics.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in broken.iterdir()}
    status, printed, err = run_script("tools/experiments.py", *arguments)
    assert status == 0, err
    assert "1 done before, 1 to do" in printed
    assert (run / "metrics.json").read_text() == results
    assert read_table(out)["long"][:2] == cells["long"][:2]
    assert before == {path: path.stat().st_mtime_ns for path in broken.iterdir()}

"""Sets of experiments: what their table says of made-up results, how runs are started, ended and gone on with."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from libs.core.configfile import load_config
from libs.core.errors import ConfigError
from libs.core.processes import Child, Job, alone_in, execute
from libs.evaluation.reports.experiment_table import (
    Experiment,
    TaskName,
    compare,
    draw,
    markdown,
    t_quantile,
    write_csv,
)
from tests.conftest import ROOT, write_yaml

TAL, SED = TaskName("TASK1", "TAL", "anet"), TaskName("TASK3", "SED", "dcase")
SEED = 1234567891  # run.seed of tiny.yaml


# What the numbers are


@pytest.mark.parametrize(("df", "expected"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (10, 2.2281), (100, 1.9840)])
def test_t_quantile_is_that_of_the_tables(df, expected):
    assert t_quantile(df) == pytest.approx(expected, abs=1e-4)


def test_differences_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = random.Random(0)
    for _ in range(50):
        values = [rng.gauss(60, 1) for _ in range(rng.randint(2, 6))]
        base = [rng.gauss(59, 3) for _ in range(rng.randint(2, 6))]
        welch = stats.ttest_ind(values, base, equal_var=False)
        low, high = welch.confidence_interval(0.95)
        found = compare(values, base)
        assert found.value == pytest.approx((low + high) / 2)
        assert found.half == pytest.approx((high - low) / 2, rel=1e-3)
        assert found.beyond_noise == (welch.pvalue < 0.05)


def test_differences_of_few_or_equal_values():
    assert compare([3.0], [1.0, 2.0]) == (1.5, None)
    assert compare([3.0], [1.0]).beyond_noise is None
    assert compare([2.0, 2.0], [1.0, 1.0]) == (1.0, 0.0)
    assert compare([2.0, 2.0], [1.0, 1.0]).beyond_noise
    assert not compare([1.0, 1.0], [1.0, 1.0]).beyond_noise


def made_up() -> list[Experiment]:
    seeds = (7, 8, 9)
    return [
        Experiment("base", "the base", seeds, {TAL: [60.0, 61.0, 62.0], SED: [70.0, 70.5, 71.0]}, [2.0, 4.0], 1234567),
        Experiment("deaf", "without | sound", seeds, {TAL: [60.0, 61.5, 62.0], SED: [2.0, 2.0, 2.0]}),
        Experiment("tal", "", seeds, {TAL: [61.0, 62.0]}, errors={9: "TASK1: loss is nan"}),
        Experiment("broken", "", seeds, {TAL: [], SED: []}, errors=dict.fromkeys(seeds, "no such folder")),
        Experiment("later", "", seeds, {TAL: [], SED: []}),
    ]


def cells_of(table: str) -> dict[str, list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")] for line in lines]
    assert {len(row) for row in rows} == {len(rows[0])}
    return {row[0]: row[1:] for row in rows}


def test_the_table():
    table = markdown(made_up())
    cells = cells_of(table)
    assert cells["configuration"] == ["TAL", "Δ TAL", "SED", "Δ SED", "runs", "parameters", "minutes", "what it asks"]
    assert cells["base"] == ["61.00 ± 1.00", "", "70.50 ± 0.50", "", "3", "1,234,567", "3.0", "the base"]
    # SED: standard error .5/sqrt(3), all of it the base's, so 2 degrees of freedom: 4.3027 * .28868 = 1.242.
    assert cells["deaf"][2:4] == ["2.00 ± 0.00", "**-68.50** ± 1.24"]
    assert cells["deaf"][1].startswith("+0.17 ± ")
    assert cells["deaf"][-1] == "without ¦ sound"
    assert cells["tal"][2:5] == ["–", "", "2 of 3, 1 failed"]
    assert cells["broken"][:5] == ["failed", "", "failed", "", "0 of 3, 3 failed"]
    assert cells["later"][:5] == ["…", "", "…", "", "0 of 3"]
    assert "- failed: tal, seed 9: TASK1: loss is nan" in table
    assert table.count("- failed: broken") == 3
    assert "3 seeds from 7 on" in table


def test_the_table_of_one_seed_claims_nothing():
    one = [Experiment("a", "", (7,), {TAL: [60.0]}), Experiment("b", "", (7,), {TAL: [59.999]})]
    table = markdown(one)
    assert cells_of(table)["b"][:2] == ["60.00", "+0.00"]
    assert "±" not in table
    assert "how much of a difference is chance is not known" in table


def test_tasks_of_one_type_are_told_apart():
    other = TaskName("TASK4", "TAL", "fineaction")
    table = markdown([Experiment("a", "", (7,), {TAL: [60.0], other: [50.0]})])
    assert {"TASK1 TAL anet", "Δ TASK4 TAL fineaction"} <= set(cells_of(table)["configuration"])


def test_the_csv(tmp_path):
    write_csv(made_up(), tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["configuration"]: row for row in csv.DictReader(file)}
    assert float(rows["base"]["TAL mean"]) == 61
    assert rows["base"]["TAL difference"] == ""
    assert float(rows["deaf"]["SED difference"]) == -68.5
    assert rows["deaf"]["SED beyond_noise"] == "True"
    assert rows["tal"]["SED mean"] == rows["later"]["SED sd"] == ""
    assert (rows["tal"]["runs"], rows["tal"]["finished"], rows["tal"]["failed"]) == ("3", "2", "1")
    assert rows["tal"]["errors"] == "seed 9: TASK1: loss is nan"
    assert rows["deaf"]["what it asks"] == "without | sound"


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    draw(made_up(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


# Jobs as child processes


def job(folder: Path, code: str, name: str = "job") -> Job:
    """Python code to run; done when its folder has a file `done`."""
    return Job(name, (sys.executable, "-c", code), folder / name / "log", (folder / name / "done").exists)


def run_jobs(folder: Path, *jobs: Job, at_once: int = 2, when_started=lambda job: None) -> dict[str, str | None]:
    errors = {}
    with alone_in(folder) as lock:
        execute(list(jobs), at_once, dict(os.environ), lock, when_started, lambda j, e: errors.update({j.name: e}))
    return errors


def test_how_jobs_end(tmp_path):
    touch = f"open({str(tmp_path / 'good/done')!r}, 'w')"
    errors = run_jobs(
        tmp_path,
        job(tmp_path, f"print('one'); {touch}", name="good"),
        job(tmp_path, "import sys; print('a\\nerror: b\\n', file=sys.stderr); sys.exit(2)", name="wrong"),
        job(tmp_path, "import os; print('x', flush=True); os.kill(os.getpid(), 9)", name="killed"),
        job(tmp_path, "raise SystemExit(3)", name="silent"),
        job(tmp_path, "", name="empty"),
    )
    assert errors == {
        "good": None,
        "wrong": "b",
        "killed": "killed by SIGKILL, having said: x",
        "silent": "exit status 3",
        "empty": "ended without an error, and without a result",
    }
    assert (tmp_path / "good/log").read_text() == "one\n"


def test_an_error_is_that_of_the_last_attempt(tmp_path):
    assert run_jobs(tmp_path, job(tmp_path, "raise SystemExit('first')")) == {"job": "first"}
    assert run_jobs(tmp_path, job(tmp_path, "raise SystemExit(4)")) == {"job": "exit status 4"}
    assert (tmp_path / "job/log").read_text() == "first\n"


def test_so_many_at_once(tmp_path):
    """Each writes when it begins and when it ends; two at a time, so never three begun and none ended."""
    code = (
        f"import time; f = open({str(tmp_path / 'book')!r}, 'a'); f.write('+'); f.flush(); time.sleep(.3); f.write('-')"
    )
    run_jobs(tmp_path, *(job(tmp_path, code, name=str(i)) for i in range(5)))
    depth, deepest = 0, 0
    for sign in (tmp_path / "book").read_text():
        depth += 1 if sign == "+" else -1
        deepest = max(deepest, depth)
    assert (depth, deepest) == (0, 2)


def test_minutes_add_up_unless_one_attempt_is_unknown(tmp_path):
    again = job(tmp_path, "import time; time.sleep(.2)")
    run_jobs(tmp_path, again)
    first = json.loads(again.minutes_file.read_text())
    run_jobs(tmp_path, again)
    assert json.loads(again.minutes_file.read_text()) > first + 0.2 / 60
    again.minutes_file.unlink()  # as where the script was killed
    run_jobs(tmp_path, again)
    assert not again.minutes_file.exists()


@pytest.mark.parametrize("stubborn", [False, True])
def test_leaving_ends_what_is_at_work(tmp_path, monkeypatch, stubborn):
    if stubborn:
        monkeypatch.setattr("libs.core.processes.STOP_S", 1)
    how = "signal.SIG_IGN" if stubborn else "signal.default_int_handler"
    ready = tmp_path / "job/ready"
    code = (
        f"import signal, time; signal.signal(signal.SIGINT, {how})\n"
        f"try: open({str(ready)!r}, 'w'); time.sleep(60)\n"
        f"except KeyboardInterrupt: open({str(tmp_path / 'job/tidied')!r}, 'w')"
    )

    def leave(job):
        while not ready.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    sleeper = job(tmp_path, code)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(tmp_path, sleeper, when_started=leave)
    assert (tmp_path / "job/tidied").exists() is not stubborn
    assert sleeper.minutes_file.exists()
    with alone_in(tmp_path):  # nothing holds the lock any more
        pass


def test_a_job_that_outlived_its_script_is_noticed(tmp_path):
    with alone_in(tmp_path) as lock:
        child = Child(job(tmp_path, "import time; time.sleep(60)"), dict(os.environ), lock)
    with pytest.raises(ConfigError, match="works there"), alone_in(tmp_path):
        pass
    child.close()
    with alone_in(tmp_path):
        pass


# The script; nothing is run where all is finished


def finish(config: Path, out: Path, scores: dict[str, float], *, name: str = "", seed: int = SEED, **more) -> Path:
    """A finished run's folder, as train.py would have left it."""
    folder = out / f"{name or config.stem}_seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(load_config(config, [f"run.seed={seed}"]).to_yaml())
    metrics = {key: {"average_mAP": value} for key, value in scores.items()}
    (folder / "metrics.json").write_text(json.dumps({**metrics, **more}))
    return folder


ALL = {"TASK1": 0.5, "TASK2": 0.6, "TASK3": 0.7}


@pytest.fixture
def two(tiny) -> tuple[Path, Path]:
    """tiny.yaml and wider.yaml, which has it as its base."""
    text = "# Is a wider network better?\n# (A second line.)\nbase: tiny.yaml\nmodel: {embd_dim: 32}\n"
    (tiny / "wider.yaml").write_text(text)
    return tiny / "tiny.yaml", tiny / "wider.yaml"


def table_of(out: Path) -> dict[str, list[str]]:
    return cells_of((out / "table.md").read_text())


def test_finished_runs_make_a_table(two, tiny, run_script):
    out = tiny / "out"
    for seed in (SEED, SEED + 1):
        finish(two[0], out, ALL, seed=seed)
        finish(two[1], out, {**ALL, "TASK1": 0.4}, seed=seed, network={"parameters": 98765})
    (out / f"wider_seed{SEED}/minutes.json").write_text("1.5")
    status, printed, err = run_script("tools/experiments.py", *two, "--seeds", 2, "--out", out)
    assert status == 0, err
    assert "4 done before, 0 to do" in printed
    assert (out / "table.md").read_text() in printed
    cells = table_of(out)
    assert cells["wider"][:2] == ["40.00 ± 0.00", "**-10.00** ± 0.00"]
    assert cells["wider"][-4:] == ["2", "98,765", "1.5", "Is a wider network better?"]
    assert cells["tiny"][-3:] == ["–", "–", ""]
    assert {path.name for path in out.iterdir() if path.is_file()} == {".lock", "table.md", "table.csv", "plot.png"}


def test_another_base(two, tiny, run_script):
    for config in two:
        finish(config, tiny / "out", ALL)
    arguments = ["--seeds", 1, "--out", tiny / "out", "--base", tiny / "." / "wider.yaml"]
    for configs in (two, two[:1]):
        assert run_script("tools/experiments.py", *configs, *arguments)[0] == 0
        assert list(table_of(tiny / "out"))[2:] == ["wider", "tiny"]


def test_only_some_tasks(two, tiny, run_script):
    finish(two[0], tiny / "out", {"TASK3": 0.7})
    arguments = [two[0], "--seeds", 1, "--out", tiny / "out", "--tasks"]
    assert run_script("tools/experiments.py", *arguments, "3")[0] == 0
    assert table_of(tiny / "out")["configuration"][:3] == ["SED", "Δ SED", "runs"]
    status, _, err = run_script("tools/experiments.py", *arguments, "2-3")
    assert status == 2
    assert "expected an average_mAP for each of TASK2, TASK3" in err


def test_configurations_of_one_name(two, tiny, run_script):
    (tiny / "a").mkdir()
    (tiny / "a/tiny.yaml").write_text("base: ../tiny.yaml\n")
    finish(two[0], tiny / "out", ALL, name=f"{tiny.name}/tiny")
    finish(tiny / "a/tiny.yaml", tiny / "out", ALL, name="a/tiny")
    configs = [two[0], tiny / "a/tiny.yaml"]
    status, _, err = run_script("tools/experiments.py", *configs, "--seeds", 1, "--out", tiny / "out")
    assert status == 0, err
    assert {f"{tiny.name}/tiny", "a/tiny"} <= set(table_of(tiny / "out"))


def test_without_matplotlib(two, tiny, run_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for config in two:
        finish(config, tiny / "out", ALL)
    status, printed, err = run_script("tools/experiments.py", *two, "--seeds", 1, "--out", tiny / "out")
    assert status == 0, err
    assert 'no plot.png without matplotlib, tables only: pip install -e ".[metrics]"' in printed
    assert not (tiny / "out/plot.png").exists()
    assert "tiny" in table_of(tiny / "out")


def test_runs_that_are_of_something_else_are_refused(two, tiny, run_script):
    arguments = ["tools/experiments.py", two[0], "--seeds", 1, "--out", tiny / "out"]
    folder = finish(two[0], tiny / "out", ALL)
    for changed, said in {
        "TASK1.epochs=4": "holds a run of another configuration: TASK1.epochs was 2, is 4",
        "opt.num_train_epochs=3": "opt.num_train_epochs was 2, is 3",
        "TASK3.dataset.feat_folder=planted": "TASK3.dataset.feat_folder was",
    }.items():
        status, _, err = run_script(*arguments, "-o", changed)
        assert status == 2
        assert said in err
    assert run_script(*arguments, "-o", "loader.num_workers=1")[0] == 0
    (folder / "metrics.json").write_text(json.dumps({"checkpoint": "x/best.pth.tar", **dict.fromkeys(ALL, 0)}))
    assert "expected an average_mAP for each of TASK1, TASK2, TASK3" in run_script(*arguments)[2]
    trees = {key: {"average_mAP": 0.5} for key in ALL}
    (folder / "metrics.json").write_text(json.dumps({"checkpoint": "x/best.pth.tar", **trees}))
    assert "is eval.py's, of best.pth.tar, but runs are compared after" in run_script(*arguments)[2]
    (folder / "metrics.json").write_text(json.dumps({"checkpoint": "x/last.pth.tar", **trees}))
    assert run_script(*arguments)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["no configuration; name YAML files"]),
        (["--seeds", "2"], ["no configuration; name YAML files"]),
        (["TINY", "--seeds", "0"], ["--seeds 0", "1 or more"]),
        (["TINY", "--jobs", "-1"], ["--jobs -1", "1 or more"]),
        (["TINY", "absent.yaml"], ["absent.yaml: no such configuration file"]),
        (["TINY", "--base", "absent.yaml"], ["absent.yaml: no such configuration file"]),
        (["TINY", "WIDER", "TINY"], ["tiny.yaml: this configuration is named twice"]),
        (["TINY", "-o", "TASK1.batchsize=3"], ["unknown key TASK1.batchsize", "did you mean TASK1.batch_size?"]),
        (["TINY", "-o", "run.output_folder=x"], ["run.output_folder=x", "under --out"]),
        (["TINY", "-o", f"run.seed={2**63 - 2}"], ["run.seed", "9223372036854775808"]),
        (["TINY", "--tasks", "1-7"], ["no TASK7; choose from TASK1, TASK2, TASK3"]),
        (["TINY", "BAD"], ["bad.yaml", "unknown key model.embed_dim"]),
        (["TINY", "OTHER"], ["other.yaml: TASK3.test_split is ('val',), but ('test',) in ", "cannot be compared"]),
        (["TINY", "--out", "TINY"], ["cannot be written"]),
        (["TINY", "--out", "TINY/below"], ["cannot be written"]),
    ],
)
def test_bad_arguments(two, tiny, run_script, monkeypatch, arguments, expected):
    (tiny / "bad.yaml").write_text("base: tiny.yaml\nmodel: {embed_dim: 32}\n")
    (tiny / "other.yaml").write_text("base: tiny.yaml\nTASK3: {test_split: val}\n")
    names = {"TINY": two[0], "WIDER": two[1], "BAD": tiny / "bad.yaml", "OTHER": tiny / "other.yaml"}
    names["TINY/below"] = two[0] / "below"
    monkeypatch.setattr("libs.core.processes.execute", None)  # nothing is run
    monkeypatch.chdir(tiny)
    before = set(tiny.rglob("*"))
    status, _, err = run_script("tools/experiments.py", *(names.get(a, a) for a in arguments))
    assert status == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in expected:
        assert part in err
    assert set(tiny.rglob("*")) == before


def test_a_failed_run_is_in_the_table_and_the_rest_goes_on(two, tiny, run_script, monkeypatch):
    def execute(jobs, at_once, environment, lock, when_started, when_ended):
        assert [job.name for job in jobs] == [f"{name}, seed {SEED + i}" for name in ("tiny", "wider") for i in (0, 1)]
        for job in jobs:
            when_started(job)
            if job.name.startswith("tiny"):
                job.log.parent.mkdir(parents=True)
                (job.log.parent / "metrics.json").write_text(json.dumps({key: {"average_mAP": 0.5} for key in ALL}))
            when_ended(job, "no such feature folder" if job.name == f"wider, seed {SEED}" else None)

    monkeypatch.setattr("libs.core.processes.execute", execute)
    status, printed, err = run_script("tools/experiments.py", *two, "--seeds", 2, "--out", tiny / "out")
    assert (status, err) == (1, "")
    assert f"wider, seed {SEED}: failed: no such feature folder (3 of 4 runs)" in printed
    assert table_of(tiny / "out")["wider"][0] == "failed"
    assert f"- failed: wider, seed {SEED}: no such feature folder" in (tiny / "out/table.md").read_text()
    assert "metrics.json: No such file" in printed  # the other one's, which says that it went well


# Real runs


def long_and_broken(tiny: Path) -> list:
    """Arguments for two configurations of one task; the first one's features are not there."""
    tree = yaml.safe_load((tiny / "tiny.yaml").read_text())
    write_yaml(tiny / "long.yaml", tree | {"opt": {"warmup_epochs": 0, "num_train_epochs": 16, "ema_decay": 0.9}})
    (tiny / "broken.yaml").write_text("base: long.yaml\nTASK3: {dataset: {feat_folder: nowhere}}\n")
    return [tiny / "broken.yaml", tiny / "long.yaml", "--tasks", "3", "--seeds", 1, "--out", tiny / "my runs"]


def test_interrupted_and_gone_on_with(tiny, run_script):
    """Ended in the middle of a run, after another had failed; then that one's features are found."""
    arguments, out = long_and_broken(tiny), tiny / "my runs"
    run, broken = out / f"long_seed{SEED}", out / f"broken_seed{SEED}"
    command = [sys.executable, ROOT / "tools/experiments.py", *arguments]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "last.pth.tar").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # Ctrl-C is ignored where the tests run in the background
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == "the runs at work were ended; the same command goes on\ninterrupted\n"
    assert not (run / "metrics.json").exists()
    assert f"broken, seed {SEED}: failed: nowhere: no such feature folder" in printed
    assert (table_of(out)["broken"][0], table_of(out)["long"][0]) == ("failed", "…")

    (tiny / "broken.yaml").write_text("base: long.yaml\n")
    status, _, err = run_script("tools/experiments.py", *arguments, "--jobs", 2)
    assert status == 0, err
    assert "resumes after epoch" in (run / "train.log").read_text()
    cells = table_of(out)
    assert cells["long"][0] == cells["broken"][0]  # in parts or whole, the same
    assert cells["long"][1] == "+0.00"

    # As where a run ends between its last epoch and its results.
    results = (run / "metrics.json").read_text()
    (run / "metrics.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in broken.iterdir()}
    status, printed, err = run_script("tools/experiments.py", *arguments)
    assert status == 0, err
    assert "1 done before, 1 to do" in printed
    assert (run / "metrics.json").read_text() == results
    assert table_of(out)["long"][:2] == cells["long"][:2]
    assert before == {path: path.stat().st_mtime_ns for path in broken.iterdir()}

"""Runs as child processes: how they end, how they are interrupted, and the lock of their folder."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from libs.core.errors import ConfigError
from libs.training import experiment_runs
from libs.training.experiment_runs import MINUTES, TrainingRun, execute_runs, interrupt_on_signals, lock_folder


def python_run(folder: Path, code: str, title: str = "run") -> TrainingRun:
    """A run of Python code in its own folder below `folder`."""
    return TrainingRun(title, (sys.executable, "-c", code), folder / title)


def execute(folder: Path, *runs: TrainingRun, num_jobs: int = 2) -> dict[str, str | None]:
    """The error of each run."""
    with lock_folder(folder) as lock, closing(execute_runs(runs, num_jobs, lock)) as ended:
        return {run.title: error for run, error in ended}


def test_execute_runs_describes_how_each_run_ended(tmp_path):
    finish = f"open({str(tmp_path / 'good/metrics.json')!r}, 'w')"
    errors = execute(
        tmp_path,
        python_run(tmp_path, f"print('one'); {finish}", "good"),
        python_run(tmp_path, "import sys; print('a\\nerror: b\\n', file=sys.stderr); sys.exit(2)", "wrong"),
        python_run(tmp_path, "import os; print('x', flush=True); os.kill(os.getpid(), 9)", "killed"),
        python_run(tmp_path, "raise SystemExit(3)", "silent"),
        python_run(tmp_path, "", "empty"),
    )
    assert errors == {
        "good": None,
        "wrong": "b",
        "killed": "killed by SIGKILL; its last output: x",
        "silent": "exit status 3",
        "empty": "ended without an error, but without metrics.json",
    }
    assert (tmp_path / "good/train.log").read_text() == "one\n"


def test_execute_runs_again_describes_the_last_attempt(tmp_path):
    assert execute(tmp_path, python_run(tmp_path, "raise SystemExit('first')")) == {"run": "first"}
    assert execute(tmp_path, python_run(tmp_path, "raise SystemExit(4)")) == {"run": "exit status 4"}
    assert (tmp_path / "run/train.log").read_text() == "first\n"


def test_execute_runs_never_exceeds_the_number_of_jobs(tmp_path):
    """Each run writes + when it starts and - when it ends."""
    journal = str(tmp_path / "journal")
    code = f"import time; f = open({journal!r}, 'a'); f.write('+'); f.flush(); time.sleep(.3); f.write('-')"
    execute(tmp_path, *(python_run(tmp_path, code, str(i)) for i in range(5)))
    running, most = 0, 0
    for sign in (tmp_path / "journal").read_text():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert (running, most) == (0, 2)


def test_minutes_add_up_until_an_attempt_is_unknown(tmp_path):
    run = python_run(tmp_path, "import time; time.sleep(.2)")
    execute(tmp_path, run)
    first = json.loads((run.folder / MINUTES).read_text())
    execute(tmp_path, run)
    assert json.loads((run.folder / MINUTES).read_text()) > first + 0.2 / 60
    (run.folder / MINUTES).unlink()  # the state after tools/experiments.py was killed
    execute(tmp_path, run)
    assert not (run.folder / MINUTES).exists()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("num_jobs", [1, 2])
def test_interrupt_ends_running_processes(tmp_path, monkeypatch, signal_number, ignores, num_jobs):
    """A process that ignores SIGINT is killed; runs that wait do not start."""
    monkeypatch.setattr(experiment_runs, "STOP_S", 0.5 if ignores else 15)
    handler = "signal.SIG_IGN" if ignores else "signal.default_int_handler"
    ready, tidied = tmp_path / "0/ready", tmp_path / "0/tidied"
    code = (
        f"import signal, time; signal.signal(signal.SIGINT, {handler})\n"
        f"try: open({str(ready)!r}, 'w'); time.sleep(60)\n"
        f"except KeyboardInterrupt: open({str(tidied)!r}, 'w')"
    )
    sleep = "import time; time.sleep(60)"
    runs = [python_run(tmp_path, code, "0"), *(python_run(tmp_path, sleep, str(i)) for i in range(1, 5))]

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal_number)

    threading.Thread(target=interrupt, daemon=True).start()
    with interrupt_on_signals(), pytest.raises(KeyboardInterrupt):
        execute(tmp_path, *runs, num_jobs=num_jobs)
    assert tidied.exists() is not ignores
    assert (runs[0].folder / MINUTES).exists()
    assert not runs[4].folder.exists()
    with lock_folder(tmp_path):  # no process holds the lock any more
        pass


def test_lock_is_held_by_a_process_that_outlives_its_parent(tmp_path):
    with lock_folder(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock])
    with pytest.raises(ConfigError, match="experiments are running in this folder"), lock_folder(tmp_path):
        pass
    child.kill()
    child.wait()
    with lock_folder(tmp_path):
        pass

"""Training runs as child processes, several at a time, for tools/experiments.py. POSIX systems only."""

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from joblib import Parallel, cpu_count, delayed

from libs.core.errors import ConfigError
from libs.core.files import write_json

POLL_S = 0.2  # seconds between two looks at a process
STOP_S = 15  # seconds that an interrupted process has to exit
MAX_ERROR_CHARS = 800
LOG = "train.log"  # what the command prints, all attempts one after the other
MINUTES = "minutes.json"  # the minutes that all attempts took; absent while one is running
METRICS = "metrics.json"  # written when the run is complete


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A command that trains, and the folder where it leaves its results."""

    title: str
    command: tuple[str, ...]
    folder: Path


R = TypeVar("R", bound=TrainingRun)


def execute_runs(runs: Sequence[R], num_jobs: int, lock: int) -> Generator[tuple[R, str | None], None, None]:
    """Execute runs in order, `num_jobs` at a time, and yield each that has ended with its error in one line or None.

    Closing the generator, or an exception such as KeyboardInterrupt, interrupts all processes and waits for their end.

    Args:
        lock: file descriptor of `lock_folder`, which the processes keep open.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, cpu_count() // num_jobs)), **os.environ}
    stop, places = threading.Event(), threading.Semaphore(num_jobs)

    def execute(run: R) -> tuple[R, str | None]:
        with places:
            return run, _execute_run(run, environment, lock, stop)

    parallel = Parallel(num_jobs, prefer="threads", return_as="generator_unordered")
    try:
        ended: Any = parallel(delayed(execute)(run) for run in runs)
        yield from ended
    finally:
        stop.set()
        for _ in range(num_jobs):  # joblib does not wait for its threads; none starts a process without a place
            places.acquire()


def _execute_run(run: TrainingRun, environment: dict[str, str], lock: int, stop: threading.Event) -> str | None:
    """Execute one run until it ends or `stop` is set. Returns its error in one line."""
    log_file, minutes_file = run.folder / LOG, run.folder / MINUTES
    print(f"{run.title}: starts; its log is {log_file}", flush=True)
    minutes_before = None if log_file.exists() else 0.0  # unknown if an attempt was killed before it could write them
    if minutes_file.exists():
        minutes_before = float(minutes_file.read_text())
        minutes_file.unlink()
    run.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log_file.open("ab") as log:
        log_start = log.tell()
        # In its own session the child gets no Ctrl-C from the terminal: this process interrupts and awaits it.
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
        process = subprocess.Popen(run.command, env=environment, pass_fds=[lock], **options)
        try:
            while process.poll() is None and not stop.wait(POLL_S):
                pass
        finally:  # with one job, joblib calls this in the main thread, which Ctrl-C interrupts
            _end_process(process)
            if minutes_before is not None:
                write_json(minutes_file, minutes_before + (time.monotonic() - start) / 60)
    return _describe_error(run, process.returncode, log_start)


def _end_process(process: subprocess.Popen) -> None:
    """Interrupt a process, so that it leaves no half-written file, then kill it and what it started after STOP_S."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _describe_error(run: TrainingRun, status: int, log_start: int) -> str | None:
    if status == 0:
        return None if (run.folder / METRICS).exists() else "ended without an error, but without metrics.json"
    lines = (run.folder / LOG).read_bytes()[log_start:].decode(errors="replace").strip().split("\n")
    last = lines[-1].strip().removeprefix("error: ")[:MAX_ERROR_CHARS]
    if status < 0:
        return f"killed by {signal.Signals(-status).name}" + (f"; its last output: {last}" if last else "")
    return last or f"exit status {status}"


@contextmanager
def lock_folder(folder: Path) -> Iterator[int]:
    """Hold the lock of a folder and yield its file descriptor.

    A child that inherits the descriptor holds the lock too, also after this process was killed.

    Raises:
        ConfigError: another process holds the lock.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "wait until they end or choose another folder"
            raise ConfigError(f"{folder}: experiments are running in this folder; {advice}") from None
        yield file.fileno()


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on the first SIGINT or SIGTERM; later ones do not disturb the end of the processes.

    SIGINT is set too: a shell script ignores it for background processes, whose children would ignore it as well.
    """
    signals = (signal.SIGINT, signal.SIGTERM)

    def interrupt(*_) -> None:
        for number in signals:
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which a process that just starts would inherit
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)

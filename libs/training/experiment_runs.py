"""Training runs as child processes, several at a time, for tools/experiments.py. POSIX systems only."""

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from joblib import cpu_count

from libs.core.errors import ConfigError
from libs.core.files import write_json

POLL_S = 0.2  # seconds between two looks at a process
STOP_S = 15  # seconds that an interrupted process has to exit
MAX_ERROR_CHARS = 800


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A command that trains, and the folder where it leaves its results."""

    title: str
    command: tuple[str, ...]
    folder: Path

    @property
    def log(self) -> Path:
        """What the command prints, all attempts one after the other."""
        return self.folder / "train.log"

    @property
    def minutes_file(self) -> Path:
        """The minutes that all attempts took; absent while one is running."""
        return self.folder / "minutes.json"

    @property
    def metrics(self) -> Path:
        """Written when the run is complete."""
        return self.folder / "metrics.json"


R = TypeVar("R", bound=TrainingRun)


def execute_runs(runs: Sequence[R], num_jobs: int, lock: int) -> Generator[tuple[R, str | None], None, None]:
    """Execute runs in order, `num_jobs` at a time, and yield each that has ended with its error in one line or None.

    Closing the generator, or an exception such as KeyboardInterrupt, interrupts all processes and waits for their end.
    (joblib does not wait for its threads then.)

    Args:
        lock: file descriptor of `lock_folder`, which the processes keep open.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, cpu_count() // num_jobs)), **os.environ}
    stop = threading.Event()
    with ThreadPoolExecutor(num_jobs) as pool:
        futures = {pool.submit(_execute_run, run, environment, lock, stop): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            stop.set()


def _execute_run(run: TrainingRun, environment: dict[str, str], lock: int, stop: threading.Event) -> str | None:
    """Execute one run until it ends or `stop` is set. Returns its error in one line."""
    print(f"{run.title}: starts; its log is {run.log}", flush=True)
    minutes_before, start = _read_minutes(run), time.monotonic()
    run.minutes_file.unlink(missing_ok=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.log.open("ab") as log:
        log_start = log.tell()
        # In its own session the child gets no Ctrl-C from the terminal: this process interrupts and awaits it.
        process = subprocess.Popen(
            run.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            pass_fds=[lock],
        )
        while process.poll() is None and not stop.wait(POLL_S):
            pass
        _end_process(process)
    if minutes_before is not None:
        write_json(run.minutes_file, minutes_before + (time.monotonic() - start) / 60)
    return _describe_error(run, process.returncode, log_start)


def _read_minutes(run: TrainingRun) -> float | None:
    """Read the minutes of earlier attempts; None if one was killed before it could write them."""
    if run.minutes_file.exists():
        return float(run.minutes_file.read_text())
    return None if run.log.exists() else 0.0


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
        return None if run.metrics.exists() else "ended without an error, but without metrics.json"
    lines = run.log.read_bytes()[log_start:].decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    last = last.removeprefix("error: ")[:MAX_ERROR_CHARS]
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
            raise ConfigError(
                f"{folder}: experiments are running in this folder; wait until they end or choose another folder"
            ) from None
        yield file.fileno()


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM as on SIGINT.

    SIGINT is set too: a shell script ignores it for background processes, whose children would ignore it as well.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)

"""Training runs as child processes, several at a time, for tools/experiments.py. POSIX systems only."""

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from joblib import Parallel, delayed

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


def execute_runs(
    runs: Sequence[R],
    num_jobs: int,
    environment: dict[str, str],
    lock: int,
    on_start: Callable[[R], None],
    on_end: Callable[[R, str | None], None],
) -> None:
    """Execute runs in order, `num_jobs` at a time.

    An exception, such as KeyboardInterrupt, interrupts all running processes and waits until they have exited.

    Args:
        lock: file descriptor of `lock_folder`, which the processes keep open.
        on_start: called before a run.
        on_end: called after a run, for one run at a time, with the error in one line, None on success.
    """
    running: set[R] = set()
    stop, guard = threading.Event(), threading.Lock()

    def execute(run: R) -> None:
        with guard:
            if stop.is_set():
                return
            running.add(run)
        try:
            on_start(run)
            error = _execute_run(run, environment, lock, stop)
            with guard:
                if not stop.is_set():
                    on_end(run, error)
        finally:
            running.remove(run)

    try:
        Parallel(num_jobs, backend="threading")(delayed(execute)(run) for run in runs)
    finally:
        with guard:
            stop.set()
        while running:
            time.sleep(POLL_S)


def _execute_run(run: TrainingRun, environment: dict[str, str], lock: int, stop: threading.Event) -> str | None:
    """Execute one run until it ends or `stop` is set. Returns its error in one line."""
    minutes_before, start = _read_minutes(run), time.monotonic()
    run.minutes_file.unlink(missing_ok=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.log.open("ab") as log:
        log_start = log.tell()
        # The new session keeps Ctrl-C from the child, so that this process can interrupt and await it.
        process = subprocess.Popen(
            run.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=[lock],
        )
        try:
            while process.poll() is None and not stop.wait(POLL_S):
                pass
        finally:
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
    """Interrupt a process, so that it leaves no half-written file, kill it after STOP_S, and kill its children."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
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

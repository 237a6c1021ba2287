"""Jobs of several minutes or hours as child processes, some at a time. For POSIX systems."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from libs.core.errors import ConfigError
from libs.core.files import write_json

POLL_S, STOP_S = 0.2, 15  # seconds between two looks at the jobs; for an interrupted one to end by itself
LONGEST_ERROR = 800  # characters


@dataclass(frozen=True, eq=False)
class Job:
    """A command, and what says whether it did what it should."""

    name: str
    command: tuple[str, ...]
    log: Path  # what it prints is added here
    is_done: Callable[[], bool]

    @property
    def minutes_file(self) -> Path:
        """A number, beside the log: the minutes that all attempts took, the present one once it has ended."""
        return self.log.with_name("minutes.json")


class Child:
    """A job at work. Its files `lock` (a descriptor) and log stay open as long as it lives."""

    def __init__(self, job: Job, environment: dict[str, str], lock: int):
        self.job = job
        self.minutes_before, self.since = _minutes_before(job), time.monotonic()
        job.minutes_file.unlink(missing_ok=True)  # if this process is killed, nobody knows for how long it ran
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.log = job.log.open("ab")
        self.log_from = self.log.tell()
        # In a session of its own, so that Ctrl-C reaches this process alone, which then ends it in order.
        with interruptible():
            self.process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=[lock],
            )

    @property
    def minutes(self) -> float:
        """Of this attempt, up to now."""
        return (time.monotonic() - self.since) / 60

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def error(self) -> str | None:
        """Of one that has ended: what went wrong, a line."""
        status = self.process.returncode
        if status == 0:
            return None if self.job.is_done() else "ended without an error, and without a result"
        with self.job.log.open("rb") as log:
            log.seek(self.log_from)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1].removeprefix("error: ")[:LONGEST_ERROR] if lines else ""
        if status < 0:
            return f"killed by {signal.Signals(-status).name}" + (f", having said: {last}" if last else "")
        return last or f"exit status {status}"

    def close(self) -> None:
        """Kill what is left of it, and note its minutes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        if self.minutes_before is not None:
            write_json(self.job.minutes_file, self.minutes_before + self.minutes)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let children heed SIGINT even where this process ignores it, as in the background of a shell script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _minutes_before(job: Job) -> float | None:
    """Of a job's earlier attempts; None where one left no note, and so was killed together with who started it."""
    try:
        return float(job.minutes_file.read_text())
    except FileNotFoundError:
        return None if job.log.exists() else 0.0


def execute(
    jobs: list[Job],
    at_once: int,
    environment: dict[str, str],
    lock: int,
    when_started: Callable[[Job], None],
    when_ended: Callable[[Job, str | None], None],
) -> None:
    """Run jobs in their order, `at_once` at a time. when_ended also gets what went wrong, a line, or None.

    Whatever ends this early, such as Ctrl-C, ends the jobs at work.
    """
    waiting, at_work = list(jobs), []
    try:
        while waiting or at_work:
            while waiting and len(at_work) < at_once:
                at_work.append(Child(waiting.pop(0), environment, lock))
                when_started(at_work[-1].job)
            for child in [child for child in at_work if child.has_ended()]:
                at_work.remove(child)
                child.close()
                when_ended(child.job, child.error())
            time.sleep(POLL_S)
    finally:
        interrupt(at_work)


def interrupt(children: list[Child]) -> None:
    """Let each end by itself, with nothing half-written, and kill what does not within STOP_S."""
    try:
        for child in children:
            child.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_S
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0, deadline - time.monotonic()))
    finally:
        for child in children:
            child.close()


@contextmanager
def alone_in(folder: Path) -> Iterator[int]:
    """Hold a folder's lock: yields its descriptor, for children to keep open. Raises ConfigError if others hold it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another process, or one that it started, works there; wait for its end or choose another"
            ) from None
        yield file.fileno()


@contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Make what else asks a process to end, `kill` or a terminal that closes, a KeyboardInterrupt as Ctrl-C is."""
    asked = [name for name in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(name) == signal.SIG_DFL]
    for name in asked:
        signal.signal(name, signal.default_int_handler)
    try:
        yield
    finally:
        for name in asked:
            signal.signal(name, signal.SIG_DFL)

"""Many videos: finding them, extracting them in parallel processes, one broken file not stopping the others."""

import glob
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from libs.core.errors import UserError, is_out_of_memory
from libs.core.types import MEDIA_SUFFIXES, PACK_SUFFIXES
from libs.media.encoders import make_encoder
from libs.media.extract import extract
from libs.media.reading import shown
from libs.media.store import SUFFIXES, MadeBy, open_store
from libs.media.windows import FRAME_RATE_HZ, WINDOW_FRAMES


class Job(NamedTuple):
    """The name that a file's features have, and the file, None where only its features are known."""

    name: str
    path: Path | None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the seconds of media extracted and what a user should know, or the error, a line."""

    job: Job
    duration: float = 0.0
    notes: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Plan:
    """What each process needs to know; an encoder is made in it."""

    encoder: str
    stride: int
    out: Path
    prefix: str
    suffixes: tuple[str, str]
    video_stream: int | None = None
    audio_stream: int | None = None
    threads: int = 0  # of a decoder, 0: as many as there are cores

    @property
    def streams(self) -> str:
        """ "best", or which ones: what other streams gave is something else."""
        chosen = {"video": self.video_stream, "audio": self.audio_stream}
        return ", ".join(f"{kind} {index}" for kind, index in chosen.items() if index is not None) or "best"


def what_failed(path: Path | str, error: Exception) -> str:
    """A line: whatever is wrong with one video, the rest goes on."""
    if isinstance(error, UserError):
        text = str(error)
    elif is_out_of_memory(error):
        text = f"{shown(path)}: memory ran out; cut it into shorter videos, or choose a smaller encoder"
    else:
        text = f"{shown(path)}: {type(error).__name__}: {error}"
    return " ".join(text.split())


def find_videos(inputs: list[str]) -> tuple[list[Job], list[str]]:
    """Files, folders (the media files in them), globs, and lists of those (@FILE or FILE.txt, one a line), in order.

    Also returns what is wrong with some of them, a line each; the others go on. A file's features are named as the
    file is, without its ending: of two files of one name the first is taken.
    """
    paths, problems = _listed(inputs)
    jobs: dict[str, Job] = {}
    seen: set[Path] = set()
    for path in paths:
        if (real := path.resolve()) in seen:
            continue
        seen.add(real)
        name = path.stem
        if shown(name) != name:
            problems.append(f"{shown(path)}: its name is not valid UTF-8; rename it")
        elif not name.strip("."):
            problems.append(f"{shown(path)}: its features would have no name but dots; rename it")
        elif name in jobs:
            problems.append(f"{path}: its features would be named {name}, as those of {jobs[name].path}; rename one")
        else:
            jobs[name] = Job(name, path)
    return list(jobs.values()), problems


def _listed(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """The paths that inputs mean, and what is wrong with some of them."""
    paths, problems = [], []
    for text in _lines(inputs, problems):
        path = Path(text)
        if path.is_dir():
            try:
                found = sorted(p for p in path.iterdir() if p.suffix.lower() in MEDIA_SUFFIXES and not p.is_dir())
            except OSError as error:
                problems.append(f"{shown(path)}: {error.strerror}")
                continue
            if not found:
                problems.append(f"{shown(path)}: no video or sound files in this folder")
        elif path.exists() or not glob.has_magic(text):
            found = [path]
        else:
            found = sorted(Path(p) for p in glob.glob(text, recursive=True))  # noqa: PTH207
            if not found:
                problems.append(f"{shown(path)}: no file has a name like this")
        paths += found
    return paths, problems


def _lines(inputs: list[str], problems: list[str]) -> Iterator[str]:
    for text in inputs:
        is_list = text.startswith("@") and not Path(text).exists()
        if not is_list and not (text.endswith(".txt") and Path(text).is_file()):
            yield text
            continue
        path = Path(text[1:] if is_list else text)
        try:
            yield from (line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{shown(path)}: no readable list of videos ({getattr(error, 'strerror', None) or error})")


def extract_all(jobs: list[Job], worker: "Worker", workers: int) -> Iterator[Outcome]:
    """Extract and store every job in this process (workers 1), or in any order in several made like `worker`."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(worker, jobs)
        return
    while jobs:
        done: set[Job] = set()
        try:
            for outcome in _in_processes(jobs, worker.plan, workers):
                done.add(outcome.job)
                yield outcome
            return
        except BrokenProcessPool:  # a decoder crashed, or memory ran out: then one by one, and the culprit is known
            jobs = [job for job in jobs if job not in done]
            if workers == 1:
                yield Outcome(jobs[0], error=f"{shown(jobs[0].path)}: the process that read it died; it may be damaged")
                jobs = jobs[1:]
            workers = 1


def _in_processes(jobs: list[Job], plan: Plan, workers: int) -> Iterator[Outcome]:
    # Not forked: neither decoders nor GPUs survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(plan,)) as pool:
        try:
            for future in as_completed([pool.submit(_work, job) for job in jobs]):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class Worker:
    """Extracts and stores jobs as a plan says. Raises UserError where its encoder or its store cannot be made."""

    def __init__(self, plan: Plan):
        self.plan, self.encoder = plan, make_encoder(plan.encoder)
        in_folder = plan.out.suffix not in PACK_SUFFIXES
        names = (plan.prefix, *plan.suffixes) if in_folder else ("", *SUFFIXES)
        widths = (self.encoder.visual_dim, self.encoder.audio_dim)
        made_by = MadeBy(self.encoder.name, *widths, plan.stride, WINDOW_FRAMES, FRAME_RATE_HZ, plan.streams, *names)
        self.store = open_store(plan.out, made_by)

    def __call__(self, job: Job) -> Outcome:
        plan = self.plan
        try:
            made = extract(job.path, self.encoder, plan.stride, plan.video_stream, plan.audio_stream, plan.threads)
            self.store.write(job.name, made.visual, made.audio)
        except Exception as error:
            return Outcome(job, error=what_failed(job.path, error))
        return Outcome(job, made.duration, tuple(made.notes))


def _start(plan: Plan) -> None:
    """Make a process's worker, kept as an attribute of the function that uses it."""
    _work.worker = Worker(plan)


def _work(job: Job) -> Outcome:
    return _work.worker(job)


def my_share(jobs: list[Job]) -> list[Job]:
    """The jobs of this rank: every WORLD_SIZE-th under torchrun, else all."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return jobs[rank::world]


def any_failed(failed: bool) -> bool:
    """Whether a video failed in any rank. Waits for all: torchrun ends those at work once one exits with an error."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return failed
    dist.init_process_group("gloo", timeout=timedelta(days=30))
    flag = torch.tensor(int(failed))
    dist.all_reduce(flag)
    dist.destroy_process_group()
    return bool(flag)

"""Many videos: finding them, extracting them in parallel processes, one broken file not stopping the others."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from libs.core.errors import UserError, is_out_of_memory
from libs.core.types import PACK_SUFFIXES
from libs.features.provenance import SUFFIXES, FeatureProvenance
from libs.features.store import open_store
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES
from libs.media.container import format_path
from libs.media.encoders.build import build_encoder
from libs.media.extract import extract_features
from libs.media.inputs import VideoInput


@dataclass(frozen=True)
class ExtractionOutcome:
    """What became of a job: the seconds of media extracted and what a user should know, or the error, a line."""

    job: VideoInput
    duration: float = 0.0
    notes: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class ExtractionPlan:
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


def describe_failure(path: Path | str, error: Exception) -> str:
    """A line: whatever is wrong with one video, the rest goes on."""
    if isinstance(error, UserError):
        text = str(error)
    elif is_out_of_memory(error):
        text = f"{format_path(path)}: memory ran out; cut it into shorter videos, or choose a smaller encoder"
    else:
        text = f"{format_path(path)}: {type(error).__name__}: {error}"
    return " ".join(text.split())


def extract_all(jobs: list[VideoInput], worker: "VideoExtractor", workers: int) -> Iterator[ExtractionOutcome]:
    """Extract and store every job in this process (workers 1), or in any order in several made like `worker`."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(worker, jobs)
        return
    while jobs:
        done: set[VideoInput] = set()
        try:
            for outcome in _in_processes(jobs, worker.plan, workers):
                done.add(outcome.job)
                yield outcome
            return
        except BrokenProcessPool:  # a decoder crashed, or memory ran out: then one by one, and the culprit is known
            jobs = [job for job in jobs if job not in done]
            if workers == 1:
                yield ExtractionOutcome(
                    jobs[0], error=f"{format_path(jobs[0].path)}: the process that read it died; it may be damaged"
                )
                jobs = jobs[1:]
            workers = 1


def _in_processes(jobs: list[VideoInput], plan: ExtractionPlan, workers: int) -> Iterator[ExtractionOutcome]:
    # Not forked: neither decoders nor GPUs survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(plan,)) as pool:
        try:
            for future in as_completed([pool.submit(_work, job) for job in jobs]):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class VideoExtractor:
    """Extracts and stores jobs as a plan says. Raises UserError where its encoder or its store cannot be made."""

    def __init__(self, plan: ExtractionPlan):
        self.plan, self.encoder = plan, build_encoder(plan.encoder)
        in_folder = plan.out.suffix not in PACK_SUFFIXES
        names = (plan.prefix, *plan.suffixes) if in_folder else ("", *SUFFIXES)
        widths = (self.encoder.visual_dim, self.encoder.audio_dim)
        provenance = FeatureProvenance(
            self.encoder.name, *widths, plan.stride, WINDOW_FRAMES, FRAME_RATE_HZ, plan.streams, *names
        )
        self.store = open_store(plan.out, provenance)

    def __call__(self, job: VideoInput) -> ExtractionOutcome:
        plan = self.plan
        try:
            made = extract_features(
                job.path, self.encoder, plan.stride, plan.video_stream, plan.audio_stream, plan.threads
            )
            self.store.write(job.name, made.visual, made.audio)
        except Exception as error:
            return ExtractionOutcome(job, error=describe_failure(job.path, error))
        return ExtractionOutcome(job, made.duration, tuple(made.notes))


def _start(plan: ExtractionPlan) -> None:
    """Make a process's worker, kept as an attribute of the function that uses it."""
    _work.worker = VideoExtractor(plan)


def _work(job: VideoInput) -> ExtractionOutcome:
    return _work.worker(job)


def shard_for_rank(jobs: list[VideoInput]) -> list[VideoInput]:
    """The jobs of this rank: every WORLD_SIZE-th under torchrun, else all."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return jobs[rank::world]


def any_rank_failed(failed: bool) -> bool:
    """Whether a video failed in any rank. Waits for all: torchrun ends those at work once one exits with an error."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return failed
    dist.init_process_group("gloo", timeout=timedelta(days=30))
    flag = torch.tensor(int(failed))
    dist.all_reduce(flag)
    dist.destroy_process_group()
    return bool(flag)

"""Extract and store the features of many videos in parallel processes; a broken file does not stop the others."""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool

from libs.core.errors import UserError, is_out_of_memory
from libs.features.provenance import SUFFIXES, FeatureProvenance
from libs.features.sources import is_pack
from libs.features.store import FeatureStore
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES
from libs.media.container import format_path
from libs.media.encoders.build import build_encoder
from libs.media.extract import extract_features
from libs.media.inputs import VideoInput


@dataclass(frozen=True)
class ExtractionResult:
    """The result for one video: seconds of media extracted and notes for the user, or the error, one line."""

    video: VideoInput
    duration: float = 0.0
    notes: tuple[str, ...] = ()
    error: str | None = None


class VideoExtractor:
    """An encoder and a feature store, which extract and store one video at a time."""

    def __init__(
        self, encoder: str, stride: int, out: Path, names: tuple[str, str, str], streams: tuple[int | None, int | None]
    ):
        """Open an encoder and a store.

        Args:
            encoder: its name.
            stride: frames of 1/16 s between windows.
            names: prefix and the two suffixes of the file names in a folder; a pack has none.
            streams: indices of video and sound in the files; None for the container's best.

        Raises:
            UserError: the encoder or the store cannot be opened.
        """
        self.arguments = (encoder, stride, out, names, streams)
        self.stride, self.streams, self.encoder = stride, streams, build_encoder(encoder)
        indices = (f"{kind} {i}" for kind, i in zip(("video", "audio"), streams, strict=True) if i is not None)
        names = ("", *SUFFIXES) if is_pack(out) else names
        widths = (self.encoder.visual_dim, self.encoder.audio_dim)
        made = (self.encoder.name, *widths, stride, WINDOW_FRAMES, FRAME_RATE_HZ, ", ".join(indices) or "best", *names)
        self.store = FeatureStore(out, FeatureProvenance(*made))

    def __reduce__(self):
        """Pickle the arguments only: each worker process builds its own extractor, once."""
        return _build_worker_extractor, self.arguments

    def extract(self, video: VideoInput, threads: int = 0) -> ExtractionResult:
        """Extract and store one video. Errors of any kind become the result's error.

        Args:
            threads: of the decoder; 0 for one per core.
        """
        assert video.path is not None
        try:
            features = extract_features(video.path, self.encoder, self.stride, *self.streams, threads)
            self.store.write(video.name, features.visual, features.audio)
        except Exception as error:
            return ExtractionResult(video, error=describe_failure(str(video), error))
        return ExtractionResult(video, features.duration, tuple(features.notes))


@lru_cache(maxsize=1)
def _build_worker_extractor(*arguments) -> VideoExtractor:
    return VideoExtractor(*arguments)


def describe_failure(path: Path | str, error: Exception) -> str:
    """Describe in one line why a video failed."""
    text = str(error)
    if is_out_of_memory(error):
        text = f"{format_path(path)}: memory ran out; cut it into shorter videos, or choose a smaller encoder"
    elif not isinstance(error, UserError):
        text = f"{format_path(path)}: {type(error).__name__}: {error}"
    return " ".join(text.split())


def extract_videos(
    videos: list[VideoInput], extractor: VideoExtractor, workers: int, threads: int = 0
) -> Generator[ExtractionResult, None, None]:
    """Extract and store videos in this process (workers = 1) or in several.

    If a worker process dies, because a decoder crashes or memory runs out, only its video fails.

    Yields:
        One result per video, in any order.
    """
    options: Any = {"batch_size": 1, "return_as": "generator_unordered"}  # Any: joblib's annotations are too narrow
    pool: Any = Parallel(n_jobs=workers, backend="loky", **options)
    extract = delayed(extractor.extract)
    while videos:
        done: set[VideoInput] = set()
        try:
            for result in pool(extract(video, threads) for video in videos):
                done.add(result.video)
                yield result
            return
        except BrokenProcessPool:
            # joblib does not tell which video it was, only that it is one of the first: they are repeated one by one.
            videos = [video for video in videos if video not in done]
        for video in videos[:workers]:
            try:
                yield from pool([extract(video, threads)])
            except BrokenProcessPool:
                yield ExtractionResult(video, error=f"{video}: the process that read it died; it may be damaged")
        videos = videos[workers:]


def any_rank_failed(failed: bool) -> bool:
    """Return whether a video failed in any rank.

    Waits for all ranks, because torchrun kills the others as soon as one exits with an error.
    """
    if not dist.is_torchelastic_launched():
        return failed
    dist.init_process_group("gloo", timeout=timedelta(days=30))
    flag = torch.tensor(int(failed))
    dist.all_reduce(flag)
    dist.destroy_process_group()
    return bool(flag)

"""Features of your own videos: files -> windows -> encoder -> a folder in the published layout, or an HDF5 pack.

python extract.py clips/ --encoder builtin --out data/mine/av_features
python extract.py 'talks/**/*.mp4' @more.txt --encoder hf:openai/clip-vit-base-patch32,builtin --out mine.h5
torchrun --nproc_per_node 4 extract.py clips/ --encoder one-peace --out features

A video's features are named as its file is: two of one name need two --out. What was done before is not done again.
Exit status 1 if a video failed; the others are there.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from joblib import cpu_count
from tqdm import tqdm

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.errors import UserError
from libs.features.provenance import SUFFIXES
from libs.features.windows import STRIDES
from libs.media.batch_extraction import (
    ExtractionOutcome,
    ExtractionPlan,
    VideoExtractor,
    any_rank_failed,
    extract_all,
    shard_for_rank,
)
from libs.media.container import format_path, import_av
from libs.media.encoders.build import CHOICES
from libs.media.inputs import find_videos


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("videos", nargs="+", metavar="VIDEOS", help="files, folders, globs, lists (@FILE or FILE.txt)")
    parser.add_argument("--encoder", default="builtin", help=f"{CHOICES} (default: builtin)")
    parser.add_argument("--out", required=True, type=Path, help="a folder, or a file that ends in .h5")
    parser.add_argument(
        "--stride", type=int, default=STRIDES[0], choices=STRIDES, help="frames of 1/16 s between windows (default: 4)"
    )
    parser.add_argument("--prefix", default="", help="what precedes names in a folder, such as v_")
    parser.add_argument(
        "--suffixes", nargs=2, default=SUFFIXES, metavar=("VISUAL", "AUDIO"), help="what follows names in a folder"
    )
    parser.add_argument(
        "--video-stream", type=int, metavar="N", help="index in the file (default: the container's best)"
    )
    parser.add_argument(
        "--audio-stream", type=int, metavar="N", help="index in the file (default: the container's best)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="videos at once (default: a core each with builtin, else 1)"
    )
    return parser.parse_args()


def share_cores(asked: int | None, encoder: str, jobs: int) -> tuple[int, int]:
    """Processes, and the threads of the decoder in each."""
    if asked is not None and asked < 1:
        raise UserError(f"--workers {asked}: expected at least 1")
    cores = max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    workers = max(1, min(asked or (cores if encoder == "builtin" else 1), jobs))
    return workers, max(1, cores // workers)


class ExtractionProgress:
    """The progress bar, and the summary at the end."""

    def __init__(self, total: int):
        self.start, self.media_s, self.done, self.failed = time.perf_counter(), 0.0, 0, []
        rank = os.environ.get("RANK", "0")
        self.who = f"rank {rank}: " if os.environ.get("WORLD_SIZE", "1") != "1" else ""
        self.bar = tqdm(total=total, unit="video", disable=None if rank == "0" else True)

    def add(self, outcome: ExtractionOutcome) -> None:
        if outcome.error:
            self.failed.append(outcome.error)
        else:
            self.done, self.media_s = self.done + 1, self.media_s + outcome.duration
        for note in outcome.notes:
            self.bar.write(f"{format_path(outcome.job.path)}: {note}", file=sys.stderr)
        self.bar.set_postfix_str(f"{self.speed:.1f} x real time")
        self.bar.update()

    @property
    def speed(self) -> float:
        return self.media_s / (time.perf_counter() - self.start)

    def close(self, before: int) -> None:
        self.bar.close()
        seconds = time.perf_counter() - self.start
        for line in self.failed:
            print(f"failed: {line}", file=sys.stderr)
        rate = f"{self.done / seconds:.1f} videos/s, {self.speed:.1f} x real time"
        print(
            f"{self.who}{self.done} videos, {self.media_s:.0f} s of media, in {seconds:.1f} s: {rate}; "
            f"{before} were done before, {len(self.failed)} failed"
        )


@exit_on_user_error
def main() -> None:
    args = parse_args()
    import_av()  # where it is missing, say so once
    jobs, problems = find_videos(args.videos)
    jobs = shard_for_rank(jobs)
    plan = ExtractionPlan(
        args.encoder, args.stride, args.out, args.prefix, tuple(args.suffixes), args.video_stream, args.audio_stream
    )
    worker = VideoExtractor(plan)
    left = [job for job in jobs if not worker.store.has(job.name)]
    workers, threads = share_cores(args.workers, args.encoder, len(left))
    worker.plan = replace(plan, threads=threads)
    report = ExtractionProgress(len(left))
    if os.environ.get("RANK", "0") == "0":
        report.failed += problems
    for outcome in extract_all(left, worker, workers):
        report.add(outcome)
    failed = any_rank_failed(bool(report.failed))
    worker.store.finish()
    report.close(len(jobs) - len(left))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Extract the features of your own videos into a folder in the published layout, or into an HDF5 pack.

python extract.py clips/ --encoder builtin --out data/mine/av_features
python extract.py 'talks/**/*.mp4' @more.txt --encoder hf:openai/clip-vit-base-patch32,builtin --out mine.h5
torchrun --nproc_per_node 4 extract.py clips/ --encoder one-peace --out features

Features are named for their file, so two files of one name need two --out. Videos that are done are skipped. The exit
status is 1 if a video failed; the others are complete.
"""

import argparse
import os
import sys
import time
from contextlib import closing
from pathlib import Path

from joblib import cpu_count
from tqdm import tqdm

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.errors import UserError
from libs.features.provenance import SUFFIXES
from libs.features.windows import STRIDES
from libs.media.batch_extraction import VideoExtractor, any_rank_failed, extract_videos
from libs.media.container import import_av
from libs.media.encoders.build import CHOICES
from libs.media.inputs import find_videos


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEOS", help="files, folders, globs, lists (@FILE or FILE.txt)")
    add("--encoder", default="builtin", help=f"{CHOICES} (default: builtin)")
    add("--out", required=True, type=Path, help="a folder, or a file that ends in .h5")
    add("--stride", type=int, default=STRIDES[0], choices=STRIDES, help="frames of 1/16 s between windows (default: 4)")
    add("--prefix", default="", help="put before the file names in a folder, such as v_")
    add("--suffixes", nargs=2, default=SUFFIXES, metavar=("VISUAL", "AUDIO"), help="put after the names in a folder")
    add("--video-stream", type=int, metavar="N", help="index in the file (default: the container's best)")
    add("--audio-stream", type=int, metavar="N", help="index in the file (default: the container's best)")
    add("--workers", type=int, metavar="N", help="videos at once (default: one per core with builtin, otherwise 1)")
    return parser.parse_args()


def divide_cores(workers: int | None, encoder: str, num_videos: int) -> tuple[int, int]:
    """Return the number of processes and of decoder threads in each."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected at least 1")
    cores = max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    workers = max(1, min(workers or (cores if encoder == "builtin" else 1), num_videos))
    return workers, max(1, cores // workers)


@exit_on_user_error
def main() -> None:
    args = parse_args()
    import_av()  # fail once, not once per video
    rank, world_size = (int(os.environ.get(key, default)) for key, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    videos, problems = find_videos(args.videos)
    videos, errors = videos[rank::world_size], problems if rank == 0 else []
    names, streams = (args.prefix, *args.suffixes), (args.video_stream, args.audio_stream)
    extractor = VideoExtractor(args.encoder, args.stride, args.out, names, streams)
    left = [video for video in videos if not extractor.store.has(video.name)]
    workers, threads = divide_cores(args.workers, args.encoder, len(left))

    start, media_s, num_done = time.perf_counter(), 0.0, 0
    with closing(extract_videos(left, extractor, workers, threads)) as results:
        progress = tqdm(results, total=len(left), unit="video", disable=None if rank == 0 else True)
        for result in progress:
            errors += [result.error] if result.error else []
            num_done, media_s = num_done + (result.error is None), media_s + result.duration
            for note in result.notes:
                progress.write(f"{result.video}: {note}", file=sys.stderr)
            progress.set_postfix_str(f"{media_s / (time.perf_counter() - start):.1f} x real time")
    any_failed = any_rank_failed(bool(errors))
    extractor.store.finish()

    for line in errors:
        print(f"failed: {line}", file=sys.stderr)
    seconds = time.perf_counter() - start
    prefix = f"rank {rank}: " if world_size > 1 else ""
    print(
        f"{prefix}{num_done} videos, {media_s:.0f} s of media, in {seconds:.1f} s: {num_done / seconds:.1f} videos/s, "
        f"{media_s / seconds:.1f} x real time; {len(videos) - len(left)} were done before, {len(errors)} failed"
    )
    sys.exit(1 if any_failed else 0)


if __name__ == "__main__":
    main()

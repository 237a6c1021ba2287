"""Localize events in your own videos: one page, subtitles and tables of events for each video.

python infer.py clip.mp4 --checkpoint ckpt/demo_video_make
python infer.py videos/ --checkpoint ckpt/demo_video_make --min-score 0.3 --out found
python infer.py videos/ --checkpoint ckpt/demo_video_make --features features/   # uses the features of extract.py
python infer.py --checkpoint ckpt/demo_video_make --features features/           # needs no videos
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.errors import UserError
from libs.core.files import make_folder
from libs.features.provenance import ExtractedFeatures, open_extracted
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES, span
from libs.inference.localizer import Localizer
from libs.inference.outputs import format_summary, safe_name, write_outputs
from libs.inference.result import VideoResult
from libs.media.batch_extraction import describe_failure
from libs.media.inputs import VideoInput, find_videos
from libs.media.probe import probe
from libs.training.distributed import init_distributed


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="files, folders, globs, or @LIST, a file of paths")
    parser.add_argument("--checkpoint", required=True, metavar="CKPT", help="a checkpoint or a run's folder")
    parser.add_argument("--features", type=Path, metavar="IN", help="extract.py's folder or pack, instead of decoding")
    parser.add_argument("--encoder", metavar="E", help="must be the one it was trained with (default: that one)")
    parser.add_argument("--tasks", metavar="1-2-3", help="the tasks to look for (default: all it was trained on)")
    parser.add_argument("--classes", metavar="A,B", help="look for these instead of --task's classes: free text")
    parser.add_argument("--task", metavar="TYPE", help="the task whose classes --classes replaces, such as SED")
    parser.add_argument("--min-score", type=float, default=0.1, metavar="S", help="drop events below this score (0.1)")
    parser.add_argument("--out", type=Path, default=Path("found"), metavar="DIR", help="default: found")
    parser.add_argument("--video-stream", type=int, metavar="N", help="index in the container (default: its best)")
    parser.add_argument("--audio-stream", type=int, metavar="N", help="index in the container (default: its best)")
    args = parser.parse_args()
    if (args.classes is None) != (args.task is None):
        parser.error("--classes and --task go together")
    if not args.videos and not args.features:
        parser.error("expected VIDEO or --features")
    if not 0 <= args.min_score <= 1:
        parser.error(f"--min-score {args.min_score}: expected a number from 0 to 1")
    return args


def localize(
    video: VideoInput, localizer: Localizer, extracted: ExtractedFeatures | None, args: argparse.Namespace
) -> VideoResult:
    """Localize events in a video, or in its extracted features."""
    if extracted is None:
        assert video.path is not None  # only extracted features have no file
        return localizer.localize_video(video.path, args.min_score, (args.video_stream, args.audio_stream))
    provenance, files = extracted
    features, stride = files.read(video.name), provenance.stride
    duration = span(len(features.visual), WINDOW_FRAMES, stride) / FRAME_RATE_HZ
    if video.path is not None:
        duration = probe(video.path, args.video_stream, args.audio_stream).duration
    try:
        events = localizer.localize_features(*features, stride, duration, args.min_score)
    except UserError as error:
        raise UserError(f"{args.features}: {video.name}: {error}") from None
    return VideoResult(video.name, video.path, events, duration)


@exit_on_user_error
def main() -> None:
    args = parse_args()
    videos, failures = find_videos(args.videos) if args.videos else ([], [])
    results: dict[str, VideoResult] = {}  # by the name of its files
    with init_distributed(None, "float32"):
        localizer = Localizer.from_checkpoint(args.checkpoint, args.tasks, args.encoder)
        if args.classes is not None:
            localizer.set_classes(args.task, args.classes.split(","))
        tasks = {task.key: task.task_type for task in localizer.tasks}
        extracted = open_extracted(args.features) if args.features else None
        make_folder(args.out)
        if extracted:
            provenance, files = extracted
            if provenance.encoder != localizer.encoder.name:
                raise UserError(
                    f"{args.features}: features of {provenance.encoder}, the checkpoint was trained on those of "
                    f"{localizer.encoder.name}; extract them with that"
                )
            videos = videos if args.videos else [VideoInput(name, None) for name in files.video_ids()]
        for video in tqdm(videos, unit="video", disable=None, leave=False):
            try:
                result = localize(video, localizer, extracted, args)
                name = safe_name(result.video_id)
                if other := results.get(name):
                    raise UserError(f"{video}: its files would be named {name}, as those of {other.title}; rename one")
                write_outputs(args.out, result, tasks)
            except Exception as error:  # one broken video must not stop the others
                failures.append(describe_failure(str(video), error))
                continue
            results[name] = result
            for note in result.notes:
                tqdm.write(f"{video}: {note}", file=sys.stderr)
    if results:
        print(format_summary(list(results.values()), tasks))
        print(f"pages: {args.out}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

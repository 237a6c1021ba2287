"""Localize events in your own videos: files in, events and a page to look at out.

python infer.py clip.mp4 --checkpoint ckpt/demo_video_make
python infer.py videos/ --checkpoint ckpt/demo_video_make --min-score 0.3 --out found
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from libs.core.errors import ConfigError, UserError, exit_on_user_error
from libs.core.files import make_folder
from libs.inference.localizer import Localizer
from libs.media.many import Job, find_videos
from libs.media.outputs import Summary, safe_name, summary_table, write_outputs
from libs.training.distributed import start_ranks


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="files, folders, globs, or @LIST, a file of paths")
    parser.add_argument("--checkpoint", required=True, metavar="CKPT", help="a checkpoint or a run's folder")
    parser.add_argument("--encoder", metavar="E", help="must be the one it was trained with (default: that one)")
    parser.add_argument("--tasks", metavar="1-2-3", help="the tasks to look for (default: all it was trained on)")
    parser.add_argument("--classes", metavar="A,B", help="look for these instead of --task's classes: free text")
    parser.add_argument("--task", metavar="TYPE", help="whose classes --classes replaces, such as SED")
    parser.add_argument("--min-score", type=float, default=0.1, metavar="S", help="leave out what scores less (0.1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: beside each video")
    parser.add_argument("--video-stream", type=int, metavar="N", help="index in the container (default: its best)")
    parser.add_argument("--audio-stream", type=int, metavar="N", help="index in the container (default: its best)")
    args = parser.parse_args()
    if (args.classes is None) != (args.task is None):
        parser.error("--classes and --task go together")
    if not 0 <= args.min_score <= 1:
        parser.error(f"--min-score {args.min_score}: expected a number from 0 to 1")
    return args


def open_localizer(args: argparse.Namespace) -> Localizer:
    localizer = Localizer.from_checkpoint(args.checkpoint, args.tasks, args.encoder)
    if args.classes is not None:
        names = [name.strip() for name in args.classes.split(",") if name.strip()]
        if not names:
            raise ConfigError("--classes: expected names separated by commas")
        localizer.set_classes(args.task, names)
    return localizer


def localize(job: Job, localizer: Localizer, args: argparse.Namespace) -> Summary:
    """Localize one video and write all its files."""
    video = job.path
    found = localizer.localize_media(video, args.min_score, args.video_stream, args.audio_stream)
    media, name, folder = found.media, safe_name(video), args.out or video.parent
    loudest = abs(media.waveform_peaks).max(axis=1) if len(media.waveform_peaks) else None
    tasks = {task.key: task.task_type for task in localizer.tasks}
    write_outputs(folder, name, video, found.events, media.duration, loudest, tasks, media.notes)
    for note in media.notes:
        tqdm.write(f"{video}: {note}", file=sys.stderr)
    return Summary(video.name, media.duration, found.events)


@exit_on_user_error
def main() -> None:
    args = parse_args()
    jobs, failures = find_videos(args.videos)
    with start_ranks(None, "float32"):
        localizer = open_localizer(args)
        if args.out:
            make_folder(args.out)
        summaries = []
        for job in tqdm(jobs, unit="video", disable=None, leave=False):
            try:
                summaries.append(localize(job, localizer, args))
            except UserError as error:
                failures.append(str(error))
    if summaries:
        print(summary_table(summaries, {task.key: task.task_type for task in localizer.tasks}))
        print(f"pages: {args.out or 'beside the videos'}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

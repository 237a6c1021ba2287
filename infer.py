"""Localize events in your own videos: files in, events and a page to look at out.

python infer.py clip.mp4 --checkpoint ckpt/demo_video_make
python infer.py videos/ --checkpoint ckpt/demo_video_make --min-score 0.3 --out found
python infer.py videos/ --checkpoint ckpt/demo_video_make --features features/   # extract.py's, not made again
python infer.py --checkpoint ckpt/demo_video_make --features features/   # without the videos
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.errors import ConfigError, UserError
from libs.core.files import make_folder
from libs.core.types import Event
from libs.features.store import FeatureStore
from libs.features.windows import FRAME_RATE_HZ, WINDOW_FRAMES, span
from libs.inference.localizer import Localizer
from libs.inference.outputs import Summary, safe_name, summary_table, write_outputs
from libs.media.batch_extraction import what_failed
from libs.media.container import shown
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
    parser.add_argument("--task", metavar="TYPE", help="whose classes --classes replaces, such as SED")
    parser.add_argument("--min-score", type=float, default=0.1, metavar="S", help="leave out what scores less (0.1)")
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


def open_localizer(args: argparse.Namespace) -> Localizer:
    localizer = Localizer.from_checkpoint(args.checkpoint, args.tasks, args.encoder)
    if args.classes is not None:
        names = [name.strip() for name in args.classes.split(",") if name.strip()]
        if not names:
            raise ConfigError("--classes: expected names separated by commas")
        localizer.set_classes(args.task, names)
    return localizer


class Found(NamedTuple):
    """What the outputs of one video are made of."""

    events: list[Event]
    duration: float
    loudest: np.ndarray | None
    notes: tuple[str, ...] | list[str] = ()


def decode_and_localize(job: VideoInput, localizer: Localizer, args: argparse.Namespace) -> Found:
    found = localizer.localize_media(job.path, args.min_score, args.video_stream, args.audio_stream)
    media = found.media
    loudest = abs(media.waveform_peaks).max(axis=1) if len(media.waveform_peaks) else None
    return Found(found.events, media.duration, loudest, media.notes)


def localize_stored(job: VideoInput, localizer: Localizer, store: FeatureStore, args: argparse.Namespace) -> Found:
    features = store.read(job.name)
    if job.path is None:
        duration = span(len(features.visual), WINDOW_FRAMES, features.stride) / FRAME_RATE_HZ
    else:
        duration = probe(job.path, args.video_stream, args.audio_stream).duration
    events = localizer.localize_features(*features, duration, args.min_score)
    return Found(events, duration, None)


def open_features(args: argparse.Namespace, localizer: Localizer) -> FeatureStore | None:
    """Raises UserError on features of another encoder than the checkpoint's."""
    if args.features is None:
        return None
    store = FeatureStore(args.features)
    if store.provenance.encoder != localizer.encoder.name:
        raise UserError(
            f"{args.features}: features of {store.provenance.encoder}, the checkpoint was trained on those of "
            f"{localizer.encoder.name}; extract them with that"
        )
    return store


class Outputs:
    """Where each video's files go, and whose they are."""

    def __init__(self, folder: Path):
        make_folder(folder)
        self.folder, self.taken = folder, {}

    def write(self, job: VideoInput, found: Found, tasks: dict[str, str]) -> Summary:
        """Raises UserError where another video's files have the name already."""
        name, title = safe_name(job.name), job.path.name if job.path else job.name
        if other := self.taken.get(name):
            raise UserError(f"{title}: its files would be named {name}, as those of {other}; rename one")
        write_outputs(self.folder, job.name, job.path, found.events, found.duration, found.loudest, tasks, found.notes)
        self.taken[name] = title
        return Summary(title, found.duration, found.events)


@exit_on_user_error
def main() -> None:
    args = parse_args()
    jobs, failures = find_videos(args.videos) if args.videos else ([], [])
    with init_distributed(None, "float32"):
        localizer = open_localizer(args)
        tasks = {task.key: task.task_type for task in localizer.tasks}
        store = open_features(args, localizer)
        if not args.videos:
            jobs = [VideoInput(name, None) for name in store.names()]
        summaries, outputs = [], Outputs(args.out)
        for job in tqdm(jobs, unit="video", disable=None, leave=False):
            try:
                if store is None:
                    found = decode_and_localize(job, localizer, args)
                else:
                    found = localize_stored(job, localizer, store, args)
                summaries.append(outputs.write(job, found, tasks))
            except Exception as error:  # whatever it is, the rest goes on
                failures.append(what_failed(job.path or job.name, error))
                continue
            for note in found.notes:
                tqdm.write(f"{shown(job.path)}: {note}", file=sys.stderr)
    if summaries:
        print(summary_table(summaries, tasks))
        print(f"pages: {args.out}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

"""Pack a task's .npy features into one HDF5 file, half the size as float16, quicker to read than many files.

Interrupted, it goes on where it stopped when it is called again; remove OUT.h5.part if the features have changed since.
Which encoder made them, if extract.py did, is noted in the pack too.

python tools/pack_features.py configs/demo.yaml TASK1 data/demo/TASK1.h5
python train.py configs/demo.yaml -o TASK1.dataset.feat_folder=data/demo/TASK1.h5
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.config import TaskSpec
from libs.core.configfile import load_config
from libs.core.errors import ConfigError, DataError
from libs.core.types import PACK_SUFFIXES, Video
from libs.datasets.annotations import load_annotations
from libs.features.provenance import read_provenance
from libs.features.sources import FeatureSource, open_features

VIDEOS_A_FLUSH = 100
VIDEO_OVERHEAD_BYTES, FILE_OVERHEAD_BYTES = 4096, 65_536  # more than what HDF5 writes besides the features


@contextmanager
def open_part(part: Path, made_of: str) -> Iterator[h5py.File]:
    """The unfinished pack, which no other process can open meanwhile: an interrupted one of the same is continued, of
    something else, or damaged, begun again. Raises DataError where that is impossible."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        pack = _opened(part, made_of)
    except OSError as error:
        if "unable to lock" in str(error):
            raise DataError(f"{part}: another process is packing here; wait for it, or choose another name") from None
        raise DataError(f"{part}: cannot be written ({error}); choose another place") from None
    try:
        with pack:
            yield pack
            pack.flush()
            size = pack.id.get_filesize()
    except (RuntimeError, KeyError) as error:  # HDF5's, of what it finds in the file
        raise DataError(f"{part}: damaged ({error}); remove it and call again") from None
    os.truncate(part, size)  # without what was reserved and not needed


def _opened(part: Path, made_of: str) -> h5py.File:
    try:
        pack = h5py.File(part, "a")
        if not len(pack) or pack.attrs.get("made_of") == made_of:
            pack.attrs["made_of"] = made_of
            return pack
        pack.close()
    except (OSError, RuntimeError, KeyError) as error:
        if "unable to lock" in str(error):
            raise
    pack = h5py.File(part, "w")
    pack.attrs["made_of"] = made_of
    return pack


def too_full(part: Path, more_bytes: int, why: str) -> DataError:
    needed = f"needs {more_bytes / 1e6:.1f} MB more ({why})"
    return DataError(f"{part}: {needed}; free space and call again, or choose another place")


def reserve(pack: h5py.File, more_bytes: int) -> None:
    """Take what the next videos need from the disk: HDF5 crashes where a disk, a quota or a limit is full, and leaves
    what it cannot read. Raises DataError where there is too little."""
    pack.flush()
    part, size = Path(pack.filename), pack.id.get_filesize()
    with part.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size + more_bytes)
        except OSError as error:
            file.truncate(size)
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):  # else the file system cannot reserve
                raise too_full(part, more_bytes, error.strerror) from None


def add_video(pack: h5py.File, video: Video, source: FeatureSource, dtype: str) -> None:
    """Add a video's features, marked as whole. Raises DataError on those that are not finite in that type."""
    for modality, features in source.load(video)._asdict().items():
        with np.errstate(over="ignore"):
            packed = features.astype(dtype)
        if not np.isfinite(packed).all():
            why = f"beyond {dtype}'s {np.finfo(dtype).max:.5g}; use --dtype float32"
            if not np.isfinite(features).all():
                why = "NaN or infinite; mend them, tools/verify_data.py finds more"
            raise DataError(f"video {video.video_id}: {modality} features hold numbers that are {why}")
        pack.require_group(modality).pop(video.video_id, None)
        pack[f"{modality}/{video.video_id}"] = packed
    pack[f"visual/{video.video_id}"].attrs["whole"] = True


def pack_videos(
    pack: h5py.File, videos: list[tuple[Video, int]], source: FeatureSource, width: int, dtype: str
) -> None:
    """Add the videos (and their lengths) that are missing, flushing now and then: what is killed goes on from there."""
    part = Path(pack.filename)
    held = {name for name, array in pack.get("visual", {}).items() if array.attrs.get("whole")}
    missing = [(video, length) for video, length in videos if video.video_id not in held]
    needs_bytes = [length * width * np.dtype(dtype).itemsize + VIDEO_OVERHEAD_BYTES for _, length in missing]
    free_bytes = shutil.disk_usage(part.parent).free
    if sum(needs_bytes) > free_bytes:
        raise too_full(part, sum(needs_bytes), f"{free_bytes / 1e6:.1f} MB are free")
    progress = tqdm(missing, part.stem, len(videos), initial=len(videos) - len(missing), unit="video", disable=None)
    for i, (video, _) in enumerate(progress):
        if i % VIDEOS_A_FLUSH == 0 and hasattr(os, "posix_fallocate"):
            reserve(pack, sum(needs_bytes[i : i + VIDEOS_A_FLUSH]) + FILE_OVERHEAD_BYTES)
        add_video(pack, video, source, dtype)


def provenance(task: TaskSpec) -> dict:
    """What made the features, as extract.py wrote beside them; nothing where nobody did."""
    found = read_provenance(Path(task.dataset.feat_folder)) or {}
    # Names in packs have no prefix; what another pack was made of is its own affair.
    return {key: "" if key == "prefix" else value for key, value in found.items() if key != "made_of"}


@exit_on_user_error
def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("task", metavar="TASK", help="a task of CONFIG, such as TASK1 or 1")
    parser.add_argument("pack", metavar="OUT.h5", type=Path)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="default: float16")
    parser.add_argument("--splits", metavar="A+B", help="only videos of these splits (default: train, val and test)")
    add_override_option(parser)
    args = parser.parse_args()
    config = load_config(args.config, args.o)
    tasks = config.select_tasks(args.task)
    if len(tasks) > 1:
        raise ConfigError(f"{args.task}: a pack holds one task; pack them one by one")
    task = tasks[0]
    if args.pack.suffix not in PACK_SUFFIXES:
        raise ConfigError(f"{args.pack}: expected a name that ends in {' or '.join(PACK_SUFFIXES)}")
    if args.pack.is_dir():
        raise ConfigError(f"{args.pack}: is a folder; choose another name")
    splits = tuple(args.splits.split("+")) if args.splits else task.train_split + task.val_split + task.test_split
    videos = load_annotations(task.dataset.json_file, task.dataset.num_classes).select_splits(splits)
    source = open_features(task, config)
    lengths = source.lengths(videos)  # everything is there and fits, or nothing is written
    part = args.pack.with_name(f"{args.pack.name}.part")
    with open_part(part, f"{task.key} {task.dataset.feat_folder} {args.dtype}") as pack:
        pack.attrs.update(provenance(task))
        pack_videos(pack, list(zip(videos, lengths, strict=True)), source, sum(config.model.input_dims), args.dtype)
    part.replace(args.pack)
    print(f"{len(videos)} videos -> {args.pack}, {args.pack.stat().st_size / 1e6:.1f} MB, {args.dtype}")


if __name__ == "__main__":
    main()

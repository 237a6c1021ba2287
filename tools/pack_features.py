"""Pack a task's .npy features into one HDF5 file, half the size as float16, quicker to read than many files.

Interrupted, it goes on where it stopped when it is called again; remove OUT.h5.part if the features have changed since.

python tools/pack_features.py configs/demo.yaml TASK1 data/demo/TASK1.h5
python train.py configs/demo.yaml -o TASK1.dataset.feat_folder=data/demo/TASK1.h5
"""

import argparse
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from libs.core.configfile import load_config
from libs.core.errors import ConfigError, DataError, exit_on_user_error
from libs.core.types import PACK_SUFFIXES, Video
from libs.datasets.annotations import load_annotations
from libs.datasets.features import FeatureSource
from libs.datasets.loaders import make_source

VIDEOS_AT_ONCE = 100
VIDEO_OVERHEAD_BYTES, FILE_OVERHEAD_BYTES = 4096, 65_536  # more than what HDF5 writes besides the features


def begin(part: Path, dtype: str) -> set[str]:
    """Make the unfinished pack; an interrupted one of the same type is kept, a damaged one begun again. Returns the
    videos that it holds."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(part, "a") as pack:
            if pack.attrs.setdefault("dtype", dtype) == dtype:
                return {video_id for video_id, array in pack.get("visual", {}).items() if array.attrs.get("whole")}
    except (OSError, RuntimeError, KeyError):
        pass
    try:
        with h5py.File(part, "w") as pack:
            pack.attrs["dtype"] = dtype
    except OSError as error:
        raise DataError(f"{part}: cannot be written ({error}); free space or choose another place") from None
    return set()


def too_full(part: Path, more_bytes: int, why: str) -> DataError:
    needed = f"needs {more_bytes / 1e6:.1f} MB more ({why})"
    return DataError(f"{part}: {needed}; free space and call again, or choose another place")


def reserve(part: Path, more_bytes: int) -> None:
    """Take what the next videos need from the disk, until the file is opened and closed: HDF5 crashes where a disk, a
    quota or a limit is full, and leaves what it cannot read. Raises DataError where there is too little."""
    size = part.stat().st_size
    with part.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size + more_bytes)
        except OSError as error:
            file.truncate(size)
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


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("task", metavar="TASK", help="a task of CONFIG, such as TASK1 or 1")
    parser.add_argument("pack", metavar="OUT.h5", type=Path)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="default: float16")
    parser.add_argument("--splits", metavar="A+B", help="only videos of these splits (default: train, val and test)")
    parser.add_argument(
        "-o", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="set a configuration key"
    )
    args = parser.parse_args()
    config = load_config(args.config, args.o)
    tasks = config.choose(args.task)
    if len(tasks) > 1:
        raise ConfigError(f"{args.task}: a pack holds one task; pack them one by one")
    task = tasks[0]
    if args.pack.suffix not in PACK_SUFFIXES:
        raise ConfigError(f"{args.pack}: expected a name that ends in {' or '.join(PACK_SUFFIXES)}")
    splits = tuple(args.splits.split("+")) if args.splits else task.train_split + task.val_split + task.test_split
    videos = load_annotations(task.dataset.json_file, task.dataset.num_classes).of_splits(splits)
    source = make_source(task, config)
    lengths = source.lengths(videos)  # everything is there and fits, or nothing is written
    part = args.pack.with_name(f"{args.pack.name}.part")
    held = begin(part, args.dtype)
    missing = [(video, length) for video, length in zip(videos, lengths, strict=True) if video.video_id not in held]
    width_bytes = sum(config.model.input_dims) * np.dtype(args.dtype).itemsize
    needs_bytes = [length * width_bytes + VIDEO_OVERHEAD_BYTES for _, length in missing]
    free_bytes = shutil.disk_usage(part.parent).free
    if sum(needs_bytes) > free_bytes:
        raise too_full(part, sum(needs_bytes), f"{free_bytes / 1e6:.1f} MB are free")
    done = len(videos) - len(missing)
    with tqdm(desc=args.pack.name, total=len(videos), initial=done, unit="video", disable=None) as progress:
        for first in range(0, len(missing), VIDEOS_AT_ONCE):  # what is killed, too, goes on from there
            chunk = slice(first, first + VIDEOS_AT_ONCE)
            if hasattr(os, "posix_fallocate"):
                reserve(part, sum(needs_bytes[chunk]) + FILE_OVERHEAD_BYTES)
            with h5py.File(part, "r+") as pack:
                for video, _ in missing[chunk]:
                    add_video(pack, video, source, args.dtype)
                    progress.update()
    part.replace(args.pack)
    print(f"{len(videos)} videos -> {args.pack}, {args.pack.stat().st_size / 1e6:.1f} MB, {args.dtype}")


if __name__ == "__main__":
    main()

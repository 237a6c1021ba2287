"""Pack a task's .npy features into one HDF5 file, half the size as float16, quicker to read than many files.

Interrupted, it goes on where it stopped when it is called again; remove OUT.h5.part if the features have changed since.

python tools/pack_features.py configs/demo.yaml TASK1 data/demo/TASK1.h5
python train.py configs/demo.yaml -o TASK1.dataset.feat_folder=data/demo/TASK1.h5
"""

import argparse
from pathlib import Path

import h5py
from tqdm import tqdm

from libs.core.configfile import load_config
from libs.core.errors import ConfigError, DataError, exit_on_user_error
from libs.core.types import PACK_SUFFIXES, Video
from libs.datasets.annotations import load_annotations
from libs.datasets.features import FeatureSource
from libs.datasets.loaders import make_source

VIDEOS_A_FLUSH = 100


def open_part(part: Path, dtype: str) -> h5py.File:
    """The unfinished pack: an interrupted one of the same type is continued, a damaged one begun again."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        pack = h5py.File(part, "a")
        if pack.attrs.get("dtype", dtype) == dtype:
            pack.attrs["dtype"] = dtype
            return pack
        pack.close()
    except OSError:
        pass
    try:
        pack = h5py.File(part, "w")
    except OSError as error:
        raise DataError(f"{part}: cannot be written ({error}); free space or choose another place") from None
    pack.attrs["dtype"] = dtype
    return pack


def add_video(pack: h5py.File, video: Video, source: FeatureSource, dtype: str) -> None:
    """Add a video's features unless it is there already, marked as whole."""
    if video.video_id in pack.get("visual", {}) and pack[f"visual/{video.video_id}"].attrs.get("whole"):
        return
    for modality, features in source.load(video)._asdict().items():
        pack.require_group(modality).pop(video.video_id, None)
        pack[f"{modality}/{video.video_id}"] = features.astype(dtype)
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
    source.lengths(videos)  # everything is there and fits, or nothing is written
    part = args.pack.with_name(f"{args.pack.name}.part")
    with open_part(part, args.dtype) as pack:
        for i, video in enumerate(tqdm(videos, desc=args.pack.name, unit="video", disable=None)):
            add_video(pack, video, source, args.dtype)
            if i % VIDEOS_A_FLUSH == 0:  # what is killed, too, goes on from here
                pack.flush()
    part.replace(args.pack)
    print(f"{len(videos)} videos -> {args.pack}, {args.pack.stat().st_size / 1e6:.1f} MB, {args.dtype}")


if __name__ == "__main__":
    main()

"""Pack a task's .npy features into one HDF5 file, half the size as float16, quicker to read than many files.

python tools/pack_features.py configs/demo.yaml TASK1 data/demo/TASK1.h5
python train.py configs/demo.yaml -o TASK1.dataset.feat_folder=data/demo/TASK1.h5
"""

import argparse
from pathlib import Path

import h5py
from tqdm import tqdm

from libs.core.configfile import load_config
from libs.core.errors import ConfigError, exit_on_user_error
from libs.core.files import replacing
from libs.datasets.annotations import load_annotations
from libs.datasets.features import PACK_SUFFIXES
from libs.datasets.loaders import make_source


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
    with replacing(args.pack) as temporary, h5py.File(temporary, "w") as pack:
        for video in tqdm(videos, desc=args.pack.name, unit="video", disable=None):
            for modality, features in source.load(video)._asdict().items():
                pack.create_dataset(f"{modality}/{video.video_id}", data=features.astype(args.dtype))
    print(f"{len(videos)} videos -> {args.pack}, {args.pack.stat().st_size / 1e6:.1f} MB, {args.dtype}")


if __name__ == "__main__":
    main()

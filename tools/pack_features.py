"""Pack a task's .npy features into one HDF5 file: half the size as float16, and faster to read than many files.

If interrupted, call it again to continue; remove OUT.h5.part first if the features have changed since. Where extract.py
recorded the encoder of the features, the pack records it too.

python tools/pack_features.py configs/demo.yaml TASK1 data/demo/TASK1.h5
python train.py configs/demo.yaml -o TASK1.dataset.feat_folder=data/demo/TASK1.h5
"""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from libs.core.cli import add_override_option, build_parser, exit_on_user_error
from libs.core.configfile import load_config
from libs.core.errors import ConfigError, DataError
from libs.core.types import PACK_SUFFIXES, Features
from libs.datasets.annotations import load_annotations
from libs.features.provenance import read_provenance
from libs.features.sources import is_pack, open_features
from libs.features.store import open_pack_writer


def cast_features(video_id: str, features: Features, dtype: str) -> Features:
    """Convert features to the pack's type. Raises DataError where numbers are not finite in it."""
    with np.errstate(over="ignore"):
        cast = Features(features.visual.astype(dtype), features.audio.astype(dtype))
    for modality, values in cast._asdict().items():
        if not np.isfinite(values).all():
            reason = f"beyond {dtype}'s {np.finfo(dtype).max:.5g}; use --dtype float32"
            if not np.isfinite(getattr(features, modality)).all():
                reason = "NaN or infinite; extract them again, tools/verify_data.py finds more"
            raise DataError(f"video {video_id}: {modality} features hold numbers that are {reason}")
    return cast


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
    task, *others = config.select_tasks(args.task)
    if others:
        raise ConfigError(f"{args.task}: a pack holds one task; pack them one by one")
    if not is_pack(args.pack):
        raise ConfigError(f"{args.pack}: expected a name that ends in {' or '.join(PACK_SUFFIXES)}")
    splits = tuple(args.splits.split("+")) if args.splits else task.train_split + task.val_split + task.test_split
    videos = load_annotations(task.dataset.json_file, task.dataset.num_classes).select_splits(splits)
    source = open_features(task, config)
    lengths = source.lengths(videos)  # checks every video before anything is written

    window_bytes = sum(config.model.input_dims) * np.dtype(args.dtype).itemsize
    part = args.pack.with_name(f"{args.pack.name}.part")
    attributes = read_provenance(Path(task.dataset.feat_folder)) or {}
    if "prefix" in attributes:
        attributes["prefix"] = ""  # names in a pack have none
    attributes["made_of"] = f"{task.key} {task.dataset.feat_folder} {args.dtype}"
    with open_pack_writer(part, attributes) as writer:
        whole = writer.whole_videos()
        missing = [(video, n) for video, n in zip(videos, lengths, strict=True) if video.video_id not in whole]
        writer.check_free_space(sum(n for _, n in missing) * window_bytes)
        done = len(videos) - len(missing)
        for video, _ in tqdm(missing, part.stem, len(videos), initial=done, unit="video", disable=None):
            writer.add(video.video_id, cast_features(video.video_id, source.load(video), args.dtype))
    part.replace(args.pack)
    print(f"{len(videos)} videos -> {args.pack}, {args.pack.stat().st_size / 1e6:.1f} MB, {args.dtype}")


if __name__ == "__main__":
    main()

"""Your own annotations -> the project's files: annotations, class list, prompts, splits, and a configuration.

python tools/import_annotations.py events.csv --name mine --task-type SED --videos clips/
python tools/import_annotations.py labels/ --name mine --task-type TAL --videos clips/     # Audacity, a file a clip
python tools/import_annotations.py train=dev.tsv test=eval.tsv durations.tsv --name desed --task-type SED
python tools/import_annotations.py more.csv --name music --task-type MUSIC --base configs/mine.yaml   # a task more

Tables (CSV, DESED's TSV) have a header: video, start, end, label, perhaps subset and duration; a table of video and
duration alone adds durations, and clips without events. ActivityNet's, UnAV-100's and this project's JSON are read as
they are. Writes data/NAME/annotations/NAME.json, data/NAME/NAME_labels.txt, data/NAME/NAME_prompt.npy and
configs/NAME.yaml; what is there is not replaced without --replace. docs/custom_dataset.md leads through it.
"""

import argparse
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from joblib import cpu_count
from tqdm import tqdm

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import Config
from libs.core.configfile import from_tree, load_config
from libs.core.errors import ConfigError, DataError, MediaError, format_list
from libs.core.files import replacing, write_json
from libs.core.prompts import sample_prompts, save_prompts
from libs.core.types import PACK_SUFFIXES
from libs.datasets.annotations import MAX_TIME_S
from libs.datasets.importing import derive
from libs.datasets.importing.entries import (
    Entry,
    check_against_durations,
    count_repeats,
    gather,
    match_files,
    order_classes,
    to_tree,
    what_is_odd,
)
from libs.datasets.importing.splits import ROLES, recognise, stratify
from libs.datasets.importing.tables import FORMATS, Row, Source, read_source
from libs.features.provenance import SUFFIXES, read_provenance
from libs.features.store import FeatureStore
from libs.features.windows import FRAME_RATE_HZ, STRIDES, WINDOW_FRAMES
from libs.media.encoders.build import CHOICES, build_encoder
from libs.media.inputs import find_videos
from libs.media.probe import probe

TEXT_DIM = 32  # at least, of prompts that embed no text


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, a folder of label tracks, or SUBSET=FILE")
    parser.add_argument("--name", required=True, help="of the data set: names files and folders")
    parser.add_argument("--task-type", required=True, metavar="TYPE", help="TAL (seen), SED (heard), AVEL, or your own")
    parser.add_argument("--videos", metavar="DIR", help="the clips: how long they last, and those without events")
    parser.add_argument("--skip-missing", action="store_true", help="leave out videos that are not in --videos")
    parser.add_argument("--duration", type=float, metavar="S", help="of every video of which nothing else says it")
    parser.add_argument("--features", type=Path, metavar="DIR", help="extract.py's (default: data/NAME/av_features)")
    parser.add_argument("--encoder", metavar="E", help=f"{CHOICES} (default: the features', else builtin)")
    parser.add_argument("--stride", type=int, choices=STRIDES, help="of the features (default: theirs, else 4)")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="fixes the order of classes: a name a line")
    parser.add_argument("--splits", default="70/10/20", metavar="A/B/C", help="percent of training/validation/testing")
    parser.add_argument("--subsets", nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="the input's subsets to take")
    parser.add_argument("--resplit", action="store_true", help="divide anew, whatever subsets the input has")
    parser.add_argument("--seed", type=int, default=0, help="of splits and of random prompts")
    parser.add_argument("--prompt", metavar="SENTENCE", help='with {label}, such as "The sound of {label}."')
    parser.add_argument("--random-prompts", action="store_true", help="even where the encoder embeds text")
    parser.add_argument("--base", type=Path, metavar="CONFIG", help="add a task to this one's")
    parser.add_argument("--format", choices=FORMATS, help="of all inputs (default: as ending and content say)")
    parser.add_argument("--replace", action="store_true", help="replace files that are there")
    return parser.parse_args()


# ---- reading ----


def read_inputs(inputs: list[str], kind: str | None) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of all inputs, and the order of classes that they say; prints what each holds."""
    rows, classes = [], {}
    for text in inputs:
        subset, equals, rest = text.partition("=")
        if not equals or Path(text).exists():
            subset, rest = None, text
        path = Path(rest)
        source = read_folder(path) if path.is_dir() else read_source(path, kind)
        if subset:
            if other := next((row for row in source.rows if row.subset not in (None, subset)), None):
                raise DataError(
                    f"{other.where}: subset {other.subset}, but {text} says {subset}; leave one of them out"
                )
            source = source._replace(rows=[row._replace(subset=subset) for row in source.rows])
        rows += source.rows
        classes |= dict.fromkeys(source.classes)
        events = sum(row.label is not None for row in source.rows)
        print(f"{path}: {events} events in {len({row.video for row in source.rows})} videos")
        for note in source.notes:
            print(f"note: {note}")
    return rows, tuple(classes)


def read_folder(folder: Path) -> Source:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise DataError(f"{folder}: no label tracks (.txt) in this folder; name the file that you mean")
    sources = [read_source(path, "audacity") for path in paths]
    return Source([row for s in sources for row in s.rows], [note for s in sources for note in s.notes])


def probe_all(folder: str) -> dict[str, float]:
    """Seconds that each file of a folder lasts, by the name that its features have."""
    jobs, problems = find_videos([folder])
    if problems:
        raise MediaError(problems[0])
    with ThreadPoolExecutor(cpu_count()) as pool:
        lengths = tqdm(
            pool.map(lambda job: probe(job.path).duration, jobs), total=len(jobs), unit="video", disable=None
        )
        durations = {job.name: round(seconds, 3) for job, seconds in zip(jobs, lengths, strict=True)}
    print(f"{folder}: {len(jobs)} files, {sum(durations.values()):.0f} s")
    return durations


def read_labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}, expected a class a line") from None
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: {twice[0]!r} stands there twice; name each class once")
    return names


def read_entries(args: argparse.Namespace) -> tuple[dict[str, Entry], list[str]]:
    """The videos with durations, and the class list; prints notes."""
    if args.duration is not None and not 0 < args.duration < MAX_TIME_S:
        raise ConfigError(f"--duration {args.duration}: expected seconds above 0")
    rows, given = read_inputs(args.inputs, args.format)
    entries = gather(rows)
    notes = []
    if args.videos:
        notes += match_files(entries, probe_all(args.videos), args.videos, args.skip_missing)
    if args.duration is not None:
        for entry in entries.values():
            entry.duration = args.duration if entry.duration is None else entry.duration
    notes += check_against_durations(entries)
    classes = order_classes(entries, given, read_labels(args.labels))
    notes += what_is_odd(entries, {name: i for i, name in enumerate(classes)})
    for note in notes:
        print(f"note: {note}")
    return entries, classes


# ---- splits ----


def choose_splits(args: argparse.Namespace, entries: dict[str, Entry]) -> tuple[str, str, str]:
    """Give every video a subset; which of them train, validate and test. Raises UserError where that cannot be told."""
    with_subset = [entry for entry in entries.values() if entry.subset]
    if with_subset and not args.resplit:
        without = next((entry for entry in entries.values() if not entry.subset), None)
        if without:
            raise DataError(
                f"{without.where}: video {without.video_id} has no subset, {len(with_subset)} others have one; give it "
                "one, or divide all anew with --resplit"
            )
        # A subset without any event has its labels withheld, as ActivityNet's testing: nothing to score there.
        names = [entry.subset for entry in with_subset if entry.events]
        if unknown := [name for name in args.subsets or () if name not in names]:
            there = ", ".join(dict.fromkeys(names))
            raise ConfigError(f"--subsets {unknown[0]}: no video with events in this subset; there are {there}")
        chosen = tuple(args.subsets) if args.subsets else recognise(names)
        print(f"subsets are kept: {chosen[0]} trains, {chosen[1]} validates, {chosen[2]} tests")
        return chosen
    if args.subsets:
        raise ConfigError("--subsets: the input has no subsets; leave it out")
    try:
        parts = np.array([float(part) for part in args.splits.split("/")])
    except ValueError:
        parts = np.zeros(0)
    if len(parts) != 3 or not (parts > 0).all() or abs(parts.sum() - 100) > 1e-6:
        raise ConfigError(f"--splits {args.splits}: expected three percentages above 0 of sum 100, such as 70/10/20")
    if len(entries) < 3:
        raise DataError(f"{len(entries)} videos cannot be divided into training, validation and testing; annotate more")
    labels = [{row.label for row in entry.events} for entry in entries.values()]
    names = sorted(set().union(*labels))
    split = stratify([{names.index(name) for name in own} for own in labels], parts / 100, args.seed)
    for entry, i in zip(entries.values(), split, strict=True):
        entry.subset = ROLES[i]
    print(f"whole videos divided {args.splits}, each class into every split as far as that can be (seed {args.seed})")
    return ROLES


def show_splits(entries: dict[str, Entry], classes: list[str], splits: tuple[str, str, str]) -> None:
    """A table of videos and events a split, and what a split lacks. Raises DataError where one has no video."""
    columns = list(dict.fromkeys(splits))
    members = {split: [entry for entry in entries.values() if entry.subset == split] for split in columns}
    events = {split: Counter(row.label for entry in members[split] for row in entry.events) for split in columns}
    for split in columns:
        if not events[split]:
            raise DataError(
                f"{split}: no events in this split; annotate more videos, or choose other --splits or --seed"
            )
    width = max(len("without events"), *(len(name) for name in classes))
    empty = [sum(not entry.events for entry in members[split]) for split in columns]
    rows = [("", columns), ("videos", [len(members[split]) for split in columns]), ("without events", empty)]
    rows += [(name, [events[split][name] for split in columns]) for name in classes]
    for name, cells in rows:
        print(f"  {name:{width}}" + "".join(f"  {cell!s:>10}" for cell in cells))
    for split in columns:
        if missing := [name for name in classes if not events[split][name]]:
            effect = "cannot be learned" if split == splits[0] else "are not measured"
            print(f"note: {split} has no events of some classes, which {effect}: {format_list(missing)}")


# ---- the configuration ----


class Features(NamedTuple):
    """What features there are, or will be."""

    encoder: str
    visual_dim: int
    audio_dim: int
    stride: int
    layout: dict  # keys of a task's dataset that say how files are named
    names: list[str] | None  # of the videos that have some; None: nothing is there yet


def find_features(args: argparse.Namespace, folder: Path, base: Config | None) -> Features:
    """Raises UserError where what is there was made otherwise than --encoder, --stride or the base say."""
    wanted = args.encoder or (base.model.encoder if base else None)
    if base and wanted != base.model.encoder:
        raise ConfigError(f"--encoder {wanted}: all tasks of {args.base} share its encoder, {base.model.encoder}")
    # The published features say nothing of what made them: they are the base's, or nobody knows.
    if folder.exists() and not (base and read_provenance(folder) is None):
        store = FeatureStore(folder)
        made = store.provenance
        for what, found, said in (("encoder", made.encoder, wanted), ("stride", made.stride, args.stride)):
            if said not in (None, found):
                raise ConfigError(f"{folder}: features of {what} {found}, not {said}; choose that, or other --features")
        names = ("file_prefix", made.prefix), ("visual_suffix", made.visual_suffix), ("audio_suffix", made.audio_suffix)
        usual = ("", *SUFFIXES)
        in_folder = folder.suffix not in PACK_SUFFIXES
        layout = {key: value for (key, value), same in zip(names, usual, strict=True) if in_folder and value != same}
        return Features(made.encoder, made.visual_dim, made.audio_dim, made.stride, layout, store.names())
    stride = args.stride or STRIDES[0]
    if base:
        return Features(wanted, base.model.input_dim_visual, base.model.input_dim_audio, stride, {}, None)
    encoder = build_encoder(wanted or "builtin")
    return Features(encoder.name, encoder.visual_dim, encoder.audio_dim, stride, {}, None)


def show_features(features: Features, folder: Path, entries: dict[str, Entry], videos: str | None) -> None:
    if features.names is None:
        command = f"python extract.py {videos or 'CLIPS'} --encoder {features.encoder} --out {folder}"
        print(f"note: no features yet; make them: {command}")
        return
    print(f"{folder}: features of {features.encoder}, stride {features.stride}")
    if missing := sorted(entries.keys() - set(features.names)):
        print(f"note: no features in {folder} of {format_list(missing)}; extract them before training")


def whole_tree(task: dict, model: dict, run: derive.Run) -> dict:
    """A configuration of the task alone."""
    return {
        "TASK1": task,
        "model": {**model, "embd_dim": run.size, "head_dim": run.size, "drop_path": run.drop_path},
        "opt": {
            "warmup_epochs": run.warmup_epochs,
            "num_train_epochs": run.epochs,
            "clip_proj_lr": run.learning_rate,
            "ema_decay": run.ema_decay,
        },
        "stop_and_go": {"enabled": False},  # a task alone has no other to make way for
        "loader": {"num_workers": 1},
        "run": {"eval_freq": max(1, run.epochs // 5), "ckpt_freq": run.epochs},
    }


def tree_on_base(task: dict, base: Config, path: Path, folder: Path) -> dict:
    """What a file in `folder` says that has the configuration at `path` as its base, and the task beside its tasks."""
    number = 1 + max(int(key.removeprefix("TASK")) for key in base.tasks)
    rates = min(other.learning_rate for other in base.tasks.values())
    task = {**task, "learning_rate": rates, "epochs": base.opt.num_train_epochs}
    return {"base": Path(os.path.relpath(path, folder)).as_posix(), f"TASK{number}": task}


def configure(
    args: argparse.Namespace,
    paths: "Paths",
    entries: dict[str, Entry],
    classes: list[str],
    splits: tuple[str, str, str],
    features: Features,
    base: Config | None,
) -> tuple[dict, list[str]]:
    """The configuration's tree, and the reasons for its numbers. Rules look at what trains alone."""
    ids = {name: i for i, name in enumerate(classes)}
    train = [entry.as_video(ids) for entry in entries.values() if entry.subset == splits[0]]
    ranges = derive.Choice(base.model.regression_range, f"those of {args.base}, as all tasks") if base else None
    derived = derive.derive(train, features.stride, WINDOW_FRAMES, FRAME_RATE_HZ, ranges)
    run: derive.Run = derived.run.value
    task = {
        "task_type": args.task_type,
        **({"prompt": args.prompt} if args.prompt else {}),
        "dataset_name": args.name,
        **dict(zip(("train_split", "val_split", "test_split"), splits, strict=True)),
        "dataset": {
            "json_file": paths.annotations.as_posix(),
            "feat_folder": paths.features.as_posix(),
            **features.layout,
            "feat_stride": features.stride,
            "num_classes": len(classes),
            "max_seq_len": derived.max_seq_len.value,
            "class_aware": derived.class_aware.value,
            **({"drop_repeats": True} if count_repeats(entries, ids) else {}),
        },
        "train_cfg": {"init_loss_norm": 100},
        "batch_size": run.batch_size,
        "learning_rate": run.learning_rate,
        "epochs": run.epochs,
    }
    if base:
        reason = f"batch_size {run.batch_size}: {len(train)} training clips; rates and epochs as in {args.base}"
        return tree_on_base(task, base, args.base, paths.config.parent), [*derived.reasons, reason]
    reason = f"batch_size {run.batch_size}, epochs {run.epochs}, embd_dim {run.size}: {derived.run.reason}"
    model = {
        "encoder": features.encoder,
        "input_dim_visual": features.visual_dim,
        "input_dim_audio": features.audio_dim,
        "text_dim": prompt_width(args, features.encoder, len(classes)),
        "backbone_arch": [*run.depth, len(derived.ranges.value) - 1],
        "regression_range": [[int(low), int(high)] for low, high in derived.ranges.value],
    }
    return whole_tree(task, model, run), [*derived.reasons, reason]


def prompt_width(args: argparse.Namespace, encoder: str, num_classes: int) -> int:
    text_dim = 0 if args.random_prompts else build_encoder(encoder).text_dim
    # No fewer numbers than classes, a power of two: random directions are then far from each other.
    return text_dim or max(TEXT_DIM, 1 << (num_classes - 1).bit_length())


def make_prompts(args: argparse.Namespace, config: Config, classes: list[str]) -> np.ndarray:
    """The new task's prompt table; says where it comes from."""
    task, encoder = list(config.tasks.values())[-1], config.model.encoder
    if args.random_prompts or not build_encoder(encoder).text_dim:
        why = "" if args.random_prompts else f", since encoder {encoder} embeds no text"
        print(f"prompts: random unit vectors (seed {args.seed}){why}: infer.py --classes cannot work")
        return sample_prompts(len(classes), config.model.text_dim, args.seed)
    table = build_encoder(encoder).encode_text([task.format_prompt(name) for name in classes])
    if table.shape[1] != config.model.text_dim:
        raise ConfigError(
            f"{encoder}: embeds text in {table.shape[1]} numbers, but model.text_dim is {config.model.text_dim}"
        )
    print(f"prompts: embedded by {encoder}, such as {task.format_prompt(classes[0])!r}")
    return table


# ---- writing ----


class Paths(NamedTuple):
    annotations: Path
    labels: Path
    prompts: Path
    config: Path
    features: Path


def choose_paths(args: argparse.Namespace) -> Paths:
    """Raises ConfigError where a file is there already, or the name cannot be one of files."""
    if not re.fullmatch(r"\w[\w.-]*", args.name):
        raise ConfigError(f"--name {args.name}: expected letters, digits, _ . and - only: it names files and folders")
    folder = Path("data") / args.name
    paths = Paths(
        folder / "annotations" / f"{args.name}.json",
        folder / f"{args.name}_labels.txt",
        folder / f"{args.name}_prompt.npy",
        Path("configs") / f"{args.name}.yaml",
        args.features or folder / "av_features",
    )
    for path in paths[:4]:
        if path.exists() and not args.replace:
            raise ConfigError(f"{path}: exists; --replace replaces it, another --name keeps it")
    return paths


class FlatLists(yaml.SafeDumper):
    """A key a line, a list in one."""

    def represent_sequence(self, tag, sequence, flow_style=None):
        return super().represent_sequence(tag, sequence, flow_style=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@exit_on_user_error
def main() -> None:
    args = parse_args()
    paths = choose_paths(args)
    base = load_config(args.base) if args.base else None
    entries, classes = read_entries(args)
    splits = choose_splits(args, entries)
    show_splits(entries, classes, splits)
    features = find_features(args, paths.features, base)
    show_features(features, paths.features, entries, args.videos)
    tree, reasons = configure(args, paths, entries, classes, splits, features, base)
    # Everything is made and checked before anything is written.
    body = yaml.dump(tree, Dumper=FlatLists, sort_keys=False, allow_unicode=True, width=110)
    config = check_config(tree, base)
    prompts = make_prompts(args, config, classes)
    for reason in reasons:
        print(f"- {reason}")
    head = [f"{args.name}: {', '.join(args.inputs)}, by tools/import_annotations.py. Why the numbers are as they are:"]
    comment = "".join(f"# {line}\n" for line in [*head, *(f"- {reason}" for reason in reasons)])
    write_json(paths.annotations, to_tree(entries, classes, args.name))
    write_text(paths.labels, "".join(f"{name}\n" for name in classes))
    save_prompts(paths.prompts, prompts)
    write_text(paths.config, comment + body)
    for path in paths[:4]:
        print(f"wrote {path}")


def check_config(tree: dict, base: Config | None) -> Config:
    """What the tree will be when it is read. Raises ConfigError where it would be refused."""
    if base is None:
        return from_tree(tree)
    return from_tree({**base.to_tree(), **{key: value for key, value in tree.items() if key != "base"}})


if __name__ == "__main__":
    main()

"""Your own annotations -> the project's files: annotations, class list, prompts, splits, and a configuration.

python tools/import_annotations.py events.csv --name mine --task-type SED --videos clips/
python tools/import_annotations.py labels/ --name mine --task-type TAL --videos clips/     # Audacity, a file per clip
python tools/import_annotations.py train=dev.tsv test=eval.tsv durations.tsv --name desed --task-type SED
python tools/import_annotations.py more.csv --name music --task-type MUSIC --base configs/mine.yaml   # one more task

Tables (CSV, DESED's TSV) have a header: video, start, end, label, and optionally subset and duration; a table of only
video and duration adds durations, and clips without events. ActivityNet's, UnAV-100's and this project's JSON are read
as they are. Writes data/NAME/annotations/NAME.json, data/NAME/NAME_labels.txt, data/NAME/NAME_prompt.npy and
configs/NAME.yaml; existing files are replaced only with --replace. docs/custom_dataset.md is the guide.
"""

import argparse
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import Config, TaskSpec
from libs.core.configfile import from_tree, load_config
from libs.core.errors import ConfigError, MediaError, format_list
from libs.core.files import replacing, write_json
from libs.core.prompts import sample_prompts, save_prompts
from libs.datasets.importing import event_tables, splits
from libs.datasets.importing.configuration import ImportedTask, build_configuration
from libs.datasets.importing.event_tables import EventTables
from libs.datasets.importing.readers import FORMATS, concat_events, read_input
from libs.features.provenance import FeatureProvenance, open_extracted, read_provenance
from libs.features.windows import STRIDES
from libs.media.encoders.base import Encoder
from libs.media.encoders.build import CHOICES, build_encoder
from libs.media.inputs import find_videos
from libs.media.probe import probe

MIN_TEXT_DIM = 32  # of random prompts


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="files, a folder of label tracks, or SUBSET=FILE")
    add("--name", required=True, help="of the data set; it names files and folders")
    add("--task-type", required=True, metavar="TYPE", help="TAL (visible), SED (audible), AVEL, or your own word")
    add("--videos", metavar="DIR", help="folder of the clips: gives durations, and clips without events")
    add("--skip-missing", action="store_true", help="leave out videos that are not in --videos")
    add("--duration", type=float, metavar="S", help="seconds of each video whose duration is not known otherwise")
    add("--features", type=Path, metavar="DIR", help="from extract.py (default: data/NAME/av_features)")
    add("--encoder", metavar="E", help=f"{CHOICES} (default: that of the features, else builtin)")
    add("--stride", type=int, choices=STRIDES, help="of the features, in frames (default: theirs, else 4)")
    add("--labels", type=Path, metavar="FILE", help="sets the order of the classes: one name per line")
    add("--splits", default="70/10/20", metavar="A/B/C", help="percent of training/validation/testing")
    add("--subsets", nargs=3, metavar=("TRAIN", "VAL", "TEST"), help="subsets of the input to use")
    add("--resplit", action="store_true", help="divide the videos again, ignoring the subsets of the input")
    add("--seed", type=int, default=0, help="of splits and random prompts")
    add("--prompt", metavar="SENTENCE", help='with {label}, such as "The sound of {label}."')
    add("--random-prompts", action="store_true", help="even if the encoder embeds text")
    add("--base", type=Path, metavar="CONFIG", help="add a task to this configuration")
    add("--format", choices=FORMATS, help="of all inputs (default: detected from ending and content)")
    add("--replace", action="store_true", help="replace existing files")
    args = parser.parse_args()
    args.features = args.features or Path("data") / args.name / "av_features"
    return args


def choose_paths(name: str, replace: bool) -> list[Path]:
    """Return the files to write: annotations, class list, prompts, configuration.

    Raises:
        ConfigError: one of them exists, or the name cannot be part of file names.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"--name {name}: expected only letters, digits, _ . and -, because it names files")
    files = f"data/{name}/annotations/{name}.json", f"data/{name}/{name}_labels.txt", f"data/{name}/{name}_prompt.npy"
    paths = [Path(file) for file in (*files, f"configs/{name}.yaml")]
    if not replace and (existing := [path for path in paths if path.exists()]):
        raise ConfigError(f"{existing[0]}: exists; --replace replaces it, another --name keeps it")
    return paths


def print_lines(start: str, lines: Iterable) -> None:
    for line in lines:
        print(f"{start}{line}")


# ---- events ----


def load_events(args: argparse.Namespace) -> tuple[EventTables, list[str]]:
    """Load all inputs, and the durations of their videos. Returns the tables and the class names."""
    lists = []
    for text in args.inputs:
        path, events = read_input(text, args.format)
        print(f"{path}: {events.rows.start.count()} events in {events.rows.video.nunique()} videos")
        print_lines("note: ", events.notes)
        lists.append(events)
    events = concat_events(lists)
    tables = event_tables.gather_videos(events.rows)
    if args.videos:
        tables, notes = event_tables.match_files(tables, probe_files(args.videos), args.videos, args.skip_missing)
        print_lines("note: ", notes)
    if args.duration is not None:
        tables.videos["duration"] = tables.videos.duration.fillna(args.duration)
    event_tables.check_durations(tables)
    fixed = event_tables.load_class_list(args.labels) if args.labels else None
    classes = event_tables.order_classes(tables.events, events.classes, fixed)
    print_lines("note: ", event_tables.collect_warnings(tables, classes))
    return tables, classes


def probe_files(folder: str) -> dict[str, float]:
    """Return the seconds of each media file in a folder, by the name of its features."""
    files, problems = find_videos([folder])
    if problems:
        raise MediaError(problems[0])
    probing = Parallel(cpu_count(), prefer="threads", return_as="generator")(delayed(probe)(f.path) for f in files)
    media: Any = tqdm(probing, total=len(files), unit="video", disable=None)
    durations = {file.name: round(found.duration, 3) for file, found in zip(files, media, strict=True)}
    print(f"{folder}: {len(files)} files, {sum(durations.values()):.0f} s")
    return durations


def assign_subsets(args: argparse.Namespace, tables: EventTables) -> tuple[EventTables, tuple[str, str, str]]:
    """Give each video a subset. Returns the tables, and the subsets for training, validation and testing."""
    if tables.videos.subset.notna().any() and not args.resplit:
        names = splits.select_subsets(tables, args.subsets)
        print(f"subsets of the input: {names[0]} for training, {names[1]} for validation, {names[2]} for testing")
        return tables, names
    if args.subsets:
        raise ConfigError("--subsets: the input has no subsets, or --resplit ignores them; leave --subsets out")
    tables = splits.divide_videos(tables, splits.parse_percentages(args.splits), args.seed)
    print(f"whole videos divided {args.splits}, every class in each split where possible (seed {args.seed})")
    return tables, splits.SPLITS


# ---- features and prompts ----


def find_features(args: argparse.Namespace, base: Config | None, video_ids: list[str]) -> FeatureProvenance:
    """Find out how the features were made, or will be, and print which ones are missing.

    Raises:
        UserError: they were made in another way than --encoder, --stride or the base say.
    """
    encoder = args.encoder or (base.model.encoder if base else None)
    if base and encoder != base.model.encoder:
        raise ConfigError(f"--encoder {encoder}: all tasks of {args.base} share its encoder, {base.model.encoder}")
    # The published features have no provenance; with a base, they are assumed to be those of its encoder.
    if args.features.exists() and not (base and read_provenance(args.features) is None):
        provenance, files = open_extracted(args.features)
        for key, asked in (("encoder", encoder), ("stride", args.stride)):
            if asked not in (None, found := getattr(provenance, key)):
                raise ConfigError(f"{args.features}: {key} {found}, not {asked}; choose that, or other --features")
        print(f"{args.features}: features of {provenance.encoder}, stride {provenance.stride}")
        if missing := sorted({*video_ids} - {*files.video_ids()}):
            print(f"note: {args.features} has no features of {format_list(missing)}; extract them before training")
        return provenance
    stride = args.stride or STRIDES[0]
    if base:
        provenance = FeatureProvenance(base.model.encoder, *base.model.input_dims, stride)
    else:
        built = build_encoder(encoder or "builtin")
        provenance = FeatureProvenance(built.name, built.visual_dim, built.audio_dim, stride)
    command = f"python extract.py {args.videos or 'CLIPS'} --encoder {provenance.encoder} --out {args.features}"
    print(f"note: no features yet; make them: {command}")
    return provenance


def choose_text_dim(encoder: Encoder | None, num_classes: int) -> int:
    """Return the width of the prompts. Random ones are at least as wide as there are classes, to be far apart."""
    return encoder.text_dim if encoder and encoder.text_dim else max(MIN_TEXT_DIM, 1 << (num_classes - 1).bit_length())


def make_prompts(encoder: Encoder | None, task: TaskSpec, text_dim: int, classes: list[str], seed: int) -> np.ndarray:
    """Embed the prompts of a task, or sample a random table if there is no encoder or it embeds no text."""
    if encoder is None or not encoder.text_dim:
        reason = f", because encoder {encoder.name} embeds no text" if encoder else ""
        print(f"prompts: random unit vectors (seed {seed}){reason}: infer.py --classes cannot work")
        return sample_prompts(len(classes), text_dim, seed)
    table = encoder.encode_text([task.format_prompt(name) for name in classes])
    print(f"prompts: embedded by {encoder.name}, such as {task.format_prompt(classes[0])!r}")
    return table


# ---- the configuration ----


class _Dumper(yaml.SafeDumper):
    """Writes one key per line, but a list on one line."""

    def represent_sequence(self, tag, sequence, flow_style=None):
        return super().represent_sequence(tag, sequence, flow_style=True)


def format_config(tree: dict, title: str, reasons: list[str]) -> str:
    """Format as YAML, with the reasons as a comment at the top."""
    comment = "".join(f"# {line}\n" for line in (title, *(f"- {reason}" for reason in reasons)))
    return comment + yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


@exit_on_user_error
def main() -> None:
    args = parse_args()
    json_file, labels_file, prompt_file, config_file = paths = choose_paths(args.name, args.replace)
    base = load_config(args.base) if args.base else None
    tables, classes = load_events(args)
    tables, subsets = assign_subsets(args, tables)
    counts, notes = splits.summarize_splits(tables, classes, subsets)
    print(counts.to_string(col_space=10))
    print_lines("note: ", notes)
    features = find_features(args, base, tables.videos.index.tolist())

    # Everything is made and checked before anything is written.
    videos = event_tables.build_videos(tables, classes)
    task = ImportedTask(args.name, args.task_type, args.prompt, json_file, args.features, videos, classes, subsets)
    encoder = None if args.random_prompts else build_encoder(features.encoder)
    text_dim = base.model.text_dim if base else choose_text_dim(encoder, len(classes))
    tree, reasons = build_configuration(task, features, text_dim, base)
    config = from_tree({**base.to_tree(), **tree} if base else tree)
    prompts = make_prompts(encoder, [*config.tasks.values()][-1], text_dim, classes, args.seed)
    print_lines("- ", reasons)

    title = f"{args.name}: {', '.join(args.inputs)}, by tools/import_annotations.py. Reasons for the values:"
    if base:
        tree = {"base": Path(os.path.relpath(args.base, config_file.parent)).as_posix(), **tree}
    write_json(json_file, event_tables.build_annotation_tree(videos, classes, args.name))
    save_prompts(prompt_file, prompts)
    texts = {labels_file: "\n".join([*classes, ""]), config_file: format_config(tree, title, reasons)}
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print_lines("wrote ", paths)


if __name__ == "__main__":
    main()

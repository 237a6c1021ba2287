"""Set two results side by side: differences with 95 % intervals, and a paired bootstrap test over videos.

python tools/compare.py ckpt/demo_a ckpt/demo_b                       # two folders that eval.py wrote to
python tools/compare.py A.json B.json ANNOTATIONS.json --subset val   # two results files of the same videos

Differences are B - A; p is below .05 where the 95 % interval does not hold 0 (libs/evaluation/paired_comparison.py).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import parse_tious
from libs.core.errors import ConfigError, DataError
from libs.core.files import read_json, replacing, write_json
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics.average_precision import remove_repeats
from libs.evaluation.metrics.compute import EvaluationInput, MetricSettings, replace_non_finite
from libs.evaluation.paired_comparison import (
    Comparison,
    MetricDifference,
    choose_paired,
    compare_results,
    expand_paired,
)
from libs.evaluation.reports.report_page import page, section, table
from libs.evaluation.results import check_overlap, list_mismatches, read_results

MOST_CLASSES = 10  # gains and losses that are shown
HEAD = ["", "A", "B", "B - A", "95 %", "p"]
ABOUT = (
    "Numbers in %. B - A with its 95 % interval; p is that of a two-sided paired bootstrap test over videos, below .05 "
    "where the interval does not hold 0. It is not corrected for the number of rows."
)


@dataclass(frozen=True)
class Pair:
    """Two results files and what they are scored against; limit: of the split's videos the first, None for all."""

    title: str
    results: tuple[Path, Path]
    annotations: Path
    splits: tuple[str, ...]
    tious: tuple[float, ...]
    limit: int | None = None
    sounds: bool = False  # whether "all" metrics hold those of sound events


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("a", metavar="A", type=Path, help="a results file, or a folder with eval.py's metrics.json")
    parser.add_argument("b", metavar="B", type=Path, help="the other")
    parser.add_argument("annotations", metavar="ANNOTATIONS.json", type=Path, nargs="?", help="of results files")
    parser.add_argument("--subset", help="the split that results files are scored on, or several: val+test")
    parser.add_argument(
        "--tious", metavar="FIRST:LAST:STEP", help="of results files (default: 0.5:0.95:0.05), or a,b,c"
    )
    parser.add_argument("--keep-duplicates", action="store_true", help="keep annotations that repeat an earlier one")
    parser.add_argument("--metrics", default="all", metavar="NAMES", help="all, or some: see score.py")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers there, classes too")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write the tables there as a page")
    return parser.parse_args()


def pairs_of_files(args: argparse.Namespace) -> list[Pair]:
    if args.annotations is None or args.subset is None:
        raise ConfigError("two results files need ANNOTATIONS.json and --subset (two folders of eval.py do not)")
    try:
        tious = parse_tious(args.tious or "0.5:0.95:0.05")
    except ValueError as error:
        raise ConfigError(f"--tious: {error}") from None
    return [Pair(args.subset, (args.a, args.b), args.annotations, tuple(args.subset.split("+")), tious)]


def pairs_of_folders(args: argparse.Namespace) -> list[Pair]:
    """A pair for each task that both were evaluated on, as metrics.json says it."""
    if args.annotations or args.subset or args.tious:
        raise ConfigError(
            "folders say themselves what they were scored on; leave out ANNOTATIONS, --subset and --tious"
        )
    trees = [read_json(folder / "metrics.json", "what eval.py writes there") for folder in (args.a, args.b)]
    trees = [tree if isinstance(tree, dict) else {} for tree in trees]
    tasks = [{k: v for k, v in tree.items() if isinstance(v, dict) and "average_mAP" in v} for tree in trees]
    shared = [key for key in tasks[0] if key in tasks[1]]
    if not shared:
        raise DataError(f"{args.a} and {args.b}: their metrics.json have no task in common")
    return [_pair_of_task(key, (args.a, args.b), [task[key] for task in tasks]) for key in shared]


def _pair_of_task(key: str, folders: tuple[Path, Path], trees: list[dict[str, Any]]) -> Pair:
    for folder, tree in zip(folders, trees, strict=True):
        missing = {"annotations", "splits", "tiou", "videos"} - tree.keys()
        if missing:
            raise DataError(f"{folder / 'metrics.json'}: {key} lacks {', '.join(sorted(missing))}; run eval.py again")
    for name in ("annotations", "splits", "tiou", "videos"):
        if trees[0][name] != trees[1][name]:
            raise DataError(f"{key}: {name} is {trees[0][name]} in {folders[0]}, {trees[1][name]} in {folders[1]}")
    tree = trees[0]
    results = tuple(folder / f"results_{key}.json" for folder in folders)
    sounds = all("sed" in tree.get("metrics", {}) for tree in trees)
    splits, tious = tuple(tree["splits"]), tuple(tree["tiou"])
    return Pair(key, results, Path(tree["annotations"]), splits, tious, tree["videos"], sounds)


def compare_pair(pair: Pair, names: tuple[str, ...], keep_repeats: bool) -> Comparison:
    annotations = load_annotations(pair.annotations)
    videos = annotations.select_splits(pair.splits, pair.limit)
    both = []
    for path in pair.results:
        detections = read_results(path, annotations.class_names)
        check_overlap(path, detections, videos, annotations.class_names)
        for note in list_mismatches(detections, videos):
            print(f"warning: {path}: {note}")
        truth = videos if keep_repeats else remove_repeats(videos)
        both.append(EvaluationInput(detections, truth, annotations.class_names, pair.tious, MetricSettings()))
    return compare_results(*both, names)


def rows(differences: list[MetricDifference]) -> list[list[str]]:
    shown = []
    for d in differences:
        value, low, high = (f"{100 * x:+.2f}" for x in d.difference)
        name = d.name.replace("_", " ") if d.instances is None else f"{d.name} ({d.instances})"
        shown.append([name, f"{100 * d.a:.2f}", f"{100 * d.b:.2f}", value, f"[{low}, {high}]", f"{d.p:.3f}"])
    return shown


def tables(found: Comparison) -> dict[str, list[list[str]]]:
    """Title -> rows below HEAD. Gains and losses show classes that differ at all."""
    gains = [d for d in found.classes if d.difference.value > 0][:MOST_CLASSES]
    losses = [d for d in found.classes[::-1] if d.difference.value < 0][:MOST_CLASSES]
    named = {"numbers": found.numbers, "largest gains of a class's AP": gains, "largest losses of a class's AP": losses}
    return {title: rows(differences) for title, differences in named.items() if differences}


@exit_on_user_error
def main() -> None:
    args = parse_args()
    chosen = choose_paired(args.metrics)
    if args.a.is_dir() != args.b.is_dir():
        raise ConfigError(f"{args.a} and {args.b}: expected two folders or two results files")
    pairs = pairs_of_folders(args) if args.a.is_dir() else pairs_of_files(args)
    print(f"A: {args.a}\nB: {args.b}")
    tree, body = {}, []
    for pair in pairs:
        names, notes = expand_paired(chosen, pair.sounds)
        for note in notes:
            print(f"{pair.title}: {note}")
        found = compare_pair(pair, names, args.keep_duplicates)
        tree[pair.title] = found.tree()
        for title, shown in tables(found).items():
            print("\n" + tabulate(shown, headers=[f"{pair.title}, {title}, in %", *HEAD[1:]], disable_numparse=True))
            body.append(section(f"{pair.title}: {title}", table(HEAD, shown)))
    if args.json:
        write_json(args.json, replace_non_finite({"A": str(args.a), "B": str(args.b), **tree}))
    if args.html:
        with replacing(args.html) as path:
            path.write_text(page(f"{args.b.name} against {args.a.name}", ABOUT, "\n".join(body)), encoding="utf-8")


if __name__ == "__main__":
    main()

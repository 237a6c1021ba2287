"""Compare two results: differences with 95 % intervals, and a paired bootstrap test over videos.

python tools/compare.py ckpt/demo_a ckpt/demo_b                       # two folders with eval.py's results
python tools/compare.py A.json B.json ANNOTATIONS.json --subset val   # two results files of the same videos

Differences are B - A; p < .05 exactly if the 95 % interval excludes 0 (libs/evaluation/paired_comparison.py).
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import parse_tious
from libs.core.errors import ConfigError, DataError
from libs.core.files import read_json, write_json
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics.average_precision import remove_repeats
from libs.evaluation.metrics.compute import EvaluationInput, replace_non_finite
from libs.evaluation.metrics.selection import check_installed, expand_metrics
from libs.evaluation.paired_comparison import compare_results, parse_paired_metrics
from libs.evaluation.reports.report_page import Part, Section, Table, save_page
from libs.evaluation.results import check_results, read_results

MAX_CLASSES = 10  # gains and losses in the tables
HEAD = ["", "A", "B", "B - A", "95 %", "p"]
TASK_KEYS = ("annotations", "splits", "tiou", "videos")  # of metrics.json, with the same values in both folders
ABOUT = (
    "Numbers in %. B - A with its 95 % interval; p is the p-value of a two-sided paired bootstrap test over videos, "
    "below .05 exactly if the interval excludes 0. It is not corrected for the number of rows."
)


class ResultsPair(NamedTuple):
    """Two results files and the videos that they are scored on."""

    title: str
    results: tuple[Path, Path]
    annotations: Path
    splits: tuple[str, ...]
    tious: tuple[float, ...]
    max_videos: int | None = None
    sounds: bool = False  # "all" metrics include those of sound events


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("a", metavar="A", type=Path, help="a results file, or a folder with eval.py's metrics.json")
    parser.add_argument("b", metavar="B", type=Path, help="the other one")
    parser.add_argument("annotations", metavar="ANNOTATIONS.json", type=Path, nargs="?", help="for results files")
    parser.add_argument("--subset", help="the split to score results files on, or several: val+test")
    tious_help = "for results files (default: 0.5:0.95:0.05), or a,b,c"
    parser.add_argument("--tious", metavar="FIRST:LAST:STEP", help=tious_help)
    parser.add_argument("--keep-duplicates", action="store_true", help="keep annotations that repeat an earlier one")
    parser.add_argument("--metrics", default="all", metavar="NAMES", help="all, or some: see score.py")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers and all classes there")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write the tables there as a page")
    return parser.parse_args()


def pair_files(args: argparse.Namespace) -> list[ResultsPair]:
    if args.annotations is None or args.subset is None:
        raise ConfigError("two results files need ANNOTATIONS.json and --subset (two folders of eval.py do not)")
    tious = parse_tious(args.tious or "0.5:0.95:0.05")
    return [ResultsPair(args.subset, (args.a, args.b), args.annotations, tuple(args.subset.split("+")), tious)]


def pair_folders(args: argparse.Namespace) -> list[ResultsPair]:
    """Pair the results of each task that both folders have, with the data that metrics.json names."""
    if args.annotations or args.subset or args.tious:
        raise ConfigError("folders name the data of their results; leave out ANNOTATIONS, --subset and --tious")
    a, b = (read_json(folder / "metrics.json", "the metrics that eval.py writes") for folder in (args.a, args.b))
    shared = [key for key in a if key in b and key.startswith("TASK")]
    if not shared:
        raise DataError(f"{args.a} and {args.b}: their metrics.json have no task in common")
    return [pair_task(key, args, a[key], b[key]) for key in shared]


def pair_task(key: str, args: argparse.Namespace, a: dict[str, Any], b: dict[str, Any]) -> ResultsPair:
    if missing := [name for name in TASK_KEYS if name not in a or name not in b]:
        raise DataError(f"metrics.json of {args.a} or {args.b}: {key} lacks {', '.join(missing)}; run eval.py again")
    for name in TASK_KEYS:
        if a[name] != b[name]:
            raise DataError(f"{key}: {name} is {a[name]} in {args.a}, but {b[name]} in {args.b}")
    sounds = all("sed" in tree.get("metrics", {}) for tree in (a, b))
    results = (args.a / f"results_{key}.json", args.b / f"results_{key}.json")
    return ResultsPair(key, results, Path(a["annotations"]), tuple(a["splits"]), tuple(a["tiou"]), a["videos"], sounds)


def compare_pair(pair: ResultsPair, names: tuple[str, ...], keep_repeats: bool) -> dict[str, list[dict[str, Any]]]:
    annotations = load_annotations(pair.annotations)
    videos = annotations.select_splits(pair.splits, pair.max_videos)
    truth = videos if keep_repeats else remove_repeats(videos)
    inputs = []
    for path in pair.results:
        detections = read_results(path, annotations.class_names)
        for note in check_results(path, detections, videos, annotations.class_names):
            print(f"warning: {path}: {note}")
        inputs.append(EvaluationInput(detections, truth, annotations.class_names, pair.tious))
    return compare_results(inputs[0], inputs[1], names)


def format_row(row: dict[str, Any]) -> list[str]:
    """Format a row of a comparison as cells below HEAD."""
    name = f"{row['name']} ({row['instances']})" if "instances" in row else row["name"].replace("_", " ")
    value, low, high = (f"{100 * x:+.2f}" for x in row["difference"].values())
    return [name, f"{100 * row['A']:.2f}", f"{100 * row['B']:.2f}", value, f"[{low}, {high}]", f"{row['p']:.3f}"]


def build_tables(comparison: dict[str, list[dict[str, Any]]]) -> dict[str, list[list[str]]]:
    """Title -> cells below HEAD. Classes without a difference are left out."""
    classes = comparison["classes"]
    gains = [row for row in classes if row["difference"]["value"] > 0][:MAX_CLASSES]
    losses = [row for row in classes[::-1] if row["difference"]["value"] < 0][:MAX_CLASSES]
    tables = {"numbers": comparison["numbers"], "largest gains of AP": gains, "largest losses of AP": losses}
    return {title: [format_row(row) for row in rows] for title, rows in tables.items() if rows}


@exit_on_user_error
def main() -> None:
    args = parse_args()
    chosen = parse_paired_metrics(args.metrics)
    if args.html:
        check_installed(("jinja2",), "--html")
    if args.a.is_dir() != args.b.is_dir():
        raise ConfigError(f"{args.a} and {args.b}: expected two folders or two results files")
    pairs = pair_folders(args) if args.a.is_dir() else pair_files(args)
    print(f"A: {args.a}\nB: {args.b}")
    tree, sections = {}, []
    for pair in pairs:
        names, notes = expand_metrics(chosen, pair.sounds)
        for note in notes:
            print(f"{pair.title}: {note}")
        tree[pair.title] = compare_pair(pair, names, args.keep_duplicates)
        for title, rows in build_tables(tree[pair.title]).items():
            print("\n" + tabulate(rows, headers=[f"{pair.title}, {title}, in %", *HEAD[1:]], disable_numparse=True))
            sections.append(Section(f"{pair.title}: {title}", [Table(HEAD, rows)]))
    if args.json:
        write_json(args.json, replace_non_finite({"A": str(args.a), "B": str(args.b), **tree}))
    if args.html:
        save_page(args.html, f"{args.b.name} against {args.a.name}", ABOUT, [Part(sections)])


if __name__ == "__main__":
    main()

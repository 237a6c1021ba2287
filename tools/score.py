"""Score a results file in ActivityNet's layout against annotations, without a model.

python tools/score.py RESULTS.json ANNOTATIONS.json --subset validation --tious 0.5:0.95:0.05
python tools/score.py RESULTS.json ANNOTATIONS.json --subset validation --metrics all --output scored
"""

import argparse
from pathlib import Path

from libs.core.cli import build_parser, exit_on_user_error
from libs.core.config import parse_tious
from libs.core.errors import ConfigError
from libs.core.files import make_folder, write_json
from libs.datasets.annotations import load_annotations
from libs.evaluation.metrics.average_precision import remove_repeats, score_detections
from libs.evaluation.metrics.compute import METRICS, EvaluationInput, compute_metrics, metrics_to_dict
from libs.evaluation.metrics.selection import expand_metrics
from libs.evaluation.reports.report_page import Part, choose_for_report, write_report
from libs.evaluation.reports.tables import format_headline_table, format_score_table, scores_to_dict
from libs.evaluation.results import check_results, read_results


def parse_args() -> argparse.Namespace:
    parser = build_parser(__doc__)
    parser.add_argument("results", metavar="RESULTS.json", type=Path, help="may be gzipped (.json.gz)")
    parser.add_argument("annotations", metavar="ANNOTATIONS.json", type=Path)
    parser.add_argument("--subset", required=True, help="the split to score, or several: val+test")
    parser.add_argument("--tious", default="0.5:0.95:0.05", metavar="FIRST:LAST:STEP", help="or a,b,c")
    parser.add_argument("--keep-duplicates", action="store_true", help="keep annotations that repeat an earlier one")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write mAP and the AP of each class there")
    parser.add_argument("--metrics", metavar="NAMES", help=f"write a report: all, or some of {','.join(METRICS)}")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the report (default: RESULTS_metrics)")
    args = parser.parse_args()
    if args.output and args.metrics is None:
        raise ConfigError("--output: only --metrics writes there; add --metrics all")
    return args


@exit_on_user_error
def main() -> None:
    args = parse_args()
    tious = parse_tious(args.tious)
    chosen = choose_for_report(args.metrics) if args.metrics is not None else None

    annotations = load_annotations(args.annotations)
    videos = annotations.select_splits(tuple(args.subset.split("+")))
    detections = read_results(args.results, annotations.class_names)
    notes = check_results(args.results, detections, videos, annotations.class_names)
    scores = score_detections(detections, videos, tious, keep_repeats=args.keep_duplicates)

    print(f"{len(detections.scores)} detections, {len(videos)} videos, {len(scores.labels)} classes")
    for note in notes:
        print(f"warning: {note}")
    print(format_score_table("mAP", {args.results.name: scores}))
    print(f"average mAP {scores.average:.12f}")
    tree = scores_to_dict(scores, annotations.class_names)
    if chosen:
        folder = args.output or args.results.with_name(args.results.name.split(".json")[0] + "_metrics")
        make_folder(folder)
        names, left_out = expand_metrics(chosen, sounds=False)
        truth = videos if args.keep_duplicates else remove_repeats(videos)
        data = EvaluationInput(detections, truth, annotations.class_names, tious)
        results = compute_metrics(data, names)
        print("\n".join(["", format_headline_table(results), *left_out]))
        part = Part.build(f"{args.results.name}, {args.subset}", data, results, (*notes, *left_out))
        write_report(folder, args.results.name, {"": part})
        tree["metrics"] = metrics_to_dict(results)
        write_json(folder / "metrics.json", tree)
        print(f"written to {folder}: metrics.json, report.html, plots")
    if args.json:
        write_json(args.json, tree)


if __name__ == "__main__":
    main()

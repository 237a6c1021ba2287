"""Score anyone's results file in ActivityNet's layout against annotations; no model needed.

python tools/score.py RESULTS.json ANNOTATIONS.json --subset validation --tious 0.5:0.95:0.05
"""

import argparse
from pathlib import Path

from libs.core.config import parse_tious
from libs.core.errors import ConfigError, exit_on_user_error
from libs.core.files import write_json
from libs.datasets.annotations import load_annotations
from libs.evaluation.detection import score_detections
from libs.evaluation.report import score_table, score_tree
from libs.evaluation.results import UNKNOWN_CLASS, read_results


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", metavar="RESULTS.json", type=Path, help="may be gzipped (.json.gz)")
    parser.add_argument("annotations", metavar="ANNOTATIONS.json", type=Path)
    parser.add_argument("--subset", required=True, help="the split to score, or several: val+test")
    parser.add_argument("--tious", default="0.5:0.95:0.05", metavar="FIRST:LAST:STEP", help="or a,b,c")
    parser.add_argument("--keep-duplicates", action="store_true", help="keep annotations that repeat an earlier one")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write mAP and AP of each class there")
    args = parser.parse_args()
    try:
        tious = parse_tious(args.tious)
    except ValueError as error:
        raise ConfigError(f"--tious: {error}") from None

    annotations = load_annotations(args.annotations)
    videos = annotations.of_splits(tuple(args.subset.split("+")))
    detections = read_results(args.results, annotations.class_names)
    scores = score_detections(detections, videos, tious, keep_repeats=args.keep_duplicates)

    unknown_videos = len(set(detections.video_ids) - {video.video_id for video in videos})
    unknown_labels = int((detections.labels == UNKNOWN_CLASS).sum())
    print(f"{len(detections.scores)} detections, {len(videos)} videos, {len(scores.labels)} classes")
    if unknown_videos or unknown_labels:
        print(
            f"warning: {unknown_videos} videos are not in the split and {unknown_labels} detections have a label the "
            "annotations lack; they earn nothing"
        )
    print(score_table("mAP", {args.results.name: scores}))
    print(f"average mAP {scores.average:.12f}")
    if args.json:
        write_json(args.json, score_tree(scores, annotations.class_names))


if __name__ == "__main__":
    main()

"""Read and write results files in ActivityNet's submission layout."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from libs.core.errors import DataError, format_list
from libs.core.files import write_json
from libs.core.types import Detections, Video

MAX_LABEL_ID = 2**31 - 1
UNKNOWN_CLASS = -1  # a label that the ground truth does not know


def write_results(path: Path, detections: Detections, class_names: dict[int, str]) -> None:
    """Write {"version", "results": {video_id: [{"label", "score", "segment"}]}}; a label is a name if it has one."""
    results: dict[str, list] = {video_id: [] for video_id in detections.video_ids}
    rows = zip(detections.video, detections.segments.tolist(), detections.scores, detections.labels, strict=True)
    for video, segment, score, label in rows:
        entry = {"label": class_names.get(int(label), int(label)), "score": float(score), "segment": segment}
        results[detections.video_ids[video]].append(entry)
    write_json(path, {"version": "VERSION 1.3", "results": results, "external_data": {}})


def read_results(path: Path, class_names: dict[int, str]) -> Detections:
    """Read a results file, also gzipped (.gz). Labels are names or ids, as numbers or digits.

    Raises:
        DataError: naming file and video, on anything else.
    """
    try:
        data = path.read_bytes()
        tree = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}, expected a results file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}), expected a results file") from None
    results = tree.get("results") if isinstance(tree, dict) else None
    if not isinstance(results, dict):
        raise DataError(f'{path}: expected a JSON object with "results": {{video_id: [{{label, score, segment}}]}}')
    ids = {name: label for label, name in class_names.items()}
    rows: list[tuple[float, ...]] = []
    for i, (video_id, entries) in enumerate(results.items()):
        try:
            rows += [(i, *_parse_entry(entry, ids)) for entry in entries]
        except (TypeError, KeyError, ValueError, OverflowError):
            raise DataError(f"{path}: video {video_id}: expected a list of {{label, score, segment}}") from None
    video, start, end, scores, labels = np.array(rows, np.float64).reshape(-1, 5).T
    bad = ~np.isfinite(start + end + scores)
    if bad.any():
        video_id = list(results)[int(video[bad.argmax()])]
        raise DataError(f"{path}: video {video_id}: a segment or score is not finite, expected numbers")
    bad = (scores < 0) | (scores > 1)
    if bad.any():
        video_id, score = list(results)[int(video[bad.argmax()])], scores[bad.argmax()]
        raise DataError(
            f"{path}: video {video_id}: score {score:g}, expected 0 … 1; {bad.sum()} lie outside, rescale them"
        )
    segments = np.stack([start, end], axis=1)
    return Detections(tuple(results), video.astype(np.int64), segments, scores.copy(), labels.astype(np.int64))


def _parse_entry(entry: dict[str, Any], ids: dict[str, int]) -> tuple[float, float, float, int]:
    """Parse start, end, score and label_id."""
    start, end = entry["segment"]
    label = entry["label"]
    if isinstance(label, str):
        label = ids[label] if label in ids else int(label) if label.isdecimal() else UNKNOWN_CLASS
    return float(start), float(end), float(entry["score"]), int(label) if 0 <= label <= MAX_LABEL_ID else UNKNOWN_CLASS


def check_overlap(path: Path, detections: Detections, videos: list[Video], class_names: dict[int, str]) -> None:
    """Raise DataError if no video or no label is annotated: these are results of other data."""
    if len(detections.scores) == 0:
        return
    known = {video.video_id for video in videos}
    if known.isdisjoint(detections.video_ids):
        found_text, known_text = format_list(sorted(detections.video_ids)), format_list(sorted(known))
        raise DataError(
            f"{path}: none of its {len(detections.video_ids)} videos is in the split ({found_text}; the split has "
            f"{known_text}); choose its own annotations and split"
        )
    labels = {label for video in videos for label in video.labels.tolist()}
    if labels and labels.isdisjoint(detections.labels.tolist()):
        names = format_list(sorted(class_names.get(label, str(label)) for label in labels))
        raise DataError(f"{path}: no detection has a label of the split's annotations; they are {names}")


def list_mismatches(detections: Detections, videos: list[Video]) -> list[str]:
    """List what cannot be scored, one line each: videos that are not in the split, and unknown labels."""
    unknown = sorted(set(detections.video_ids) - {video.video_id for video in videos})
    rows = int(np.isin(np.array(detections.video_ids, object)[detections.video], unknown).sum()) if unknown else 0
    labels = int((detections.labels == UNKNOWN_CLASS).sum())
    notes = []
    if unknown:
        notes.append(
            f"{len(unknown)} videos are not in the split ({format_list(unknown)}): their {rows} detections find "
            "nothing and count as false positives in mAP, as in the official code"
        )
    if labels:
        notes.append(f"{labels} detections have a label the annotations lack; they earn nothing")
    return notes

"""Results files in ActivityNet's submission layout."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np

from libs.core.errors import DataError, format_list
from libs.core.files import write_json
from libs.core.types import Detections, Video

MAX_LABEL_ID = 2**31 - 1
UNKNOWN_CLASS = -1  # a label that the ground truth does not know


def write_results(path: Path, detections: Detections, class_names: dict[int, str]) -> None:
    """{"version", "results": {video_id: [{"label", "score", "segment"}]}}; labels are names where known, else ids."""
    results: dict[str, list] = {video_id: [] for video_id in detections.video_ids}
    rows = zip(detections.video, detections.segments.tolist(), detections.scores, detections.labels, strict=True)
    for video, segment, score, label in rows:
        entry = {"label": class_names.get(int(label), int(label)), "score": float(score), "segment": segment}
        results[detections.video_ids[video]].append(entry)
    write_json(path, {"version": "VERSION 1.3", "results": results, "external_data": {}})


def read_results(path: Path, class_names: dict[int, str]) -> Detections:
    """A results file, also gzipped (.gz). Labels are names or ids, as numbers or digits.

    Raises DataError, naming file and video, on anything that is no such file.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        tree = json.loads(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}, expected a results file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}), expected a results file") from None
    results = tree.get("results") if isinstance(tree, dict) else None
    if not isinstance(results, dict):
        raise DataError(f'{path}: expected a JSON object with "results": {{video_id: [{{label, score, segment}}]}}')
    ids = {name: label for label, name in class_names.items()}
    video, segments, scores, labels = [], [], [], []
    for i, (video_id, entries) in enumerate(results.items()):
        try:
            for entry in entries:
                start, end = entry["segment"]
                segments.append((float(start), float(end)))
                scores.append(float(entry["score"]))
                labels.append(_label_id(entry["label"], ids))
                video.append(i)
        except (TypeError, KeyError, ValueError, OverflowError):
            raise DataError(f"{path}: video {video_id}: expected a list of {{label, score, segment}}") from None
    table = Detections(
        tuple(results),
        np.array(video, np.int64),
        np.array(segments, np.float64).reshape(-1, 2),
        np.array(scores, np.float64),
        np.array(labels, np.int64),
    )
    bad = ~(np.isfinite(table.segments).all(axis=1) & np.isfinite(table.scores))
    if bad.any():
        where = table.video_ids[table.video[bad.argmax()]]
        raise DataError(f"{path}: video {where}: a segment or score is not finite, expected numbers")
    bad = (table.scores < 0) | (table.scores > 1)
    if bad.any():
        where, score = table.video_ids[table.video[bad.argmax()]], table.scores[bad.argmax()]
        raise DataError(
            f"{path}: video {where}: score {score:g}, expected 0 … 1; {bad.sum()} lie outside, rescale them"
        )
    return table


def check_overlap(path: Path, detections: Detections, videos: list[Video], class_names: dict[int, str]) -> None:
    """Raise DataError where no video, or no label, is annotated: another data set's or split's results."""
    if len(detections.scores) == 0:
        return
    known = {video.video_id for video in videos}
    if known.isdisjoint(detections.video_ids):
        raise DataError(
            f"{path}: none of its {len(detections.video_ids)} videos is in the split "
            f"({format_list(sorted(detections.video_ids))}; the split has {format_list(sorted(known))}); choose the annotations and "
            "split that it belongs to"
        )
    labels = np.unique(np.concatenate([np.empty(0, np.int64), *(video.labels for video in videos)]))
    if len(labels) and not np.isin(detections.labels, labels).any():
        named = format_list(sorted(class_names.get(int(label), str(label)) for label in labels))
        raise DataError(f"{path}: no detection has a label of the split's annotations; they are {named}")


def list_mismatches(detections: Detections, videos: list[Video]) -> list[str]:
    """What of the results cannot be right, in a line each: videos that are not in the split, named, and labels that the
    annotations lack."""
    known = {video.video_id for video in videos}
    unknown = [video_id for video_id in detections.video_ids if video_id not in known]
    rows = int(np.isin(detections.video, [i for i, v in enumerate(detections.video_ids) if v not in known]).sum())
    labels = int((detections.labels == UNKNOWN_CLASS).sum())
    notes = []
    if unknown:
        notes.append(
            f"{len(unknown)} videos are not in the split ({format_list(sorted(unknown))}): their {rows} detections find "
            "nothing and count as false positives in mAP, as in the official code"
        )
    if labels:
        notes.append(f"{labels} detections have a label the annotations lack; they earn nothing")
    return notes


def _label_id(label: str | int, ids: dict[str, int]) -> int:
    if isinstance(label, str):
        label = ids[label] if label in ids else int(label) if label.isdecimal() else UNKNOWN_CLASS
    return int(label) if 0 <= label <= MAX_LABEL_ID else UNKNOWN_CLASS

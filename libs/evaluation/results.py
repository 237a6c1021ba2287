"""Read and write results files in ActivityNet's submission layout."""

import gzip
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from libs.core.errors import DataError, format_list
from libs.core.files import write_json
from libs.core.types import Detections, Video
from libs.evaluation.metrics.average_precision import find_video_indices

MAX_LABEL_ID = 2**31 - 1
UNKNOWN_CLASS = -1  # a label that the ground truth does not know
LAYOUT = '{"results": {video_id: [{"label", "score": 0 … 1, "segment": [start, end]}]}}'


class ResultsEntry(TypedDict):
    """A detection in a results file; the label is a name or an id, as a number or digits."""

    label: int | str
    score: Annotated[float, Field(ge=0, le=1)]
    segment: tuple[FiniteFloat, FiniteFloat]


class ResultsFile(TypedDict):
    """The part of a results file that is read."""

    results: dict[str, list[ResultsEntry]]


def write_results(path: Path, detections: Detections, class_names: dict[int, str]) -> None:
    """Write {"version", "results": {video_id: [{"label", "score", "segment"}]}}; a label is a name if it has one."""
    results: dict[str, list] = {video_id: [] for video_id in detections.video_ids}
    rows = zip(detections.video, detections.segments.tolist(), detections.scores, detections.labels, strict=True)
    for video, segment, score, label in rows:
        entry = {"label": class_names.get(int(label), int(label)), "score": float(score), "segment": segment}
        results[detections.video_ids[video]].append(entry)
    write_json(path, {"version": "VERSION 1.3", "results": results, "external_data": {}})


def read_results(path: Path, class_names: dict[int, str]) -> Detections:
    """Read a results file, also gzipped (.gz).

    Raises:
        DataError: naming file and video, on anything else.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        results = TypeAdapter(ResultsFile).validate_json(data)["results"]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}, expected a results file") from None
    except ValidationError as error:
        first, *others = error.errors()
        place = ": ".join([str(path), *map(str, first["loc"])])
        found = f"found {first['input']!r:.60} and {len(others)} more faults"
        raise DataError(f"{place}: {first['msg']}, {found}; expected {LAYOUT}") from None
    entries = [entry for rows in results.values() for entry in rows]
    ids = {name: label for label, name in class_names.items()}
    return Detections(
        tuple(results),
        np.array([i for i, rows in enumerate(results.values()) for _ in rows], np.int64),
        np.array([entry["segment"] for entry in entries], np.float64).reshape(-1, 2),
        np.array([entry["score"] for entry in entries], np.float64),
        np.array([_find_label(entry["label"], ids) for entry in entries], np.int64),
    )


def _find_label(label: int | str, ids: dict[str, int]) -> int:
    if isinstance(label, str):
        label = ids.get(label, int(label) if label.isdecimal() else UNKNOWN_CLASS)
    return label if 0 <= label <= MAX_LABEL_ID else UNKNOWN_CLASS


def check_results(path: Path, detections: Detections, videos: list[Video], class_names: dict[int, str]) -> list[str]:
    """List what cannot be scored, one line each: videos that are not in the split, and unknown labels.

    Raises:
        DataError: if no video or no label is annotated: these are results of other data.
    """
    known = {video.video_id for video in videos}
    unknown = sorted(set(detections.video_ids) - known)
    if len(detections.scores) and known.isdisjoint(detections.video_ids):
        raise DataError(
            f"{path}: none of its {len(unknown)} videos is in the split ({format_list(unknown)}; the split has "
            f"{format_list(sorted(known))}); choose its own annotations and split"
        )
    labels = {label for video in videos for label in video.labels.tolist()}
    if len(detections.scores) and labels and labels.isdisjoint(detections.labels.tolist()):
        names = format_list(sorted(class_names.get(label, str(label)) for label in labels))
        raise DataError(f"{path}: no detection has a label of the split's annotations; they are {names}")
    notes = []
    if unknown:
        rows = int((find_video_indices(detections, videos) < 0).sum())
        notes.append(
            f"{len(unknown)} videos are not in the split ({format_list(unknown)}): their {rows} detections find "
            "nothing and count as false positives in mAP, as in the official code"
        )
    if UNKNOWN_CLASS in detections.labels:
        count = int((detections.labels == UNKNOWN_CLASS).sum())
        notes.append(f"{count} detections have a label the annotations lack; they earn nothing")
    return notes

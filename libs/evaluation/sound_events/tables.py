"""Inputs of the metrics of sound event detection: frame scores of scored segments, and event tables of other systems.

Shapes: V videos, C classes, F frames of a video.
"""

import io
import re
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from libs.core.errors import DataError
from libs.core.types import Detections, Video
from libs.evaluation.metrics.average_precision import find_video_indices, lookup_indices

OVERHANG_S = 1.0  # events may end this long after their video: a network's last window, a listener's last mark
COLUMNS = ("filename", "onset", "offset", "event_label")
SOUND_SUFFIX = r"(?i)\.(wav|flac|mp3|ogg|m4a)$"
TABLE_SUFFIXES = (".tsv", ".csv")


def compute_frame_scores(
    detections: Detections, videos: list[Video], labels: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Convert scored segments to frame scores without gaps.

    A frame lies between two neighbouring ends of the video's detections. A class's score in it is the highest of the
    detections that cover it, or 0, so events above a threshold are unions of segments above it. Segments are cut to the
    video plus OVERHANG_S; other videos and classes are ignored.

    Args:
        labels: (C,) sorted label_ids.

    Returns:
        timestamps (F + 1,) in seconds and scores (F, C) of each video.
    """
    column, video = lookup_indices(labels, detections.labels), find_video_indices(detections, videos)
    latest = np.array([v.duration + OVERHANG_S for v in videos] + [0.0])[video]  # the last one is for video -1
    segments = np.minimum(detections.segments.clip(min=0), latest[:, None])
    rows = np.flatnonzero((column >= 0) & (video >= 0) & (segments[:, 1] > segments[:, 0]))
    rows = rows[np.lexsort((detections.scores[rows], video[rows]))]
    starts = np.searchsorted(video[rows], np.arange(len(videos) + 1))
    tables = []
    for i, one in enumerate(videos):
        own = rows[starts[i] : starts[i + 1]]
        times = np.unique([0.0, one.duration, *segments[own].ravel()])
        scores = np.zeros((len(times) - 1, len(labels)))
        first, last = np.searchsorted(times, segments[own]).T
        for a, b, c, score in zip(first, last, column[own], detections.scores[own], strict=True):
            scores[a:b, c] = score  # in rising score, so that the highest remains
        tables.append((times, scores))
    return tables


def read_events(path: Path, class_names: dict[int, str]) -> Detections:
    """Read decisions at one threshold in DCASE's format; every event becomes a detection with score 1.

    The table has columns filename, onset, offset and event_label, separated by tabs or commas; other columns are
    ignored. A video's id is its file name without a sound's suffix. A row with only a file name means that nothing was
    found in it.

    Raises:
        DataError: naming file and line.
    """
    return _build_detections(_parse_table(str(path), path.read_bytes(), class_names), 1.0)


def read_operating_points(path: Path, class_names: dict[int, str]) -> Detections:
    """Read decisions at several thresholds: a folder or tar file of tables as for read_events.

    The last number in a table's name is its threshold, in (0, 1], and becomes the score of its events. Each event must
    lie within an event of the next lower threshold, as thresholds on one score give; then compute_frame_scores
    restores the tables.

    Raises:
        DataError: naming the table.
    """
    tables: dict[float, tuple[str, pd.DataFrame]] = {}
    for name, data in _read_files(path):
        where = f"{path}: {name}"
        numbers = re.findall(r"\d+(?:\.\d+)?", Path(name).stem)
        threshold = float(numbers[-1]) if numbers else 0.0
        if not 0 < threshold <= 1:
            raise DataError(f"{where}: expected a name that ends in its threshold, in (0, 1], as points_0.25.tsv")
        if threshold in tables:
            raise DataError(f"{where}: its threshold is also that of {tables[threshold][0]}")
        tables[threshold] = name, _parse_table(where, data, class_names)
    if not tables:
        raise DataError(f"{path}: contains no .tsv or .csv, expected a table of events for each threshold")
    thresholds = sorted(tables)
    for lower, upper in pairwise(thresholds):
        _check_nested(path, tables[upper], tables[lower])
    scores = np.repeat(thresholds, [len(tables[threshold][1]) for threshold in thresholds])
    return _build_detections(pd.concat([tables[threshold][1] for threshold in thresholds]), scores)


def _read_files(path: Path) -> list[tuple[str, bytes]]:
    """Read the names and contents of the tables in a folder or tar file, without unpacking it to the disk."""
    if path.is_dir():
        return [(file.name, file.read_bytes()) for file in sorted(path.rglob("*")) if _is_table(file.name)]
    with tarfile.open(path) as tar:
        members = ((m.name, tar.extractfile(m)) for m in tar if m.isfile() and _is_table(m.name))
        return [(name, file.read()) for name, file in members if file is not None]


def _is_table(name: str) -> bool:
    return Path(name).suffix.lower() in TABLE_SUFFIXES and not Path(name).name.startswith(".")


def _parse_table(where: str, data: bytes, class_names: dict[int, str]) -> pd.DataFrame:
    """Parse a table into columns video, onset, offset, label; the last three are NaN for a file without events."""
    separator = "\t" if b"\t" in data.split(b"\n", 1)[0] else ","
    # Text only: Python's float() below rounds correctly, while pandas' "legacy" parser does not (event F1 .39827 for
    # .39873 on DESED). Blank lines stay, so that the index counts lines.
    options: dict[str, Any] = {"sep": separator, "dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    try:
        table = pd.read_csv(io.BytesIO(data), usecols=lambda name: name in COLUMNS, encoding="utf-8-sig", **options)
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8, expected a table of events; save it as UTF-8") from None
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DataError(f"{where}: column {missing[0]} is missing, expected {', '.join(COLUMNS)} by tabs or commas")
    table = table.reindex(columns=list(COLUMNS)).fillna("").replace(r"^\s+|\s+$", "", regex=True)
    table = table.drop(index=table.index[(table == "").all(axis=1)])
    labels = {name: label for label, name in class_names.items()}
    found = (table.drop(columns="filename") != "").any(axis=1)
    onset, offset = table.onset.map(_parse_seconds), table.offset.map(_parse_seconds)
    faults = {
        "a filename": table.filename == "",
        "0 <= onset <= offset in seconds": found & ~((onset >= 0) & (onset <= offset) & (offset < np.inf)),
        f"one of the classes {', '.join(sorted(labels))[:200]}": found & ~table.event_label.isin(labels),
    }
    for expected, faulty in faults.items():
        if faulty.any():
            row = int(faulty.argmax())
            line = table.index[row] + 2
            raise DataError(f"{where}: line {line}: {table.iloc[row].tolist()}, expected {expected}")
    video = table.filename.str.replace(SOUND_SUFFIX, "", regex=True)
    return pd.DataFrame({"video": video, "onset": onset, "offset": offset, "label": table.event_label.map(labels)})


def _parse_seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _check_nested(path: Path, upper: tuple[str, pd.DataFrame], lower: tuple[str, pd.DataFrame]) -> None:
    """Raise DataError if an event of the upper threshold lies within no event of the lower one."""
    events = upper[1].dropna().reset_index(drop=True)
    pairs = events.reset_index().merge(lower[1].dropna(), on=["video", "label"], suffixes=("", "_lower"))
    nested = pairs.query("onset_lower <= onset and offset <= offset_lower")
    outside = events.drop(index=nested.loc[:, "index"].unique())
    if len(outside):
        video, onset, offset, _ = outside.iloc[0].tolist()
        raise DataError(
            f"{path}: {video}'s event [{onset}, {offset}] in {upper[0]} lies within no event of {lower[0]}: these are "
            "not thresholds of one score"
        )


def _build_detections(table: pd.DataFrame, scores: np.ndarray | float) -> Detections:
    """Build detections from rows of _parse_table and a score, or one per row."""
    video, ids = pd.factorize(table.video)
    found = table.label.notna().to_numpy()
    segments, labels = table.loc[found, ["onset", "offset"]], table.loc[found, "label"]
    scores = np.broadcast_to(scores, len(table))[found].astype(np.float64)
    return Detections(tuple(ids), video[found], segments.to_numpy(float), scores, labels.to_numpy(np.int64))

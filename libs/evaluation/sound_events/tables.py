"""What metrics of sound event detection are computed from: frame scores of scored segments, and others' event tables.

Shapes: V videos, C classes, F frames of a video.
"""

import csv
import io
import re
import tarfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np

from libs.core.errors import DataError
from libs.core.types import Detections, Video
from libs.evaluation.metrics.average_precision import index_in

OVERHANG_S = 1.0  # beyond a video's end: a network's last window, a listener's last mark
COLUMNS = ("filename", "onset", "offset", "event_label")
SOUND_SUFFIXES = ("wav", "flac", "mp3", "ogg", "m4a")


def frame_scores(
    detections: Detections, videos: list[Video], labels: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scored segments as gapless frame scores: (timestamps (F + 1,) in seconds, scores (F, C)) of each video.

    A frame lies between two neighbouring ends of the video's detections, so frames have different lengths. A class's
    score in it is the highest of its detections that cover it, and 0 where none does. Hence what is found at a
    threshold t >= 0, where scores are above t, is the union of the segments with scores above t: overlapping or
    touching ones are one event. Frames span the video, and what was detected up to OVERHANG_S beyond its end; what lies
    before 0 or further beyond is cut off. labels (C,): label_ids, sorted. Detections of other videos and classes are
    left out.
    """
    column = index_in(labels, detections.labels)
    place = {video.video_id: i for i, video in enumerate(videos)}
    video = np.array([place.get(v, -1) for v in detections.video_ids], np.int64)[detections.video]
    latest = np.array([v.duration + OVERHANG_S for v in videos] + [0.0])[video]  # video -1 is none
    segments = np.minimum(detections.segments.clip(min=0), latest[:, None])
    rows = np.flatnonzero((column >= 0) & (video >= 0) & (segments[:, 1] > segments[:, 0]))
    rows = rows[np.lexsort((detections.scores[rows], video[rows]))]
    cuts = np.searchsorted(video[rows], np.arange(len(videos) + 1))
    tables = []
    for i, one in enumerate(videos):
        own = rows[cuts[i] : cuts[i + 1]]
        times = np.unique([0.0, one.duration, *segments[own].ravel()])
        scores = np.zeros((len(times) - 1, len(labels)))
        first, last = np.searchsorted(times, segments[own]).T
        for a, b, c, score in zip(first, last, column[own], detections.scores[own], strict=True):
            scores[a:b, c] = score  # in rising score, so that the highest stays
        tables.append((times, scores))
    return tables


def read_events(path: Path, class_names: dict[int, str]) -> Detections:
    """Decisions at one threshold, as DCASE has them: a table with columns filename, onset, offset, event_label (and any
    others), separated by tabs or commas. Every event becomes a detection with score 1.

    A video's id is its file name without .wav (or another sound's suffix). A row with a file name alone says that
    nothing was found in it. Numbers are read by Python's float(), correctly rounded, as pandas reads them unless told
    otherwise. (With float_precision="legacy" pandas 2 reads the last bit of a fifth of DESED's offsets otherwise, and
    one event of the 2021 baseline misses its collar: event F1 .39827 for .39873.) Raises DataError, naming file and
    line, on anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected a table of events") from None
    return _events(str(path), data, class_names, 1.0)


def read_operating_points(path: Path, class_names: dict[int, str]) -> Detections:
    """Decisions at several thresholds, a table each (read_events): a folder or a tar file, compressed or not.

    The last number of a table's name is its threshold, in (0, 1], and its events' score. Tables must be nested, as
    thresholds of one score are: each event lies within one of the next lower threshold; then `frame_scores` gives back
    the tables. Nothing is unpacked to the disk. Raises DataError on anything else.
    """
    tables: dict[float, tuple[str, Detections]] = {}
    for name, data in _files(path):
        where = f"{path}: {name}"
        number = re.findall(r"\d+(?:\.\d+)?", Path(name).stem)
        threshold = float(number[-1]) if number else 0.0
        if not 0 < threshold <= 1:
            raise DataError(f"{where}: expected a name that ends in its threshold, in (0, 1], as points_0.25.tsv")
        if threshold in tables:
            raise DataError(f"{where}: its threshold is also that of {tables[threshold][0]}")
        tables[threshold] = (name, _events(where, data, class_names, threshold))
    if not tables:
        raise DataError(f"{path}: holds no .tsv or .csv, expected a table of events for each threshold")
    ordered = [tables[threshold] for threshold in sorted(tables)]
    for (lower, wide), (upper, narrow) in pairwise(ordered):
        lost = _outside(narrow, wide)
        if lost:
            raise DataError(f"{path}: {lost} in {upper} lies within no event of {lower}: not thresholds of one score")
    return merged(Detections.concat([events for _, events in ordered]))


def merged(detections: Detections) -> Detections:
    """The same with each video named once."""
    ids, video = np.unique(np.array(detections.video_ids, dtype=object), return_inverse=True)
    order = np.argsort(video[detections.video], kind="stable")
    rows = (detections.segments[order], detections.scores[order], detections.labels[order])
    return Detections(tuple(ids.tolist()), video[detections.video][order], *rows)


def _files(path: Path) -> list[tuple[str, bytes]]:
    """Names and contents of the tables of a folder or tar file. Raises DataError where it is neither."""
    try:
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_table(file.name)]
            return [(file.name, file.read_bytes()) for file in files]
        with tarfile.open(path) as tar:
            return [(m.name, tar.extractfile(m).read()) for m in tar if m.isfile() and _is_table(m.name)]
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        what = getattr(error, "strerror", None) or "no tar file, or not all of one"
        raise DataError(f"{path}: {what}, expected a folder or tar file of event tables") from None


def _is_table(name: str) -> bool:
    return Path(name).suffix.lower() in (".tsv", ".csv") and not Path(name).name.startswith(".")


def _events(where: str, data: bytes, class_names: dict[int, str], score: float) -> Detections:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8, expected a table of events; save it as UTF-8") from None
    separator = "\t" if "\t" in text.split("\n", 1)[0] else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{where}: column {missing[0]} is missing, expected {', '.join(COLUMNS)} by tabs or commas")
    labels = {name: label for label, name in class_names.items()}
    videos: dict[str, int] = {}
    found = []
    for row in reader:
        line = f"{where}: line {reader.line_num}"
        name, *cells = ((row[key] or "").strip() for key in COLUMNS)
        if not name:
            raise DataError(f"{line}: no filename")
        video = videos.setdefault(_video_id(name), len(videos))
        if not any(cells):
            continue
        try:
            onset, offset = float(cells[0]), float(cells[1])
        except ValueError:
            onset = offset = float("nan")
        if not (0 <= onset <= offset < float("inf")):
            raise DataError(f"{line}: from {cells[0]!r} to {cells[1]!r}, expected 0 <= onset <= offset in seconds")
        if cells[2] not in labels:
            raise DataError(
                f"{line}: class {cells[2]!r} is not among the annotations': {', '.join(sorted(labels))[:200]}"
            )
        found.append((video, onset, offset, labels[cells[2]]))
    table = np.array(found, np.float64).reshape(-1, 4)
    segments = np.ascontiguousarray(table[:, 1:3])
    video, labels_found = table[:, 0].astype(np.int64), table[:, 3].astype(np.int64)
    return Detections(tuple(videos), video, segments, np.full(len(table), score), labels_found)


def _video_id(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return stem if suffix.lower() in SOUND_SUFFIXES else name


def _outside(narrow: Detections, wide: Detections) -> str:
    """The first event of `narrow` that lies within no event of `wide`, in words; "" where all do."""
    around: dict[tuple[str, int], list] = {}
    for video, segment, label in zip(wide.video, wide.segments.tolist(), wide.labels.tolist(), strict=True):
        around.setdefault((wide.video_ids[video], label), []).append(segment)
    for video, segment, label in zip(narrow.video, narrow.segments.tolist(), narrow.labels.tolist(), strict=True):
        name = narrow.video_ids[video]
        if not any(start <= segment[0] and segment[1] <= end for start, end in around.get((name, label), ())):
            return f"{name}'s event {segment}"
    return ""

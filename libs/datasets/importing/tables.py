"""Reading other people's lists of events: tables (CSV, DESED's TSV), Audacity's label tracks, ActivityNet's and
UnAV-100's JSON -> rows that all look alike, and notes of what was understood rather than read plainly.

Encodings and separators are found out; what could mean two things is an error that names the file and the row.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from libs.core.errors import DataError
from libs.datasets.annotations import MAX_TIME_S, load_annotations

FORMATS = ("table", "json", "audacity")
COLUMNS = {  # what a column may be called, in lower case, with _ for spaces and dashes
    "video": ("video", "filename", "file", "video_id", "video_name", "file_name", "clip", "path", "id"),
    "start": ("start", "onset", "begin", "start_time", "start_s", "start_seconds", "t_start", "event_onset"),
    "end": ("end", "offset", "stop", "end_time", "end_s", "end_seconds", "t_end", "event_offset"),
    "label": ("label", "event_label", "class", "event", "category", "class_name", "event_class"),
    "subset": ("subset", "split", "set"),
    "duration": ("duration", "video_duration", "duration_s"),
}
EVENT = ("start", "end", "label")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
BOMS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+$")


class Row(NamedTuple):
    """An event of a video, or, with label None, only that there is such a video. Times in seconds; `where` names file
    and row, for messages."""

    where: str
    video: str
    start: float = 0.0
    end: float = 0.0
    label: str | None = None
    subset: str | None = None
    duration: float | None = None
    fps: float | None = None


class Source(NamedTuple):
    """What a file holds. classes: by label_id, where the file says an order."""

    rows: list[Row]
    notes: list[str]
    classes: tuple[str, ...] = ()


def read_source(path: Path, kind: str | None = None) -> Source:
    """Read one file; kind is one of FORMATS, or None: its ending and its content say which.

    Raises DataError, naming file and row, on what cannot be meant.
    """
    if kind == "json" or (kind is None and path.suffix.lower() == ".json"):
        return _read_database(path)
    text, notes = _read_text(path)
    if kind == "audacity" or (kind is None and _is_label_track(path, text)):
        return Source(list(_label_track(path, text, notes)), notes)
    return Source(_table(path, text, notes), notes)


# ---- text ----


def _read_text(path: Path) -> tuple[str, list[str]]:
    """The text of a file, and what was taken of its encoding. Raises DataError where it is no text."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected a list of events") from None
    encoding = next((name for bom, name in BOMS if raw.startswith(bom)), None)
    if encoding is None and b"\0" in raw[:200]:  # every other byte, in UTF-16 of Latin letters
        encoding = "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"
    try:
        text = raw.decode(encoding or "utf-8")
        notes = [] if encoding in (None, "utf-8-sig") else [f"{path}: read as {encoding.upper()}"]
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        odd = next(line for line in text.splitlines() if not line.isascii())
        notes = [
            f"{path}: not UTF-8, read as Latin-1, which makes {odd.strip()[:60]!r} of a line: look whether it is so"
        ]
    if any(ord(c) < 32 and c not in "\t\n\r\f" for c in text):
        raise DataError(f"{path}: not a text file; export it as CSV in UTF-8")
    return text, notes


def _number(text: str, where: str, what: str, decimal_comma: bool = False) -> float:
    plain = text.replace(",", ".") if decimal_comma and _DECIMAL_COMMA.match(text) else text
    if not _NUMBER.match(plain) or abs(float(plain)) > MAX_TIME_S:
        raise DataError(f"{where}: {what} {text!r}, expected seconds such as 1.25")
    return float(plain)


def _has_decimal_commas(path: Path, times: list[str], notes: list[str]) -> bool:
    """Whether 1,5 means 1.5: where no time of the file has a point."""
    commas = [text for text in times if _DECIMAL_COMMA.match(text)]
    if not commas or any("." in text for text in times):
        return False
    notes.append(f"{path}: decimal commas, {commas[0]} is read as {commas[0].replace(',', '.')} s")
    return True


# ---- tables ----


def _table(path: Path, text: str, notes: list[str]) -> list[Row]:
    separator, places = _header(path, text)
    if separator != "," and path.suffix.lower() == ".csv":
        notes.append(f"{path}: columns are separated by {SEPARATORS[separator]}")
    records = _records(path, text, separator)
    header = next(records)[1]
    if ignored := [name for i, name in enumerate(header) if i not in places.values()]:
        notes.append(f"{path}: columns not used: {', '.join(ignored)}")
    lines = []
    for row, fields in records:
        where = f"{path}, row {row}"
        if len(fields) > len(header) and any(fields[len(header) :]):
            raise DataError(
                f"{where}: {len(fields)} columns where the header has {len(header)}; quote what has a separator in it"
            )
        lines.append((where, {name: fields[i] if i < len(fields) else "" for name, i in places.items()}))
    times = [cells[name] for _, cells in lines for name in ("start", "end", "duration") if name in cells]
    decimal_comma = _has_decimal_commas(path, times, notes)
    return [_table_row(where, cells, decimal_comma) for where, cells in lines]


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(row, fields) of the rows that are not empty; row counts the file's lines from 1, the header's too."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as error:
        raise DataError(f"{path}, row {reader.line_num}: not a row of a table ({error}); mend its quotes") from None


def _header(path: Path, text: str) -> tuple[str, dict[str, int]]:
    """The separator, and the place of each column that is there. Raises DataError where one is missing or doubled."""
    best: tuple[int, str, list[str]] = (-1, ",", [])
    for separator in SEPARATORS:
        _, fields = next(_records(path, text.lstrip().split("\n")[0], separator), (0, []))
        known = sum(_meaning(field) is not None for field in fields)
        best = max(best, (known, separator, fields), key=lambda found: found[0])
    _, separator, header = best
    if not header:
        raise DataError(f"{path}: empty, expected a table with a header: video,start,end,label")
    places: dict[str, int] = {}
    for i, field in enumerate(header):
        name = _meaning(field)
        if name in places:
            raise DataError(
                f"{path}, row 1: the columns {header[places[name]]} and {field} both mean {name}; rename one of them"
            )
        if name is not None:
            places[name] = i
    # A table without events is one of durations; one with something else instead has lost its header.
    wanted = ("video", "duration") if "duration" in places and not places.keys() & set(EVENT) else ("video", *EVENT)
    if missing := [name for name in wanted if name not in places]:
        names = "; ".join(f"{name} ({', '.join(COLUMNS[name][1:4])} …)" for name in missing)
        raise DataError(f"{path}, row 1: no column {names}; the header is {', '.join(header)[:120]}")
    return separator, places


def _meaning(field: str) -> str | None:
    plain = re.sub(r"[\s-]+", "_", field.strip().lower())
    return next((name for name, others in COLUMNS.items() if plain in others), None)


def _table_row(where: str, cells: dict[str, str], decimal_comma: bool) -> Row:
    if not cells["video"]:
        raise DataError(f"{where}: no video named; fill the column in, or take the row out")
    duration = cells.get("duration")
    about = {
        "subset": cells.get("subset") or None,
        "duration": _number(duration, where, "duration", decimal_comma) if duration else None,
    }
    event = [cells.get(name, "") for name in EVENT]
    if not any(event):  # DESED's way to list a clip without events
        return Row(where, cells["video"], **about)
    for name, value in zip(EVENT, event, strict=True):
        if not value:
            raise DataError(
                f"{where}: no {name}; fill it in (all of start, end and label empty: a clip without events)"
            )
    start, end = (_number(event[i], where, EVENT[i], decimal_comma) for i in (0, 1))
    return Row(where, cells["video"], start, end, event[2], **about)


# ---- Audacity's label tracks: start, tab, end, tab, label; a line that begins with \ holds frequencies ----


def _is_label_track(path: Path, text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return path.suffix.lower() == ".txt"
    fields = lines[0].split("\t")
    is_time = [bool(_NUMBER.match(field) or _DECIMAL_COMMA.match(field)) for field in fields[:2]]
    return len(is_time) == 2 and all(is_time)


def _label_track(path: Path, text: str, notes: list[str]) -> Iterator[Row]:
    """The events of the video that is named as the file is."""
    video = path.stem
    yield Row(str(path), video)
    lines = [(row, line.split("\t")) for row, line in enumerate(text.splitlines(), 1)]
    lines = [(row, [f.strip() for f in fields]) for row, fields in lines if any(fields) and fields[0][:1] != "\\"]
    decimal_comma = _has_decimal_commas(path, [field for _, fields in lines for field in fields[:2]], notes)
    for row, fields in lines:
        where = f"{path}, row {row}"
        if len(fields) < 2:
            raise DataError(f"{where}: {fields[0][:40]!r}, expected start, end and label with tabs between")
        start, end = (_number(fields[i], where, EVENT[i], decimal_comma) for i in (0, 1))
        label = " ".join(fields[2:])
        if not label:
            raise DataError(f"{where}: no label; give it one in Audacity, or delete it there")
        yield Row(where, video, start, end, label)


# ---- ActivityNet's, UnAV-100's and the project's JSON ----


def _read_database(path: Path) -> Source:
    annotations = load_annotations(path)
    rows = []
    for video in annotations.videos:
        about = {"subset": video.subset, "duration": video.duration, "fps": video.fps}
        rows.append(Row(f"{path}: video {video.video_id}", video.video_id, **about))
        for i, (segment, label) in enumerate(zip(video.segments.tolist(), video.labels.tolist(), strict=True), 1):
            where = f"{path}: video {video.video_id}, annotation {i}"
            rows.append(Row(where, video.video_id, *segment, annotations.class_name(label), **about))
    most = max((*annotations.class_names, *(int(v.labels.max(initial=-1)) for v in annotations.videos)), default=-1)
    return Source(rows, [], tuple(annotations.class_name(label) for label in range(most + 1)))

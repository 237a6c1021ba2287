"""Read lists of events: tables (CSV, DESED's TSV), Audacity label tracks, and ActivityNet-style JSON.

Encodings, separators and decimal commas are detected, and a note says so. Anything ambiguous is an error that names the
file and the row.
"""

import csv
import io
import re
from collections.abc import Sequence
from json import detect_encoding
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from libs.core.errors import DataError
from libs.datasets.annotations import MAX_TIME_S, load_annotations

FORMATS = ("table", "json", "audacity")
COLUMN_ALIASES = {  # names of a column, in lower case, with _ for spaces and dashes
    "video": ("video", "filename", "file", "video_id", "video_name", "file_name", "clip", "path", "id"),
    "start": ("start", "onset", "begin", "start_time", "start_s", "start_seconds", "t_start", "event_onset"),
    "end": ("end", "offset", "stop", "end_time", "end_s", "end_seconds", "t_end", "event_offset"),
    "label": ("label", "event_label", "class", "event", "category", "class_name", "event_class"),
    "subset": ("subset", "split", "set"),
    "duration": ("duration", "video_duration", "duration_s"),
}
EVENT_COLUMNS = ["start", "end", "label"]
TIME_COLUMNS = ["start", "end", "duration"]
ROW_TYPES = dict.fromkeys(("source", "video", "label", "subset"), object) | dict.fromkeys((*TIME_COLUMNS, "fps"), float)
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
DECIMAL_COMMA = r"[+-]?\d+,\d+"
TRACK_START = rf"\s*(?:{NUMBER}|{DECIMAL_COMMA})\t(?:{NUMBER}|{DECIMAL_COMMA})(?!\S)"  # of the first line


class EventList(NamedTuple):
    """The events of one input.

    rows: one row per event with the columns of ROW_TYPES; times in seconds, unknown values are missing, `source` names
    the file and row in messages. A row without start, end and label only says that the video exists.
    classes: names by label_id, if the input fixes their order.
    """

    rows: pd.DataFrame
    notes: list[str]
    classes: tuple[str, ...] = ()


def read_input(text: str, file_format: str | None = None) -> tuple[Path, EventList]:
    """Read an input as given on the command line: a file, a folder of label tracks, or SUBSET=FILE.

    Returns:
        The path, and its events.
    """
    subset, equals, name = text.partition("=")
    if not equals or Path(text).exists():
        subset, name = "", text
    path = Path(name)
    paths = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not paths:
        raise DataError(f"{path}: no label tracks (.txt) in this folder; name the file to read")
    events = concat_events([read_events(p, "audacity" if path.is_dir() else file_format) for p in paths])
    if subset:
        other = events.rows.subset.notna() & (events.rows.subset != subset)
        check_rows(events.rows, other, "subset {subset}, but it is given as {text}; remove one of them", text=text)
        events = events._replace(rows=events.rows.assign(subset=subset))
    return path, events


def read_events(path: Path, file_format: str | None = None) -> EventList:
    """Read one file.

    Args:
        path: the file.
        file_format: one of FORMATS; None detects it from the file's ending and content.

    Raises:
        DataError: naming the file and row, if something cannot be read or is ambiguous.
    """
    if file_format == "json" or (file_format is None and path.suffix.lower() == ".json"):
        return _read_database(path)
    text, notes = read_text(path)
    if file_format is None:
        is_track = re.match(TRACK_START, text) if text.strip() else path.suffix.lower() == ".txt"
        file_format = "audacity" if is_track else "table"
    cells = _read_label_track(path, text) if file_format == "audacity" else _read_table(path, text, notes)
    return EventList(_parse_cells(path, cells, notes), notes)


def concat_events(lists: Sequence[EventList]) -> EventList:
    """Concatenate the rows, notes and classes of several inputs."""
    rows = pd.concat([events.rows for events in lists], ignore_index=True)
    classes = dict.fromkeys(name for events in lists for name in events.classes)
    return EventList(rows, [note for events in lists for note in events.notes], tuple(classes))


def check_rows(rows: Any, bad: Any, message: str, **values: Any) -> None:
    """Raise DataError for the first bad row, if any; its columns and `values` fill in the {names} in the message."""
    if bad.any():
        row = {**rows.loc[bad].iloc[0], **values}
        raise DataError(f"{row['source']}: {message.format_map(row)}")


# ---- text and cells ----


def read_text(path: Path) -> tuple[str, list[str]]:
    """Read a text file in any common encoding, with \\n as line ends; a note says which one was detected."""
    raw = path.read_bytes()
    encoding = detect_encoding(raw)  # from byte order marks, and zero bytes among the first four
    try:
        text = raw.decode(encoding)
        notes = [] if encoding in ("utf-8", "utf-8-sig") else [f"{path}: read as {encoding.upper()}"]
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        example = next(line for line in text.splitlines() if not line.isascii()).strip()[:60]
        notes = [f"{path}: not UTF-8, read as Latin-1; check that this line is correct: {example!r}"]
    if re.search(r"[\0-\x08\x0b\x0e-\x1f]", text):
        raise DataError(f"{path}: not a text file; export it as CSV in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def _parse_cells(path: Path, cells: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Convert stripped cells, text in columns of COLUMN_ALIASES and their source, to the rows of an EventList."""
    cells = cells.reindex(columns=["source", *COLUMN_ALIASES], fill_value="")
    filled: Any = cells != ""
    times = _parse_times(path, cells.filter(TIME_COLUMNS), notes)
    check_rows(cells, ~filled.video, "no video name; fill it in, or remove the row")
    for name in COLUMN_ALIASES:
        check_rows(cells, cells[name].str.contains("\n"), f"a line break in {name}; check the quotes")
    for name in TIME_COLUMNS:
        wrong = filled[name] & ~(times[name].abs() <= MAX_TIME_S)
        check_rows(cells, wrong, f"{name} {{{name}!r}}, expected seconds such as 1.25")
    has_event = filled[EVENT_COLUMNS].any(axis=1)  # DESED lists a clip without events as a row without them
    for name in EVENT_COLUMNS:
        check_rows(cells, has_event & ~filled[name], f"no {name}; fill it in, or leave start, end and label empty")
    return _build_rows(cells.where(filled, None).assign(**times))


def _build_rows(values: Any) -> pd.DataFrame:
    return pd.DataFrame(values, columns=pd.Index(ROW_TYPES)).astype(ROW_TYPES).reset_index(drop=True)


def _parse_times(path: Path, cells: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Convert to seconds; missing where a cell is no number. 1,5 means 1.5 if no time of the file has a point."""
    texts = cells.to_numpy(object).ravel().tolist()
    commas = [text for text in texts if re.fullmatch(DECIMAL_COMMA, text)]
    if commas and not any("." in text for text in texts):
        notes.append(f"{path}: decimal commas, {commas[0]} is read as {commas[0].replace(',', '.')} s")
        texts = [text.replace(",", ".") for text in texts]
    seconds = np.array([float(text) if re.fullmatch(NUMBER, text) else np.nan for text in texts])
    return pd.DataFrame(seconds.reshape(cells.shape), cells.index, cells.columns)


# ---- tables ----


def _read_table(path: Path, text: str, notes: list[str]) -> pd.DataFrame:
    """Read the cells of a table with a header, as _parse_cells takes them."""
    if not text.strip():
        raise DataError(f"{path}: empty, expected a table with a header: video,start,end,label")
    first_line = text.strip().split("\n")[0]
    # The separator with which most columns of the header are known.
    separator = max(SEPARATORS, key=lambda s: sum(_column_name(cell) is not None for cell in first_line.split(s)))
    rows = _read_rows(path, text, separator)
    header = next(iter(rows.values()))
    columns = _find_columns(path, header)
    if separator != "," and path.suffix.lower() == ".csv":
        notes.append(f"{path}: columns are separated by {SEPARATORS[separator]}")
    if unused := [name for place, name in enumerate(header) if place not in columns]:
        notes.append(f"{path}: columns not used: {', '.join(unused)}")
    width = max(map(len, rows.values()))
    table = pd.DataFrame([cells + [""] * (width - len(cells)) for cells in rows.values()])
    too_wide = (table.iloc[:, len(header) :] != "").any(axis=1)
    table = table.rename(columns=columns).assign(source=[*rows])
    message = f"more columns than the {len(header)} of the header; put cells that contain a separator in quotes"
    check_rows(table, too_wide, message)
    return table.iloc[1:]


def _read_rows(path: Path, text: str, separator: str) -> dict[str, list[str]]:
    """Read the stripped cells of all rows but the blank ones, by their source, "FILE, row N"."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    rows, line = {}, 0
    try:
        for cells in reader:
            line = reader.line_num  # a cell in quotes may have several lines
            if any(map(str.strip, cells)):
                rows[f"{path}, row {line}"] = [*map(str.strip, cells)]
    except csv.Error:
        raise DataError(f"{path}, row {line + 1}: not a row of a table; close its quotes, or remove them") from None
    return rows


def _find_columns(path: Path, header: list[str]) -> dict[int, str]:
    """Find the known columns by their place. Raises DataError if one is missing or two have the same meaning."""
    names = [_column_name(cell) for cell in header]
    is_durations = "duration" in names and not {*names} & {*EVENT_COLUMNS}
    required = ["video"] if is_durations else ["video", *EVENT_COLUMNS]
    for name, aliases in COLUMN_ALIASES.items():
        same = [cell for cell in header if _column_name(cell) == name]
        if len(same) > 1:
            raise DataError(f"{path}, row 1: the columns {' and '.join(same)} all mean {name}; rename all but one")
        if name in required and not same:
            known, found = ", ".join(aliases[1:4]), ", ".join(header)[:120]
            raise DataError(f"{path}, row 1: no column {name} ({known} …); the header is {found}")
    return {place: name for place, name in enumerate(names) if name}


def _column_name(cell: str) -> str | None:
    alias = re.sub(r"[\s-]+", "_", cell.strip(' "').lower())
    return next((name for name, aliases in COLUMN_ALIASES.items() if alias in aliases), None)


# ---- Audacity label tracks: start, tab, end, tab, label; a line that starts with \ holds frequencies ----


def _read_label_track(path: Path, text: str) -> pd.DataFrame:
    """Read the cells of a label track, as _parse_cells takes them; the video is named as the file.

    A blank line is a row without event: the video exists, even if nothing happens in it.
    """
    lines = pd.Series(text.split("\n")).str.replace(r"^\\.*", "", regex=True)
    cells = lines.str.extract(r"(?P<start>[^\t]*)\t?(?P<end>[^\t]*)\t?(?P<label>.*)")
    cells["label"] = cells.label.str.replace(r"\s*\t\s*", " ", regex=True)
    cells = cells.apply(lambda column: column.str.strip())
    cells = cells.assign(source=[f"{path}, row {line + 1}" for line in cells.index], video=path.stem)
    no_end = (cells.start != "") & (cells.end == "")
    check_rows(cells, no_end, "{start!r}, expected start, end and label separated by tabs")
    return cells


# ---- JSON of ActivityNet, UnAV-100 and this project ----


def _read_database(path: Path) -> EventList:
    annotations = load_annotations(path)
    rows, labels = [], [*annotations.class_names]
    for video in annotations.videos:
        source = f"{path}: video {video.video_id}"
        known = {"video": video.video_id, "duration": video.duration, "fps": video.fps, "subset": video.subset or None}
        rows.append({**known, "source": source})
        events = zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        for number, ((start, end), label) in enumerate(events, 1):
            event = {"start": start, "end": end, "label": annotations.class_name(label)}
            rows.append({**known, **event, "source": f"{source}, annotation {number}"})
            labels.append(label)
    classes = tuple(annotations.class_name(label) for label in range(max(labels, default=-1) + 1))
    return EventList(_build_rows(rows), [], classes)

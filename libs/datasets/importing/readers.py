"""Read lists of events: tables (CSV, DESED's TSV), Audacity label tracks, and ActivityNet-style JSON.

Encodings, separators and decimal commas are detected, and a note says so. Anything ambiguous is an error that names the
file and the row.
"""

import codecs
import csv
import io
import re
from collections.abc import Sequence
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
BYTE_ORDER_MARKS = {  # those of UTF-32 first, because they start with those of UTF-16
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
DECIMAL_COMMA = r"[+-]?\d+,\d+"


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
        other: Any = events.rows.loc[events.rows.subset.notna() & (events.rows.subset != subset)]
        if len(other):
            source, named = other.iloc[0][["source", "subset"]]
            raise DataError(f"{source}: subset {named}, but {text} says {subset}; remove one of them")
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
    is_track = file_format == "audacity" or (file_format is None and _is_label_track(path, text))
    cells = _read_label_track(path, text) if is_track else _read_table(path, text, notes)
    return EventList(_parse_cells(path, cells, notes), notes)


def concat_events(lists: Sequence[EventList]) -> EventList:
    """Concatenate the rows, notes and classes of several inputs."""
    rows = pd.concat([events.rows for events in lists], ignore_index=True)
    classes = dict.fromkeys(name for events in lists for name in events.classes)
    return EventList(rows, [note for events in lists for note in events.notes], tuple(classes))


def check_rows(bad: Any, message: str) -> None:
    """Raise DataError for the first of these rows, if any; its columns fill in the {names} in the message."""
    if len(bad):
        row = bad.iloc[0]
        raise DataError(f"{row['source']}: {message.format_map(row)}")


# ---- text and cells ----


def read_text(path: Path) -> tuple[str, list[str]]:
    """Read a text file in any common encoding, with \\n as line ends; a note says which one was detected."""
    raw = path.read_bytes()
    encoding = next((name for name, marks in BYTE_ORDER_MARKS.items() if raw.startswith(marks)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in raw[:200]:  # UTF-16 of Latin letters: every other byte is zero
        encoding = "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"
    try:
        text = raw.decode(encoding)
        notes = [] if encoding == "utf-8-sig" else [f"{path}: read as {encoding.upper()}"]
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        example = next(line for line in text.splitlines() if not line.isascii()).strip()[:60]
        notes = [f"{path}: not UTF-8, read as Latin-1; check that this line is correct: {example!r}"]
    if any(ord(c) < 32 and c not in "\t\n\r\f" for c in text):
        raise DataError(f"{path}: not a text file; export it as CSV in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def _first_line(text: str) -> str:
    return next((line for line in text.split("\n") if line.strip()), "")


def _read_cells(path: Path, text: str, separator: str, quoting: int) -> pd.DataFrame:
    """Read stripped cells by position, without blank rows; the index is their source, "FILE, row N"."""
    width = 1 + max(line.count(separator) for line in text.split("\n"))
    try:
        cells: Any = pd.read_csv(
            io.StringIO(text), sep=separator, quoting=quoting, header=None, names=list(range(width)), index_col=False,
            dtype=str, na_filter=False, skipinitialspace=True, skip_blank_lines=False,
        )  # fmt: skip
    except pd.errors.ParserError as error:
        row = re.search(r"row (\d+)", str(error))  # pandas counts from 0
        source = f"{path}, row {int(row[1]) + 1}" if row else path
        raise DataError(f"{source}: not a row of a table, a quote is not closed; correct it") from None
    line_breaks = cells.apply(lambda column: column.str.count("\n")).to_numpy(int).sum(axis=1)
    lines = np.arange(1, len(cells) + 1) + line_breaks.cumsum()  # a cell in quotes may have several lines
    cells = cells.apply(lambda column: column.str.strip()).set_axis([f"{path}, row {line}" for line in lines])
    return cells.loc[(cells != "").any(axis=1)]


def _parse_cells(path: Path, cells: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Convert cells, text in columns of COLUMN_ALIASES, to the rows of an EventList."""
    cells = cells.reindex(columns=[*COLUMN_ALIASES], fill_value="")
    filled: Any = cells != ""
    times = _parse_times(path, cells.filter(TIME_COLUMNS), notes)
    texts = cells.assign(source=cells.index)
    check_rows(texts.loc[~filled.video], "no video name; fill it in, or remove the row")
    for name in COLUMN_ALIASES:
        check_rows(texts.loc[cells[name].str.contains("\n")], f"a line break in {name}; check the quotes")
    for name in TIME_COLUMNS:
        wrong = filled[name] & ~(times[name].abs() <= MAX_TIME_S)
        check_rows(texts.loc[wrong], f"{name} {{{name}!r}}, expected seconds such as 1.25")
    has_event = filled[EVENT_COLUMNS].any(axis=1)  # DESED lists a clip without events as a row without them
    for name in EVENT_COLUMNS:
        hint = "fill it in, or leave start, end and label empty for a clip without events"
        check_rows(texts.loc[has_event & ~filled[name]], f"no {name}; {hint}")
    return _build_rows(texts.where(filled.assign(source=True), None).assign(**times))


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
    separator, header = _detect_header(path, text)
    columns = _find_columns(path, header)
    if separator != "," and path.suffix.lower() == ".csv":
        notes.append(f"{path}: columns are separated by {SEPARATORS[separator]}")
    if unused := [name for place, name in enumerate(header) if place not in columns.values()]:
        notes.append(f"{path}: columns not used: {', '.join(unused)}")
    cells = _read_cells(path, text, separator, csv.QUOTE_MINIMAL).iloc[1:]
    widths = cells.shape[1] - np.argmax((cells != "").to_numpy()[:, ::-1], axis=1)  # up to the last filled cell
    message = f"{{width}} columns where the header has {len(header)}; put cells that contain a separator in quotes"
    check_rows(cells.assign(source=cells.index, width=widths).loc[widths > len(header)], message)
    return cells.loc[:, [*columns.values()]].set_axis([*columns], axis=1)


def _detect_header(path: Path, text: str) -> tuple[str, list[str]]:
    """Return the header, and the separator with which most of its columns are known."""
    line = _first_line(text)
    if not line:
        raise DataError(f"{path}: empty, expected a table with a header: video,start,end,label")
    headers = {}
    for separator in SEPARATORS:
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
        headers[separator] = [cell.strip() for cell in cells]
    separator = max(headers, key=lambda separator: sum(map(bool, map(_column_name, headers[separator]))))
    return separator, headers[separator]


def _find_columns(path: Path, header: list[str]) -> dict[str, int]:
    """Find the place of each known column. Raises DataError if one is missing or two have the same meaning."""
    names = [_column_name(cell) for cell in header]
    columns = {name: place for place, name in enumerate(names) if name is not None}
    for name in columns:
        if names.count(name) > 1:
            same = " and ".join(cell for cell in header if _column_name(cell) == name)
            raise DataError(f"{path}, row 1: the columns {same} all mean {name}; rename all but one")
    is_durations = "duration" in columns and not columns.keys() & set(EVENT_COLUMNS)
    expected = ["video"] if is_durations else ["video", *EVENT_COLUMNS]
    if missing := [f"{name} ({', '.join(COLUMN_ALIASES[name][1:4])} …)" for name in expected if name not in columns]:
        raise DataError(f"{path}, row 1: no column {'; '.join(missing)}; the header is {', '.join(header)[:120]}")
    return columns


def _column_name(cell: str) -> str | None:
    alias = re.sub(r"[\s-]+", "_", cell.lower())
    return next((name for name, aliases in COLUMN_ALIASES.items() if alias in aliases), None)


# ---- Audacity label tracks: start, tab, end, tab, label; a line that starts with \ holds frequencies ----


def _is_label_track(path: Path, text: str) -> bool:
    line = _first_line(text)
    if not line:
        return path.suffix.lower() == ".txt"
    times = line.split("\t")[:2]
    return len(times) == 2 and all(re.fullmatch(f"{NUMBER}|{DECIMAL_COMMA}", time) for time in times)


def _read_label_track(path: Path, text: str) -> pd.DataFrame:
    """Read the cells of a label track, as _parse_cells takes them; the video is named as the file."""
    cells: Any = _read_cells(path, text, "\t", csv.QUOTE_NONE)
    cells = cells.reindex(columns=range(max(3, cells.shape[1])), fill_value="")
    cells = cells.loc[~cells[0].str.startswith("\\")]
    label = [" ".join(texts).strip() for texts in cells.loc[:, 2:].itertuples(index=False)]
    cells = pd.DataFrame({"source": cells.index, "start": cells[0], "end": cells[1], "label": label})
    check_rows(cells.loc[cells.end == ""], "{start!r}, expected start, end and label separated by tabs")
    # A first row without event: the video exists, even if nothing happens in it.
    return cells.reindex([str(path), *cells.index], fill_value="").assign(video=path.stem)


# ---- JSON of ActivityNet, UnAV-100 and this project ----


def _read_database(path: Path) -> EventList:
    annotations = load_annotations(path)
    rows = []
    for video in annotations.videos:
        known = {"video": video.video_id, "duration": video.duration, "fps": video.fps}
        known |= {"source": f"{path}: video {video.video_id}", "subset": video.subset or None}
        rows.append(known)
        events = zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        for number, ((start, end), label) in enumerate(events, 1):
            event = {"start": start, "end": end, "label": annotations.class_name(label)}
            rows.append({**known, **event, "source": f"{known['source']}, annotation {number}"})
    labels = [*annotations.class_names, *(label for video in annotations.videos for label in video.labels.tolist())]
    classes = tuple(annotations.class_name(label) for label in range(max(labels, default=-1) + 1))
    return EventList(_build_rows(rows), [], classes)

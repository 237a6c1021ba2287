"""Gather the events of all inputs by video, check them, and convert them to an annotation file. Times never change."""

import difflib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from libs.core.errors import DataError, format_list
from libs.core.types import MEDIA_SUFFIXES, Video
from libs.datasets.importing.readers import check_rows, read_text

END_TOLERANCE_S = 1.0  # events of DESED and ActivityNet end up to this late
VIDEO_UNITS = {"subset": "", "duration": " s", "fps": " frames/s"}  # what rows may say about their video


class EventTables(NamedTuple):
    """Everything known about the videos and events of a data set; unknown values are missing.

    videos: index video_id; columns source, path (as the rows name it), subset, duration (s), fps.
    events: columns video_id, start, end (s), label, source; in the order of the input.
    """

    videos: pd.DataFrame
    events: pd.DataFrame


def gather_videos(rows: pd.DataFrame) -> EventTables:
    """Gather the rows of an EventList by video, in the order in which the videos are first named.

    Raises:
        DataError: naming the row, on impossible times and where two rows contradict each other about a video.
    """
    paths = [PurePosixPath(name.replace("\\", "/")) for name in rows.video]
    rows = rows.assign(path=paths, video_id=[_video_id(path) for path in paths])
    by_video = rows.groupby("video_id", sort=False)
    first: Any = by_video[["path", *VIDEO_UNITS]].transform("first")
    clash = [not _may_be_same_file(path, other) for path, other in zip(paths, first.path, strict=True)]
    message = "{path} and {other} would both be video {video_id}; rename one of the files"
    check_rows(rows.assign(other=first.path).loc[clash], message)
    for name, unit in VIDEO_UNITS.items():
        conflict: Any = rows[name].notna() & (rows[name] != first[name])
        message = f"{name} of video {{video_id}} is {{{name}}}{unit}, before it was {{other}}{unit}; use one value"
        check_rows(rows.assign(other=first[name]).loc[conflict], message)
    check_rows(rows.loc[rows.duration <= 0], "video {video_id} lasts {duration:g} s, expected more than 0")
    check_rows(rows.loc[rows.start < 0], "starts at {start:g} s, expected 0 or later")
    message = "ends at {end:g} s, before it starts at {start:g} s; correct them"
    check_rows(rows.loc[rows.end < rows.start], message)
    videos = by_video[["source", "path", *VIDEO_UNITS]].first()
    events = rows.loc[rows.start.notna(), ["video_id", "start", "end", "label", "source"]]
    return EventTables(pd.DataFrame(videos), events.reset_index(drop=True))


def _video_id(path: PurePosixPath) -> str:
    """Remove the ending of a media file, as extract.py does; a name such as take_2.5 has none."""
    return path.stem if path.suffix.lower() in MEDIA_SUFFIXES else path.name


def _may_be_same_file(path: PurePosixPath, other: PurePosixPath) -> bool:
    suffixes = {path.suffix.lower(), other.suffix.lower()} & MEDIA_SUFFIXES
    return path.parent == other.parent and len(suffixes) <= 1


def match_files(
    tables: EventTables, durations: dict[str, float], folder: str, skip_missing: bool
) -> tuple[EventTables, list[str]]:
    """Set the duration of each video to that of its file, and add files that no row names as videos without events.

    Args:
        tables: of all inputs.
        durations: seconds of the files in `folder`, by video_id.
        folder: for messages.
        skip_missing: leave out videos without a file.

    Returns:
        The tables, and notes on what was left out and added.

    Raises:
        DataError: a video has no file, and skip_missing is False.
    """
    videos, events = tables
    missing: Any = videos.loc[~videos.index.isin(list(durations))]
    notes = []
    if len(missing) and not skip_missing:
        near = difflib.get_close_matches(missing.index[0], durations, n=1)
        others = f", nor for {len(missing) - 1} others" if len(missing) > 1 else ""
        hint = f"did you mean {near[0]}?" if near else "put it there, or leave such videos out with --skip-missing"
        source, path = missing.iloc[0][["source", "path"]]
        raise DataError(f"{source}: no file of video {path} in {folder}{others}; {hint}")
    if len(missing):
        videos, events = videos.drop(missing.index), events.loc[~events.video_id.isin(missing.index)]
        notes.append(f"left out, because {folder} has no file of them: {format_list(missing.index)}")
    if unnamed := [name for name in durations if name not in videos.index]:
        notes.append(
            f"no row names these files of {folder}; they count as clips without events: {format_list(unnamed)}"
        )
        added = pd.DataFrame({"source": [f"{folder}: video {name}" for name in unnamed], "path": unnamed}, unnamed)
        added = added.reindex(columns=videos.columns).astype(videos.dtypes).rename_axis("video_id")
        videos = pd.concat([videos, added])
    return EventTables(videos.assign(duration=videos.index.map(durations)), events), notes


def check_durations(tables: EventTables) -> list[str]:
    """Check that each video's duration is known and that its events lie within it.

    Returns:
        A note that counts events which end up to END_TOLERANCE_S late, if any; they are kept.

    Raises:
        DataError: naming the row.
    """
    videos: Any = tables.videos.reset_index()
    message = "give --videos DIR, a column or a table of durations (video,duration), or --duration S if all are equal"
    check_rows(videos.loc[videos.duration.isna()], f"the duration of video {{video_id}} is not known; {message}")
    events: Any = tables.events.merge(videos[["video_id", "duration"]])
    late = events.end - events.duration
    message = "{start:g} to {end:g} s, but video {video_id} lasts {duration:g} s; correct it"
    check_rows(events.loc[(events.start >= events.duration) | (late > END_TOLERANCE_S)], message)
    if not (num_late := int((late > 0).sum())):
        return []
    latest = f"the latest by {late.max():.3f} s ({events.source[late.idxmax()]})"
    return [f"events that end after their video: {num_late}, {latest}; kept as they are"]


def order_classes(events: pd.DataFrame, named: Iterable[str], fixed: list[str] | None) -> list[str]:
    """Return the class names by label_id.

    Args:
        events: of EventTables.
        named: classes in the order that the inputs fix; the others follow in alphabetical order.
        fixed: the user's own class list, used as it is.

    Raises:
        DataError: there are no events, or a label is not in the fixed list.
    """
    if events.empty:
        raise DataError("no events; expected rows with video, start, end and label")
    if fixed is None:
        return [*named, *sorted(set(events.label) - set(named))]
    unknown: Any = events.loc[~events.label.isin(fixed)]
    if len(unknown):
        source, label = unknown.iloc[0][["source", "label"]]
        near = difflib.get_close_matches(label, fixed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{source}: label {label!r} is not in --labels{hint}")
    return fixed


def load_class_list(path: Path) -> list[str]:
    """Load class names, one per line. Raises DataError if a name is repeated."""
    text, _ = read_text(path)
    names = [line.strip() for line in text.split("\n") if line.strip()]
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"{path}: {repeated[0]!r} is there twice; name each class once")
    return names


def build_videos(tables: EventTables, classes: list[str]) -> list[Video]:
    """Convert to the project's videos; label_id is the place in `classes`."""
    segments = tables.events.filter(["start", "end"]).to_numpy(float)
    labels = pd.Index(classes).get_indexer(tables.events.label)
    rows_of = tables.events.groupby("video_id").indices
    videos: Any = tables.videos.fillna({"subset": ""})
    converted = []
    for video in videos.itertuples():
        rows, fps = rows_of.get(video.Index, []), None if pd.isna(video.fps) else video.fps
        converted.append(Video(str(video.Index), video.subset, video.duration, fps, segments[rows], labels[rows]))
    return converted


def collect_warnings(tables: EventTables, classes: list[str]) -> list[str]:
    """Describe what is allowed but may be a mistake: repeated events, events of 0 s, classes that differ in case."""
    notes = []
    events = tables.events
    empty: Any = events.loc[events.start == events.end, "source"]
    if len(empty):
        notes.append(f"events that last 0 s: {len(empty)}, such as {empty.iloc[0]}; kept, but no network can find them")
    sources = events.groupby("video_id").source.agg(list)
    if repeats := [sources[v.video_id][i] for v in build_videos(tables, classes) for i in v.find_repeats()]:
        notes.append(f"events given twice: {len(repeats)}, such as {repeats[0]}; kept, but they count once")
    names = pd.Series(classes)
    similar: Any = names.loc[names.str.casefold().duplicated(keep=False)]
    if len(similar):
        notes.append(f"classes that differ only in upper and lower case: {', '.join(similar)}; kept as different")
    return notes


def build_annotation_tree(videos: list[Video], classes: list[str], version: str) -> dict:
    """Build the annotation file (method.md §2), as load_annotations reads it."""
    database = {}
    for video in videos:
        events = zip(video.segments.tolist(), video.labels.tolist(), strict=True)
        annotations = [{"segment": segment, "label": classes[i], "label_id": i} for segment, i in events]
        known = {"subset": video.subset, "duration": video.duration}
        known |= {} if video.fps is None else {"fps": video.fps}
        database[video.video_id] = {**known, "annotations": annotations}
    return {"version": version, "classes": classes, "database": database}
